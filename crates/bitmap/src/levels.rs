//! The bare hierarchy: bits in 64-bit words, and above them summary levels in which a bit is set
//! exactly when the word below it is not zero. Knows no bytes and no granules, only bit numbers.
//!
//! The idea of the 64-ary summaries is that of `qemu:util/hbitmap.c`; unlike there the number of
//! levels follows the size, and no end marker lives among the bits.

use std::iter;

use thiserror::Error;

/// Bits per word, and so the fan-out of the hierarchy.
pub(crate) const WORD_BITS: u64 = 64;

/// Numbers of words of each level for `bits` bits, leaves first; the last level is one word.
pub(crate) fn shape(bits: u64) -> impl Iterator<Item = usize> {
    let leaves = bits.div_ceil(WORD_BITS).max(1);
    iter::successors(Some(leaves), |&words| {
        (words > 1).then(|| words.div_ceil(WORD_BITS))
    })
    .map(|words| words as usize)
}

/// The bits `from..to` that fall into word `word`; `from..to` must touch it.
pub(crate) fn mask(word: u64, from: u64, to: u64) -> u64 {
    let first = word * WORD_BITS;
    let low = from.saturating_sub(first);
    let high = (to - first).min(WORD_BITS);
    (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high))
}

/// A plain hierarchy with one owner.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Levels {
    bits: u64,
    ones: u64,
    /// `levels[0]` are the leaves.
    levels: Vec<Vec<u64>>,
}

impl Levels {
    pub(crate) fn new(bits: u64) -> Levels {
        Levels {
            bits,
            ones: 0,
            levels: shape(bits).map(|words| vec![0; words]).collect(),
        }
    }

    /// Takes over leaf words; what they hold past `bits` is dropped, missing words are zero.
    pub(crate) fn from_leaves(bits: u64, leaves: Vec<u64>) -> Levels {
        let mut levels = Levels {
            bits,
            ones: 0,
            levels: vec![leaves],
        };
        levels.resize(bits);
        levels
    }

    pub(crate) fn bits(&self) -> u64 {
        self.bits
    }

    pub(crate) fn ones(&self) -> u64 {
        self.ones
    }

    pub(crate) fn leaves(&self) -> &[u64] {
        &self.levels[0]
    }

    /// Bit `bit`, which must be below `bits`.
    pub(crate) fn get(&self, bit: u64) -> bool {
        self.levels[0][(bit / WORD_BITS) as usize] >> (bit % WORD_BITS) & 1 == 1
    }

    /// Sets `from..to`, which must lie below `bits`.
    pub(crate) fn set(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.ones += set_words(&mut self.levels[0], from, to);
        let (mut from, mut to) = (from, to);
        for level in &mut self.levels[1..] {
            (from, to) = (from / WORD_BITS, to.div_ceil(WORD_BITS));
            set_words(level, from, to);
        }
    }

