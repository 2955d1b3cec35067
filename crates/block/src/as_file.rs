//! A device where a file is wanted: the bytes of one under the format of another.

use std::io;
use std::sync::Arc;

use crate::device::{Device, DeviceError, ExtentKind};
use crate::file::{File, FileRun};

/// The bytes of a device as a [`File`] of fixed length.
#[derive(Debug)]
pub(crate) struct AsFile(pub(crate) Arc<dyn Device>);

/// What the device's error was about is known above.
fn cause(error: DeviceError) -> io::Error {
    match error.cause().raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.cause().kind(), error.cause().to_string()),
    }
}

impl File for AsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset).map_err(cause)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset).map_err(cause)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.flush().map_err(cause)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.size())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if length == self.0.size() {
            return Ok(());
        }
        let why = format!("{} cannot change its size", self.0.name());
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.write_zeroes(offset, length).map_err(cause)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.discard(offset, length).map_err(cause)
    }

    fn run_at(&self, offset: u64, length: u64) -> io::Result<FileRun> {
        let extent = self.0.extent(offset, length).map_err(cause)?;
        Ok(FileRun {
            length: extent.length,
            hole: extent.kind == ExtentKind::Zero,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    #[test]
    fn a_device_reads_and_writes_as_a_file_does() {
        let file = AsFile(Arc::new(MemoryDevice::new("m", 10_000)));
        file.write_at(b"abc", 5000).unwrap();
        let mut back = [0; 5];
        file.read_at(&mut back, 4999).unwrap();
        assert_eq!((&back, file.len().unwrap()), (b"\0abc\0", 10_000));
        let run = file.run_at(0, 10_000).unwrap();
        assert_eq!((run.length, run.hole), (4096, true));
        assert!(file.set_len(5).is_err() && file.set_len(10_000).is_ok());
        assert!(file.read_at(&mut back, 9_999).is_err());
    }
}
