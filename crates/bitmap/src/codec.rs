//! A bitmap as bytes to keep: versioned, checksummed, streamed, and compact whether little is dirty or much.

mod read;
mod write;

use std::io;

use thiserror::Error;

use crate::{
    DirtyBitmap, SizeError,
    levels::{Content, LEAVES, WORD_BITS},
};

const MAGIC: &[u8; 8] = b"cohortbm";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;

/// Words of a block: positions in it take two bytes.
const BLOCK_WORDS: usize = if LEAVES < 1024 { LEAVES } else { 1024 };
const BLOCK_BITS: u64 = BLOCK_WORDS as u64 * WORD_BITS;
const BLOCKS_OF_A_CHUNK: u64 = (LEAVES / BLOCK_WORDS) as u64;

const END: u8 = 0;
const FULL: u8 = 1;
const POSITIONS: u8 = 2;
const RUNS: u8 = 3;
const WORDS: u8 = 4;

impl DirtyBitmap {
    /// Writes the bitmap as bytes that [`read_from`](Self::read_from) reads back, in pieces of about 64 KiB.
    ///
    /// All numbers are little-endian. A header:
    ///
    /// | bytes | what |
    /// |---|---|
    /// | 8 | `cohortbm` |
    /// | 4 | version, 2 |
    /// | 4 | exponent of the granularity |
    /// | 8 | size of the disk in bytes |
    /// | 4 | checksum |
    ///
    /// Then records, for *blocks* of 2^16 granules that hold anything, in ascending order, each in one of four
    /// forms: the shortest, where an eighth of the words does not already say that words are:
    ///
    /// | bytes | what |
    /// |---|---|
    /// | 4 | number of the block |
    /// | 1 | form |
    /// | … | what the form says |
    /// | 4 | checksum |
    ///
    /// | form | what follows |
    /// |---|---|
    /// | 1, full | 4 bytes: how many blocks, from this one on, are dirty throughout |
    /// | 2, positions | 2 bytes: how many, less one; then 2 bytes for each dirty granule, ascending |
    /// | 3, runs | 2 bytes: how many, less one; then 2 bytes each for the first and the last granule of a run, ascending |
    /// | 4, words | 8 bytes for each 64 granules of the block, fewer in the last; bit i of word w is granule 64 w + i |
    /// | 0, the end | nothing; its number is 0 |
    ///
    /// A checksum is the crc32c of all bytes before it but for the checksums, so it vouches for everything so far: a
    /// record cannot be cut, flipped, dropped, doubled or taken from another bitmap unnoticed, and the first that is
    /// wrong is named. The forms 2 to 4 are those of roaring bitmaps (Lemire et al., "Roaring Bitmaps", 2018).
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_to(&self, out: impl io::Write) -> io::Result<()> {
        write::write(self, out)
    }

    /// Reads what [`write_to`](Self::write_to) wrote, to its last byte and not beyond. Many short reads: give it
    /// something buffered. Takes memory for what the bytes say is dirty, whatever size they name.
    ///
    /// # Errors
    /// [`ReadError`]: what `input` says, or how the bytes are wrong.
    pub fn read_from(input: impl io::Read) -> Result<DirtyBitmap, ReadError> {
        read::read(input)
    }

    /// The bytes of [`write_to`](Self::write_to), at once.
    pub fn encode(&self) -> Vec<u8> {
        // Room for the bare words of what has words, so that nothing is copied again as it grows; mostly it is less.
        let mixed = self
            .levels
            .contents()
            .filter(|(_, content)| matches!(content, Content::Mixed(_)));
        let room = mixed.count() * (LEAVES * 8 + 64) + HEADER_BYTES + 16;
        let mut bytes = write::encode(self, room);
        bytes.shrink_to_fit();
        bytes
    }

    /// Reads what [`encode`](Self::encode) gave, and nothing else.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<DirtyBitmap, DecodeError> {
        let (bitmap, read) = read::read_slice(bytes).map_err(|error| match error {
            ReadError::Bitmap(error) => error,
            ReadError::Input(_) => unreachable!("memory is read without errors"),
        })?;
        if read < bytes.len() as u64 {
            return Err(DecodeError::Trailing { at: read });
        }
        Ok(bitmap)
    }
}

/// Granules of one block: fewer in the last. `None` if there is no such block.
fn granules_of_block(granules: u64, number: u64) -> Option<u64> {
    let left = granules.checked_sub(number.checked_mul(BLOCK_BITS)?)?;
    Some(left.min(BLOCK_BITS)).filter(|&granules| granules > 0)
}

/// A bitmap that could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The bytes could not be had.
    #[error("a bitmap cannot be read")]
    Input(#[source] io::Error),
    /// The bytes are not a bitmap's.
    #[error(transparent)]
    Bitmap(#[from] DecodeError),
}

/// Bytes that are not a bitmap as [`DirtyBitmap::write_to`] writes it. Places are in bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the bitmap does.
    #[error("the bitmap is cut short: what begins at byte {at} is not all there")]
    Cut {
        /// Where the piece begins that is not whole.
        at: u64,
    },
    /// The first bytes are not a bitmap's.
    #[error("these bytes are no bitmap: one begins with \"cohortbm\"")]
    NotABitmap,
    /// Written by another version of this format.
    #[error("the bitmap has version {version}; this program reads version 2")]
    Version {
        /// What the bytes say.
        version: u32,
    },
    /// The bytes are not those that were written.
    #[error(
        "the bitmap is damaged in what begins at byte {at}: its checksum is {stored:08x}, its bytes give {computed:08x}"
    )]
    Checksum {
        /// Where the header or record begins that does not fit what is before it.
        at: u64,
        /// What the bytes say.
        stored: u32,
        /// What they are.
        computed: u32,
    },
    /// The exponent is not one of a granularity.
    #[error("the bitmap names 2^{shift} bytes as its granularity")]
    Granularity {
        /// What the bytes say.
        shift: u32,
    },
    /// The disk is too large.
    #[error("the bitmap names a size that it cannot have")]
    Size(#[source] SizeError),
    /// A record has a form that there is not.
    #[error("the record at byte {at} has form {form}; there are forms 0 to 4")]
    Form {
        /// Where the record begins.
        at: u64,
        /// What it says.
        form: u8,
    },
    /// A record is out of order, past the end of the disk, or says of its block what cannot be.
    #[error(
        "the record at byte {at}, of block {block}, is out of order, past the end, or contradicts itself"
    )]
    Block {
        /// Where the record begins.
        at: u64,
        /// The block that it names.
        block: u32,
    },
    /// Something follows the bitmap.
    #[error("the bitmap ends at byte {at}, and more follows")]
    Trailing {
        /// Where it ends.
        at: u64,
    },
}

#[cfg(test)]
mod tests;
