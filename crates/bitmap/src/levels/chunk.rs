//! A chunk: 2^18 granules with their two levels of summaries, as a look at its part of a [page](super::page).
//!
//! Positions are bits within the chunk. Everything here is plain words behind `&mut`, in loops over whole
//! arrays that the compiler turns into vector code.

use super::{Inconsistency, LEAVES, MIDS, Tally, WORD_BITS, mask};

/// Ranges of at most so many words are counted as they are changed; beyond, counting would cost more than
/// changing.
const COUNTED_WORDS: usize = 16;

/// Groups of 64 words of which at most so many hold anything are gone through word by word.
pub(crate) const FEW: u32 = 12;

/// What a chunk has besides its words and their summaries: a few of them share a cache line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(super) ones: Tally,
    /// Bit i: `mids[i]` is not zero.
    pub(super) top: u64,
}

/// A chunk to be looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(super) head: &'a Head,
    /// Bit i of word m: `leaves[64 m + i]` is not zero.
    pub(super) mids: &'a [u64; MIDS],
    pub(super) leaves: &'a [u64; LEAVES],
}

/// A chunk to be changed.
#[derive(Debug)]
pub(crate) struct ChunkMut<'a> {
    pub(super) head: &'a mut Head,
    pub(super) mids: &'a mut [u64; MIDS],
    pub(super) leaves: &'a mut [u64; LEAVES],
}

/// Which of up to 64 words are not zero. Mostly none or all are, which vector code says sooner.
#[inline]
pub(crate) fn mask_of(words: &[u64]) -> u64 {
    let zeroes: u64 = words.iter().map(|&word| u64::from(word == 0)).sum();
    if zeroes == words.len() as u64 {
        return 0;
    }
    if zeroes == 0 {
        return u64::MAX >> (64 - words.len());
    }
    (0..)
        .zip(words)
        .fold(0, |mask, (bit, &word)| mask | u64::from(word != 0) << bit)
}

/// The set bits of a word, ascending.
#[inline]
pub(crate) fn bits_of(word: u64) -> impl Iterator<Item = usize> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
        rest &= rest - 1;
        Some(bit)
    })
}

