//! A served disk and what is known of its changes: the views that a run borrows and gives back.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, SizeError, View};
use cohort_block::{CloseError, Device, Gated};

use crate::catalogue::{DirectoryId, DiskName, ImageName, RunId};
use crate::scan::{ScanError, scan};
use crate::settle::Settled;

/// A disk that this process serves, with its dirty bitmap.
///
/// Everybody writes through [`gated`](Self::gated), and one value lives as long as the disk is served: it holds
/// the views between runs. In a new process the first run finds the changes by comparing the disk with its last
/// point, while writes go on and are recorded.
pub struct Tracked {
    name: DiskName,
    gated: Arc<Gated>,
    granularity: Granularity,
    state: Mutex<State>,
}

enum State {
    Idle(Option<Box<Views>>),
    /// A run has the views.
    Busy,
}

/// The views of a disk between runs. All record through the same recorder, which is installed in the gate.
#[derive(Debug)]
pub(crate) struct Views {
    /// The directory that the anchors are in.
    pub(crate) directory: DirectoryId,
    /// The point that clean bits speak of; without one everything is dirty.
    pub(crate) anchor: Option<RunId>,
    /// The partial that the second view speaks of.
    pub(crate) partial: Option<ImageName>,
    pub(crate) settled: Settled,
}

/// Why a served disk's changes could not be found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Gate(#[from] CloseError),
    #[error(transparent)]
    Scan(#[from] ScanError),
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
        Ok(Arc::new(Tracked {
            name,
            gated,
            granularity,
            state: Mutex::new(State::Idle(None)),
        }))
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

    /// Lends the views to a run. `None` if a run has them.
    pub(crate) fn borrow(self: &Arc<Self>) -> Option<Borrowed> {
        match mem::replace(&mut *self.lock(), State::Busy) {
            State::Idle(views) => Some(Borrowed {
                tracked: Arc::clone(self),
                views: views.map(|views| *views),
                lent: true,
            }),
            State::Busy => None,
        }
    }

    pub(crate) fn give_back(&self, views: Option<Views>) {
        *self.lock() = State::Idle(views.map(Box::new));
    }

    /// A view that says everything is dirty; nothing needs to be recorded for it.
    pub(crate) fn everything(&self) -> View {
        View::new(self.all_dirty())
    }

    /// Every granule of the disk.
    pub(crate) fn all_dirty(&self) -> DirtyBitmap {
        DirtyBitmap::all_dirty(self.gated.size(), self.granularity)
            .expect("the size was checked before")
    }

    /// Finds what differs from each of these references, while writes go on: first every write is recorded,
    /// then the disk is read, so whatever changes after it was read is in the record.
    pub(crate) fn adopt(
        &self,
        old: Option<&Recorder>,
        references: &[&dyn Device],
        wait: Duration,
    ) -> Result<Vec<View>, AdoptError> {
        let recorder = Recorder::new(self.gated.size(), self.granularity)
            .expect("the size was checked before");
        let mut closed = self
            .gated
            .close("the search for changes", Instant::now() + wait)?;
        closed.install_recorder(recorder.clone());
        if let Some(old) = old {
            closed.remove_recorder(old);
        }
        drop(closed);
        let source: &dyn Device = &**self.gated.device();
        let compare = |reference: &&dyn Device| {
            let dirty = scan(source, Some(*reference), self.granularity, 0..source.size())?;
            Ok(View::with_recorder(dirty, recorder.clone()))
        };
        let views = references
            .iter()
            .map(compare)
            .collect::<Result<_, ScanError>>();
        if views.is_err()
            && let Ok(mut closed) = self
                .gated
                .close("the search for changes", Instant::now() + wait)
        {
            closed.remove_recorder(&recorder);
        }
        Ok(views?)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Views that a run has. Dropped, they go back as they are.
#[derive(Debug)]
pub(crate) struct Borrowed {
    tracked: Arc<Tracked>,
    views: Option<Views>,
    lent: bool,
}

impl Borrowed {
    pub(crate) fn tracked(&self) -> &Arc<Tracked> {
        &self.tracked
    }

    pub(crate) fn views(&self) -> Option<&Views> {
        self.views.as_ref()
    }

    /// Replaces what will be given back.
    pub(crate) fn set(&mut self, views: Option<Views>) -> Option<Views> {
        mem::replace(&mut self.views, views)
    }

    /// Takes the views; who has them now gives something back with [`Tracked::give_back`].
    pub(crate) fn take(mut self) -> Option<Views> {
        self.lent = false;
        self.views.take()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if self.lent {
            self.tracked.give_back(self.views.take());
        }
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
