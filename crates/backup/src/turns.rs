//! The turn from one set of a tracking store to the next, in step with the views of a served disk.
//!
//! The next set is durable, and the catalogue names it in the disk's views, before the fence; inside the fence it takes
//! over in memory; only after that the one before is finished. So at every moment the named sets have every write:
//! without a verdict they are *base ∪ since*, which is what an abort leaves. What the verdict changes is in the
//! verdict's own transaction, and what comes later only saves copying.

use std::sync::Arc;

use cohort_bitmap::store::{Owner, Prepared, Recording, SetId};
use cohort_bitmap::{DirtyBitmap, Split, View};
use cohort_block::{ClosedGate, Ledger};

use crate::catalogue::{TrackedViews, Tracking};
use crate::disk::{Disk, FencedDisk, FencedSets, Ready, Turn};
use crate::error::DiskError;
use crate::settle::{Fate, in_granules};
use crate::stored::{Stored, ViewSets};
use crate::tracked::{Borrowed, Tracked};

/// A new set for the writes during a search for changes.
pub(crate) fn begin_search(disk: &Disk, tracked: &Tracked) -> Option<Prepared> {
    let stored = tracked.store()?;
    let prepared = stored.prepare(&owner(disk), &disk.decided.name, tracked.granularity());
    prepared.ok()
}

/// What was found by searching, as sets: against the partial first, then against the point, if each was searched.
pub(crate) fn found(
    disk: &Disk,
    tracked: &Tracked,
    recording: Recording,
    found: &[View],
    partial: bool,
    point: bool,
) -> Option<ViewSets> {
    let stored = tracked.store()?;
    stored.began(&recording, disk.directory, &disk.decided.name);
    let mut sets = found.iter().map(|view| {
        let fixed = stored.write_fixed(&owner(disk), &disk.decided.name, &view.snapshot());
        Some(vec![fixed.ok()?, recording.set()])
    });
    let partial = if partial { sets.next().flatten() } else { None };
    let point = if point { sets.next().flatten() } else { None };
    Some(ViewSets {
        recording: recording.clone(),
        point,
        partial,
    })
}

/// Makes the next set durable, and names it where the disk's views are.
pub(crate) fn prepare(
    disk: &Disk,
    tracked: &Tracked,
    views: &Borrowed,
) -> Result<Option<Turn>, DiskError> {
    let Some(stored) = tracked.store() else {
        return Ok(None);
    };
    let known = views.views();
    let granularity = known.map_or(tracked.granularity(), |views| {
        views.settled.point().granularity()
    });
    let next = match stored.prepare(&owner(disk), &disk.decided.name, granularity) {
        Ok(next) => next,
        Err(why) => {
            disk.note(format!("tracking store {stored} is of no use now: {why}"));
            return Ok(None);
        }
    };
    let (point, partial) = before(known.and_then(|views| views.sets.as_ref()));
    let set = next.set();
    if let Err(error) = track(
        disk,
        stored,
        views,
        joined(point, set),
        joined(partial, set),
    ) {
        drop_quietly(disk, stored, set);
        return Err(error);
    }
    let before = stored.recordings_of(disk.directory, &disk.decided.name);
    Ok(Some(Turn { next, before }))
}

/// There was no fence: the set that was to be the next one goes.
pub(crate) fn undo(disk: &Disk, ready: Option<Ready>) {
    let Some(Ready {
        views,
        turn: Some(turn),
        ..
    }) = ready
    else {
        return;
    };
    let tracked = Arc::clone(views.tracked());
    let Some(stored) = tracked.store() else {
        return;
    };
    let sets = views.views().and_then(|views| views.sets.as_ref());
    let (point, partial) = before(sets);
    // As long as it is named it stays: empty, it does no harm.
    if track(disk, stored, &views, point, partial).is_ok() {
        drop_quietly(disk, stored, turn.next.set());
    }
}

/// Inside the fence: the next set takes over. Touches memory only.
pub(crate) fn start(
    disk: &Disk,
    closed: &mut ClosedGate<'_>,
    split: &Split,
    turn: Option<Turn>,
    sets: Option<ViewSets>,
) -> Option<FencedSets> {
    let turn = turn?;
    let recording = turn.next.begin(split.successor());
    closed.install_recording(recording.clone());
    for old in &turn.before {
        closed.remove_recording(old);
    }
    disk.state().outgoing = turn.before;
    let (point, partial) = before(sets.as_ref());
    Some(FencedSets {
        recording,
        point,
        partial,
    })
}

/// After the fence: what recorded until then is finished.
pub(crate) fn passed(disk: &Disk) {
    let Some(stored) = store(disk) else { return };
    let (recording, outgoing) = {
        let mut state = disk.state();
        let fenced = state
            .started
            .as_ref()
            .and_then(|started| started.fenced.as_ref());
        let sets = fenced.and_then(|fenced| fenced.sets.as_ref());
        let recording = sets.map(|sets| sets.recording.clone());
        (recording, std::mem::take(&mut state.outgoing))
    };
    if let Some(recording) = recording {
        stored.began(&recording, disk.directory, &disk.decided.name);
    }
    for old in outgoing {
        if let Err(why) = stored.finish(&old) {
            disk.note(format!("tracking store {stored} is of no use now: {why}"));
        }
    }
}

