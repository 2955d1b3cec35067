//! Cohort's job room.

mod calls;
mod context;
pub mod core;
mod desk;
mod directory;
mod driver;
mod emit;
mod engine;
mod error;
mod event;
mod group;
mod handle;
mod job;
mod journal;
mod limit;
mod name;
mod notice;
mod outcome;
mod pause;
mod progress;
mod query;
mod queue;
mod refused;
mod seat;
mod shell;
mod status;
mod sync;
mod tasks;
mod timer;
mod txn;
mod watch;
mod why;
mod worker;

pub use context::{Context, Waker};
pub use directory::{JobId, TxnId};
pub use driver::{Abort, Commit, Driver, ErasedDriver, Record, Step};
pub use engine::{
    AddError, Engine, EngineBuilder, EngineSnapshot, JobSpec, JobState, Recovered, Txn,
};
pub use error::Error;
pub use event::{Hooks, Spec, Time};
pub use handle::{JobHandle, TxnHandle};
pub use journal::{Entry, Journal, JournalError, MemoryJournal, Owed};
pub use name::{GroupName, InvalidName, Kind, MemberName};
pub use notice::{News, Notice, Subject, Subscription, Update};
pub use outcome::{Asked, Cause, Disposition, Outcome, Phase, Verdict, WaitsFor};
pub use progress::{Progress, Snapshot};
pub use refused::{Refused, VerbError};
pub use status::{Status, Verb};
