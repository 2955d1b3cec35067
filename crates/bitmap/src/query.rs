//! Asking a bitmap: the next dirty or clean byte, the next dirty area, how far a stretch goes.

use crate::{DirtyBitmap, RangeError, Run};

/// A stretch of bytes that are all dirty or all clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whether these bytes lie in dirty granules.
    pub dirty: bool,
    /// How many bytes, at least 1.
    pub length: u64,
}

impl Stretch {
    /// What is true of two sets together, if these are true of each from the same byte on.
    #[must_use]
    pub fn joined(self, other: Stretch) -> Stretch {
        let length = match (self.dirty, other.dirty) {
            (true, true) => self.length.max(other.length),
            (true, false) => self.length,
            (false, true) => other.length,
            (false, false) => self.length.min(other.length),
        };
        Stretch {
            dirty: self.dirty || other.dirty,
            length,
        }
    }
}

impl DirtyBitmap {
    /// The first dirty byte of `start..start + length`, cut at the end of the disk: `start` itself
    /// if it lies in a dirty granule. A `length` of `u64::MAX` means "to the end".
    pub fn next_dirty(&self, start: u64, length: u64) -> Option<u64> {
        let end = self.clipped_end(start, length)?;
        let granule = self.levels.next_one(self.granule(start))?;
        Some(self.offset(granule).max(start)).filter(|&offset| offset < end)
    }

    /// The first clean byte of `start..start + length`, cut at the end of the disk; the mirror
    /// image of [`next_dirty`](Self::next_dirty).
    pub fn next_zero(&self, start: u64, length: u64) -> Option<u64> {
        let end = self.clipped_end(start, length)?;
        let granule = self.levels.next_zero(self.granule(start));
        Some(self.offset(granule).max(start)).filter(|&offset| offset < end)
    }

    /// The first run of dirty bytes in `start..end`, cut at the end of the disk and to at most
    /// `max_length` bytes. Not aligned where the arguments are not.
    pub fn next_dirty_area(&self, start: u64, end: u64, max_length: u64) -> Option<Run> {
        let end = end.min(self.size());
        let offset = self.next_dirty(start, end.checked_sub(start)?)?;
        let run_end = self
            .offset(self.levels.next_zero(self.granule(offset)))
            .min(end);
        let length = (run_end - offset).min(max_length);
        (length > 0).then_some(Run { offset, length })
    }

    /// Whether the byte at `start` is dirty, and for how many bytes, at most `length`, that stays so.
    ///
    /// # Errors
    /// [`RangeError::PastEnd`] if the range is not inside the disk, [`RangeError::Empty`] if its
    /// length is 0.
    pub fn status(&self, start: u64, length: u64) -> Result<Stretch, RangeError> {
        let end = self.checked_end(start, length)?;
        if length == 0 {
            return Err(RangeError::Empty { offset: start });
        }
        let dirty = self.get(start);
        let other = if dirty {
            self.next_zero(start, length)
        } else {
            self.next_dirty(start, length)
        };
        Ok(Stretch {
            dirty,
            length: other.unwrap_or(end) - start,
        })
    }

    /// The end of a range that may reach past the disk; `None` if nothing of it is inside.
    fn clipped_end(&self, start: u64, length: u64) -> Option<u64> {
        Some(start.saturating_add(length).min(self.size())).filter(|&end| start < end)
    }
}
