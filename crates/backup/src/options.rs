//! What a user may ask of a backup: modes, policies, budgets and limits, and their validation.
//!
//! Vocabulary after `qemu:qapi/block-core.json` (sync mode) and qemu-devel 2019-06-21 (bitmap policy), with two
//! additions: the policy *ask*, and error policies that have a budget instead of an endless retry.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cohort_block::OnMiss;

/// What a backup copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SyncMode {
    /// Everything that is not a hole or zero, into a target that stands alone.
    Full,
    /// All that the source's top layer allocates, and whatever else differs from the last point.
    Top,
    /// What changed since the anchor; the policy must be on-success.
    Incremental,
    /// What changed since the anchor, with any policy. Without an earlier point this is a full backup.
    #[default]
    Bitmap,
}

/// The fate of a disk's bitmap and of its partial target when the backup ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum BitmapPolicy {
    /// Only a backup that succeeds moves the anchor; a failed one leaves nothing but its error.
    #[default]
    OnSuccess,
    /// What was copied counts even if the backup fails: the partial is kept and the next run completes it.
    Always,
    /// As `Always`, but the next run may use the partial only after someone said keep.
    Ask,
    /// The anchor never moves: a differential backup.
    Never,
}

/// What to do on the next run with a partial that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnUndecided {
    /// Refuse that disk, before anything is done to it, and name both answers.
    #[default]
    Refuse,
    /// Complete the partial.
    Keep,
    /// Drop the partial and start from the last point.
    Discard,
}

macro_rules! words {
    ($kind:ty, $what:literal, $($variant:path => $word:literal),+) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($variant => $word),+ })
            }
        }
        impl FromStr for $kind {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok($variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.to_owned(), known: &[$($word),+] }),
                }
            }
        }
    };
}

words!(SyncMode, "sync mode", SyncMode::Full => "full", SyncMode::Top => "top",
    SyncMode::Incremental => "incremental", SyncMode::Bitmap => "bitmap");
words!(BitmapPolicy, "bitmap policy", BitmapPolicy::OnSuccess => "on-success", BitmapPolicy::Always => "always",
    BitmapPolicy::Ask => "ask", BitmapPolicy::Never => "never");
words!(OnUndecided, "answer for an undecided partial", OnUndecided::Refuse => "refuse", OnUndecided::Keep => "keep",
    OnUndecided::Discard => "discard");

/// A word that names no value of its option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is not a {what}: use one of {}", known.join(", "))]
pub struct UnknownWord {
    what: &'static str,
    word: String,
    known: &'static [&'static str],
}

/// How often and how long a failing read or write is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tries of one cluster, the first included; at least 1.
    pub attempts: u32,
    /// Pause before a second try; doubled before each further one.
    pub back_off: Duration,
    /// Time that all pauses of one disk may take together.
    pub total: Duration,
}

impl Budget {
    /// One try: the first error is the last.
    pub const NONE: Budget = Budget {
        attempts: 1,
        back_off: Duration::ZERO,
        total: Duration::ZERO,
    };
}

impl Default for Budget {
    /// Five tries from 100 ms on: enough for a path to fail over, short enough to be watched.
    fn default() -> Self {
        Budget {
            attempts: 5,
            back_off: Duration::from_millis(100),
            total: Duration::from_secs(30),
        }
    }
}

/// What an I/O error means for the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// The first error fails the disk.
    #[default]
    Report,
    /// Tried again while the budget lasts; then the disk fails.
    Ignore(Budget),
    /// Tried again while the budget lasts; then the cluster is left out, listed, and stays dirty.
    Skip {
        /// Tries before a cluster is skipped.
        budget: Budget,
        /// Clusters that may be skipped; one more fails the disk as incomplete.
        limit: u64,
    },
}

impl ErrorPolicy {
    /// How often and how long this policy tries again.
    pub fn budget(&self) -> Budget {
        match self {
            ErrorPolicy::Report => Budget::NONE,
            ErrorPolicy::Ignore(budget) | ErrorPolicy::Skip { budget, .. } => *budget,
        }
    }
}

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
    pub(crate) cluster: u32,
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
    /// Bytes in a cluster: the unit of copying, and of the target file.
    pub fn cluster(&self) -> u32 {
        self.cluster
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
    /// Bytes in a cluster of a new chain (default: 64 KiB).
    pub fn cluster(mut self, bytes: u32) -> Self {
        self.options.cluster = bytes;
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
        let o = &self.options;
        if o.mode == SyncMode::Incremental && o.policy != BitmapPolicy::OnSuccess {
            return Err(OptionsError::IncrementalPolicy(o.policy));
        }
        if matches!(o.mode, SyncMode::Full | SyncMode::Top) && o.policy == BitmapPolicy::Never {
            return Err(OptionsError::NeverWithout(o.mode));
        }
        if o.workers == 0 || o.workers > MAX_WORKERS {
            return Err(OptionsError::Workers(o.workers));
        }
        if !o.cluster.is_power_of_two() || !(MIN_CLUSTER..=MAX_CLUSTER).contains(&o.cluster) {
            return Err(OptionsError::Cluster(o.cluster));
        }
        if o.writer_wait.is_zero() {
            return Err(OptionsError::WriterWait);
        }
        if o.staging_file.is_some() && o.staging_memory < 2 * u64::from(o.cluster) {
            return Err(OptionsError::StagingMemory {
                memory: o.staging_memory,
                cluster: o.cluster,
            });
        }
        if matches!(o.on_target_error, ErrorPolicy::Skip { .. }) {
            return Err(OptionsError::SkipOnTarget);
        }
        for (side, policy) in [
            ("source", &o.on_source_error),
            ("target", &o.on_target_error),
        ] {
            if policy.budget().attempts == 0 {
                return Err(OptionsError::NoAttempts(side));
            }
        }
        Ok(self.options)
    }
}

