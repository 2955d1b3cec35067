//! A bitmap as bytes to keep: versioned, checksummed, and compact where much is clean.

use thiserror::Error;

use crate::{DirtyBitmap, Granularity, SizeError, bitmap::checked_granules};

const MAGIC: &[u8; 8] = b"cohortbm";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const BLOCK_WORDS: usize = 64;

impl DirtyBitmap {
    /// The bitmap as bytes that [`decode`](Self::decode) reads back.
    ///
    /// All numbers are little-endian.
    ///
    /// | bytes | what |
    /// |---|---|
    /// | 8 | `cohortbm` |
    /// | 4 | version, 1 |
    /// | 4 | exponent of the granularity |
    /// | 8 | size of the disk in bytes |
    /// | 8 | number of dirty granules |
    /// | … | blocks |
    /// | 4 | crc32c of everything before |
    ///
    /// A block holds 64 words, that is 4096 granules; only blocks with a dirty granule are written, in
    /// ascending order: its number (4 bytes), a mask (8 bytes) whose bit i says that word i is not
    /// zero, then those words (8 bytes each). Bit i of word w is granule `64 w + i`. One set has
    /// exactly one form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + CHECKSUM_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.granularity().shift().to_le_bytes());
        out.extend_from_slice(&self.size().to_le_bytes());
        out.extend_from_slice(&self.dirty_granules().to_le_bytes());
        for (number, words) in (0_u32..).zip(self.levels.leaves().chunks(BLOCK_WORDS)) {
            let mask = mask_of(words);
            if mask != 0 {
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&mask.to_le_bytes());
                words
                    .iter()
                    .filter(|&&word| word != 0)
                    .for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            }
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote, and nothing else: whatever was cut, flipped,
    /// swapped or appended is refused.
    ///
    /// # Errors
    /// [`DecodeError`], in the order of its variants.
    pub fn decode(bytes: &[u8]) -> Result<DirtyBitmap, DecodeError> {
        let mut rest = Reader(bytes);
        if rest.take::<8>()? != *MAGIC {
            return Err(DecodeError::NotABitmap);
        }
        match rest.u32()? {
            VERSION => {}
            version => return Err(DecodeError::Version { version }),
        }
        let Some((body, stored)) = rest.0.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(DecodeError::TooShort);
        };
        let computed = crc32c::crc32c(&bytes[..bytes.len() - CHECKSUM_BYTES]);
        let stored = u32::from_le_bytes(*stored);
        if stored != computed {
            return Err(DecodeError::Checksum { stored, computed });
        }
        decode_body(Reader(body))
    }
}

/// What follows the version, without the checksum. The bytes are as somebody wrote them, but that
/// somebody need not have been `encode`.
fn decode_body(mut rest: Reader<'_>) -> Result<DirtyBitmap, DecodeError> {
    let shift = rest.u32()?;
    let bytes = 1_u64
        .checked_shl(shift)
        .ok_or(DecodeError::Granularity { shift })?;
    let granularity = Granularity::new(bytes).map_err(|_| DecodeError::Granularity { shift })?;
    let (size, count) = (rest.u64()?, rest.u64()?);
    let granules = checked_granules(size, granularity).map_err(DecodeError::Size)?;
    let mut leaves = vec![0; granules.div_ceil(64) as usize];
    let mut next_block = 0;
    while !rest.0.is_empty() {
        let (number, mask) = (rest.u32()?, rest.u64()?);
        let first = number as usize * BLOCK_WORDS;
        if number < next_block || mask == 0 {
            return Err(DecodeError::Block { number });
        }
        for bit in (0..BLOCK_WORDS).filter(|bit| mask >> bit & 1 == 1) {
            let word = leaves
                .get_mut(first + bit)
                .ok_or(DecodeError::Block { number })?;
            *word = rest.u64()?;
            if *word == 0 {
                return Err(DecodeError::Block { number });
            }
        }
        next_block = number + 1;
    }
    let past_the_end = granules % 64 != 0
        && leaves
            .last()
            .is_some_and(|last| last >> (granules % 64) != 0);
    let bitmap = DirtyBitmap::from_leaves(size, granularity, leaves);
    if past_the_end || bitmap.dirty_granules() != count {
        return Err(DecodeError::Count { stored: count });
    }
    Ok(bitmap)
}

