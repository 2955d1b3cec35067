//! How a run ended, disk by disk, and how far it is.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cohort_bitmap::DirtyBitmap;
use cohort_block::{Delays, StagingLevel};
use cohort_job::{Cause, Disposition};

use crate::catalogue::{ByteRange, DiskName, Partial, Point, RunId, Unclosed};
use crate::error::DiskError;
use crate::plan::StepDown;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The run's number in its directory; none if no disk took part.
    pub run: Option<RunId>,
    /// Its disks in the order given, those that did not take part included.
    pub disks: Vec<DiskReport>,
    /// What the common instant cost; none if no served disk took part.
    pub fence: Option<FenceReport>,
    /// What the catalogue could not take after the verdicts, which stand.
    pub unclosed: Option<Unclosed>,
}

/// What the fence of a run cost its writers.
#[derive(Clone, Debug)]
pub struct FenceReport {
    /// How long closing all gates might have taken: the least `writer_wait` of the disks.
    pub bound: Duration,
    /// From the first gate's closing to the opening of all.
    pub closed_for: Duration,
    /// How long those writes waited that found a gate closed, of all disks together.
    pub delays: Delays,
    /// From the begin of the first freeze to the end of the last thaw; none without hooks.
    pub frozen_for: Option<Duration>,
    /// Hooks that did not thaw, and why: somebody must look after them.
    pub thaw_failures: Vec<String>,
}

/// What a run cost the writers of one served disk.
#[derive(Clone, Copy, Debug)]
pub struct WritersReport {
    /// The longest that one write might have been held up.
    pub bound: Duration,
    /// How long writes were held up from the fence to the end, fence included.
    pub delays: Delays,
    /// How much old data waited for the target, at the most.
    pub staging: StagingLevel,
}

impl RunReport {
    /// Whether every disk has a new point.
    pub fn succeeded(&self) -> bool {
        self.disks
            .iter()
            .all(|disk| matches!(disk.outcome, DiskOutcome::Committed(_)))
    }
}

/// How a run ended for one disk.
#[derive(Clone, Debug)]
pub struct DiskReport {
    /// The disk.
    pub name: DiskName,
    /// Where its data is: a path, or a device's own name.
    pub source: String,
    /// Its size in bytes; 0 if it could not be opened.
    pub size: u64,
    /// Bytes of data that were written to the target.
    pub copied_bytes: u64,
    /// What became of it.
    pub outcome: DiskOutcome,
    /// The partial that it continued.
    pub continued: Option<Continued>,
    /// The partial that the disk has now.
    pub left: Option<Partial>,
    /// Why more was copied than was asked for.
    pub stepped_down: Option<StepDown>,
    /// What else the user should know, a sentence each.
    pub notes: Vec<String>,
    /// What could not be read and was left out with permission.
    pub skipped: Vec<ByteRange>,
    /// What the run cost its writers; only of served disks that were fenced.
    pub writers: Option<WritersReport>,
    /// The sets behind the outcome; only of served disks that were fenced.
    pub rows: Option<Rows>,
}

impl DiskReport {
    /// On a disk that did not take part.
    pub(crate) fn absent(name: &DiskName, source: &str, outcome: DiskOutcome) -> Self {
        let left = match &outcome {
            DiskOutcome::Refused(unanswered) => Some(unanswered.partial.clone()),
            DiskOutcome::Committed(_)
            | DiskOutcome::Failed(_)
            | DiskOutcome::Aborted { .. }
            | DiskOutcome::NotStarted(_)
            | DiskOutcome::InDoubt(_) => None,
        };
        Self {
            name: name.clone(),
            source: source.to_owned(),
            size: 0,
            copied_bytes: 0,
            outcome,
            continued: None,
            left,
            stepped_down: None,
            notes: Vec::new(),
            skipped: Vec::new(),
            writers: None,
            rows: None,
        }
    }
}

/// What a run took over from a partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continued {
    /// The run that left the partial.
    pub run: RunId,
    /// Bytes that it held and that were not copied again.
    pub kept_bytes: u64,
    /// Those, and all that was to be copied besides.
    pub whole_bytes: u64,
}

