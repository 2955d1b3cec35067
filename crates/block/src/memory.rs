//! A device in memory: the twin that tests and examples use.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::device::{Device, DeviceError, Extent, ExtentKind, Operation, check_range};

/// Bytes behind one entry of the map. A power of two; small enough that sparse tests stay sparse.
const CHUNK_BYTES: u64 = 4096;

/// A device whose bytes live in memory, sparsely: chunks never written are zero and take no space.
///
/// [`extent`](Device::extent) tells written chunks of 4 KiB as data and all others as zero, as a sparse
/// file does. A flush does nothing.
///
/// ```
/// use cohort_block::{Device, MemoryDevice};
///
/// let disk = MemoryDevice::new("scratch", 1 << 40);
/// disk.write_at(b"hello", 1 << 30)?;
/// let mut back = [0; 7];
/// disk.read_at(&mut back, (1 << 30) - 1)?;
/// assert_eq!(&back, b"\0hello\0");
/// # Ok::<_, cohort_block::DeviceError>(())
/// ```
#[derive(Debug)]
pub struct MemoryDevice {
    name: String,
    size: u64,
    chunks: RwLock<Chunks>,
}

/// Chunk number to its bytes.
type Chunks = BTreeMap<u64, Box<[u8]>>;

impl MemoryDevice {
    /// A device of `size` zero bytes.
    pub fn new(name: impl Into<String>, size: u64) -> Self {
        Self {
            name: name.into(),
            size,
            chunks: RwLock::default(),
        }
    }

    /// A device that holds exactly `bytes`.
    pub fn with_bytes(name: impl Into<String>, bytes: &[u8]) -> Self {
        let device = Self::new(name, bytes.len() as u64);
        copy_in(&mut device.chunks_mut(), bytes, 0);
        device
    }

    fn chunks(&self) -> RwLockReadGuard<'_, Chunks> {
        // A chunk is whole whatever panicked beside it.
        self.chunks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks_mut(&self) -> RwLockWriteGuard<'_, Chunks> {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for MemoryDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        check_range(self, Operation::Read, offset, buf.len() as u64)?;
        let chunks = self.chunks();
        let mut rest = buf;
        for piece in pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.length);
            match chunks.get(&piece.chunk) {
                Some(bytes) => now.copy_from_slice(&bytes[piece.within()]),
                None => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        check_range(self, Operation::Write, offset, buf.len() as u64)?;
        copy_in(&mut self.chunks_mut(), buf, offset);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        check_range(self, Operation::WriteZeroes, offset, length)?;
        clear(&mut self.chunks_mut(), offset, length);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        check_range(self, Operation::Discard, offset, length)?;
        clear(&mut self.chunks_mut(), offset, length);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        check_range(self, Operation::Extent, offset, length)?;
        let chunks = self.chunks();
        let first = offset / CHUNK_BYTES;
        let held = chunks.contains_key(&first);
        let end = if held {
            let run = chunks
                .range(first..)
                .zip(first..)
                .take_while(|((at, _), n)| *at == n);
            (first + run.count() as u64) * CHUNK_BYTES
        } else {
            chunks
                .range(first..)
                .next()
                .map_or(u64::MAX, |(at, _)| at * CHUNK_BYTES)
        };
        let kind = if held {
            ExtentKind::Data
        } else {
            ExtentKind::Zero
        };
        Ok(Extent {
            length: (end - offset).min(length),
            kind,
            allocated: true,
        })
    }
}

/// The part of a range that falls into one chunk.
struct Piece {
    chunk: u64,
    start: usize,
    length: usize,
}

impl Piece {
    fn within(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.length
    }

    fn is_whole(&self) -> bool {
        self.length as u64 == CHUNK_BYTES
    }
}

/// Cuts a range at chunk borders.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let start = at % CHUNK_BYTES;
        let length = (CHUNK_BYTES - start).min(end - at);
        let piece = Piece {
            chunk: at / CHUNK_BYTES,
            start: start as usize,
            length: length as usize,
        };
        at += length;
        Some(piece)
    })
}

fn copy_in(chunks: &mut Chunks, bytes: &[u8], offset: u64) {
    let mut rest = bytes;
    for piece in pieces(offset, bytes.len() as u64) {
        let (now, later) = rest.split_at(piece.length);
        let zeroes = || vec![0; CHUNK_BYTES as usize].into_boxed_slice();
        let chunk = chunks.entry(piece.chunk).or_insert_with(zeroes);
        chunk[piece.within()].copy_from_slice(now);
        rest = later;
    }
}

fn clear(chunks: &mut Chunks, offset: u64, length: u64) {
    let Some(end) = offset.checked_add(length).filter(|_| length > 0) else {
        return;
    };
    let touched = offset / CHUNK_BYTES..=(end - 1) / CHUNK_BYTES;
    // Walks the chunks that exist: a terabyte of nothing is cleared at once.
    let held: Vec<u64> = chunks.range(touched).map(|(at, _)| *at).collect();
    for at in held {
        let start = (at * CHUNK_BYTES).max(offset);
        let stop = ((at + 1) * CHUNK_BYTES).min(end);
        for piece in pieces(start, stop - start) {
            if piece.is_whole() {
                chunks.remove(&at);
            } else if let Some(chunk) = chunks.get_mut(&at) {
                chunk[piece.within()].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(device: &dyn Device) -> Vec<u8> {
        let mut bytes = vec![0xee; device.size() as usize];
        device.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn holds_exactly_the_bytes_it_was_given() {
        let bytes: Vec<u8> = (0..10_001u32).map(|n| n as u8).collect();
        let device = MemoryDevice::with_bytes("m", &bytes);
        assert_eq!(content(&device), bytes);
    }

    #[test]
    fn huge_devices_are_cleared_and_walked_at_once() {
        let device = MemoryDevice::new("m", u64::MAX);
        device.write_at(&[1; 3], 1 << 50).unwrap();
        let hole = device.extent(0, u64::MAX).unwrap();
        assert_eq!((hole.length, hole.kind), (1 << 50, ExtentKind::Zero));
        let data = device.extent(1 << 50, 10_000).unwrap();
        assert_eq!((data.length, data.kind), (CHUNK_BYTES, ExtentKind::Data));
        device.write_zeroes(0, u64::MAX).unwrap();
        assert_eq!(device.extent(0, u64::MAX).unwrap().length, u64::MAX);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector(
            size in 1u64..30_000,
            steps in prop::collection::vec((any::<u8>(), any::<u64>(), any::<u64>()), 0..20),
        ) {
            let device = MemoryDevice::new("m", size);
            let mut oracle = vec![0; size as usize];
            for (byte, offset, length) in steps {
                let offset = offset % size;
                let length = length % (size - offset + 1);
                let range = offset as usize..(offset + length) as usize;
                if byte % 3 == 0 {
                    device.write_zeroes(offset, length).unwrap();
                    oracle[range].fill(0);
                } else {
                    device.write_at(&vec![byte; length as usize], offset).unwrap();
                    oracle[range].fill(byte);
                }
            }
            prop_assert_eq!(content(&device), oracle.clone());
            let mut at = 0;
            while at < size {
                let extent = device.extent(at, size - at).unwrap();
                let range = at as usize..(at + extent.length) as usize;
                prop_assert!(extent.length > 0);
                prop_assert!(
                    extent.kind == ExtentKind::Data || oracle[range].iter().all(|b| *b == 0)
                );
                at += extent.length;
            }
            prop_assert_eq!(at, size);
        }
    }
}
