//! The gate alone: what passes it, who waits at it, and what a closer is told.
#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cohort_bitmap::{Granularity, Recorder};
use cohort_block::{
    CloseError, ClosedGate, Device, DeviceError, Fault, Faulty, Gated, HeldBy, Injected,
    MemoryDevice, Operation, close_all,
};

const SIZE: u64 = 10_000;
const GRANULE: u64 = 512;

#[test]
fn every_kind_of_write_marks_and_nothing_else_does() {
    let (disk, _) = disk("vda");
    let marks = recorder();
    close(&disk).install_recorder(marks.clone());
    let mut buf = [0; 100];
    disk.read_at(&mut buf, 0).unwrap();
    disk.flush().unwrap();
    disk.extent(0, SIZE).unwrap();
    assert!(marks.is_empty());
    disk.write_at(&[1], 0).unwrap();
    disk.write_zeroes(2 * GRANULE, 1).unwrap();
    disk.discard(4 * GRANULE - 1, 2).unwrap();
    disk.write_at(&[1], SIZE - 1).unwrap();
    let marked: Vec<u64> = (0..SIZE.div_ceil(GRANULE))
        .filter(|granule| marks.get(granule * GRANULE))
        .collect();
    assert_eq!(marked, [0, 2, 3, 4, 19]);
}

/// Ours: a discard marks whether or not the device carries it out, so B36 and B37 are one case: what it did to the bytes is
/// the device's secret.
#[test]
fn b36_b37_discard_marks_whatever_the_device_makes_of_it() {
    let (disk, faulty) = disk("vda");
    let marks = recorder();
    close(&disk).install_recorder(marks.clone());
    disk.discard(GRANULE, 1).unwrap();
    faulty.inject(Fault::error(Operation::Discard).once());
    disk.discard(3 * GRANULE, 1).unwrap_err();
    assert!(marks.get(GRANULE) && marks.get(3 * GRANULE) && !marks.get(0));
}

#[test]
fn b35_mark_stands_though_the_write_failed() {
    let (disk, faulty) = disk("vda");
    let marks = recorder();
    close(&disk).install_recorder(marks.clone());
    faulty.inject(Fault::error(Operation::Write).after(1));
    disk.write_at(&[1; 10], 0).unwrap_err();
    assert!(marks.get(0));
}

#[test]
fn write_that_leaves_the_disk_marks_nothing() {
    let (disk, _) = disk("vda");
    let marks = recorder();
    close(&disk).install_recorder(marks.clone());
    disk.write_at(&[1; 2], SIZE - 1).unwrap_err();
    disk.discard(u64::MAX, u64::MAX).unwrap_err();
    disk.write_at(&[], 7).unwrap();
    assert!(marks.is_empty());
}

#[test]
fn several_recorders_are_told_apart() {
    let (disk, _) = disk("vda");
    let [one, other, never] = [recorder(), recorder(), recorder()];
    let mut closed = close(&disk);
    closed.install_recorder(one.clone());
    closed.install_recorder(one.clone());
    closed.install_recorder(other.clone());
    assert!(!closed.remove_recorder(&never));
    drop(closed);
    disk.write_at(&[1], 0).unwrap();
    let mut closed = close(&disk);
    assert!(closed.remove_recorder(&one));
    assert!(!closed.remove_recorder(&one), "twice is once");
    drop(closed);
    disk.write_at(&[1], GRANULE).unwrap();
    assert!(one.get(0) && !one.get(GRANULE));
    assert!(other.get(0) && other.get(GRANULE));
}

#[test]
fn closer_that_gives_up_lets_the_writes_in_that_it_kept_waiting() {
    let (disk, faulty) = disk("vda");
    let stalled = stall(&faulty);
    thread::scope(|scope| {
        let first = scope.spawn(|| disk.write_at(&[1], 0));
        stalled.wait_for_strikes(1);
        let missed = disk.close("hasty", Instant::now()).unwrap_err();
        let held_by = HeldBy::Writes(1);
        let device = "vda".to_owned();
        assert_eq!(missed, CloseError::Missed { device, held_by });
        // Passes, although the first has not returned.
        disk.write_at(&[1], GRANULE).unwrap();
        stalled.release();
        first.join().unwrap().unwrap();
    });
    drop(close(&disk));
}

#[test]
fn write_that_panics_leaves_the_gate() {
    let disk = Gated::new(Arc::new(Panics(MemoryDevice::new("vda", SIZE))));
    thread::scope(|scope| {
        let writer = scope.spawn(|| disk.write_at(&[1], 0));
        assert!(writer.join().is_err());
    });
    drop(close(&disk));
}

#[test]
fn gates_come_back_in_the_order_they_were_named() {
    // Closed in the order in which they were made.
    let disks = ["a", "b", "c"].map(|name| disk(name).0);
    let closed = close_all(&[&disks[2], &disks[0], &disks[1]], "test", later()).unwrap();
    let names: Vec<_> = closed.iter().map(|gate| gate.gated().name()).collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn gates_that_had_closed_open_when_another_one_does_not() {
    let (free, _) = disk("vda");
    let (busy, faulty) = disk("vdb");
    let stalled = stall(&faulty);
    thread::scope(|scope| {
        let writer = scope.spawn(|| busy.write_at(&[1], 0));
        stalled.wait_for_strikes(1);
        close_all(&[&busy, &free], "hasty", Instant::now()).unwrap_err();
        free.write_at(&[1], 0).unwrap();
        stalled.release();
        writer.join().unwrap().unwrap();
    });
    drop(close_all(&[&busy, &free], "patient", later()).unwrap());
}

#[test]
fn stream_of_writers_and_stream_of_closers_starve_nobody() {
    const ROUNDS: u64 = 2_000;
    let (disk, _) = disk("vda");
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for n in 0..ROUNDS {
                    disk.write_at(&[1], n % SIZE).unwrap();
                }
            });
        }
        for who in ["one", "other"] {
            let disk = &disk;
            scope.spawn(move || {
                for _ in 0..ROUNDS / 4 {
                    drop(disk.close(who, later()).unwrap());
                }
            });
        }
    });
}

#[derive(Debug)]
struct Panics(MemoryDevice);

impl Device for Panics {
    cohort_block::forward!(0: name, size, read_at, write_zeroes, discard, flush, extent);

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
        panic!("a device that panics");
    }
}

fn disk(name: &str) -> (Gated, Arc<Faulty>) {
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryDevice::new(name, SIZE))));
    (Gated::new(Arc::clone(&faulty) as Arc<dyn Device>), faulty)
}

fn stall(disk: &Faulty) -> Injected {
    disk.inject(Fault::stall(Operation::Write).once())
}

fn recorder() -> Recorder {
    Recorder::new(SIZE, Granularity::new(GRANULE).unwrap()).unwrap()
}

fn close(disk: &Gated) -> ClosedGate<'_> {
    disk.close("test", later()).unwrap()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
