//! The fence of a run: what it costs is told, what was frozen is thawed, and whoever is stuck voids it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_backup::{DiskSpec, Hook, StartError, Tracked};
use cohort_block::{Device, Fault, Faulty, File, Gated, Injected, MemoryDevice, Operation};

use crate::served::served;
use crate::world::{CLUSTER, World, committed, disk, name, options, read_all};

/// Never reached by a test that passes.
const LONG: Duration = Duration::from_secs(60);

/// The tracking store of a disk, or the disk itself, lies on a file system that the hook froze. A write that came
/// before is inside the gate and waits for the store; the store waits for the thaw; the thaw for the fence.
#[test]
fn store_on_frozen_filesystem_voids_the_round() {
    let world = World::new();
    let frozen = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("a", 8 * CLUSTER))));
    let a = Tracked::new(name("a"), Arc::new(Gated::new(frozen.clone()))).unwrap();
    a.gated().write_at(&[1; 4096], 0).unwrap();
    let before = read_all(&**a.gated());
    let file_system: Arc<Mutex<Option<Injected>>> = Arc::default();
    let (written, wrote) = channel();
    let freeze = {
        let (frozen, a, file_system) = (frozen.clone(), a.clone(), file_system.clone());
        move || {
            let stall = frozen.inject(Fault::stall(Operation::Write));
            std::thread::spawn(move || written.send(a.gated().write_at(&[2; 512], 0).is_ok()));
            stall.wait_for_strikes(1);
            *file_system.lock().unwrap() = Some(stall);
            Ok(())
        }
    };
    let thaw = {
        let file_system = file_system.clone();
        move || {
            let stall = file_system.lock().unwrap().take().ok_or("not frozen")?;
            stall.release();
            Ok(())
        }
    };
    let started = world
        .backup()
        .options(options(|o| o.writer_wait(Duration::from_millis(50))))
        .hook(Hook::new("guest", LONG, freeze, thaw))
        .disk(DiskSpec::served(a.clone()))
        .start();
    let error = started.unwrap_err();
    assert!(matches!(error, StartError::Fence(_)), "{error}");
    assert!(
        error.to_string().contains("one write had not returned"),
        "{error}"
    );
    // Thawed, so the write that was stuck goes on, and the disk is as if nothing had been.
    assert!(wrote.recv_timeout(LONG).unwrap());
    assert_ne!(read_all(&**a.gated()), before);
    assert_eq!(world.points("a").len(), 0);
    world.check();
    world.commit([DiskSpec::served(a)]);
}

#[test]
fn run_reports_what_its_fence_cost() {
    let world = World::new();
    let (a, b) = (served("a"), served("b"));
    let calls = Arc::new(AtomicUsize::new(0));
    let call = |calls: &Arc<AtomicUsize>| {
        let calls = calls.clone();
        move || {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    };
    let bound = Duration::from_secs(30);
    let waiter = a.clone();
    let (tell, waited) = channel();
    // Keeps the run going until that write is through.
    let reads = Arc::new(Faulty::new(a.gated().device().clone()));
    let stalled = reads.inject(Fault::stall(Operation::Read).within(40 * CLUSTER..41 * CLUSTER));
    let running = world
        .backup()
        .options(options(|o| o.writer_wait(bound)))
        .hook(Hook::new("app", LONG, call(&calls), call(&calls)))
        .disk(DiskSpec::served(a.clone()).through(move |_| reads.clone()))
        .disk(DiskSpec::served(b))
        .inside_fence(move || {
            // Arrives while the gate is closed, so it waits for it.
            std::thread::spawn(move || {
                waiter.gated().write_at(&[7; 512], 3 * CLUSTER).unwrap();
                tell.send(()).unwrap();
            });
        })
        .start()
        .unwrap();
    waited.recv_timeout(LONG).unwrap();
    stalled.release();
    let report = committed(running.wait());
    let fence = report.fence.clone().unwrap();
    assert_eq!(fence.bound, bound);
    assert!(!fence.closed_for.is_zero() && fence.closed_for < bound);
    assert!(fence.frozen_for.unwrap() >= fence.closed_for);
    assert!(fence.thaw_failures.is_empty());
    assert!(fence.delays.writes <= 1 && fence.delays.worst < bound);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let writers = disk(&report, "a").writers.unwrap();
    assert_eq!((writers.bound, writers.delays.writes), (bound, 1));
    assert!(writers.delays.worst >= fence.delays.worst);
    assert_eq!(disk(&report, "b").writers.unwrap().delays.writes, 0);
    // Between runs nothing is counted.
    a.gated().write_at(&[8; 512], 0).unwrap();
}

#[test]
fn thaw_that_fails_is_told_and_the_point_stands() {
    let world = World::new();
    let hook = Hook::new("guest", LONG, || Ok(()), || Err("no answer".into()));
    let run = world
        .backup()
        .hook(hook)
        .disk(DiskSpec::served(served("a")));
    let report = committed(run.start().unwrap().wait());
    let failures = report.fence.unwrap().thaw_failures;
    assert_eq!(failures, ["hook guest: no answer"]);
}

/// All of it is durable before, and the next sync comes after: a target on the file system that the hook froze would
/// otherwise hold up the fence, and the fence the thaw.
#[test]
fn nothing_is_asked_of_a_target_between_freeze_and_thaw() {
    let world = World::new();
    let frozen = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let turns = |to| {
        let frozen = frozen.clone();
        move || {
            frozen.store(to, Ordering::SeqCst);
            Ok(())
        }
    };
    let hook = Hook::new("guest", LONG, turns(true), turns(false));
    let (seen, during) = (asked.clone(), frozen.clone());
    let run = world.backup().hook(hook).target_files(move |_, inner| {
        let (asked, frozen) = (seen.clone(), during.clone());
        Arc::new(Watched {
            inner,
            asked,
            frozen,
        })
    });
    let run = run.disk(DiskSpec::served(served("a")));
    committed(
        run.disk(DiskSpec::served(served("b")))
            .start()
            .unwrap()
            .wait(),
    );
    let [outside, inside] = &*asked.lock().unwrap();
    assert_eq!(*inside, [""; 0]);
    assert!(outside.contains(&"sync") && outside.contains(&"write"));
}

/// A file that notes what is asked of it: outside, and while things are frozen.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn File>,
    asked: Arc<Mutex<[Vec<&'static str>; 2]>>,
    frozen: Arc<AtomicBool>,
}

impl Watched {
    fn note(&self, what: &'static str) -> &dyn File {
        let when = usize::from(self.frozen.load(Ordering::SeqCst));
        self.asked.lock().unwrap()[when].push(what);
        &*self.inner
    }
}

impl File for Watched {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.note("read").read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.note("write").write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.note("sync").sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.note("len").len()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.note("set_len").set_len(length)
    }
}
