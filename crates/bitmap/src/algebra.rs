//! Bitmaps with bitmaps: union, intersection, difference, and what changes with the granularity.
//!
//! Between granularities everything rounds to the safe side: a granule becomes dirty if any of its
//! bytes is, and is cleared only if all of them are to be. So going through a coarser bitmap and
//! back inflates; never do it where precision matters.

use std::borrow::Cow;

use thiserror::Error;

use crate::{DirtyBitmap, Granularity, SizeError};

impl DirtyBitmap {
    /// Adds what is dirty in `other` (`self ∪ other`). A coarser `other` marks every granule that
    /// its granules cover, a finer one every granule that its granules touch.
    ///
    /// # Errors
    /// [`SizeMismatch`] if the two speak of disks of different size; nothing was changed.
    pub fn merge(&mut self, other: &DirtyBitmap) -> Result<(), SizeMismatch> {
        self.check_size(other)?;
        if self.granularity() == other.granularity() {
            self.levels.union(&other.levels);
        } else {
            self.mark_runs_of(other);
        }
        Ok(())
    }

    /// Keeps the granules of which any byte is dirty in `other` (`self ∩ other`).
    ///
    /// # Errors
    /// [`SizeMismatch`] as for [`merge`](Self::merge).
    pub fn intersect(&mut self, other: &DirtyBitmap) -> Result<(), SizeMismatch> {
        self.check_size(other)?;
        let touched = other.touching(self.granularity());
        self.levels.intersect(&touched.levels);
        Ok(())
    }

    /// Clears the granules of which every byte is dirty in `other` (`self \ other`).
    ///
    /// # Errors
    /// [`SizeMismatch`] as for [`merge`](Self::merge).
    pub fn subtract(&mut self, other: &DirtyBitmap) -> Result<(), SizeMismatch> {
        self.check_size(other)?;
        if self.granularity() == other.granularity() {
            self.levels.subtract(&other.levels);
            return Ok(());
        }
        for run in other.runs() {
            let first = self.granularity().granules(run.offset);
            // The end of the disk completes its last granule.
            let end = if run.end() == self.size() {
                self.granules()
            } else {
                self.granule(run.end())
            };
            if first < end {
                self.levels.reset(first, end);
            }
        }
        Ok(())
    }

    /// Keeps the dirty granules for which `keep` holds of **any** unit that they share a byte with.
    /// Units are `unit` bytes each, numbered from 0; only those that touch a dirty granule are
    /// asked about, some perhaps twice.
    pub fn retain(&mut self, unit: Granularity, mut keep: impl FnMut(u64) -> bool) {
        let mut kept = DirtyBitmap::of_shape(self.size(), self.granularity());
        for run in self.runs() {
            for number in run.offset >> unit.shift()..unit.granules(run.end()) {
                if keep(number) {
                    let (start, end) = (number << unit.shift(), (number + 1) << unit.shift());
                    let (start, end) = (start.max(run.offset), end.min(run.end()));
                    kept.levels
                        .set(kept.granule(start), kept.granularity().granules(end));
                }
            }
        }
        *self = kept;
    }

    /// The same set at another granularity, rounded outward.
    ///
    /// # Errors
    /// [`SizeError`] if so fine a granularity takes too many granules.
    pub fn at_granularity(&self, granularity: Granularity) -> Result<DirtyBitmap, SizeError> {
        let mut scaled = DirtyBitmap::new(self.size(), granularity)?;
        scaled.mark_runs_of(self);
        Ok(scaled)
    }

    /// What this set says about a disk of the shape of `shape`: rounded outward, and **dirty**
    /// where it says nothing, past its own end. Cannot fail, because `shape` exists.
    #[must_use]
    pub fn fitted_to(&self, shape: &DirtyBitmap) -> DirtyBitmap {
        self.fitted(shape.size(), shape.granularity())
    }

    /// As [`fitted_to`](Self::fitted_to), for a shape that some bitmap or recorder has already.
    pub(crate) fn fitted(&self, size: u64, granularity: Granularity) -> DirtyBitmap {
        if (self.size(), self.granularity()) == (size, granularity) {
            return self.clone();
        }
        let mut fitted = DirtyBitmap::of_shape(size, granularity);
        fitted.mark_runs_of(self);
        if self.size() < size {
            fitted
                .levels
                .set(fitted.granule(self.size()), fitted.granules());
        }
        fitted
    }

    /// `self` rounded outward to a granularity at which some bitmap of this size exists already.
    fn touching(&self, granularity: Granularity) -> Cow<'_, DirtyBitmap> {
        if self.granularity() == granularity {
            return Cow::Borrowed(self);
        }
        let mut scaled = DirtyBitmap::of_shape(self.size(), granularity);
        scaled.mark_runs_of(self);
        Cow::Owned(scaled)
    }

    /// Marks what is dirty in `other`, rounded outward, as far as this bitmap reaches.
    fn mark_runs_of(&mut self, other: &DirtyBitmap) {
        for run in other.runs_in(0, self.size(), u64::MAX) {
            self.levels.set(
                self.granule(run.offset),
                self.granularity().granules(run.end()),
            );
        }
    }

    fn check_size(&self, other: &DirtyBitmap) -> Result<(), SizeMismatch> {
        if self.size() == other.size() {
            Ok(())
        } else {
            Err(SizeMismatch {
                size: self.size(),
                other: other.size(),
            })
        }
    }
}

/// Two bitmaps speak of disks of different size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("bitmaps of different size cannot be combined: one covers {size} bytes, the other {other}")]
pub struct SizeMismatch {
    /// Bytes of the bitmap to be changed.
    pub size: u64,
    /// Bytes of the other.
    pub other: u64,
}
