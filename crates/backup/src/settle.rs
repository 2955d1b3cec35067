//! What a disk's bitmap becomes when a backup ends: one total function, and its application.
//!
//! Two points in time matter, the start and the end of the run, so four sets, all in granules:
//! *base* (dirty at the start), *since* (written since), *remaining* (what the target does not
//! durably hold) and *skipped* (what the operator allowed to be missing). `docs/bitmaps.md` prints
//! this table with rows of bits. The question, and the policies but *ask*, come from qemu-devel,
//! 2019-06-21; where QEMU merges at once, both views are kept here.

use std::fmt;

use cohort_bitmap::{DirtyBitmap, Granularity, Split, Undecided, View};

use crate::BitmapPolicy;

/// How one disk's part in a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The group committed: the target is a point.
    Committed,
    /// Aborted with Keep after the fence; part of the target is durable.
    Kept,
    /// Aborted with Keep after the fence, before anything was durable.
    NothingDurable,
    /// Aborted with Keep after the fence, but a flush of the target failed: it is not trusted.
    FlushFailed,
    /// Aborted with Discard after the fence: no trace is to be left.
    Discarded,
    /// Aborted before the fence: nothing was touched, whatever the disposition.
    NeverStarted,
}

impl Ended {
    /// Every way to end, in the order of the table.
    pub const ALL: [Ended; 6] = [
        Ended::Committed,
        Ended::Kept,
        Ended::NothingDurable,
        Ended::FlushFailed,
        Ended::Discarded,
        Ended::NeverStarted,
    ];
}

/// What is known of a disk whose group aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aborted {
    /// Whether its fence was passed.
    pub(crate) started: bool,
    /// Whether the disposition is Discard; Keep otherwise.
    pub(crate) discard: bool,
    /// Whether any flush of the target failed in this run.
    pub(crate) flush_failed: bool,
    /// Whether the target durably holds anything that this run copied.
    pub(crate) anything_durable: bool,
}

impl From<Aborted> for Ended {
    /// The first that applies: never started, Discard, a failed flush, nothing durable.
    fn from(aborted: Aborted) -> Ended {
        match aborted {
            Aborted { started: false, .. } => Ended::NeverStarted,
            Aborted { discard: true, .. } => Ended::Discarded,
            Aborted {
                flush_failed: true, ..
            } => Ended::FlushFailed,
            Aborted {
                anything_durable: false,
                ..
            } => Ended::NothingDurable,
            Aborted {
                anything_durable: true,
                ..
            } => Ended::Kept,
        }
    }
}

/// Which of the split's ends a disk gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// *skipped ∪ since*, against the new point.
    Abdicate,
    /// *base ∪ since*, against the last point; a partial that the run continued is gone.
    Reclaim,
    /// *base ∪ since*, against the last point; a partial that the run continued stays, with the
    /// view that it had, joined with since.
    ReclaimBoth,
    /// *remaining ∪ since* against the partial, and *base ∪ since* against the last point.
    KeepPartial,
    /// Both views as in `KeepPartial`, and someone is asked which of them the next run may use.
    LeaveUndecided,
}

/// The fate of a disk's bitmap. Total, pure, and without a wildcard: a new way to end or a new
/// policy does not compile until its cells are written.
#[rustfmt::skip]
pub fn fate(ended: Ended, policy: BitmapPolicy) -> Fate {
    use BitmapPolicy::{Always, Ask, Never, OnSuccess};
    match (ended, policy) {
        (Ended::Committed,      OnSuccess) => Fate::Abdicate,
        (Ended::Committed,      Always)    => Fate::Abdicate,
        (Ended::Committed,      Ask)       => Fate::Abdicate,
        (Ended::Committed,      Never)     => Fate::Reclaim,

        (Ended::Kept,           OnSuccess) => Fate::ReclaimBoth,
        (Ended::Kept,           Always)    => Fate::KeepPartial,
        (Ended::Kept,           Ask)       => Fate::LeaveUndecided,
        (Ended::Kept,           Never)     => Fate::ReclaimBoth,

        // The partial that a run continued is as good as it was: this run added nothing to it.
        (Ended::NothingDurable, OnSuccess | Always | Ask | Never) => Fate::ReclaimBoth,
        (Ended::NeverStarted,   OnSuccess | Always | Ask | Never) => Fate::ReclaimBoth,
        // Here it is not trusted, or not wanted.
        (Ended::FlushFailed,    OnSuccess | Always | Ask | Never) => Fate::Reclaim,
        (Ended::Discarded,      OnSuccess | Always | Ask | Never) => Fate::Reclaim,
    }
}

