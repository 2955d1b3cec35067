//! Old data staged on its way to a target that is slow, stalled or broken.
#![cfg(not(loom))]

use std::error::Error;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{
    BeforeWrite, Broken, Device, Fault, Faulty, File, Gated, Injected, Ledger, MemoryDevice, Next,
    OnMiss, Operation, OsFile, Patience, Savers, Sink, Staging,
};

const CLUSTER: u64 = 4096;
const CLUSTERS: u64 = 64;
/// The last cluster is cut short.
const SIZE: u64 = CLUSTERS * CLUSTER - 100;
/// Never reached by a test that passes.
const LONG: Duration = Duration::from_secs(60);
const OLD: u8 = 0x11;
const NEW: u8 = 0x22;

/// Whoever is refused a backup may open its target again at once.
#[test]
fn savers_that_have_nothing_in_hand_let_go_of_the_target_at_once() {
    for _ in 0..100 {
        let target = Faulty::new(Arc::new(MemoryDevice::new("target", SIZE)));
        let sink = Arc::new(ToDevice(Arc::new(target)));
        let savers = Savers::staging(sink.clone(), 4, Staging::in_memory(CLUSTER));
        drop(savers);
        assert_eq!(Arc::strong_count(&sink), 1);
    }
}

#[test]
fn stalled_target_costs_writers_nothing_while_there_is_room() {
    // A writer that may not wait at all, and a target that never answers.
    let rig = Rig::new(
        Staging::in_memory(8 * CLUSTER),
        Duration::ZERO,
        OnMiss::BreakWrite,
    );
    let stalled = rig.stall();
    rig.write(0..8);
    assert_eq!(rig.ledger.counts().staged, 8);
    assert_eq!(rig.filter.staging().used, 8 * CLUSTER);
    let late = rig.try_write(8..9).unwrap_err();
    assert_eq!(late.cause().kind(), io::ErrorKind::TimedOut);
    // What is staged already is not saved twice, and costs nothing either.
    rig.write(0..8);
    stalled.release();
    assert_eq!(rig.seal(LONG), (0, 0));
    rig.assert_saved(0..8);
    assert_eq!(rig.filter.staging().peak, 8 * CLUSTER);
}

#[test]
fn scratch_file_takes_what_memory_does_not() {
    let scratch = scratch();
    let staging = Staging::in_memory(4 * CLUSTER).then_in(scratch, 20 * CLUSTER, CLUSTER);
    let rig = Rig::new(staging, LONG, OnMiss::BreakBackup);
    let stalled = rig.stall();
    for cluster in 40..CLUSTERS {
        rig.write(cluster..cluster + 1);
    }
    assert_eq!(rig.ledger.counts().staged, 24, "all of both places");
    assert!(
        matches!(rig.ledger.claim_next(40, 8), Next::Claimed(claim) if claim.clusters() == (0..8))
    );
    stalled.release();
    assert_eq!(rig.seal(LONG), (0, 0));
    rig.assert_saved(40..CLUSTERS);
    assert!(rig.ledger.broken().is_none());
}

#[test]
fn room_is_used_again_and_again() {
    let staging = Staging::in_memory(2 * CLUSTER).then_in(scratch(), 3 * CLUSTER, CLUSTER);
    let rig = Rig::new(staging, LONG, OnMiss::BreakBackup);
    for cluster in (0..CLUSTERS).rev() {
        rig.write(cluster..cluster + 1);
    }
    assert_eq!(rig.seal(LONG), (0, 0));
    rig.assert_saved(0..CLUSTERS);
    let level = rig.filter.staging();
    assert_eq!(level.used, 0);
    assert!(level.peak <= level.size, "{level:?}");
    assert_eq!(level.size, 5 * CLUSTER);
}

#[test]
fn scratch_file_that_takes_nothing_leaves_the_memory() {
    let broken = Arc::new(BrokenFile::default());
    broken.writes.store(true, Ordering::Relaxed);
    let staging = Staging::in_memory(4 * CLUSTER).then_in(broken, 100 * CLUSTER, CLUSTER);
    let rig = Rig::new(staging, LONG, OnMiss::BreakBackup);
    for cluster in 0..CLUSTERS {
        rig.write(cluster..cluster + 1);
    }
    assert_eq!(rig.seal(LONG), (0, 0));
    rig.assert_saved(0..CLUSTERS);
    assert!(rig.ledger.broken().is_none());
}

