//! What a user may ask of a backup: modes, policies, budgets and limits.
//!
//! Vocabulary after `qemu:qapi/block-core.json` (sync mode) and qemu-devel 2019-06-21 (bitmap policy), with two
//! additions: the policy *ask*, and error policies that have a budget instead of an endless retry. What goes together is
//! in `rules.rs`.

mod errors;
mod rules;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use cohort_block::OnMiss;

pub use errors::{BadErrorPolicy, Budget, ErrorPolicy};
pub use rules::OptionsError;
pub use words::{BitmapPolicy, Compression, OnUndecided, SyncMode, UnknownWord};

/// All that may be chosen for one disk; made by [`Options::builder`], so always valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(crate) mode: SyncMode,
    pub(crate) policy: BitmapPolicy,
    pub(crate) undecided: OnUndecided,
    pub(crate) on_source_error: ErrorPolicy,
    pub(crate) on_target_error: ErrorPolicy,
    pub(crate) writer_wait: Duration,
    pub(crate) on_miss: OnMiss,
    pub(crate) staging_memory: u64,
    pub(crate) staging_file: Option<(PathBuf, u64)>,
    pub(crate) flush_wait: Duration,
    pub(crate) workers: usize,
    pub(crate) cluster: u64,
    pub(crate) min_cluster: u64,
    pub(crate) compress: Compression,
    pub(crate) speed: u64,
    pub(crate) strict: bool,
    pub(crate) accept_changes: bool,
    pub(crate) digests: bool,
}

impl Options {
    /// Starts from the defaults.
    pub fn builder() -> OptionsBuilder {
        OptionsBuilder {
            options: Options::default(),
        }
    }
    /// Starts from these options.
    pub fn to_builder(&self) -> OptionsBuilder {
        OptionsBuilder {
            options: self.clone(),
        }
    }
    /// What is copied.
    pub fn mode(&self) -> SyncMode {
        self.mode
    }
    /// The fate of the bitmap and of a partial.
    pub fn policy(&self) -> BitmapPolicy {
        self.policy
    }
    /// What happens to a partial that waits for an answer.
    pub fn undecided(&self) -> OnUndecided {
        self.undecided
    }
    /// The longest that fence or copy may hold up one write of a served disk.
    pub fn writer_wait(&self) -> Duration {
        self.writer_wait
    }
    /// Bytes in a cluster of a new target file.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }
    /// Bytes that are copied at once, at least: the unit of copying is the larger one of this and the target's cluster.
    pub fn min_cluster(&self) -> u64 {
        self.min_cluster
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mode: SyncMode::default(),
            policy: BitmapPolicy::default(),
            undecided: OnUndecided::default(),
            on_source_error: ErrorPolicy::default(),
            on_target_error: ErrorPolicy::default(),
            writer_wait: Duration::from_secs(1),
            on_miss: OnMiss::default(),
            // A moment of a fast writer, or seconds of a usual one; sixteen disks take half a gigabyte of it only
            // while their targets lag.
            staging_memory: 32 << 20,
            staging_file: None,
            // A slow disk under load syncs in seconds; after minutes it is gone.
            flush_wait: Duration::from_secs(120),
            workers: 8,
            cluster: 64 << 10,
            min_cluster: 0,
            compress: Compression::default(),
            speed: 0,
            strict: false,
            accept_changes: false,
            digests: true,
        }
    }
}

/// Builds [`Options`]; nothing is checked before [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct OptionsBuilder {
    options: Options,
}

impl OptionsBuilder {
    /// What is copied (default: bitmap).
    pub fn mode(mut self, mode: SyncMode) -> Self {
        self.options.mode = mode;
        self
    }
    /// The fate of the bitmap and of a partial (default: on-success).
    pub fn policy(mut self, policy: BitmapPolicy) -> Self {
        self.options.policy = policy;
        self
    }
    /// What happens to a partial that waits for an answer (default: refuse).
    pub fn undecided(mut self, undecided: OnUndecided) -> Self {
        self.options.undecided = undecided;
        self
    }
    /// What a failing read means (default: report).
    pub fn on_source_error(mut self, policy: ErrorPolicy) -> Self {
        self.options.on_source_error = policy;
        self
    }
    /// What a failing write means (default: report).
    pub fn on_target_error(mut self, policy: ErrorPolicy) -> Self {
        self.options.on_target_error = policy;
        self
    }
    /// The longest that fence or copy may hold up one write of a served disk (default: 1 s).
    pub fn writer_wait(mut self, wait: Duration) -> Self {
        self.options.writer_wait = wait;
        self
    }
    /// What gives way when a write of a served disk has waited that long, or its old data cannot be saved
    /// (default: the backup).
    pub fn on_miss(mut self, on_miss: OnMiss) -> Self {
        self.options.on_miss = on_miss;
        self
    }
    /// Bytes of memory where old data of a served disk may wait for a target that is slower than its writers
    /// (default: 32 MiB); 0 lets every such write wait for the target.
    pub fn staging_memory(mut self, bytes: u64) -> Self {
        self.options.staging_memory = bytes;
        self
    }
    /// A further so many bytes in a scratch file in this folder, for each served disk (default: none). The file
    /// has no name; its space is reserved before the fence.
    pub fn staging_file(mut self, folder: impl Into<PathBuf>, bytes: u64) -> Self {
        self.options.staging_file = Some((folder.into(), bytes));
        self
    }
    /// How long a flush of the target may take before the target counts as lost (default: 120 s).
    pub fn flush_wait(mut self, wait: Duration) -> Self {
        self.options.flush_wait = wait;
        self
    }
    /// Copies under way at once (default: 8).
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.workers = workers;
        self
    }
    /// Bytes in a cluster of a new target (default: 64 KiB).
    pub fn cluster(mut self, bytes: u64) -> Self {
        self.options.cluster = bytes;
        self
    }
    /// Bytes to copy at once at least, also where less has changed or is overwritten: fewer and larger requests
    /// (default: 0, the target's cluster).
    pub fn min_cluster(mut self, bytes: u64) -> Self {
        self.options.min_cluster = bytes;
        self
    }
    /// How clusters of the target are compressed (default: not at all).
    pub fn compress(mut self, how: Compression) -> Self {
        self.options.compress = how;
        self
    }
    /// Bytes per second that are copied at most; 0 is no limit (default).
    pub fn speed(mut self, bytes_per_second: u64) -> Self {
        self.options.speed = bytes_per_second;
        self
    }
    /// Makes a disk fail that would otherwise step down to copying more (default: no).
    pub fn strict(mut self, strict: bool) -> Self {
        self.options.strict = strict;
        self
    }
    /// Accepts a source that changes while it is read: its point then shows no instant (default: no).
    pub fn accept_changes(mut self, accept: bool) -> Self {
        self.options.accept_changes = accept;
        self
    }

    /// Stores a digest of every cluster that is copied, for verify and audit (default: yes).
    pub fn digests(mut self, digests: bool) -> Self {
        self.options.digests = digests;
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, with the way out.
    pub fn build(self) -> Result<Options, OptionsError> {
        rules::check(&self.options)?;
        Ok(self.options)
    }
}
