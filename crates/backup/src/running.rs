//! A run under way: how far it is, how to stop it, and how it ended.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cohort_block::WriteMeter;
use cohort_job::{Disposition, Engine, JobHandle, Outcome, TxnHandle};

use crate::catalogue::{DiskName, RunId, Unclosed};
use crate::copying;
use crate::disk::Disk;
use crate::error::DiskError;
use crate::governor::Governor;
use crate::lent::Lent;
use crate::report::{
    DiskOutcome, DiskPhase, DiskProgress, DiskReport, FenceReport, RunReport, WritersReport,
};

/// A run under way. Dropping it does not stop it.
#[must_use = "a run that nobody waits for ends when the process does"]
pub struct Running {
    run: Option<RunId>,
    engine: Option<Engine>,
    groups: Vec<TxnHandle>,
    places: Vec<Place>,
    disks: Vec<RunningDisk>,
    hurry: Arc<AtomicBool>,
    journal: Option<Arc<Lent>>,
    governor: Option<Arc<Governor>>,
    fence: Option<Raised>,
}

/// What is known of a fence when it stood.
#[derive(Debug)]
pub(crate) struct Raised {
    pub(crate) bound: Duration,
    pub(crate) closed_for: Duration,
    pub(crate) frozen_for: Option<Duration>,
    pub(crate) thaw_failures: Vec<String>,
}

/// One disk of a run under way. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunningDisk {
    name: DiskName,
    disk: Arc<Disk>,
    job: JobHandle,
}

/// A disk's place in the report.
#[derive(Debug)]
pub(crate) enum Place {
    /// It takes part, and has no job yet.
    Pending(DiskName),
    In(Box<Member>),
    /// It does not take part.
    Out(Box<DiskReport>),
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) disk: Arc<Disk>,
    pub(crate) job: JobHandle,
}

impl Place {
    pub(crate) fn name(&self) -> &DiskName {
        match self {
            Place::Pending(name) => name,
            Place::In(member) => &member.disk.decided.name,
            Place::Out(report) => &report.name,
        }
    }
}

impl Running {
    pub(crate) fn new(
        run: RunId,
        engine: Engine,
        journal: Arc<Lent>,
        groups: Vec<TxnHandle>,
        places: Vec<Place>,
        (hurry, governor): (Arc<AtomicBool>, Arc<Governor>),
        fence: Option<Raised>,
    ) -> Self {
        let disks = places.iter().filter_map(|place| match place {
            Place::In(member) => Some(RunningDisk {
                name: member.disk.decided.name.clone(),
                disk: member.disk.clone(),
                job: member.job.clone(),
            }),
            Place::Pending(_) | Place::Out(_) => None,
        });
        let (disks, journal) = (disks.collect(), Some(journal));
        Running {
            run: Some(run),
            engine: Some(engine),
            groups,
            places,
            disks,
            hurry,
            journal,
            governor: Some(governor),
            fence,
        }
    }

    /// A run in which no disk takes part.
    pub(crate) fn nothing(places: Vec<Place>) -> Self {
        Running {
            run: None,
            engine: None,
            groups: Vec::new(),
            places,
            disks: Vec::new(),
            hurry: Arc::default(),
            journal: None,
            governor: None,
            fence: None,
        }
    }

    /// The run's number in its directory; none if no disk takes part.
    pub fn run(&self) -> Option<RunId> {
        self.run
    }

    /// The disks that take part.
    pub fn disks(&self) -> &[RunningDisk] {
        &self.disks
    }

    /// Stops all of it. With `Keep` each disk settles by its policy, with `Discard` no trace is left. What is
    /// decided already stays decided.
    pub fn cancel(&self, disposition: Disposition) {
        for group in &self.groups {
            // Refused only once the verdict is fixed.
            let _ = group.cancel(disposition);
        }
    }

