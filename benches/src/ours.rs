//! Our engine, as the benchmarks use it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cohort_job::{
    Abort, Asked, Commit, Context, Driver, Engine, Error, JobSpec, Record, Step, TxnHandle, Verdict,
};

/// How often a job was called, by all of them together: what stands for work, ours and the peers'.
pub static WORK: AtomicU64 = AtomicU64::new(0);

/// What a peer's job does, and a step of ours.
pub fn work() {
    WORK.fetch_add(1, Ordering::Relaxed);
}

/// The least a job can be; it has every hook.
#[derive(Debug)]
pub struct Noop;

impl Driver for Noop {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        work();
        Step::done()
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        Ok(Record::default())
    }

    fn commit(&mut self, _: &Commit) {}
    fn abort(&mut self, _: &Abort) {}
    fn clean(&mut self) {}
}

/// One that fails in its step.
#[derive(Debug)]
pub struct Failing;

impl Driver for Failing {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        work();
        Step::failed("told to")
    }
}

/// A job whose hooks do something: progress in the step, a record in prepare, memory given back in clean.
#[derive(Debug, Default)]
pub struct Busy(Vec<u64>);

impl Driver for Busy {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        work();
        self.0.extend([1, 2, 3, 4]);
        cx.progress().advance(4);
        Step::done()
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        Ok(Record(
            self.0.iter().flat_map(|word| word.to_le_bytes()).collect(),
        ))
    }

    fn commit(&mut self, _: &Commit) {
        self.0[0] += 1;
    }

    fn abort(&mut self, _: &Abort) {
        self.0.clear();
    }

    fn clean(&mut self) {
        self.0 = Vec::new();
    }
}

/// A job that has nothing to do until it is told to finish.
#[derive(Debug)]
pub struct Idle;

impl Driver for Idle {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        work();
        match cx.asked() {
            Asked::Run => Step::Wait("waits to be told"),
            Asked::Complete | Asked::Finish => Step::done(),
        }
    }
}

/// A job that always has more to do: this much computing a step.
#[derive(Debug)]
pub struct Endless(pub Duration);

impl Driver for Endless {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        let begin = std::time::Instant::now();
        while begin.elapsed() < self.0 {
            std::hint::spin_loop();
        }
        Step::Again
    }
}

/// What sort of group to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Unnamed jobs of [`Noop`], added from an iterator.
    Plain,
    /// The same, added one by one, with a handle for each.
    OneByOne,
    /// The same with names.
    Named,
    /// [`Busy`] jobs.
    Hooks,
}

/// Runs a group from its first `add` to the end of its last hook.
///
/// # Panics
/// If it does not end as it must.
pub fn group(engine: &Engine, sort: Sort, jobs: usize, last_fails: bool) {
    let mut group = engine.group("bench");
    let good = jobs - usize::from(last_fails);
    match sort {
        Sort::Plain => group.add_all(&unnamed(), (0..good).map(|_| Noop)).map(drop),
        Sort::Hooks => group
            .add_all(&unnamed(), (0..good).map(|_| Busy::default()))
            .map(drop),
        Sort::OneByOne => (0..good).try_for_each(|_| group.add(unnamed(), Noop).map(drop)),
        Sort::Named => (0..good).try_for_each(|job| {
            let spec = JobSpec::new(format!("job-{job}"));
            group.add(spec, Noop).map(drop)
        }),
    }
    .expect("good names, and room");
    if last_fails {
        group.add(unnamed(), Failing).expect("room");
    }
    let verdict = group.launch().wait().expect("a verdict");
    assert_eq!(verdict == Verdict::Commit, !last_fails);
}

fn unnamed() -> JobSpec {
    JobSpec::unnamed()
}

/// A launched group of jobs, every one of which was stepped and waits.
///
/// # Panics
/// If a job is refused.
pub fn idle(engine: &Engine, jobs: usize) -> TxnHandle {
    let before = WORK.load(Ordering::Acquire);
    let mut group = engine.group("idle");
    group
        .add_all(&unnamed(), (0..jobs).map(|_| Idle))
        .expect("room");
    let group = group.launch();
    while WORK.load(Ordering::Acquire) - before < jobs as u64 {
        crate::rest(Duration::from_millis(1));
    }
    // The last worker still reports.
    while group
        .job(jobs as u32 - 1)
        .is_some_and(|job| !job.why().contains("told"))
    {
        std::thread::yield_now();
    }
    group
}
