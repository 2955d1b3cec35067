//! A tracked raw file beside the same file untracked: 4 KiB writes to a sparse disk of 1 TiB, and what a kill at the end
//! would leave as excess.
//!
//! Each round writes new files in turn: untracked, tracked to survive a killed process, tracked to survive a loss of power.
//! The writer does the same to all of them, and so asks for the same syncs at the same places:
//!
//! - *buffered*: it only writes. What is acknowledged then lies in the kernel's cache, which is all that surviving a killed
//!   process needs, so that mode is to be judged by these.
//! - *durable*: it flushes after every write, as a database or a disk without a cache does. Only of such data a tracking
//!   that survives a loss of power can be missing anything, so that mode is to be judged by these.
//!
//! A run warms up for `COHORT_BENCH_WARM_MS` milliseconds, of which the writes are not counted, and is measured for
//! `COHORT_BENCH_MS` milliseconds after that. A ratio is the median of those of `COHORT_BENCH_ROUNDS` rounds, each of runs that
//! followed one another. Words choose patterns, depths, modes and kinds: `-- uniform 16 power durable`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::{machine, number};
use cohort_bitmap::Granularity;
use cohort_bitmap::store::{Excess, Label, Mode};
use cohort_block::{Device, File, Gated, OsFile, RawDevice, TrackingStore};

const DISK: u64 = 1 << 40;
const BLOCK: u64 = 4096;
const MODES: [Option<Mode>; 3] = [None, Some(Mode::KilledProcess), Some(Mode::PowerLoss)];

/// What the rows and columns are called, and chosen by.
const TRACKED: [&str; 3] = ["no", "kill", "power"];
const KINDS: [&str; 2] = ["buffered", "durable"];
const PATTERNS: [&str; 3] = ["sequential", "clustered", "uniform"];
const DEPTHS: [&str; 2] = ["1", "16"];

/// How much is measured.
struct Sizes {
    warm_up: Duration,
    time: Duration,
    rounds: usize,
}

/// How fast a run was, and what a kill at its end leaves.
#[derive(Clone, Copy)]
struct Outcome {
    rate: f64,
    excess: u64,
}

fn main() {
    let sizes = Sizes {
        warm_up: Duration::from_millis(number("COHORT_BENCH_WARM_MS", 1000)),
        time: Duration::from_millis(number("COHORT_BENCH_MS", 1000)),
        rounds: number("COHORT_BENCH_ROUNDS", 5) as usize,
    };
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let lab = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut sweeper = sweeper(lab.path()).expect("a shell");
    println!("{}", machine());
    println!(
        "Writes of 4 KiB to 1 TiB a second, medians of {} rounds of {:?} after {:?}; in brackets: tracked / untracked.\n",
        sizes.rounds, sizes.time, sizes.warm_up
    );
    println!(
        "{:<11}{:>5}  {:<15}{:>16}{:>16}  excess at a kill",
        "pattern", "depth", "tracked", "buffered", "durable"
    );
    for (name, pattern) in [
        ("sequential", sequential as fn(u64) -> u64),
        ("clustered", clustered),
        ("uniform", uniform),
    ] {
        for depth in [1, 16] {
            let told = depth.to_string();
            if chosen(&words, &PATTERNS, name) && chosen(&words, &DEPTHS, &told) {
                measure(lab.path(), (name, pattern), depth, &sizes, &words);
            }
        }
    }
    drop(sweeper.stdin.take());
    sweeper.wait().expect("the shell ends");
}

/// Removes the files, of which each seems to hold a tebibyte, however this process ends.
fn sweeper(lab: &Path) -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", "trap '' INT TERM HUP; cat; rm -rf -- \"$0\""])
        .arg(lab)
        .stdin(Stdio::piped())
        .spawn()
}

/// Whether one of these names is to be measured: all are, unless some of them are among the words.
fn chosen(words: &[String], names: &[&str], name: &str) -> bool {
    let none = words.iter().all(|word| !names.contains(&word.as_str()));
    none || words.iter().any(|word| word == name)
}

