//! The copy: a few threads, each with one piece in hand, which skip what is zero, or leave the piece to the kernel.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cohort_block::{Device, ExtentKind, File, OsFile};

use super::error::RestoreError;
use crate::offload::offload;
use crate::options::Compression;
use crate::qcow2_builder::{BuildError, Qcow2Builder};
use crate::write_back::WriteBack;

/// What one thread takes at once: large enough that taking does not show.
const PIECE_BYTES: u64 = 1 << 20;

/// As much, where the kernel copies it.
const OFFLOADED_BYTES: u64 = 4 << 20;

/// What is read and written at once: still in the processor's cache when it is written.
const READ_BYTES: u64 = 256 << 10;

/// Pieces that are read begin at multiples of this at least.
const ALIGNMENT: u64 = 64 << 10;

/// What to copy, and who is told.
pub(super) struct Copy<'a> {
    pub(super) source: &'a dyn Device,
    pub(super) length_bytes: u64,
    pub(super) threads: usize,
    /// Whether to let the kernel copy where it can.
    pub(super) offload: bool,
    pub(super) progress: &'a (dyn Fn(u64, u64) + Sync),
    pub(super) cancel: &'a AtomicBool,
}

/// Where the data goes.
pub(super) trait Writer: Sync {
    type Error: Send;
    /// Bytes that are left out when they are all zero: a power of two.
    fn block(&self) -> u64;
    /// Has the kernel bring whole blocks of a device to their place; false if it did not.
    fn take_over(&self, source: &dyn Device, bytes: Range<u64>) -> bool;
    /// Sends what was written so far on its way to the storage.
    fn push_out(&self);
    /// Writes whole blocks; the last of the disk may be partial.
    fn write(&self, data: &[u8], offset: u64) -> Result<(), Self::Error>;
}

pub(super) struct RawWriter<'a>(pub(super) &'a OsFile);

impl Writer for RawWriter<'_> {
    type Error = std::io::Error;

    /// The page: what file systems can leave a hole for.
    fn block(&self) -> u64 {
        4 << 10
    }

    fn take_over(&self, source: &dyn Device, bytes: Range<u64>) -> bool {
        let to = bytes.start;
        offload(source, bytes, self.0, to)
    }

    fn push_out(&self) {
        self.0.push_out();
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Self::Error> {
        self.0.write_at(data, offset)
    }
}

pub(super) struct Qcow2Writer<'a> {
    pub(super) builder: &'a Qcow2Builder<OsFile>,
    pub(super) compress: Compression,
}

impl Writer for Qcow2Writer<'_> {
    type Error = BuildError;

    fn block(&self) -> u64 {
        self.builder.cluster_size()
    }

    fn take_over(&self, source: &dyn Device, bytes: Range<u64>) -> bool {
        let cluster = self.builder.cluster_size();
        if !bytes.end.is_multiple_of(cluster) {
            return false;
        }
        let clusters = bytes.start / cluster..bytes.end / cluster;
        let copy = |file: &OsFile, to| offload(source, bytes, file, to);
        let taken = self.builder.fill_clusters(clusters, copy);
        taken.is_ok_and(|taken| taken)
    }

    fn push_out(&self) {
        self.builder.push_out();
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Self::Error> {
        let first = offset / self.builder.cluster_size();
        match self.compress {
            Compression::None => self.builder.write_clusters(first, data),
            Compression::Zlib => self.builder.write_compressed(first, data),
        }
    }
}

/// What all threads share: how far the source has been handed out, and how far it is done.
struct Shared {
    next: u64,
    /// The source has said that all is data up to here. Asked again for every piece, some file
    /// systems would look at the whole rest of the file each time.
    data_until: u64,
    done: u64,
    data: u64,
    write_back: WriteBack,
    /// Where pieces begin, and how long they are.
    align: u64,
    piece: u64,
}