impl<'a> Chunk<'a> {
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.head.top == 0
    }

    #[inline]
    pub(crate) fn top(self) -> u64 {
        self.head.top
    }

    #[inline]
    pub(crate) fn mid(self, mid: usize) -> u64 {
        self.mids[mid % MIDS]
    }

    /// Asks the memory for the words under a summary word, of which some will be looked at soon: all at once they come as
    /// fast as if all were read, one after the other each would be waited for.
    #[inline]
    pub(crate) fn touch(self, mid: usize) {
        let line = 64 / size_of::<u64>();
        let lines = self.leaves[group(mid)].iter().step_by(line);
        std::hint::black_box(lines.fold(0, |all, word| all | word));
    }

    /// Word `word`, counted modulo the words of a chunk: so any granule's word number will do.
    #[inline]
    pub(crate) fn leaf(self, word: u64) -> u64 {
        self.leaves[word as usize % LEAVES]
    }

    /// The words from `first` on, at most so many.
    pub(crate) fn words(self, first: usize, length: usize) -> &'a [u64] {
        &self.leaves[first..LEAVES.min(first + length)]
    }

    /// Which words of a range hold something, ascending; the range starts at a multiple of 64.
    pub(crate) fn words_in_use(
        self,
        first: usize,
        length: usize,
    ) -> impl Iterator<Item = usize> + use<'a> {
        (first / 64..(first + length).div_ceil(64))
            .flat_map(|mid| bits_of(self.mids[mid]).map(move |bit| mid * 64 + bit))
    }

    /// How many bits are set, if that is known without counting.
    #[inline]
    pub(crate) fn known_ones(self) -> Option<u64> {
        self.head.ones.known()
    }

    pub(crate) fn ones(self) -> u64 {
        self.head.ones.or_count(|| {
            bits_of(self.head.top)
                .map(|mid| ones_of(&self.leaves[group(mid)]))
                .sum()
        })
    }

    /// The first set bit at or after `from`.
    pub(crate) fn next_one(self, from: u64) -> Option<u64> {
        let word = from / WORD_BITS;
        let rest = self.leaf(word) & (u64::MAX << (from % WORD_BITS));
        if rest != 0 {
            return Some(word * WORD_BITS + u64::from(rest.trailing_zeros()));
        }
        let word = self.next_word(word as usize + 1)?;
        Some(word as u64 * WORD_BITS + u64::from(self.leaves[word].trailing_zeros()))
    }

    /// The first clear bit at or after `from`, if any.
    pub(crate) fn next_zero(self, from: u64) -> Option<u64> {
        let word = from / WORD_BITS;
        let clear = !self.leaf(word) & (u64::MAX << (from % WORD_BITS));
        if clear != 0 {
            return Some(word * WORD_BITS + u64::from(clear.trailing_zeros()));
        }
        let ahead = &self.leaves[word as usize + 1..];
        let (word, bits) = (word + 1..)
            .zip(ahead)
            .find(|&(_, &bits)| bits != u64::MAX)?;
        Some(word * WORD_BITS + u64::from(bits.trailing_ones()))
    }

    pub(crate) fn self_check(self, bits: u64) -> Result<(), Inconsistency> {
        let in_use = |word: u64| match bits.saturating_sub(word * WORD_BITS) {
            0 => 0,
            left => u64::MAX >> (WORD_BITS - left.min(WORD_BITS)),
        };
        if (0..)
            .zip(self.leaves)
            .any(|(word, leaf)| leaf & !in_use(word) != 0)
        {
            return Err(Inconsistency::PastTheEnd);
        }
        let mids = self.leaves.chunks(64).map(mask_of);
        if !mids.eq(*self.mids) {
            return Err(Inconsistency::Summary { level: 1 });
        }
        if mask_of(self.mids) != self.head.top {
            return Err(Inconsistency::Summary { level: 2 });
        }
        let actual = ones_of(self.leaves);
        match self.head.ones.known() {
            Some(cached) if cached != actual => Err(Inconsistency::Count { cached, actual }),
            Some(_) | None => Ok(()),
        }
    }

    /// The first word that is not zero, at or after `from`.
    fn next_word(self, from: usize) -> Option<usize> {
        let rest = self.mids.get(from / 64)? & (u64::MAX << (from % 64));
        if rest != 0 {
            return Some(from / 64 * 64 + rest.trailing_zeros() as usize);
        }
        let tops = self.head.top & u64::MAX.checked_shl(from as u32 / 64 + 1).unwrap_or(0);
        let mid = (tops != 0).then(|| tops.trailing_zeros() as usize)?;
        Some(mid * 64 + self.mids[mid].trailing_zeros() as usize)
    }

    /// Whether no word of `from..to` (not empty) holds anything.
    fn is_clear(self, from: u64, to: u64) -> bool {
        (from / 64..=(to - 1) / 64).all(|mid| self.mids[mid as usize] & mask(mid, from, to) == 0)
    }
}

