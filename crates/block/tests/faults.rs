//! A file that fails or dawdles under an image: what the image then says, and who waits for it.

mod common;
#[path = "common/image.rs"]
mod image;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use cohort_block::{Device, File, Image, OpenError, OpenOptions, Operation, open};
use common::content;
use image::{CLUSTER, image};

/// A file whose syncs can be held, and writes of a certain byte; and whose reads, writes or syncs can be made to fail.
#[derive(Debug)]
struct Bad {
    inner: Arc<dyn File>,
    reads: AtomicBool,
    writes: AtomicBool,
    syncs: AtomicBool,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// Writes of this byte wait as well.
    held: Option<u8>,
    waiting: bool,
}

fn fail_if(flag: &AtomicBool) -> io::Result<()> {
    if flag.load(Ordering::SeqCst) {
        Err(io::Error::other("the disk is on fire"))
    } else {
        Ok(())
    }
}

impl Bad {
    fn change(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_until_somebody_waits(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.changed.wait_while(gate, |gate| !gate.waiting).unwrap());
    }
}

impl File for Bad {
    cohort_block::forward_file!(inner: len, set_len, run_at);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        fail_if(&self.reads)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        fail_if(&self.writes)?;
        let mut gate = self.gate.lock().unwrap();
        if gate.held.is_some() && gate.held == buf.first().copied() {
            gate.waiting = true;
            self.changed.notify_all();
            gate = self
                .changed
                .wait_while(gate, |gate| gate.held.is_some())
                .unwrap();
        }
        drop(gate);
        self.inner.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fail_if(&self.syncs)?;
        self.change(|gate| gate.waiting = true);
        let gate = self.gate.lock().unwrap();
        drop(self.changed.wait_while(gate, |gate| gate.closed).unwrap());
        self.inner.sync_data()
    }
}

/// The handmade image over a bad file, opened to write.
fn opened() -> (tempfile::TempDir, PathBuf, Arc<dyn Device>, Arc<Bad>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, image()).unwrap();
    let (device, bad) = open_over(&path, |_| {}).unwrap();
    (dir, path, device, bad)
}

/// An image over a file that is bad from the start, opened to write.
fn open_over(
    path: &Path,
    make_bad: impl Fn(&Bad),
) -> Result<(Arc<dyn Device>, Arc<Bad>), OpenError> {
    let made = Mutex::new(None);
    let image = Image::open_through(path, OpenOptions::read_write(), |inner| {
        let bad = Arc::new(Bad {
            inner,
            reads: AtomicBool::default(),
            writes: AtomicBool::default(),
            syncs: AtomicBool::default(),
            gate: Mutex::default(),
            changed: Condvar::new(),
        });
        make_bad(&bad);
        *made.lock().unwrap() = Some(Arc::clone(&bad));
        bad
    })?;
    let bad = made.into_inner().unwrap().unwrap();
    Ok((Arc::clone(image.device()), bad))
}

#[test]
fn failures_of_the_file_name_the_disk_and_the_place() {
    let (_dir, path, device, bad) = opened();
    bad.reads.store(true, Ordering::SeqCst);
    let error = device.read_at(&mut [0; 100], 7).unwrap_err();
    assert_eq!(
        (error.operation(), error.offset(), error.length()),
        (Operation::Read, 7, 100)
    );
    assert_eq!(error.device(), path.display().to_string());
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
    bad.reads.store(false, Ordering::SeqCst);

    bad.writes.store(true, Ordering::SeqCst);
    let error = device.write_at(&[1; 100], 7).unwrap_err();
    assert_eq!((error.operation(), error.offset()), (Operation::Write, 7));
    bad.writes.store(false, Ordering::SeqCst);

    bad.syncs.store(true, Ordering::SeqCst);
    assert_eq!(device.flush().unwrap_err().operation(), Operation::Flush);
    bad.syncs.store(false, Ordering::SeqCst);
    device.flush().unwrap();
}

