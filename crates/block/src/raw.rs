//! Raw images and block devices: the bytes of the disk, one to one.

use std::io;
use std::sync::Arc;

use crate::device::{Device, DeviceError, Extent, ExtentKind, Operation, Plain, check_range};
use crate::file::File;

/// A device whose bytes are those of a file, or of a block device of the operating system.
///
/// Its size is the file's length when it was opened; the file may then grow unseen. Holes are zero
/// extents; all of it counts as allocated, as there is no layer beneath.
#[derive(Debug)]
pub struct RawDevice {
    name: String,
    file: Arc<dyn File>,
    size: u64,
    writable: bool,
}

impl RawDevice {
    /// Takes a file's bytes for a disk, to read, or to read and write.
    ///
    /// # Errors
    /// The file's length cannot be found.
    pub fn new(name: impl Into<String>, file: Arc<dyn File>, writable: bool) -> io::Result<Self> {
        let size = file.len()?;
        Ok(Self {
            name: name.into(),
            file,
            size,
            writable,
        })
    }

    /// Checks the range and, for what changes bytes, that the device may be written to; then runs it.
    fn run<T>(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        work: impl FnOnce(&dyn File) -> io::Result<T>,
    ) -> Result<T, DeviceError> {
        check_range(self, operation, offset, length)?;
        if operation.changes_bytes() && !self.writable {
            return Err(read_only(&self.name, operation, offset, length));
        }
        work(&*self.file).map_err(|e| DeviceError::new(&self.name, operation, offset, length, e))
    }
}

impl Device for RawDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let length = buf.len() as u64;
        self.run(Operation::Read, offset, length, |file| {
            file.read_at(buf, offset).map_err(shrunk)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.run(Operation::Write, offset, buf.len() as u64, |file| {
            file.write_at(buf, offset)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.run(Operation::WriteZeroes, offset, length, |file| {
            file.write_zeroes(offset, length)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.run(Operation::Discard, offset, length, |file| {
            file.discard(offset, length)
        })
    }

    fn flush(&self) -> Result<(), DeviceError> {
        if !self.writable {
            return Ok(());
        }
        self.run(Operation::Flush, 0, 0, |file| file.sync_data())
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        let run = self.run(Operation::Extent, offset, length, |f| {
            f.run_at(offset, length)
        })?;
        let kind = if run.hole {
            ExtentKind::Zero
        } else {
            ExtentKind::Data
        };
        Ok(Extent {
            length: run.length,
            kind,
            allocated: true,
        })
    }

    fn plain(&self, offset: u64, length: u64) -> Option<Plain> {
        check_range(self, Operation::Read, offset, length).ok()?;
        (length > 0).then(|| Plain {
            file: self.file.clone(),
            offset,
            length,
        })
    }
}

/// The answer to everything that would change a device opened to read.
pub(crate) fn read_only(name: &str, operation: Operation, offset: u64, length: u64) -> DeviceError {
    let cause = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it is open for reading only",
    );
    DeviceError::new(name, operation, offset, length, cause)
}

/// Says what the end of the file means inside the size found at opening.
fn shrunk(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        io::Error::new(
            error.kind(),
            "the file has become shorter since it was opened",
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::OsFile;

    fn sparse(dir: &tempfile::TempDir, length: u64) -> Arc<OsFile> {
        let file = OsFile::create_new(dir.path().join("disk")).unwrap();
        file.set_len(length).unwrap();
        Arc::new(file)
    }

    #[test]
    fn odd_sizes_are_read_and_written_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let device = RawDevice::new("d", sparse(&dir, 1_000_001), true).unwrap();
        device.write_at(b"end", 999_998).unwrap();
        let mut back = [0; 3];
        device.read_at(&mut back, 999_998).unwrap();
        assert_eq!(&back, b"end");
        assert!(device.write_at(b"end", 999_999).is_err());
        device.write_zeroes(0, 1_000_001).unwrap();
        device.read_at(&mut back, 999_998).unwrap();
        assert_eq!(back, [0; 3]);
        assert_eq!(device.size(), 1_000_001);
    }

    #[test]
    fn nothing_changes_what_was_opened_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let device = RawDevice::new("d", sparse(&dir, 4096), false).unwrap();
        let tries = [
            device.write_at(b"x", 0),
            device.write_zeroes(0, 1),
            device.discard(0, 1),
        ];
        for refused in tries {
            assert_eq!(
                refused.unwrap_err().cause().kind(),
                io::ErrorKind::PermissionDenied
            );
        }
        device.flush().unwrap();
    }

    #[test]
    fn a_file_cut_behind_our_back_is_an_error_not_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        let file = sparse(&dir, 8192);
        let device = RawDevice::new("d", file.clone(), false).unwrap();
        file.set_len(4096).unwrap();
        let error = device.read_at(&mut [0; 8192], 0).unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
    }

    #[test]
    fn holes_are_zero_extents() {
        let dir = tempfile::tempdir().unwrap();
        let device = RawDevice::new("d", sparse(&dir, 4 << 20), true).unwrap();
        device.write_at(&[1; 65536], 1 << 20).unwrap();
        let first = device.extent(0, 4 << 20).unwrap();
        assert_eq!(first.kind, ExtentKind::Zero);
        assert!(first.length <= 1 << 20);
        assert_eq!(
            device.extent(1 << 20, 65536).unwrap().kind,
            ExtentKind::Data
        );
        device.discard(1 << 20, 65536).unwrap();
        assert_eq!(
            device.extent(1 << 20, 65536).unwrap().kind,
            ExtentKind::Zero
        );
    }
}
