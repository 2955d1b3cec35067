//! The field's own cases on whole runs: QEMU's worked examples, row by row, and what else its catalogue has and no other
//! file here. `docs/backup-cases.md` says which case is where, and where we differ on purpose.

use std::sync::{Arc, mpsc};

use cohort_backup::{
    BitmapPolicy, DiskOutcome, DiskPhase, DiskSpec, Hook, RunReport, StartError, SyncMode, Tracked,
};
use cohort_bitmap::Granularity;
use cohort_block::{Device, Fault, Faulty, Gated, MemoryDevice, Operation};
use cohort_job::{Disposition, Status};

use crate::example::{Ending, Example, LONG, Layer, dirty, shown, slowly, sparse};
use crate::served::run;
use crate::world::{
    BrokenFile, CLUSTER, World, bad_cluster, committed, disk, name, options, read_all,
};

const POLICIES: [BitmapPolicy; 4] = [
    BitmapPolicy::OnSuccess,
    BitmapPolicy::Always,
    BitmapPolicy::Ask,
    BitmapPolicy::Never,
];

/// Plays an ending under every policy that the mode has, and compares both views: base and writes say what the view
/// against the point is, `kept` what the one against the partial is.
fn endings(
    mode: SyncMode,
    (allocated, base, hold, writes): (&[u64], &str, u64, &str),
    ending: Ending,
    kept: Option<&str>,
) {
    let joined = |one: &str, other: &str| -> String {
        let bits = one.chars().zip(other.chars());
        bits.map(|(a, b)| if a == '1' || b == '1' { '1' } else { '0' })
            .collect()
    };
    for policy in POLICIES {
        if policy == BitmapPolicy::Never && mode != SyncMode::Bitmap {
            continue;
        }
        let example = Example::new(allocated.iter().copied(), base);
        let report = example.play(&slowly(mode, policy), hold, writes, ending);
        let keeps = matches!(policy, BitmapPolicy::Always | BitmapPolicy::Ask);
        let moved = ending == Ending::Finishes && policy != BitmapPolicy::Never;
        let point = if moved {
            writes.to_owned()
        } else {
            joined(base, writes)
        };
        let partial = kept.filter(|_| keeps).map(str::to_owned);
        let said = shown(report.rows.as_ref().unwrap());
        assert_eq!(said, (point, partial), "{mode}, {policy}, {ending:?}");
        example.completes();
    }
}

const ALL: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// The example of sync mode bitmap: 1 and 3 are copied, the guest writes 1, 2, 5, so 5 is saved before.
const BITMAP: (&[u64], &str, u64, &str) = (ALL, "0101010101010000", 3, "0110010000000000");
/// Those of full and top: 0 and 1 are copied, the guest writes 10 (allocated) and 15 (not).
const FULL: (&[u64], &str, u64, &str) = (
    &[0, 1, 2, 4, 6, 8, 10, 12],
    "0110000000000000",
    1,
    "0000000000100001",
);

#[test]
fn k1_to_k4_a_run_that_finishes_leaves_since() {
    endings(SyncMode::Bitmap, BITMAP, Ending::Finishes, None);
}

#[test]
fn k5_to_k8_a_read_error_at_9_keeps_what_was_copied() {
    endings(
        SyncMode::Bitmap,
        BITMAP,
        Ending::CannotRead9,
        Some("0110010001010000"),
    );
}

#[test]
fn k9_to_k12_a_soft_cancel_keeps_what_was_copied() {
    endings(
        SyncMode::Bitmap,
        BITMAP,
        Ending::Soft,
        Some("0110010101010000"),
    );
}

/// QEMU's forced cancel leaves what its soft one leaves; ours leaves no trace.
#[test]
fn k13_to_k16_a_forced_cancel_leaves_no_trace() {
    endings(SyncMode::Bitmap, BITMAP, Ending::Forced, None);
}

