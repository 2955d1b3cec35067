//! Disks under writers: what a run takes is of one instant, and later runs take what changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::lab::server::Raw;

/// What a writer writes at once.
const BLOCK: u64 = 4096;

/// Where in the disks the writer's write of that number goes.
fn place(number: u64) -> u64 {
    (number * 7919 % (SIZE / BLOCK)) * BLOCK
}

/// What it writes there.
fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK as usize / 8)
}

/// Writes one block after the other to both disks, the same to `a` and then to `b`, until told to stop; `written` counts.
fn write_on(lab: &Lab, written: &AtomicU64, stop: &AtomicBool) {
    let mut disks = ["a", "b"].map(|name| Raw::enter_at(&lab.path("w.sock"), name));
    while !stop.load(Ordering::Relaxed) {
        let number = written.load(Ordering::Relaxed) + 1;
        for disk in &mut disks {
            disk.ask(0, 1, number, place(number), BLOCK as u32);
            disk.put(&block(number));
            assert_eq!(disk.reply(), (0, number));
        }
        written.store(number, Ordering::Relaxed);
    }
}

/// Asserts that both points of a run are of one instant: what the writer had written up to a moment, and no more.
#[track_caller]
fn are_of_one_instant(lab: &Lab, run: u64) {
    let numbers = ["a", "b"].map(|name| {
        let _ = fs::remove_file(lab.path("point"));
        let point = format!("{name}@{run}");
        lab.cohort(["restore", "--from", "R", &point, "point"])
            .exits(0);
        let bytes = fs::read(lab.path("point")).expect("a disk");
        let blocks = bytes.chunks(BLOCK as usize).map(|block| {
            let number = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
            assert!(
                block.chunks(8).all(|part| part == number.to_le_bytes()),
                "torn"
            );
            number
        });
        let found: Vec<_> = blocks.collect();
        let last = found.iter().copied().max().expect("blocks");
        let mut expected = HashMap::new();
        for number in 1..=last {
            expected.insert(place(number), number);
        }
        for (at, number) in found.into_iter().enumerate() {
            let expected = expected.get(&(at as u64 * BLOCK)).copied().unwrap_or(0);
            assert_eq!(number, expected, "block {at} of {point}, of {last} writes");
        }
        last
    });
    assert!(
        numbers[0] == numbers[1] || numbers[0] == numbers[1] + 1,
        "{numbers:?}"
    );
    assert!(numbers[1] > 0, "the writer had begun");
}

#[test]
fn three_grouped_backups_under_writers_are_each_of_one_instant_and_incremental() {
    let Some(lab) = two_disks() else { return };
    let machine = daemon(&lab);
    let written = AtomicU64::new(0);
    for run in 1..=3 {
        let stop = AtomicBool::new(false);
        let report = thread::scope(|scope| {
            let writer = scope.spawn(|| write_on(&lab, &written, &stop));
            let begun = written.load(Ordering::Relaxed) + 100;
            while written.load(Ordering::Relaxed) < begun && !writer.is_finished() {
                thread::yield_now();
            }
            let report = lab.cohort(["backup", "qmp:qmp.sock", "--to", "R", "--json"]);
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("the writer");
            report
        });
        let report = report.exits(0).json();
        assert_eq!(report["run"], run);
        are_of_one_instant(&lab, run);
        let checkpoints = machine.is_tidy(&["a", "b"]);
        assert!(
            checkpoints
                .iter()
                .all(|name| name.ends_with(&format!("-{run}"))),
            "{checkpoints:?}"
        );
        for name in ["a", "b"] {
            let copied = disk(&report, name)["copied_bytes"]
                .as_u64()
                .expect("a number");
            assert!(
                run == 1 || !notes(&report, name).contains("compared"),
                "{report}"
            );
            assert!(copied > 0, "{report}");
        }
    }
    // Nobody writes any more: little changes, little is copied, and it is all there.
    backup(&lab, "qmp:qmp.sock,a,b");
    write(&lab, "a", "write -P 9 1M 64k");
    write(&lab, "b", "write -P 9 3M 64k");
    let report = backup(&lab, "qmp:qmp.sock,a,b");
    for name in ["a", "b"] {
        assert_eq!(disk(&report, name)["copied_bytes"], 64 << 10, "{report}");
        restores_to_what_is_there(&lab, name);
    }
    has_none_called(&lab, "R", "cohort-");
    lab.images_are_clean("R");
}
