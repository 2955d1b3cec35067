//! `DirtyBitmap`: a set of granules with one owner; its shape, setting, clearing and counting.

use std::fmt;

use thiserror::Error;

use crate::{Granularity, Inconsistency, levels::Levels};

/// Most granules a bitmap may have: 2^40, that is 64 PiB of disk at 64 KiB. Memory is taken only for
/// what was touched.
pub const MAX_GRANULES: u64 = 1 << 40;

/// A set of dirty granules of a disk of a given size.
///
/// All positions are byte offsets, all ranges half-open and given as offset and length. Whoever
/// owns the value may change it; to record from many threads use a [`Recorder`](crate::Recorder).
///
/// Rounding never loses a byte that was written: [`set`](Self::set) rounds outward,
/// [`reset`](Self::reset) refuses to clear part of a granule.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    size: u64,
    granularity: Granularity,
    pub(crate) levels: Levels,
}

impl DirtyBitmap {
    /// A clean bitmap over `size` bytes.
    ///
    /// # Errors
    /// [`SizeError`] if that takes more than [`MAX_GRANULES`], or the size does not fit 63 bits.
    pub fn new(size: u64, granularity: Granularity) -> Result<DirtyBitmap, SizeError> {
        checked_granules(size, granularity)?;
        Ok(DirtyBitmap::of_shape(size, granularity))
    }

    /// A bitmap over `size` bytes with everything dirty.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn all_dirty(size: u64, granularity: Granularity) -> Result<DirtyBitmap, SizeError> {
        let mut bitmap = DirtyBitmap::new(size, granularity)?;
        bitmap.set_all();
        Ok(bitmap)
    }

    /// A clean bitmap of a shape that some bitmap or recorder has already.
    pub(crate) fn of_shape(size: u64, granularity: Granularity) -> DirtyBitmap {
        DirtyBitmap {
            size,
            granularity,
            levels: Levels::new(granularity.granules(size)),
        }
    }

    /// Takes over a hierarchy with the bits of that shape.
    pub(crate) fn with_levels(size: u64, granularity: Granularity, levels: Levels) -> DirtyBitmap {
        DirtyBitmap {
            size,
            granularity,
            levels,
        }
    }

    /// Size of the disk in bytes; need not be a whole number of granules.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes per bit.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// How many granules the disk has, dirty or clean.
    pub fn granules(&self) -> u64 {
        self.levels.bits()
    }

    /// How many granules are dirty. Known at once after single granules were marked and cleared; after a merge or
    /// a long range the words that changed are counted, once.
    pub fn dirty_granules(&self) -> u64 {
        self.levels.ones()
    }

    /// Dirty granules in bytes, **whole** granules even where the disk ends inside the last one,
    /// as QEMU counts: the result may exceed the size of the disk.
    /// [`dirty_bytes`](Self::dirty_bytes) is exact.
    pub fn count(&self) -> u64 {
        self.levels.ones() << self.granularity.shift()
    }

    /// Dirty bytes of the disk; never more than its size.
    pub fn dirty_bytes(&self) -> u64 {
        let past_end = self.count_of_all() - self.size;
        self.count()
            - if self.size > 0 && self.get(self.size - 1) {
                past_end
            } else {
                0
            }
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Whether the byte at `offset` lies in a dirty granule; past the end nothing is dirty.
    #[inline]
    pub fn get(&self, offset: u64) -> bool {
        offset < self.size && self.levels.get(self.granule(offset))
    }

    /// Marks every granule that `offset..offset + length` touches. A length of 0 marks nothing.
    ///
    /// # Errors
    /// [`RangeError::PastEnd`] if the range does not lie inside the disk; nothing was marked.
    #[inline]
    pub fn set(&mut self, offset: u64, length: u64) -> Result<(), RangeError> {
        let end = self.checked_end(offset, length)?;
        if length > 0 {
            self.levels
                .set_through(self.granule(offset), self.granule(end - 1));
        }
        Ok(())
    }

    /// Clears the granules of `offset..offset + length`. A length of 0 clears nothing.
    ///
    /// # Errors
    /// [`RangeError::PastEnd`] as for [`set`](Self::set); [`RangeError::Misaligned`] if the range
    /// does not start on a granule, or ends neither on one nor at the end of the disk: clearing
    /// part of a granule would forget a write. Nothing was cleared.
    pub fn reset(&mut self, offset: u64, length: u64) -> Result<(), RangeError> {
        let end = self.checked_end(offset, length)?;
        let aligned = |position: u64| position & (self.granularity.bytes() - 1) == 0;
        if !aligned(offset) || !(aligned(end) || end == self.size) {
            return Err(RangeError::Misaligned {
                offset,
                length,
                granularity: self.granularity,
            });
        }
        if length > 0 {
            self.levels
                .reset(self.granule(offset), self.granularity.granules(end));
        }
        Ok(())
    }

    /// Marks everything; takes no memory, and gives back what was taken.
    pub fn set_all(&mut self) {
        self.levels.set(0, self.levels.bits());
    }

    /// Clears everything, and gives the memory back.
    pub fn clear(&mut self) {
        self.levels.clear();
    }

    /// Gives the disk another size. Granules past a smaller end are forgotten for good; one that
    /// the new end cuts keeps its bit. What a larger size adds is clean or dirty as `added` says.
    ///
    /// # Errors
    /// [`SizeError`] as for [`new`](Self::new); nothing was changed.
    pub fn resize(&mut self, size: u64, added: Added) -> Result<(), SizeError> {
        let old_size = self.size;
        let granules = checked_granules(size, self.granularity)?;
        self.size = size;
        if granules != self.levels.bits() {
            self.levels.resize(granules);
        }
        match added {
            Added::Dirty if size > old_size => self.levels.set(self.granule(old_size), granules),
            Added::Dirty | Added::Clean => {}
        }
        Ok(())
    }

    /// Checks the structure: count, summaries, no bit past the end.
    ///
    /// # Errors
    /// [`Inconsistency`]: a defect of this crate, whatever was done with the bitmap.
    pub fn self_check(&self) -> Result<(), Inconsistency> {
        if self.levels.bits() != self.granularity.granules(self.size) {
            return Err(Inconsistency::Shape);
        }
        self.levels.self_check()
    }

    /// The number of the granule that holds `offset`.
    #[inline]
    pub(crate) fn granule(&self, offset: u64) -> u64 {
        offset >> self.granularity.shift()
    }

    /// The first byte of a granule, or the end of the disk if that comes first.
    pub(crate) fn offset(&self, granule: u64) -> u64 {
        self.size.min(granule << self.granularity.shift())
    }

    /// The end of a range that must lie inside the disk.
    #[inline]
    pub(crate) fn checked_end(&self, offset: u64, length: u64) -> Result<u64, RangeError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(end),
            Some(_) | None => Err(RangeError::PastEnd {
                offset,
                length,
                size: self.size,
            }),
        }
    }

    fn count_of_all(&self) -> u64 {
        self.levels.bits() << self.granularity.shift()
    }
}

