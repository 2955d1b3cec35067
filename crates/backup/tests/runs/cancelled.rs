//! Cancels, soft and forced, and how they reach peers.

use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};

use cohort_backup::catalogue::Decision;
use cohort_backup::{BitmapPolicy, DiskOutcome, DiskPhase, DiskSpec, RunReport, Running, SyncMode};
use cohort_block::{Device, Fault, Faulty, Injected, Operation};
use cohort_job::{Cause, Disposition};

use crate::served::served;
use crate::world::{CLUSTER, World, committed, disk, options, policy, write};

/// A disk that stands still when a cluster is read for the nth time, and the hand that lets it go on.
fn held_at(
    path: &Path,
    cluster: u64,
    read: u64,
    options: cohort_backup::Options,
) -> (DiskSpec, mpsc::Receiver<Injected>) {
    let (tell, told) = mpsc::channel();
    let spec = DiskSpec::file(path)
        .options(options)
        .through(move |device| {
            let faulty = Faulty::new(device);
            let at = cluster * CLUSTER;
            let stall = faulty.inject(Fault::stall(Operation::Read).within(at..at + 1).nth(read));
            tell.send(stall).unwrap();
            Arc::new(faulty)
        });
    (spec, told)
}

/// Softly cancels the second disk, which stands still, once the first is complete and waits for it.
fn cancelled_beside_one_that_waits(
    running: Running,
    stall: &mpsc::Receiver<Injected>,
) -> RunReport {
    let stall = stall.recv().unwrap();
    stall.wait_for_strikes(1);
    while running.disks()[0].progress().phase != DiskPhase::Waiting {
        std::thread::yield_now();
    }
    running.disks()[1].job().cancel(Disposition::Keep).unwrap();
    stall.release();
    running.wait()
}

#[test]
fn cancel_of_one_disk_reaches_its_peers_with_its_meaning() {
    for disposition in [Disposition::Keep, Disposition::Discard] {
        let world = World::new();
        let (a, b) = (world.raw("a.raw", 40), world.raw("b.raw", 8));
        let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
        let (held, stall) = held_at(&a, 20, 1, always.clone());
        let running = world
            .backup()
            .disk(held)
            .disk(DiskSpec::file(&b).options(always.clone()))
            .start()
            .unwrap();
        let stall = stall.recv().unwrap();
        stall.wait_for_strikes(1);
        running.disks()[0].job().cancel(disposition).unwrap();
        stall.release();
        let report = running.wait();
        assert!(
            matches!(
                disk(&report, "a").outcome,
                DiskOutcome::Aborted {
                    cause: Cause::Cancelled(0),
                    ..
                }
            ),
            "{report:?}"
        );
        assert!(
            matches!(
                disk(&report, "b").outcome,
                DiskOutcome::Aborted {
                    cause: Cause::Cancelled(0),
                    ..
                }
            ),
            "{report:?}"
        );
        let kept = disk(&report, "a")
            .left
            .as_ref()
            .map(|partial| partial.decision);
        assert_eq!(
            kept,
            (disposition == Disposition::Keep).then_some(Decision::Keep)
        );
        assert!(world.points("a").is_empty() && world.points("b").is_empty());
        if disposition == Disposition::Discard {
            assert!(world.contents().partials.is_empty());
            assert_eq!(
                fs::read_dir(world.repository())
                    .unwrap()
                    .filter(is_image)
                    .count(),
                0,
                "no trace is left"
            );
        }
        world.check();
        let again = world
            .backup()
            .disk(DiskSpec::file(&a).options(always.clone()))
            .disk(DiskSpec::file(&b));
        committed(again.start().unwrap().wait());
        assert!(world.restored("a", 2) == fs::read(&a).unwrap());
        assert!(world.restored("b", 2) == fs::read(&b).unwrap());
        world.check();
    }
}