    /// Stops all of it with `Keep`, and does not wait for targets to be flushed: only what is durable already
    /// counts.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.cancel(Disposition::Keep);
    }

    /// Whether copies yield to the writers of served disks from now on: see [`Backup::yields`](crate::Backup::yields).
    pub fn set_yields(&self, yields: bool) {
        if let Some(governor) = &self.governor {
            governor.set_yields(yields);
        }
    }

    /// Whether it is over, or nobody will know before the next start whether it is.
    pub fn is_finished(&self) -> bool {
        self.groups
            .iter()
            .all(|group| group.in_doubt() || group.wait_until(Instant::now()).is_some())
    }

    /// As [`is_finished`](Self::is_finished), once it is so or this time has passed.
    pub fn is_finished_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        for group in &self.groups {
            if group.wait_until(deadline).is_none() {
                break;
            }
        }
        self.is_finished()
    }

    /// Waits until it is over, and gives the backup directory free.
    pub fn wait(self) -> RunReport {
        for group in &self.groups {
            while group.wait_until(Instant::now() + DOUBT_CHECK).is_none() {
                if group.in_doubt() {
                    break;
                }
            }
        }
        let Running {
            run,
            engine,
            groups,
            places,
            disks,
            journal,
            fence,
            ..
        } = self;
        let meters = disks.iter().map(|disk| &*disk.disk.writes);
        let delays = WriteMeter::all_fence_delays(meters);
        let disks_report: Vec<_> = places
            .into_iter()
            .map(|place| finished(place, &groups))
            .collect();
        drop((disks, groups));
        drop(engine);
        let unclosed = journal.and_then(|journal| close(&journal));
        // The same is said of a verdict that could not be written.
        let is_doubt = |disk: &DiskReport| matches!(disk.outcome, DiskOutcome::InDoubt(_));
        let unclosed = unclosed.filter(|_| !disks_report.iter().any(is_doubt));
        RunReport {
            run,
            disks: disks_report,
            unclosed,
            fence: fence.map(|raised| FenceReport {
                bound: raised.bound,
                closed_for: raised.closed_for,
                delays,
                frozen_for: raised.frozen_for,
                thaw_failures: raised.thaw_failures,
            }),
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("run", &self.run)
            .field("disks", &self.disks)
            .finish_non_exhaustive()
    }
}

impl RunningDisk {
    /// The disk.
    pub fn name(&self) -> &DiskName {
        &self.name
    }

    /// Where its data is.
    pub fn source(&self) -> &str {
        &self.disk.decided.source.label
    }

    /// What it is doing and how far it is.
    pub fn progress(&self) -> DiskProgress {
        let mut progress = self.disk.meter.read();
        // Also what writers had saved since the job last looked.
        if progress.phase == DiskPhase::Copying
            && let Some(left) = copying::left_bytes(&self.disk)
        {
            let done = progress.total.saturating_sub(left);
            progress.done = progress.done.max(done);
        }
        progress
    }

    /// The error that it waits for the operator to mend, under an error policy that stops: `job().resume()` has it try
    /// again.
    pub fn stopped(&self) -> Option<String> {
        self.disk.meter.stopped()
    }

    /// What the user should know already, a sentence each; all of it is in the report too.
    pub fn notes(&self) -> Vec<String> {
        self.disk.state().notes.clone()
    }

    /// Its job: pause, resume, speed, cancel.
    pub fn job(&self) -> &JobHandle {
        &self.job
    }
}

/// How often a wait looks whether its group is in doubt, which never ends.
const DOUBT_CHECK: Duration = Duration::from_millis(200);

/// Gives the directory free; what could not be written of that.
fn close(journal: &Lent) -> Option<Unclosed> {
    // Nobody else has it: the groups are over, and their drivers gone.
    let catalogue = Arc::into_inner(journal.take_back()?)?;
    catalogue.close().err()
}

fn finished(place: Place, groups: &[TxnHandle]) -> DiskReport {
    let member = match place {
        Place::Out(report) => return *report,
        Place::Pending(name) => {
            let error = DiskError::Job("the disk was never started".into());
            return DiskReport::absent(&name, "", DiskOutcome::NotStarted(error));
        }
        Place::In(member) => member,
    };
    let Member { disk, job } = *member;
    let doubt = groups
        .iter()
        .any(|group| group.in_doubt() && *group.name().as_str() == *disk.group);
    let bound = disk.decided.options.writer_wait;
    let delays = disk.writes.delays();
    let mut state = disk.state();
    let outcome = match job.outcome() {
        _ if doubt => DiskOutcome::InDoubt(job.why()),
        None => DiskOutcome::InDoubt(job.why()),
        Some(Outcome::Committed { .. }) => match state.point.take() {
            Some(point) => DiskOutcome::Committed(point),
            None => DiskOutcome::InDoubt("committed without a point".to_owned()),
        },
        Some(Outcome::Failed { error, .. }) => {
            DiskOutcome::Failed(state.error.take().unwrap_or(DiskError::Job(error)))
        }
        Some(Outcome::Cancelled { cause, disposition }) => {
            DiskOutcome::Aborted { cause, disposition }
        }
    };
    DiskReport {
        name: disk.decided.name.clone(),
        source: disk.decided.source.label.clone(),
        size: disk.size(),
        copied_bytes: state.copied_bytes,
        outcome,
        continued: state.continued.take(),
        left: state.left.take(),
        stepped_down: state.stepped_down.take(),
        notes: std::mem::take(&mut state.notes),
        skipped: std::mem::take(&mut state.skipped),
        writers: state.staged.map(|staging| WritersReport {
            bound,
            delays,
            staging,
        }),
        rows: state.rows.take(),
    }
}
