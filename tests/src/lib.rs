//! Shared helpers of the scenario tests, and the simulator of the job engine.

pub mod sim;
