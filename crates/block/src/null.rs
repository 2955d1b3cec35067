//! A disk that holds nothing: for measuring everything but disks, and for tests.

use std::thread;
use std::time::Duration;

use crate::device::{Device, DeviceError, Extent, ExtentKind, Operation, check_range};

/// A device that reads as zeroes whatever was written, after a chosen time.
#[derive(Debug)]
pub struct NullDevice {
    name: String,
    size: u64,
    latency: Duration,
}

impl NullDevice {
    /// A device of so many bytes, whose requests take so long.
    pub fn new(name: impl Into<String>, size: u64, latency: Duration) -> Self {
        Self {
            name: name.into(),
            size,
            latency,
        }
    }

    fn run(&self, operation: Operation, offset: u64, length: u64) -> Result<(), DeviceError> {
        check_range(self, operation, offset, length)?;
        if !self.latency.is_zero() {
            #[allow(
                clippy::disallowed_methods,
                reason = "to take its time is what it is for"
            )]
            thread::sleep(self.latency);
        }
        Ok(())
    }
}

impl Device for NullDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.run(Operation::Read, offset, buf.len() as u64)?;
        buf.fill(0);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.run(Operation::Write, offset, buf.len() as u64)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.run(Operation::WriteZeroes, offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.run(Operation::Discard, offset, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.run(Operation::Flush, 0, 0)
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        check_range(self, Operation::Extent, offset, length)?;
        Ok(Extent {
            length,
            kind: ExtentKind::Zero,
            allocated: true,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn zeroes_come_back_within_the_size_and_nothing_beyond() {
        let null = NullDevice::new("n", 100, Duration::ZERO);
        let mut buf = [7; 10];
        null.write_at(&buf, 90).unwrap();
        null.read_at(&mut buf, 90).unwrap();
        assert_eq!(buf, [0; 10]);
        assert!(null.write_at(&buf, 91).is_err());
    }
}