#[test]
fn k17_to_k20_a_peer_that_fails_or_is_cancelled_is_a_soft_cancel() {
    endings(
        SyncMode::Bitmap,
        BITMAP,
        Ending::PeerFails,
        Some("0110010101010000"),
    );
    endings(
        SyncMode::Bitmap,
        BITMAP,
        Ending::PeerCancelled,
        Some("0110010101010000"),
    );
}

#[test]
fn k21_to_k23_a_cancel_after_all_is_copied_leaves_since_against_the_partial() {
    for policy in POLICIES {
        let example = Example::new(0..16, BITMAP.1);
        let (tell, told) = mpsc::channel();
        // The peer stands still, so that the disk has to wait for it.
        let peer = DiskSpec::served(example.b.clone()).through(move |device| {
            let faulty = Faulty::new(device);
            tell.send(faulty.inject(Fault::stall(Operation::Read)))
                .unwrap();
            Arc::new(faulty)
        });
        let spec = DiskSpec::served(example.a.clone()).options(options(|o| o.policy(policy)));
        let running = example
            .world
            .backup()
            .disk(spec)
            .disk(peer)
            .start()
            .unwrap();
        let stall = told.recv().unwrap();
        while running.disks()[0].progress().phase != DiskPhase::Waiting {
            std::thread::yield_now();
        }
        dirty(&example.a, BITMAP.3);
        running.disks()[0].job().cancel(Disposition::Keep).unwrap();
        stall.release();
        let report = running.wait();
        let keeps = matches!(policy, BitmapPolicy::Always | BitmapPolicy::Ask);
        let said = shown(disk(&report, "a").rows.as_ref().unwrap());
        let partial = keeps.then(|| BITMAP.3.to_owned());
        assert_eq!(said, ("0111010101010000".to_owned(), partial), "{policy}");
        example.completes();
    }
}

/// QEMU's `always` turns everything dirty; a run that never was changes nothing of ours.
#[test]
fn k24_and_k88_a_launch_that_is_rolled_back_leaves_the_view_as_it_was() {
    for policy in POLICIES {
        let example = Example::new(0..16, BITMAP.1);
        let refuses = Hook::new(
            "guest",
            LONG,
            || Err("it will not freeze".into()),
            || Ok(()),
        );
        let spec = DiskSpec::served(example.a.clone()).options(options(|o| o.policy(policy)));
        let backup = example.world.backup().disk(spec).hook(refuses);
        let error = backup.start().unwrap_err();
        assert!(matches!(error, StartError::Fence(_)), "{error}");
        assert_eq!(example.a.dirty().unwrap().to_row(), BITMAP.1, "{policy}");
        assert!(example.a.dirty_against_partial().is_none());
        example.completes();
    }
}

#[test]
fn k25_to_k32_full_is_steered_by_nothing_and_leaves_what_is_missing() {
    endings(SyncMode::Full, FULL, Ending::Finishes, None);
    endings(SyncMode::Full, FULL, Ending::Soft, Some("0011111111111111"));
    endings(SyncMode::Full, FULL, Ending::Forced, None);
}

#[test]
fn k33_to_k40_top_takes_what_is_allocated_and_what_changed() {
    endings(SyncMode::Top, FULL, Ending::Finishes, None);
    endings(SyncMode::Top, FULL, Ending::Soft, Some("0010101010101001"));
    endings(SyncMode::Top, FULL, Ending::Forced, None);
}

