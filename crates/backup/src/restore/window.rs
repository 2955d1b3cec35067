//! Part of a device as a device of its own.

use std::ops::Range;

use cohort_block::{Device, DeviceError, Extent, Operation};

/// Some bytes of a device, to read only.
#[derive(Debug)]
pub(super) struct Window<'a> {
    source: &'a dyn Device,
    range: Range<u64>,
}

impl<'a> Window<'a> {
    /// The bytes `range` of `source`, inside which they must lie.
    pub(super) fn new(source: &'a dyn Device, range: Range<u64>) -> Self {
        Self { source, range }
    }

    /// Where a place of the window is in the source, if all of a request lies in the window.
    fn place(&self, operation: Operation, offset: u64, length: u64) -> Result<u64, DeviceError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(self.range.start + offset),
            Some(_) | None => Err(self.refuse(operation, offset, length)),
        }
    }

    fn refuse(&self, operation: Operation, offset: u64, length: u64) -> DeviceError {
        let rule = std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "only what lies in the range may be read",
        );
        DeviceError::new(self.name(), operation, offset, length, rule)
    }
}

impl Device for Window<'_> {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let place = self.place(Operation::Read, offset, buf.len() as u64)?;
        self.source.read_at(buf, place)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        Err(self.refuse(Operation::Write, offset, buf.len() as u64))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        Err(self.refuse(Operation::WriteZeroes, offset, length))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        Err(self.refuse(Operation::Discard, offset, length))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        let place = self.place(Operation::Extent, offset, length)?;
        self.source.extent(place, length)
    }
}