#[test]
fn scratch_file_that_cannot_be_read_back_breaks_the_backup() {
    let broken = Arc::new(BrokenFile::default());
    let staging = Staging::in_memory(4 * CLUSTER).then_in(broken.clone(), 8 * CLUSTER, CLUSTER);
    let rig = Rig::new(staging, LONG, OnMiss::BreakWrite);
    let stalled = rig.stall();
    rig.write(0..12);
    broken.reads.store(true, Ordering::Relaxed);
    stalled.release();
    assert_eq!(rig.seal_when_broken(), (0, 0));
    let why = rig.ledger.broken().unwrap();
    assert!(matches!(&why, Broken::Staged { .. }), "{why}");
    assert!(
        why.to_string().contains("was lost before it was saved"),
        "{why}"
    );
}

#[test]
fn target_that_refuses_what_is_staged_breaks_the_backup_whatever_was_chosen() {
    for on_miss in [OnMiss::BreakBackup, OnMiss::BreakWrite] {
        let rig = Rig::new(Staging::in_memory(8 * CLUSTER), LONG, on_miss);
        let stalled = rig.stall();
        rig.target.inject(Fault::error(Operation::Write));
        rig.write(3..4);
        stalled.release();
        rig.seal_when_broken();
        let why = rig.ledger.broken().unwrap();
        assert!(matches!(why, Broken::Target { offset, .. } if offset == 3 * CLUSTER));
        assert!(rig.ledger.remaining().get(3 * CLUSTER), "and it remains");
        assert_eq!(
            byte(&rig.disk, 3 * CLUSTER),
            NEW,
            "the write passed long ago"
        );
    }
}

#[test]
fn staged_is_not_durable() {
    let rig = Rig::new(Staging::in_memory(8 * CLUSTER), LONG, OnMiss::BreakBackup);
    let stalled = rig.stall();
    rig.write(3..5);
    rig.ledger.begin_flush().succeeded();
    assert_eq!(rig.ledger.counts().durable, 0);
    assert!(rig.ledger.remaining().get(3 * CLUSTER));
    stalled.release();
    assert_eq!(rig.seal(LONG), (0, 0));
    rig.ledger.begin_flush().succeeded();
    assert_eq!(rig.ledger.counts().durable, 2);
}

#[test]
fn what_is_still_staged_when_time_is_up_is_owed() {
    let rig = Rig::new(Staging::in_memory(8 * CLUSTER), LONG, OnMiss::BreakBackup);
    let stalled = rig.stall();
    rig.write(0..6);
    let (voided, late) = rig.seal(Duration::ZERO);
    assert_eq!(voided, 6);
    assert!(late <= SAVERS, "{late}");
    assert_eq!(rig.ledger.counts().owed, CLUSTERS);
    assert!(rig.ledger.broken().is_none(), "settling is no failure");
    stalled.release();
    assert_eq!(rig.seal(LONG).1, 0);
    assert_eq!(rig.ledger.counts().owed, CLUSTERS, "late is never");
}

#[test]
fn copier_waits_for_what_is_staged_before_it_is_finished() {
    let rig = Rig::new(Staging::in_memory(8 * CLUSTER), LONG, OnMiss::BreakBackup);
    let stalled = rig.stall();
    rig.write(0..4);
    while let Next::Claimed(claim) = rig.ledger.claim_next(0, 8) {
        assert!(claim.clusters().start >= 4, "staged is nobody else's");
        assert!(claim.complete());
    }
    assert!(matches!(rig.ledger.claim_next(0, 8), Next::Wait));
    stalled.release();
    assert_eq!(rig.seal(LONG), (0, 0));
    assert_eq!(rig.ledger.counts().written, CLUSTERS);
}

#[test]
fn nearly_full_area_is_said_once_with_a_forecast() {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let says = Arc::clone(&said);
    let staging = Staging::in_memory(10 * CLUSTER)
        .notify(move |notice| says.lock().unwrap().push(notice.to_string()));
    let rig = Rig::new(staging, LONG, OnMiss::BreakBackup);
    let stalled = rig.stall();
    rig.write(0..7);
    assert!(said.lock().unwrap().is_empty());
    rig.write(7..10);
    let said = said.lock().unwrap().clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("staging 80 % full, exhausted in about "),
        "{said:?}"
    );
    stalled.release();
    assert_eq!(rig.seal(LONG), (0, 0));
}

