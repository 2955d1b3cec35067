//! Writing: which form is the shortest for a block, and its bytes.

use std::io;

use super::{
    BLOCK_BITS, BLOCK_WORDS, BLOCKS_OF_A_CHUNK, END, FULL, MAGIC, POSITIONS, RUNS, VERSION, WORDS,
    granules_of_block,
};
use crate::{
    DirtyBitmap, checksum,
    levels::{Chunk, Content, FEW, bits_of, ones_of},
};

/// How many bytes are gathered for one write.
const BUFFER: usize = 64 << 10;

pub(super) fn write(bitmap: &DirtyBitmap, out: impl io::Write) -> io::Result<()> {
    let mut writer = Writer::new(bitmap, out, BUFFER + 2 * 8 * BLOCK_WORDS, BUFFER);
    writer.bitmap(bitmap)?;
    writer.out.write_all(&writer.buffer)?;
    writer.out.flush()
}

/// All the bytes, for which there should be room for `room`.
pub(super) fn encode(bitmap: &DirtyBitmap, room: usize) -> Vec<u8> {
    let mut writer = Writer::new(bitmap, io::empty(), room, usize::MAX);
    writer
        .bitmap(bitmap)
        .expect("nothing is written before the buffer is full");
    writer.buffer
}

struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
    /// How many bytes are gathered before they are written.
    most: usize,
    checksum: u32,
    /// Granules of the bitmap.
    granules: u64,
    /// Blocks that are full, and not written yet: the next may be full as well.
    full: std::ops::Range<u64>,
}

impl<W: io::Write> Writer<W> {
    fn new(bitmap: &DirtyBitmap, out: W, room: usize, most: usize) -> Writer<W> {
        Writer {
            out,
            buffer: Vec::with_capacity(room),
            most,
            checksum: 0,
            granules: bitmap.granules(),
            full: 0..0,
        }
    }

    /// All of it; the last bytes stay in the buffer.
    fn bitmap(&mut self, bitmap: &DirtyBitmap) -> io::Result<()> {
        self.header(bitmap)?;
        for (number, content) in bitmap.levels.contents() {
            let blocks = number * BLOCKS_OF_A_CHUNK..(number + 1) * BLOCKS_OF_A_CHUNK;
            for block in blocks {
                let Some(granules) = granules_of_block(self.granules, block) else {
                    break;
                };
                match content {
                    Content::Empty => {}
                    Content::Full => self.full(block)?,
                    Content::Mixed(chunk) => self.block(&Block::new(block, chunk, granules))?,
                }
            }
        }
        self.write_full()?;
        self.record(0, END, |_| ())
    }

    fn header(&mut self, bitmap: &DirtyBitmap) -> io::Result<()> {
        self.summed(|buffer| {
            buffer.extend_from_slice(MAGIC);
            buffer.extend_from_slice(&VERSION.to_le_bytes());
            buffer.extend_from_slice(&bitmap.granularity().shift().to_le_bytes());
            buffer.extend_from_slice(&bitmap.size().to_le_bytes());
        })
    }

    fn block(&mut self, block: &Block<'_>) -> io::Result<()> {
        match block.shortest() {
            None => Ok(()),
            Some(FULL) => self.full(block.number),
            Some(form) => {
                self.write_full()?;
                self.record(block.number, form, |buffer| block.body(form, buffer))
            }
        }
    }

    fn full(&mut self, number: u64) -> io::Result<()> {
        if self.full.end != number {
            self.write_full()?;
            self.full.start = number;
        }
        self.full.end = number + 1;
        Ok(())
    }

    fn write_full(&mut self) -> io::Result<()> {
        if self.full.is_empty() {
            return Ok(());
        }
        let (first, count) = (self.full.start, self.full.end - self.full.start);
        self.full = 0..0;
        self.record(first, FULL, |buffer| {
            buffer.extend_from_slice(&(count as u32).to_le_bytes());
        })
    }

    fn record(&mut self, number: u64, form: u8, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.summed(|buffer| {
            buffer.extend_from_slice(&(number as u32).to_le_bytes());
            buffer.push(form);
            body(buffer);
        })
    }

