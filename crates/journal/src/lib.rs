//! Where the verdicts of groups of jobs outlive the process.
//!
//! [`FileJournal`] is the journal of a directory, for any kind of job: a group's verdict and what its members prepared are
//! one durable write, before the first commit or abort hook runs; a start finds what an earlier process owed and runs
//! those hooks again ([`Engine::recover`](cohort_job::Engine::recover)). A group without a verdict was aborted. One process
//! at a time writes into a directory, and is named to whoever comes second; a dead one is no obstacle.
//!
//! ```
//! use std::sync::Arc;
//! use cohort_job::{DriverExt, Engine, Journal, Step, from_fn};
//! use cohort_journal::FileJournal;
//!
//! # let folder = tempfile::tempdir()?;
//! let journal = Arc::new(FileJournal::open(folder.path())?);
//! let engine = Engine::builder().journal(journal.clone()).build()?;
//! let recovered = engine.recover(|_group, _member, kind, record| {
//!     let path = String::from_utf8_lossy(&record.0).into_owned();
//!     let publish = from_fn(|_| Step::done())
//!         .on_commit(move |_| println!("{path} is published, perhaps for the second time"));
//!     (kind.as_str() == "publish").then(|| Box::new(publish) as _)
//! })?;
//! recovered.groups.iter().for_each(|group| _ = group.wait());
//! assert!(journal.owed()?.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it is made of is public for rooms that keep more than verdicts in their database, as the catalogue of a backup
//! directory does: [`database`], [`lock`], [`fault`] and the stored form of a [verdict](Decided).
//!
//! It knows nothing of disks, bytes or bitmaps, and reads no record that it keeps.

mod batch;
pub mod database;
mod error;
pub mod fault;
mod file_journal;
mod hex;
pub mod lock;
mod sync;
mod verdict;

pub use error::{OpenError, Unreadable};
pub use file_journal::{Contents, FileJournal, JOURNAL_VERSION, Note, read};
pub use hex::{NotHex, RecordBytes};
pub use verdict::{AbortCause, Aborted, Decided, Member, Outcome, Settling};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