fn measure(
    lab: &Path,
    (name, pattern): (&str, fn(u64) -> u64),
    depth: usize,
    sizes: &Sizes,
    words: &[String],
) {
    let mut rows: [[Vec<Outcome>; 2]; 3] = Default::default();
    let modes: Vec<usize> = (0..3)
        .filter(|mode| *mode == 0 || chosen(words, &TRACKED[1..], TRACKED[*mode]))
        .collect();
    for round in 0..sizes.rounds {
        for (kind, told) in KINDS.into_iter().enumerate() {
            if !chosen(words, &KINDS, told) {
                continue;
            }
            // The same kind one after the other, and each of them first in turn, so that what else the machine does meets
            // all of them.
            for step in 0..modes.len() {
                let mode = modes[(round + step) % modes.len()];
                let outcome = run(lab, MODES[mode], pattern, depth, sizes, kind == 1);
                rows[mode][kind].push(outcome);
            }
        }
    }
    for mode in modes {
        let cell = |kind: usize| {
            let (ours, theirs) = (&rows[mode][kind], &rows[0][kind]);
            let rate = median(ours.iter().map(|outcome| outcome.rate));
            let ratios = ours.iter().zip(theirs);
            let ratio = median(ratios.map(|(ours, theirs)| ours.rate / theirs.rate));
            let told = |rate, ratio| format!("{rate:.0} ({ratio:.2})");
            rate.zip(ratio)
                .map_or("-".to_owned(), |(rate, ratio)| told(rate, ratio))
        };
        let excess = rows[mode].iter().flatten().map(|o| o.excess).max();
        println!(
            "{name:<11}{depth:>5}  {:<15}{:>16}{:>16}  {}",
            TRACKED[mode],
            cell(0),
            cell(1),
            Excess(excess.unwrap_or(0))
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn run(
    lab: &Path,
    mode: Option<Mode>,
    pattern: fn(u64) -> u64,
    depth: usize,
    sizes: &Sizes,
    durable: bool,
) -> Outcome {
    let lab = tempfile::tempdir_in(lab).expect("a directory");
    let path = lab.path().join("disk.raw");
    let file = OsFile::create_new(&path).expect("a disk");
    file.set_len(DISK).expect("its size");
    file.sync_data().expect("a sync");
    let raw = RawDevice::new("disk", Arc::new(file), true).expect("a device");
    let disk = Gated::new(Arc::new(raw));
    let tracked = mode.map(|mode| track(&disk, &path, mode));
    let start = Instant::now() + sizes.warm_up;
    let writes = storm(&disk, pattern, depth, start..start + sizes.time, durable);
    let rate = writes as f64 / start.elapsed().as_secs_f64();
    let excess = tracked.map_or(0, |(store, since)| {
        let beside = TrackingStore::path_beside(&path);
        let found = TrackingStore::inspect(&beside, Some((&path, DISK))).expect("a store");
        assert_eq!(store.store().lost(), None);
        let recovered = found.inspection.sets[0].dirty.dirty_bytes();
        recovered - since.recorder().snapshot().dirty_bytes()
    });
    Outcome { rate, excess }
}

fn track(
    disk: &Gated,
    path: &Path,
    mode: Mode,
) -> (TrackingStore, cohort_bitmap::store::Recording) {
    let beside = TrackingStore::path_beside(path);
    let store = TrackingStore::create(&beside, path, DISK, mode).expect("a store");
    let since = store
        .store()
        .begin(Label::default(), Granularity::DEFAULT)
        .expect("a set");
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut closed = disk.close("tracking", deadline).expect("nobody writes");
    closed.install_recording(since.clone());
    drop(closed);
    (store, since)
}

/// Writes blocks from so many threads, each taking the next offset that nobody took, until the counted time ends; gives
/// the number of writes within it.
fn storm(
    disk: &Gated,
    pattern: fn(u64) -> u64,
    depth: usize,
    counted: std::ops::Range<Instant>,
    durable: bool,
) -> usize {
    let next = AtomicU64::new(0);
    let one = || {
        let block = vec![0x5A; BLOCK as usize];
        let mut writes = 0;
        loop {
            let offset = pattern(next.fetch_add(1, Ordering::Relaxed));
            disk.write_at(&block, offset).expect("a write");
            if durable {
                disk.flush().expect("a flush");
            }
            let now = Instant::now();
            writes += usize::from(now >= counted.start);
            if now >= counted.end {
                return writes;
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..depth).map(|_| scope.spawn(one)).collect();
        let counts = threads.into_iter().map(|thread| thread.join());
        counts.map(|count| count.expect("it ends")).sum()
    })
}

fn sequential(number: u64) -> u64 {
    DISK / 3 + number * BLOCK
}

/// Within 32 clusters of 32 MiB, all over the disk.
fn clustered(number: u64) -> u64 {
    let word = mixed(number);
    let cluster = mixed(word % 32 + (1 << 50)) % (DISK >> 25);
    (cluster << 25) + (word >> 8) % ((1 << 25) / BLOCK) * BLOCK
}

fn uniform(number: u64) -> u64 {
    mixed(number) % (DISK / BLOCK) * BLOCK
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
