//! The words behind a recorder: the hierarchy of [`Levels`], atomic and growing only.
//!
//! Two rules carry everything:
//!
//! - **Top-down.** A setter sets the summaries from the top, then the leaf. What it finds set it leaves alone: finding
//!   means acquiring, setting means releasing, so whoever sees a bit of any level sees all that is above it.
//! - **Nothing is cleared.** So a load that finds a bit set needs no second look, and a chunk once there stays.
//!
//! A chunk is made by the first who needs it; if several do at once, one of theirs is kept. A chunk that was marked in one go
//! is only noted as full.

use crate::{
    levels::{
        CHUNK_BITS, ChunkMut, LEAVES, Levels, MIDS, WORD_BITS, bits_of, mask, mask_through, pieces,
        shape,
    },
    sync::{AtomicU64, OnceBox, Ordering},
};

/// Up to so many chunks (2^32 granules) each has its pointer in one array: two loads lead to any word. Beyond,
/// arrays of that length are made as they are needed, and a third load leads to theirs.
const CHUNKS_IN_A_PAGE: usize = if cfg!(loom) { 2 } else { 1 << 14 };

pub(crate) struct Marks {
    bits: u64,
    slots: Slots,
    /// `touched[0]` has a bit for each chunk that holds, or will presently hold, something; above it, summaries.
    touched: Vec<Vec<AtomicU64>>,
    /// Chunks that were marked in one go, whatever their words say.
    full: Vec<AtomicU64>,
}

enum Slots {
    Flat(Vec<OnceBox<AtomicChunk>>),
    Paged(Vec<OnceBox<Page>>),
}

struct Page([OnceBox<AtomicChunk>; CHUNKS_IN_A_PAGE]);

struct AtomicChunk {
    top: AtomicU64,
    mids: [AtomicU64; MIDS],
    leaves: [AtomicU64; LEAVES],
}

impl Marks {
    pub(crate) fn new(bits: u64) -> Marks {
        let chunks = bits.div_ceil(CHUNK_BITS);
        let touched: Vec<_> = shape(chunks).map(zeroes).collect();
        Marks {
            bits,
            slots: Slots::new(chunks as usize),
            full: zeroes(touched[0].len()),
            touched,
        }
    }

    /// Sets `first` and `last` and all between them, which must lie below `bits`.
    #[inline]
    pub(crate) fn set_through(&self, first: u64, last: u64) {
        let word = first / WORD_BITS;
        if word == last / WORD_BITS {
            self.set_in_word(word, mask_through(first, last));
        } else {
            self.set_pieces(first, last + 1);
        }
    }

    /// Bit `bit`, which must be below `bits`.
    #[inline]
    pub(crate) fn get(&self, bit: u64) -> bool {
        let number = bit / CHUNK_BITS;
        let in_leaf = self
            .slots
            .get(number)
            .is_some_and(|chunk| load(chunk.leaf(bit / WORD_BITS)) >> (bit % WORD_BITS) & 1 == 1);
        in_leaf || self.is_full(number)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.touched
            .last()
            .is_none_or(|top| top.iter().all(|word| load(word) == 0))
    }

    /// How many bits are set. Nobody keeps that number: setters would wait for each other at it.
    pub(crate) fn ones(&self) -> u64 {
        let mut ones = 0;
        self.each_touched(|number| {
            ones += if self.is_full(number) {
                self.bits_of_chunk(number)
            } else {
                self.slots.get(number).map_or(0, AtomicChunk::ones)
            };
        });
        ones
    }

    /// What is set. Bits set meanwhile may be in it or not.
    pub(crate) fn copied(&self) -> Levels {
        let mut levels = Levels::new(self.bits);
        self.each_touched(|number| {
            if self.is_full(number) {
                levels.fill_chunk(number);
            } else if let Some(chunk) = self.slots.get(number) {
                levels.change(number, |copy| chunk.copy_to(copy));
            }
        });
        levels
    }

    /// Where the chunk of `bit` ends.
    pub(super) fn chunk_end(&self, bit: u64) -> u64 {
        self.bits.min((bit / CHUNK_BITS + 1) * CHUNK_BITS)
    }

    /// Whether the chunk of `bit` was marked in one go.
    pub(super) fn is_full_at(&self, bit: u64) -> bool {
        self.is_full(bit / CHUNK_BITS)
    }

