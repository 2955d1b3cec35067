//! The copy: a few threads, each with one piece in hand, which skip what is zero.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cohort_block::{Device, ExtentKind, File, OsFile};

use super::error::RestoreError;
use crate::qcow2_builder::{BuildError, Qcow2Builder};

/// What one thread reads and writes at once: large enough that calls do not show.
const PIECE_BYTES: u64 = 1 << 20;

/// Pieces begin at multiples of this, which is a multiple of any writer's block.
const ALIGNMENT: u64 = 64 << 10;

/// What to copy, and who is told.
pub(super) struct Copy<'a> {
    pub(super) source: &'a dyn Device,
    pub(super) length_bytes: u64,
    pub(super) threads: usize,
    pub(super) progress: &'a (dyn Fn(u64, u64) + Sync),
    pub(super) cancel: &'a AtomicBool,
}

/// Where the data goes.
pub(super) trait Writer: Sync {
    type Error: Send;
    /// Bytes that are left out when they are all zero.
    const BLOCK: usize;
    /// Writes whole blocks; the last of the disk may be partial.
    fn write(&self, data: &[u8], offset: u64) -> Result<(), Self::Error>;
}

pub(super) struct RawWriter<'a>(pub(super) &'a OsFile);

impl Writer for RawWriter<'_> {
    type Error = std::io::Error;
    /// The page: what file systems can leave a hole for.
    const BLOCK: usize = 4 << 10;

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Self::Error> {
        self.0.write_at(data, offset)
    }
}

pub(super) struct Qcow2Writer<'a>(pub(super) &'a Qcow2Builder<OsFile>);

impl Writer for Qcow2Writer<'_> {
    type Error = BuildError;
    /// The builder's own cluster size.
    const BLOCK: usize = 64 << 10;

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Self::Error> {
        self.0.write_clusters(offset / self.0.cluster_size(), data)
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
}

impl Copy<'_> {
    /// Copies everything that is not zero; returns how many bytes that was.
    pub(super) fn run<W: Writer>(
        &self,
        writer: &W,
        failed: &(dyn Fn(W::Error) -> RestoreError + Sync),
    ) -> Result<u64, RestoreError> {
        let shared = Mutex::new(Shared {
            next: 0,
            data_until: 0,
            done: 0,
            data: 0,
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
        let mut buffer = vec![0; PIECE_BYTES.min(self.length_bytes) as usize];
        while !stop.load(Ordering::Relaxed) {
            self.check_cancel()?;
            let Some((offset, length)) = self.next_piece(shared)? else {
                break;
            };
            let piece = &mut buffer[..length as usize];
            self.source.read_at(piece, offset)?;
            let mut data = 0;
            for (at, run) in runs_of_data(piece, W::BLOCK) {
                writer.write(run, offset + at as u64).map_err(failed)?;
                data += run.len() as u64;
            }
            self.note(shared, length, data);
        }
        Ok(())
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
            let start = at - at % ALIGNMENT;
            let end = shared.data_until.next_multiple_of(ALIGNMENT);
            let end = end.min(start + PIECE_BYTES).min(self.length_bytes);
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

    fn note(&self, shared: &Mutex<Shared>, length: u64, data: u64) {
        let mut shared = shared.lock().expect("no panic while this lock is held");
        shared.done += length;
        shared.data += data;
        // Under the lock, so that what is told never goes back.
        (self.progress)(shared.done, self.length_bytes);
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
