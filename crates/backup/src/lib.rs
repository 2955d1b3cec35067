//! Grouped, incremental backup of disks into a directory that a crash does not break.
//!
//! [`Backup`] copies some disks, all at one instant, into a backup directory: either every one of them gets a new
//! restorable *point*, or none does. What a disk that did not commit leaves behind is its own [`BitmapPolicy`]'s
//! business. A [`catalogue`] says what is a point; [`restore`] gives one back.
//!
//! This is the one room that knows all its neighbours: jobs that finish together, dirty bitmaps, block devices.
//! It knows no command line, no socket and no protocol.
//!
//! ```
//! use cohort_backup::{Backup, DiskSpec};
//!
//! # let here = tempfile::tempdir()?;
//! # let (disk, directory) = (here.path().join("root.raw"), here.path().join("backups"));
//! std::fs::write(&disk, vec![7; 1 << 20])?;
//! for _ in 0..2 {
//!     let report = Backup::to(&directory).disk(DiskSpec::file(&disk)).start()?.wait();
//!     assert!(report.succeeded());
//! }
//! let points = cohort_backup::catalogue::read(&directory)?.points.len();
//! assert_eq!(points, 2);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod audit;
pub mod catalogue;
mod checkpoint;
mod copy;
mod copying;
mod digests;
mod disk;
mod driver;
mod ending;
mod error;
mod expected;
mod fence;
mod full;
mod governor;
mod hook;
mod image_bitmap;
mod in_place;
mod keeper;
mod lent;
mod name;
mod offline_store;
mod offload;
mod options;
mod partial;
mod plan;
mod prune;
mod qcow2_builder;
mod report;
mod restore;
mod run;
mod running;
mod scan;
mod scratch;
mod served;
mod settle;
mod source;
mod stored;
mod survey;
mod target;
mod tracked;
mod turns;
mod verify;
mod write_back;

pub use audit::{Audit, AuditError, Audited, audit};
pub use cohort_block::{Delays, OnMiss, StagingLevel};
pub use error::{DiskError, StartError};
pub use fence::{Fence, FenceCause, FenceError, Fenced, HookFailure, HookResult};
pub use full::{FullCopy, FullCopyError, FullyCopied, Operator, Outlet};
pub use hook::Hook;
pub use in_place::{InPlace, InPlaceDriver, Observer, OnError, Part, Prepared, Reaction, Side};
pub use keeper::Keeper;
pub use options::{
    BadErrorPolicy, BitmapPolicy, Budget, Compression, ErrorPolicy, OnUndecided, Options,
    OptionsBuilder, OptionsError, SyncMode, UnknownWord,
};
pub use plan::{Rung, StepDown};
pub use prune::{
    Keep, KeepReason, Merged, PointFate, PruneError, PruneReport, Pruned, plan_prune, prune,
};
pub use qcow2_builder::{
    Backing, BuildError, CreateOptions, FileOperation, Held, Qcow2Builder, Staged,
};
pub use report::{
    Continued, DiskOutcome, DiskPhase, DiskProgress, DiskReport, FenceReport, Rows, RunReport,
    Unanswered, WritersReport,
};
pub use restore::{RestoreError, RestoreOptions, Restored, restore};
pub use run::Backup;
pub use running::{Running, RunningDisk};
pub use settle::{Ended, Fate, Settled, fate};
pub use source::DiskSpec;
pub use stored::Unproven;
pub use tracked::{TrackError, Tracked, UntrackError};
pub use verify::{
    Damage, PointState, PointVerdict, Selection, Verify, VerifyError, VerifyReport, verify,
};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
