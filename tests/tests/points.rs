//! Many seeds through the point-in-time checker. `COHORT_POINTS_SEEDS` says how many (`just sim` runs thousands);
//! `COHORT_POINTS_FIRST` which is the first, so that one failing seed can be run alone.
//!
//! The schedule needs the process to itself, so all of it is one test.

use std::time::Instant;

use cohort_tests::points::{Cells, End, check};

/// As many as take some seconds in the dev profile.
const FEW: u64 = 200;

/// Seeds that once showed something wrong.
const REGRESSIONS: [u64; 1] = [411];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_point_is_its_disk_at_the_fence_whatever_happens() {
    let begun = Instant::now();
    let seeds = number("COHORT_POINTS_SEEDS").unwrap_or(FEW);
    let first = number("COHORT_POINTS_FIRST").unwrap_or(0);
    let (mut cells, mut rounds, mut steps, mut points, mut partials) =
        (Cells::default(), 0, 0, 0, 0);
    for seed in REGRESSIONS.into_iter().chain(first..first + seeds) {
        let report = check(seed).unwrap_or_else(|failure| panic!("\n{failure}\n"));
        cells.add(&report.cells);
        rounds += report.rounds;
        steps += report.steps;
        points += report.points;
        partials += report.partials;
    }
    println!(
        "{seeds} seeds from {first}: {rounds} backups, {steps} steps, {points} points, {partials} partials; {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    print!("{cells}");
    if first == 0 && seeds >= FEW {
        for end in [
            End::Committed,
            End::Failed,
            End::Kept,
            End::Discarded,
            End::LeftAlone,
            End::Killed,
        ] {
            assert!(cells.ended(end) > 0, "no disk ended as {end:?}");
        }
    }
}
