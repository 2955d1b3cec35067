//! A served disk with its dirty bitmap: how its tracking begins, and how it ends. The views that it keeps between runs, and
//! lends to them: `tracked/views.rs`.
//!
//! With a tracking store the views are sets of it as well. A set that the catalogue names goes on recording until the
//! catalogue names another: whatever kills the process, the sets that are named have every write.

mod views;

use std::fmt;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cohort_bitmap::store::{Inspection, Mode, StoreError};
use cohort_bitmap::{DirtyBitmap, Granularity, SizeError, View};
use cohort_block::{
    CloseError, Device, DeviceError, Gated, ImageFile, TrackingError, TrackingStore,
};

pub(crate) use self::views::{AdoptError, Borrowed, Views};
use crate::catalogue::DiskName;
use crate::stored::{Stored, Unproven};

/// A disk that this process serves, with its dirty bitmap.
///
/// Everybody writes through [`gated`](Self::gated), and one value lives as long as the disk is served: it holds
/// the views between runs. In a new process the first run finds the changes by comparing the disk with its last
/// point, while writes go on and are recorded; unless the disk has a tracking store, out of which its views are
/// [resumed](Self::resume).
pub struct Tracked {
    name: DiskName,
    gated: Arc<Gated>,
    granularity: Granularity,
    stored: Option<Stored>,
    state: Mutex<State>,
}

enum State {
    Idle(Option<Box<Views>>),
    /// A run has the views.
    Busy,
}

/// How long writes under way may take to end when what records is exchanged. They wait for nothing but their disk.
const GATE_WAIT: Duration = Duration::from_secs(1);