/// Else a later write would take the table's cluster.
#[test]
fn tables_that_cannot_be_counted_keep_us_from_writing_not_from_reading() {
    let (_dir, path, device, bad) = opened();
    let expected = content(&*device);
    drop((device, bad));
    // The count of the level-two table, as a writer that was killed leaves it.
    let mut bytes = image();
    let count = 2 * CLUSTER + 2 * 4..2 * CLUSTER + 2 * 5;
    bytes[count.clone()].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let refused = open_over(&path, |bad| bad.writes.store(true, Ordering::SeqCst)).unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, OpenError::Uncounted { .. }), "{told}");
    assert!(told.contains("the disk is on fire"), "{told}");
    assert!(told.contains("qemu-img check"), "{told}");
    assert!(std::fs::read(&path).unwrap() == bytes);
    let read = open(&path, OpenOptions::read_only()).unwrap();
    assert_eq!(content(&*read), expected);
    drop(read);
    open_over(&path, |_| {}).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[count], 1u16.to_be_bytes());
}

#[test]
fn a_write_that_failed_can_be_repeated() {
    let (_dir, path, device, bad) = opened();
    let mut expected = content(&*device);
    // Into a cluster that is not allocated yet: metadata is at stake too.
    let place = 3 * CLUSTER + 10..3 * CLUSTER + 60;
    bad.writes.store(true, Ordering::SeqCst);
    device.write_at(&[9; 50], place.start as u64).unwrap_err();
    bad.writes.store(false, Ordering::SeqCst);
    assert_eq!(content(&*device), expected);
    device.write_at(&[9; 50], place.start as u64).unwrap();
    device.flush().unwrap();
    drop((device, bad));
    expected[place].fill(9);
    assert_eq!(
        content(&*open(path, OpenOptions::read_only()).unwrap()),
        expected
    );
}

#[test]
fn nobody_waits_for_a_sync_under_way() {
    let (_dir, _path, device, bad) = opened();
    bad.change(|gate| gate.closed = true);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| device.flush());
        bad.wait_until_somebody_waits();
        // Would hang here, were a lock held around the sync.
        device.discard(0, CLUSTER as u64).unwrap();
        device.read_at(&mut [0; 100], 0).unwrap();
        device.write_at(&[1; 100], 3 * CLUSTER as u64).unwrap();
        device.extent(0, 100).unwrap();
        bad.change(|gate| gate.closed = false);
        flush.join().unwrap().unwrap();
    });
}

/// A cluster is not taken for empty because what is being written to it is not there yet.
#[test]
fn zeroes_spare_what_is_written_beside_them_in_the_same_cluster() {
    let (_dir, _path, device, bad) = opened();
    let (cluster, part) = (3 * CLUSTER as u64, 100);
    bad.change(|gate| gate.held = Some(9));
    std::thread::scope(|scope| {
        let write = scope.spawn(|| device.write_at(&vec![9; part], cluster));
        bad.wait_until_somebody_waits();
        let zeroes = scope.spawn(|| device.write_zeroes(cluster + 200, 100));
        // Long enough to be done, or to wait for the write.
        (0..100_000).any(|_| {
            std::thread::yield_now();
            zeroes.is_finished()
        });
        bad.change(|gate| gate.held = None);
        write.join().unwrap().unwrap();
        zeroes.join().unwrap().unwrap();
    });
    let mut back = vec![0; CLUSTER];
    device.read_at(&mut back, cluster).unwrap();
    assert!(back[..part].iter().all(|byte| *byte == 9), "{back:?}");
    assert!(back[part..].iter().all(|byte| *byte == 0), "{back:?}");
}

#[test]
fn the_lock_lasts_as_long_as_the_device() {
    let (_dir, path, device, bad) = opened();
    let is_locked = || {
        matches!(
            open(&path, OpenOptions::read_only()),
            Err(OpenError::Locked { .. })
        )
    };
    assert!(is_locked());
    drop(device);
    assert!(is_locked(), "the file itself is still held");
    drop(bad);
    assert!(!is_locked());
}
