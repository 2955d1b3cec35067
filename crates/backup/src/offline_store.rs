//! Going by the tracking store of a disk that nobody serves now.
//!
//! Nobody writes to the disk during the run, or the run fails: so the sets that the catalogue names stay true until the
//! verdict, which names a new, empty one. A store that was closed, and whose stamp is still the disk's, is gone by
//! without asking. Where no stamp can tell that nobody wrote past the store it is for the user to say: to name the store is to
//! say so.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_bitmap::store::{Excess, Owner, SetId};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{Image, Stamp, TrackingError, TrackingStore};

use crate::catalogue::{Anchor, Catalogue, Contents, DiskName, RunId, Tracking};
use crate::stored::{Stored, Unproven, anchored_at};

/// The store of an image, open.
#[derive(Debug)]
pub(crate) struct OfflineStore {
    path: PathBuf,
    stored: Stored,
    /// Whether the user named it, and did not only leave it beside the disk.
    named: bool,
    image: Arc<Image>,
    /// What the image's files were like before the store was opened.
    before: Vec<Option<Stamp>>,
}

/// What an image's store says of the point that it is to be compared with.
#[derive(Clone, Debug)]
pub(crate) struct KnownChanges {
    dirty: DirtyBitmap,
    /// The sets that say it.
    sets: Vec<SetId>,
    /// By how much they say too much.
    pub(crate) excess: Excess,
    /// Why nobody can show that no write is missing, if nobody can.
    pub(crate) unproven: Option<String>,
}

impl OfflineStore {
    /// Opens the store at `path`, which must be that of the image. `named` says whether the user did.
    pub(crate) fn open(
        path: &Path,
        named: bool,
        image: &Arc<Image>,
        before: &[Option<Stamp>],
    ) -> Result<Self, TrackingError> {
        let (disk, size) = (image.files()[0].path(), image.device().size());
        let mode = TrackingStore::inspect(path, None)?.inspection.mode;
        let (store, found) = TrackingStore::open(path, disk, size, mode)?;
        let stored = Stored::new(path, store, Some(&found), Unproven::Use);
        Ok(OfflineStore {
            path: path.into(),
            named,
            stored: stored.map_err(|source| TrackingError::Store {
                path: path.into(),
                source,
            })?,
            image: image.clone(),
            before: before.to_vec(),
        })
    }

    /// What changed since the disk's anchor, or why the store does not say.
    pub(crate) fn changes(
        &self,
        contents: &Contents,
        disk: &DiskName,
        anchor: Option<RunId>,
    ) -> Result<KnownChanges, String> {
        let rows = contents.views.get(disk);
        let view = rows.and_then(|rows| rows.point.as_ref());
        let view = view
            .filter(|view| anchored_at(view) == anchor)
            .ok_or("the disk has no point yet")?;
        let view = self.stored.bits(view)?;
        Ok(KnownChanges {
            dirty: view.bits,
            sets: view.sets,
            excess: view.excess,
            unproven: view.unproven,
        })
    }

    /// Whether the user named it.
    pub(crate) fn is_named(&self) -> bool {
        self.named
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The view that stands once the point does. `known` says the one before, which goes on if the point is not the
    /// `new` anchor.
    pub(crate) fn after_commit(
        &self,
        owner: &Owner,
        disk: &DiskName,
        new: bool,
        known: Option<&KnownChanges>,
        skipped: &DirtyBitmap,
    ) -> Tracking {
        let sets = if new {
            self.begin(owner, disk, skipped)
        } else {
            known.map(|known| known.sets.clone())
        };
        self.stored.tracking(sets.as_deref())
    }

    fn begin(&self, owner: &Owner, disk: &DiskName, skipped: &DirtyBitmap) -> Option<Vec<SetId>> {
        let since = self.stored.prepare(owner, disk, Granularity::DEFAULT);
        let since = since.ok()?.set();
        if skipped.is_empty() {
            return Some(vec![since]);
        }
        let skipped = self.stored.write_fixed(owner, disk, skipped).ok()?;
        Some(vec![skipped, since])
    }

    /// Drops the sets that the catalogue no longer names, and closes the store as exact as it was, if the image is what
    /// it was.
    pub(crate) fn close(&self, catalogue: &Catalogue) -> Result<(), String> {
        if let Ok(contents) = catalogue.snapshot() {
            let garbage = self.stored.garbage(&contents);
            self.stored.drop_sets(&garbage)?;
        }
        self.close_unchanged().map_err(|error| error.to_string())
    }

    fn close_unchanged(&self) -> Result<(), TrackingError> {
        let now = self.image.stamps().ok();
        if now.as_ref() != Some(&self.before) {
            // Left as after a kill: the next to open it is told that it proves nothing.
            return Ok(());
        }
        self.stored.close()
    }
}

impl fmt::Display for OfflineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.stored, f)
    }
}

/// A run that never began leaves the store as it found it.
impl Drop for OfflineStore {
    fn drop(&mut self) {
        if let Err(error) = self.close_unchanged() {
            tracing::warn!(%error, "a tracking store is left as after a kill");
        }
    }
}

impl KnownChanges {
    /// Exact, and from no store.
    pub(crate) fn from_bits(dirty: DirtyBitmap) -> Self {
        KnownChanges {
            dirty,
            sets: Vec::new(),
            excess: Excess(0),
            unproven: None,
        }
    }

    /// What is to be copied, in clusters.
    ///
    /// # Errors
    /// Too many clusters.
    pub(crate) fn in_clusters(
        &self,
        cluster: Granularity,
    ) -> Result<DirtyBitmap, cohort_bitmap::SizeError> {
        self.dirty.at_granularity(cluster)
    }
}

/// The path of the store that the catalogue names for a disk's last point.
pub(crate) fn named_store<'a>(
    contents: &'a Contents,
    disk: &DiskName,
    anchor: Option<RunId>,
) -> Option<&'a str> {
    let view = contents.views.get(disk)?.point.as_ref()?;
    let of_anchor = view.anchor == Anchor::Point(anchor?);
    let set = view.tracking.sets.first().filter(|_| of_anchor)?;
    Some(&set.store)
}
