//! What a disk's views must say, kept by sets of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cohort_bitmap::DirtyBitmap;

/// Granules, by number.
pub(super) type Set = BTreeSet<u64>;

/// What is known of one disk. Clones are the same book.
#[derive(Clone, Debug)]
pub(super) struct Book {
    granule: u64,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    /// Written since the last fence of this disk.
    pub(super) since: Set,
    /// Dirty against the point at that fence; none if that was found by a comparison, or is not known yet.
    pub(super) point: Option<Set>,
    /// Dirty against the partial at that fence, if there is a partial and it is known.
    pub(super) partial: Option<Set>,
    /// What the disk held at its last fence.
    pub(super) fence: Option<Vec<u8>>,
    /// What it held at the last fence before each run ended, well or not.
    pub(super) fences: BTreeMap<u64, Vec<u8>>,
    /// What it held at the fence of each run that took a point of it.
    pub(super) points: BTreeMap<u64, Vec<u8>>,
}

impl Book {
    pub(super) fn new(granule: u64) -> Self {
        Self {
            granule,
            pages: Arc::default(),
        }
    }

    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write passed the gate.
    pub(super) fn mark(&self, offset: u64, length: u64) {
        if length > 0 {
            let last = (offset + length - 1) / self.granule;
            self.pages().since.extend(offset / self.granule..=last);
        }
    }

    /// The gate is closed: what was since is part of the base.
    pub(super) fn fence(&self, bytes: Vec<u8>) {
        let mut pages = self.pages();
        let since = std::mem::take(&mut pages.since);
        let pages = &mut *pages;
        for base in [&mut pages.point, &mut pages.partial].into_iter().flatten() {
            base.extend(&since);
        }
        pages.fence = Some(bytes);
    }

    /// A process began that knows nothing of what the last one knew.
    pub(super) fn forget(&self) {
        let mut pages = self.pages();
        pages.point = None;
        pages.partial = None;
    }

    pub(super) fn granule(&self) -> u64 {
        self.granule
    }
}

/// The granules of a bitmap.
pub(super) fn set_of(bitmap: &DirtyBitmap) -> Set {
    let granule = bitmap.granularity().bytes();
    bitmap
        .dirty_offsets()
        .map(|offset| offset / granule)
        .collect()
}
