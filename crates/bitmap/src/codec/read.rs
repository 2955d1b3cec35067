//! Reading: every byte may be anybody's.

use std::io;

use super::{
    BLOCK_BITS, BLOCK_WORDS, DecodeError, END, FULL, HEADER_BYTES, MAGIC, POSITIONS, RUNS,
    ReadError, VERSION, WORDS, granules_of_block,
};
use crate::{
    DirtyBitmap, Granularity,
    bitmap::checked_granules,
    levels::{CHUNK_BITS, Levels},
};

/// The bitmap, and of how many bytes it was made.
pub(super) fn read(input: impl io::Read) -> Result<(DirtyBitmap, u64), ReadError> {
    let mut source = Source {
        input,
        read: 0,
        piece: 0,
        checksum: 0,
    };
    let mut bitmap = header(&mut source)?;
    let mut reader = Records {
        source,
        levels: &mut bitmap.levels,
        next_block: 0,
        body: Vec::new(),
    };
    while reader.record()? {}
    let read = reader.source.read;
    Ok((bitmap, read))
}

fn header(source: &mut Source<impl io::Read>) -> Result<DirtyBitmap, ReadError> {
    let mut bytes = [0; HEADER_BYTES];
    let (magic, rest) = bytes.split_at_mut(MAGIC.len());
    source.fill(magic)?;
    if magic != MAGIC {
        return Err(DecodeError::NotABitmap.into());
    }
    let (version, rest) = rest.split_at_mut(4);
    source.fill(version)?;
    match u32_of(version) {
        VERSION => {}
        version => return Err(DecodeError::Version { version }.into()),
    }
    source.fill(rest)?;
    source.check()?;
    let (shift, size) = rest.split_at(4);
    let (shift, size) = (u32_of(shift), u64_of(size));
    let granularity = 1_u64
        .checked_shl(shift)
        .and_then(|bytes| Granularity::new(bytes).ok())
        .ok_or(DecodeError::Granularity { shift })?;
    checked_granules(size, granularity).map_err(DecodeError::Size)?;
    Ok(DirtyBitmap::of_shape(size, granularity))
}

struct Records<'a, R> {
    source: Source<R>,
    levels: &'a mut Levels,
    next_block: u64,
    /// The body of the record at hand.
    body: Vec<u8>,
}