/// Each worker is a thread while it copies; more than this only costs memory.
const MAX_WORKERS: usize = 256;
/// The smallest cluster: a disk's granularity here is never finer than a page.
const MIN_CLUSTER: u32 = 4 << 10;
/// The largest cluster of the qcow2 format.
const MAX_CLUSTER: u32 = 2 << 20;

/// Options that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// Incremental fixes the policy.
    #[error(
        "sync mode incremental means policy on-success, not {0}: use sync mode bitmap to choose a policy"
    )]
    IncrementalPolicy(BitmapPolicy),
    /// Never has a meaning only where a bitmap steers the copy.
    #[error(
        "policy never leaves the bitmap as it is, and sync mode {0} does not follow it: use sync mode bitmap or another policy"
    )]
    NeverWithout(SyncMode),
    /// Too few or too many workers.
    #[error("{0} workers: between 1 and {MAX_WORKERS} copies can be under way at once")]
    Workers(usize),
    /// Not a cluster size.
    #[error(
        "cluster size {0}: it must be a power of two between {MIN_CLUSTER} and {MAX_CLUSTER} bytes"
    )]
    Cluster(u32),
    /// A writer that may not wait at all cannot be fenced.
    #[error("writer wait 0: a fence needs some time, one second is the default")]
    WriterWait,
    /// Old data passes through memory on its way to the scratch file.
    #[error(
        "staging in a file needs memory for two clusters of {cluster} bytes on the way there, and has {memory}: allow more memory"
    )]
    StagingMemory {
        /// Bytes of memory to stage in.
        memory: u64,
        /// Bytes in a cluster.
        cluster: u32,
    },
    /// What cannot be written cannot be left out either.
    #[error(
        "error policy skip is for reading the source: a target that cannot be written needs report or ignore"
    )]
    SkipOnTarget,
    /// A budget without even a first try.
    #[error(
        "error policy for the {0} allows 0 attempts: the first try counts, so allow at least 1"
    )]
    NoAttempts(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Options::builder().build(), Ok(Options::default()));
    }

    #[test]
    fn each_broken_rule_has_its_own_error() {
        let b = Options::builder;
        let skip = ErrorPolicy::Skip {
            budget: Budget::NONE,
            limit: 1,
        };
        let none = ErrorPolicy::Ignore(Budget {
            attempts: 0,
            ..Budget::NONE
        });
        let cases = [
            (
                b().mode(SyncMode::Incremental).policy(BitmapPolicy::Always),
                OptionsError::IncrementalPolicy(BitmapPolicy::Always),
            ),
            (
                b().mode(SyncMode::Full).policy(BitmapPolicy::Never),
                OptionsError::NeverWithout(SyncMode::Full),
            ),
            (
                b().mode(SyncMode::Top).policy(BitmapPolicy::Never),
                OptionsError::NeverWithout(SyncMode::Top),
            ),
            (b().workers(0), OptionsError::Workers(0)),
            (b().workers(257), OptionsError::Workers(257)),
            (b().cluster(100_000), OptionsError::Cluster(100_000)),
            (b().cluster(0), OptionsError::Cluster(0)),
            (b().cluster(1 << 31), OptionsError::Cluster(1 << 31)),
            (b().writer_wait(Duration::ZERO), OptionsError::WriterWait),
            (
                b().staging_memory(100_000).staging_file("/tmp", 1 << 30),
                OptionsError::StagingMemory {
                    memory: 100_000,
                    cluster: 64 << 10,
                },
            ),
            (b().on_target_error(skip), OptionsError::SkipOnTarget),
            (
                b().on_source_error(none),
                OptionsError::NoAttempts("source"),
            ),
            (
                b().on_target_error(none),
                OptionsError::NoAttempts("target"),
            ),
        ];
        for (builder, error) in cases {
            assert_eq!(builder.build(), Err(error));
        }
    }

    #[test]
    fn words_read_back_and_unknown_ones_name_the_choice() {
        for policy in [
            BitmapPolicy::OnSuccess,
            BitmapPolicy::Always,
            BitmapPolicy::Ask,
            BitmapPolicy::Never,
        ] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for mode in [
            SyncMode::Full,
            SyncMode::Top,
            SyncMode::Incremental,
            SyncMode::Bitmap,
        ] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "allways".parse::<BitmapPolicy>().unwrap_err().to_string();
        assert_eq!(
            error,
            "'allways' is not a bitmap policy: use one of on-success, always, ask, never"
        );
    }
}
