//! A disk that is a part of another.

use std::sync::Arc;

use cohort_block::{Device, DeviceError, Extent, Operation};

/// Some of the bytes of another disk.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) inner: Arc<dyn Device>,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Part {
    /// Where that is in the other disk.
    fn inside(&self, operation: Operation, offset: u64, length: u64) -> Result<u64, DeviceError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(self.offset + offset),
            Some(_) | None => {
                let cause = std::io::Error::from(std::io::ErrorKind::InvalidInput);
                Err(DeviceError::new(
                    self.name(),
                    operation,
                    offset,
                    length,
                    cause,
                ))
            }
        }
    }
}

impl Device for Part {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let at = self.inside(Operation::Read, offset, buf.len() as u64)?;
        self.inner.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        let at = self.inside(Operation::Write, offset, buf.len() as u64)?;
        self.inner.write_at(buf, at)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        let at = self.inside(Operation::WriteZeroes, offset, length)?;
        self.inner.write_zeroes(at, length)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        let at = self.inside(Operation::Discard, offset, length)?;
        self.inner.discard(at, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.inner.flush()
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        let at = self.inside(Operation::Extent, offset, length)?;
        self.inner.extent(at, length)
    }
}
