//! Shared helpers of the scenario tests, the simulators of the job engine and of backups, and what tries mutants out.

pub mod block_trace;
pub mod checker;
pub mod crash;
pub mod mutants;
pub mod points;
pub mod power_loss;
pub mod sim;
