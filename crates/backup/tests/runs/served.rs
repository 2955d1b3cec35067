//! Served disks: writers go on all the while, and every point is the disk as it was inside the fence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use cohort_backup::catalogue::Instant;
use cohort_backup::{
    BitmapPolicy, Compression, DiskError, DiskOutcome, DiskSpec, OnUndecided, Options, RunReport,
    StartError, SyncMode, Tracked,
};
use cohort_block::{Device, Fault, Faulty, Gated, MemoryDevice, Operation};
use cohort_job::Disposition;

use crate::world::{
    BrokenFile, CLUSTER, World, bad_cluster, committed, disk, name, options, policy, read_all,
    write,
};

const CLUSTERS: u64 = 48;

/// A disk in memory, with an odd end, and its gate.
pub(crate) fn served(disk: &str) -> Arc<Tracked> {
    let device = MemoryDevice::new(disk, CLUSTERS * CLUSTER - 1000);
    for cluster in 0..CLUSTERS - 1 {
        device
            .write_at(
                &vec![cluster as u8 + 1; CLUSTER as usize],
                cluster * CLUSTER,
            )
            .unwrap();
    }
    Tracked::new(name(disk), Arc::new(Gated::new(Arc::new(device)))).unwrap()
}

/// Threads that write to a disk, through its gate, until they are stopped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Writers {
    pub(crate) fn start(tracked: &Arc<Tracked>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|thread| {
            let (gated, stop) = (tracked.gated().clone(), stop.clone());
            thread::spawn(move || {
                let mut random = seed * 2 + thread + 1;
                let mut writes = 0;
                while !stop.load(Ordering::Acquire) {
                    // xorshift64
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let length = random % 9000 + 1;
                    let offset = (random >> 20) % (gated.size() - length);
                    match random % 5 {
                        0 => gated.write_zeroes(offset, length).unwrap(),
                        _ => gated
                            .write_at(&vec![(random >> 8) as u8; length as usize], offset)
                            .unwrap(),
                    }
                    writes += 1;
                }
                writes
            })
        });
        Writers {
            threads: threads.collect(),
            stop,
        }
    }

    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    }
}

type Copies = Arc<Mutex<Vec<Vec<u8>>>>;

/// Runs a backup of these disks, and copies each of them inside the fence.
pub(crate) fn run(world: &World, disks: &[(&Arc<Tracked>, DiskSpec)]) -> (RunReport, Vec<Vec<u8>>) {
    let copies = Copies::default();
    let (result, devices) = (
        copies.clone(),
        disks.iter().map(|(disk, _)| disk.gated().device().clone()),
    );
    let devices: Vec<_> = devices.collect();
    let mut run = world.backup().inside_fence(move || {
        *result.lock().unwrap() = devices.iter().map(|device| read_all(&**device)).collect();
    });
    for (_, spec) in disks {
        run = run.disk(spec.clone());
    }
    let report = run.start().unwrap().wait();
    let copies = copies.lock().unwrap().clone();
    (report, copies)
}

fn spec(disk: &Arc<Tracked>, options: Options) -> DiskSpec {
    DiskSpec::served(disk.clone()).options(options)
}

#[test]
fn points_under_live_writers_are_what_the_disks_were_inside_the_fence() {
    let world = World::new();
    let (a, b) = (served("a"), served("b"));
    let writers = [Writers::start(&a, 1), Writers::start(&b, 2)];
    let mut kept = Vec::new();
    let modes = [
        SyncMode::Bitmap,
        SyncMode::Bitmap,
        SyncMode::Full,
        SyncMode::Bitmap,
        SyncMode::Top,
    ];
    for mode in modes {
        let options = options(|o| {
            o.mode(mode).cluster(if mode == SyncMode::Bitmap {
                64 << 10
            } else {
                32 << 10
            })
        });
        let (report, copies) = run(
            &world,
            &[(&a, spec(&a, options.clone())), (&b, spec(&b, options))],
        );
        let report = committed(report);
        for disk in &report.disks {
            let DiskOutcome::Committed(point) = &disk.outcome else {
                unreachable!()
            };
            assert_eq!(point.instant, Instant::Proven);
        }
        kept.push(copies);
    }
    assert!(writers.into_iter().map(Writers::stop).sum::<u64>() > 0);
    for (index, copies) in kept.iter().enumerate() {
        assert!(
            world.restored("a", index as u64 + 1) == copies[0],
            "a@{}",
            index + 1
        );
        assert!(
            world.restored("b", index as u64 + 1) == copies[1],
            "b@{}",
            index + 1
        );
    }
    world.check();
}

