//! Hierarchies with hierarchies of as many bits: union, intersection, difference, equality. Each goes through
//! the chunks that matter and leaves the rest alone.

use super::{Chunk, Content, Levels};

impl Levels {
    /// `self ∪ other`; both have the same number of bits.
    pub(crate) fn union(&mut self, other: &Levels) {
        for (number, theirs) in other.contents() {
            let Content::Mixed(theirs) = theirs else {
                self.fill_chunk(number);
                continue;
            };
            match self.content(number) {
                Content::Full => {}
                Content::Empty => self.put_copy(number, theirs),
                Content::Mixed(_) => self.change(number, |mine| mine.union(theirs)),
            }
        }
    }

    /// `self ∩ other`; both have the same number of bits.
    pub(crate) fn intersect(&mut self, other: &Levels) {
        let mut from = 0;
        while let Some(number) = self.present.next_one(from) {
            from = number + 1;
            match (self.content(number), other.content(number)) {
                (_, Content::Empty) => self.drop_chunk(number),
                (Content::Empty, _) | (_, Content::Full) => {}
                (Content::Full, Content::Mixed(theirs)) => self.put_copy(number, theirs),
                (Content::Mixed(_), Content::Mixed(theirs)) => {
                    self.change(number, |mine| mine.intersect(theirs));
                }
            }
        }
    }

    /// `self \ other`; both have the same number of bits.
    pub(crate) fn subtract(&mut self, other: &Levels) {
        for (number, theirs) in other.contents() {
            match (self.present.get(number), theirs) {
                (false, _) | (_, Content::Empty) => {}
                (true, Content::Full) => self.drop_chunk(number),
                (true, Content::Mixed(theirs)) => {
                    self.change(number, |mine| mine.subtract(theirs));
                }
            }
        }
    }

    /// Puts a copy of a chunk in another's place.
    fn put_copy(&mut self, number: u64, chunk: Chunk<'_>) {
        self.drop_chunk(number);
        self.change(number, |mine| mine.copy(chunk));
    }
}

/// Equal sets of as many bits, however they are kept.
impl PartialEq for Levels {
    fn eq(&self, other: &Levels) -> bool {
        let same = |number| match (self.content(number), other.content(number)) {
            (Content::Empty, Content::Empty) | (Content::Full, Content::Full) => true,
            (Content::Mixed(mine), Content::Mixed(theirs)) => mine == theirs,
            (Content::Mixed(mixed), Content::Full) | (Content::Full, Content::Mixed(mixed)) => {
                mixed.ones() == self.bits_of_chunk(number)
            }
            (Content::Empty, Content::Full | Content::Mixed(_))
            | (Content::Full | Content::Mixed(_), Content::Empty) => false,
        };
        self.bits == other.bits && self.present == other.present && self.present.ones().all(same)
    }
}

impl Eq for Levels {}