    /// Clears `from..to`, which must lie below `bits`.
    pub(crate) fn reset(&mut self, from: u64, to: u64) {
        let (mut from, mut to) = (from, to);
        for level in 0..self.levels.len() {
            if from >= to {
                return;
            }
            let words = &mut self.levels[level];
            let cleared = reset_words(words, from, to);
            if level == 0 {
                self.ones -= cleared;
            }
            // Only words that are zero now lose their summary; those inside the range are.
            let (first, last) = (from / WORD_BITS, (to - 1) / WORD_BITS);
            from = first + u64::from(words[first as usize] != 0);
            to = last + u64::from(words[last as usize] == 0);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.ones = 0;
        self.levels.iter_mut().for_each(|level| level.fill(0));
    }

    /// The first set bit at or after `from`.
    pub(crate) fn next_one(&self, from: u64) -> Option<u64> {
        let (mut level, mut bit) = (0, from);
        loop {
            let word = bit / WORD_BITS;
            let rest =
                self.levels.get(level)?.get(word as usize)? & (u64::MAX << (bit % WORD_BITS));
            if rest != 0 {
                bit = word * WORD_BITS + u64::from(rest.trailing_zeros());
                break;
            }
            (level, bit) = (level + 1, word + 1);
        }
        while level > 0 {
            level -= 1;
            bit = bit * WORD_BITS + u64::from(self.levels[level][bit as usize].trailing_zeros());
        }
        Some(bit)
    }

    /// The first clear bit at or after `from`; `bits` if there is none. Linear in full words.
    pub(crate) fn next_zero(&self, from: u64) -> u64 {
        let mut ahead = u64::MAX << (from % WORD_BITS);
        for word in from / WORD_BITS..self.levels[0].len() as u64 {
            let clear = !self.levels[0][word as usize] & ahead;
            if clear != 0 {
                return self
                    .bits
                    .min(word * WORD_BITS + u64::from(clear.trailing_zeros()));
            }
            ahead = u64::MAX;
        }
        self.bits
    }

    /// `self ∪ other`; both have the same number of bits.
    pub(crate) fn union(&mut self, other: &Levels) {
        if other.ones > 0 {
            self.combine(other, |mine, theirs| mine | theirs);
        }
    }

    /// `self ∩ other`; both have the same number of bits.
    pub(crate) fn intersect(&mut self, other: &Levels) {
        if self.ones > 0 {
            self.combine(other, |mine, theirs| mine & theirs);
        }
    }

    /// `self \ other`; both have the same number of bits.
    pub(crate) fn subtract(&mut self, other: &Levels) {
        if self.ones > 0 && other.ones > 0 {
            self.combine(other, |mine, theirs| mine & !theirs);
        }
    }

    /// Replaces one leaf word; bits past the end are dropped.
    pub(crate) fn replace_word(&mut self, word: u64, value: u64) {
        let (from, to) = (word * WORD_BITS, self.bits.min((word + 1) * WORD_BITS));
        let value = value & mask(word, from, to);
        self.reset(from, to);
        if value != 0 {
            self.set(
                from + u64::from(value.trailing_zeros()),
                from + u64::from(value.trailing_zeros()) + 1,
            );
            let leaf = &mut self.levels[0][word as usize];
            self.ones += u64::from(value.count_ones()) - 1;
            *leaf = value;
        }
    }

    /// Changes the number of bits: new ones are clear, dropped ones do not come back.
    pub(crate) fn resize(&mut self, bits: u64) {
        self.bits = bits;
        let mut words = shape(bits);
        let leaves = &mut self.levels[0];
        leaves.resize(words.next().unwrap_or(1), 0);
        if let Some(last) = leaves.last_mut() {
            let used = bits % WORD_BITS;
            if bits == 0 {
                *last = 0;
            } else if used != 0 {
                *last &= u64::MAX >> (WORD_BITS - used);
            }
        }
        self.levels.truncate(1);
        self.levels.extend(words.map(|words| vec![0; words]));
        self.summarise();
    }

    /// Checks what must always hold of the structure.
    pub(crate) fn self_check(&self) -> Result<(), Inconsistency> {
        if !shape(self.bits).eq(self.levels.iter().map(Vec::len)) {
            return Err(Inconsistency::Shape);
        }
        let mut fresh = Levels {
            bits: self.bits,
            ones: 0,
            levels: vec![self.levels[0].clone()],
        };
        fresh.resize(self.bits);
        if fresh.levels[0] != self.levels[0] {
            return Err(Inconsistency::PastTheEnd);
        }
        if fresh.ones != self.ones {
            return Err(Inconsistency::Count {
                cached: self.ones,
                actual: fresh.ones,
            });
        }
        match iter::zip(&fresh.levels, &self.levels).position(|(fresh, mine)| fresh != mine) {
            Some(level) => Err(Inconsistency::Summary { level }),
            None => Ok(()),
        }
    }

    fn combine(&mut self, other: &Levels, of: impl Fn(u64, u64) -> u64) {
        for (mine, theirs) in iter::zip(&mut self.levels[0], &other.levels[0]) {
            *mine = of(*mine, *theirs);
        }
        self.summarise();
    }

    /// Builds summaries and count anew from the leaves.
    fn summarise(&mut self) {
        self.ones = self.levels[0]
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        for level in 1..self.levels.len() {
            let (below, above) = self.levels.split_at_mut(level);
            for (summary, words) in
                iter::zip(&mut above[0], below[level - 1].chunks(WORD_BITS as usize))
            {
                *summary = words
                    .iter()
                    .enumerate()
                    .fold(0, |bits, (bit, &word)| bits | u64::from(word != 0) << bit);
            }
        }
    }
}

/// A broken rule of the structure, found by `self_check`: always a defect of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Inconsistency {
    /// A level has the wrong number of words.
    #[error("a level has the wrong number of words")]
    Shape,
    /// A bit past the last granule is set.
    #[error("a bit past the last granule is set")]
    PastTheEnd,
    /// The cached count is not the number of set bits.
    #[error("the count says {cached} granules, the leaves hold {actual}")]
    Count {
        /// What the bitmap believed.
        cached: u64,
        /// What the leaves hold.
        actual: u64,
    },
    /// A summary bit does not say whether the word below it is zero.
    #[error("level {level} does not summarise the level below it")]
    Summary {
        /// Levels above the leaves.
        level: usize,
    },
}