impl Copy<'_> {
    /// Copies everything that is not zero; returns how many bytes that was.
    pub(super) fn run<W: Writer>(
        &self,
        writer: &W,
        failed: &(dyn Fn(W::Error) -> RestoreError + Sync),
    ) -> Result<u64, RestoreError> {
        let align = match self.offload {
            // The kernel looks for no zeroes, so that what lies beside data would be no hole any more.
            true => writer.block(),
            false => ALIGNMENT.max(writer.block()),
        };
        let shared = Mutex::new(Shared {
            next: 0,
            data_until: 0,
            done: 0,
            data: 0,
            write_back: WriteBack::default(),
            align,
            piece: if self.offload {
                OFFLOADED_BYTES.max(align)
            } else {
                PIECE_BYTES.max(align)
            },
        });
        (self.progress)(0, self.length_bytes);
        // The first error stops the others at their next piece.
        let stop = AtomicBool::new(false);
        let worker = || {
            let outcome = self.work(writer, failed, &shared, &stop);
            if outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            outcome
        };
        thread::scope(|scope| {
            let helpers: Vec<_> = (1..self.threads).map(|_| scope.spawn(worker)).collect();
            let mut outcome = worker();
            for helper in helpers {
                let theirs = helper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(theirs);
            }
            outcome
        })?;
        let shared = shared
            .into_inner()
            .expect("no panic while this lock is held");
        Ok(shared.data)
    }

    fn work<W: Writer>(
        &self,
        writer: &W,
        failed: &dyn Fn(W::Error) -> RestoreError,
        shared: &Mutex<Shared>,
        stop: &AtomicBool,
    ) -> Result<(), RestoreError> {
        let mut buffer = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            self.check_cancel()?;
            let Some((offset, length)) = self.next_piece(shared)? else {
                break;
            };
            let bytes = offset..offset + length;
            let data = if self.offload && writer.take_over(self.source, bytes.clone()) {
                length
            } else {
                self.copy_piece(writer, failed, bytes, &mut buffer)?
            };
            if self.note(shared, length, data) {
                writer.push_out();
            }
        }
        Ok(())
    }

    /// Reads and writes a piece; gives how much of it was data.
    fn copy_piece<W: Writer>(
        &self,
        writer: &W,
        failed: &dyn Fn(W::Error) -> RestoreError,
        bytes: Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<u64, RestoreError> {
        let block = writer.block();
        let at_once = READ_BYTES.max(block);
        let (mut offset, mut data) = (bytes.start, 0);
        while offset < bytes.end {
            let length = at_once.min(bytes.end - offset);
            buffer.resize(buffer.len().max(length as usize), 0);
            let piece = &mut buffer[..length as usize];
            self.source.read_at(piece, offset)?;
            for (at, run) in runs_of_data(piece, block as usize) {
                writer.write(run, offset + at as u64).map_err(failed)?;
                data += run.len() as u64;
            }
            offset += length;
        }
        Ok(data)
    }

    /// Hands out the next piece that may hold data: (offset, length).
    fn next_piece(&self, shared: &Mutex<Shared>) -> Result<Option<(u64, u64)>, RestoreError> {
        let mut shared = shared.lock().expect("no panic while this lock is held");
        let mut at = shared.next;
        while at < self.length_bytes {
            if at >= shared.data_until {
                let extent = self.source.extent(at, self.length_bytes - at)?;
                if extent.kind == ExtentKind::Zero {
                    at += extent.length;
                    self.check_cancel()?;
                    continue;
                }
                shared.data_until = at + extent.length;
            }
            // Not below what was handed out: that ended at such a multiple too.
            let start = at - at % shared.align;
            let end = shared.data_until.next_multiple_of(shared.align);
            let end = end.min(start + shared.piece).min(self.length_bytes);
            shared.done += start - shared.next;
            shared.next = end;
            return Ok(Some((start, end - start)));
        }
        shared.done += at - shared.next;
        shared.next = at;
        (self.progress)(shared.done, self.length_bytes);
        Ok(None)
    }

    fn check_cancel(&self) -> Result<(), RestoreError> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(RestoreError::Cancelled),
            false => Ok(()),
        }
    }

    /// Notes what was done; says whether the storage should take it now.
    fn note(&self, shared: &Mutex<Shared>, length: u64, data: u64) -> bool {
        let mut shared = shared.lock().expect("no panic while this lock is held");
        shared.done += length;
        shared.data += data;
        // Under the lock, so that what is told never goes back.
        (self.progress)(shared.done, self.length_bytes);
        shared.write_back.wrote(data);
        shared.write_back.is_due()
    }
}

/// The runs of blocks that are not all zero, with the place of each; the last block may be partial.
fn runs_of_data(piece: &[u8], block: usize) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = |from: usize, zero: bool| -> usize {
            let blocks = piece[from..].chunks(block);
            blocks
                .take_while(|block| is_zero(block) == zero)
                .map(<[u8]>::len)
                .sum()
        };
        at += length(at, true);
        let start = at;
        at += length(at, false);
        (at > start).then(|| (start, &piece[start..at]))
    })
}

/// Whether all bytes are zero. In steps of a cache line or four, which compilers turn into wide ones.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<256>();
    let zero = |bytes: &[u8]| bytes.iter().fold(0, |seen, byte| seen | byte) == 0;
    chunks.iter().all(|chunk| zero(chunk)) && zero(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_leave_out_exactly_the_zero_blocks() {
        let mut piece = vec![0; 10 * 512 + 3];
        for block in [0, 1, 4, 9] {
            piece[block * 512 + 511] = 1;
        }
        piece[10 * 512 + 2] = 1;
        let runs: Vec<_> = runs_of_data(&piece, 512)
            .map(|(at, run)| (at, run.len()))
            .collect();
        assert_eq!(runs, [(0, 1024), (4 * 512, 512), (9 * 512, 512 + 3)]);
        assert_eq!(runs_of_data(&[0; 1000], 512).count(), 0);
        assert_eq!(runs_of_data(&[], 512).count(), 0);
    }

    #[test]
    fn a_single_set_byte_is_seen_wherever_it_is() {
        for length in [1, 255, 256, 257, 1000] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }
}
