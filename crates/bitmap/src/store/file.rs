//! The port to a file: what images and stores are kept in.
//!
//! [`File`] is the narrow seam under every durable form of this project. The operating system's files
//! stand behind it in `cohort-block`; tests put others there, which fail, stall, or remember the order
//! of writes and syncs.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A file, or a thing that behaves like one, with positioned reads and writes from many threads.
///
/// Nothing is short: requests are whole or an error.
pub trait File: fmt::Debug + Send + Sync {
    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before that, or what the storage says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, growing the file if it ends before that.
    ///
    /// # Errors
    /// What the storage says.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes every write that returned before this call durable, and the length they gave the file.
    ///
    /// # Errors
    /// What the storage says; the writes since the last success may be lost, also when a later call
    /// succeeds.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the storage says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// What the storage says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or grows it with zeroes.
    ///
    /// # Errors
    /// What the storage says.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes a range read as zeroes, and may free its space. Grows the file if it ends before that.
    ///
    /// Writes zeroes where an implementation knows nothing better.
    ///
    /// # Errors
    /// What the storage says.
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        write_plain_zeroes(|zeroes, at| self.write_at(zeroes, at), offset, length)
    }

    /// Frees the space behind a range nobody needs any more; its bytes then read as zero or as they
    /// were. Does nothing where an implementation cannot, and never changes the length.
    ///
    /// # Errors
    /// What the storage says.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let _ = (offset, length);
        Ok(())
    }

    /// Has what was written begin its way to where it lasts, without waiting for any of it: a sync later finds less left
    /// to do, and says what went wrong meanwhile. Does nothing where an implementation knows no such thing.
    fn push_out(&self) {}

    /// What the operating system knows it by, if it may copy from it by itself.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Has the operating system copy `length` bytes of `source`, from its byte `from` on, to `offset`. False if that was
    /// not done, for whatever reason: the range then holds anything, and reading and writing says why, or does it.
    fn copy_from(&self, source: &dyn File, from: u64, offset: u64, length: u64) -> bool {
        let _ = (source, from, offset, length);
        false
    }

    /// The first run of `offset..offset + length` that is a hole throughout or not one throughout;
    /// everything is data where an implementation knows nothing better. The range must not be empty.
    ///
    /// # Errors
    /// What the storage says.
    fn run_at(&self, offset: u64, length: u64) -> io::Result<FileRun> {
        let _ = offset;
        Ok(FileRun {
            length,
            hole: false,
        })
    }
}

/// A run of a file's bytes: see [`File::run_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRun {
    /// Bytes from the offset asked for; never zero.
    pub length: u64,
    /// Whether they are a hole, which reads as zeroes. A run that is no hole may be zero all the same.
    pub hole: bool,
}

/// How many zeroes are written in one call where nothing better is known: large enough that the call
/// does not show, small enough to allocate without a thought.
const ZEROES_AT_ONCE: u64 = 1 << 20;

/// A pointer to a file is a file: images own theirs, or share them with who watches.
macro_rules! pointed_to {
    ($pointer:ident) => {
        impl<F: File + ?Sized> File for $pointer<F> {
            crate::forward_file!(
                *: read_at, write_at, sync_data, len, set_len, write_zeroes, discard, push_out, descriptor, copy_from, run_at
            );
        }
    };
}

pointed_to!(Arc);
pointed_to!(Box);

/// Zeroes a range by writing, for implementations that know nothing better: `write_at` is called with
/// bytes that are all zero, and where they go.
///
/// # Errors
/// What `write_at` says.
pub fn write_plain_zeroes(
    write_at: impl Fn(&[u8], u64) -> io::Result<()>,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let zeroes = vec![0; length.min(ZEROES_AT_ONCE) as usize];
    let mut done = 0;
    while done < length {
        let now = (length - done).min(ZEROES_AT_ONCE);
        write_at(&zeroes[..now as usize], offset + done)?;
        done += now;
    }
    Ok(())
}