#[test]
fn k41_to_k43_an_increment_holds_what_was_written_and_the_next_what_was_written_meanwhile() {
    let example = Example::new(0..16, "0101010101010000");
    let spec = || DiskSpec::served(example.a.clone());
    let (report, _) = run(&example.world, &[(&example.a, spec())]);
    let report = committed(report);
    assert_eq!(disk(&report, "a").copied_bytes, 6 * CLUSTER);
    assert!(example.a.dirty().unwrap().is_empty());
    // K42: nothing to do, and a point all the same.
    let (report, _) = run(&example.world, &[(&example.a, spec())]);
    assert_eq!(disk(&committed(report), "a").copied_bytes, 0);
    // K43: what is written during a run is what the next one copies.
    let writes = "0110010000000000";
    let report = example.play(
        &slowly(SyncMode::Full, BitmapPolicy::OnSuccess),
        3,
        writes,
        Ending::Finishes,
    );
    assert!(
        matches!(report.outcome, DiskOutcome::Committed(_)),
        "{report:?}"
    );
    let (report, copies) = run(&example.world, &[(&example.a, spec())]);
    let report = committed(report);
    assert_eq!(disk(&report, "a").copied_bytes, 3 * CLUSTER);
    assert!(example.world.restored("a", report.run.unwrap().0) == copies[0]);
}

/// For each cluster of six at which a run may fail.
#[test]
fn k45_a_failed_run_under_always_is_completed_wherever_it_failed() {
    for bad in [1, 3, 5, 7, 9, 11] {
        let example = Example::new(0..16, "0101010101010000");
        let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
        let spec = DiskSpec::served(example.a.clone()).options(always.clone());
        let running = example.world.backup().disk(spec.through(bad_cluster(bad)));
        let report = running.start().unwrap().wait();
        assert!(matches!(disk(&report, "a").outcome, DiskOutcome::Failed(_)));
        // What comes after it was not tried any more; before the first nothing was durable.
        let row = (0..16).map(|c| {
            if c >= bad && c % 2 == 1 && c < 12 {
                '1'
            } else {
                '0'
            }
        });
        let expected = (bad > 1).then(|| row.collect::<String>());
        let kept = example.a.dirty_against_partial().map(|view| view.to_row());
        assert_eq!(kept, expected, "{bad}");
        example.completes();
    }
}

/// QEMU's view is inflated to whole clusters; ours has only granules that were dirty.
#[test]
fn k48_small_granules_are_not_inflated_to_clusters() {
    let world = World::new();
    let device = Arc::new(MemoryDevice::new("a", 16 * CLUSTER));
    let granule = Granularity::new(4 << 10).unwrap();
    let gated = Arc::new(Gated::new(device));
    let a = Tracked::with_granularity(name("a"), gated, granule).unwrap();
    committed(run(&world, &[(&a, DiskSpec::served(a.clone()))]).0);
    for cluster in [1, 3, 5, 7] {
        a.gated().write_at(&[1], cluster * CLUSTER + 9000).unwrap();
    }
    let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
    let spec = DiskSpec::served(a.clone())
        .options(always)
        .through(bad_cluster(5));
    let report = world.run([spec]);
    assert!(!report.succeeded());
    let rows = disk(&report, "a").rows.clone().unwrap();
    let dirty: Vec<_> = rows.partial_view.unwrap().dirty_offsets().collect();
    assert_eq!(dirty, [5 * CLUSTER + 8192, 7 * CLUSTER + 8192]);
}

#[test]
fn k49_a_large_granule_stays_until_its_last_cluster_is_there() {
    let world = World::new();
    let device = Arc::new(MemoryDevice::new("a", 16 * CLUSTER));
    let granule = Granularity::new(256 << 10).unwrap();
    let a = Tracked::with_granularity(name("a"), Arc::new(Gated::new(device)), granule).unwrap();
    committed(run(&world, &[(&a, DiskSpec::served(a.clone()))]).0);
    a.gated()
        .write_at(&vec![1; 2 * 4 * CLUSTER as usize], 0)
        .unwrap();
    // Cluster 2 cannot be read: its granule stays, the other one is done.
    let always = options(|o| o.policy(BitmapPolicy::Always).workers(1));
    let spec = DiskSpec::served(a.clone())
        .options(always)
        .through(bad_cluster(2));
    let report = world.run([spec]);
    let rows = disk(&report, "a").rows.clone().unwrap();
    assert_eq!(rows.base.to_row(), "1100");
    assert_eq!(rows.partial_view.unwrap().to_row(), "1000");
}

