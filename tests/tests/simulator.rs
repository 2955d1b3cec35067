//! Many seeds through the simulator. `COHORT_SIM_SEEDS` says how many (`just sim` runs thousands);
//! `COHORT_SIM_FIRST` which is the first, so that one failing seed can be run alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use cohort_tests::sim::{Cells, Report, generate, run, simulate};

/// As many as take a few seconds in the dev profile.
const FEW: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn groups_end_as_they_must_whatever_happens() {
    let begun = Instant::now();
    let seeds = number("COHORT_SIM_SEEDS").unwrap_or(FEW);
    let first = number("COHORT_SIM_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    match simulate(seed) {
                        Ok(report) => sum.lock().unwrap().add(&report),
                        Err(failure) => {
                            next.store(first + seeds, Ordering::Relaxed);
                            panic!("\n{failure}\n");
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap();
    println!(
        "{seeds} seeds from {first}: {} groups, {} jobs, {} turns, {} s of virtual time; {} groups committed, \
         {} aborted, {} built again after a kill or a failed journal; {:.1} s",
        sum.groups,
        sum.jobs,
        sum.turns,
        sum.milliseconds / 1_000,
        sum.committed,
        sum.aborted,
        sum.replayed,
        begun.elapsed().as_secs_f64()
    );
    print!("{}", sum.cells);
    let impossible = sum.cells.impossible();
    assert!(
        impossible.is_empty(),
        "moments that cannot be: {impossible:?}"
    );
    assert!(sum.committed > 0 && sum.aborted > 0 && sum.replayed > 0);
}

#[derive(Default)]
struct Sum {
    groups: u64,
    jobs: u64,
    turns: u64,
    milliseconds: u64,
    committed: u64,
    aborted: u64,
    replayed: u64,
    cells: Cells,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.groups += u64::from(report.groups);
        self.jobs += u64::from(report.jobs);
        self.turns += report.turns;
        self.milliseconds += report.time / 1_000;
        self.committed += u64::from(report.committed);
        self.aborted += u64::from(report.aborted);
        self.replayed += u64::from(report.replayed);
        self.cells.add(&report.cells);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        let script = generate(seed);
        assert_eq!(script, generate(seed));
        let one = run(&script, true).expect("it holds");
        let other = run(&script, true).expect("it holds");
        assert!(one == other, "seed {seed} ran twice, and differently");
        assert!(!one.trace.is_empty());
    }
}

/// I36: a group lives the same life alone as among hundreds.
#[test]
fn groups_never_influence_each_other() {
    for seed in 0..20 {
        let script = generate(seed);
        let all = run(&script, false).expect("it holds");
        for (group, digest) in all.digests.iter().take(40) {
            let alone = run(&script.of_group(*group), false).expect("it holds");
            let alone = alone.digests.get(group);
            assert_eq!(alone, Some(digest), "seed {seed}, group {group}");
        }
    }
}
