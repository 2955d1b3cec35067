//! Cohort's job room.

pub mod core;
mod emit;
mod error;
mod event;
mod job;
mod outcome;
mod query;
mod refused;
mod status;
mod txn;

pub use error::Error;
pub use event::{Hooks, Spec, Time};
pub use outcome::{Asked, Cause, Disposition, Outcome, Phase, Verdict, WaitsFor};
pub use refused::{Refused, VerbError};
pub use status::{Status, Verb};