#[test]
fn k51_a_cluster_is_copied_whole_though_half_of_it_is_dirty() {
    let world = World::new();
    let a = sparse("a", 0..16);
    let large = options(|o| o.cluster(128 << 10));
    let spec = || DiskSpec::served(a.clone()).options(large.clone());
    committed(run(&world, &[(&a, spec())]).0);
    a.gated().write_at(&[1], 3 * CLUSTER).unwrap();
    let (report, copies) = run(&world, &[(&a, spec())]);
    let report = committed(report);
    assert_eq!(disk(&report, "a").copied_bytes, 128 << 10);
    assert!(world.restored("a", 2) == copies[0]);
}

/// QEMU counts the last cluster whole; so do we, and the point has the disk's own size.
#[test]
fn k52_the_last_cluster_may_be_cut_short() {
    for tail in [1, 511, 513, 3 << 10, CLUSTER - 1] {
        let world = World::new();
        let device = MemoryDevice::new("a", 4 * CLUSTER + tail);
        device
            .write_at(&vec![7; tail as usize], 4 * CLUSTER)
            .unwrap();
        let a = Tracked::new(name("a"), Arc::new(Gated::new(Arc::new(device)))).unwrap();
        let (report, copies) = run(&world, &[(&a, DiskSpec::served(a.clone()))]);
        committed(report);
        assert!(world.restored("a", 1) == copies[0], "{tail}");
        world.check();
    }
}

#[test]
fn k63_an_unaligned_write_over_a_border_saves_both_clusters_whole() {
    let example = Example::new(0..16, "0001100000000000");
    let (running, stall) = example.begin(
        &slowly(SyncMode::Full, BitmapPolicy::OnSuccess),
        0,
        Ending::Finishes,
    );
    stall.release();
    let job = running.disks()[0].job().clone();
    while job.status() != Status::Paused {
        std::thread::yield_now();
    }
    let before = read_all(&**example.a.gated().device());
    let at = 7 * CLUSTER + 1000;
    example
        .a
        .gated()
        .write_at(&vec![0xee; (CLUSTER + CLUSTER / 2) as usize], at)
        .unwrap();
    job.resume().unwrap();
    job.set_speed(0).unwrap();
    let report = committed(running.wait());
    assert!(example.world.restored("a", report.run.unwrap().0) == before);
}

#[test]
fn k68_old_data_is_saved_while_the_job_is_paused_and_it_stays_paused() {
    let example = Example::new(0..16, "0000000000000000");
    let (running, stall) = example.begin(
        &slowly(SyncMode::Full, BitmapPolicy::OnSuccess),
        0,
        Ending::Finishes,
    );
    stall.release();
    let job = running.disks()[0].job().clone();
    while job.status() != Status::Paused {
        std::thread::yield_now();
    }
    let before = read_all(&**example.a.gated().device());
    dirty(&example.a, "1111111111111111");
    assert_eq!(job.status(), Status::Paused);
    job.resume().unwrap();
    job.set_speed(0).unwrap();
    let report = committed(running.wait());
    assert!(example.world.restored("a", report.run.unwrap().0) == before);
}

#[test]
fn k77_a_paused_job_can_be_cancelled_both_ways() {
    for disposition in [Disposition::Keep, Disposition::Discard] {
        let example = Example::new(0..16, "0101010101010000");
        let (running, stall) = example.begin(
            &slowly(SyncMode::Bitmap, BitmapPolicy::Always),
            3,
            Ending::Finishes,
        );
        stall.release();
        let job = running.disks()[0].job().clone();
        while job.status() != Status::Paused {
            std::thread::yield_now();
        }
        // QEMU refuses the soft one.
        job.cancel(disposition).unwrap();
        let report = running.wait();
        assert!(
            matches!(&disk(&report, "a").outcome, DiskOutcome::Aborted { disposition: how, .. } if *how == disposition)
        );
        example.completes();
    }
}