const SAVERS: usize = 2;

struct Rig {
    disk: Gated,
    target: Arc<Faulty>,
    ledger: Arc<Ledger>,
    filter: Arc<BeforeWrite>,
}

impl Rig {
    /// A disk full of old data, all of it owed.
    fn new(staging: Staging, bound: Duration, on_miss: OnMiss) -> Self {
        let disk = MemoryDevice::with_bytes("disk", &vec![OLD; SIZE as usize]);
        let disk = Gated::new(Arc::new(disk));
        let target = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("target", SIZE))));
        let sink = Arc::new(ToDevice(Arc::clone(&target)));
        let savers = Savers::staging(sink, SAVERS, staging);
        let set = DirtyBitmap::all_dirty(SIZE, Granularity::new(CLUSTER).unwrap()).unwrap();
        let ledger = Arc::new(Ledger::new(set));
        let behind = Arc::clone(disk.device());
        let patience = Patience { bound, on_miss };
        let filter = Arc::new(BeforeWrite::new(ledger.clone(), behind, savers, patience));
        let mut closed = disk.close("test", Instant::now() + LONG).unwrap();
        closed.install_filter(Arc::clone(&filter));
        drop(closed);
        Rig {
            disk,
            target,
            ledger,
            filter,
        }
    }

    fn stall(&self) -> Injected {
        self.target.inject(Fault::stall(Operation::Write))
    }

    fn write(&self, clusters: Range<u64>) {
        self.try_write(clusters).unwrap();
    }

    fn try_write(&self, clusters: Range<u64>) -> Result<(), cohort_block::DeviceError> {
        let bytes = self.ledger.bytes(&clusters);
        let data = vec![NEW; (bytes.end - bytes.start) as usize];
        self.disk.write_at(&data, bytes.start)
    }

    fn seal(&self, wait: Duration) -> (u64, usize) {
        let sealed = self.filter.seal(Instant::now() + wait);
        (sealed.voided, sealed.late_saves)
    }

    /// Seals once the backup broke, which the ledger's watcher tells.
    fn seal_when_broken(&self) -> (u64, usize) {
        let (tell, told) = std::sync::mpsc::channel();
        self.ledger.watch(move || {
            let _ = tell.send(());
        });
        while self.ledger.broken().is_none() {
            told.recv_timeout(LONG).unwrap();
        }
        self.seal(LONG)
    }

    fn assert_saved(&self, clusters: Range<u64>) {
        let bytes = self.ledger.bytes(&clusters);
        let mut found = vec![0; (bytes.end - bytes.start) as usize];
        self.target.read_at(&mut found, bytes.start).unwrap();
        assert!(found.iter().all(|byte| *byte == OLD));
        let count = clusters.end - clusters.start;
        assert_eq!(self.ledger.counts().written, count);
    }
}

struct ToDevice(Arc<Faulty>);

impl Sink for ToDevice {
    fn save(&self, cluster: u64, data: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.0.write_at(data, cluster * CLUSTER)?)
    }
}

/// A scratch file that fails on command.
#[derive(Debug, Default)]
struct BrokenFile {
    bytes: Mutex<Vec<u8>>,
    reads: AtomicBool,
    writes: AtomicBool,
}

impl File for BrokenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.reads.load(Ordering::Relaxed) {
            return Err(io::Error::other("no such sector"));
        }
        let (from, bytes) = (offset as usize, self.bytes.lock().unwrap());
        buf.copy_from_slice(&bytes[from..from + buf.len()]);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.writes.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (from, mut bytes) = (offset as usize, self.bytes.lock().unwrap());
        let end = bytes.len().max(from + buf.len());
        bytes.resize(end, 0);
        bytes[from..from + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn scratch() -> Arc<dyn File> {
    Arc::new(OsFile::new(tempfile::tempfile().unwrap()).unwrap())
}

fn byte(device: &dyn Device, at: u64) -> u8 {
    let mut byte = [0];
    device.read_at(&mut byte, at).unwrap();
    byte[0]
}
