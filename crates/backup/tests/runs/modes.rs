//! Options one by one: sync modes, units of copying, error policies that wait for the operator, copies by the kernel.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_backup::{
    BitmapPolicy, Budget, DiskError, DiskOutcome, DiskSpec, ErrorPolicy, Options, Running,
    Selection, StartError, SyncMode, Verify,
};
use cohort_block::{Device, DeviceError, File, Operation};
use cohort_job::Disposition;

use crate::served::served;
use crate::world::{
    BrokenFile, CLUSTER, World, committed, disk, have_qemu_img, options, qemu_img, read_all, write,
};

/// A disk of which one cluster cannot be read until it is mended, and that remembers what was read.
#[derive(Debug)]
struct Moody {
    inner: Arc<dyn Device>,
    bad: u64,
    mended: Arc<AtomicBool>,
    reads: Arc<Mutex<Vec<u64>>>,
}

/// Its bad cluster, whether that is mended, and the clusters that were read.
type Mood = (u64, Arc<AtomicBool>, Arc<Mutex<Vec<u64>>>);

fn mood(bad: u64) -> Mood {
    (bad, Arc::default(), Arc::default())
}

fn moody(mood: &Mood) -> impl Fn(Arc<dyn Device>) -> Arc<dyn Device> + Send + Sync + 'static {
    let (bad, mended, reads) = mood.clone();
    move |inner| {
        Arc::new(Moody {
            inner,
            bad,
            mended: mended.clone(),
            reads: reads.clone(),
        })
    }
}

impl Device for Moody {
    cohort_block::forward!(inner: name, size, write_at, write_zeroes, discard, flush, extent);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.reads.lock().unwrap().push(offset / CLUSTER);
        let (start, end) = (self.bad * CLUSTER, (self.bad + 1) * CLUSTER);
        if offset < end && offset + buf.len() as u64 > start && !self.mended.load(Ordering::Acquire)
        {
            let cause = std::io::Error::other("no such sector");
            return Err(DeviceError::new(
                self.name(),
                Operation::Read,
                offset,
                buf.len() as u64,
                cause,
            ));
        }
        self.inner.read_at(buf, offset)
    }
}

/// Waits until the run's first disk waits for the operator, and gives what it says.
fn until_stopped(running: &Running) -> String {
    loop {
        if let Some(error) = running.disks()[0].stopped() {
            return error;
        }
        assert!(!running.is_finished_within(Duration::from_millis(5)));
    }
}

/// Has the run's first disk go on. It says that it stops a moment before it can be resumed.
fn resume(running: &Running) {
    while running.disks()[0].job().resume().is_err() {
        assert!(!running.is_finished_within(Duration::from_millis(1)));
    }
}

fn stops() -> Options {
    options(|o| {
        o.on_source_error(ErrorPolicy::Stop(Budget::NONE))
            .on_target_error(ErrorPolicy::Enospc)
    })
}