    /// The words of the chunk of `bit`, from that of `bit` on, each with the number of its first bit; nothing if the chunk
    /// has none.
    pub(super) fn words_from(&self, bit: u64) -> Option<impl Iterator<Item = (u64, u64)>> {
        let chunk = self.slots.get(bit / CHUNK_BITS)?;
        let words = bit / WORD_BITS..self.chunk_end(bit).div_ceil(WORD_BITS);
        Some(words.map(|word| (word * WORD_BITS, load(chunk.leaf(word)))))
    }

    /// The first bit of the first chunk at or after `bit`, itself a chunk's first, that holds anything; the end if none
    /// does.
    pub(super) fn next_touched(&self, bit: u64) -> u64 {
        let from = bit.div_ceil(CHUNK_BITS);
        let first = from / WORD_BITS;
        let words = self.touched[0].iter().enumerate().skip(first as usize);
        for (at, word) in words {
            let mut chunks = load(word);
            if at as u64 == first {
                chunks &= u64::MAX << (from % WORD_BITS);
            }
            if chunks != 0 {
                let chunk = at as u64 * WORD_BITS + u64::from(chunks.trailing_zeros());
                return chunk * CHUNK_BITS;
            }
        }
        self.bits
    }

    #[inline]
    fn set_in_word(&self, word: u64, bits: u64) {
        let number = word / LEAVES as u64;
        let Some(chunk) = self.slots.get(number) else {
            return self.set_first_of_chunk(word, bits);
        };
        let leaf = chunk.leaf(word);
        let was = load(leaf);
        if was & bits == bits {
            return;
        }
        if was == 0 || self.is_full(number) {
            self.set_first(word, bits);
        } else {
            // Somebody set a bit of this word, so the summaries are there.
            leaf.fetch_or(bits, Ordering::Release);
        }
    }

    /// As [`set_in_word`](Self::set_in_word), for the first bits of a chunk.
    #[inline(never)]
    fn set_first_of_chunk(&self, word: u64, bits: u64) {
        let number = word / LEAVES as u64;
        if u64::from(bits.count_ones()) == self.bits_of_chunk(number) {
            // All that a small recorder has: no words are needed for it.
            self.note_full(number);
        } else {
            self.set_first(word, bits);
        }
    }

    /// As [`set_in_word`](Self::set_in_word), for the first bits of a word.
    fn set_first(&self, word: u64, bits: u64) {
        let number = word / LEAVES as u64;
        if self.is_full(number) {
            return;
        }
        let chunk = self.slots.get_or_make(number);
        let place = word as usize % LEAVES;
        self.announce_words(number, chunk, place / 64, 1 << (place % 64));
        chunk.leaf(word).fetch_or(bits, Ordering::Release);
    }

    fn set_pieces(&self, from: u64, to: u64) {
        for (number, from, to) in pieces(from, to) {
            if self.is_full(number) {
                continue;
            }
            if to - from == self.bits_of_chunk(number) {
                self.note_full(number);
            } else {
                self.set_piece(number, from, to);
            }
        }
    }

    /// Sets `from..to` of one chunk.
    fn set_piece(&self, number: u64, from: u64, to: u64) {
        let base = number * LEAVES as u64;
        let (first, last) = (from / WORD_BITS, (to - 1) / WORD_BITS);
        self.set_in_word(base + first, mask(first, from, to));
        if first == last {
            return;
        }
        self.set_in_word(base + last, mask(last, from, to));
        if first + 1 == last {
            return;
        }
        let chunk = self.slots.get_or_make(number);
        for mid in (first + 1) / 64..=(last - 1) / 64 {
            self.announce_words(number, chunk, mid as usize, mask(mid, first + 1, last));
        }
        for leaf in &chunk.leaves[first as usize + 1..last as usize] {
            if load(leaf) != u64::MAX {
                leaf.fetch_or(u64::MAX, Ordering::Release);
            }
        }
    }

    /// Sets the summaries of some words of a chunk.
    fn announce_words(&self, number: u64, chunk: &AtomicChunk, mid: usize, words: u64) {
        if load(&chunk.mids[mid]) & words != words {
            self.announce(number);
            set(&chunk.top, 1 << mid);
            set(&chunk.mids[mid], words);
        }
    }