/// Which of up to 64 words are not zero.
fn mask_of(words: &[u64]) -> u64 {
    words
        .iter()
        .enumerate()
        .fold(0, |mask, (bit, &word)| mask | u64::from(word != 0) << bit)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::TooShort)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Bytes that are not a bitmap as [`DirtyBitmap::encode`] writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the bitmap does.
    #[error("the bitmap is cut short")]
    TooShort,
    /// The first bytes are not a bitmap's.
    #[error("these bytes are no bitmap")]
    NotABitmap,
    /// Written by another version of this format.
    #[error("the bitmap has version {version}; this program reads version 1")]
    Version {
        /// What the bytes say.
        version: u32,
    },
    /// The bytes are not those that were written.
    #[error("the bitmap is damaged: its checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
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
    /// A block is out of order, past the end, or has a zero where none may be.
    #[error("block {number} of the bitmap is out of order, past the end, or empty")]
    Block {
        /// What the block says of itself.
        number: u32,
    },
    /// The number of dirty granules is another one, or one of them is past the end of the disk.
    #[error("the bitmap should have {stored} dirty granules inside its disk, and has not")]
    Count {
        /// What the bytes say.
        stored: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> DirtyBitmap {
        let mut bitmap = DirtyBitmap::new(5000 * 512 - 3, Granularity::new(512).unwrap()).unwrap();
        bitmap.set(512 * 70, 512 * 60).unwrap();
        bitmap.set(512 * 4999, 1).unwrap();
        bitmap
    }

    /// `bytes` with `change` done to all but the checksum, which is made right again.
    fn crafted(change: impl FnOnce(&mut Vec<u8>)) -> Result<DirtyBitmap, DecodeError> {
        let mut bytes = sample().encode();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        change(&mut bytes);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        DirtyBitmap::decode(&bytes)
    }

    /// The form is on disks: it must not change without the version.
    #[test]
    fn version_one_is_these_bytes() {
        let mut bitmap = DirtyBitmap::new(1 << 20, Granularity::DEFAULT).unwrap();
        bitmap.set(3 << 16, 2 << 16).unwrap();
        let mut expected =
            Vec::from(*b"cohortbm\x01\0\0\0\x10\0\0\0\0\0\x10\0\0\0\0\0\x02\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"\0\0\0\0\x01\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\0");
        expected.extend_from_slice(&crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(bitmap.encode(), expected);
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = sample().encode();
        assert_eq!(DirtyBitmap::decode(&bytes), Ok(sample()));
        for length in 0..bytes.len() {
            assert!(
                DirtyBitmap::decode(&bytes[..length]).is_err(),
                "{length} of {}",
                bytes.len()
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(DirtyBitmap::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_damage_has_its_error() {
        let bytes = sample().encode();
        let decode = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = bytes.clone();
            change(&mut changed);
            DirtyBitmap::decode(&changed)
        };
        assert_eq!(decode(&|b| b.truncate(11)), Err(DecodeError::TooShort));
        assert_eq!(decode(&|b| b[0] = b'C'), Err(DecodeError::NotABitmap));
        assert_eq!(
            decode(&|b| b[8] = 2),
            Err(DecodeError::Version { version: 2 })
        );
        assert!(matches!(
            decode(&|b| b[40] ^= 1),
            Err(DecodeError::Checksum { .. })
        ));
        assert!(matches!(
            decode(&|b| b.push(0)),
            Err(DecodeError::Checksum { .. })
        ));
    }

    #[test]
    fn rightly_summed_nonsense_is_refused_too() {
        assert_eq!(crafted(|_| ()), Ok(sample()));
        assert_eq!(
            crafted(|b| b[12] = 58),
            Err(DecodeError::Granularity { shift: 58 })
        );
        assert_eq!(
            crafted(|b| b[12] = 200),
            Err(DecodeError::Granularity { shift: 200 })
        );
        assert!(matches!(
            crafted(|b| b[22] = 1),
            Err(DecodeError::Size(_)) | Err(DecodeError::Count { .. })
        ));
        assert!(matches!(
            crafted(|b| b[23] = 0x7f),
            Err(DecodeError::Size(_))
        ));
        assert_eq!(
            crafted(|b| b[24] += 1),
            Err(DecodeError::Count { stored: 62 })
        );
        assert_eq!(
            crafted(|b| b[32] = 1),
            Err(DecodeError::Block { number: 1 }),
            "repeated number"
        );
        assert_eq!(
            crafted(|b| b[35] = 1),
            Err(DecodeError::Block { number: 1 << 24 }),
            "past the end"
        );
        assert_eq!(
            crafted(|b| b[36..44].fill(0)),
            Err(DecodeError::Block { number: 0 }),
            "empty mask"
        );
        assert_eq!(
            crafted(|b| b[44..52].fill(0)),
            Err(DecodeError::Block { number: 0 }),
            "zero word"
        );
        assert_eq!(
            crafted(|b| b.truncate(b.len() - 1)),
            Err(DecodeError::TooShort)
        );
        let past_end = crafted(|b| {
            let last = b.len() - 8;
            b[last..].fill(0x80);
        });
        assert!(
            matches!(past_end, Err(DecodeError::Count { .. })),
            "{past_end:?}"
        );
    }
}
