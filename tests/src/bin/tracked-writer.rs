//! Writes to a tracked disk until it is killed; each write is told on standard output when it was acknowledged.
//!
//! Usage: `tracked-writer DISK kill|power SEED`. The disk exists. Its store is made at the first start, and opened,
//! after whatever end, at the next ones. A line is the offset of a write of 4 KiB.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cohort_bitmap::Granularity;
use cohort_bitmap::store::{Label, Mode, Recording};
use cohort_block::{Device, Gated, OsFile, RawDevice, TrackingStore};
use cohort_tests::power_loss::Chance;

const BLOCK: u64 = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tracked-writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [disk, mode, seed] = arguments else {
        return Err("usage: tracked-writer DISK kill|power SEED".into());
    };
    let mode = match &**mode {
        "kill" => Mode::KilledProcess,
        "power" => Mode::PowerLoss,
        other => return Err(format!("{other}: the mode is kill or power").into()),
    };
    let path = PathBuf::from(disk);
    let seed: u64 = seed.parse()?;
    let raw = RawDevice::new("disk", Arc::new(OsFile::open(&path, true)?), true)?;
    let gated = Gated::new(Arc::new(raw));
    let (store, since) = track(&path, gated.size(), mode)?;
    let mut closed = gated.close("tracking", Instant::now() + Duration::from_secs(10))?;
    closed.install_recording(since);
    drop(closed);
    thread::scope(|scope| {
        for thread in 0..4 {
            let gated = &gated;
            scope.spawn(move || storm(gated, seed * 4 + thread));
        }
        scope.spawn(|| {
            // More often than is of use, so that kills fall into it.
            while store.store().checkpoint().is_ok() {}
        });
    });
    Ok(())
}

fn track(
    path: &std::path::Path,
    size: u64,
    mode: Mode,
) -> Result<(TrackingStore, Recording), Box<dyn std::error::Error>> {
    let beside = TrackingStore::path_beside(path);
    if !beside.exists() {
        let store = TrackingStore::create(&beside, path, size, mode)?;
        let since = store
            .store()
            .begin(Label::default(), Granularity::DEFAULT)?;
        return Ok((store, since));
    }
    let (store, found) = TrackingStore::open(&beside, path, size, mode)?;
    let since = match found.sets.first() {
        Some(report) => store.store().resume(report.set)?,
        // Killed between the store's making and its first set.
        None => store
            .store()
            .begin(Label::default(), Granularity::DEFAULT)?,
    };
    Ok((store, since))
}

fn storm(gated: &Gated, seed: u64) {
    let mut chance = Chance::new(seed);
    let block = [seed as u8 | 1; BLOCK as usize];
    let blocks = gated.size() / BLOCK;
    let mut at = 0;
    loop {
        at = match chance.below(3) {
            0 => chance.below(blocks),
            1 => (at + 1) % blocks,
            _ => (at - at % 1024 + chance.below(1024)) % blocks,
        };
        gated
            .write_at(&block, at * BLOCK)
            .expect("the disk can be written");
        // One system call, so that a kill leaves whole lines but for the last.
        let line = format!("{}\n", at * BLOCK);
        if std::io::stdout().write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}
