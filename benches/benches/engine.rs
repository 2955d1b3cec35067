//! A no-op job's whole life, in groups of different sizes: ours, beside `rayon::scope` with a flag that could cancel it.
//!
//! What counts: building the group, running every job, and knowing that all are over. Ours passes through every status, asks
//! every job to prepare, writes a verdict and commits; the peer only calls the closure. All hooks are there, nobody is
//! subscribed, the jobs have no names.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use benches::{Contender, machine, rounds, timed};
use cohort_job::{Abort, Commit, Context, Driver, Engine, Error, JobSpec, Record, Step, Verdict};

/// Adds one to a counter that its thread has for itself as far as the cache is concerned, and is done.
struct Noop;

static DONE: AtomicU64 = AtomicU64::new(0);

impl Driver for Noop {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        DONE.fetch_add(1, Ordering::Relaxed);
        Step::done()
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        Ok(Record::default())
    }

    fn commit(&mut self, _: &Commit) {}
    fn abort(&mut self, _: &Abort) {}
    fn clean(&mut self) {}
}

fn ours(engine: &Engine, jobs: usize) {
    let mut group = engine.group("noop");
    for _ in 0..jobs {
        group.add(JobSpec::unnamed(), Noop).expect("a job");
    }
    assert_eq!(group.launch().wait(), Verdict::Commit);
}

fn scope(pool: &rayon::ThreadPool, jobs: usize) {
    let cancelled = AtomicBool::new(false);
    pool.scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|_| {
                if !cancelled.load(Ordering::Relaxed) {
                    DONE.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

fn main() {
    println!("{}", machine());
    println!("time per no-op job, median of the rounds\n");
    println!(
        "{:>9}  {:>12}  {:>12}  {:>6}",
        "jobs", "cohort-job", "rayon scope", "ratio"
    );
    let engine = Engine::new().expect("an engine");
    let pool = rayon::ThreadPoolBuilder::new().build().expect("a pool");
    for (jobs, count) in [(1, 2_001), (64, 501), (1_024, 201), (100_000, 11)] {
        let mut contenders = [
            Contender::new("cohort-job", || timed(|| ours(&engine, jobs))),
            Contender::new("rayon scope", || timed(|| scope(&pool, jobs))),
        ];
        rounds(count, &mut contenders);
        let per_job =
            |contender: &Contender<'_>| contender.median().as_secs_f64() * 1e6 / jobs as f64;
        let [ours, peer] = contenders.each_ref().map(per_job);
        println!(
            "{jobs:>9}  {ours:>9.3} µs  {peer:>9.3} µs  {:>5.2}×",
            ours / peer
        );
    }
}
