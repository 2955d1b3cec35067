//! A device that shows one instant, kept by somebody else, who also knows what changed before it: a running machine.

use std::fmt;
use std::iter;

use cohort_bitmap::DirtyBitmap;

use crate::catalogue::{Contents, DiskName, RunId};
use crate::offline_store::KnownChanges;

/// Who keeps the instant that a device shows, and the bitmaps that speak of earlier ones.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// What may differ between the instant of the point that run `anchor` took of this disk and the one that is shown now.
    ///
    /// # Errors
    /// Why that is not known. The disk is then compared with the point.
    fn changes(&self, anchor: RunId) -> Result<DirtyBitmap, String>;

    /// Whether all that was read until now is of that instant. Asked when the copy is complete.
    ///
    /// # Errors
    /// Why it may not be. The disk then fails.
    fn kept(&self) -> Result<(), String>;
}

/// What a keeper says of the changes since the anchor, and what the anchor lacks besides.
pub(crate) fn changes(
    keeper: &dyn Keeper,
    contents: &Contents,
    disk: &DiskName,
    size: u64,
    anchor: Option<RunId>,
) -> Result<KnownChanges, String> {
    let none = "the disk has no point yet";
    let anchor = anchor.ok_or(none)?;
    let point = contents.point(disk, anchor).ok_or(none)?;
    let mut dirty = keeper.changes(anchor)?;
    if dirty.size() != size {
        let spoken = dirty.size();
        return Err(format!(
            "its bitmap speaks of {spoken} bytes, the disk has {size}"
        ));
    }
    let lacking = point.skipped.iter();
    let lacking = lacking.map(|range| range.offset..range.offset.saturating_add(range.length));
    // A machine leaves what a disk grew by clean.
    for range in lacking.chain(iter::once(point.size..size)) {
        let (start, end) = (range.start.min(size), range.end.min(size));
        if start < end {
            dirty
                .set(start, end - start)
                .expect("the range was cut to the disk");
        }
    }
    Ok(KnownChanges::from_bits(dirty))
}
