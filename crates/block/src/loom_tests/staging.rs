//! Old data that waits for the target while its writes have passed.

use std::sync::Arc;

use loom::thread;

use super::explore::{Seen, explore};
use super::rig::{Rig, never, never_breaks, passed, read, spawn_write};
use super::{NEW, OLD};
use crate::{Device, Next, Staging};

/// The write goes on at once; whatever is settled afterwards holds old data only.
#[test]
fn staged_old_data_counts_or_remains() {
    for deadline in [passed(), never()] {
        let seen = Seen::new(["remains", "counted"]);
        explore(&seen.clone(), Some(2), move || {
            let rig = Rig::staging(2, never_breaks(), Staging::in_memory(1));
            let writer = spawn_write(&rig.disk, 0);
            // One of the two writes may have to wait for room.
            let other = spawn_write(&rig.disk, 1);
            let voided = rig.filter.seal(deadline).voided;
            let remains = rig.ledger.remaining_without_written();
            writer.join().unwrap().unwrap();
            other.join().unwrap().unwrap();
            assert!(remains || rig.target.at(0) == OLD || rig.target.at(1) == OLD);
            let old = (0..2).filter(|at| rig.target.at(*at) == OLD).count() as u64;
            assert!(rig.ledger.counts().written <= old);
            assert!(voided > 0 || rig.ledger.counts().staged == 0);
            assert!(rig.filter.is_spent());
            seen.note(usize::from(!remains));
        });
    }
}

#[test]
fn copy_given_up_breaks_the_backup_if_a_write_has_passed_over_it() {
    let seen = Seen::new(["saved by the writer", "broke"]);
    explore(&seen.clone(), Some(3), move || {
        let rig = Rig::new(1, never_breaks());
        let (source, ledger) = (Arc::clone(rig.disk.device()), Arc::clone(&rig.ledger));
        let copier = thread::spawn(move || {
            if let Next::Claimed(claim) = ledger.claim_next(0, 1) {
                assert_eq!(read(&*source, 0), OLD);
                claim.stage();
            }
        });
        rig.disk.write_at(&[NEW], 0).unwrap();
        copier.join().unwrap();
        let broke = rig.ledger.broken().is_some();
        rig.assert_nothing_new_counts();
        assert!(
            broke || rig.target.at(0) == OLD,
            "or nobody has the old data"
        );
        seen.note(usize::from(broke));
    });
}