/// A disk without anything to copy is done at once, and fails with its group all the same.
#[test]
fn k82_a_disk_that_finished_first_falls_with_its_group() {
    let example = Example::new(0..16, "0000000000000000");
    let spec = DiskSpec::served(example.a.clone());
    let bad = DiskSpec::served(example.b.clone()).through(bad_cluster(2));
    let report = example.world.run([spec, bad]);
    assert!(
        matches!(disk(&report, "a").outcome, DiskOutcome::Aborted { .. }),
        "{report:?}"
    );
    assert!(matches!(disk(&report, "b").outcome, DiskOutcome::Failed(_)));
    assert_eq!(example.a.dirty().unwrap().to_row(), "0000000000000000");
    assert_eq!(example.b.dirty().unwrap().to_row(), "1111000000000000");
    example.completes();
}

/// Single and grouped: who commits moves, who fails does not.
#[test]
fn k85_and_k86_what_a_peer_s_failure_means_is_for_the_group_to_say() {
    for individual in [true, false] {
        let example = Example::new(0..16, "0101010101010000");
        let always = options(|o| o.policy(BitmapPolicy::Always));
        let spec = |disk: &Arc<Tracked>| DiskSpec::served(disk.clone()).options(always.clone());
        let backup = example.world.backup().individual(individual);
        let backup = backup.disk(spec(&example.a));
        let report = backup
            .disk(spec(&example.b).through(bad_cluster(2)))
            .start()
            .unwrap()
            .wait();
        let alone = matches!(disk(&report, "a").outcome, DiskOutcome::Committed(_));
        assert_eq!(alone, individual);
        let row = if individual {
            "0000000000000000"
        } else {
            "0101010101010000"
        };
        assert_eq!(example.a.dirty().unwrap().to_row(), row);
        assert_eq!(
            example.a.dirty_against_partial().is_some(),
            disk(&report, "a").left.is_some()
        );
        assert_eq!(example.b.dirty().unwrap().to_row(), "1111000000000000");
        example.completes();
    }
}

#[test]
fn k92_zeroes_of_the_source_are_zeroes_of_the_target_and_are_not_read() {
    let world = World::new();
    let a = sparse("a", [3]);
    let (tell, told) = mpsc::channel();
    let spec = DiskSpec::served(a.clone()).through(move |inner| {
        let layer = Layer::over(inner);
        tell.send(layer.reads.clone()).unwrap();
        Arc::new(layer)
    });
    let report: RunReport = world.commit([spec]);
    assert_eq!(disk(&report, "a").copied_bytes, CLUSTER);
    let reads = told.recv().unwrap();
    let reads = reads.lock().unwrap();
    assert!(
        reads
            .iter()
            .all(|at| (3 * CLUSTER..4 * CLUSTER).contains(at)),
        "{reads:?}"
    );
}

/// The flush comes first: what the catalogue calls a point is durable.
#[test]
fn k105_a_target_that_cannot_be_flushed_makes_no_point_and_clears_nothing() {
    let example = Example::new(0..16, "0101010101010000");
    let backup = example
        .world
        .backup()
        .disk(DiskSpec::served(example.a.clone()));
    let backup = backup.target_files(|_, inner| {
        Arc::new(BrokenFile {
            sync_fails: true,
            ..BrokenFile::new(inner)
        })
    });
    // The target's first seal is part of making it.
    match backup.start() {
        Ok(running) => assert!(!running.wait().succeeded()),
        Err(error) => assert!(matches!(error, StartError::Disk { .. }), "{error}"),
    }
    assert_eq!(example.a.dirty().unwrap().to_row(), "0101010101010000");
    assert_eq!(example.world.points("a"), [1]);
    example.completes();
}
