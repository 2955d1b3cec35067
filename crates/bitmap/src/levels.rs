//! The bare hierarchy: bits in 64-bit words, and above them summary levels in which a bit is set exactly when
//! the word below it is not zero. Knows no bytes and no granules, only bit numbers.
//!
//! ```text
//!   summaries of the chunks    1 bit for each chunk that holds anything, 1 for each that is full, and levels above
//!   ----------------------------------------------------------------------- a chunk: 2^18 bits
//!   head                       1 word, and the count
//!   mids                       64 words
//!   leaves                     4096 words
//! ```
//!
//! The words of 1024 chunks lie together in a [`page`], whose memory comes as it is touched. Of a chunk that is known
//! to be full nothing but one bit is looked at. So what is untouched and what was made dirty in one go cost nothing, and the
//! rest 1.02 bits for each bit.
//!
//! The idea of the 64-ary summaries is that of `qemu:util/hbitmap.c`; unlike there memory is taken where something is dirty,
//! no end marker lives among the bits, and the count is kept only as far as that is cheap ([`tally`](self::tally)).

mod check;
mod chunk;
mod combine;
mod page;
mod seek;
mod summary;
mod tally;

use std::iter;

pub use check::Inconsistency;
pub(crate) use chunk::{Chunk, ChunkMut, FEW, bits_of, ones_of};
use page::Pages;
pub(crate) use seek::BitRuns;
use summary::Summary;
use tally::Tally;

/// Bits per word, and so the fan-out of the hierarchy.
pub(crate) const WORD_BITS: u64 = 64;

/// Words of a chunk. 64 summary words, one above them and the count stand for 4096: that makes 1.016 bits for each bit,
/// and the heads of 2^28 bits fit the first cache. Four words where loom walks every order.
pub(crate) const LEAVES: usize = if cfg!(loom) { 4 } else { 4096 };

/// Summary words of a chunk.
pub(crate) const MIDS: usize = LEAVES.div_ceil(WORD_BITS as usize);

/// Bits of a chunk.
pub(crate) const CHUNK_BITS: u64 = LEAVES as u64 * WORD_BITS;

/// Numbers of words of each level for `bits` bits, leaves first; the last level is one word.
pub(crate) fn shape(bits: u64) -> impl Iterator<Item = usize> {
    let leaves = bits.div_ceil(WORD_BITS).max(1);
    iter::successors(Some(leaves), |&words| {
        (words > 1).then(|| words.div_ceil(WORD_BITS))
    })
    .map(|words| words as usize)
}

/// The bits `from..to` that fall into word `word`; `from..to` must touch it.
#[inline]
pub(crate) fn mask(word: u64, from: u64, to: u64) -> u64 {
    let first = word * WORD_BITS;
    let low = from.saturating_sub(first);
    let high = (to - first).min(WORD_BITS);
    (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high))
}

/// `first` and `last` and all between them, which must lie in one word.
#[inline]
pub(crate) fn mask_through(first: u64, last: u64) -> u64 {
    if first == last {
        return 1 << (first % WORD_BITS);
    }
    (u64::MAX << (first % WORD_BITS)) & (u64::MAX >> (WORD_BITS - 1 - last % WORD_BITS))
}

/// The chunks that `from..to` touches, each with the part of the range in it, in bits of the chunk.
pub(crate) fn pieces(from: u64, to: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    (from / CHUNK_BITS..to.div_ceil(CHUNK_BITS)).map(move |chunk| {
        let start = chunk * CHUNK_BITS;
        (
            chunk,
            from.saturating_sub(start),
            (to - start).min(CHUNK_BITS),
        )
    })
}

/// A plain hierarchy with one owner.
#[derive(Debug)]
pub(crate) struct Levels {
    bits: u64,
    ones: Tally,
    pages: Pages,
    /// Which chunks hold anything.
    present: Summary,
    /// Chunks of which every bit is set, whatever their words say.
    full: Summary,
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// No bit is set.
    Empty,
    /// Every bit is set.
    Full,
    /// Some are.
    Mixed(Chunk<'a>),
}

impl Levels {
    pub(crate) fn new(bits: u64) -> Levels {
        let chunks = bits.div_ceil(CHUNK_BITS);
        Levels {
            bits,
            ones: Tally::of(0),
            pages: Pages::new(chunks),
            present: Summary::new(chunks),
            full: Summary::new(chunks),
        }
    }