impl Fate {
    /// One sentence for people. `fenced` says whether the disk is served by us: of others nobody
    /// recorded what was written since, so the next run finds it by a scan.
    pub fn explained(self, fenced: bool) -> &'static str {
        match (self, fenced) {
            (Fate::Abdicate, true) => {
                "the new point is the anchor; dirty is what was written since the start, and what was skipped"
            }
            (Fate::Abdicate, false) => "the new point is the anchor; the next run scans against it",
            (Fate::Reclaim, true) => {
                "the anchor stays; dirty is what was dirty before and what was written since; no partial is left"
            }
            (Fate::Reclaim, false) => {
                "the anchor stays and the next run scans against it; no partial is left"
            }
            (Fate::ReclaimBoth, true) => {
                "the anchor stays; dirty is what was dirty before and what was written since; \
                 a partial of an earlier run stays as well"
            }
            (Fate::ReclaimBoth, false) => {
                "the anchor stays and the next run scans against it; a partial of an earlier run stays as well"
            }
            (Fate::KeepPartial, true) => {
                "the partial is kept beside the last point; the next run copies what remains and what was written since"
            }
            (Fate::KeepPartial, false) => {
                "the partial is kept beside the last point; the next run scans against the partial and completes it"
            }
            (Fate::LeaveUndecided, true | false) => {
                "the partial is kept beside the last point; the next run may use it once someone said keep, \
                 or starts from the last point once someone said discard"
            }
        }
    }
}

/// What a disk is left with.
#[derive(Debug)]
#[must_use = "dropped views forget what was written"]
pub enum Settled {
    /// One view, against the last point (which is the new one after `Abdicate`).
    Point(View),
    /// A partial lives: the view against the last point, and the one against the partial.
    Both {
        /// Against the last point.
        point: View,
        /// Against the partial.
        partial: View,
    },
    /// A partial lives and waits for keep or discard.
    Undecided(Undecided),
}

impl Settled {
    /// The view against the last point, which is always there.
    pub fn point(&self) -> &View {
        match self {
            Settled::Point(point) | Settled::Both { point, .. } => point,
            Settled::Undecided(undecided) => undecided.point(),
        }
    }

    /// The view against the partial, if one lives.
    pub fn partial(&self) -> Option<&View> {
        match self {
            Settled::Point(_) => None,
            Settled::Both { partial, .. } => Some(partial),
            Settled::Undecided(undecided) => Some(undecided.partial()),
        }
    }
}

/// Ends a split as `fate` says. `remaining` counts only where a partial is kept, `skipped` only
/// where the group committed; where either says nothing about the disk, everything counts.
pub(crate) fn settle(
    split: Split,
    fate: Fate,
    remaining: &DirtyBitmap,
    skipped: &DirtyBitmap,
) -> Settled {
    match fate {
        Fate::Abdicate => Settled::Point(split.abdicate(skipped)),
        Fate::Reclaim => Settled::Point(split.reclaim()),
        Fate::ReclaimBoth => match split.reclaim_both() {
            (point, Some(partial)) => Settled::Both { point, partial },
            (point, None) => Settled::Point(point),
        },
        Fate::KeepPartial => {
            let (point, partial) = split.keep(remaining);
            Settled::Both { point, partial }
        }
        Fate::LeaveUndecided => Settled::Undecided(split.leave_undecided(remaining)),
    }
}

/// What the target does not durably hold, in granules of `manifest`: a granule of the manifest
/// stays while any cluster that it shares a byte with is not durable; no other granule is added,
/// however large the clusters are.
///
/// Clusters are numbered from the start of the disk; `is_durable` is asked only about those that
/// touch the manifest. For *skipped* ask for "not skipped" instead.
pub(crate) fn remaining(
    manifest: &DirtyBitmap,
    cluster: Granularity,
    is_durable: impl Fn(u64) -> bool,
) -> DirtyBitmap {
    let mut remaining = manifest.clone();
    remaining.retain(cluster, |number| !is_durable(number));
    remaining
}

/// A set of clusters in granules of `manifest`, by the rule of [`remaining`]: what the ledger of a
/// run says in clusters (that it is not durable, that it was skipped) becomes exact. Use it before
/// [`settle`], which can only round outward. Where `clusters` says nothing it counts as dirty.
pub(crate) fn in_granules(manifest: &DirtyBitmap, clusters: &DirtyBitmap) -> DirtyBitmap {
    let unit = clusters.granularity();
    remaining(manifest, unit, |number| {
        let offset = number << unit.shift();
        offset < clusters.size() && !clusters.get(offset)
    })
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Ended::Committed => "committed",
            Ended::Kept => "aborted, Keep, started",
            Ended::NothingDurable => "aborted, Keep, nothing durable",
            Ended::FlushFailed => "aborted, Keep, a flush of the target failed",
            Ended::Discarded => "aborted, Discard",
            Ended::NeverStarted => "never started",
        })
    }
}

/// The sets that make the views, as in the table of `docs/bitmaps.md`.
impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fate::Abdicate => "skipped ∪ since",
            Fate::Reclaim => "base ∪ since",
            Fate::ReclaimBoth => "base ∪ since ¹",
            Fate::KeepPartial => "remaining ∪ since ²",
            Fate::LeaveUndecided => "undecided between the two ²",
        })
    }
}

#[cfg(test)]
mod tests;