#[test]
fn discard_also_drops_the_partial_that_the_run_continued() {
    let world = World::new();
    let a = world.raw("a.raw", 40);
    let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
    // With a partial to continue the disk is read once more, to be compared with that.
    for (disposition, read, left) in [
        (Disposition::Keep, 1, true),
        (Disposition::Keep, 2, true),
        (Disposition::Discard, 2, false),
    ] {
        write(
            &a,
            0,
            if left { 0x40 + read as u8 } else { 0x50 },
            40 * CLUSTER,
        );
        let (held, stall) = held_at(&a, 30, read, always.clone());
        let running = world.backup().disk(held).start().unwrap();
        let stall = stall.recv().unwrap();
        stall.wait_for_strikes(1);
        running.cancel(disposition);
        stall.release();
        let report = running.wait();
        assert_eq!(disk(&report, "a").left.is_some(), left, "{report:?}");
        assert_eq!(world.contents().partials.len(), usize::from(left));
        world.check();
    }
}

#[test]
fn disk_without_changes_leaves_no_partial_when_its_peer_is_cancelled() {
    for kept in [BitmapPolicy::Always, BitmapPolicy::Ask] {
        let world = World::new();
        let (a, b) = (served("a"), world.raw("b.raw", 8));
        let still = || DiskSpec::served(a.clone()).options(policy(kept));
        committed(world.backup().disk(still()).start().unwrap().wait());
        let (held, stall) = held_at(&b, 4, 1, policy(kept));
        let running = world.backup().disk(still()).disk(held).start().unwrap();
        let report = cancelled_beside_one_that_waits(running, &stall);
        assert_eq!(
            disk(&report, "a").left,
            None,
            "nothing was copied: {report:?}"
        );
        assert!(!world.contents().partials.contains_key(a.name()));
        // Zeroes over zeroes: no comparison would find them, so what was known is still known.
        let end = a.gated().size() - 1000;
        a.gated().write_zeroes(end, 1000).unwrap();
        let mode = options(|o| o.mode(SyncMode::Bitmap));
        let next = world
            .backup()
            .disk(DiskSpec::served(a.clone()).options(mode));
        let report = committed(next.start().unwrap().wait());
        let rows = disk(&report, "a").rows.clone().unwrap();
        assert_eq!(rows.base.dirty_offsets().count(), 1, "it was compared");
        world.check();
    }
}

#[test]
fn partial_that_stays_after_another_run_says_how_that_one_ended() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 40), world.raw("b.raw", 8));
    let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
    let (held, stall) = held_at(&a, 30, 1, always);
    let running = world.backup().disk(held).start().unwrap();
    let stall = stall.recv().unwrap();
    stall.wait_for_strikes(1);
    running.cancel(Disposition::Keep);
    stall.release();
    running.wait();
    let success = policy(BitmapPolicy::OnSuccess);
    let (held, stall) = held_at(&b, 4, 1, success.clone());
    let finishes = DiskSpec::file(&a).options(success);
    let running = world.backup().disk(finishes).disk(held).start().unwrap();
    let report = cancelled_beside_one_that_waits(running, &stall);
    let partial = disk(&report, "a").left.as_ref().unwrap();
    assert_eq!(partial.run.0, 2, "its row was written again");
    assert_eq!(partial.why, "another disk of the group was cancelled");
    world.check();
}

#[test]
fn hurry_keeps_nothing_that_is_not_durable_and_loses_no_chain() {
    let world = World::new();
    let a = world.raw("a.raw", 40);
    let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
    let (held, stall) = held_at(&a, 20, 1, always);
    let running = world.backup().disk(held).start().unwrap();
    let stall = stall.recv().unwrap();
    stall.wait_for_strikes(1);
    running.hurry();
    stall.release();
    let report = running.wait();
    // What a checkpoint made durable in time is kept, and no more.
    let left = disk(&report, "a").left.as_ref();
    assert!(left.is_none_or(|left| left.durable_bytes <= 20 * CLUSTER));
    world.check();
    committed(
        world
            .backup()
            .disk(DiskSpec::file(&a))
            .start()
            .unwrap()
            .wait(),
    );
    assert!(world.restored("a", 2) == fs::read(&a).unwrap());
}

fn is_image(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry
        .as_ref()
        .unwrap()
        .path()
        .extension()
        .is_some_and(|extension| extension == "qcow2")
}
