//! Reading: every byte may be anybody's.

use std::io;

use super::{
    BLOCK_BITS, BLOCK_WORDS, CHECKSUM_BYTES, DecodeError, END, FULL, MAGIC, POSITIONS, RUNS,
    ReadError, VERSION, WORDS, granules_of_block,
};
use crate::{
    DirtyBitmap, Granularity,
    bitmap::checked_granules,
    checksum,
    levels::{CHUNK_BITS, Levels},
};

/// The bitmap of a stream.
pub(super) fn read(input: impl io::Read) -> Result<DirtyBitmap, ReadError> {
    let buffer = Vec::new();
    read_pieces(Stream { input, buffer }).map(|(bitmap, _)| bitmap)
}

/// The bitmap of bytes that are there, and how many of them it takes.
pub(super) fn read_slice(bytes: &[u8]) -> Result<(DirtyBitmap, u64), ReadError> {
    read_pieces(bytes)
}

fn read_pieces(input: impl Input) -> Result<(DirtyBitmap, u64), ReadError> {
    let mut source = Source {
        input,
        read: 0,
        piece: 0,
        checksum: 0,
    };
    let mut bitmap = header(&mut source)?;
    let mut next_block = 0;
    while record(&mut source, &mut bitmap.levels, &mut next_block)? {}
    Ok((bitmap, source.read))
}

fn header(source: &mut Source<impl Input>) -> Result<DirtyBitmap, ReadError> {
    if source.take(MAGIC.len())? != MAGIC {
        return Err(DecodeError::NotABitmap.into());
    }
    match u32_of(source.take(4)?) {
        VERSION => {}
        version => return Err(DecodeError::Version { version }.into()),
    }
    let (shift, size) = source.take_summed(12)?.split_at(4);
    let (shift, size) = (u32_of(shift), u64_of(size));
    let granularity = 1_u64
        .checked_shl(shift)
        .and_then(|bytes| Granularity::new(bytes).ok())
        .ok_or(DecodeError::Granularity { shift })?;
    checked_granules(size, granularity).map_err(DecodeError::Size)?;
    Ok(DirtyBitmap::of_shape(size, granularity))
}

/// Reads one record, of a block that is not before `next_block`; says whether another follows.
fn record(
    source: &mut Source<impl Input>,
    levels: &mut Levels,
    next_block: &mut u64,
) -> Result<bool, ReadError> {
    source.piece = source.read;
    let head = source.take(5)?;
    let (number, form) = (u32_of(&head[..4]), head[4]);
    let (at, block) = (source.piece, u64::from(number));
    let wrong = DecodeError::Block { at, block: number };
    let granules = granules_of_block(levels.bits(), block);
    // A damaged number is told as damage, so what can be read is read before it is judged.
    let body = match form {
        END => source.take_summed(0)?,
        FULL => source.take_summed(4)?,
        POSITIONS => source.take_list(2)?,
        RUNS => source.take_list(4)?,
        WORDS => {
            let granules = granules.unwrap_or(BLOCK_BITS);
            source.take_summed(granules.div_ceil(64) as usize * 8)?
        }
        form => return Err(DecodeError::Form { at, form }.into()),
    };
    if form == END {
        return if number == 0 {
            Ok(false)
        } else {
            Err(wrong.into())
        };
    }
    let granules = granules.filter(|_| block >= *next_block).ok_or(wrong)?;
    *next_block = block + 1;
    let sound = match form {
        FULL => {
            let count = u64::from(u32_of(body));
            *next_block = block + count;
            full(levels, block, count)
        }
        POSITIONS => positions(levels, block, granules, body),
        RUNS => runs(levels, block, granules, body),
        _ => words(levels, block, granules, body),
    };
    if sound { Ok(true) } else { Err(wrong.into()) }
}