#[test]
fn stop_waits_for_the_operator_and_resume_goes_on() {
    let world = World::new();
    let a = world.raw("a.raw", 12);
    let mood = mood(6);
    let spec = DiskSpec::file(&a).options(stops()).through(moody(&mood));
    let running = world.backup().disk(spec).start().unwrap();
    for _ in 0..2 {
        let error = until_stopped(&running);
        assert!(error.contains("no such sector"), "{error}");
        let bad = mood.0;
        mood.2.lock().unwrap().clear();
        resume(&running);
        // Not mended yet: it is tried again, and the job waits again.
        while !mood.2.lock().unwrap().contains(&bad) {
            assert!(!running.is_finished_within(Duration::from_millis(1)));
        }
    }
    until_stopped(&running);
    mood.1.store(true, Ordering::Release);
    resume(&running);
    committed(running.wait());
    assert!(world.restored("a", 1) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn stopped_job_can_be_cancelled_and_keeps_what_its_policy_says() {
    let world = World::new();
    let a = world.raw("a.raw", 12);
    let mood = mood(6);
    let options = stops()
        .to_builder()
        .policy(BitmapPolicy::Always)
        .workers(1)
        .build()
        .unwrap();
    let spec = DiskSpec::file(&a).options(options).through(moody(&mood));
    let running = world.backup().disk(spec).start().unwrap();
    until_stopped(&running);
    running.cancel(Disposition::Keep);
    let report = running.wait();
    let left = disk(&report, "a").left.as_ref().unwrap();
    assert!(left.durable_bytes >= 4 * CLUSTER, "{left:?}");
    world.check();
}

/// A file with room for so many bytes, which grows when it is told.
#[derive(Debug)]
struct Tight {
    inner: BrokenFile,
    roomy: Arc<AtomicBool>,
}

impl File for Tight {
    cohort_block::forward_file!(inner: read_at, sync_data, len, set_len);

    fn write_at(&self, buf: &[u8], offset: u64) -> std::io::Result<()> {
        match self.roomy.load(Ordering::Acquire) {
            true => self.inner.inner.write_at(buf, offset),
            false => self.inner.write_at(buf, offset),
        }
    }
}

#[test]
fn full_target_waits_under_enospc_and_goes_on_once_there_is_room() {
    let world = World::new();
    let a = world.raw("a.raw", 12);
    let roomy = Arc::new(AtomicBool::new(false));
    let room = roomy.clone();
    let run = world
        .backup()
        .disk(DiskSpec::file(&a).options(stops()))
        .target_files(move |_, file| {
            let inner = BrokenFile {
                room: 5 * CLUSTER,
                ..BrokenFile::new(file)
            };
            Arc::new(Tight {
                inner,
                roomy: room.clone(),
            })
        });
    let running = run.start().unwrap();
    until_stopped(&running);
    roomy.store(true, Ordering::Release);
    resume(&running);
    committed(running.wait());
    assert!(world.restored("a", 1) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn what_was_left_out_is_tried_before_anything_else() {
    let world = World::new();
    let a = world.raw("a.raw", 40);
    let mood = mood(30);
    let skip = options(|o| {
        o.workers(1).on_source_error(ErrorPolicy::Skip {
            budget: Budget::NONE,
            limit: 3,
        })
    });
    let spec = || {
        DiskSpec::file(&a)
            .options(skip.clone())
            .through(moody(&mood))
    };
    let report = world.commit([spec()]);
    assert_eq!(disk(&report, "a").skipped.len(), 1);
    let verified = world.verified(Verify::new(Selection::All));
    assert_eq!(verified.points[0].skipped, disk(&report, "a").skipped);
    for cluster in 0..40 {
        write(&a, cluster * CLUSTER, 0x77, 10);
    }
    // Still bad: left out again, and first of all.
    let copied = |run: u64| {
        mood.2.lock().unwrap().clear();
        let report = world.commit([spec()]);
        let reads = mood.2.lock().unwrap().clone();
        // The comparison reads from the start; the copy is what comes after its end.
        let end = reads.iter().rposition(|cluster| *cluster >= 32).unwrap();
        let begins = reads[..end].iter().rposition(|cluster| *cluster == 30);
        assert!(begins.is_some(), "run {run}: {reads:?}");
        let after = &reads[begins.unwrap()..];
        assert!(after.contains(&0), "run {run}: first 30, then 0: {reads:?}");
        disk(&report, "a").skipped.len()
    };
    assert_eq!(copied(2), 1);
    write(&a, 0, 0x78, 40 * CLUSTER);
    mood.1.store(true, Ordering::Release);
    assert_eq!(copied(3), 0);
    assert!(world.restored("a", 3) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn minimum_cluster_size_copies_whole_units_and_restores_the_same() {
    for (cluster, unit) in [(64 << 10, 1 << 20), (4 << 10, 64 << 10), (2 << 20, 0)] {
        let world = World::new();
        let a = world.raw("a.raw", 50);
        fs::File::options()
            .write(true)
            .open(&a)
            .unwrap()
            .set_len(50 * CLUSTER - 777)
            .unwrap();
        let options = options(|o| o.cluster(cluster).min_cluster(unit));
        let spec = || DiskSpec::file(&a).options(options.clone());
        world.commit([spec()]);
        write(&a, 20 * CLUSTER + 5, 0x11, 1);
        let report = world.commit([spec()]);
        let unit = unit.max(cluster);
        // Of a unit, only what is zero throughout is not written.
        let copied = disk(&report, "a").copied_bytes;
        let whole = unit.min(CLUSTER * 50 - 777);
        assert!(copied > whole / 2 && copied <= unit, "{copied} of {unit}");
        for run in 1..=2 {
            let mut expected = fs::read(&a).unwrap();
            if run == 1 {
                expected[(20 * CLUSTER + 5) as usize] = 21;
            }
            assert!(world.restored("a", run) == expected, "{cluster} {unit}");
        }
        world.check();
    }
}

#[test]
fn every_mode_makes_a_point_that_restores() {
    for mode in [
        SyncMode::Full,
        SyncMode::Top,
        SyncMode::Incremental,
        SyncMode::Bitmap,
    ] {
        for policy in [
            BitmapPolicy::OnSuccess,
            BitmapPolicy::Always,
            BitmapPolicy::Ask,
            BitmapPolicy::Never,
        ] {
            let Ok(options) = Options::builder().mode(mode).policy(policy).build() else {
                continue;
            };
            let world = World::new();
            let a = world.raw("a.raw", 12);
            for run in 1..=3 {
                let spec = DiskSpec::file(&a).options(options.clone());
                let report = world.commit([spec]);
                assert!(world.restored("a", run) == fs::read(&a).unwrap());
                let DiskOutcome::Committed(point) = &disk(&report, "a").outcome else {
                    unreachable!()
                };
                let alone = mode == SyncMode::Full || run == 1;
                assert_eq!(point.parent.is_none(), alone, "{mode} {policy} {run}");
                write(&a, run * CLUSTER, 0xAA, CLUSTER);
            }
            world.check();
        }
    }
}

#[test]
fn mode_none_saves_only_what_is_overwritten_and_never_makes_a_point() {
    for (policy, kept) in [(BitmapPolicy::OnSuccess, 0), (BitmapPolicy::Always, 3)] {
        let world = World::new();
        let tracked = served("vda");
        let then = read_all(&**tracked.gated());
        let holds = options(|o| o.mode(SyncMode::None).policy(policy));
        let running = world
            .backup()
            .disk(DiskSpec::served(tracked.clone()).options(holds))
            .start()
            .unwrap();
        for cluster in [7, 3, 9] {
            tracked
                .gated()
                .write_at(&[0xEE; 100], cluster * CLUSTER)
                .unwrap();
        }
        assert!(!running.is_finished_within(Duration::from_millis(50)));
        running.cancel(Disposition::Keep);
        let report = running.wait();
        let left = disk(&report, "vda").left.as_ref();
        assert_eq!(left.map_or(0, |left| left.durable_bytes), kept * CLUSTER);
        assert!(world.contents().points.is_empty());
        if let Some(left) = left {
            let image = crate::world::read_image(&world.repository().join(left.file.to_string()));
            for cluster in [7, 3, 9] {
                let at = (cluster * CLUSTER) as usize..((cluster + 1) * CLUSTER) as usize;
                assert!(image[at.clone()] == then[at]);
            }
        }
        // Whatever was kept, the next run makes a true point of it.
        let next = options(|o| o.policy(policy));
        let report = world.run([DiskSpec::served(tracked.clone()).options(next)]);
        committed(report);
        assert!(world.restored("vda", 2) == read_all(&**tracked.gated()));
        world.check();
    }
}

#[test]
fn mode_none_is_refused_where_nobody_writes_through_us() {
    let world = World::new();
    let a = world.raw("a.raw", 2);
    let spec = DiskSpec::file(&a).options(options(|o| o.mode(SyncMode::None)));
    let refused = world.backup().disk(spec).start().unwrap_err();
    let StartError::Disk { error, .. } = &refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(**error, DiskError::NobodyWrites(_)), "{error}");
}

/// A disk with data, holes, a hole inside a cluster, and an odd end.
fn ragged(world: &World) -> std::path::PathBuf {
    let path = world.raw("a.raw", 300);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(300 * CLUSTER - 777).unwrap();
    file.write_all_at(&[9; 5000], 103 * CLUSTER + 20_000)
        .unwrap();
    path
}

#[test]
fn copies_by_the_kernel_are_the_same_and_a_hole_stays_one() {
    let world = World::new();
    let a = ragged(&world);
    let by_kernel = options(|o| o.digests(false));
    let spec = || DiskSpec::file(&a).options(by_kernel.clone());
    let report = world.commit([spec()]);
    assert!(world.restored("a", 1) == fs::read(&a).unwrap());
    let DiskOutcome::Committed(point) = &disk(&report, "a").outcome else {
        unreachable!()
    };
    let image = world.repository().join(point.file.to_string());
    let source = fs::metadata(&a).unwrap().blocks() * 512;
    let target = fs::metadata(image).unwrap().blocks() * 512;
    // The cluster with a hole in it is whole; and there are the tables.
    assert!(target <= source + 8 * CLUSTER, "{target} of {source}");
    write(&a, 40 * CLUSTER, 0x31, 100 * CLUSTER);
    world.commit([spec()]);
    assert!(world.restored("a", 2) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn copies_by_the_kernel_out_of_qcow2_images_are_the_same() {
    if !have_qemu_img() {
        return;
    }
    for extra in [&["-o", "cluster_size=4096"][..], &["-c"], &[]] {
        let world = World::new();
        let a = ragged(&world);
        let image = world.path("b.qcow2");
        let mut arguments: Vec<&std::ffi::OsStr> = ["convert", "-f", "raw", "-O", "qcow2"]
            .map(AsRef::as_ref)
            .to_vec();
        arguments.extend(
            extra
                .iter()
                .map(|extra| -> &std::ffi::OsStr { extra.as_ref() }),
        );
        arguments.extend([a.as_os_str(), image.as_os_str()]);
        qemu_img(&arguments);
        let spec = DiskSpec::file(&image).options(options(|o| o.digests(false)));
        world.commit([spec]);
        let restored = world.restored("b", 1);
        let whole = fs::read(&a).unwrap();
        assert!(restored[..whole.len()] == whole, "{extra:?}");
        world.check();
    }
}
