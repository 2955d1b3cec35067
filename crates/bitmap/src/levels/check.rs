//! What must always hold of the structure.

use thiserror::Error;

use super::{CHUNK_BITS, Levels};

impl Levels {
    /// Checks what must always hold of the structure.
    pub(crate) fn self_check(&self) -> Result<(), Inconsistency> {
        if self.pages.chunks() != self.bits.div_ceil(CHUNK_BITS) {
            return Err(Inconsistency::Shape);
        }
        let mut actual = 0;
        for number in 0..self.pages.chunks() {
            let (holds, full) = (self.present.get(number), self.full.get(number));
            let (bits, chunk) = (self.bits_of_chunk(number), self.pages.chunk(number));
            if holds != (full || chunk.is_some_and(|chunk| !chunk.is_empty())) {
                return Err(Inconsistency::Summary { level: 3 });
            }
            // What a full one has of words counts for nothing, and is to be wiped by its summaries one day.
            chunk.map_or(Ok(()), |chunk| chunk.self_check(bits))?;
            actual += match chunk {
                _ if full => bits,
                Some(chunk) => chunk.ones(),
                None => 0,
            };
        }
        if let Some(level) = self.present.defect().or_else(|| self.full.defect()) {
            return Err(Inconsistency::Summary { level: 3 + level });
        }
        match self.ones.known() {
            Some(cached) if cached != actual => Err(Inconsistency::Count { cached, actual }),
            Some(_) | None => Ok(()),
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
