//! `View`: which granules differ between a disk and one thing that the clean bits speak of.

use crate::{DirtyBitmap, Granularity, Recorder, Split, Stretch};

/// A fixed set, and what a [`Recorder`] has seen since: together, every granule in which the disk
/// may differ from the view's anchor. What the anchor is (a point, a partial) the caller knows.
///
/// Several views of one disk may share a recorder; their fixed sets differ. Nothing is merged
/// before it must be, so ending a backup costs no pass over the bits.
///
/// Not `Clone`: a view is split once, by whoever owns it. To look at it take a
/// [`snapshot`](Self::snapshot).
#[derive(Debug)]
#[must_use = "a dropped view forgets what was written"]
pub struct View {
    fixed: DirtyBitmap,
    recorder: Recorder,
}

impl View {
    /// A view that starts from `fixed`, with a fresh recorder, to be installed where writes pass.
    pub fn new(fixed: DirtyBitmap) -> View {
        let recorder = Recorder::like(&fixed);
        View { fixed, recorder }
    }

    /// A view that starts from `fixed` and shares `recorder`. A set of another shape is fitted to
    /// the recorder's, see [`DirtyBitmap::fitted_to`].
    pub fn with_recorder(fixed: DirtyBitmap, recorder: Recorder) -> View {
        let same_shape =
            fixed.size() == recorder.size() && fixed.granularity() == recorder.granularity();
        let fixed = if same_shape {
            fixed
        } else {
            fixed.fitted(recorder.size(), recorder.granularity())
        };
        View { fixed, recorder }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.recorder.size()
    }

    /// Bytes per bit.
    pub fn granularity(&self) -> Granularity {
        self.recorder.granularity()
    }

    /// Where writes must be recorded for this view to stay true.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Whether the byte at `offset` lies in a dirty granule.
    pub fn get(&self, offset: u64) -> bool {
        self.fixed.get(offset) || self.recorder.get(offset)
    }

    /// Whether the byte at `start` is dirty now, and for how many bytes at least, at most `length`, that stays so: as
    /// [`Recorder::status`].
    pub fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        let seen = self.recorder.status(start, length)?;
        let length = length.min(self.size() - start);
        let fixed = self.fixed.status(start, length).ok()?;
        Some(seen.joined(fixed))
    }

    /// The view's content now: the fixed set joined with what was recorded so far.
    pub fn snapshot(&self) -> DirtyBitmap {
        let mut now = self.recorder.snapshot();
        now.levels.union(&self.fixed.levels);
        now
    }

    /// Follows a resize of the disk: what is dirty stays so, the whole new area becomes dirty, and
    /// from here on `successor`, which has the new shape, records. Call it for every view of the
    /// disk, with one successor, while no write is under way; then install the successor.
    pub fn resize(&mut self, successor: &Recorder) {
        self.fixed = self
            .snapshot()
            .fitted(successor.size(), successor.granularity());
        self.recorder = successor.clone();
    }

    /// Begins a use of this view: freezes its content as the base, and makes a successor that must
    /// be installed where writes pass, in the old recorder's place, **before the next write**: so
    /// call it with the gate of the disk closed.
    pub fn split(self) -> Split {
        Split::of(self, None)
    }

    /// As [`split`](Self::split), for a run that continues a partial: `self` is the view against
    /// the last point, `partial` the one against the partial, whose content is what the run copies.
    pub fn split_continuing(self, partial: View) -> Split {
        Split::of(self, Some(partial))
    }
}
