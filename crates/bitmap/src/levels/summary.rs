//! A small hierarchy with one owner: which chunks hold anything. A bit of a level above the first says that the
//! word below it is not zero.

use super::{WORD_BITS, shape};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// A bit for each chunk.
    base: Vec<u64>,
    /// The levels above, the lowest first.
    above: Vec<Vec<u64>>,
    /// How many chunks have their bit set.
    count: u64,
}

impl Summary {
    pub(crate) fn new(bits: u64) -> Summary {
        let mut levels = shape(bits).map(|words| vec![0; words]);
        Summary {
            base: levels.next().unwrap_or_default(),
            above: levels.collect(),
            count: 0,
        }
    }

    fn level(&self, level: usize) -> Option<&[u64]> {
        let above = level.checked_sub(1);
        above
            .map_or(Some(&self.base), |above| self.above.get(above))
            .map(Vec::as_slice)
    }

    fn levels_mut(&mut self) -> impl Iterator<Item = &mut Vec<u64>> {
        std::iter::once(&mut self.base).chain(&mut self.above)
    }

    #[inline]
    pub(crate) fn get(&self, bit: u64) -> bool {
        self.base[(bit / WORD_BITS) as usize] >> (bit % WORD_BITS) & 1 == 1
    }

    pub(crate) fn set(&mut self, bit: u64) {
        self.count += u64::from(!self.get(bit));
        let mut bit = bit;
        for level in self.levels_mut() {
            let word = &mut level[(bit / WORD_BITS) as usize];
            let was = *word;
            *word |= 1 << (bit % WORD_BITS);
            if was != 0 {
                return;
            }
            bit /= WORD_BITS;
        }
    }

    pub(crate) fn reset(&mut self, bit: u64) {
        self.count -= u64::from(self.get(bit));
        let mut bit = bit;
        for level in self.levels_mut() {
            let word = &mut level[(bit / WORD_BITS) as usize];
            *word &= !(1 << (bit % WORD_BITS));
            if *word != 0 {
                return;
            }
            bit /= WORD_BITS;
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first set bit at or after `from`.
    pub(crate) fn next_one(&self, from: u64) -> Option<u64> {
        let (mut level, mut bit) = (0, from);
        loop {
            let word = bit / WORD_BITS;
            let rest = self.level(level)?.get(word as usize)? & (u64::MAX << (bit % WORD_BITS));
            if rest != 0 {
                bit = word * WORD_BITS + u64::from(rest.trailing_zeros());
                break;
            }
            (level, bit) = (level + 1, word + 1);
        }
        while level > 0 {
            level -= 1;
            let below = self.level(level)?.get(bit as usize)?;
            bit = bit * WORD_BITS + u64::from(below.trailing_zeros());
        }
        Some(bit)
    }

    /// The first clear bit at or after `from`, which may lie past the end. Linear in full words: one of them
    /// stands for sixteen million granules.
    pub(crate) fn next_zero(&self, from: u64) -> u64 {
        let mut ahead = u64::MAX << (from % WORD_BITS);
        let first = from / WORD_BITS;
        for (word, bits) in (first..).zip(&self.base[first as usize..]) {
            let clear = !bits & ahead;
            if clear != 0 {
                return word * WORD_BITS + u64::from(clear.trailing_zeros());
            }
            ahead = u64::MAX;
        }
        self.base.len() as u64 * WORD_BITS
    }

    /// All set bits, ascending.
    pub(crate) fn ones(&self) -> impl Iterator<Item = u64> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let one = self.next_one(from)?;
            from = one + 1;
            Some(one)
        })
    }

    /// Which level, if any, does not summarise the one below it.
    pub(crate) fn defect(&self) -> Option<usize> {
        (1..=self.above.len()).find(|&level| {
            let words = |level| self.level(level).unwrap_or_default();
            let below = words(level - 1).chunks(WORD_BITS as usize);
            !below
                .map(super::chunk::mask_of)
                .eq(words(level).iter().copied())
        })
    }
}
