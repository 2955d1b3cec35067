//! Copy-before-write against a copier that the test drives by hand. `K…` names the case of the
//! catalogue of backup behaviours that a test re-tells.
#![cfg(not(loom))]

mod rig;

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cohort_block::{Broken, Device, Fault, Next, OnMiss, Operation, Patience};

use rig::{Panics, Rig};

const CLUSTER: u64 = 64 << 10;
const CLUSTERS: u64 = 40;
/// The last cluster is cut short.
const SIZE: u64 = CLUSTERS * CLUSTER - 1000;
/// Never reached by a test that passes.
const LONG: Duration = Duration::from_secs(60);
const SAVERS: usize = 2;
const OLD: u8 = 0x11;
const NEW: u8 = 0x22;
const UNTOUCHED: u8 = 0x33;

/// K60.
#[test]
fn write_to_a_copied_cluster_copies_nothing() {
    let rig = Rig::new(0..CLUSTERS);
    assert!(rig.copy(3..4));
    rig.write(3 * CLUSTER..4 * CLUSTER);
    rig.assert_saved(3..4);
    assert_eq!(rig.ledger.counts().written, 1);
}

/// K61.
#[test]
fn write_to_an_owed_cluster_saves_the_old_data_first() {
    let rig = Rig::new(0..CLUSTERS);
    let stalled = rig.target.inject(Fault::stall(Operation::Write));
    thread::scope(|scope| {
        let writer = scope.spawn(|| rig.write(5 * CLUSTER + 7..5 * CLUSTER + 9));
        stalled.wait_for_strikes(1);
        assert_eq!(rig.source_byte(5 * CLUSTER + 7), OLD, "not yet overwritten");
        stalled.release();
        writer.join().unwrap();
    });
    assert_eq!(rig.source_byte(5 * CLUSTER + 7), NEW);
    rig.assert_saved(5..6);
    assert_eq!(rig.ledger.counts().written, 1);
}

/// K62.
#[test]
fn write_outside_the_manifest_leaves_the_target_alone() {
    let rig = Rig::new(10..12);
    rig.write(9 * CLUSTER..10 * CLUSTER);
    rig.write(12 * CLUSTER..SIZE);
    rig.assert_saved(0..0);
    assert_eq!(rig.ledger.counts().owed, 2);
}

/// K63.
#[test]
fn write_across_a_border_saves_both_clusters_whole() {
    let rig = Rig::new(0..CLUSTERS);
    rig.write(7 * CLUSTER + CLUSTER / 2..9 * CLUSTER - 1);
    rig.assert_saved(7..9);
}

/// K64: what was saved once is not saved again by a larger write over it.
#[test]
fn larger_write_saves_only_what_is_still_owed() {
    let rig = Rig::new(0..CLUSTERS);
    rig.write(17 * CLUSTER..18 * CLUSTER);
    rig.write(16 * CLUSTER..32 * CLUSTER);
    rig.copy_all();
    rig.assert_saved(0..CLUSTERS);
    rig.assert_each_saved_once();
}