impl ChunkMut<'_> {
    /// The chunk, to be looked at.
    #[inline]
    pub(crate) fn look(&self) -> Chunk<'_> {
        Chunk {
            head: self.head,
            mids: self.mids,
            leaves: self.leaves,
        }
    }

    /// Clears everything; what was clear is not touched.
    pub(crate) fn wipe(&mut self) {
        for mid in bits_of(self.head.top) {
            self.leaves[group(mid)].fill(0);
            self.mids[mid] = 0;
        }
        *self.head = Head::default();
    }

    /// Sets the first `bits` bits and no other, whatever there was.
    pub(crate) fn fill(&mut self, bits: u64) {
        self.wipe();
        self.set(0, bits);
    }

    /// Becomes the copy of another, where nothing was.
    pub(crate) fn copy(&mut self, other: Chunk<'_>) {
        self.head.clone_from(other.head);
        self.mids.clone_from(other.mids);
        for mid in bits_of(other.head.top) {
            self.leaves[group(mid)].copy_from_slice(&other.leaves[group(mid)]);
        }
    }

    /// Becomes the copy, where nothing was, of words that others may be setting meanwhile: what their summaries `top`
    /// and `mid_at` say is looked at, and summarised by what was seen.
    pub(crate) fn copy_words(
        &mut self,
        top: u64,
        mid_at: impl Fn(usize) -> u64,
        leaf_at: impl Fn(usize) -> u64,
    ) {
        self.head.ones.forget();
        for mid in bits_of(top) {
            let words = mid_at(mid);
            if words.count_ones() <= FEW {
                bits_of(words)
                    .map(|word| mid * 64 + word)
                    .for_each(|word| self.leaves[word] = leaf_at(word));
            } else {
                group(mid).for_each(|word| self.leaves[word] = leaf_at(word));
            }
            self.summarise(mid);
        }
    }

    /// Sets the bits of `bits` in one word; says how many were clear.
    #[inline]
    pub(crate) fn set_in_word(&mut self, word: u64, bits: u64) -> u64 {
        let word = word as usize % LEAVES;
        let was = self.leaves[word];
        let gained = bits & !was;
        if gained == 0 {
            return 0;
        }
        self.leaves[word] = was | bits;
        // Mostly they say so already; asking first would be a branch that nobody can foresee.
        self.mids[word / 64] |= 1 << (word % 64);
        self.head.top |= 1 << (word / 64);
        let gained = count_few(gained);
        self.head.ones.add(gained);
        gained
    }

    /// Clears the bits of `bits` in one word; says how many were set.
    #[inline]
    pub(crate) fn reset_in_word(&mut self, word: u64, bits: u64) -> u64 {
        let word = word as usize % LEAVES;
        let lost = bits & self.leaves[word];
        if lost == 0 {
            return 0;
        }
        self.leaves[word] &= !bits;
        if self.leaves[word] == 0 {
            self.mids[word / 64] &= !(1 << (word % 64));
            if self.mids[word / 64] == 0 {
                self.head.top &= !(1 << (word / 64));
            }
        }
        let lost = count_few(lost);
        self.head.ones.subtract(lost);
        lost
    }

    /// Sets `from..to`, not empty.
    pub(crate) fn set(&mut self, from: u64, to: u64) {
        let (first, last) = (from / WORD_BITS, (to - 1) / WORD_BITS);
        self.set_in_word(first, mask(first, from, to));
        if first == last {
            return;
        }
        self.set_in_word(last, mask(last, from, to));
        let between = first as usize + 1..last as usize;
        if between.is_empty() {
            return;
        }
        if self.look().is_clear(first + 1, last) {
            self.head.ones.add(WORD_BITS * between.len() as u64);
        } else if between.len() <= COUNTED_WORDS {
            let zeroes = WORD_BITS * between.len() as u64 - ones_of(&self.leaves[between.clone()]);
            self.head.ones.add(zeroes);
        } else {
            self.head.ones.forget();
        }
        self.leaves[between].fill(u64::MAX);
        for mid in first / 64..=last / 64 {
            self.mids[mid as usize] |= mask(mid, first, last + 1);
            self.head.top |= 1 << mid;
        }
    }

    /// Clears `from..to`, not empty.
    pub(crate) fn reset(&mut self, from: u64, to: u64) {
        let (first, last) = (from / WORD_BITS, (to - 1) / WORD_BITS);
        self.reset_in_word(first, mask(first, from, to));
        if first == last {
            return;
        }
        self.reset_in_word(last, mask(last, from, to));
        if first + 1 == last || self.look().is_clear(first + 1, last) {
            return;
        }
        let between = first as usize + 1..last as usize;
        if between.len() <= COUNTED_WORDS {
            let lost = ones_of(&self.leaves[between.clone()]);
            self.head.ones.subtract(lost);
        } else {
            self.head.ones.forget();
        }
        self.leaves[between].fill(0);
        for mid in (first + 1) / 64..=(last - 1) / 64 {
            self.mids[mid as usize] &= !mask(mid, first + 1, last);
            if self.mids[mid as usize] == 0 {
                self.head.top &= !(1 << mid);
            }
        }
        if self.head.top == 0 {
            self.head.ones = Tally::of(0);
        }
    }

    /// Replaces one word.
    pub(crate) fn put_word(&mut self, word: u64, value: u64) {
        let was = self.look().leaf(word);
        self.reset_in_word(word, was & !value);
        self.set_in_word(word, value);
    }

    /// Puts whole words, as little-endian bytes, in from word `first` on, where all was clear; says whether they hold
    /// anything.
    pub(crate) fn put_words(&mut self, first: usize, words: &[[u8; 8]]) -> bool {
        self.head.ones.forget();
        for (leaf, bytes) in self.leaves[first..].iter_mut().zip(words) {
            *leaf = u64::from_le_bytes(*bytes);
        }
        let mids = first / 64..(first + words.len()).div_ceil(64);
        mids.clone().for_each(|mid| self.summarise(mid));
        mids.into_iter().any(|mid| self.mids[mid] != 0)
    }

    /// `self ∪ other`.
    pub(crate) fn union(&mut self, other: Chunk<'_>) {
        self.head.ones.forget();
        self.head.top |= other.head.top;
        for mid in bits_of(other.head.top) {
            let theirs = other.mids[mid];
            self.mids[mid] |= theirs;
            let (mine, others) = (&mut self.leaves[group(mid)], &other.leaves[group(mid)]);
            // All of them together are read as fast as three or four one after the other.
            if theirs.is_power_of_two() {
                let word = theirs.trailing_zeros() as usize;
                mine[word] |= others[word];
            } else {
                std::iter::zip(mine, others).for_each(|(mine, theirs)| *mine |= theirs);
            }
        }
    }

    /// `self ∩ other`.
    pub(crate) fn intersect(&mut self, other: Chunk<'_>) {
        self.head.ones.forget();
        for mid in bits_of(self.head.top) {
            let (mine, others) = (&mut self.leaves[group(mid)], &other.leaves[group(mid)]);
            std::iter::zip(mine, others).for_each(|(mine, theirs)| *mine &= theirs);
            self.summarise(mid);
        }
    }

    /// `self \ other`.
    pub(crate) fn subtract(&mut self, other: Chunk<'_>) {
        self.head.ones.forget();
        for mid in bits_of(self.head.top & other.head.top) {
            let (mine, others) = (&mut self.leaves[group(mid)], &other.leaves[group(mid)]);
            std::iter::zip(mine, others).for_each(|(mine, theirs)| *mine &= !theirs);
            self.summarise(mid);
        }
    }

    /// Makes the summaries of one group anew.
    fn summarise(&mut self, mid: usize) {
        self.mids[mid] = mask_of(&self.leaves[group(mid)]);
        let bit = 1 << mid;
        self.head.top = if self.mids[mid] == 0 {
            self.head.top & !bit
        } else {
            self.head.top | bit
        };
    }
}

/// Equal sets, whatever is known of their counts.
impl PartialEq for Chunk<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.head.top == other.head.top && self.mids == other.mids && self.leaves == other.leaves
    }
}

/// The words that one summary word stands for.
#[inline]
fn group(mid: usize) -> std::ops::Range<usize> {
    mid * 64..LEAVES.min(mid * 64 + 64)
}

pub(crate) fn ones_of(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// The ones of a word that mostly has one: without the instruction for it counting takes a dozen others.
#[inline]
pub(super) fn count_few(bits: u64) -> u64 {
    if bits & (bits - 1) == 0 {
        1
    } else {
        u64::from(bits.count_ones())
    }
}