    /// What `fill` adds, and the checksum of everything so far.
    fn summed(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let start = self.buffer.len();
        fill(&mut self.buffer);
        self.checksum = checksum::append(self.checksum, &self.buffer[start..]);
        self.buffer.extend_from_slice(&self.checksum.to_le_bytes());
        if self.buffer.len() >= self.most {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// A block of a chunk that has words.
struct Block<'a> {
    number: u64,
    chunk: Chunk<'a>,
    granules: u64,
    /// Its first word in the chunk.
    first: usize,
    words: &'a [u64],
}

impl<'a> Block<'a> {
    fn new(number: u64, chunk: Chunk<'a>, granules: u64) -> Block<'a> {
        let first = (number % BLOCKS_OF_A_CHUNK) as usize * BLOCK_WORDS;
        Block {
            number,
            chunk,
            granules,
            first,
            words: chunk.words(first, granules.div_ceil(64) as usize),
        }
    }

    /// The form that takes the fewest bytes; `None` if nothing is dirty. Stops counting once it is clear that the
    /// bare words are shorter than any list; what is clear of a sample need not be counted at all, since the bare
    /// words are never long.
    fn shortest(&self) -> Option<u8> {
        let bytes = size_of_val(self.words);
        if self.words.len() == BLOCK_WORDS && self.is_dense() {
            return Some(WORDS);
        }
        let (mut ones, mut runs, mut before) = (0, 0, 0);
        // A run begins where a bit is set and the one before it is not.
        let starts =
            |word: u64, before: u64| u64::from((word & !(word << 1 | before >> 63)).count_ones());
        for (group, words) in self.words.chunks(64).enumerate() {
            let in_use = self.chunk.mid(self.first / 64 + group);
            if in_use.count_ones() <= FEW {
                for place in bits_of(in_use) {
                    let before = if place > 0 { words[place - 1] } else { before };
                    ones += u64::from(words[place].count_ones());
                    runs += starts(words[place], before);
                }
            } else {
                // The first word is by itself, so that the rest is a plain loop over two slices.
                ones += ones_of(words);
                runs += starts(words[0], before);
                runs += std::iter::zip(&words[1..], words)
                    .map(|(&word, &before)| starts(word, before))
                    .sum::<u64>();
            }
            before = words[words.len() - 1];
            if 2 * ones as usize + 2 > bytes && 4 * runs as usize + 2 > bytes {
                return Some(WORDS);
            }
        }
        match ones {
            0 => None,
            _ if ones == self.granules => Some(FULL),
            _ if 4 * runs < 2 * ones => Some(RUNS),
            _ => Some(POSITIONS),
        }
    }

    /// Whether every eighth word holds a quarter more bits and runs than would make lists as long as words.
    fn is_dense(&self) -> bool {
        let (mut ones, mut runs) = (0, 0);
        for word in self.words.iter().step_by(8) {
            ones += word.count_ones() as usize;
            // What begins at the lowest bit may have begun in the word before.
            runs += (word & !(word << 1 | 1)).count_ones() as usize;
        }
        let sampled = size_of_val(self.words) / 8;
        4 * 2 * ones > 5 * sampled && 4 * 4 * runs > 5 * sampled
    }

    fn body(&self, form: u8, buffer: &mut Vec<u8>) {
        match form {
            WORDS => {
                let start = buffer.len();
                buffer.resize(start + size_of_val(self.words), 0);
                let (places, _) = buffer[start..].as_chunks_mut();
                std::iter::zip(places, self.words)
                    .for_each(|(place, word)| *place = word.to_le_bytes());
            }
            RUNS => counted(buffer, |buffer| {
                let before = buffer.len();
                self.each_run(|first, last| {
                    buffer.extend_from_slice(&first.to_le_bytes());
                    buffer.extend_from_slice(&last.to_le_bytes());
                });
                (buffer.len() - before) / 4
            }),
            _ => counted(buffer, |buffer| {
                let before = buffer.len();
                for place in self.in_use() {
                    for bit in bits_of(self.words[place]) {
                        buffer.extend_from_slice(&((place * 64 + bit) as u16).to_le_bytes());
                    }
                }
                (buffer.len() - before) / 2
            }),
        }
    }

    /// The first and the last granule of each run.
    fn each_run(&self, mut visit: impl FnMut(u16, u16)) {
        let start = self.first as u64 * 64;
        let end = start + self.words.len() as u64 * 64;
        let mut at = start;
        while at < end {
            let Some(from) = self.chunk.next_one(at).filter(|&from| from < end) else {
                return;
            };
            at = self.chunk.next_zero(from).map_or(end, |to| to.min(end));
            visit((from - start) as u16, (at - 1 - start) as u16);
        }
    }

    /// Which words hold anything.
    fn in_use(&self) -> impl Iterator<Item = usize> {
        self.chunk
            .words_in_use(self.first, self.words.len())
            .map(|word| word - self.first)
    }
}

/// A list, and before it how many are on it, less one.
fn counted(buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> usize) {
    let at = buffer.len();
    buffer.extend_from_slice(&[0; 2]);
    let count = fill(buffer);
    buffer[at..at + 2].copy_from_slice(&((count - 1) as u16).to_le_bytes());
}

const _: () = assert!(BLOCK_BITS <= 1 << 16, "a place in a block takes two bytes");
