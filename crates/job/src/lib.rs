//! Long jobs that finish together, or not at all.
//!
//! A [`Driver`] says what one job does, in bounded steps. Jobs are added to a transaction ([`Txn`]), which
//! is launched; from then on users hold a [`JobHandle`] for each: pause and resume, a speed limit, progress,
//! cancel. When every member has returned well, each is asked to prepare; then the verdict is written to
//! the [`Journal`], once; then all commit, or all abort; then all clean up. The first failure stops the peers.
//! A job by itself is a transaction of one.
//!
//! ```
//! use cohort_job::{Context, Driver, Engine, JobSpec, Outcome, Step};
//!
//! /// Works off so many units, and fails if there is an odd one.
//! struct Pairs(u64);
//!
//! impl Driver for Pairs {
//!     fn step(&mut self, cx: &mut Context<'_>) -> Step {
//!         match self.0 {
//!             0 => return Step::done(),
//!             1 => return Step::failed("one is left over"),
//!             _ => self.0 -= 2,
//!         }
//!         cx.progress().advance(2);
//!         Step::Again
//!     }
//! }
//!
//! let engine = Engine::new()?;
//! let mut txn = engine.group("pairs");
//! let even = txn.add(JobSpec::new("even"), Pairs(1_000))?;
//! let odd = txn.add(JobSpec::new("odd"), Pairs(1_001))?;
//! txn.launch().wait();
//!
//! assert!(matches!(odd.outcome(), Some(Outcome::Failed { .. })));
//! assert_eq!(odd.why(), "failed: one is left over");
//! assert_eq!(even.why(), "cancelled because 'odd' failed (one is left over)");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [guide] has a page for each concept. A job's life in one picture:
//!
//! ```text
//!            launch             ready
//!  created ─────────▶ running ────────▶ ready
//!     │               │  ▲  │           │ ▲ │
//!     │        paused ◀──┘  │   standby ◀─┘ │
//!     │                     ├───────────────┤   returned well
//!     │                     │               ▼
//!     │        failed,      │            waiting ──▶ pending ──┐ commit
//!     │        cancelled    ▼               │           │      │
//!     └─────────────────▶ aborting ◀────────┴───────────┘      │
//!                           │ abort                            ▼
//!                           └────────────────────────────▶ concluded ──▶ null
//! ```
//!
//! # How it is built
//! What may happen is decided by a pure core, one per transaction ([`core`]): requests and events go in,
//! actions come out. Around it is a thin shell: whoever brings an event takes the transaction's lock, applies
//! it, and carries the actions out after letting go. Between transactions nothing is shared but a directory
//! and a fair queue of what is ready to run, drained by the engine's threads. No lock is held while a
//! driver's code runs, and its panics are contained.
//!
//! # What it does not know
//! Disks, bytes, bitmaps: a unit of progress or speed is whatever the driver says, a [`Record`] is opaque.
//! Nor does it know what is worth keeping of a job that did not commit: it tells the driver the [`Cause`] and
//! the [`Disposition`], and the driver settles.

mod batch;
mod blocking;
mod calls;
mod claim;
mod context;
mod converge;
pub mod core;
mod desk;
mod directory;
mod driver;
mod emit;
mod engine;
mod error;
mod estimate;
mod event;
mod for_each;
mod from_fn;
mod future;
mod group;
mod guests;
pub mod guide;
mod handle;
mod hold;
mod hooked;
mod job;
mod journal;
mod limit;
mod mailbox;
mod members;
mod name;
mod names;
mod notice;
mod open;
mod outcome;
mod pause;
mod progress;
mod query;
mod queue;
mod reasons;
mod recording;
mod refused;
mod retry;
mod seat;
mod shell;
mod slab;
mod slice;
mod span;
mod status;
mod sync;
mod tasks;
pub mod testing;
mod text;
mod timer;
mod token;
mod trace;
mod turn;
mod txn;
mod verbs;
mod watch;
mod why;
mod worker;

pub use batch::Batch;
pub use blocking::{Blocking, Reins, Stopped, blocking};
pub use context::Context;
pub use directory::{JobId, TxnId};
pub use driver::{Abort, Commit, Driver, ErasedDriver, Record, Step};
pub use engine::{Engine, EngineBuilder, EngineSnapshot, JobSpec, JobState, Recovered};
pub use error::Error;
pub use estimate::{Estimate, Meter, Reading, Remaining};
pub use event::{Hooks, Spec, Time};
pub use for_each::{ForEach, for_each};
pub use from_fn::{FromFn, from_fn};
pub use future::{JobFuture, TxnFuture};
pub use handle::{JobHandle, TxnHandle};
pub use hold::{Hold, HoldAll};
pub use hooked::DriverExt;
pub use journal::{Entry, Journal, JournalError, MemoryJournal, Owed};
pub use name::{GroupName, InvalidName, Kind, MemberName};
pub use notice::{News, Notice, Subject, Subscription, Update};
pub use open::{AddError, Txn};
pub use outcome::{Asked, Cause, Disposition, Outcome, Phase, Verdict, WaitsFor};
pub use progress::{Progress, Snapshot};
pub use recording::{Input, InvalidLine, Line, Recorder, Said, TextRecorder};
pub use refused::{Refused, VerbError};
pub use retry::{Attempts, Retry};
pub use status::{Status, Verb};
pub use token::{Token, Waker};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
