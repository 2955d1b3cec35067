//! What was decompressed last, so that small reads of one compressed cluster decompress it once.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes kept of one image, or two blocks if that is more.
const KEPT: u64 = 4 << 20;

/// Blocks of a disk, each as large as the largest cluster in its chain and aligned to that.
#[derive(Debug)]
pub(crate) struct Decompressed {
    block: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By where they begin; the one that was used last comes first.
    blocks: VecDeque<(u64, Arc<Vec<u8>>)>,
    /// Rises with every write.
    writes: u64,
}

impl Decompressed {
    pub(crate) fn new(block: u64) -> Self {
        Self {
            block,
            state: Mutex::default(),
        }
    }

    /// Fills `buf` with bytes that lie in one block of a disk of `size` bytes; `read` reads a block that is not kept.
    pub(crate) fn read(
        &self,
        buf: &mut [u8],
        offset: u64,
        size: u64,
        read: impl FnOnce(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = offset - offset % self.block;
        let length = self.block.min(size - start);
        if buf.len() as u64 == length {
            return read(buf, offset);
        }
        let (kept, writes) = {
            let mut state = self.lock();
            (state.find(start), state.writes)
        };
        let block = match kept {
            Some(block) => block,
            None => {
                let mut block = vec![0; length as usize];
                read(&mut block, start)?;
                let block = Arc::new(block);
                let mut state = self.lock();
                // What was written meanwhile may be missing in it.
                if state.writes == writes {
                    state.blocks.push_front((start, block.clone()));
                    state.blocks.truncate((KEPT / self.block).max(2) as usize);
                }
                block
            }
        };
        let at = (offset - start) as usize;
        buf.copy_from_slice(&block[at..at + buf.len()]);
        Ok(())
    }

    /// How far from `offset` on its block reaches.
    pub(crate) fn rest_of_block(&self, offset: u64) -> u64 {
        self.block - offset % self.block
    }

    /// These bytes were written, perhaps in vain. To be called before the write returns.
    pub(crate) fn written(&self, bytes: Range<u64>) {
        let mut state = self.lock();
        state.writes += 1;
        let block = self.block;
        let apart = |start: u64| start >= bytes.end || start + block <= bytes.start;
        state.blocks.retain(|(start, _)| apart(*start));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, start: u64) -> Option<Arc<Vec<u8>>> {
        let at = self.blocks.iter().position(|(other, _)| *other == start)?;
        let found = self.blocks.remove(at)?;
        let block = found.1.clone();
        self.blocks.push_front(found);
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A disk whose bytes tell their own place and how often it was written to.
    fn reader<'a>(
        reads: &'a Cell<u32>,
        written: &'a Cell<u8>,
    ) -> impl Fn(&mut [u8], u64) -> io::Result<()> + 'a {
        move |buf, offset| {
            reads.set(reads.get() + 1);
            for (byte, at) in buf.iter_mut().zip(offset..) {
                *byte = ((at / 16) as u8).wrapping_add(written.get());
            }
            Ok(())
        }
    }

    #[test]
    fn a_block_is_read_once_until_it_is_written() {
        let (reads, written) = (Cell::new(0), Cell::new(0));
        let cache = Decompressed::new(4096);
        let read = |offset: u64, length: usize| {
            let mut buf = vec![0; length];
            cache
                .read(&mut buf, offset, 10_000, reader(&reads, &written))
                .unwrap();
            (buf[0], reads.get())
        };
        assert_eq!(read(4096, 512), (0, 1));
        assert_eq!(read(4096 + 160, 16), (10, 1));
        assert_eq!(read(8192, 100), (0, 2), "the last block is short");
        assert_eq!(read(8192, 1808), (0, 3), "a whole one needs no place");
        written.set(1);
        cache.written(4000..4096);
        assert_eq!(read(4096, 16), (0, 3), "its neighbour was written");
        cache.written(5000..5001);
        assert_eq!(read(4096, 16), (1, 4));
    }

    #[test]
    fn what_was_written_while_it_was_read_is_not_kept() {
        let cache = Decompressed::new(4096);
        let mut buf = [0; 16];
        let overtaken = |buf: &mut [u8], _| {
            buf.fill(1);
            cache.written(0..1);
            Ok(())
        };
        cache.read(&mut buf, 0, 8192, overtaken).unwrap();
        let fresh = |buf: &mut [u8], _| {
            buf.fill(2);
            Ok(())
        };
        cache.read(&mut buf, 0, 8192, fresh).unwrap();
        assert_eq!(buf, [2; 16]);
    }

    #[test]
    fn few_blocks_are_kept() {
        let cache = Decompressed::new(2 << 20);
        for block in 0..5u64 {
            let fill = |_: &mut [u8], _| Ok(());
            cache
                .read(&mut [0; 1], block * (2 << 20), 1 << 40, fill)
                .unwrap();
        }
        assert_eq!(cache.lock().blocks.len(), 2);
    }
}