/// Sets bits `from..to` (not empty) of one level; says how many were clear.
fn set_words(words: &mut [u64], from: u64, to: u64) -> u64 {
    let clear = |words: &[u64]| {
        words
            .iter()
            .map(|word| u64::from(word.count_zeros()))
            .sum::<u64>()
    };
    let mut gained = 0;
    let mut set = |word: &mut u64, mask: u64| {
        gained += u64::from((mask & !*word).count_ones());
        *word |= mask;
    };
    match ends(words, from, to) {
        Ends::One(word) => set(word, mask(from / WORD_BITS, from, to)),
        Ends::Two(first, between, last) => {
            set(first, mask(from / WORD_BITS, from, to));
            set(last, mask((to - 1) / WORD_BITS, from, to));
            gained += clear(between);
            between.fill(u64::MAX);
        }
    }
    gained
}

/// Clears bits `from..to` (not empty) of one level; says how many were set.
fn reset_words(words: &mut [u64], from: u64, to: u64) -> u64 {
    let ones = |words: &[u64]| {
        words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum::<u64>()
    };
    let mut lost = 0;
    let mut reset = |word: &mut u64, mask: u64| {
        lost += u64::from((mask & *word).count_ones());
        *word &= !mask;
    };
    match ends(words, from, to) {
        Ends::One(word) => reset(word, mask(from / WORD_BITS, from, to)),
        Ends::Two(first, between, last) => {
            reset(first, mask(from / WORD_BITS, from, to));
            reset(last, mask((to - 1) / WORD_BITS, from, to));
            lost += ones(between);
            between.fill(0);
        }
    }
    lost
}

/// The words of a bit range: those at its ends are used in part, those between in whole.
enum Ends<'a> {
    One(&'a mut u64),
    Two(&'a mut u64, &'a mut [u64], &'a mut u64),
}

fn ends(words: &mut [u64], from: u64, to: u64) -> Ends<'_> {
    match &mut words[(from / WORD_BITS) as usize..=((to - 1) / WORD_BITS) as usize] {
        [first, between @ .., last] => Ends::Two(first, between, last),
        [word] => Ends::One(word),
        [] => unreachable!("an inclusive range of words has one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three levels: 64 * 64 leaves' bits are one word of the second summary level.
    const BITS: u64 = 3 * 64 * 64 + 7;

    #[test]
    fn every_level_boundary_keeps_its_summaries() {
        let mut levels = Levels::new(BITS);
        for bit in [0, 63, 64, 127, 4095, 4096, 8191, 8192, BITS - 1] {
            levels.set(bit, bit + 1);
            assert_eq!(levels.self_check(), Ok(()), "set {bit}");
        }
        for bit in [4095, 0, 8192, 63, 64, BITS - 1, 127, 8191, 4096] {
            levels.reset(bit, bit + 1);
            assert_eq!(levels.self_check(), Ok(()), "reset {bit}");
        }
        assert_eq!(levels.next_one(0), None);
    }

    #[test]
    fn self_check_finds_each_kind_of_damage() {
        let mut sound = Levels::new(BITS);
        sound.set(100, 200);
        let damage = |change: fn(&mut Levels)| {
            let mut broken = sound.clone();
            change(&mut broken);
            broken.self_check()
        };
        assert_eq!(damage(|_| ()), Ok(()));
        assert_eq!(damage(|l| l.levels[1].push(0)), Err(Inconsistency::Shape));
        assert_eq!(
            damage(|l| *l.levels[0].last_mut().unwrap() = 1 << 7),
            Err(Inconsistency::PastTheEnd)
        );
        assert_eq!(
            damage(|l| l.ones = 9),
            Err(Inconsistency::Count {
                cached: 9,
                actual: 100
            })
        );
        assert_eq!(
            damage(|l| l.levels[1][2] = 1),
            Err(Inconsistency::Summary { level: 1 })
        );
        assert_eq!(
            damage(|l| l.levels[2][0] = 0),
            Err(Inconsistency::Summary { level: 2 })
        );
    }

    #[test]
    fn replaced_words_are_counted_and_summarised() {
        let mut levels = Levels::new(130);
        levels.replace_word(2, u64::MAX);
        assert_eq!(
            (levels.ones(), levels.leaves()[2], levels.self_check()),
            (2, 3, Ok(()))
        );
        levels.replace_word(2, 2);
        assert_eq!(
            (levels.ones(), levels.next_one(0), levels.self_check()),
            (1, Some(129), Ok(()))
        );
        levels.replace_word(2, 0);
        assert_eq!(
            (levels.ones(), levels.next_one(0), levels.self_check()),
            (0, None, Ok(()))
        );
    }
}
