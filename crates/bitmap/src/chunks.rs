//! The bits as bare words, in chunks: what QEMU keeps inside qcow2 images and sends on migration.
//!
//! 64-bit words, little-endian; bit i of the map is bit i % 64 of word i / 64. The form has no
//! checksum and names neither size nor granularity: whoever stores it must.
//! [`DirtyBitmap::encode`] is the form that protects itself.

use thiserror::Error;

use crate::{DirtyBitmap, levels::WORD_BITS};

const WORD_BYTES: usize = 8;

impl DirtyBitmap {
    /// Bytes of disk that one word of a chunk stands for: every chunk starts at a multiple.
    pub fn chunk_alignment(&self) -> u64 {
        self.granularity().bytes() * WORD_BITS
    }

    /// The words of `offset..offset + length`.
    ///
    /// # Errors
    /// [`ChunkError::Misaligned`] if the range does not start at a multiple of
    /// [`chunk_alignment`](Self::chunk_alignment), or ends neither at one nor at the end of the
    /// disk; [`ChunkError::PastEnd`] if it is not inside the disk.
    pub fn export_chunk(&self, offset: u64, length: u64) -> Result<Vec<u8>, ChunkError> {
        let words = self.chunk_words(offset, length)?;
        Ok(words
            .flat_map(|word| self.levels.word(word as u64).to_le_bytes())
            .collect())
    }

    /// Replaces the bits of `offset..offset + length` with those of a chunk. The bitmap is whole
    /// after each chunk. Bits past the last granule are dropped, as a map filled with ones has them.
    ///
    /// # Errors
    /// As [`export_chunk`](Self::export_chunk), and [`ChunkError::Length`] if `chunk` is not as
    /// long as the range needs. Nothing was changed.
    pub fn import_chunk(
        &mut self,
        offset: u64,
        length: u64,
        chunk: &[u8],
    ) -> Result<(), ChunkError> {
        let words = self.chunk_words(offset, length)?;
        let (values, rest) = chunk.as_chunks::<WORD_BYTES>();
        if values.len() != words.len() || !rest.is_empty() {
            return Err(ChunkError::Length {
                expected: words.len() * WORD_BYTES,
                actual: chunk.len(),
            });
        }
        for (word, value) in words.zip(values) {
            self.levels
                .replace_word(word as u64, u64::from_le_bytes(*value));
        }
        Ok(())
    }

    /// Which leaf words hold a range.
    fn chunk_words(&self, offset: u64, length: u64) -> Result<std::ops::Range<usize>, ChunkError> {
        let alignment = self.chunk_alignment();
        let end = self
            .checked_end(offset, length)
            .map_err(|_| ChunkError::PastEnd { size: self.size() })?;
        if !offset.is_multiple_of(alignment)
            || !(end.is_multiple_of(alignment) || end == self.size())
        {
            return Err(ChunkError::Misaligned { alignment });
        }
        Ok((offset / alignment) as usize..end.div_ceil(alignment) as usize)
    }
}

/// A chunk that cannot be taken out or put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The range is not made of whole words.
    #[error(
        "a chunk starts and ends at multiples of {alignment} bytes of disk, or ends with the disk"
    )]
    Misaligned {
        /// Bytes of disk per word.
        alignment: u64,
    },
    /// The range is not inside the disk.
    #[error("the chunk does not lie inside the disk of {size} bytes")]
    PastEnd {
        /// Size of the disk.
        size: u64,
    },
    /// The chunk is too short or too long for the range.
    #[error("the chunk has {actual} bytes, the range takes {expected}")]
    Length {
        /// What the range takes.
        expected: usize,
        /// What was given.
        actual: usize,
    },
}
