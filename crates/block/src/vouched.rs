//! Changes to an image's file that leave the disk in it as it is, beside a tracking store.
//!
//! A store tells by the file's stamp whether somebody wrote to the disk while it was closed. Who changes something else in
//! the file, such as QEMU's bitmaps, changes the stamp as well: he has to vouch for the disk.

use std::path::Path;

use cohort_bitmap::store::Away;

use crate::{TrackingError, TrackingStore};

/// Somebody's word that a file is being changed and the disk in it is not.
///
/// Dropped without [`after`](Self::after), as by a crash, it leaves the store as one that was not closed: what it holds
/// is unproven then, and not lost.
#[derive(Debug)]
#[must_use = "the store is closed by what comes after"]
pub struct Vouched {
    store: Option<TrackingStore>,
}

impl Vouched {
    /// Call it before the change, with the image at `disk` locked; `size` is that of the disk in it. Only a store that
    /// has nothing against the file as it is now is kept in step. One that was not closed does not go by the stamp, and
    /// one that found the disk changed does not trust it any more: both are left as they are.
    ///
    /// # Errors
    /// [`TrackingError::Held`]: a process tracks the disk; the store cannot be opened or written.
    pub fn before(disk: &Path, size: u64) -> Result<Self, TrackingError> {
        let beside = TrackingStore::path_beside(disk);
        // What is no store, or cannot be read, has nothing to lose.
        let looked = TrackingStore::inspect(&beside, Some((disk, size))).ok();
        let Some(looked) = looked.filter(|looked| looked.inspection.away == Away::Unrefuted) else {
            return Ok(Vouched { store: None });
        };
        let (store, found) = TrackingStore::open(&beside, disk, size, looked.inspection.mode)?;
        // Whoever came between: then it is not for us to close it.
        let store = (found.away == Away::Unrefuted).then_some(store);
        Ok(Vouched { store })
    }

    /// Call it after the change, which may have failed, with the image still locked: the store takes the file as it is now.
    ///
    /// # Errors
    /// The store cannot be written; what it holds is unproven then.
    pub fn after(self) -> Result<(), TrackingError> {
        self.store.map_or(Ok(()), TrackingStore::close)
    }
}
