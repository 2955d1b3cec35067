//! A tracked raw file beside the same file untracked: 4 KiB writes to a sparse disk of 1 TiB, and what a kill at the end
//! would leave as excess.
//!
//! Each round writes new files, one after the other in turn: untracked, tracked to survive a killed process, tracked to
//! survive a loss of power. Timed are the writes up to the last acknowledgement ("acked"), and those with the flush that
//! ends them ("flushed"): a write that was acknowledged lies in the kernel's cache, from which the disk gets it later.
//! `COHORT_BENCH_WRITES` sets another number of writes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::machine;
use cohort_bitmap::Granularity;
use cohort_bitmap::store::{Excess, Label, Mode};
use cohort_block::{Device, File, Gated, OsFile, RawDevice, TrackingStore};

const ROUNDS: usize = 5;
const DISK: u64 = 1 << 40;
const BLOCK: u64 = 4096;
const MODES: [Option<Mode>; 3] = [None, Some(Mode::KilledProcess), Some(Mode::PowerLoss)];

/// What one run took, and what a kill at its end leaves.
#[derive(Clone, Copy)]
struct Outcome {
    acked: Duration,
    flushed: Duration,
    excess: u64,
}

fn main() {
    let writes = std::env::var("COHORT_BENCH_WRITES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50_000);
    println!("{}", machine());
    println!(
        "{writes} writes of 4 KiB to 1 TiB, median of {ROUNDS} rounds; in brackets: tracked / untracked speed\n"
    );
    println!(
        "{:<12}{:>6}  {:<14}{:>22}{:>24}  excess at a kill",
        "pattern", "depth", "tracked", "acked writes/s", "flushed writes/s"
    );
    for (name, pattern) in [
        ("sequential", sequential as fn(u64) -> u64),
        ("clustered", clustered),
        ("uniform", uniform),
    ] {
        for depth in [1, 16] {
            measure(name, pattern, depth, writes);
        }
    }
}

fn measure(name: &str, pattern: fn(u64) -> u64, depth: usize, writes: u64) {
    let offsets: Vec<u64> = (0..writes).map(pattern).collect();
    let mut outcomes: [Vec<Outcome>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (mode, outcomes) in MODES.into_iter().zip(&mut outcomes) {
            outcomes.push(run(mode, &offsets, depth));
        }
    }
    let rate = |of: usize, time: fn(&Outcome) -> Duration| {
        let mut times: Vec<_> = outcomes[of].iter().map(time).collect();
        times.sort();
        writes as f64 / times[ROUNDS / 2].as_secs_f64()
    };
    for (of, told) in ["no", "survives kill", "survives power"].iter().enumerate() {
        let row = |time: fn(&Outcome) -> Duration| {
            let (ours, theirs) = (rate(of, time), rate(0, time));
            if of == 0 {
                format!("{ours:.0}")
            } else {
                format!("{ours:.0} ({:.2})", ours / theirs)
            }
        };
        let excess = outcomes[of].iter().map(|o| o.excess).max().unwrap_or(0);
        println!(
            "{name:<12}{depth:>6}  {told:<14}{:>22}{:>24}  {}",
            row(|o| o.acked),
            row(|o| o.flushed),
            if of == 0 {
                String::new()
            } else {
                Excess(excess).to_string()
            }
        );
    }
}

fn run(mode: Option<Mode>, offsets: &[u64], depth: usize) -> Outcome {
    let lab = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = lab.path().join("disk.raw");
    let file = OsFile::create_new(&path).expect("a disk");
    file.set_len(DISK).expect("its size");
    let raw = RawDevice::new("disk", Arc::new(file), true).expect("a device");
    let disk = Gated::new(Arc::new(raw));
    let tracked = mode.map(|mode| track(&disk, &path, mode));
    // What the runs before left to be done, the removal of their files above all, is done now.
    let synced = Command::new("sync").arg("-f").arg(lab.path()).status();
    assert!(synced.expect("sync").success());
    let start = Instant::now();
    storm(&disk, offsets, depth);
    let acked = start.elapsed();
    let excess = tracked.as_ref().map_or(0, |(store, since)| {
        let beside = TrackingStore::path_beside(&path);
        let found = TrackingStore::inspect(&beside, Some((&path, DISK))).expect("a store");
        assert_eq!(store.store().lost(), None);
        let recovered = found.inspection.sets[0].dirty.dirty_bytes();
        recovered - since.recorder().snapshot().dirty_bytes()
    });
    let looked = start.elapsed() - acked;
    disk.flush().expect("a flush");
    let flushed = start.elapsed() - looked;
    Outcome {
        acked,
        flushed,
        excess,
    }
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

/// Writes blocks from so many threads, each taking the next offset that nobody took.
fn storm(disk: &Gated, offsets: &[u64], depth: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..depth {
            scope.spawn(|| {
                let block = vec![0x5A; BLOCK as usize];
                while let Some(offset) = offsets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    disk.write_at(&block, *offset).expect("a write");
                }
            });
        }
    });
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