/// Why a disk cannot be tracked with the store that it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// It has too many granules.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store beside the disk cannot be made or opened.
    #[error(transparent)]
    Beside(#[from] TrackingError),
    /// Writes to the disk would not end.
    #[error(transparent)]
    Gate(#[from] CloseError),
}

/// Why a disk's tracking could not be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UntrackError {
    /// A run is using it.
    #[error("disk {0} is being backed up: its tracking can be closed once the run has ended")]
    Busy(DiskName),
    /// Writes to the disk would not end.
    #[error(transparent)]
    Gate(#[from] CloseError),
    /// The disk could not be flushed.
    #[error(transparent)]
    Flush(#[from] DeviceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] TrackingError),
}

impl Tracked {
    /// Tracks `gated` in granules of 64 KiB.
    ///
    /// # Errors
    /// The disk is too large.
    pub fn new(name: DiskName, gated: Arc<Gated>) -> Result<Arc<Self>, SizeError> {
        Self::with_granularity(name, gated, Granularity::DEFAULT)
    }

    /// Tracks `gated` in granules of this size.
    ///
    /// # Errors
    /// The disk has too many such granules.
    pub fn with_granularity(
        name: DiskName,
        gated: Arc<Gated>,
        granularity: Granularity,
    ) -> Result<Arc<Self>, SizeError> {
        DirtyBitmap::new(gated.size(), granularity)?;
        Ok(Arc::new(Self::with(name, gated, granularity, None)))
    }

    /// Tracks `gated` in granules of 64 KiB, with views that outlive this process: in `store`, which is new and lies at
    /// `path`. From the first backup on they have every write that passes the gate.
    ///
    /// # Errors
    /// [`TrackError::Size`].
    pub fn stored(
        name: DiskName,
        gated: Arc<Gated>,
        path: &Path,
        store: TrackingStore,
    ) -> Result<Arc<Self>, TrackError> {
        Self::over(name, gated, path, store, None, Unproven::Compare)
    }

    /// As [`stored`](Self::stored), with a store that was there, opened just now, and what was found in it. To be called
    /// before anybody writes to the disk: what was recorded goes on being recorded from here on.
    ///
    /// After a clean close the views are exact; after a kill they are a superset with a bound on the excess, and whether
    /// to go by them is for `unproven` to say.
    ///
    /// # Errors
    /// [`TrackError`].
    pub fn resume(
        name: DiskName,
        gated: Arc<Gated>,
        path: &Path,
        store: TrackingStore,
        found: &Inspection,
        unproven: Unproven,
    ) -> Result<Arc<Self>, TrackError> {
        Self::over(name, gated, path, store, Some(found), unproven)
    }

    /// As [`resume`](Self::resume) with the store beside the file of `image`, which is made if it is not there: for who
    /// serves the disk in it, from before the first write on.
    ///
    /// As long as no directory has a set of its own in that store, one of nobody's records, so that the store always says
    /// what was written since the disk was first served.
    ///
    /// # Errors
    /// [`TrackError`]; then nothing records, and the store will find that out from the disk's stamp.
    pub fn beside(
        name: DiskName,
        gated: Arc<Gated>,
        image: &ImageFile,
        mode: Mode,
    ) -> Result<Arc<Self>, TrackError> {
        let (path, size) = (TrackingStore::path_beside(image.path()), gated.size());
        DirtyBitmap::new(size, Granularity::DEFAULT)?;
        let (store, found) = if path.exists() {
            let (store, found) = TrackingStore::open_for(&path, image, size, mode)?;
            (store, Some(found))
        } else {
            let store = TrackingStore::create(&path, image.path(), size, mode)?;
            (store, None)
        };
        let stored = Stored::new(&path, store, found.as_ref(), Unproven::Compare)?;
        stored.tend_nobodys(&name)?;
        Self::installed(name, gated, stored)
    }

    fn over(
        name: DiskName,
        gated: Arc<Gated>,
        path: &Path,
        store: TrackingStore,
        found: Option<&Inspection>,
        unproven: Unproven,
    ) -> Result<Arc<Self>, TrackError> {
        DirtyBitmap::new(gated.size(), Granularity::DEFAULT)?;
        let stored = Stored::new(path, store, found, unproven)?;
        Self::installed(name, gated, stored)
    }

    /// Has everything that records record the disk's writes.
    fn installed(
        name: DiskName,
        gated: Arc<Gated>,
        stored: Stored,
    ) -> Result<Arc<Self>, TrackError> {
        let mut closed = gated.close("tracking", Instant::now() + GATE_WAIT)?;
        for recording in stored.recordings() {
            closed.install_recording(recording);
        }
        drop(closed);
        Ok(Arc::new(Self::with(
            name,
            gated,
            Granularity::DEFAULT,
            Some(stored),
        )))
    }

    fn with(
        name: DiskName,
        gated: Arc<Gated>,
        granularity: Granularity,
        stored: Option<Stored>,
    ) -> Self {
        Tracked {
            name,
            gated,
            granularity,
            stored,
            state: Mutex::new(State::Idle(None)),
        }
    }

    /// Ends tracking, with views that are exact in the store if there is one. To be called once nobody writes to the disk
    /// any more: what is written later is in no view, and the store will know that from the disk's stamp.
    ///
    /// # Errors
    /// [`UntrackError`]; a store that is not closed is as after a kill.
    pub fn close(&self) -> Result<(), UntrackError> {
        match self.end()? {
            Some(store) => Ok(store.close()?),
            None => Ok(()),
        }
    }

    /// As [`close`](Self::close), and leaves closing the store to the caller: for a disk whose image is written to when it
    /// is closed, as one with bitmaps of QEMU's is. The store is closed after that, with the disk's last stamp, and while
    /// the image is still locked.
    ///
    /// # Errors
    /// [`UntrackError`].
    pub fn end(&self) -> Result<Option<TrackingStore>, UntrackError> {
        let before = mem::replace(&mut *self.lock(), State::Busy);
        if matches!(before, State::Busy) {
            return Err(UntrackError::Busy(self.name.clone()));
        }
        let ended = self.end_recording();
        *self.lock() = match ended {
            Ok(_) => State::Idle(None),
            Err(_) => before,
        };
        ended
    }

    fn end_recording(&self) -> Result<Option<TrackingStore>, UntrackError> {
        let Some(stored) = &self.stored else {
            return Ok(None);
        };
        let recordings = stored.recordings();
        let mut closed = self
            .gated
            .close("the end of tracking", Instant::now() + GATE_WAIT)?;
        for recording in &recordings {
            closed.remove_recording(recording);
        }
        drop(closed);
        self.gated.flush()?;
        Ok(stored.take())
    }

    /// What the disk is called.
    pub fn name(&self) -> &DiskName {
        &self.name
    }

    /// The disk, to be read and written by whoever uses it.
    pub fn gated(&self) -> &Arc<Gated> {
        &self.gated
    }

    /// What is dirty against the last point, as far as that is known now; nothing while a run has the bitmap.
    pub fn dirty(&self) -> Option<DirtyBitmap> {
        match &*self.lock() {
            State::Idle(Some(views)) => Some(views.settled.point().snapshot()),
            State::Idle(None) | State::Busy => None,
        }
    }

    /// What is dirty against the partial, if one is kept.
    pub fn dirty_against_partial(&self) -> Option<DirtyBitmap> {
        match &*self.lock() {
            State::Idle(Some(views)) => views.settled.partial().map(View::snapshot),
            State::Idle(None) | State::Busy => None,
        }
    }

    pub(crate) fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The disk's tracking store.
    pub(crate) fn store(&self) -> Option<&Stored> {
        self.stored.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked")
            .field("name", &self.name)
            .field("gated", &self.gated)
            .finish_non_exhaustive()
    }
}
