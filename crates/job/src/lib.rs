//! Cohort's job room.

mod error;
mod event;
mod outcome;
mod refused;
mod status;

pub use error::Error;
pub use event::{Hooks, Spec, Time};
pub use outcome::{Asked, Cause, Disposition, Outcome, Phase, Verdict, WaitsFor};
pub use refused::{Refused, VerbError};
pub use status::{Status, Verb};

/// The pure core's vocabulary: requests and events in, actions out. For those who explore, simulate or
/// replay; users of the engine need none of it.
pub mod core {
    pub use crate::event::{Action, Event, Notice, Order, Report, Request};
}