impl<R: io::Read> Records<'_, R> {
    /// Reads one record; says whether another follows.
    fn record(&mut self) -> Result<bool, ReadError> {
        let mut head = [0; 5];
        self.source.begin();
        self.source.fill(&mut head)?;
        let (block, form) = (u32_of(&head[..4]), head[4]);
        let at = self.source.piece;
        let wrong = DecodeError::Block { at, block };
        let granules = match form {
            END => Some(0),
            _ => granules_of_block(self.levels.bits(), u64::from(block)),
        };
        // A damaged number is told as damage, so what can be read is read before it is judged.
        let granules_read = granules.unwrap_or(BLOCK_BITS);
        match form {
            END => self.take(0)?,
            FULL => self.take(4)?,
            POSITIONS => self.take_list(2, 8 * BLOCK_WORDS / 2)?,
            RUNS => self.take_list(4, 8 * BLOCK_WORDS / 4)?,
            WORDS => self.take(granules_read.div_ceil(64) as usize * 8)?,
            form => return Err(DecodeError::Form { at, form }.into()),
        }
        self.source.check()?;
        if form == END {
            return if block == 0 {
                Ok(false)
            } else {
                Err(wrong.into())
            };
        }
        let granules = granules
            .filter(|_| u64::from(block) >= self.next_block)
            .ok_or(wrong)?;
        let sound = match form {
            FULL => return self.full(u64::from(block), wrong),
            POSITIONS => self.positions(u64::from(block), granules),
            RUNS => self.runs(u64::from(block), granules),
            _ => self.words(u64::from(block), granules),
        };
        self.next_block = u64::from(block) + 1;
        if sound { Ok(true) } else { Err(wrong.into()) }
    }

    fn full(&mut self, block: u64, wrong: DecodeError) -> Result<bool, ReadError> {
        let count = u64::from(u32_of(&self.body));
        let last = block + count.checked_sub(1).ok_or(wrong)?;
        let granules = granules_of_block(self.levels.bits(), last).ok_or(wrong)?;
        self.levels
            .set(block * BLOCK_BITS, last * BLOCK_BITS + granules);
        self.next_block = last + 1;
        Ok(true)
    }

    fn positions(&mut self, block: u64, granules: u64) -> bool {
        let (places, _) = self.body.as_chunks::<2>();
        let first = block * BLOCK_BITS;
        let mut sound = true;
        let mut next = 0;
        self.levels.change(first / CHUNK_BITS, |chunk| {
            for place in places {
                let place = u64::from(u16::from_le_bytes(*place));
                sound &= place >= next && place < granules;
                next = place + 1;
                if sound {
                    chunk.set_in_word((first + place) / 64, 1 << (place % 64));
                }
            }
        });
        sound
    }

    fn runs(&mut self, block: u64, granules: u64) -> bool {
        let (runs, _) = self.body.as_chunks::<4>();
        let first = block * BLOCK_BITS;
        let mut sound = true;
        let mut next = 0;
        self.levels.change(first / CHUNK_BITS, |chunk| {
            for [a, b, c, d] in runs {
                let from = u64::from(u16::from_le_bytes([*a, *b]));
                let to = u64::from(u16::from_le_bytes([*c, *d])) + 1;
                sound &= from >= next && from < to && to <= granules;
                next = to + 1;
                if sound {
                    chunk.set(first % CHUNK_BITS + from, first % CHUNK_BITS + to);
                }
            }
        });
        sound
    }

    fn words(&mut self, block: u64, granules: u64) -> bool {
        let (bytes, _) = self.body.as_chunks::<8>();
        let past_the_end = |last: &[u8; 8]| u64::from_le_bytes(*last) >> (granules % 64) != 0;
        if !granules.is_multiple_of(64) && bytes.last().is_some_and(past_the_end) {
            return false;
        }
        let first = (block * BLOCK_BITS % CHUNK_BITS / 64) as usize;
        let mut sound = false;
        self.levels
            .change(block * BLOCK_BITS / CHUNK_BITS, |chunk| {
                sound = chunk.put_words(first, bytes);
            });
        sound
    }

    fn take(&mut self, length: usize) -> Result<(), ReadError> {
        self.body.resize(length, 0);
        self.source.fill(&mut self.body)
    }

    /// Takes a list of entries of `width` bytes; a longer one than `most` is never written.
    fn take_list(&mut self, width: usize, most: usize) -> Result<(), ReadError> {
        let mut count = [0; 2];
        self.source.fill(&mut count)?;
        let count = usize::from(u16::from_le_bytes(count)) + 1;
        self.take(width * count.min(most))
    }
}

/// Bytes, how many were read, and their checksum.
struct Source<R> {
    input: R,
    read: u64,
    /// Where the header or record at hand begins.
    piece: u64,
    checksum: u32,
}

impl<R: io::Read> Source<R> {
    fn begin(&mut self) {
        self.piece = self.read;
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.fill_unsummed(buffer)?;
        self.checksum = crc32c::crc32c_append(self.checksum, buffer);
        Ok(())
    }

    /// Reads a checksum and compares.
    fn check(&mut self) -> Result<(), ReadError> {
        let mut stored = [0; 4];
        self.fill_unsummed(&mut stored)?;
        let (stored, computed) = (u32::from_le_bytes(stored), self.checksum);
        if stored == computed {
            return Ok(());
        }
        Err(DecodeError::Checksum {
            at: self.piece,
            stored,
            computed,
        }
        .into())
    }

    fn fill_unsummed(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let at = self.piece;
        self.input.read_exact(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                DecodeError::Cut { at }.into()
            } else {
                ReadError::Input(error)
            }
        })?;
        self.read += buffer.len() as u64;
        Ok(())
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}