/// What became of a disk.
#[derive(Clone, Debug)]
pub enum DiskOutcome {
    /// It has a new point.
    Committed(Point),
    /// It failed, and its group with it.
    Failed(DiskError),
    /// It was fine, but its group ended for another reason.
    Aborted {
        /// Why its group did not commit.
        cause: Cause,
        /// How it settled.
        disposition: Disposition,
    },
    /// A partial waits for an answer, so it was left alone.
    Refused(Unanswered),
    /// It could not take part; the disks that were not grouped with it went on.
    NotStarted(DiskError),
    /// Nobody knows before the next start whether it committed.
    InDoubt(String),
}

/// A disk that was left alone because its partial waits for keep or discard.
#[derive(Clone, Debug)]
pub struct Unanswered {
    /// The disk.
    pub disk: DiskName,
    /// The backup directory.
    pub directory: PathBuf,
    /// The partial.
    pub partial: Partial,
}

impl fmt::Display for Unanswered {
    /// One line that says what is the matter, then both answers as commands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (disk, directory, partial) = (&self.disk, self.directory.display(), &self.partial);
        write!(
            f,
            "disk {disk}: run {} left a partial that holds {} bytes, and nobody has said yet whether it counts\n\
             to complete it:   cohort bitmap decide keep --from {directory} {disk}\n\
             to drop it:       cohort bitmap decide discard --from {directory} {disk}",
            partial.run, partial.durable_bytes
        )
    }
}

/// The sets of a served disk, in granules, when its run was settled.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Dirty when the run started.
    pub base: DirtyBitmap,
    /// Written since.
    pub since: DirtyBitmap,
    /// What the run was to copy and the target does not durably hold.
    pub remaining: DirtyBitmap,
    /// What was left out with permission.
    pub skipped: DirtyBitmap,
    /// The view against the last point, as it stands now.
    pub point_view: DirtyBitmap,
    /// The view against the partial, if there is one.
    pub partial_view: Option<DirtyBitmap>,
}

/// What a disk's job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DiskPhase {
    /// Has not begun.
    Queued,
    /// Compares the disk with its last point.
    Scanning,
    /// Copies.
    Copying,
    /// Makes the target durable.
    Sealing,
    /// Is done, and waits for the rest of its group.
    Waiting,
    /// Has ended, well or not.
    Ended,
}

impl fmt::Display for DiskPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DiskPhase::Queued => "queued",
            DiskPhase::Scanning => "scanning",
            DiskPhase::Copying => "copying",
            DiskPhase::Sealing => "sealing",
            DiskPhase::Waiting => "waiting for peers",
            DiskPhase::Ended => "ended",
        })
    }
}

/// How far a disk is in its present phase, in bytes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskProgress {
    /// What it is doing.
    pub phase: DiskPhase,
    /// Bytes dealt with in this phase.
    pub done: u64,
    /// Bytes to deal with in this phase.
    pub total: u64,
}

/// Progress that others read while the job writes it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    phase: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    /// The error that the job waits for an operator to mend.
    stopped: Mutex<Option<String>>,
}

const PHASES: [DiskPhase; 6] = [
    DiskPhase::Queued,
    DiskPhase::Scanning,
    DiskPhase::Copying,
    DiskPhase::Sealing,
    DiskPhase::Waiting,
    DiskPhase::Ended,
];

impl Meter {
    pub(crate) fn begin(&self, phase: DiskPhase, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Enters a phase that has no bytes of its own: the numbers of the one before stay.
    pub(crate) fn enter(&self, phase: DiskPhase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn set_done(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self, error: String) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn go_on(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn stopped(&self) -> Option<String> {
        let stopped = self.stopped.lock();
        stopped.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn read(&self) -> DiskProgress {
        let phase = PHASES[usize::from(self.phase.load(Ordering::Acquire))];
        let total = self.total.load(Ordering::Relaxed);
        DiskProgress {
            phase,
            done: self.done.load(Ordering::Relaxed).min(total),
            total,
        }
    }
}