#[test]
fn failures_under_every_policy_lose_no_write() {
    for policy_of_all in [
        BitmapPolicy::OnSuccess,
        BitmapPolicy::Always,
        BitmapPolicy::Ask,
        BitmapPolicy::Never,
    ] {
        let world = World::new();
        let (a, b) = (served("a"), served("b"));
        let options = options(|o| o.policy(policy_of_all).undecided(OnUndecided::Keep));
        let all = |a_spec: DiskSpec| [(&a, a_spec), (&b, spec(&b, options.clone()))];
        committed(run(&world, &all(spec(&a, options.clone()))).0);
        let writers = [Writers::start(&a, 3), Writers::start(&b, 4)];
        for round in 0..3 {
            a.gated().write_at(&[round; 70_000], 11 * CLUSTER).unwrap();
            let bad = spec(&a, options.clone()).through(bad_cluster(11));
            let (report, _) = run(&world, &all(bad));
            assert!(!report.succeeded());
            let kept = disk(&report, "b").left.is_some();
            assert!(!kept || matches!(policy_of_all, BitmapPolicy::Always | BitmapPolicy::Ask));
            world.check();
        }
        let (report, copies) = run(&world, &all(spec(&a, options.clone())));
        let report = committed(report);
        assert!(writers.into_iter().map(Writers::stop).sum::<u64>() > 0);
        let last = report.run.unwrap().0;
        assert!(world.restored("a", last) == copies[0], "{policy_of_all}");
        assert!(world.restored("b", last) == copies[1], "{policy_of_all}");
        // Quiet now: the next increment is exact, and the bitmap says so.
        let (report, copies) = run(&world, &all(spec(&a, options.clone())));
        let report = committed(report);
        assert!(
            world.restored("a", report.run.unwrap().0) == copies[0],
            "{policy_of_all}"
        );
        world.check();
    }
}

/// The worked example of the bitmap rules, on a real target: rows of bits before and after.
#[test]
fn rows_of_a_failed_run_are_those_of_the_table() {
    for (policy_of_a, point, partial) in [
        (BitmapPolicy::OnSuccess, "0111010101010000", None),
        (
            BitmapPolicy::Always,
            "0111010101010000",
            Some("0110000001010000"),
        ),
        (
            BitmapPolicy::Ask,
            "0111010101010000",
            Some("0110000001010000"),
        ),
        (BitmapPolicy::Never, "0111010101010000", None),
    ] {
        let world = World::new();
        let device = Arc::new(MemoryDevice::new("a", 16 * CLUSTER));
        let a = Tracked::new(name("a"), Arc::new(Gated::new(device))).unwrap();
        committed(run(&world, &[(&a, spec(&a, policy(BitmapPolicy::OnSuccess)))]).0);
        for cluster in [1, 3, 5, 7, 9, 11] {
            a.gated()
                .write_at(&[cluster as u8], cluster * CLUSTER)
                .unwrap();
        }
        assert_eq!(a.dirty().unwrap().to_row(), "0101010101010000");
        // The copy stands still at cluster 9 while the guest writes; then that read fails.
        let (tell, told) = std::sync::mpsc::channel();
        let options = options(|o| o.policy(policy_of_a).workers(1));
        let stalled = spec(&a, options).through(move |device| {
            let faulty = Faulty::new(device);
            let stall =
                faulty.inject(Fault::stall(Operation::Read).within(9 * CLUSTER..10 * CLUSTER));
            let _ = faulty.inject(Fault::error(Operation::Read).within(9 * CLUSTER..10 * CLUSTER));
            tell.send(stall).unwrap();
            Arc::new(faulty)
        });
        let running = world.backup().disk(stalled).start().unwrap();
        let stall = told.recv().unwrap();
        stall.wait_for_strikes(1);
        for cluster in [1, 2] {
            a.gated().write_at(&[0xff], cluster * CLUSTER).unwrap();
        }
        stall.release();
        let report = running.wait();
        assert!(
            matches!(disk(&report, "a").outcome, DiskOutcome::Failed(_)),
            "{report:?}"
        );
        let rows = disk(&report, "a").rows.clone().unwrap();
        assert_eq!(rows.base.to_row(), "0101010101010000");
        assert_eq!(rows.since.to_row(), "0110000000000000");
        // Without a partial to keep nothing was made durable.
        let remaining = if partial.is_some() {
            "0000000001010000"
        } else {
            "0101010101010000"
        };
        assert_eq!(rows.remaining.to_row(), remaining);
        assert_eq!(rows.point_view.to_row(), point);
        assert_eq!(
            rows.partial_view.map(|row| row.to_row()).as_deref(),
            partial
        );
        assert_eq!(a.dirty().unwrap().to_row(), point);
        world.check();
    }
}

