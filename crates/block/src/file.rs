//! Files of the operating system behind the [`File`] port.

use std::fs;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};

use cohort_bitmap::store::write_plain_zeroes;
pub use cohort_bitmap::store::{File, FileRun};
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use crate::lock;

/// A file or block device of the operating system.
#[derive(Debug)]
pub struct OsFile {
    file: fs::File,
    /// A block device's length; a file's is asked each time, because it grows.
    device_length: Option<u64>,
    /// Whether locks on it are given back when this value goes.
    locked: bool,
}

impl OsFile {
    /// Opens an existing file or block device, to read, or to read and write.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: impl AsRef<std::path::Path>, writable: bool) -> io::Result<Self> {
        Self::new(
            fs::OpenOptions::new()
                .read(true)
                .write(writable)
                .open(path)?,
        )
    }

    /// Creates a file that must not exist yet, to read and write.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or what the operating system says.
    pub fn create_new(path: impl AsRef<std::path::Path>) -> io::Result<Self> {
        Self::new(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?,
        )
    }

    /// Takes over a file that is already open. Its cursor is nobody's from now on.
    ///
    /// # Errors
    /// A block device whose length cannot be found.
    pub fn new(file: fs::File) -> io::Result<Self> {
        let device_length = if file.metadata()?.file_type().is_block_device() {
            Some((&file).seek(SeekFrom::End(0))?)
        } else {
            None
        };
        Ok(Self {
            file,
            device_length,
            locked: false,
        })
    }

    /// As [`new`](Self::new), for a file that carries locks of its own: they end with this value.
    ///
    /// Closing alone would not end them as long as a child that another thread is just starting has not yet
    /// closed what it inherited.
    pub(crate) fn locked(file: fs::File) -> io::Result<Self> {
        let mut file = Self::new(file)?;
        file.locked = true;
        Ok(file)
    }

    /// The file itself, for locks and metadata.
    pub fn as_file(&self) -> &fs::File {
        &self.file
    }

    /// Whether somebody else reads it under QEMU's locks, and counts on nobody writing to it.
    #[must_use]
    pub fn is_read(&self) -> bool {
        lock::is_read(&self.file)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry(|| rustix::fs::fallocate(&self.file, flags, offset, length))
    }
}

impl Drop for OsFile {
    fn drop(&mut self) {
        if self.locked
            && let Err(error) = lock::release(&self.file)
        {
            tracing::warn!(%error, "locks end only when the file is closed everywhere");
        }
    }
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        match self.device_length {
            Some(length) => Ok(length),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset
            .checked_add(length)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if length == 0 {
            return Ok(());
        }
        // A hole rather than allocated zeroes: restored disks stay as sparse as they were.
        match self.punch(offset, length) {
            Ok(()) => {}
            Err(error) if is_unsupported(error) => {
                return write_plain_zeroes(|zeroes, at| self.write_at(zeroes, at), offset, length);
            }
            Err(error) => return Err(error.into()),
        }
        if self.len()? < end {
            // Two threads that grow the file past each other must not cut it: writing grows only.
            self.write_at(&[0], end - 1)?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        match self.punch(offset, length) {
            Ok(()) => Ok(()),
            Err(error) if is_unsupported(error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn push_out(&self) {
        // What need not stay in memory is written back, without waiting, and what was written back is dropped. A system
        // that does neither writes all of it at the next sync.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn copy_from(&self, source: &dyn File, from: u64, offset: u64, length: u64) -> bool {
        let Some(source) = source.descriptor() else {
            return false;
        };
        let (mut from, mut to, end) = (from, offset, offset + length);
        while to < end {
            let most = usize::try_from(end - to).unwrap_or(usize::MAX);
            let copied = retry(|| {
                rustix::fs::copy_file_range(
                    source,
                    Some(&mut from),
                    &self.file,
                    Some(&mut to),
                    most,
                )
            });
            // Nothing copied: the source ends here. Whoever reads it says so.
            if !matches!(copied, Ok(1..)) {
                return false;
            }
        }
        true
    }

    fn run_at(&self, offset: u64, length: u64) -> io::Result<FileRun> {
        let rest = FileRun {
            length,
            hole: false,
        };
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(FileRun {
                length: (data - offset).min(length),
                hole: true,
            }),
            Ok(_) => match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => Ok(FileRun {
                    length: (hole - offset).min(length),
                    hole: false,
                }),
                Ok(_) | Err(_) => Ok(rest),
            },
            // No data from here to the end of the file.
            Err(Errno::NXIO) if self.device_length.is_none() => Ok(FileRun { length, hole: true }),
            // The file system cannot say: then all of it is data.
            Err(_) => Ok(rest),
        }
    }
}

/// What file systems and devices say when they have no holes, or none at this alignment.
fn is_unsupported(error: Errno) -> bool {
    [
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::INVAL,
        Errno::NODEV,
        Errno::NOTTY,
    ]
    .contains(&error)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, OsFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = OsFile::create_new(dir.path().join("f")).unwrap();
        (dir, file)
    }

    #[test]
    fn reads_past_the_end_are_errors_not_short() {
        let (_dir, file) = scratch();
        file.write_at(b"abc", 0).unwrap();
        let error = file.read_at(&mut [0; 4], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn zeroing_past_the_end_grows_and_zeroing_nothing_does_not() {
        let (_dir, file) = scratch();
        file.write_at(&[7; 100], 0).unwrap();
        file.write_zeroes(50, 100_000).unwrap();
        file.write_zeroes(1 << 40, 0).unwrap();
        assert_eq!(file.len().unwrap(), 100_050);
        let mut back = vec![1; 100_050];
        file.read_at(&mut back, 0).unwrap();
        assert!(back[..50].iter().all(|b| *b == 7) && back[50..].iter().all(|b| *b == 0));
    }

    #[test]
    fn copying_by_the_system_is_whole_or_not_said_to_be_done() {
        let (dir, file) = scratch();
        let source = OsFile::create_new(dir.path().join("source")).unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        source.write_at(&bytes, 0).unwrap();
        assert!(file.copy_from(&source, 1000, 50, 299_000));
        let mut back = vec![0; 299_000];
        file.read_at(&mut back, 50).unwrap();
        assert!(back == bytes[1000..]);
        assert!(!file.copy_from(&source, 299_999, 0, 2), "the source ends");
        let null = OsFile::new(fs::File::open("/dev/null").unwrap()).unwrap();
        assert!(!file.copy_from(&null, 0, 0, 1), "not a file with bytes");
    }

    #[test]
    fn discarding_never_changes_the_length() {
        let (_dir, file) = scratch();
        file.write_at(&[7; 10_000], 0).unwrap();
        file.discard(5_000, 1 << 30).unwrap();
        assert_eq!(file.len().unwrap(), 10_000);
    }

    #[test]
    fn runs_cover_a_sparse_file_and_data_is_never_called_a_hole() {
        let (_dir, file) = scratch();
        let end = 3 << 20;
        file.set_len(end).unwrap();
        file.write_at(&[9; 1000], 1 << 20).unwrap();
        let (mut at, mut holes) = (0, 0);
        while at < end {
            let run = file.run_at(at, end - at).unwrap();
            assert!(run.length > 0);
            let data = at <= (1 << 20) + 999 && at + run.length > 1 << 20;
            assert!(!(data && run.hole), "data called a hole at {at}");
            holes += if run.hole { run.length } else { 0 };
            at += run.length;
        }
        assert_eq!(at, end);
        assert!(holes > 1 << 20, "a sparse file has holes: {holes}");
    }
}
