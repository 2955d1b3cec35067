//! The copying stage of a job: claims handed to tasks, their failures judged by the error policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cohort_block::{Counts, Ledger, Next};
use cohort_job::{Context, Step};

use crate::checkpoint::Checkpoints;
use crate::copy::{Copied, Copier, CopyError, Failure};
use crate::disk::{Disk, ranges};
use crate::error::DiskError;
use crate::options::{Budget, Compression, ErrorPolicy, SyncMode};
use crate::report::DiskPhase;

/// What a job knows while it copies.
pub(crate) struct Copying {
    copier: Arc<Copier>,
    ledger: Arc<Ledger>,
    tell: Sender<Copied>,
    told: Receiver<Copied>,
    /// Clusters that earlier runs had to leave out: they are tried before anything else, the last one first.
    first: Vec<u64>,
    /// Where the search for the next clusters begins.
    cursor: u64,
    /// Clusters in one copy at most.
    most: u64,
    trouble: BTreeMap<u64, Trouble>,
    /// What all back-offs took together.
    paused: Duration,
    /// Whether the job waited for the operator, and what failed before that is to be tried again.
    stopped: bool,
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
        // Writers wait for what is claimed until it is read: so all of it is read before the target takes any.
        let served = disk.decided.source.tracked().is_some();
        let piece = if served { CHUNK } else { PIECE };
        let offload = !served
            && !disk.decided.options.digests
            && disk.decided.options.compress == Compression::None;
        let chunk = if offload { OFFLOADED_CHUNK } else { CHUNK };
        Some(Copying {
            copier: Arc::new(Copier::new(
                disk.decided.source.device.clone(),
                target,
                ledger.clone(),
                piece,
                offload,
            )),
            most: clusters_at_once(chunk, disk.decided.options.speed, ledger.cluster().bytes()),
            first: left_out_before(disk, &ledger),
            ledger,
            tell,
            told,
            cursor: 0,
            trouble: BTreeMap::new(),
            paused: Duration::ZERO,
            stopped: false,
            total,
            advanced: 0,
            checkpointed: 0,
        })
    }

    /// One step; `None` once nothing is left to copy.
    pub(crate) fn step(&mut self, disk: &Disk, cx: &mut Context<'_>) -> Option<Step> {
        let told: Vec<Copied> = self.told.try_iter().collect();
        if std::mem::take(&mut self.stopped) {
            // The operator has said that all is well again: what failed before goes back, and counts no more.
            drop(told);
            self.trouble.clear();
            self.paused = Duration::ZERO;
        } else {
            for failure in told.into_iter().flat_map(|copied| copied.failures) {
                match self.judge(disk, failure) {
                    Ok(()) => {}
                    Err(Judged::Failed(error)) => return Some(Step::failed(disk.fail(error))),
                    Err(Judged::Stopped(error)) => {
                        self.stopped = true;
                        disk.meter.stop(error.to_string());
                        cx.pause(error.to_string());
                        return Some(Step::Again);
                    }
                }
            }
        }
        disk.meter.go_on();
        self.report(disk, cx);
        if disk.decided.options.mode == SyncMode::None && self.ledger.broken().is_none() {
            return Some(Step::Wait(HOLDS));
        }
        while cx.tasks() < disk.decided.options.workers {
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
        while let Some(cluster) = self.first.pop() {
            match self.ledger.claim_next(cluster, 1) {
                Next::Claimed(claim) if claim.clusters().start == cluster => {
                    return Next::Claimed(claim);
                }
                // It is not to be copied: given back, or nothing at all.
                Next::Claimed(_) | Next::Wait | Next::Finished | Next::Closed => {}
            }
        }
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

    /// What a failure means: try again later, leave it out, wait for the operator, or fail the disk.
    fn judge(&mut self, disk: &Disk, failure: Failure) -> Result<(), Judged> {
        let Failure { mut claim, error } = failure;
        let policy = match &error {
            CopyError::Source(_) => disk.decided.options.on_source_error,
            CopyError::Target { .. } => disk.decided.options.on_target_error,
        };
        let budget = match &error {
            CopyError::Target { error, .. } if error.is_final() => Budget::NONE,
            CopyError::Source(_) | CopyError::Target { .. } => policy.budget(),
        };
        let cluster = claim.clusters().start;
        let attempts = self
            .trouble
            .get(&cluster)
            .map_or(1, |trouble| trouble.attempts + 1);
        let doubled = 1 << (attempts - 1).min(16);
        let pause = budget.back_off.saturating_mul(doubled);
        if attempts < budget.attempts && self.paused.saturating_add(pause) <= budget.total {
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
        if let (ErrorPolicy::Skip { limit, .. }, CopyError::Source(last)) = (policy, &error) {
            let skipped = self.ledger.counts().skipped;
            self.trouble.remove(&cluster);
            claim.skip();
            if skipped < limit {
                return Ok(());
            }
            return Err(Judged::Failed(DiskError::Incomplete {
                source_name: disk.decided.source.label.clone(),
                skipped: ranges(&self.ledger.skipped()),
                limit,
                last: last.clone(),
            }));
        }
        let is_final = matches!(&error, CopyError::Target { error, .. } if error.is_final());
        let error = DiskError::copy(disk.target_path().as_path(), error);
        let stops = match policy {
            ErrorPolicy::Stop(_) => !is_final,
            ErrorPolicy::Enospc => matches!(error, DiskError::TargetFull { .. }) && !is_final,
            ErrorPolicy::Report | ErrorPolicy::Ignore(_) | ErrorPolicy::Skip { .. } => false,
        };
        Err(if stops {
            Judged::Stopped(error)
        } else {
            Judged::Failed(error)
        })
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
const HOLDS: &str = "saves what writers overwrite, until it is ended";

/// Why copying does not go on.
enum Judged {
    Failed(DiskError),
    /// Until the operator resumes it.
    Stopped(DiskError),
}

/// What one copy claims: writers may wait for it, and so does who pauses the job.
const CHUNK: u64 = 1 << 20;

/// What one copy reads at once where nobody writes: it is still in the cache when it is written.
const PIECE: u64 = 256 << 10;

/// What one copy claims that the kernel makes: long enough that claims and calls do not show.
const OFFLOADED_CHUNK: u64 = 8 << 20;

/// A chunk, or less for a disk that may not be read fast: a tenth of a second's worth, as smooth as the limit.
fn clusters_at_once(chunk: u64, speed: u64, cluster: u64) -> u64 {
    let chunk = if speed == 0 {
        chunk
    } else {
        chunk.min(speed / 10)
    };
    (chunk / cluster).max(1)
}

/// Clusters that the disk's last point lacks, in falling order.
fn left_out_before(disk: &Disk, ledger: &Ledger) -> Vec<u64> {
    let contents = disk.catalogue.snapshot().ok();
    let last = contents.as_ref().and_then(|c| c.latest(&disk.decided.name));
    let skipped = last.map_or(&[][..], |(_, point)| &point.skipped);
    let clusters = skipped
        .iter()
        .flat_map(|range| ledger.clusters(range.offset, range.length));
    let mut clusters: Vec<u64> = clusters.collect();
    clusters.sort_unstable_by(|a, b| b.cmp(a));
    clusters
}
