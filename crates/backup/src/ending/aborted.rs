//! The way without a point: what may be kept is made durable and named as a partial, and the views are what they were, or
//! speak of it.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cohort_bitmap::DirtyBitmap;
use cohort_job::{Abort, Cause, Disposition};

use super::SETTLE_WAIT;
use crate::catalogue::{
    ChangeError, Decision, Kept, Partial, StoredDigests, TrackedViews, Tracking,
};
use crate::disk::{Disk, Started};
use crate::error::DiskError;
use crate::image_bitmap::NamedBitmap;
use crate::options::BitmapPolicy;
use crate::partial::{Copied, Left};
use crate::settle::{Aborted, Fate, fate};
use crate::turns;

impl Disk {
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
            self.state().left = self.partial_now().unwrap_or_default();
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
        // What was sealed before stays as it is, unless a flush failed.
        let unsealed = |error: &dyn Display| {
            self.note(format!("what was copied last is not kept: {error}"));
        };
        if let Err(error) = self.free_what_is_copied(&Copied::of(started)) {
            unsealed(&error);
            return !late;
        }
        match started.target.seal(&started.ledger, wait) {
            Ok(()) => {}
            Err(error) if error.costs_trust() => {
                self.note(format!("the partial is dropped: {error}"));
                return false;
            }
            Err(error) => unsealed(&error),
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
            self.partial_now().unwrap_or_default()
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

    /// The disk's partial, if it has one; whoever cannot know must not take it for none.
    pub(crate) fn partial_now(&self) -> Result<Option<Partial>, ChangeError> {
        let contents = self.catalogue.snapshot()?;
        Ok(contents.partials.get(&self.decided.name).cloned())
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
