//! Bytes a job, as the allocator counts them. A program of its own, because counting would slow down what is timed; the
//! benchmark `engine` runs it and prints what it says.
//!
//! *peak*: the most bytes at one moment of a no-op group's life, per job. *alive*: per job while all wait for something.
//! *left*: in all, once the group is over and its handle dropped. Bytes as asked for, without the allocator's own overhead.

use std::time::Duration;

use benches::ours::{self, Sort};
use benches::peers;
use cohort_job::{Disposition, Engine};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn main() {
    println!(
        "{:>9}  {:<12}  {:>8}  {:>8}  {:>8}",
        "jobs", "bytes a job", "peak", "alive", "left"
    );
    let engine = Engine::new().expect("an engine");
    let pool = rayon::ThreadPoolBuilder::new().build().expect("a pool");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for jobs in [64, 1_024, 16_384, 1_000_000] {
        let peak = peak(jobs, || ours::group(&engine, Sort::Plain, jobs, false));
        let before = HEAP.current_usage();
        let group = ours::idle(&engine, jobs);
        let alive = since(before) as f64 / jobs as f64;
        let _ = group.cancel(Disposition::Keep);
        group.wait();
        drop(group);
        settle();
        row(jobs, "cohort-job", peak, Some((alive, since(before))));

        let peak_scope = self::peak(jobs, || peers::rayon_scope(&pool, jobs, false));
        row(jobs, "rayon scope", peak_scope, None);

        let peak_set = self::peak(jobs, || peers::join_set(&runtime, jobs, false));
        let before = HEAP.current_usage();
        let mut alive = 0.0;
        peers::join_set_idle(&runtime, jobs, || {
            alive = since(before) as f64 / jobs as f64
        });
        row(jobs, "JoinSet", peak_set, Some((alive, since(before))));

        if jobs <= 1_024 {
            let peak_saga = self::peak(jobs, || peers::saga(&runtime, jobs, false));
            row(jobs, "steno", peak_saga, None);
        }
    }
}

/// The most bytes in use at one moment of `work`, per job; after one run that leaves what is kept for the next.
fn peak(jobs: usize, mut work: impl FnMut()) -> f64 {
    work();
    settle();
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    work();
    let most = HEAP.peak_usage().saturating_sub(before);
    settle();
    most as f64 / jobs as f64
}

/// Waits until nobody allocates or frees any more: a worker may still hold what is over.
fn settle() {
    let mut seen = HEAP.current_usage();
    loop {
        benches::rest(Duration::from_millis(30));
        let now = HEAP.current_usage();
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// How many more bytes are in use than before.
fn since(before: usize) -> isize {
    HEAP.current_usage() as isize - before as isize
}

fn row(jobs: usize, who: &str, peak: f64, idle: Option<(f64, isize)>) {
    let (alive, left) = idle.map_or_else(Default::default, |(alive, left)| {
        (format!("{alive:.0}"), left.to_string())
    });
    println!("{jobs:>9}  {who:<12}  {peak:>8.0}  {alive:>8}  {left:>8}");
}
