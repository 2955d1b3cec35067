//! The views of a served disk: found in its store or by comparing, lent to a run, and given back.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cohort_bitmap::store::{Excess, Prepared, Recording, SetId};
use cohort_bitmap::{DirtyBitmap, Recorder, Undecided, View};
use cohort_block::{CloseError, Device};

use super::{GATE_WAIT, State, Tracked};
use crate::catalogue::{Catalogue, Contents, Decision, DirectoryId, DiskName, ImageName, RunId};
use crate::scan::{ScanError, scan};
use crate::settle::Settled;
use crate::stored::{Stored, ViewSets, anchored_at};

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
    /// The same in the disk's tracking store, if it has one that works.
    pub(crate) sets: Option<ViewSets>,
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
    /// The views as the catalogue and the store say them, and by how much they say too much; or why they do not.
    pub(crate) fn stored_views(
        &self,
        stored: &Stored,
        contents: &Contents,
        disk: &DiskName,
    ) -> Result<(Views, Excess), String> {
        let rows = contents
            .views
            .get(disk)
            .ok_or("the disk has no view here yet")?;
        let point = rows
            .point
            .as_ref()
            .map(|view| stored.view(view))
            .transpose()?;
        let second = rows
            .partial
            .as_ref()
            .map(|view| stored.view(view))
            .transpose();
        // Without the one against the partial the other still counts.
        let second = if point.is_some() {
            second.unwrap_or(None)
        } else {
            second?
        };
        let anchor = rows.point.as_ref().and_then(anchored_at);
        let first = point
            .as_ref()
            .or(second.as_ref())
            .ok_or("the disk has no view here yet")?;
        let recording = first.recording.clone();
        let excess = Excess(
            point
                .iter()
                .chain(&second)
                .map(|view| view.excess.0)
                .max()
                .unwrap_or(0),
        );
        let view = |bits| View::with_recorder(bits, recording.recorder().clone());
        let (point, point_sets) = match point {
            Some(point) => (view(point.bits), Some(point.sets)),
            None => (view(self.all_dirty()), None),
        };
        let (settled, partial, partial_sets) = match second.zip(contents.partials.get(disk)) {
            None => (Settled::Point(point), None, None),
            Some((second, row)) => {
                let partial = view(second.bits);
                let settled = match row.decision {
                    Decision::Keep => Settled::Both { point, partial },
                    Decision::Undecided => Settled::Undecided(Undecided::new(point, partial)),
                };
                (settled, Some(row.file.clone()), Some(second.sets))
            }
        };
        let views = Views {
            directory: contents.meta.directory,
            anchor,
            partial,
            settled,
            sets: Some(ViewSets {
                recording,
                point: point_sets,
                partial: partial_sets,
            }),
        };
        Ok((views, excess))
    }

    /// Drops sets of this directory that its catalogue does not name. `used` records for views that are in memory only.
    pub(crate) fn collect(&self, catalogue: &Catalogue, used: Option<&Recording>) {
        let (Some(stored), Ok(contents)) = (&self.stored, catalogue.snapshot()) else {
            return;
        };
        let mut garbage = stored.garbage(&contents);
        garbage.retain(|set| used.is_none_or(|used| used.set() != *set));
        let recordings = stored.recordings();
        let recordings: Vec<_> = recordings
            .iter()
            .filter(|recording| garbage.contains(&recording.set()))
            .collect();
        if let Err(why) = self.forget(stored, &recordings, &garbage) {
            tracing::warn!(disk = %self.name, %why, "sets of no use stay in the tracking store");
        }
    }

    fn forget(
        &self,
        stored: &Stored,
        recordings: &[&Recording],
        garbage: &[SetId],
    ) -> Result<(), String> {
        if garbage.is_empty() {
            return Ok(());
        }
        if !recordings.is_empty() {
            let closed = self
                .gated
                .close("tidying the tracking store", Instant::now() + GATE_WAIT);
            let mut closed = closed.map_err(|error| error.to_string())?;
            for recording in recordings {
                closed.remove_recording(recording);
            }
        }
        for recording in recordings {
            stored.finish(recording)?;
        }
        stored.drop_sets(garbage)
    }

    /// What records for the views that wait for the next run.
    pub(crate) fn recording(&self) -> Option<Recording> {
        match &*self.lock() {
            State::Idle(Some(views)) => views.sets.as_ref().map(|sets| sets.recording.clone()),
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
    /// then the disk is read, so whatever changes after it was read is in the record. `prepared` becomes that record.
    pub(crate) fn adopt(
        &self,
        old: Option<&Recorder>,
        prepared: Option<Prepared>,
        references: &[&dyn Device],
        wait: Duration,
    ) -> Result<(Vec<View>, Option<Recording>), AdoptError> {
        let recorder = Recorder::new(self.gated.size(), self.granularity)
            .expect("the size was checked before");
        let mut closed = self
            .gated
            .close("the search for changes", Instant::now() + wait)?;
        let recording = prepared.map(|prepared| prepared.begin(&recorder));
        match &recording {
            Some(recording) => closed.install_recording(recording.clone()),
            None => closed.install_recorder(recorder.clone()),
        }
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
            if let Some(recording) = &recording {
                closed.remove_recording(recording);
            }
        }
        Ok((views?, recording))
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
