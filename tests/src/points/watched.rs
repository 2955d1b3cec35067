//! A disk and a target file whose requests wait on the stage.

use std::io;
use std::sync::Arc;

use cohort_block::{Device, DeviceError, File, Operation};

use super::stage::{Answer, Stage, What};

/// Sees what reaches the disk behind the gate: granules are dirty from here on, whether the write succeeds or not.
pub(super) type Mark = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// The disk behind a gate.
pub(super) struct WatchedDisk {
    pub(super) inner: Arc<dyn Device>,
    pub(super) stage: Stage,
    pub(super) disk: usize,
    pub(super) mark: Mark,
}

impl WatchedDisk {
    fn failure(&self, operation: Operation, offset: u64, length: u64) -> DeviceError {
        let cause = io::Error::other("the script says so");
        DeviceError::new(self.inner.name(), operation, offset, length, cause)
    }

    fn change(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        change: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let answer = self.stage.reach(What::Write, self.disk, offset, length);
        (self.mark)(offset, length);
        match answer {
            Answer::Go => change(),
            Answer::Fail => Err(self.failure(operation, offset, length)),
        }
    }
}

impl Device for WatchedDisk {
    cohort_block::forward!(inner: name, size, flush, extent);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let length = buf.len() as u64;
        let answer = self.stage.reach(What::Read, self.disk, offset, length);
        if answer == Answer::Fail || self.stage.is_bad(self.disk, offset, length) {
            return Err(self.failure(Operation::Read, offset, length));
        }
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.change(Operation::Write, offset, buf.len() as u64, || {
            self.inner.write_at(buf, offset)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.change(Operation::WriteZeroes, offset, length, || {
            self.inner.write_zeroes(offset, length)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.change(Operation::Discard, offset, length, || {
            self.inner.discard(offset, length)
        })
    }
}

impl std::fmt::Debug for WatchedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedDisk")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A target's file.
#[derive(Debug)]
pub(super) struct WatchedFile {
    pub(super) inner: Arc<dyn File>,
    pub(super) stage: Stage,
    pub(super) disk: usize,
}

impl WatchedFile {
    fn reach(&self, what: What, offset: u64, length: u64) -> io::Result<()> {
        match self.stage.reach(what, self.disk, offset, length) {
            Answer::Go => Ok(()),
            Answer::Fail => Err(io::Error::other("the script says so")),
        }
    }
}

impl File for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.reach(What::Save, offset, buf.len() as u64)?;
        self.inner.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.reach(What::Sync, 0, 0)?;
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }
}
