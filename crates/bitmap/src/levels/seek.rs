//! Finding bits: the next one, the next clear one, and run after run.

use super::{CHUNK_BITS, Chunk, Content, LEAVES, Levels, WORD_BITS, mask};

impl Levels {
    /// The first set bit at or after `from`.
    pub(crate) fn next_one(&self, from: u64) -> Option<u64> {
        let mut bit = from;
        loop {
            let number = bit / CHUNK_BITS;
            if number >= self.pages.chunks() {
                return None;
            }
            let found = match self.content(number) {
                Content::Empty => None,
                Content::Full => return Some(bit),
                Content::Mixed(chunk) => chunk.next_one(bit % CHUNK_BITS),
            };
            if let Some(found) = found {
                return Some(number * CHUNK_BITS + found);
            }
            bit = self.present.next_one(number + 1)? * CHUNK_BITS;
        }
    }

    /// The first clear bit at or after `from`; `bits` if there is none. What is known to be full is skipped by the
    /// chunk; a chunk that is full unawares is read.
    pub(crate) fn next_zero(&self, from: u64) -> u64 {
        let mut bit = from;
        while bit < self.bits {
            let number = bit / CHUNK_BITS;
            let found = match self.content(number) {
                Content::Empty => return bit,
                Content::Full => None,
                Content::Mixed(chunk) => chunk.next_zero(bit % CHUNK_BITS),
            };
            if let Some(found) = found {
                return self.bits.min(number * CHUNK_BITS + found);
            }
            bit = self.full.next_zero(number + 1) * CHUNK_BITS;
        }
        self.bits
    }

    /// The runs of set bits from `from` on, the first cut there.
    pub(crate) fn runs_from(&self, from: u64) -> BitRuns<'_> {
        let mut runs = BitRuns {
            levels: self,
            chunk: None,
            next_chunk: 0,
            group: 0,
            word: 0,
            tops: 0,
            mids: 0,
            bits: 0,
        };
        runs.go_to(from);
        runs
    }
}

/// Iterator over runs of set bits, ascending, as half-open ranges.
///
/// What is left to see of each level stands in a word of its own, so going on costs a look at the lowest level
/// that has something left.
#[derive(Clone, Debug)]
pub(crate) struct BitRuns<'a> {
    levels: &'a Levels,
    chunk: Option<Chunk<'a>>,
    /// Chunks from here on were not looked at.
    next_chunk: u64,
    /// First word under the present summary word.
    group: u64,
    /// The word that `bits` is the rest of.
    word: u64,
    /// Summary words of this chunk that are left.
    tops: u64,
    /// Words under the present summary word that are left.
    mids: u64,
    bits: u64,
}

impl BitRuns<'_> {
    #[inline]
    pub(crate) fn next_run(&mut self) -> Option<(u64, u64)> {
        while self.bits == 0 {
            if self.mids != 0 {
                self.word = self.group + u64::from(self.mids.trailing_zeros());
                self.mids &= self.mids - 1;
                self.bits = self.chunk?.leaf(self.word);
            } else if let Some(run) = self.next_group()? {
                return Some(run);
            }
        }
        let first = self.word * WORD_BITS + u64::from(self.bits.trailing_zeros());
        // Adding the lowest bit of a run clears the run and leaves a bit where it ended.
        let lowest = self.bits & self.bits.wrapping_neg();
        let (sum, to_the_end) = self.bits.overflowing_add(lowest);
        if to_the_end {
            return Some((first, self.end_after_word()));
        }
        self.bits &= sum;
        Some((
            first,
            self.word * WORD_BITS + u64::from(sum.trailing_zeros()),
        ))
    }

    /// Where the run ends that reaches the end of this word: mostly in the next one.
    #[inline]
    fn end_after_word(&mut self) -> u64 {
        let word = self.word + 1;
        if let Some(chunk) = self.chunk
            && !word.is_multiple_of(LEAVES as u64)
            && word - self.group < WORD_BITS
        {
            let next = chunk.leaf(word);
            if next != u64::MAX {
                self.word = word;
                self.mids &= !(1 << (word - self.group));
                // Adding one clears the ones at the bottom, and sets the bit above them.
                self.bits = next & next.wrapping_add(1);
                return word * WORD_BITS + u64::from(next.trailing_ones());
            }
        }
        self.follow(word * WORD_BITS)
    }

    /// Goes on with the next summary word, or the next chunk. `None`: there is none. A run: the next chunk is full.
    fn next_group(&mut self) -> Option<Option<(u64, u64)>> {
        if self.tops == 0 {
            let number = self.levels.present.next_one(self.next_chunk)?;
            let first = number * CHUNK_BITS;
            match self.levels.content(number) {
                Content::Mixed(chunk) => {
                    self.chunk = Some(chunk);
                    self.tops = chunk.top();
                    self.next_chunk = number + 1;
                }
                Content::Full | Content::Empty => return Some(Some((first, self.follow(first)))),
            }
        }
        let chunk = self.chunk?;
        let mid = self.tops.trailing_zeros();
        self.tops &= self.tops - 1;
        self.mids = chunk.mid(mid as usize);
        if self.tops != 0 {
            chunk.touch(self.tops.trailing_zeros() as usize);
        }
        self.group = (self.next_chunk - 1) * LEAVES as u64 + u64::from(mid) * WORD_BITS;
        Some(None)
    }

    /// Says where the run that goes on at `from` ends, and goes there.
    fn follow(&mut self, from: u64) -> u64 {
        let end = self.levels.next_zero(from);
        self.go_to(end);
        end
    }

    /// What is left is all from `from` on.
    fn go_to(&mut self, from: u64) {
        let number = from / CHUNK_BITS;
        (self.chunk, self.next_chunk) = (None, number + 1);
        (self.tops, self.mids, self.bits) = (0, 0, 0);
        if from >= self.levels.bits {
            return;
        }
        match self.levels.content(number) {
            Content::Empty => {}
            // The rest of the word; `next_run` follows it to the end.
            Content::Full => {
                self.word = from / WORD_BITS;
                self.bits = mask(self.word, from, self.levels.bits);
            }
            Content::Mixed(chunk) => {
                let word = from % CHUNK_BITS / WORD_BITS;
                let (mid, bit) = (word / WORD_BITS, word % WORD_BITS);
                let after = |bit: u64| u64::MAX.checked_shl(bit as u32 + 1).unwrap_or(0);
                self.chunk = Some(chunk);
                self.tops = chunk.top() & after(mid);
                self.mids = chunk.mid(mid as usize) & after(bit);
                self.word = from / WORD_BITS;
                self.group = self.word - bit;
                self.bits = chunk.leaf(word) & (u64::MAX << (from % WORD_BITS));
            }
        }
    }
}
