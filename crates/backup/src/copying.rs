//! The copying stage of a job: claims handed to tasks, their failures judged by the error policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cohort_block::{Counts, Ledger, Next};
use cohort_job::{Context, Step};

use crate::checkpoint::Checkpoints;
use crate::copy::{CHUNK, Copied, Copier, CopyError, Failure};
use crate::disk::{Disk, ranges};
use crate::error::DiskError;
use crate::options::ErrorPolicy;
use crate::report::DiskPhase;

/// What a job knows while it copies.
pub(crate) struct Copying {
    copier: Arc<Copier>,
    ledger: Arc<Ledger>,
    tell: Sender<Copied>,
    told: Receiver<Copied>,
    /// Where the search for the next clusters begins.
    cursor: u64,
    /// Clusters in one copy at most.
    most: u64,
    trouble: BTreeMap<u64, Trouble>,
    /// What all back-offs took together.
    paused: Duration,
    /// Bytes of the manifest, for progress.
    total: u64,
    advanced: u64,
    /// What was copied when the last checkpoint was asked for.
    checkpointed: u64,
}

/// A cluster that failed and is tried again.
struct Trouble {
    attempts: u32,
    not_before: Instant,
}

impl Copying {
    /// Takes up a disk that has started; `None` if it has not.
    pub(crate) fn begin(disk: &Arc<Disk>, cx: &mut Context<'_>) -> Option<Self> {
        let (ledger, target) = {
            let state = disk.state();
            let started = state.started.as_ref()?;
            (started.ledger.clone(), started.target.clone())
        };
        let waker = cx.waker();
        ledger.watch(move || waker.wake());
        let counts = ledger.counts();
        let total = (under_way(&counts) + counts.written) * ledger.cluster().bytes();
        disk.meter.begin(DiskPhase::Copying, total);
        cx.progress().set_remaining(total);
        Checkpoints::begin(disk);
        let (tell, told) = channel();
        Some(Copying {
            copier: Arc::new(Copier::new(
                disk.source.device.clone(),
                target,
                ledger.clone(),
            )),
            most: clusters_at_once(disk.options.speed, ledger.cluster().bytes()),
            ledger,
            tell,
            told,
            cursor: 0,
            trouble: BTreeMap::new(),
            paused: Duration::ZERO,
            total,
            advanced: 0,
            checkpointed: 0,
        })
    }

    /// One step; `None` once nothing is left to copy.
    pub(crate) fn step(&mut self, disk: &Disk, cx: &mut Context<'_>) -> Option<Step> {
        let failures: Vec<Failure> = self
            .told
            .try_iter()
            .flat_map(|copied| copied.failures)
            .collect();
        for failure in failures {
            if let Err(error) = self.judge(disk, failure) {
                return Some(Step::failed(disk.fail(error)));
            }
        }
        self.report(disk, cx);
        while cx.tasks() < disk.options.workers {
            if let Some(wait) = self.cooling() {
                return Some(if cx.tasks() == 0 {
                    Step::Sleep(wait)
                } else {
                    Step::Wait(COPIES)
                });
            }
            if self.ledger.counts().owed == 0 {
                // Writers had the rest saved, or others have it in hand: nothing to be paid for.
                return match self.ledger.claim_next(0, 1) {
                    Next::Finished => None,
                    Next::Closed => Some(self.closed(disk)),
                    Next::Wait => Some(Step::Wait(COPIES)),
                    // Given back just now, and again: then there is something owed.
                    Next::Claimed(_) => Some(Step::Again),
                };
            }
            let permit = match disk.governor.acquire(|| {
                let waker = cx.waker();
                move || waker.wake()
            }) {
                Ok(permit) => permit,
                Err(wait) => return Some(Step::Sleep(wait)),
            };
            if let Err(wait) = cx.pay(self.most * self.ledger.cluster().bytes()) {
                return Some(Step::Sleep(wait));
            }
            match self.claim() {
                Next::Claimed(claim) => {
                    let (copier, tell) = (Arc::clone(&self.copier), self.tell.clone());
                    cx.spawn(move || {
                        let copied = copier.copy(claim);
                        // Before the job hears of it, so that it finds the permit free.
                        drop(permit);
                        // Nobody listens any more if the job is over; the claims go back then.
                        let _ = tell.send(copied);
                    });
                }
                Next::Wait => return Some(Step::Wait(COPIES)),
                Next::Finished => return None,
                Next::Closed => return Some(self.closed(disk)),
            }
        }
        Some(Step::Wait(COPIES))
    }

    fn closed(&self, disk: &Disk) -> Step {
        let error = self.ledger.broken().map(DiskError::Broken);
        let error = error.map(|error| disk.fail(error));
        Step::failed(error.unwrap_or_else(|| "the backup was sealed early".into()))
    }

