//! A process that writes to a tracked disk is killed, at any moment, again and again.
//!
//! The claim: no write that it was told of as acknowledged is missing from what the store says afterwards, and no block
//! of the disk that changed is clean. `COHORT_TORTURE_KILLS=N` kills N times in place of a hundred.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cohort_block::TrackingStore;
use cohort_tests::power_loss::Chance;

const DISK: u64 = 2 << 30;

/// A store's life is so many kills: long enough to find what an earlier one left.
const KILLS_EACH: u64 = 10;

#[test]
fn no_acknowledged_write_is_missing_after_any_kill() {
    let kills: u64 = std::env::var("COHORT_TORTURE_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100);
    let mut writes = 0;
    for life in 0..kills.div_ceil(KILLS_EACH) {
        let mode = ["kill", "power"][(life % 2) as usize];
        let lab = tempfile::tempdir().unwrap();
        let disk = lab.path().join("disk.raw");
        std::fs::File::create(&disk).unwrap().set_len(DISK).unwrap();
        let mut acknowledged = BTreeSet::new();
        for kill in 0..KILLS_EACH {
            let seed = life * KILLS_EACH + kill;
            acknowledged.extend(killed(&disk, mode, seed));
            check(&disk, &acknowledged, seed);
        }
        writes += acknowledged.len();
    }
    println!("{kills} kills, {writes} places written, none missing");
    assert!(writes > 100, "{writes} places written");
}

/// Starts the writer, lets it acknowledge some writes, kills it; gives what it acknowledged.
fn killed(disk: &Path, mode: &str, seed: u64) -> Vec<u64> {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_tracked-writer"))
        .arg(disk)
        .args([mode, &seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(writer.stdout.take().unwrap());
    // Sometimes before the first write, while the store is made or opened.
    let most = Chance::new(seed).below(200) as usize;
    let mut lines = output.split(b'\n');
    let mut offsets: Vec<u64> = lines.by_ref().take(most).map(parsed).collect();
    writer.kill().unwrap();
    writer.wait().unwrap();
    // What it still said before it died; the last line may be cut.
    let mut rest: Vec<_> = lines.collect();
    rest.pop();
    offsets.extend(rest.into_iter().map(parsed));
    offsets
}

fn parsed(line: std::io::Result<Vec<u8>>) -> u64 {
    String::from_utf8(line.unwrap()).unwrap().parse().unwrap()
}

fn check(disk: &Path, acknowledged: &BTreeSet<u64>, seed: u64) {
    let beside = TrackingStore::path_beside(disk);
    if !beside.exists() {
        assert!(acknowledged.is_empty(), "seed {seed}: no store");
        return;
    }
    let found = TrackingStore::inspect(&beside, Some((disk, DISK))).unwrap();
    assert_eq!(
        found.holder, None,
        "seed {seed}: a dead process holds nothing"
    );
    assert_eq!(found.inspection.findings, [""; 0], "seed {seed}");
    let Some(report) = found.inspection.sets.first() else {
        assert!(acknowledged.is_empty(), "seed {seed}: no set");
        return;
    };
    assert_eq!(report.lost, None, "seed {seed}");
    for offset in acknowledged {
        assert!(
            report.dirty.get(*offset),
            "seed {seed}: {offset} is missing"
        );
    }
    // Nor what reached the disk without an answer.
    let image = std::fs::File::open(disk).unwrap();
    let mut clean = 0;
    while let Some(start) = report.dirty.next_zero(clean, u64::MAX) {
        let end = report.dirty.next_dirty(start, u64::MAX).unwrap_or(DISK);
        assert!(
            is_hole(&image, start, end),
            "seed {seed}: written between {start} and {end}"
        );
        clean = end;
    }
}

/// Whether nothing was ever written to a range of a sparse file.
fn is_hole(image: &std::fs::File, start: u64, end: u64) -> bool {
    let runs = cohort_block::OsFile::new(image.try_clone().unwrap()).unwrap();
    let mut at = start;
    while at < end {
        let run = cohort_block::File::run_at(&runs, at, end - at).unwrap();
        if !run.hole {
            let mut bytes = vec![0; run.length as usize];
            image.read_exact_at(&mut bytes, at).unwrap();
            if bytes.iter().any(|byte| *byte != 0) {
                return false;
            }
        }
        at += run.length;
    }
    true
}