fn full(levels: &mut Levels, block: u64, count: u64) -> bool {
    let last = count.checked_sub(1).map(|more| block + more);
    let end = last.and_then(|last| {
        let granules = granules_of_block(levels.bits(), last)?;
        Some(last * BLOCK_BITS + granules)
    });
    if let Some(end) = end {
        levels.set(block * BLOCK_BITS, end);
    }
    end.is_some()
}

fn positions(levels: &mut Levels, block: u64, granules: u64, body: &[u8]) -> bool {
    let (places, _) = body.as_chunks::<2>();
    let first = block * BLOCK_BITS;
    let mut sound = true;
    let mut next = 0;
    levels.change(first / CHUNK_BITS, |chunk| {
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

fn runs(levels: &mut Levels, block: u64, granules: u64, body: &[u8]) -> bool {
    let (runs, _) = body.as_chunks::<4>();
    let first = block * BLOCK_BITS;
    let mut sound = true;
    let mut next = 0;
    levels.change(first / CHUNK_BITS, |chunk| {
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

fn words(levels: &mut Levels, block: u64, granules: u64, body: &[u8]) -> bool {
    let (words, _) = body.as_chunks::<8>();
    let past_the_end = |last: &[u8; 8]| u64::from_le_bytes(*last) >> (granules % 64) != 0;
    if !granules.is_multiple_of(64) && words.last().is_some_and(past_the_end) {
        return false;
    }
    let first = (block * BLOCK_BITS % CHUNK_BITS / 64) as usize;
    let mut sound = false;
    levels.change(block * BLOCK_BITS / CHUNK_BITS, |chunk| {
        sound = chunk.put_words(first, words);
    });
    sound
}

/// Where bytes come from, a piece at a time.
trait Input {
    /// The next bytes, so many.
    fn take(&mut self, length: usize) -> io::Result<&[u8]>;
}

/// From memory, where they are looked at in place.
impl Input for &[u8] {
    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        self.split_off(..length)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// From somebody who gives copies.
struct Stream<R> {
    input: R,
    buffer: Vec<u8>,
}

impl<R: io::Read> Input for Stream<R> {
    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        self.buffer.resize(length, 0);
        self.input.read_exact(&mut self.buffer)?;
        Ok(&self.buffer)
    }
}

/// Bytes, how many were read, and their checksum.
struct Source<I> {
    input: I,
    read: u64,
    /// Where the header or record at hand begins.
    piece: u64,
    checksum: u32,
}

impl<I: Input> Source<I> {
    /// Some bytes.
    fn take(&mut self, length: usize) -> Result<&[u8], ReadError> {
        let bytes = taken(&mut self.input, length, self.piece)?;
        self.read += length as u64;
        self.checksum = checksum::append(self.checksum, bytes);
        Ok(bytes)
    }

    /// Some bytes, and then the checksum of all up to there, which must be right.
    fn take_summed(&mut self, length: usize) -> Result<&[u8], ReadError> {
        let bytes = taken(&mut self.input, length + CHECKSUM_BYTES, self.piece)?;
        self.read += bytes.len() as u64;
        let (bytes, stored) = bytes.split_at(length);
        self.checksum = checksum::append(self.checksum, bytes);
        let (at, stored, computed) = (self.piece, u32_of(stored), self.checksum);
        if stored == computed {
            return Ok(bytes);
        }
        Err(DecodeError::Checksum {
            at,
            stored,
            computed,
        }
        .into())
    }

    /// A list of entries of `width` bytes, and the checksum; a longer list than a block's words is never written.
    fn take_list(&mut self, width: usize) -> Result<&[u8], ReadError> {
        let count = self.take(2)?;
        let count = usize::from(u16::from_le_bytes([count[0], count[1]])) + 1;
        self.take_summed(width * count.min(8 * BLOCK_WORDS / width))
    }
}

fn taken(input: &mut impl Input, length: usize, at: u64) -> Result<&[u8], ReadError> {
    input.take(length).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            DecodeError::Cut { at }.into()
        } else {
            ReadError::Input(error)
        }
    })
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