#[test]
fn forced_cancel_leaves_no_trace_and_no_write_is_forgotten() {
    for disposition in [Disposition::Keep, Disposition::Discard] {
        let world = World::new();
        let (a, b) = (served("a"), served("b"));
        let always = || policy(BitmapPolicy::Always);
        committed(
            run(
                &world,
                &[(&a, spec(&a, always())), (&b, spec(&b, always()))],
            )
            .0,
        );
        a.gated()
            .write_at(&vec![0x5a; 30 * CLUSTER as usize], 0)
            .unwrap();
        b.gated().write_at(&[0x5b], 7 * CLUSTER).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let held = spec(&a, always()).through(move |device| {
            let faulty = Faulty::new(device);
            tell.send(
                faulty.inject(Fault::stall(Operation::Read).within(20 * CLUSTER..20 * CLUSTER + 1)),
            )
            .unwrap();
            Arc::new(faulty)
        });
        let running = world
            .backup()
            .disk(held)
            .disk(spec(&b, always()))
            .start()
            .unwrap();
        let stall = told.recv().unwrap();
        stall.wait_for_strikes(1);
        a.gated().write_at(&[1; 100], 40 * CLUSTER).unwrap();
        running.disks()[1].job().cancel(disposition).unwrap();
        stall.release();
        let report = running.wait();
        let discard = disposition == Disposition::Discard;
        assert_eq!(world.contents().partials.is_empty(), discard, "{report:?}");
        assert_eq!(a.dirty_against_partial().is_none(), discard);
        let dirty = a.dirty().unwrap();
        assert!(
            (0..30)
                .chain([40])
                .all(|cluster| dirty.get(cluster * CLUSTER)),
            "{}",
            dirty.to_row()
        );
        assert_eq!(dirty.dirty_granules(), 31);
        world.check();
        let (report, copies) = run(
            &world,
            &[(&a, spec(&a, always())), (&b, spec(&b, always()))],
        );
        let last = committed(report).run.unwrap().0;
        assert!(world.restored("a", last) == copies[0]);
        assert!(world.restored("b", last) == copies[1]);
    }
}

#[test]
fn new_process_finds_the_changes_by_comparing_while_writers_go_on() {
    let world = World::new();
    let device = served("a").gated().device().clone();
    let fresh = || Tracked::new(name("a"), Arc::new(Gated::new(device.clone()))).unwrap();
    committed(run(&world, &[(&fresh(), spec(&fresh(), Options::default()))]).0);
    device.write_at(&[9; 10], 5 * CLUSTER).unwrap();
    let again = fresh();
    let (report, copies) = run(&world, &[(&again, spec(&again, Options::default()))]);
    let report = committed(report);
    assert_eq!(disk(&report, "a").copied_bytes, CLUSTER);
    assert!(world.restored("a", 2) == copies[0]);
    let live = fresh();
    let writers = Writers::start(&live, 5);
    let (report, copies) = run(&world, &[(&live, spec(&live, Options::default()))]);
    committed(report);
    writers.stop();
    assert!(world.restored("a", 3) == copies[0]);
    world.check();
}

#[test]
fn target_that_cannot_take_old_data_breaks_the_backup_and_not_the_write() {
    let world = World::new();
    let a = served("a");
    committed(run(&world, &[(&a, spec(&a, Options::default()))]).0);
    a.gated()
        .write_at(&vec![0x77; 20 * CLUSTER as usize], 0)
        .unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let held = spec(&a, options(|o| o.workers(1).staging_memory(0))).through(move |device| {
        let faulty = Faulty::new(device);
        tell.send(faulty.inject(Fault::stall(Operation::Read).within(0..1)))
            .unwrap();
        Arc::new(faulty)
    });
    let run_again = world.backup().disk(held);
    let full = run_again.target_files(|_, file| {
        Arc::new(BrokenFile {
            room: 2 * CLUSTER,
            ..BrokenFile::new(file)
        })
    });
    let running = full.start().unwrap();
    let stall = told.recv().unwrap();
    stall.wait_for_strikes(1);
    // Not yet copied: their old data does not fit into the target. The writes succeed all the same.
    a.gated()
        .write_at(&vec![0x78; 3 * CLUSTER as usize], 17 * CLUSTER)
        .unwrap();
    stall.release();
    let report = running.wait();
    assert!(
        matches!(
            disk(&report, "a").outcome,
            DiskOutcome::Failed(DiskError::Broken(_))
        ),
        "{report:?}"
    );
    let (report, copies) = run(&world, &[(&a, spec(&a, Options::default()))]);
    let last = committed(report).run.unwrap().0;
    assert!(world.restored("a", last) == copies[0]);
    world.check();
}

