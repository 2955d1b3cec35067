//! `Recorder`: a set that many threads mark at once, and that only ever grows.

use std::fmt;

use crate::{
    DirtyBitmap, Granularity, SizeError,
    bitmap::checked_granules,
    levels::{WORD_BITS, mask, shape},
    sync::{Arc, AtomicU64, Ordering},
};

/// Records writes from many threads. Clones share one set.
///
/// It only ever grows: nothing clears it, so a reader can miss at most what was being marked while
/// it read. To begin anew, make a new recorder and install it in this one's place while no writer
/// is between its mark and its data (see [`View::split`](crate::View::split)).
///
/// A mark that happened before a read (in the memory model's sense) is seen by that read. Marking
/// what is marked already writes nothing, so hot granules cost their writers no cache line.
#[derive(Clone)]
pub struct Recorder {
    marks: Arc<Marks>,
}

struct Marks {
    size: u64,
    granularity: Granularity,
    /// `levels[0]` are the leaves. A set leaf bit implies set summary bits above it, at any moment:
    /// setters go top-down.
    levels: Vec<Vec<AtomicU64>>,
}

impl Recorder {
    /// An empty recorder over `size` bytes.
    ///
    /// # Errors
    /// [`SizeError`] as for [`DirtyBitmap::new`].
    pub fn new(size: u64, granularity: Granularity) -> Result<Recorder, SizeError> {
        Ok(Recorder::of_granules(
            size,
            granularity,
            checked_granules(size, granularity)?,
        ))
    }

    /// An empty recorder over the disk that `bitmap` speaks of.
    pub fn like(bitmap: &DirtyBitmap) -> Recorder {
        Recorder::of_granules(bitmap.size(), bitmap.granularity(), bitmap.granules())
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.marks.size
    }

    /// Bytes per bit.
    pub fn granularity(&self) -> Granularity {
        self.marks.granularity
    }

    /// Whether the two are clones of one another.
    pub fn same(&self, other: &Recorder) -> bool {
        Arc::ptr_eq(&self.marks, &other.marks)
    }

    /// Marks every granule that `offset..offset + length` touches. What lies past the end of the
    /// disk is ignored: such a write fails, or belongs to an area that
    /// [`View::resize`](crate::View::resize) marks whole.
    pub fn mark(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.marks.size);
        if offset >= end {
            return;
        }
        let (from, to) = (
            offset >> self.marks.granularity.shift(),
            self.marks.granularity.granules(end),
        );
        for word in from / WORD_BITS..to.div_ceil(WORD_BITS) {
            self.marks.set_in_leaf(word, mask(word, from, to));
        }
    }

    /// Whether the byte at `offset` lies in a marked granule; past the end nothing is.
    pub fn get(&self, offset: u64) -> bool {
        let granule = offset >> self.marks.granularity.shift();
        offset < self.marks.size
            && self.marks.word(0, granule / WORD_BITS) >> (granule % WORD_BITS) & 1 == 1
    }

    /// Whether nothing was marked so far.
    pub fn is_empty(&self) -> bool {
        self.marks
            .levels
            .last()
            .is_none_or(|top| top.iter().all(|word| word.load(Ordering::Acquire) == 0))
    }

    /// What was marked so far. Marks made meanwhile may be in it or not.
    pub fn snapshot(&self) -> DirtyBitmap {
        let mut leaves = vec![0; self.marks.levels[0].len()];
        self.marks
            .copy_below(self.marks.levels.len() - 1, 0, &mut leaves);
        DirtyBitmap::from_leaves(self.marks.size, self.marks.granularity, leaves)
    }

    fn of_granules(size: u64, granularity: Granularity, granules: u64) -> Recorder {
        let levels = shape(granules)
            .map(|words| (0..words).map(|_| AtomicU64::new(0)).collect())
            .collect();
        Recorder {
            marks: Arc::new(Marks {
                size,
                granularity,
                levels,
            }),
        }
    }
}

impl Marks {
    /// Sets `bits` of a leaf word, summaries first.
    ///
    /// Who finds a summary set looks at the next one all the same, so for summaries the order of
    /// each single word suffices. Who finds the *leaf* set looks no further: so the leaf is stored
    /// with release and found with acquire, and its summaries are passed on to whoever this setter
    /// tells of its write, though it never touched them.
    fn set_in_leaf(&self, leaf: u64, bits: u64) {
        if self.word(0, leaf) & bits == bits {
            return;
        }
        for level in (1..self.levels.len()).rev() {
            let below = leaf >> (WORD_BITS.ilog2() as usize * (level - 1));
            let (word, bit) = (below / WORD_BITS, 1 << (below % WORD_BITS));
            if self.word(level, word) & bit == 0 {
                self.levels[level][word as usize].fetch_or(bit, Ordering::Relaxed);
            }
        }
        self.levels[0][leaf as usize].fetch_or(bits, Ordering::Release);
    }

    /// Copies the leaves below one word, following the summaries.
    fn copy_below(&self, level: usize, word: u64, leaves: &mut [u64]) {
        let mut bits = self.word(level, word);
        if level == 0 {
            leaves[word as usize] = bits;
            return;
        }
        while bits != 0 {
            self.copy_below(
                level - 1,
                word * WORD_BITS + u64::from(bits.trailing_zeros()),
                leaves,
            );
            bits &= bits - 1;
        }
    }

    fn word(&self, level: usize, word: u64) -> u64 {
        self.levels[level][word as usize].load(Ordering::Acquire)
    }
}

/// The shape only: a set that others are marking has no stable content.
impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("size", &self.marks.size)
            .field("granularity", &self.marks.granularity)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_models;