    /// Sets the summaries of a chunk.
    fn announce(&self, number: u64) {
        let is_set = |level: &[AtomicU64], bit: u64| {
            load(&level[(bit / WORD_BITS) as usize]) >> (bit % WORD_BITS) & 1 == 1
        };
        if is_set(&self.touched[0], number) {
            return;
        }
        for (height, level) in self.touched.iter().enumerate().rev() {
            let bit = number >> (WORD_BITS.ilog2() as usize * height);
            set(&level[(bit / WORD_BITS) as usize], 1 << (bit % WORD_BITS));
        }
    }

    /// Every bit of a chunk was marked in one go.
    fn note_full(&self, number: u64) {
        self.announce(number);
        set(
            &self.full[(number / WORD_BITS) as usize],
            1 << (number % WORD_BITS),
        );
    }

    #[inline]
    fn is_full(&self, number: u64) -> bool {
        load(&self.full[(number / WORD_BITS) as usize]) >> (number % WORD_BITS) & 1 == 1
    }

    fn bits_of_chunk(&self, number: u64) -> u64 {
        (self.bits - number * CHUNK_BITS).min(CHUNK_BITS)
    }

    /// The chunks that hold anything, ascending.
    fn each_touched(&self, mut visit: impl FnMut(u64)) {
        self.descend(self.touched.len() - 1, 0, &mut visit);
    }

    fn descend(&self, level: usize, word: u64, visit: &mut impl FnMut(u64)) {
        for bit in bits_of(load(&self.touched[level][word as usize])) {
            let below = word * WORD_BITS + bit as u64;
            if level == 0 {
                visit(below);
            } else {
                self.descend(level - 1, below, visit);
            }
        }
    }
}

impl Slots {
    fn new(chunks: usize) -> Slots {
        if chunks <= CHUNKS_IN_A_PAGE {
            Slots::Flat(empty(chunks))
        } else {
            Slots::Paged(empty(chunks.div_ceil(CHUNKS_IN_A_PAGE)))
        }
    }

    #[inline]
    fn get(&self, number: u64) -> Option<&AtomicChunk> {
        let number = number as usize;
        match self {
            Slots::Flat(chunks) => chunks[number].get(),
            Slots::Paged(pages) => {
                pages[number / CHUNKS_IN_A_PAGE].get()?.0[number % CHUNKS_IN_A_PAGE].get()
            }
        }
    }

    fn get_or_make(&self, number: u64) -> &AtomicChunk {
        let number = number as usize;
        let slot = match self {
            Slots::Flat(chunks) => &chunks[number],
            Slots::Paged(pages) => {
                let page = pages[number / CHUNKS_IN_A_PAGE].get_or_init(Page::new);
                &page.0[number % CHUNKS_IN_A_PAGE]
            }
        };
        slot.get_or_init(AtomicChunk::new)
    }
}

impl Page {
    fn new() -> Box<Page> {
        Box::new(Page(std::array::from_fn(|_| OnceBox::new())))
    }
}

impl AtomicChunk {
    fn new() -> Box<AtomicChunk> {
        let zero = |_| AtomicU64::new(0);
        Box::new(AtomicChunk {
            top: AtomicU64::new(0),
            mids: std::array::from_fn(zero),
            leaves: std::array::from_fn(zero),
        })
    }

    /// Word `word`, counted modulo the words of a chunk.
    #[inline]
    fn leaf(&self, word: u64) -> &AtomicU64 {
        &self.leaves[word as usize % LEAVES]
    }

    fn ones(&self) -> u64 {
        bits_of(load(&self.top))
            .flat_map(|mid| bits_of(load(&self.mids[mid])).map(move |word| mid * 64 + word))
            .map(|word| u64::from(load(&self.leaves[word]).count_ones()))
            .sum()
    }

    fn copy_to(&self, copy: &mut ChunkMut<'_>) {
        copy.copy_words(
            load(&self.top),
            |mid| load(&self.mids[mid]),
            |word| load(&self.leaves[word]),
        );
    }
}

#[inline]
fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// Sets bits that mostly are set.
fn set(word: &AtomicU64, bits: u64) {
    if load(word) & bits != bits {
        word.fetch_or(bits, Ordering::Release);
    }
}

fn zeroes(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn empty<T>(places: usize) -> Vec<OnceBox<T>> {
    (0..places).map(|_| OnceBox::new()).collect()
}