#[test]
fn disk_that_a_run_has_is_busy_for_others_and_untouched_by_what_did_not_start() {
    let world = World::new();
    let a = served("a");
    committed(run(&world, &[(&a, spec(&a, Options::default()))]).0);
    a.gated().write_at(&[1], 3 * CLUSTER).unwrap();
    let before = a.dirty().unwrap().to_row();
    let missing = DiskSpec::file(world.path("none.raw"));
    assert!(
        world
            .backup()
            .disk(DiskSpec::served(a.clone()))
            .disk(missing)
            .start()
            .is_err()
    );
    assert_eq!(a.dirty().unwrap().to_row(), before);
    let twice = world
        .backup()
        .disk(DiskSpec::served(a.clone()))
        .disk(DiskSpec::served(a.clone()).name("b"));
    assert!(twice.start().unwrap_err().to_string().contains("same disk"));
    assert_eq!(a.dirty().unwrap().to_row(), before);
}

#[test]
fn missed_fence_starts_nothing_and_leaves_every_disk_as_it_was() {
    let world = World::new();
    let a = served("a");
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("b", 8 * CLUSTER))));
    let b = Tracked::new(name("b"), Arc::new(Gated::new(faulty.clone()))).unwrap();
    let run = || {
        let quick = options(|o| o.writer_wait(std::time::Duration::from_millis(30)));
        world
            .backup()
            .disk(spec(&a, quick.clone()))
            .disk(spec(&b, quick))
    };
    committed(run().start().unwrap().wait());
    a.gated().write_at(&[1], 3 * CLUSTER).unwrap();
    let stall = faulty.inject(Fault::stall(Operation::Write));
    let gated = b.gated().clone();
    let writer = thread::spawn(move || gated.write_at(&[2], 0).unwrap());
    stall.wait_for_strikes(1);
    let error = run().start().unwrap_err();
    assert!(matches!(error, StartError::Fence(_)), "{error}");
    stall.release();
    writer.join().unwrap();
    let rows = [&a, &b].map(|disk| disk.dirty().unwrap().dirty_granules());
    assert_eq!(rows, [1, 1]);
    world.check();
    let (report, copies) = crate::served::run(
        &world,
        &[
            (&a, spec(&a, Options::default())),
            (&b, spec(&b, Options::default())),
        ],
    );
    let last = committed(report).run.unwrap().0;
    assert!(world.restored("a", last) == copies[0]);
    assert!(world.restored("b", last) == copies[1]);
}

/// A disk that is backed up into two directories, of which one has a point that cannot be read any more.
#[test]
fn search_that_fails_forgets_what_is_recorded_no_more() {
    let (world, other) = (World::new(), World::new());
    let a = served("a");
    let packed = options(|o| o.compress(Compression::Zlib).strict(true));
    committed(run(&other, &[(&a, spec(&a, packed.clone()))]).0);
    committed(run(&world, &[(&a, spec(&a, Options::default()))]).0);
    let contents = other.contents();
    let image = contents.images().next().unwrap().to_string();
    // Where the first compressed clusters lie.
    write(&other.repository().join(image), CLUSTER, 0xff, CLUSTER / 4);
    let error = other.backup().disk(spec(&a, packed)).start().unwrap_err();
    assert!(error.to_string().contains("everything"), "{error}");
    a.gated().write_at(&[0xaa; 512], 9 * CLUSTER).unwrap();
    let (report, copies) = run(&world, &[(&a, spec(&a, Options::default()))]);
    let last = committed(report).run.unwrap().0;
    assert!(world.restored("a", last) == copies[0]);
}

#[test]
fn individual_served_disks_share_the_fence_and_end_on_their_own() {
    let world = World::new();
    let (a, b) = (served("a"), served("b"));
    let bad = spec(&b, policy(BitmapPolicy::Always)).through(bad_cluster(20));
    let run = world.backup().individual(true);
    let report = run
        .disk(spec(&a, Options::default()))
        .disk(bad)
        .start()
        .unwrap()
        .wait();
    assert!(
        matches!(disk(&report, "a").outcome, DiskOutcome::Committed(_)),
        "{report:?}"
    );
    assert!(
        matches!(disk(&report, "b").outcome, DiskOutcome::Failed(_)),
        "{report:?}"
    );
    assert_eq!(a.dirty().unwrap().dirty_granules(), 0);
    assert_eq!(b.dirty().unwrap().dirty_granules(), CLUSTERS);
    let partial = b.dirty_against_partial().unwrap().dirty_granules();
    assert!(0 < partial && partial < CLUSTERS, "{partial}");
    world.check();
}
