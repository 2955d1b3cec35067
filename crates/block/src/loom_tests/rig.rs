//! What the models are made of: disks and targets of a few bytes, that loom sees being read and written.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use loom::sync::atomic::{AtomicU8, Ordering};
use loom::thread;

use super::{NEW, OLD};
use crate::{
    BeforeWrite, Device, DeviceError, Extent, ExtentKind, Gated, Ledger, Next, OnMiss, Patience,
    Savers, Sink, Staging,
};

/// A backup of a disk that is all owed, with one saver.
pub(super) struct Rig {
    pub(super) disk: Arc<Gated>,
    pub(super) target: Arc<Target>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) filter: Arc<BeforeWrite>,
}

impl Rig {
    pub(super) fn new(size: u64, patience: Patience) -> Self {
        Self::staging(size, patience, Staging::none())
    }

    pub(super) fn staging(size: u64, patience: Patience, staging: Staging) -> Self {
        let disk = Arc::new(gated(size));
        let target = Arc::new(Target {
            cells: cells(size, 0),
            writes: AtomicUsize::new(0),
        });
        let savers = Savers::staging(Arc::clone(&target) as Arc<dyn Sink>, 1, staging);
        let manifest = DirtyBitmap::all_dirty(size, byte()).unwrap();
        let ledger = Arc::new(Ledger::new(manifest));
        let source = Arc::clone(disk.device());
        let filter = BeforeWrite::new(Arc::clone(&ledger), source, savers, patience);
        let filter = Arc::new(filter);
        patient(&disk).install_filter(Arc::clone(&filter));
        Self {
            disk,
            target,
            ledger,
            filter,
        }
    }

    /// Copies at most one cluster; says whether it counted.
    pub(super) fn spawn_copier(&self) -> thread::JoinHandle<bool> {
        let source = Arc::clone(self.disk.device());
        let target = Arc::clone(&self.target);
        let ledger = Arc::clone(&self.ledger);
        thread::spawn(move || match ledger.claim_next(0, 1) {
            Next::Claimed(claim) => {
                let at = claim.bytes().start;
                target.save(at, &[read(&*source, at)]).unwrap();
                claim.complete()
            }
            Next::Wait | Next::Finished | Next::Closed => false,
        })
    }

    /// Whatever the target holds, what the ledger vouches for is old.
    pub(super) fn assert_nothing_new_counts(&self) {
        if !self.ledger.remaining_without_written() {
            assert_eq!(self.target.at(0), OLD);
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The filter and its savers go with the last handle.
        patient(&self.disk).remove_filters();
    }
}

impl Ledger {
    /// Whether cluster 0 would remain if a flush succeeded now.
    pub(super) fn remaining_without_written(&self) -> bool {
        self.counts().written + self.counts().durable == 0
    }
}

/// Bytes that loom sees being read and written.
pub(super) fn cells(size: u64, value: u8) -> Vec<AtomicU8> {
    (0..size).map(|_| AtomicU8::new(value)).collect()
}

pub(super) struct Target {
    cells: Vec<AtomicU8>,
    writes: AtomicUsize,
}

impl Target {
    pub(super) fn at(&self, offset: usize) -> u8 {
        self.cells[offset].load(Ordering::Acquire)
    }

    pub(super) fn writes(&self) -> usize {
        self.writes.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Sink for Target {
    fn save(&self, cluster: u64, data: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.cells[cluster as usize].store(data[0], Ordering::Release);
        self.writes
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Disk(Vec<AtomicU8>);

impl Device for Disk {
    fn name(&self) -> &str {
        "disk"
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        for (byte, cell) in buf.iter_mut().zip(&self.0[offset as usize..]) {
            *byte = cell.load(Ordering::Acquire);
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        for (byte, cell) in buf.iter().zip(&self.0[offset as usize..]) {
            cell.store(*byte, Ordering::Release);
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.write_at(&vec![0; length as usize], offset)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.write_zeroes(offset, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn extent(&self, _: u64, length: u64) -> Result<Extent, DeviceError> {
        Ok(Extent {
            length,
            kind: ExtentKind::Data,
            allocated: true,
        })
    }
}

pub(super) fn gated(size: u64) -> Gated {
    Gated::new(Arc::new(Disk(cells(size, OLD))))
}

pub(super) fn recorder(size: u64) -> Recorder {
    Recorder::new(size, byte()).unwrap()
}

pub(super) fn byte() -> Granularity {
    Granularity::new(1).unwrap()
}

pub(super) fn patient(disk: &Gated) -> crate::ClosedGate<'_> {
    disk.close("model", never()).unwrap()
}

pub(super) fn never_breaks() -> Patience {
    Patience {
        bound: Duration::from_secs(1 << 30),
        on_miss: OnMiss::BreakBackup,
    }
}

pub(super) fn spawn_write(
    disk: &Arc<Gated>,
    offset: u64,
) -> thread::JoinHandle<Result<(), DeviceError>> {
    let disk = Arc::clone(disk);
    thread::spawn(move || disk.write_at(&[NEW], offset))
}

pub(super) fn read(device: &dyn Device, offset: u64) -> u8 {
    let mut byte = [0];
    device.read_at(&mut byte, offset).unwrap();
    byte[0]
}

pub(super) fn passed() -> Instant {
    Instant::now()
}

pub(super) fn never() -> Instant {
    Instant::now() + Duration::from_secs(1 << 30)
}
