//! How a disk's part in a run ends: the target sealed, the point recorded, the bitmap settled.
//!
//! The order is that of every ending: stop the copier (no task is in flight when a hook runs), seal the
//! filter, flush with a deadline, read what remains, settle, and only then tell the catalogue.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cohort_bitmap::DirtyBitmap;
use cohort_job::{Abort, Cause, Disposition, Record};

use crate::catalogue::{
    CommittedView, Decision, ImageName, Instant as PointInstant, Kept, Partial, Point, PointRecord,
    RunId, StoredDigests, TrackedViews, Tracking,
};
use crate::disk::{Disk, FencedDisk, Started, ranges};
use crate::error::DiskError;
use crate::image_bitmap::{NamedBitmap, clear_owed};
use crate::options::BitmapPolicy;
use crate::partial::{Copied, Left};
use crate::report::{DiskPhase, Rows};
use crate::settle::{Aborted, Ended, Fate, fate, in_granules, settle};
use crate::stored::ViewSets;
use crate::target::SealError;
use crate::tracked::Views;
use crate::turns;

/// How long copies of old data that are under way may take to end when a backup is over. Their writers wait
/// for them, so this is no longer than writers wait by default.
const SETTLE_WAIT: Duration = Duration::from_secs(1);

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

    /// The group did not commit. Keeps or drops the target as the policy says.
    pub(crate) fn abort(&self, why: &Abort) {
        let (started, ready) = {
            let mut state = self.state();
            state.point = None;
            (state.started.take(), state.ready.take())
        };
        // Prepared and never fenced: the disk is untouched, and its views go back as they are.
        turns::undo(self, ready);
        let Some(started) = started else {
            self.state().left = self.partial_now();
            return;
        };
        let discard = why.disposition == Disposition::Discard;
        let flushed = self.stop(&started, discard);
        let durable = started.ledger.counts().durable > 0;
        let aborted = Aborted {
            started: true,
            discard,
            flush_failed: !flushed || !started.ledger.is_trusted(),
            anything_durable: durable,
        };
        let fate = fate(aborted.into(), self.decided.options.policy);
        self.leave(started, fate, &self.why(&why.cause));
    }

    /// Always last: what no catalogue names is deleted.
    pub(crate) fn clean(&self) {
        self.checkpoints.end(Instant::now());
        self.meter.enter(DiskPhase::Ended);
        let (target, started, ready) = {
            let mut state = self.state();
            (
                state.target.take(),
                state.started.take(),
                state.ready.take(),
            )
        };
        turns::undo(self, ready);
        // Gone after a hook; if a hook panicked, nothing is known of the disk's changes any more.
        if started.is_some_and(|started| started.fenced.is_some()) {
            self.give_back(None);
        }
        if let Some(tracked) = self.decided.source.tracked() {
            tracked.gated().drop_spent_filters();
            tracked.gated().remove_meter(&self.writes);
            tracked.collect(&self.catalogue, tracked.recording().as_ref());
        }
        if let Some(store) = &self.decided.source.store
            && let Err(why) = store.close(&self.catalogue)
        {
            self.note(format!(
                "tracking store {store} is left as after a kill: {why}"
            ));
        }
        self.clear_bitmap();
        let mut spent = std::mem::take(&mut self.state().digests);
        // Of a partial that was continued: replaced, unless all is as it was.
        let before = self
            .decided
            .partial
            .as_ref()
            .and_then(|partial| partial.digests.as_ref());
        spent.extend(before.map(|digests| digests.file.clone()));
        spent.extend(target.map(|target| target.name().clone()));
        for file in spent {
            if let Err(error) = self.catalogue.remove_image(&file) {
                tracing::warn!(disk = %self.decided.name, %error, "an unfinished file stays until the next run sweeps it");
            }
        }
    }

    /// Takes what the new point holds from the bitmap that was named. Nobody reads the source any more.
    fn clear_bitmap(&self) {
        if self.decided.source.bitmap.is_none() {
            return;
        }
        if let Err(error) = self.decided.source.unlock() {
            tracing::warn!(disk = %self.decided.name, %error, "the source stays locked");
        }
        if let Some(said) = clear_owed(&self.catalogue, &self.decided.name) {
            self.note(said);
        }
    }

    /// The file that errors of the target name.
    pub(crate) fn target_path(&self) -> PathBuf {
        let state = self.state();
        let target = state.target.as_ref().map(|target| target.path().to_owned());
        target.unwrap_or_else(|| self.catalogue.directory().to_owned())
    }

    /// Ends copying, and makes durable what is copied if it may be kept. False if the target is not to be
    /// trusted or somebody may still write to it.
    fn stop(&self, started: &Started, discard: bool) -> bool {
        let wait = if self.hurry.load(Ordering::Acquire) {
            Duration::ZERO
        } else {
            SETTLE_WAIT
        };
        let deadline = Instant::now() + wait;
        // Whoever continues the partial must be the only one to write to it.
        let sealed = self
            .checkpoints
            .end(Instant::now() + SETTLE_WAIT.max(self.flush_wait()));
        let late = match &started.fenced {
            Some(fenced) => fenced.filter.seal(deadline).late_saves > 0,
            None => {
                started.ledger.seal(deadline);
                false
            }
        } || !sealed;
        self.state().copied_bytes = started.target.written_bytes();
        let keeps = matches!(
            self.decided.options.policy,
            BitmapPolicy::Always | BitmapPolicy::Ask
        );
        let wait = self.flush_wait();
        // In a hurry nothing more becomes durable; what was sealed before counts.
        let worth = !late && keeps && !discard && !wait.is_zero();
        if !worth || started.ledger.counts().written == 0 {
            return !late;
        }
        if let Err(error) = self.free_what_is_copied(&Copied::of(started)) {
            // What is durable stays as it is.
            self.note(format!("what was copied last is not kept: {error}"));
        } else if let Err(error) = started.target.seal(&started.ledger, wait) {
            self.note(format!("the partial is dropped: {error}"));
            return false;
        }
        !late
    }

    /// Applies a fate to file, catalogue and views.
    fn leave(&self, started: Started, fate: Fate, why: &str) {
        let decision = match fate {
            Fate::KeepPartial => Some(Decision::Keep),
            Fate::LeaveUndecided => Some(Decision::Undecided),
            Fate::Abdicate | Fate::Reclaim | Fate::ReclaimBoth => None,
        };
        let fenced = started.fenced.as_ref();
        let sets =
            fenced.and_then(|fenced| turns::after_abort(self, fenced, fate, &started.ledger));
        let tracked = match fenced {
            Some(_) => turns::rows(self, sets.as_ref()),
            None => self.rows_as_before(),
        };
        let kept =
            decision.and_then(|decision| self.keep(&started, decision, why, tracked.clone()));
        let fate = match (fate, &kept) {
            // The catalogue does not take it: the second view is lost with the partial.
            (Fate::KeepPartial | Fate::LeaveUndecided, None) => Fate::Reclaim,
            (fate, _) => fate,
        };
        if fate == Fate::Reclaim
            && let Err(error) = self.drop_partial()
        {
            self.note(format!("the partial could not be dropped: {error}"));
        }
        if fate == Fate::ReclaimBoth {
            self.say_end(why);
        }
        self.state().left = if kept.is_some() {
            kept.clone()
        } else {
            self.partial_now()
        };
        if let Some(fenced) = started.fenced {
            let tracked = fenced
                .sets
                .as_ref()
                .filter(|_| kept.is_none())
                .map(|_| tracked);
            let tracked = tracked.map(|views| {
                self.catalogue
                    .track(&self.decided.name, fenced.anchor, views)
            });
            if let Some(Err(error)) = tracked {
                self.note(format!(
                    "the views go on with more sets than they need: {error}"
                ));
            }
            let partial = match fate {
                Fate::KeepPartial | Fate::LeaveUndecided => Some(started.target.name().clone()),
                Fate::ReclaimBoth => fenced.partial.clone(),
                Fate::Abdicate | Fate::Reclaim => None,
            };
            let anchor = fenced.anchor;
            self.settle_views(fenced, &started.ledger, fate, anchor, partial, sets);
        }
    }

    /// Of a disk that nobody serves: what is known against its point stays so, and nothing is known against the partial.
    fn rows_as_before(&self) -> TrackedViews {
        let contents = self.catalogue.snapshot().ok();
        let views = contents
            .as_ref()
            .and_then(|contents| contents.views.get(&self.decided.name));
        let point = views.and_then(|views| views.point.as_ref());
        TrackedViews {
            point: point.map_or_else(Tracking::none, |view| view.tracking.clone()),
            partial: Tracking::none(),
        }
    }

    /// Names the target as the disk's partial, in one transaction of its own.
    fn keep(
        &self,
        started: &Started,
        decision: Decision,
        why: &str,
        tracked: TrackedViews,
    ) -> Option<Partial> {
        let copied = Copied::of(started);
        let moment = self.moment(&copied);
        let left = Left {
            decision,
            why: why.to_owned(),
            digests: self.digests_of_partial(started, &moment.remaining),
        };
        let partial = self.partial_row(&copied, &moment, left);
        let kept = Kept {
            disk: self.decided.name.clone(),
            partial: partial.clone(),
            against_point: self
                .decided
                .source
                .bitmap
                .as_ref()
                .map_or(tracked.point, NamedBitmap::as_before),
            against_partial: tracked.partial,
        };
        let named = self.catalogue.sync_names().map_err(DiskError::from);
        match named.and_then(|()| self.catalogue.keep_partial(kept).map_err(DiskError::from)) {
            Ok(()) => Some(partial),
            Err(error) => {
                self.note(format!("the partial is dropped: {error}"));
                None
            }
        }
    }

    /// The digests of what the partial durably holds. Where it may hold what was written last or what was there
    /// before, there are none; whoever continues it reads that again.
    fn digests_of_partial(
        &self,
        started: &Started,
        remaining: &DirtyBitmap,
    ) -> Option<StoredDigests> {
        let cluster_size = started.target.cluster_size();
        let stored = self.store_digests(&started.target, |cluster| {
            Ok(!remaining.get(cluster * cluster_size))
        });
        stored.unwrap_or_else(|error| {
            self.note(format!("the partial is kept without digests: {error}"));
            None
        })
    }

    /// Ends the split of a served disk and gives the views back.
    fn settle_views(
        &self,
        fenced: FencedDisk,
        ledger: &cohort_block::Ledger,
        fate: Fate,
        anchor: Option<RunId>,
        partial: Option<ImageName>,
        sets: Option<ViewSets>,
    ) {
        let FencedDisk {
            split,
            manifest,
            filter,
            ..
        } = fenced;
        self.state().staged = Some(filter.staging());
        let owed = in_granules(&manifest, &ledger.remaining());
        let skipped = in_granules(&manifest, &ledger.skipped());
        let (base, successor) = (split.base().clone(), split.successor().clone());
        let settled = settle(split, fate, &owed, &skipped);
        let rows = Rows {
            base,
            since: successor.snapshot(),
            remaining: owed,
            skipped,
            point_view: settled.point().snapshot(),
            partial_view: settled.partial().map(cohort_bitmap::View::snapshot),
        };
        self.state().rows = Some(rows);
        self.give_back(Some(Views {
            directory: self.directory,
            anchor,
            partial,
            settled,
            sets,
        }));
    }

    fn give_back(&self, views: Option<Views>) {
        if let Some(tracked) = self.decided.source.tracked() {
            tracked.give_back(views);
        }
    }

    pub(crate) fn partial_now(&self) -> Option<Partial> {
        self.catalogue
            .snapshot()
            .ok()?
            .partials
            .get(&self.decided.name)
            .cloned()
    }

    /// What stopped the run, for people who look at the partial later.
    fn why(&self, cause: &Cause) -> String {
        let own = self.member.load(Ordering::Relaxed);
        match (&self.state().error, cause) {
            (Some(error), _) => error.to_string(),
            (None, Cause::Failed(_)) => "another disk of the group failed".to_owned(),
            (None, Cause::Cancelled(member)) if *member == own => "cancelled".to_owned(),
            (None, Cause::Cancelled(_)) => "another disk of the group was cancelled".to_owned(),
            (None, Cause::User) => "cancelled".to_owned(),
            (None, Cause::Rollback) => "the run could not be launched".to_owned(),
            (None, Cause::Shutdown) => "the program was shut down".to_owned(),
            (None, Cause::ProcessEnded) => "the program ended".to_owned(),
        }
    }
}
