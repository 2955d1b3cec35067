//! The way to a point: the target is complete and durable, the point is recorded, and the views go on from it.

use std::time::Instant;

use cohort_job::Record;

use super::SETTLE_WAIT;
use crate::catalogue::{
    CommittedView, Instant as PointInstant, Point, PointRecord, RunId, Tracking,
};
use crate::disk::{Disk, Started, ranges};
use crate::error::DiskError;
use crate::options::BitmapPolicy;
use crate::partial::Copied;
use crate::settle::{Ended, Fate, fate};
use crate::stored::ViewSets;
use crate::target::SealError;
use crate::turns;

impl Disk {
    /// After the last copy: makes the target durable and looks whether the source held still.
    pub(crate) fn seal_complete(&self) -> Result<(), DiskError> {
        let (copied, filter) = {
            let state = self.state();
            let Some(started) = &state.started else {
                return Ok(());
            };
            let filter = started.fenced.as_ref().map(|fenced| fenced.filter.clone());
            (Copied::of(started), filter)
        };
        let Copied { ledger, target, .. } = &copied;
        if !self.checkpoints.end(Instant::now() + self.flush_wait()) {
            let error = SealError::TooLate(self.flush_wait());
            return Err(DiskError::seal(target.path(), error));
        }
        let deadline = Instant::now() + SETTLE_WAIT;
        match filter {
            Some(filter) => drop(filter.seal(deadline)),
            None => drop(ledger.seal(deadline)),
        }
        if let Some(broken) = ledger.broken() {
            return Err(DiskError::Broken(broken));
        }
        self.free_what_is_copied(&copied)?;
        target
            .seal(ledger, self.flush_wait())
            .map_err(|error| DiskError::seal(target.path(), error))?;
        target
            .finish()
            .map_err(|error| DiskError::write(target.path(), None, error))?;
        let stored = self.store_digests(target, |_| Ok(true))?;
        self.state().stored.clone_from(&stored);
        self.checkpoint_complete(stored)?;
        if let Some(Err(why)) = self.decided.source.keeper().map(|keeper| keeper.kept()) {
            let source_name = self.decided.source.label.clone();
            return Err(DiskError::InstantLost { source_name, why });
        }
        match self.decided.source.changed()? {
            Some(_) if self.decided.options.accept_changes => self.state().changed = true,
            Some(file) => return Err(DiskError::ChangedWhileRead { file }),
            None => {}
        }
        Ok(())
    }

    /// Says what the point will be; all of it is durable.
    pub(crate) fn prepare(&self) -> Result<Record, DiskError> {
        self.catalogue.sync_names()?;
        let mut state = self.state();
        let Some(started) = &state.started else {
            return Ok(Record::default());
        };
        let skipped = ranges(&started.ledger.skipped());
        let point = Point {
            file: started.target.name().clone(),
            parent: started.parent,
            size: self.size(),
            cluster_size: u32::try_from(started.target.cluster_size()).unwrap_or(u32::MAX),
            created_unix_ms: started.created_unix_ms,
            instant: if state.changed {
                PointInstant::NoInstant
            } else {
                self.decided.source.instant()
            },
            skipped: skipped.clone(),
            bytes_copied: started.target.written_bytes(),
            digests: state.stored.clone(),
            merging: Vec::new(),
        };
        let anchor = self.anchor_after_commit(started.parent);
        let moved = anchor == self.run;
        let (sets, recorded) = match &started.fenced {
            Some(fenced) => turns::after_commit(self, fenced, &started.ledger, moved),
            None => (self.offline_tracking(started, moved, state.changed), None),
        };
        let tracking = match &self.decided.source.bitmap {
            None => sets,
            // The bitmap says what changed before it was read, and nobody knows when that was.
            Some(_) if state.changed => Tracking::none(),
            Some(bitmap) if anchor == self.run => bitmap.after_commit(),
            Some(bitmap) => bitmap.as_before(),
        };
        let view = CommittedView { anchor, tracking };
        state.copied_bytes = point.bytes_copied;
        state.skipped = skipped;
        state.point = Some(point.clone());
        state.recorded = recorded;
        Ok(Record::from(
            PointRecord {
                disk: self.decided.name.clone(),
                run: self.run,
                point,
                view,
            }
            .encode(),
        ))
    }

    /// The point that the view speaks of once this run has one. An anchor that never moves has to begin somewhere: a
    /// point that stands alone is it.
    fn anchor_after_commit(&self, parent: Option<RunId>) -> RunId {
        match (self.decided.options.policy, parent) {
            (BitmapPolicy::Never, Some(older)) => older,
            (BitmapPolicy::Never, None)
            | (BitmapPolicy::OnSuccess | BitmapPolicy::Always | BitmapPolicy::Ask, _) => self.run,
        }
    }

    /// The view of a disk that nobody serves, once its point is there.
    fn offline_tracking(&self, started: &Started, moved: bool, changed: bool) -> Tracking {
        match &self.decided.source.store {
            // Somebody wrote past the store, and that was accepted.
            Some(_) if changed => Tracking::none(),
            Some(store) => {
                let skipped = started.ledger.skipped();
                let owner = turns::owner(self);
                store.after_commit(
                    &owner,
                    &self.decided.name,
                    moved,
                    self.decided.known.as_ref(),
                    &skipped,
                )
            }
            None => Tracking::none(),
        }
    }

    /// The catalogue has the point. What is left is in memory.
    pub(crate) fn commit(&self) {
        let Some(started) = self.state().started.take() else {
            return;
        };
        if let Some(fenced) = started.fenced {
            let anchor = self.anchor_after_commit(started.parent);
            let fate = if anchor == self.run {
                Fate::Abdicate
            } else {
                fate(Ended::Committed, self.decided.options.policy)
            };
            let anchor = Some(anchor);
            let point = self.state().recorded.take();
            let sets = fenced.sets.as_ref().map(|sets| ViewSets {
                recording: sets.recording.clone(),
                point,
                partial: None,
            });
            self.settle_views(fenced, &started.ledger, fate, anchor, None, sets);
        }
    }
}
