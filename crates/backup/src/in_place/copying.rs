//! The copying of a backup in place: claims handed to tasks, their failures judged.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cohort_block::{Claim, DeviceError, ExtentKind, Ledger, Next};
use cohort_job::{Context, Error, Step};

use super::policy::{failure, is_no_space};
use super::{InPlace, Observer, Part, Reaction, Side};

/// Bytes of one copy, unless a cluster is larger or less is asked for.
const CHUNK: u64 = 1 << 20;

/// How long a cluster that failed is left alone: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often the job looks how far its writers have brought it, when it does nothing itself.
const GLANCE: Duration = Duration::from_millis(100);

/// What the job knows while it copies.
pub(super) struct Copying {
    plan: Arc<InPlace>,
    ledger: Arc<Ledger>,
    observer: Arc<dyn Observer>,
    tell: Sender<Failure>,
    told: Receiver<Failure>,
    flushing: Flushing,
    watched: bool,
    /// Where the search for the next clusters begins.
    cursor: u64,
    trouble: BTreeMap<u64, Trouble>,
    /// Bytes of the manifest.
    total: u64,
    advanced: u64,
}

/// A cluster that failed.
struct Trouble {
    attempts: u32,
    not_before: Instant,
}

/// Clusters that could not be copied, still claimed.
struct Failure {
    claim: Claim,
    side: Side,
    error: DeviceError,
}

impl Copying {
    pub(super) fn new(
        plan: Arc<InPlace>,
        ledger: Arc<Ledger>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (tell, told) = channel();
        Copying {
            plan,
            ledger,
            observer,
            tell,
            told,
            flushing: Flushing::default(),
            watched: false,
            cursor: 0,
            trouble: BTreeMap::new(),
            total: 0,
            advanced: 0,
        }
    }

    /// One step.
    pub(super) fn step(&mut self, cx: &mut Context<'_>) -> Step {
        self.begin(cx);
        let failures: Vec<Failure> = self.told.try_iter().collect();
        let mut paused = false;
        for failure in failures {
            match self.judge(failure, cx) {
                Ok(pauses) => paused |= pauses,
                Err(error) => return Step::Done(Err(error)),
            }
        }
        self.report(cx);
        if paused {
            return Step::Again;
        }
        if self.plan.part == Part::Overwritten {
            return match self.ledger.broken() {
                Some(why) => Step::failed(why.to_string()),
                None => Step::Sleep(GLANCE),
            };
        }
        while cx.tasks() < self.plan.workers {
            if let Err(wait) = cx.pay(self.most() * self.ledger.cluster().bytes()) {
                return Step::Sleep(wait.min(GLANCE));
            }
            if self.flushing.has_begun() {
                return self.flush(cx);
            }
            match self.claim() {
                Ok(Next::Claimed(claim)) => self.spawn(claim, cx),
                Ok(Next::Wait) => return Step::Wait(COPIES),
                Ok(Next::Finished) => return self.flush(cx),
                Ok(Next::Closed) => {
                    let why = self.ledger.broken().map(|why| why.to_string());
                    return Step::failed(why.unwrap_or_else(|| "it was sealed early".into()));
                }
                Err(_) if cx.tasks() > 0 => return Step::Wait(COPIES),
                Err(wait) => return Step::Sleep(wait),
            }
        }
        Step::Wait(COPIES)
    }

    /// All is copied: makes the target durable, unless the last copy does.
    fn flush(&self, cx: &mut Context<'_>) -> Step {
        if self.flushing.begin() {
            let (plan, ledger) = (self.plan.clone(), self.ledger.clone());
            let flushing = self.flushing.clone();
            cx.spawn(move || flushing.end(ledger.flush(|| plan.target.flush(), |_| true)));
        }
        match self.flushing.result() {
            None => Step::Wait(FLUSHES),
            Some(Ok(())) => Step::done(),
            Some(Err(error)) => {
                self.observer.failed(Side::Target, &error, Reaction::Report);
                Step::Done(Err(failure(&error)))
            }
        }
    }

