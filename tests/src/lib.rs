//! Shared helpers of the scenario tests, the simulator of the job engine, and what tries mutants out.

pub mod mutants;
pub mod power_loss;
pub mod sim;