    pub(crate) fn bits(&self) -> u64 {
        self.bits
    }

    pub(crate) fn ones(&self) -> u64 {
        self.ones.or_count(|| {
            self.present
                .ones()
                .map(|number| match self.content(number) {
                    Content::Empty => 0,
                    Content::Full => self.bits_of_chunk(number),
                    Content::Mixed(chunk) => chunk.ones(),
                })
                .sum()
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// Bits of one chunk: fewer than of the others in the last.
    #[inline]
    pub(crate) fn bits_of_chunk(&self, number: u64) -> u64 {
        (self.bits - number * CHUNK_BITS).min(CHUNK_BITS)
    }

    #[inline]
    pub(crate) fn content(&self, number: u64) -> Content<'_> {
        if self.full.get(number) {
            return Content::Full;
        }
        match self.pages.chunk(number) {
            Some(chunk) if !chunk.is_empty() => Content::Mixed(chunk),
            Some(_) | None => Content::Empty,
        }
    }

    /// The chunks that hold anything, ascending.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (u64, Content<'_>)> {
        self.present
            .ones()
            .map(|number| (number, self.content(number)))
    }

    /// Bit `bit`, which must be below `bits`. Without a branch that nobody can foresee.
    #[inline]
    pub(crate) fn get(&self, bit: u64) -> bool {
        if !self.full.is_empty() && self.full.get(bit / CHUNK_BITS) {
            return true;
        }
        self.pages.word(bit / WORD_BITS) >> (bit % WORD_BITS) & 1 == 1
    }

    /// Leaf word `word`, which must not lie past `bits`.
    pub(crate) fn word(&self, word: u64) -> u64 {
        let number = word * WORD_BITS / CHUNK_BITS;
        match self.content(number) {
            Content::Empty => 0,
            Content::Full => mask(word, 0, self.bits),
            Content::Mixed(chunk) => chunk.leaf(word),
        }
    }

    /// Sets `from..to`, which must lie below `bits`.
    #[inline]
    pub(crate) fn set(&mut self, from: u64, to: u64) {
        if from < to {
            self.set_through(from, to - 1);
        }
    }

    /// Sets `first` and `last` and all between them, which must lie below `bits`.
    #[inline]
    pub(crate) fn set_through(&mut self, first: u64, last: u64) {
        let word = first / WORD_BITS;
        if word == last / WORD_BITS {
            self.set_in_word(word, mask_through(first, last));
        } else {
            self.set_pieces(first, last + 1);
        }
    }

    /// Clears `from..to`, which must lie below `bits`.
    pub(crate) fn reset(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        for (number, from, to) in pieces(from, to) {
            if !self.present.get(number) {
                continue;
            }
            if to - from == self.bits_of_chunk(number) {
                self.drop_chunk(number);
            } else {
                self.change(number, |chunk| chunk.reset(from, to));
            }
        }
    }

    /// Clears everything, and gives the memory back.
    pub(crate) fn clear(&mut self) {
        *self = Levels::new(self.bits);
    }

    /// Replaces one leaf word; bits past the end are dropped.
    pub(crate) fn replace_word(&mut self, word: u64, value: u64) {
        let number = word * WORD_BITS / CHUNK_BITS;
        let value = value & mask(word, 0, self.bits);
        if value != 0 || self.present.get(number) {
            self.change(number, |chunk| chunk.put_word(word, value));
        }
    }

    /// Sets every bit of a chunk.
    pub(crate) fn fill_chunk(&mut self, number: u64) {
        let bits = self.bits_of_chunk(number);
        let before = match self.content(number) {
            Content::Full => return,
            Content::Empty => Some(0),
            Content::Mixed(chunk) => chunk.known_ones(),
        };
        match before {
            Some(before) => self.ones.add(bits - before),
            None => self.ones.forget(),
        }
        self.full.set(number);
        self.present.set(number);
    }

    /// Changes the number of bits: new ones are clear, dropped ones do not come back.
    pub(crate) fn resize(&mut self, bits: u64) {
        let mut resized = Levels::new(bits);
        for (number, content) in self.contents() {
            let first = number * CHUNK_BITS;
            let kept = bits.min(self.bits).saturating_sub(first).min(CHUNK_BITS);
            match content {
                Content::Empty => {}
                Content::Full => resized.set(first, first + kept),
                Content::Mixed(_) if kept == 0 => {}
                Content::Mixed(chunk) => resized.change(number, |mine| {
                    mine.copy(chunk);
                    if kept < CHUNK_BITS {
                        mine.reset(kept, CHUNK_BITS);
                    }
                }),
            }
        }
        *self = resized;
    }

    #[inline]
    fn set_in_word(&mut self, word: u64, bits: u64) {
        let was = self.pages.word(word);
        let number = word / LEAVES as u64;
        if was & bits == bits || !self.full.is_empty() && self.full.get(number) {
            return;
        }
        let Some((gained, first)) = self.pages.add(word, bits) else {
            return self.set_beyond(word, bits);
        };
        self.added(number, was, bits, gained, first);
    }

    /// As [`set_in_word`](Self::set_in_word), where the first page has no such word, or none yet.
    #[inline(never)]
    fn set_beyond(&mut self, word: u64, bits: u64) {
        let number = word / LEAVES as u64;
        if u64::from(bits.count_ones()) == self.bits_of_chunk(number) {
            // All that a small bitmap has, and in one go: no words are needed for it.
            return self.fill_chunk(number);
        }
        let was = self.pages.word(word);
        let (gained, first) = self.pages.add_beyond(word, bits);
        self.added(number, was, bits, gained, first);
    }

    /// Keeps count and summaries right, after bits were added to a word of this chunk.
    #[inline]
    fn added(&mut self, number: u64, was: u64, bits: u64, gained: u64, first: bool) {
        self.ones.add(gained);
        if first {
            self.present.set(number);
        }
        // Only with a full word can a chunk have become full, but for the last chunk, which may end within a word.
        let may_be_full = was | bits == u64::MAX || number + 1 == self.pages.chunks();
        if may_be_full && self.is_known_full(number) {
            self.full.set(number);
        }
    }

    /// Whether the words of a chunk are known to have every bit set.
    fn is_known_full(&self, number: u64) -> bool {
        let known = self.pages.chunk(number).and_then(Chunk::known_ones);
        known == Some(self.bits_of_chunk(number))
    }

    fn set_pieces(&mut self, from: u64, to: u64) {
        for (number, from, to) in pieces(from, to) {
            if to - from == self.bits_of_chunk(number) {
                self.fill_chunk(number);
            } else if !self.full.get(number) {
                self.change(number, |chunk| chunk.set(from, to));
            }
        }
    }

    /// Changes the words of a chunk, and keeps count and summaries right.
    pub(crate) fn change(&mut self, number: u64, change: impl FnOnce(&mut ChunkMut<'_>)) {
        let bits = self.bits_of_chunk(number);
        let mut chunk = self.pages.chunk_mut(number);
        if self.full.get(number) {
            chunk.fill(bits);
            self.full.reset(number);
        }
        let before = chunk.look().known_ones();
        change(&mut chunk);
        let chunk = chunk.look();
        match (before, chunk.known_ones()) {
            (Some(before), Some(after)) => {
                self.ones.add(after.saturating_sub(before));
                self.ones.subtract(before.saturating_sub(after));
            }
            (Some(_), None) | (None, Some(_) | None) => self.ones.forget(),
        }
        if chunk.is_empty() {
            self.present.reset(number);
        } else {
            self.present.set(number);
        }
        if chunk.known_ones() == Some(bits) {
            self.full.set(number);
        }
    }

    /// Clears a chunk.
    fn drop_chunk(&mut self, number: u64) {
        let lost = match self.content(number) {
            Content::Empty => Some(0),
            Content::Full => Some(self.bits_of_chunk(number)),
            Content::Mixed(chunk) => chunk.known_ones(),
        };
        match lost {
            Some(lost) => self.ones.subtract(lost),
            None => self.ones.forget(),
        }
        // Of one that was full as well: its words may have anything.
        if let Some(mut chunk) = self.pages.chunk_there(number) {
            chunk.wipe();
        }
        self.full.reset(number);
        self.present.reset(number);
        if self.present.is_empty() {
            self.ones = Tally::of(0);
        }
    }
}

/// Only what was touched is looked at.
impl Clone for Levels {
    fn clone(&self) -> Levels {
        let mut pages = Pages::new(self.pages.chunks());
        for (number, content) in self.contents() {
            if let Content::Mixed(chunk) = content {
                pages.chunk_mut(number).copy(chunk);
            }
        }
        Levels {
            bits: self.bits,
            ones: self.ones.clone(),
            pages,
            present: self.present.clone(),
            full: self.full.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