    /// Before the first copy: progress, and somebody to wake the job.
    fn begin(&mut self, cx: &Context<'_>) {
        if self.watched {
            return;
        }
        self.watched = true;
        let waker = cx.waker();
        self.ledger.watch(move || waker.wake());
        let counts = self.ledger.counts();
        let clusters = counts.owed + counts.in_flight + counts.staged + counts.written;
        self.total = clusters << self.ledger.cluster().shift();
        cx.progress().set_remaining(self.total);
    }

    fn most(&self) -> u64 {
        let chunk = match self.plan.chunk {
            0 => CHUNK,
            asked => asked.min(CHUNK),
        };
        (chunk >> self.ledger.cluster().shift()).max(1)
    }

    /// Claims what comes next. An error is how long nothing can be: all that is owed failed a moment ago.
    fn claim(&mut self) -> Result<Next, Duration> {
        let now = Instant::now();
        self.trouble
            .retain(|cluster, _| self.ledger.is_owed(*cluster));
        let mut from = self.cursor;
        for _ in 0..=self.trouble.len() {
            let mut claim = match self.ledger.claim_next(from, self.most()) {
                Next::Claimed(claim) => claim,
                other @ (Next::Wait | Next::Finished | Next::Closed) => return Ok(other),
            };
            let clusters = claim.clusters();
            let mut hot = self.trouble.range(clusters.clone());
            let hot = hot.find(|(_, trouble)| trouble.not_before > now);
            let Some((cluster, _)) = hot else {
                self.cursor = clusters.end;
                return Ok(Next::Claimed(claim));
            };
            if *cluster > clusters.start {
                drop(claim.split_off(*cluster));
                self.cursor = *cluster + 1;
                return Ok(Next::Claimed(claim));
            }
            from = clusters.start + 1;
        }
        let first = self
            .trouble
            .values()
            .map(|trouble| trouble.not_before)
            .min();
        Err(first.map_or(FIRST_PAUSE, |first| first.saturating_duration_since(now)))
    }

    fn spawn(&self, claim: Claim, cx: &mut Context<'_>) {
        let (plan, tell) = (self.plan.clone(), self.tell.clone());
        let (ledger, flushing) = (self.ledger.clone(), self.flushing.clone());
        cx.spawn(move || {
            if let Err(failure) = copy(&plan, claim) {
                // Nobody listens any more if the job is over; the claims go back then.
                let _ = tell.send(failure);
            }
            // What comes next anyhow is done at once: without the way to the job and back.
            if ledger.is_finished() && flushing.begin() {
                flushing.end(ledger.flush(|| plan.target.flush(), |_| true));
            }
        });
    }

    /// What a failure means: whether the job pauses, or how it fails.
    fn judge(&mut self, failed: Failure, cx: &mut Context<'_>) -> Result<bool, Error> {
        let Failure { claim, side, error } = failed;
        let policy = match side {
            Side::Source => self.plan.on_source_error,
            Side::Target => self.plan.on_target_error,
        };
        let clusters = claim.clusters();
        let attempts = self
            .trouble
            .get(&clusters.start)
            .map_or(1, |t| t.attempts + 1);
        let mut reaction = policy.judge(error.cause());
        if reaction == Reaction::Ignore && self.plan.attempts.is_some_and(|most| attempts >= most) {
            reaction = Reaction::Report;
        }
        if reaction == Reaction::Report && self.may_skip(side, clusters.end - clusters.start) {
            self.observer.failed(side, &error, Reaction::Ignore);
            claim.skip();
            return Ok(false);
        }
        self.observer.failed(side, &error, reaction);
        match reaction {
            Reaction::Report => return Err(failure(&error)),
            Reaction::Stop => {
                let what = if is_no_space(error.cause()) {
                    "no space left"
                } else {
                    "an error"
                };
                cx.pause(Error::with_source(what, error));
            }
            Reaction::Ignore => {
                let pause = FIRST_PAUSE.saturating_mul(1 << (attempts - 1).min(16));
                let not_before = Instant::now() + pause.min(LONGEST_PAUSE);
                for cluster in clusters {
                    let trouble = Trouble {
                        attempts,
                        not_before,
                    };
                    self.trouble.insert(cluster, trouble);
                }
            }
        }
        Ok(reaction == Reaction::Stop)
    }

