//! imago's port to storage, on our files.
//!
//! imago calls the raw reads and writes of its `Storage` trait unsafe, because they must not be called
//! without its write blockers; implementing them needs no unsafe code, and none is here.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::Arc;

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::storage::{PreallocateMode, Storage};

use crate::file::File;

/// How much of a read may lie behind the end of the file: compressed data is addressed in sectors, and
/// the last one need not be whole. Anything more is a truncated image, never zeroes.
const SECTOR_BYTES: u64 = 512;

/// A file as imago sees it.
///
/// It opens no other file: everything that an image refers to is found, checked and locked by us. No
/// lock of ours is held around a sync, so reads and writes go on beside it.
#[derive(Debug)]
pub(crate) struct Store {
    name: String,
    file: Arc<dyn File>,
    helper: CommonStorageHelper,
}

impl Store {
    pub(crate) fn new(name: impl Into<String>, file: Arc<dyn File>) -> Self {
        Self {
            name: name.into(),
            file,
            helper: CommonStorageHelper::default(),
        }
    }

    /// The file, for data that needs no translation.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    fn read_whole(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.file.read_at(buf, offset) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.read_tail(buf, offset),
            other => other,
        }
    }

    fn read_tail(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let length = self.file.len()?;
        let held = length.saturating_sub(offset);
        let missing = (buf.len() as u64).saturating_sub(held);
        if held == 0 || missing >= SECTOR_BYTES {
            return Err(beyond_the_end(offset, buf.len(), length));
        }
        let (inside, outside) = buf.split_at_mut(held as usize);
        outside.fill(0);
        self.file.read_at(inside, offset)
    }
}

/// What a reference to bytes that the file does not have means.
pub(crate) fn beyond_the_end(offset: u64, length: usize, end: u64) -> io::Error {
    let text = format!(
        "the image is truncated: it refers to {length} bytes at byte {offset} of its file, which ends \
         at byte {end}"
    );
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Storage for Store {
    fn size(&self) -> io::Result<u64> {
        self.file.len()
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for mut buf in bufv.into_inner() {
            self.read_whole(&mut buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufv.into_inner() {
            self.file.write_at(&buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.write_zeroes(offset, length)
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        // Nothing is buffered here.
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn settle_writes(&self) -> io::Result<()> {
        // A write that returned is over; there are no others.
        Ok(())
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, mode: PreallocateMode) -> io::Result<()> {
        match mode {
            PreallocateMode::None | PreallocateMode::Zero => self.file.set_len(new_size),
            // Nothing here creates images; growing on writes needs none of the others.
            PreallocateMode::Allocate | PreallocateMode::WriteData | _ => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }
}
