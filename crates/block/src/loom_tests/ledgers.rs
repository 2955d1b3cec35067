//! Copiers, writers, flushes and whoever settles, at one ledger.

use std::time::Duration;

use super::explore::{Seen, explore};
use super::rig::{Rig, never, never_breaks, passed, read, spawn_write};
use super::{NEW, OLD};
use crate::{Counts, Device, OnMiss, Patience};

#[test]
fn copier_and_writer_copy_a_cluster_once_and_old() {
    let seen = Seen::new(["by the copier", "by a saver"]);
    explore(&seen.clone(), Some(3), move || {
        let rig = Rig::new(1, never_breaks());
        let copier = rig.spawn_copier();
        rig.disk.write_at(&[NEW], 0).unwrap();
        let copied = copier.join().unwrap();
        assert_eq!(rig.target.at(0), OLD);
        assert_eq!(rig.ledger.counts().written, 1);
        assert_eq!(rig.target.writes(), 1);
        seen.note(usize::from(!copied));
    });
}

/// K65.
#[test]
fn two_writes_to_one_owed_cluster_save_it_once() {
    let seen = Seen::new(["done"]);
    explore(&seen.clone(), Some(2), move || {
        let rig = Rig::new(1, never_breaks());
        let other = spawn_write(&rig.disk, 0);
        rig.disk.write_at(&[NEW], 0).unwrap();
        other.join().unwrap().unwrap();
        assert_eq!((rig.target.at(0), rig.target.writes()), (OLD, 1));
        assert_eq!(rig.ledger.counts().written, 1);
        seen.note(0);
    });
}

#[test]
fn copy_that_missed_its_deadline_never_counts() {
    let seen = Seen::new(["in time", "broke, void", "broke, counted"]);
    explore(&seen.clone(), Some(3), move || {
        let rig = Rig::new(
            1,
            Patience {
                bound: Duration::ZERO,
                on_miss: OnMiss::BreakBackup,
            },
        );
        let copier = rig.spawn_copier();
        rig.disk.write_at(&[NEW], 0).unwrap();
        copier.join().unwrap();
        rig.assert_nothing_new_counts();
        let broke = rig.ledger.broken().is_some();
        let counted = rig.ledger.counts().written == 1;
        assert!(broke || counted);
        seen.note(usize::from(broke) + usize::from(broke && counted));
    });
}

#[test]
fn write_that_breaks_for_the_backup_changes_nothing() {
    let seen = Seen::new(["written", "broke"]);
    explore(&seen.clone(), Some(3), move || {
        let rig = Rig::new(
            1,
            Patience {
                bound: Duration::ZERO,
                on_miss: OnMiss::BreakWrite,
            },
        );
        let copier = rig.spawn_copier();
        let wrote = rig.disk.write_at(&[NEW], 0);
        assert_eq!(read(&*rig.disk, 0) == NEW, wrote.is_ok());
        copier.join().unwrap();
        assert!(rig.ledger.broken().is_none());
        rig.assert_nothing_new_counts();
        seen.note(usize::from(wrote.is_err()));
    });
}

/// K104: a copy in flight at the very end is either whole and counted, or its cluster remains.
#[test]
fn copy_in_flight_at_the_end_counts_or_remains() {
    for deadline in [passed(), never()] {
        let seen = Seen::new(["remains", "counted"]);
        explore(&seen.clone(), Some(3), move || {
            let rig = Rig::new(1, never_breaks());
            let writer = spawn_write(&rig.disk, 0);
            let voided = rig.filter.seal(deadline).voided;
            // Settled here: what is remaining now is what the next run copies.
            let remains = rig.ledger.remaining_without_written();
            writer.join().unwrap().unwrap();
            assert!(remains || rig.target.at(0) == OLD);
            assert_eq!(remains, rig.ledger.remaining_without_written(), "final");
            assert!(voided == 0 || remains);
            assert!(rig.filter.is_spent());
            seen.note(usize::from(!remains));
        });
    }
}

#[test]
fn write_passes_a_sealed_filter_only_when_no_copy_is_in_flight() {
    let seen = Seen::new(["remains", "counted"]);
    explore(&seen.clone(), Some(3), move || {
        let rig = Rig::new(1, never_breaks());
        let copier = rig.spawn_copier();
        let writer = spawn_write(&rig.disk, 0);
        let _ = rig.filter.seal(never());
        let remains = rig.ledger.remaining_without_written();
        writer.join().unwrap().unwrap();
        copier.join().unwrap();
        assert_eq!(remains, rig.ledger.remaining_without_written(), "final");
        rig.assert_nothing_new_counts();
        seen.note(usize::from(!remains));
    });
}

#[test]
fn durable_means_a_flush_began_after_the_write() {
    let seen = Seen::new(["written", "durable"]);
    explore(&seen.clone(), None, move || {
        let rig = Rig::new(1, never_breaks());
        let copier = rig.spawn_copier();
        let flush = rig.ledger.begin_flush();
        let flushed = rig.target.at(0);
        flush.succeeded();
        copier.join().unwrap();
        let durable = rig.ledger.counts().durable == 1;
        assert!(!durable || flushed == OLD);
        seen.note(usize::from(durable));
    });
}

#[test]
fn flush_that_failed_leaves_nothing_written() {
    let seen = Seen::new(["copied", "closed"]);
    explore(&seen.clone(), None, move || {
        let rig = Rig::new(1, never_breaks());
        let copier = rig.spawn_copier();
        rig.ledger.begin_flush().failed("no space");
        let copied = copier.join().unwrap();
        assert!(!rig.ledger.is_trusted());
        let owed = Counts {
            owed: 1,
            ..Counts::default()
        };
        assert_eq!(rig.ledger.counts(), owed);
        rig.disk.write_at(&[NEW], 0).unwrap();
        seen.note(usize::from(!copied));
    });
}