    /// Claims what comes next, but for clusters that are to be left alone for a while.
    fn claim(&mut self) -> Next {
        let now = Instant::now();
        let mut from = self.cursor;
        for _ in 0..=self.trouble.len() {
            let mut claim = match self.ledger.claim_next(from, self.most) {
                Next::Claimed(claim) => claim,
                other @ (Next::Wait | Next::Finished | Next::Closed) => return other,
            };
            let clusters = claim.clusters();
            let hot = self
                .trouble
                .range(clusters.clone())
                .find(|(_, trouble)| trouble.not_before > now);
            match hot.map(|(cluster, _)| *cluster) {
                // Given back; `cooling` has made sure that something else is owed.
                Some(cluster) if cluster == clusters.start => from = cluster + 1,
                Some(cluster) => {
                    drop(claim.split_off(cluster));
                    self.cursor = cluster + 1;
                    return Next::Claimed(claim);
                }
                None => {
                    self.cursor = clusters.end;
                    return Next::Claimed(claim);
                }
            }
        }
        // Giving back has woken the job, so it asks again.
        Next::Wait
    }

    /// How long nothing can be claimed because all that is owed failed a moment ago.
    fn cooling(&self) -> Option<Duration> {
        let now = Instant::now();
        let hot = || {
            self.trouble
                .values()
                .filter(|trouble| trouble.not_before > now)
        };
        let first = hot().map(|trouble| trouble.not_before).min()?;
        let owed = self.ledger.counts().owed;
        (owed > 0 && owed <= hot().count() as u64).then(|| first - now)
    }

    /// What a failure means: try again later, leave it out, or fail the disk.
    fn judge(&mut self, disk: &Disk, failure: Failure) -> Result<(), DiskError> {
        let Failure { mut claim, error } = failure;
        let policy = match &error {
            CopyError::Source(_) => disk.options.on_source_error,
            CopyError::Target { .. } => disk.options.on_target_error,
        };
        let budget = policy.budget();
        let cluster = claim.clusters().start;
        let attempts = self
            .trouble
            .get(&cluster)
            .map_or(1, |trouble| trouble.attempts + 1);
        let doubled = 1 << (attempts - 1).min(16);
        let pause = budget.back_off.saturating_mul(doubled);
        if attempts < budget.attempts && self.paused + pause <= budget.total {
            self.paused += pause;
            let not_before = Instant::now() + pause;
            // Each cluster of a run that could not be written waits on its own.
            while claim.clusters().end - claim.clusters().start > 1 {
                let last = claim.clusters().end - 1;
                drop(claim.split_off(last));
                self.trouble.insert(
                    last,
                    Trouble {
                        attempts,
                        not_before,
                    },
                );
            }
            self.trouble.insert(
                cluster,
                Trouble {
                    attempts,
                    not_before,
                },
            );
            return Ok(());
        }
        match (policy, error) {
            (ErrorPolicy::Skip { limit, .. }, CopyError::Source(last)) => {
                let skipped = self.ledger.counts().skipped;
                self.trouble.remove(&cluster);
                claim.skip();
                if skipped < limit {
                    return Ok(());
                }
                let source_name = disk.source.label.clone();
                Err(DiskError::Incomplete {
                    source_name,
                    skipped: ranges(&self.ledger.skipped()),
                    limit,
                    last,
                })
            }
            (ErrorPolicy::Report | ErrorPolicy::Ignore(_) | ErrorPolicy::Skip { .. }, error) => {
                Err(DiskError::copy(disk.target_path().as_path(), error))
            }
        }
    }

    fn report(&mut self, disk: &Disk, cx: &Context<'_>) {
        let counts = self.ledger.counts();
        let left = under_way(&counts) * self.ledger.cluster().bytes();
        let done = self.total.saturating_sub(left);
        disk.meter.set_done(done);
        // A cluster may go back from written to owed; what was reported as done stays so.
        cx.progress().advance(done.saturating_sub(self.advanced));
        self.advanced = self.advanced.max(done);
        if Checkpoints::is_due(self.advanced - self.checkpointed, self.total) {
            self.checkpointed = self.advanced;
            disk.checkpoints.demand();
        }
    }
}

/// Bytes that the target of a disk does not have yet, once it has one.
pub(crate) fn left_bytes(disk: &Disk) -> Option<u64> {
    let ledger = Arc::clone(&disk.state().started.as_ref()?.ledger);
    Some(under_way(&ledger.counts()) * ledger.cluster().bytes())
}

/// Clusters that the target does not have yet.
fn under_way(counts: &Counts) -> u64 {
    counts.owed + counts.in_flight + counts.staged
}

const COPIES: &str = "waits for copies under way";

/// A chunk, or less for a disk that may not be read fast: a tenth of a second's worth, as smooth as the limit.
fn clusters_at_once(speed: u64, cluster: u64) -> u64 {
    let chunk = if speed == 0 {
        CHUNK
    } else {
        CHUNK.min(speed / 10)
    };
    (chunk / cluster).max(1)
}
