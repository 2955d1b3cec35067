//! A count that is kept while that is cheap, and counted anew when somebody asks and it is not known.
//!
//! A merge of two dense sets runs at the speed of memory; counting what it gained would take three times as
//! long. So whoever changes many words forgets the count, and who asks next pays for it, once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is added to a forgotten count, or taken off it, is noted from here on: no set has so many members that it
/// leads back to numbers that could be a count. So nobody who adds has to ask whether the count is known.
const UNKNOWN: u64 = 1 << 63;

/// Half way to there.
const KNOWN: u64 = 1 << 62;

/// The number of ones of something, if known. An atomic only so that one who merely looks may remember what
/// he counted: it orders nothing, and two who count at once store the same.
#[derive(Debug)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) const fn of(ones: u64) -> Tally {
        Tally(AtomicU64::new(ones))
    }

    #[inline]
    pub(crate) fn known(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|&ones| ones < KNOWN)
    }

    /// The number, if need be counted by `count`.
    pub(crate) fn or_count(&self, count: impl FnOnce() -> u64) -> u64 {
        self.known().unwrap_or_else(|| {
            let ones = count();
            self.0.store(ones, Relaxed);
            ones
        })
    }

    pub(crate) fn forget(&mut self) {
        *self.0.get_mut() = UNKNOWN;
    }

    /// Adds to a known number; what is not known stays so.
    #[inline]
    pub(crate) fn add(&mut self, gained: u64) {
        *self.0.get_mut() += gained;
    }

    /// Takes off a known number.
    #[inline]
    pub(crate) fn subtract(&mut self, lost: u64) {
        *self.0.get_mut() -= lost;
    }
}

/// Nothing.
impl Default for Tally {
    fn default() -> Tally {
        Tally::of(0)
    }
}

impl Clone for Tally {
    fn clone(&self) -> Tally {
        Tally::of(self.0.load(Relaxed))
    }
}
