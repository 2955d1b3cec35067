//! `Recorder`: a set that many threads mark at once, and that only ever grows.

use std::fmt;

use self::marks::Marks;
use crate::{DirtyBitmap, Granularity, SizeError, Stretch, bitmap::checked_granules, sync::Arc};

mod marks;
mod seek;

/// Records writes from many threads. Clones share one set.
///
/// It only ever grows: nothing clears it, so a reader can miss at most what was being marked while
/// it read. To begin anew, make a new recorder and install it in this one's place while no writer
/// is between its mark and its data (see [`View::split`](crate::View::split)).
///
/// A mark that happened before a read (in the memory model's sense) is seen by that read. Marking
/// what is marked already writes nothing, so hot granules cost their writers no cache line: two loads
/// (three above 2^32 granules). Memory is taken for what is marked: 33 KiB for each 2^18 granules of
/// which some are, nothing where none or all are that were marked at once.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    size: u64,
    granularity: Granularity,
    marks: Marks,
}

impl Recorder {
    /// An empty recorder over `size` bytes.
    ///
    /// # Errors
    /// [`SizeError`] as for [`DirtyBitmap::new`].
    pub fn new(size: u64, granularity: Granularity) -> Result<Recorder, SizeError> {
        let granules = checked_granules(size, granularity)?;
        Ok(Recorder::of_granules(size, granularity, granules))
    }

    /// An empty recorder over the disk that `bitmap` speaks of.
    pub fn like(bitmap: &DirtyBitmap) -> Recorder {
        Recorder::of_granules(bitmap.size(), bitmap.granularity(), bitmap.granules())
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.shared.size
    }

    /// Bytes per bit.
    pub fn granularity(&self) -> Granularity {
        self.shared.granularity
    }

    /// Whether the two are clones of one another.
    pub fn same(&self, other: &Recorder) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether there is another clone of it. Without one nobody else will ever look at what it marks.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Marks every granule that `offset..offset + length` touches. What lies past the end of the
    /// disk is ignored: such a write fails, or belongs to an area that
    /// [`View::resize`](crate::View::resize) marks whole.
    #[inline]
    pub fn mark(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.shared.size);
        if offset >= end {
            return;
        }
        let shift = self.shared.granularity.shift();
        self.shared
            .marks
            .set_through(offset >> shift, (end - 1) >> shift);
    }

    /// Whether the byte at `offset` lies in a marked granule; past the end nothing is.
    #[inline]
    pub fn get(&self, offset: u64) -> bool {
        offset < self.shared.size
            && self
                .shared
                .marks
                .get(offset >> self.shared.granularity.shift())
    }

    /// Whether the byte at `start` lies in a marked granule, and for how many bytes at least, at most `length`, that stays
    /// so: what follows may be the same again. Nothing for an empty range, or past the end.
    ///
    /// A mark that happened before this call is seen; one made meanwhile may be.
    pub fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        let end = start.saturating_add(length).min(self.shared.size);
        if start >= end {
            return None;
        }
        let shift = self.shared.granularity.shift();
        let (dirty, until) = self.shared.marks.stretch(start >> shift);
        let until = until.checked_mul(self.shared.granularity.bytes());
        Some(Stretch {
            dirty,
            length: until.unwrap_or(end).min(end) - start,
        })
    }

    /// Whether nothing was marked so far.
    pub fn is_empty(&self) -> bool {
        self.shared.marks.is_empty()
    }

    /// How many granules were marked so far. Counts them: no number is kept that markers would have to share.
    pub fn marked_granules(&self) -> u64 {
        self.shared.marks.ones()
    }

    /// What was marked so far. Marks made meanwhile may be in it or not.
    pub fn snapshot(&self) -> DirtyBitmap {
        DirtyBitmap::with_levels(
            self.shared.size,
            self.shared.granularity,
            self.shared.marks.copied(),
        )
    }

    fn of_granules(size: u64, granularity: Granularity, granules: u64) -> Recorder {
        Recorder {
            shared: Arc::new(Shared {
                size,
                granularity,
                marks: Marks::new(granules),
            }),
        }
    }
}

/// The shape only: a set that others are marking has no stable content.
impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("size", &self.shared.size)
            .field("granularity", &self.shared.granularity)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_models;
