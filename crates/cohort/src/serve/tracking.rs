//! The tracking store of a served disk, from before its first write to after its last.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use cohort_backup::catalogue::DiskName;
use cohort_backup::{TrackError, Tracked, UntrackError};
use cohort_bitmap::store::Mode;
use cohort_block::{Gated, Image, ImageFile, TrackingStore};

/// A disk's writes are recorded in the store beside it.
#[derive(Debug)]
pub(crate) struct Tracking {
    tracked: Arc<Tracked>,
    mode: Mode,
    /// The disk's own file, and those beneath it: locked as long as they are held here, so that nobody writes between
    /// the end of the disk and that of its store.
    files: Vec<ImageFile>,
}

/// A store of which the disk is about to be closed.
#[derive(Debug)]
pub(crate) struct Ending {
    disk: Weak<Gated>,
    store: TrackingStore,
    files: Vec<ImageFile>,
}

impl Tracking {
    /// Records the writes to `disk`, which is that of `image`, from now on.
    ///
    /// # Errors
    /// The store can be neither opened nor made.
    pub(crate) fn begin(
        name: DiskName,
        disk: &Arc<Gated>,
        image: &Image,
        mode: Mode,
    ) -> Result<Self, TrackError> {
        let files = image.files().to_vec();
        let tracked = Tracked::beside(name, disk.clone(), &files[0], mode)?;
        Ok(Tracking {
            tracked,
            mode,
            files,
        })
    }

    /// The disk and what is known of its changes.
    pub(crate) fn tracked(&self) -> &Arc<Tracked> {
        &self.tracked
    }

    /// Where the store is.
    pub(crate) fn path(&self) -> PathBuf {
        TrackingStore::path_beside(self.disk_path())
    }

    /// What the store survives.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Flushes the disk and records no more. The store is closed when the disk has been.
    pub(crate) fn end(&self) -> Result<Option<Ending>, UntrackError> {
        let store = self.tracked.end()?;
        Ok(store.map(|store| Ending {
            disk: Arc::downgrade(self.tracked.gated()),
            store,
            files: self.files.clone(),
        }))
    }

    fn disk_path(&self) -> &Path {
        self.files[0].path()
    }
}

impl Ending {
    /// Whether somebody still has the disk.
    pub(crate) fn waits(&self) -> bool {
        self.disk.strong_count() > 0
    }

    /// Closes the store with the disk's last stamp. Says why it is left as after a kill, if it is.
    pub(crate) fn close(self) -> Result<(), String> {
        let disk = self.files[0].path().display();
        if self.waits() {
            return Err(format!("{disk} is still in use"));
        }
        self.store.close().map_err(|error| error.to_string())
    }
}
