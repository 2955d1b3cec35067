//! Served disks whose target is stalled: old data waits elsewhere, and writers do not wait for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cohort_backup::{DiskOutcome, DiskSpec, OnMiss, Running, Tracked};
use cohort_block::{Device, File, Gated, OsFile, RawDevice};

use crate::served::served;
use crate::world::{CLUSTER, World, committed, disk, name, options, read_all};

const CLUSTERS: u64 = 48;
/// Never reached by a test that passes.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn stalled_target_costs_writers_nothing_and_the_point_is_that_of_the_fence() {
    let world = World::new();
    let a = served("a");
    let before = read_all(&**a.gated());
    // The two workers keep two thirds; what else is written just fits, in memory and in the file.
    let options = options(|o| {
        o.writer_wait(LONG)
            .workers(2)
            .staging_memory(8 * CLUSTER)
            .staging_file(world.path("."), 9 * CLUSTER)
    });
    let stalled = Arc::new(Stall::default());
    let running = start(
        &world,
        &stalled,
        DiskSpec::served(a.clone()).options(options),
    );
    stalled.wait_for_writers(2);
    for cluster in 0..CLUSTERS - 1 {
        a.gated()
            .write_at(&[0xee; 5000], cluster * CLUSTER)
            .unwrap();
    }
    let note = |notes: &[String]| notes.iter().any(|note| note.contains("staging 8"));
    assert!(note(&running.disks()[0].notes()), "said while it runs");
    stalled.release();
    let report = committed(running.wait());
    assert!(note(&disk(&report, "a").notes), "and at the end");
    assert_eq!(world.restored("a", 1), before);
    world.check();
    // What was written since is what the next run copies.
    let now = read_all(&**a.gated());
    world.commit([DiskSpec::served(a)]);
    assert_eq!(world.restored("a", 2), now);
}

/// Raw images and targets that are files. The target stands still until every write has returned, so none waited for
/// it; the time that one did wait is the bound's own.
#[test]
fn target_that_stands_still_holds_no_write_beyond_the_bound() {
    let world = World::new();
    let path = world.raw("a.raw", CLUSTERS);
    let file = Arc::new(OsFile::open(&path, true).unwrap());
    let device = RawDevice::new("a", file, true).unwrap();
    let a = Tracked::new(name("a"), Arc::new(Gated::new(Arc::new(device)))).unwrap();
    let bound = Duration::from_millis(50);
    // One cluster is the worker's, two are staged: most writes find no room.
    let options = options(|o| o.writer_wait(bound).workers(1).staging_memory(2 * CLUSTER));
    let stalled = Arc::new(Stall::default());
    let spec = DiskSpec::served(a.clone()).options(options);
    let running = start(&world, &stalled, spec);
    stalled.wait_for_writers(1);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let disk = a.gated();
            let clusters = (writer..CLUSTERS).step_by(4);
            scope.spawn(move || {
                for cluster in clusters {
                    disk.write_at(&[0xee; 4096], cluster * CLUSTER).unwrap();
                }
            });
        }
    });
    assert!(!stalled.is_over(), "they waited for nobody");
    stalled.release();
    let report = running.wait();
    let a = disk(&report, "a");
    let DiskOutcome::Failed(error) = &a.outcome else {
        panic!("{a:?}");
    };
    assert!(error.to_string().contains("waited 50ms"), "{error}");
    let delays = a.writers.unwrap().delays;
    assert_eq!(delays.writes, CLUSTERS);
    assert!(delays.worst >= bound, "{delays:?}");
    let image = std::fs::read(&path).unwrap();
    let mut clusters = image.chunks(CLUSTER as usize);
    assert!(clusters.all(|cluster| cluster[..4096] == [0xee; 4096]));
    world.check();
}

#[test]
fn without_room_the_write_fails_if_that_was_chosen_and_the_backup_goes_on() {
    let world = World::new();
    let a = served("a");
    let before = read_all(&**a.gated());
    let options = options(|o| {
        o.writer_wait(Duration::from_millis(30))
            .on_miss(OnMiss::BreakWrite)
            .staging_memory(0)
            .workers(1)
    });
    let stalled = Arc::new(Stall::default());
    let running = start(
        &world,
        &stalled,
        DiskSpec::served(a.clone()).options(options),
    );
    stalled.wait_for_writers(1);
    let last = (CLUSTERS - 2) * CLUSTER;
    let late = a.gated().write_at(&[0xee; 512], last).unwrap_err();
    assert_eq!(late.cause().kind(), io::ErrorKind::TimedOut);
    stalled.release();
    let report = running.wait();
    assert!(matches!(
        disk(&report, "a").outcome,
        DiskOutcome::Committed(_)
    ));
    assert_eq!(world.restored("a", 1), before);
    assert_eq!(
        read_all(&**a.gated()),
        before,
        "nothing of the failed write"
    );
}

fn start(world: &World, stalled: &Arc<Stall>, spec: DiskSpec) -> Running {
    let stall = Arc::clone(stalled);
    world
        .backup()
        .target_files(move |_, inner| {
            let stall = Arc::clone(&stall);
            Arc::new(StalledFile { inner, stall })
        })
        .disk(spec)
        .start()
        .unwrap()
}

/// Holds up whoever writes data, until it is released for good. What makes the file is let through.
#[derive(Debug, Default)]
struct Stall {
    over: AtomicBool,
    writers: Mutex<usize>,
    changed: Condvar,
}

impl Stall {
    fn wait_for_writers(&self, count: usize) {
        let mut writers = self.writers.lock().unwrap();
        while *writers < count {
            writers = self.changed.wait(writers).unwrap();
        }
    }

    fn release(&self) {
        let _writers = self.writers.lock().unwrap();
        self.over.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn pass(&self) {
        let mut writers = self.writers.lock().unwrap();
        *writers += 1;
        self.changed.notify_all();
        while !self.over.load(Ordering::Acquire) {
            writers = self.changed.wait(writers).unwrap();
        }
    }
}

#[derive(Debug)]
struct StalledFile {
    inner: Arc<dyn File>,
    stall: Arc<Stall>,
}

impl File for StalledFile {
    cohort_block::forward_file!(inner: read_at, sync_data, len, set_len);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if offset > 0 {
            self.stall.pass();
        }
        self.inner.write_at(buf, offset)
    }
}
