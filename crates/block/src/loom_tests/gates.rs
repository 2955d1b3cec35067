//! Writers at gates, and fences that close one or several.

use std::sync::Arc;

use loom::thread;

use super::explore::{Seen, explore};
use super::rig::{gated, never, passed, patient, read, recorder, spawn_write};
use super::{NEW, OLD};
use crate::{CloseError, Device, HeldBy, close_all};

#[test]
fn write_preempted_between_mark_and_data_is_not_lost() {
    let seen = Seen::new(["before the fence", "after the fence"]);
    explore(&seen.clone(), None, move || {
        let disk = Arc::new(gated(1));
        let before = recorder(1);
        patient(&disk).install_recorder(before.clone());
        let writer = spawn_write(&disk, 0);

        let mut closed = patient(&disk);
        let point = read(&*disk, 0);
        let since = recorder(1);
        closed.remove_recorder(&before);
        closed.install_recorder(since.clone());
        drop(closed);

        writer.join().unwrap().unwrap();
        assert_eq!(read(&*disk, 0), NEW);
        let (marked_before, marked_since) = (before.get(0), since.get(0));
        assert!(marked_before != marked_since, "on one side of the fence");
        assert_eq!(point == OLD, marked_since, "the side its data is on");
        seen.note(usize::from(marked_since));
    });
}

#[test]
fn two_groups_fencing_crosswise_both_finish() {
    let seen = Seen::new(["write first", "write later"]);
    explore(&seen.clone(), Some(3), move || {
        let disks = Arc::new([gated(1), gated(1)]);
        let fence = |order: [usize; 2]| {
            let disks = Arc::clone(&disks);
            thread::spawn(move || {
                let gates = order.map(|at| &disks[at]);
                let closed = close_all(&gates, "group", never()).unwrap();
                read(closed[0].gated(), 0)
            })
        };
        let one = fence([0, 1]);
        let other = fence([1, 0]);
        disks[0].write_at(&[NEW], 0).unwrap();
        let point = one.join().unwrap();
        other.join().unwrap();
        seen.note(usize::from(point == OLD));
    });
}

#[test]
fn missed_fence_deadline_opens_gates_and_voids_the_round() {
    let seen = Seen::new(["stood", "missed"]);
    explore(&seen.clone(), None, move || {
        let disks = Arc::new([gated(1), gated(1)]);
        let writer = {
            let disks = Arc::clone(&disks);
            thread::spawn(move || disks[1].write_at(&[NEW], 0))
        };
        let round = close_all(&[&disks[0], &disks[1]], "group", passed()).map(drop);
        if let Err(missed) = &round {
            // The model's clock may let the write leave just before it is counted.
            let held_by_writes = |by: &HeldBy| matches!(by, HeldBy::Writes(_));
            assert!(
                matches!(missed, CloseError::Missed { held_by, .. } if held_by_writes(held_by))
            );
        }
        // Would wait for ever if a gate had stayed closed.
        disks[0].write_at(&[NEW], 0).unwrap();
        disks[1].write_at(&[NEW], 0).unwrap();
        writer.join().unwrap().unwrap();
        drop(patient(&disks[1]));
        seen.note(usize::from(round.is_err()));
    });
}

#[test]
fn writes_kept_waiting_go_in_before_the_next_fence() {
    let seen = Seen::new(["missed", "stood"]);
    explore(&seen.clone(), Some(3), move || {
        let disk = Arc::new(gated(2));
        let writers = [spawn_write(&disk, 0), spawn_write(&disk, 1)];
        let hasty = {
            let disk = Arc::clone(&disk);
            thread::spawn(move || disk.close("hasty", passed()).is_ok())
        };
        let closed = patient(&disk);
        let point = [read(&*disk, 0), read(&*disk, 1)];
        assert_eq!(point, [read(&*disk, 0), read(&*disk, 1)], "nobody writes");
        drop(closed);
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
        seen.note(usize::from(hasty.join().unwrap()));
    });
}