/// K65.
#[test]
fn concurrent_writes_to_one_owed_cluster_save_it_once() {
    let rig = Rig::new(0..CLUSTERS);
    let stalled = rig.target.inject(Fault::stall(Operation::Write));
    thread::scope(|scope| {
        let writers = [0, 1].map(|half| {
            let from = 4 * CLUSTER + half * CLUSTER / 2;
            let rig = &rig;
            scope.spawn(move || rig.write(from..from + CLUSTER / 2))
        });
        stalled.wait_for_strikes(1);
        stalled.release();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    rig.assert_saved(4..5);
    rig.assert_each_saved_once();
    assert_eq!(rig.source_byte(4 * CLUSTER), NEW);
    assert_eq!(rig.source_byte(5 * CLUSTER - 1), NEW);
}

/// K66. A writer that cannot wait at all is turned away, so that the waiting shows.
#[test]
fn write_waits_for_the_copier_that_has_its_cluster() {
    let rig = Rig::with(0..CLUSTERS, Duration::ZERO, OnMiss::BreakWrite);
    let claim = rig.claim(2..6);
    let late = rig.try_write(4 * CLUSTER..4 * CLUSTER + 1).unwrap_err();
    assert_eq!(late.cause().kind(), ErrorKind::TimedOut);
    assert_eq!(rig.source_byte(4 * CLUSTER), OLD);
    assert!(rig.finish(claim), "the copy goes on and counts");
    rig.write(4 * CLUSTER..4 * CLUSTER + 1);
    rig.assert_saved(2..6);
}

/// While it is being sealed, one copy that ends lets nobody at the clusters of another.
#[test]
fn sealed_filter_passes_nothing_while_any_copy_is_in_flight() {
    let rig = Rig::new(0..CLUSTERS);
    let (first, second) = (rig.claim(2..6), rig.claim(8..9));
    thread::scope(|scope| {
        let sealing = scope.spawn(|| rig.seal());
        while !matches!(rig.ledger.claim_next(0, 1), Next::Closed) {
            thread::yield_now();
        }
        assert!(rig.finish(first));
        assert!(!rig.filter.is_spent());
        assert!(rig.finish(second));
        assert_eq!(sealing.join().unwrap().voided, 0);
    });
    assert!(rig.filter.is_spent());
}

/// K66.
#[test]
fn write_goes_on_once_the_copier_is_done_with_its_cluster() {
    let rig = Rig::new(0..CLUSTERS);
    let claim = rig.claim(2..6);
    thread::scope(|scope| {
        let writer = scope.spawn(|| rig.write(4 * CLUSTER..4 * CLUSTER + 1));
        assert!(rig.finish(claim));
        writer.join().unwrap();
    });
    rig.assert_saved(2..6);
    rig.assert_each_saved_once();
    assert_eq!(rig.source_byte(4 * CLUSTER), NEW);
}

/// K67, where the user chose it.
#[test]
fn target_error_may_fail_the_write_and_leave_the_backup_be() {
    let rig = Rig::with(0..CLUSTERS, LONG, OnMiss::BreakWrite);
    rig.target.inject(Fault::error(Operation::Write).once());
    let failed = rig.try_write(CLUSTER..CLUSTER + 1).unwrap_err();
    assert!(
        failed.to_string().contains("could not be saved"),
        "{failed}"
    );
    assert_eq!(failed.device(), "source");
    assert_eq!(rig.source_byte(CLUSTER), OLD);
    assert_eq!(rig.ledger.counts().owed, CLUSTERS);
    rig.write(CLUSTER..CLUSTER + 1);
    rig.assert_saved(1..2);
    assert!(rig.ledger.broken().is_none());
}

/// K68: nothing of the job runs, the copier least of all, and old data is saved all the same.
#[test]
fn old_data_is_saved_while_the_job_is_paused() {
    let rig = Rig::new(0..CLUSTERS);
    assert!(rig.copy(0..2));
    for cluster in [9, 3, 30] {
        rig.write(cluster * CLUSTER..cluster * CLUSTER + 1);
    }
    assert_eq!(rig.ledger.counts().written, 5);
    assert_eq!(rig.ledger.counts().in_flight, 0);
    rig.copy_all();
    rig.assert_saved(0..CLUSTERS);
}

/// K70, with the default: the backup gives way.
#[test]
fn writer_waits_at_most_its_bound_then_the_backup_breaks() {
    let rig = Rig::with(0..CLUSTERS, Duration::from_millis(20), OnMiss::BreakBackup);
    let stalled = rig.target.inject(Fault::stall(Operation::Write));
    // Returns though the target never answers while it runs.
    rig.write(3 * CLUSTER..4 * CLUSTER);
    assert_eq!(rig.source_byte(3 * CLUSTER), NEW);
    let why = rig.ledger.broken().expect("the backup broke");
    assert!(matches!(&why, Broken::Late { device, .. } if device == "source"));
    // Everything passes now, and recorders go on counting.
    rig.write(20 * CLUSTER..21 * CLUSTER);
    assert!(stalled.strikes() <= 1, "nothing more is saved");
    assert!(rig.recorder.get(3 * CLUSTER) && rig.recorder.get(20 * CLUSTER));
    assert!(matches!(rig.ledger.claim_next(0, 1), Next::Closed));
    // What the target takes too late counts for nothing.
    stalled.release();
    assert_eq!(rig.seal().late_saves, 0);
    assert_eq!(rig.ledger.counts().owed, CLUSTERS);
    assert!(rig.ledger.remaining().get(3 * CLUSTER));
}

/// K70, the other way.
#[test]
fn writer_that_waited_its_bound_may_fail_instead_of_the_backup() {
    let rig = Rig::with(0..CLUSTERS, Duration::from_millis(20), OnMiss::BreakWrite);
    let stalled = rig.target.inject(Fault::stall(Operation::Write));
    let late = rig.try_write(0..20 * CLUSTER).unwrap_err();
    assert_eq!(late.cause().kind(), ErrorKind::TimedOut);
    assert_eq!(rig.source_byte(0), OLD);
    assert!(rig.ledger.broken().is_none());
    // What no saver had begun is owed again, so that retries do not fill the memory.
    assert!(rig.ledger.counts().in_flight <= SAVERS as u64);
    stalled.release();
    rig.copy_all();
    rig.assert_saved(0..CLUSTERS);
}

#[test]
fn bound_without_end_is_allowed() {
    let rig = Rig::with(0..CLUSTERS, Duration::MAX, OnMiss::BreakBackup);
    rig.write(0..1);
    rig.assert_saved(0..1);
}

#[test]
fn copier_that_misses_a_writers_bound_breaks_the_backup_and_does_not_count() {
    let rig = Rig::with(0..CLUSTERS, Duration::from_millis(20), OnMiss::BreakBackup);
    let claim = rig.claim(0..8);
    rig.write(7 * CLUSTER..7 * CLUSTER + 1);
    assert!(!claim.is_live());
    assert!(!rig.finish(claim));
    assert_eq!(rig.ledger.counts().owed, CLUSTERS);
}

#[test]
fn target_error_breaks_the_backup_not_the_write() {
    let rig = Rig::new(0..CLUSTERS);
    rig.target.inject(Fault::error(Operation::Write).once());
    rig.write(CLUSTER..CLUSTER + 1);
    assert_eq!(rig.source_byte(CLUSTER), NEW);
    let why = rig.ledger.broken().unwrap().to_string();
    assert!(
        why.starts_with("source: the old data at byte 65536 could not be saved: target:"),
        "{why}"
    );
    assert!(rig.ledger.remaining().get(CLUSTER));
}

#[test]
fn old_data_that_cannot_be_read_breaks_the_backup_not_the_write() {
    let rig = Rig::new(0..CLUSTERS);
    rig.source.inject(Fault::error(Operation::Read).once());
    rig.write(CLUSTER..CLUSTER + 1);
    assert!(matches!(rig.ledger.broken(), Some(Broken::Source(_))));
    assert_eq!(rig.ledger.counts().owed, CLUSTERS);
}

#[test]
fn saver_that_panics_breaks_the_backup_and_nothing_else() {
    let patience = Patience {
        bound: LONG,
        on_miss: OnMiss::BreakBackup,
    };
    let rig = Rig::over(0..CLUSTERS, patience, |_, _| Arc::new(Panics));
    rig.write(0..1);
    let why = rig.ledger.broken().unwrap().to_string();
    assert!(why.ends_with("saving it panicked"), "{why}");
    assert_eq!(rig.seal().late_saves, 0);
}

#[test]
fn copy_that_failed_at_the_copier_is_made_by_the_writer() {
    let rig = Rig::new(0..CLUSTERS);
    let claim = rig.claim(4..5);
    thread::scope(|scope| {
        let writer = scope.spawn(|| rig.write(4 * CLUSTER..4 * CLUSTER + 1));
        drop(claim);
        writer.join().unwrap();
    });
    rig.assert_saved(4..5);
    assert!(rig.ledger.broken().is_none());
}

#[test]
fn skipped_cluster_is_not_tried_again() {
    let rig = Rig::new(0..CLUSTERS);
    assert!(rig.claim(6..7).skip());
    rig.source.inject(Fault::error(Operation::Read));
    rig.write(6 * CLUSTER..7 * CLUSTER);
    assert!(rig.ledger.broken().is_none());
    assert!(rig.ledger.skipped().get(6 * CLUSTER));
    assert!(rig.ledger.remaining().get(6 * CLUSTER));
}

#[test]
fn zeroes_and_discards_are_writes() {
    let rig = Rig::new(0..CLUSTERS);
    rig.disk.write_zeroes(0, CLUSTER).unwrap();
    rig.disk.discard(2 * CLUSTER, 18 * CLUSTER).unwrap();
    rig.assert_saved_all([0..1, 2..20]);
    assert!(rig.recorder.get(0) && rig.recorder.get(19 * CLUSTER));
}

/// K104: a save in flight when the job ends, which then fails.
#[test]
fn save_that_fails_at_the_very_end_leaves_its_cluster_remaining() {
    let rig = Rig::new(0..CLUSTERS);
    let stalled = rig.target.inject(Fault::stall(Operation::Write).once());
    rig.target.inject(Fault::error(Operation::Write));
    thread::scope(|scope| {
        let writer = scope.spawn(|| rig.write(8 * CLUSTER..9 * CLUSTER));
        stalled.wait_for_strikes(1);
        let sealer = scope.spawn(|| rig.seal());
        stalled.release();
        let sealed = sealer.join().unwrap();
        assert_eq!((sealed.voided, sealed.late_saves), (0, 0));
        writer.join().unwrap();
    });
    assert!(rig.ledger.remaining().get(8 * CLUSTER));
    assert_eq!(rig.source_byte(8 * CLUSTER), NEW);
    assert!(rig.recorder.get(8 * CLUSTER));
}

/// K104: a save in flight when the job ends, which does not end in time.
#[test]
fn save_stuck_at_the_very_end_is_owed_and_reported() {
    let rig = Rig::new(0..CLUSTERS);
    let stalled = rig.target.inject(Fault::stall(Operation::Write));
    thread::scope(|scope| {
        let writer = scope.spawn(|| rig.write(8 * CLUSTER..9 * CLUSTER));
        stalled.wait_for_strikes(1);
        let sealed = rig.filter.seal(Instant::now());
        assert_eq!((sealed.voided, sealed.late_saves), (1, 1));
        writer.join().unwrap();
        assert!(rig.ledger.remaining().get(8 * CLUSTER));
        stalled.release();
    });
    assert_eq!(rig.seal().late_saves, 0);
    assert!(rig.ledger.remaining().get(8 * CLUSTER), "late is never");
}

#[test]
fn sealed_filter_lets_everything_pass_and_can_be_forgotten() {
    let rig = Rig::new(0..CLUSTERS);
    assert!(rig.copy(0..1));
    assert!(!rig.filter.is_spent());
    rig.disk.drop_spent_filters();
    rig.write(CLUSTER..CLUSTER + 1);
    let _ = rig.seal();
    assert!(rig.filter.is_spent());
    rig.write(2 * CLUSTER..SIZE);
    rig.assert_saved(0..2);
    rig.disk.drop_spent_filters();
    assert_eq!(Arc::strong_count(&rig.filter), 1);
}

#[test]
fn last_cluster_is_saved_as_far_as_the_disk_goes() {
    let rig = Rig::new(0..CLUSTERS);
    rig.write(SIZE - 1..SIZE);
    rig.assert_saved(CLUSTERS - 1..CLUSTERS);
}

#[test]
fn write_that_leaves_the_disk_is_refused_before_anything_is_done() {
    let rig = Rig::new(0..CLUSTERS);
    for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 2)] {
        assert!(rig.disk.write_zeroes(offset, length).is_err());
    }
    rig.disk.write_at(&[], 3 * CLUSTER + 5).unwrap();
    rig.assert_saved(0..0);
    assert!(rig.recorder.is_empty());
}