    /// Whether so many more clusters of the source may be left out.
    fn may_skip(&self, side: Side, clusters: u64) -> bool {
        let skipped = self.ledger.counts().skipped;
        side == Side::Source && skipped + clusters <= self.plan.skip_limit
    }

    fn report(&mut self, cx: &Context<'_>) {
        let counts = self.ledger.counts();
        let left =
            (counts.owed + counts.in_flight + counts.staged) << self.ledger.cluster().shift();
        let done = self.total.saturating_sub(left);
        // A cluster may go back from written to owed; what was reported as done stays so.
        cx.progress().advance(done.saturating_sub(self.advanced));
        self.advanced = self.advanced.max(done);
    }
}

/// Copies what is claimed, cluster by cluster if it cannot be read whole.
fn copy(plan: &InPlace, mut claim: Claim) -> Result<(), Failure> {
    let clusters = claim.clusters();
    match copy_whole(plan, &claim) {
        Ok(()) => {
            claim.complete_in_a_task();
            Ok(())
        }
        Err((Side::Source, _)) if clusters.end - clusters.start > 1 => {
            let rest = claim.split_off(clusters.start + 1);
            copy(plan, claim)?;
            copy(plan, rest)
        }
        Err((side, error)) => Err(Failure { claim, side, error }),
    }
}

fn copy_whole(plan: &InPlace, claim: &Claim) -> Result<(), (Side, DeviceError)> {
    let source = plan.source.device();
    let bytes = claim.bytes();
    let (mut at, end) = (bytes.start, bytes.end);
    while at < end {
        let extent = source.extent(at, end - at);
        // Reading says what a map cannot.
        let run = extent
            .as_ref()
            .map_or(end - at, |extent| extent.length.clamp(1, end - at));
        if extent.is_ok_and(|extent| extent.kind == ExtentKind::Zero) {
            let zeroed = plan.target.write_zeroes(at, run);
            zeroed.map_err(|error| (Side::Target, error))?;
        } else {
            let mut data = vec![0; usize::try_from(run).unwrap_or(usize::MAX)];
            let read = source.read_at(&mut data, at);
            read.map_err(|error| (Side::Source, error))?;
            let written = plan.target.write_at(&data, at);
            written.map_err(|error| (Side::Target, error))?;
        }
        at += run;
    }
    Ok(())
}

/// The one flush after the last copy.
#[derive(Clone, Default)]
struct Flushing(Arc<Mutex<Flush>>);

#[derive(Default)]
enum Flush {
    #[default]
    NotBegun,
    UnderWay,
    Ended(Result<(), DeviceError>),
}

impl Flushing {
    /// Whether the caller is to carry it out.
    fn begin(&self) -> bool {
        let mut flush = self.lock();
        let first = matches!(*flush, Flush::NotBegun);
        if first {
            *flush = Flush::UnderWay;
        }
        first
    }

    fn has_begun(&self) -> bool {
        !matches!(*self.lock(), Flush::NotBegun)
    }

    fn end(&self, result: Result<(), DeviceError>) {
        *self.lock() = Flush::Ended(result);
    }

    /// How it went, once it has ended.
    fn result(&self) -> Option<Result<(), DeviceError>> {
        match &*self.lock() {
            Flush::NotBegun | Flush::UnderWay => None,
            Flush::Ended(result) => Some(result.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flush> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const COPIES: &str = "waits for copies under way";
const FLUSHES: &str = "waits for the target to be durable";
