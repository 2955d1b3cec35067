use std::cell::RefCell;
use std::sync::Arc;
use std::thread;

use super::*;
use cohort_block::{Device, Fault, Faulty, HeldBy, MemoryDevice, Operation};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

#[test]
fn missed_fence_deadline_opens_gates_and_voids_the_round() {
    let free = disk("vda");
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("vdb", 1 << 20))));
    let stalled = faulty.inject(Fault::stall(Operation::Write).once());
    let held = Gated::new(faulty);
    thread::scope(|scope| {
        scope.spawn(|| held.write_at(b"slow", 0).unwrap());
        stalled.wait_for_strikes(1);
        let open_at_thaw = RefCell::new(false);
        let missed = Fence::new("nightly", SHORT)
            .gate(&held)
            .gate(&free)
            .hook(
                "guest",
                || Ok(()),
                || {
                    // The gate that had closed lets writes through before anything is thawed.
                    free.write_at(b"passes", 0)?;
                    *open_at_thaw.borrow_mut() = true;
                    Ok(())
                },
            )
            .raise(|_| panic!("the round is void"));
        let error = missed.unwrap_err();
        assert!(*open_at_thaw.borrow());
        assert!(
            matches!(&error.cause, FenceCause::Close(CloseError::Missed { device, held_by })
                if device == "vdb" && *held_by == HeldBy::Writes(1)),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            "no instant for the group: the gate of vdb did not close in time: one write had not returned"
        );
        stalled.release();
    });
    // Once that write is gone the next round stands.
    let fence = Fence::new("again", LONG).gate(&held).gate(&free);
    assert_eq!(fence.raise(|closed| closed.len()).unwrap().value, 2);
}

#[test]
fn two_groups_fencing_crosswise_both_finish() {
    let disks = [disk("vda"), disk("vdb"), disk("vdc")];
    thread::scope(|scope| {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            let disks = &disks;
            scope.spawn(move || {
                for round in 0..200 {
                    let fence = order.iter().fold(Fence::new("group", LONG), |fence, at| {
                        fence.gate(&disks[*at])
                    });
                    let names = |closed: &mut [ClosedGate<'_>]| {
                        let name = |gate: &ClosedGate<'_>| gate.gated().name().to_owned();
                        closed.iter().map(name).collect::<Vec<_>>()
                    };
                    let named = fence.raise(names).unwrap().value;
                    let asked = order.map(|at| disks[at].name().to_owned());
                    assert_eq!(named, asked, "in the order named, round {round}");
                    disks[order[0]].write_at(b"between", 0).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_gate_held_by_another_fence_is_reported_with_its_name() {
    let disk = disk("vda");
    let outer = Fence::new("outer", LONG).gate(&disk).raise(|_| {
        let inner = Fence::new("inner", SHORT).gate(&disk).raise(|_| ());
        inner.unwrap_err().to_string()
    });
    assert_eq!(
        outer.unwrap().value,
        "no instant for the group: the gate of vda did not close in time: the fence of outer had it closed"
    );
}

#[test]
fn bound_without_end_is_allowed() {
    let disk = disk("vda");
    let fence = Fence::new("group", Duration::MAX).gate(&disk);
    assert_eq!(fence.raise(|_| 7).unwrap().value, 7);
}

#[test]
fn a_disk_named_twice_is_refused_at_once() {
    let disk = disk("vda");
    let twice = Fence::new("group", LONG).gate(&disk).gate(&disk);
    let cause = twice.raise(|_| ()).unwrap_err().cause;
    assert!(matches!(cause, FenceCause::Close(CloseError::Twice { device }) if device == "vda"));
    disk.write_at(b"open", 0).unwrap();
}

#[test]
fn whoever_was_asked_to_freeze_thaws_in_reverse_and_others_are_left_alone() {
    let log = RefCell::new(Vec::new());
    let say = |word: &'static str| {
        log.borrow_mut().push(word);
        Ok(())
    };
    let refused = Fence::new("group", LONG)
        .hook("one", || say("freeze one"), || say("thaw one"))
        .hook("two", || say("freeze two"), || say("thaw two"))
        .hook("three", || Err("busy".into()), || say("thaw three"))
        .hook("four", || say("freeze four"), || say("thaw four"))
        .raise(|_| panic!("not frozen"));
    let error = refused.unwrap_err().to_string();
    assert_eq!(error, "no instant for the group: hook three: busy");
    assert_eq!(
        *log.borrow(),
        [
            "freeze one",
            "freeze two",
            "thaw three",
            "thaw two",
            "thaw one"
        ]
    );
}

#[test]
fn every_thaw_runs_though_one_fails_and_one_panics() {
    let thawed = RefCell::new(false);
    let fenced = Fence::new("group", LONG)
        .hook(
            "good",
            || Ok(()),
            || {
                *thawed.borrow_mut() = true;
                Ok(())
            },
        )
        .hook("bad", || Ok(()), || Err("no answer".into()))
        .hook("worse", || Ok(()), || panic!("thaw"))
        .raise(|_| 7)
        .unwrap();
    assert_eq!(fenced.value, 7);
    assert!(*thawed.borrow());
    let failures: Vec<_> = fenced
        .thaw_failures
        .iter()
        .map(HookFailure::to_string)
        .collect();
    assert_eq!(failures, ["hook worse: it panicked", "hook bad: no answer"]);
}

#[test]
fn panic_inside_opens_gates_and_thaws() {
    let disk = disk("vda");
    let thawed = RefCell::new(false);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        Fence::new("group", LONG)
            .gate(&disk)
            .hook(
                "guest",
                || Ok(()),
                || {
                    disk.write_at(b"open", 0)?;
                    *thawed.borrow_mut() = true;
                    Ok(())
                },
            )
            .raise(|_| panic!("inside"))
    }));
    assert!(panicked.is_err());
    assert!(*thawed.borrow());
}

fn disk(name: &str) -> Gated {
    Gated::new(Arc::new(MemoryDevice::new(name, 1 << 20)))
}
