//! Compressed clusters: several of them lie in one cluster of the file, one after the other, each from a sector on.
//!
//! They are put into *packs*, consecutive clusters taken for nothing else. A pack is closed when the next blobs do not
//! fit, and by every seal: so no sector that a seal counts is written to again. What no blob reached of a closed pack
//! goes back; a cluster that blobs reached stays taken until the file is opened anew, even if all of them are superseded.

use std::sync::Mutex;

use cohort_block::File;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::error::BuildError;
use super::layout::{Layout, SECTOR};
use super::mapping::Entry;
use super::space::Allocator;
use super::{Qcow2Builder, State, lock};

/// Bytes of a pack: so much that little is lost at its end.
const PACK_BYTES: u64 = 1 << 20;

/// Readers inflate with a window of four KiB.
const WINDOW_BITS: u8 = 12;

impl<F: File> Qcow2Builder<F> {
    /// As [`write_clusters`](Self::write_clusters), each cluster compressed (zlib, as the format has it) where that saves
    /// room.
    ///
    /// # Errors
    /// As [`write_clusters`](Self::write_clusters).
    pub fn write_compressed(&self, first_index: u64, data: &[u8]) -> Result<(), BuildError> {
        self.layout.covered(first_index, data.len())?;
        let size = self.layout.cluster_size() as usize;
        let packed: Vec<Option<Vec<u8>>> = data
            .chunks(size)
            .map(|cluster| self.packer.pack(cluster, size))
            .collect();
        let (mut index, mut data) = (first_index, data);
        for run in packed.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let (now, later) = data.split_at(data.len().min(run.len() * size));
            let blobs: Option<Vec<&[u8]>> = run.iter().map(Option::as_deref).collect();
            match blobs {
                Some(blobs) => self.write_packed(index, &blobs)?,
                None => self.write_clusters(index, now)?,
            }
            (index, data) = (index + run.len() as u64, later);
        }
        Ok(())
    }

    /// Writes compressed clusters in one piece of the file, and makes them part of the image.
    fn write_packed(&self, first_index: u64, blobs: &[&[u8]]) -> Result<(), BuildError> {
        let bytes = blobs.concat();
        let mut offset = {
            let mut state = lock(&self.state);
            state.check_open()?;
            let State {
                pack, allocator, ..
            } = &mut *state;
            pack.take(bytes.len() as u64, self.layout, allocator)
        };
        self.write(&bytes, offset)?;
        for (index, blob) in (first_index..).zip(blobs) {
            let mut state = self.with_table(index / self.layout.table_entries())?;
            state.check_open()?;
            let sectors = blob.len() as u64 / SECTOR as u64;
            let place = Place { offset, sectors };
            state.map(index, Entry::Packed(place), self.layout)?;
            offset += blob.len() as u64;
        }
        Ok(())
    }

    /// Whether clusters are compressed in it.
    #[must_use]
    pub(crate) fn has_compressed(&self) -> bool {
        !lock(&self.state).shares.is_empty()
    }
}

impl State {
    /// Counts compressed data anew in the clusters of the file that it lies in.
    pub(super) fn share(&mut self, place: Place, layout: Layout, count: impl Fn(u16) -> u16) {
        for cluster in place.clusters(layout) {
            self.shares.set(cluster, count(self.shares.get(cluster)));
            self.reshared.insert(cluster);
        }
    }
}

/// Where a compressed cluster lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its first byte, a multiple of the sector.
    pub(super) offset: u64,
    /// How many sectors it takes; at least one.
    pub(super) sectors: u64,
}

impl Place {
    /// The clusters of the file that it lies in, parts of them included.
    pub(super) fn clusters(self, layout: Layout) -> impl Iterator<Item = u64> {
        let last = self.end() - 1;
        self.offset >> layout.cluster_bits()..=last >> layout.cluster_bits()
    }

    /// The byte behind it.
    pub(super) fn end(self) -> u64 {
        self.offset + self.sectors * SECTOR as u64
    }
}

/// How many compressed clusters lie in each cluster of the file; zero for those that hold something else, or nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    counts: Vec<u16>,
}

impl Shares {
    pub(super) fn get(&self, cluster: u64) -> u16 {
        self.counts.get(cluster as usize).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, cluster: u64, count: u16) {
        let at = cluster as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = count;
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Whether both say the same reference counts: one share counts like one use of another kind.
    pub(super) fn count_alike(&self, other: &Self) -> bool {
        let longer = self.counts.len().max(other.counts.len()) as u64;
        (0..longer).all(|cluster| self.get(cluster).max(1) == other.get(cluster).max(1))
    }
}

/// The pack that is being filled.
#[derive(Debug, Default)]
pub(super) struct Pack {
    /// Where the next blob goes, in bytes of the file.
    next: u64,
    end: u64,
}

impl Pack {
    /// Finds room for blobs of so many bytes in all, whole sectors, in one piece.
    pub(super) fn take(&mut self, bytes: u64, layout: Layout, allocator: &mut Allocator) -> u64 {
        if self.end - self.next < bytes {
            self.close(layout, allocator);
            let clusters = bytes.max(PACK_BYTES).div_ceil(layout.cluster_size());
            let first = allocator.take(clusters);
            self.next = layout.offset(first);
            self.end = layout.offset(first + clusters);
        }
        let offset = self.next;
        self.next += bytes;
        offset
    }

    /// Gives back the clusters that no blob has reached.
    pub(super) fn close(&mut self, layout: Layout, allocator: &mut Allocator) {
        let first = self.next.div_ceil(layout.cluster_size());
        let end = self.end >> layout.cluster_bits();
        if first < end {
            allocator.release(first, end - first);
        }
        (self.next, self.end) = (0, 0);
    }
}

/// Compresses clusters. Any number of threads at once; what they need is kept for the next.
#[derive(Debug, Default)]
pub(super) struct Packer {
    idle: Mutex<Vec<Compress>>,
}

impl Packer {
    /// A cluster of `size` bytes, zero beyond those that are given, compressed and filled up to whole sectors; none if
    /// that saves nothing.
    fn pack(&self, data: &[u8], size: usize) -> Option<Vec<u8>> {
        if size == SECTOR {
            return None;
        }
        if data.len() < size {
            let mut whole = data.to_vec();
            whole.resize(size, 0);
            return self.pack(&whole, size);
        }
        let mut compress = self.take();
        let mut packed = vec![0; size - SECTOR];
        let done = compress.compress(data, &mut packed, FlushCompress::Finish);
        // What has not come to its end is not used again: zlib-rs (0.6.8) keeps a part of its output over a reset, and
        // panics once there is no room beside it.
        if !matches!(done, Ok(Status::StreamEnd)) {
            return None;
        }
        let length = compress.total_out() as usize;
        self.give_back(compress);
        packed.truncate(length.next_multiple_of(SECTOR));
        Some(packed)
    }

    fn take(&self) -> Compress {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        idle.unwrap_or_else(|| {
            Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS)
        })
    }

    fn give_back(&self, mut compress: Compress) {
        compress.reset();
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(compress);
        }
    }
}

#[cfg(test)]
mod tests;