/// The sets of the view that stands once the point does. `moved` says whether it speaks of the new point.
pub(crate) fn after_commit(
    disk: &Disk,
    fenced: &FencedDisk,
    ledger: &Ledger,
    moved: bool,
) -> (Tracking, Option<Vec<SetId>>) {
    let Some(stored) = store(disk) else {
        return (Tracking::none(), None);
    };
    let Some(sets) = &fenced.sets else {
        return (stored.tracking(None), None);
    };
    let since = sets.recording.set();
    let named = if moved {
        let skipped = in_granules(&fenced.manifest, &ledger.skipped());
        if skipped.is_empty() {
            Some(vec![since])
        } else {
            written(disk, stored, &skipped).map(|skipped| vec![skipped, since])
        }
    } else {
        joined(sets.point.clone(), since)
    };
    (stored.tracking(named.as_deref()), named)
}

/// The sets of the views of a disk whose group did not commit; `remaining` is written if the partial is kept.
pub(crate) fn after_abort(
    disk: &Disk,
    fenced: &FencedDisk,
    fate: Fate,
    ledger: &Ledger,
) -> Option<ViewSets> {
    let (stored, sets) = (store(disk)?, fenced.sets.as_ref()?);
    let since = sets.recording.set();
    // Many sets that change no more are as good as one.
    let condensed = |sets: &Option<Vec<SetId>>, bits: &DirtyBitmap| {
        let sets = sets.clone()?;
        let one = if sets.len() > 1 {
            written(disk, stored, bits)
        } else {
            None
        };
        joined(Some(one.map_or(sets, |one| vec![one])), since)
    };
    let point = condensed(&sets.point, fenced.split.base());
    let partial = match fate {
        Fate::KeepPartial | Fate::LeaveUndecided => {
            let remaining = in_granules(&fenced.manifest, &ledger.remaining());
            joined(
                written(disk, stored, &remaining).map(|set| vec![set]),
                since,
            )
        }
        Fate::ReclaimBoth => condensed(&sets.partial, fenced.split.to_copy()),
        Fate::Abdicate | Fate::Reclaim => None,
    };
    Some(ViewSets {
        recording: sets.recording.clone(),
        point,
        partial,
    })
}

/// What a run that is under way has still to copy, as a set of its own, and with it the view against the partial.
pub(crate) fn at_checkpoint(disk: &Disk, remaining: &DirtyBitmap) -> Option<(SetId, Tracking)> {
    let stored = store(disk)?;
    let (remaining, since) = {
        let state = disk.state();
        let fenced = state.started.as_ref()?.fenced.as_ref()?;
        let since = fenced.sets.as_ref()?.recording.set();
        (in_granules(&fenced.manifest, remaining), since)
    };
    let set = written(disk, stored, &remaining)?;
    Some((set, stored.tracking(Some(&[set, since]))))
}

/// Drops a set that no view of the disk is made of any more.
pub(crate) fn forget(disk: &Disk, set: SetId) {
    if let Some(stored) = store(disk) {
        drop_quietly(disk, stored, set);
    }
}

/// How the catalogue names the sets of both views.
pub(crate) fn rows(disk: &Disk, sets: Option<&ViewSets>) -> TrackedViews {
    let name = |sets: Option<&Vec<SetId>>| match store(disk) {
        Some(stored) => stored.tracking(sets.map(Vec::as_slice)),
        None => Tracking::none(),
    };
    TrackedViews {
        point: name(sets.and_then(|sets| sets.point.as_ref())),
        partial: name(sets.and_then(|sets| sets.partial.as_ref())),
    }
}

fn store(disk: &Disk) -> Option<&Stored> {
    disk.decided.source.tracked()?.store()
}

fn before(sets: Option<&ViewSets>) -> (Option<Vec<SetId>>, Option<Vec<SetId>>) {
    sets.map_or((None, None), |sets| {
        (sets.point.clone(), sets.partial.clone())
    })
}

fn joined(sets: Option<Vec<SetId>>, with: SetId) -> Option<Vec<SetId>> {
    let mut sets = sets?;
    sets.push(with);
    Some(sets)
}

/// The failure is in the catalogue's next row of the view, so the next run says it.
fn written(disk: &Disk, stored: &Stored, bits: &DirtyBitmap) -> Option<SetId> {
    stored
        .write_fixed(&owner(disk), &disk.decided.name, bits)
        .inspect_err(
            |why| tracing::warn!(disk = %disk.decided.name, %why, "a view is not in the tracking store"),
        )
        .ok()
}

fn track(
    disk: &Disk,
    stored: &Stored,
    views: &Borrowed,
    point: Option<Vec<SetId>>,
    partial: Option<Vec<SetId>>,
) -> Result<(), DiskError> {
    let anchor = views.views().and_then(|views| views.anchor);
    let tracked = TrackedViews {
        point: stored.tracking(point.as_deref()),
        partial: stored.tracking(partial.as_deref()),
    };
    Ok(disk.catalogue.track(&disk.decided.name, anchor, tracked)?)
}

fn drop_quietly(disk: &Disk, stored: &Stored, set: SetId) {
    if let Err(why) = stored.drop_sets(&[set]) {
        tracing::warn!(disk = %disk.decided.name, %why, "a set of no use stays in the tracking store");
    }
}

/// Whose sets those of the disk's directory are.
pub(crate) fn owner(disk: &Disk) -> Owner {
    let path = disk.catalogue.directory();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    Owner {
        id: disk.directory.bytes(),
        path: path.display().to_string(),
    }
}