/// Shape and fill, not the bits: a bitmap has too many to print.
impl fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyBitmap")
            .field("size", &self.size)
            .field("granularity", &self.granularity)
            .field("granules", &self.granules())
            .field("dirty", &self.dirty_granules())
            .finish()
    }
}

/// What a disk's growth means for a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The new area counts as never written (QEMU's way: right if the copy also reads zeroes there).
    Clean,
    /// The new area counts as written, with the granule in which the old end lay.
    Dirty,
}

/// How many granules `size` bytes take, within the limits of this crate.
pub(crate) fn checked_granules(size: u64, granularity: Granularity) -> Result<u64, SizeError> {
    let granules = granularity.granules(size);
    if granules <= MAX_GRANULES && size <= i64::MAX as u64 {
        Ok(granules)
    } else {
        Err(SizeError { size, granularity })
    }
}

/// The disk is too large for a bitmap of this granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{size} bytes are too many for a bitmap of {granularity} granules: at most 2^40 granules and 2^63 - 1 bytes"
)]
pub struct SizeError {
    /// Bytes asked for.
    pub size: u64,
    /// Bytes per bit.
    pub granularity: Granularity,
}

/// A range that cannot be marked, cleared or asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The range is not inside the disk.
    #[error("{length} bytes at {offset} do not lie inside {size} bytes")]
    PastEnd {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Size of the disk.
        size: u64,
    },
    /// The range holds only part of a granule where whole ones are needed.
    #[error("{length} bytes at {offset} are not whole granules of {granularity}")]
    Misaligned {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Bytes per bit.
        granularity: Granularity,
    },
    /// The range is empty where something must be said about its first byte.
    #[error("an empty range at {offset} is neither dirty nor clean")]
    Empty {
        /// Where.
        offset: u64,
    },
}
