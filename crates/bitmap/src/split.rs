//! A view in use: base and successor, and their four ends, each taking the split by value.
//!
//! The idea of base and successor is that of `qemu:block/dirty-bitmap.c`; that the end may be left
//! undecided, that a cancelled run can be undone, was wished for on qemu-devel on 2019-06-21.

use crate::{DirtyBitmap, Recorder, View};

/// A view between the start of a backup and its end.
///
/// Its content at the start is frozen as the *base*; the *successor* records what is written since.
/// It ends once, in exactly one of [`abdicate`](Self::abdicate), [`reclaim`](Self::reclaim) (or
/// [`reclaim_both`](Self::reclaim_both)), [`keep`](Self::keep) and
/// [`leave_undecided`](Self::leave_undecided). If the disk is resized meanwhile, end the split and
/// then [resize](View::resize) what it gives back.
///
/// Ending twice cannot be written:
///
/// ```compile_fail,E0382
/// # use cohort_bitmap::{DirtyBitmap, Granularity, View};
/// let split = View::new(DirtyBitmap::new(1 << 20, Granularity::DEFAULT).unwrap()).split();
/// let view = split.reclaim();
/// let again = split.reclaim(); // error[E0382]: use of moved value: `split`
/// ```
#[derive(Debug)]
#[must_use = "a split that is not ended forgets what was written"]
pub struct Split {
    /// Content of the view against the last point, at the start.
    base: DirtyBitmap,
    /// Content of the view against the partial that this run continues, at the start.
    partial_base: Option<DirtyBitmap>,
    successor: Recorder,
}

impl Split {
    pub(crate) fn of(point: View, partial: Option<View>) -> Split {
        let base = point.snapshot();
        let partial_base = partial.map(|partial| partial.snapshot().fitted_to(&base));
        let successor = Recorder::like(&base);
        Split {
            base,
            partial_base,
            successor,
        }
    }

    /// What was dirty against the last point when the split was made. Does not change.
    pub fn base(&self) -> &DirtyBitmap {
        &self.base
    }

    /// What this run has to copy: the base, or what was dirty against the partial that it continues.
    pub fn to_copy(&self) -> &DirtyBitmap {
        self.partial_base.as_ref().unwrap_or(&self.base)
    }

    /// Whether the run continues a partial.
    pub fn continues_partial(&self) -> bool {
        self.partial_base.is_some()
    }

    /// The successor, to be installed where writes pass before the next of them.
    pub fn successor(&self) -> &Recorder {
        &self.successor
    }

    /// A new point holds everything but `skipped`: the view against it is *skipped ∪ since*.
    pub fn abdicate(self, skipped: &DirtyBitmap) -> View {
        let skipped = skipped.fitted_to(&self.base);
        View::with_recorder(skipped, self.successor)
    }

    /// The run changed nothing: the view against the last point is *base ∪ since*. If the run
    /// continued a partial, the view against that is dropped.
    pub fn reclaim(self) -> View {
        self.reclaim_both().0
    }

    /// As [`reclaim`](Self::reclaim), and the view against the partial that the run continued, if
    /// any, comes back as well.
    pub fn reclaim_both(self) -> (View, Option<View>) {
        let Split {
            base,
            partial_base,
            successor,
        } = self;
        let partial = partial_base.map(|fixed| View::with_recorder(fixed, successor.clone()));
        (View::with_recorder(base, successor), partial)
    }

    /// The target is a partial that holds everything but `remaining`: the views against the last
    /// point (*base ∪ since*) and against the partial (*remaining ∪ since*), in this order. They
    /// share one recorder.
    ///
    /// `remaining` may have another granularity (it is rounded outward); where it says nothing,
    /// past its end, everything remains.
    pub fn keep(self, remaining: &DirtyBitmap) -> (View, View) {
        let remaining = remaining.fitted_to(&self.base);
        let partial = View::with_recorder(remaining, self.successor.clone());
        (self.reclaim(), partial)
    }

    /// As [`keep`](Self::keep), but somebody shall say later whether the partial may be used.
    pub fn leave_undecided(self, remaining: &DirtyBitmap) -> Undecided {
        let (point, partial) = self.keep(remaining);
        Undecided { point, partial }
    }
}

/// A bitmap waiting for keep or discard: both views, still recording, until one word ends it.
///
/// ```compile_fail,E0382
/// # fn answer_twice(undecided: cohort_bitmap::Undecided) {
/// let both = undecided.keep();
/// let one = undecided.discard(); // error[E0382]: use of moved value: `undecided`
/// # }
/// ```
#[derive(Debug)]
#[must_use = "an undecided bitmap that is dropped forgets what was written"]
pub struct Undecided {
    point: View,
    partial: View,
}

impl Undecided {
    /// Takes two views up again, that against the last point and that against the partial, for
    /// instance after a restart. Both must share a recorder, or record the same writes.
    pub fn new(point: View, partial: View) -> Undecided {
        Undecided { point, partial }
    }

    /// What "discard" would leave: the view against the last point.
    pub fn point(&self) -> &View {
        &self.point
    }

    /// What "keep" would add: the view against the partial.
    pub fn partial(&self) -> &View {
        &self.partial
    }

    /// Follows a resize of the disk, as [`View::resize`] does.
    pub fn resize(&mut self, successor: &Recorder) {
        self.point.resize(successor);
        self.partial.resize(successor);
    }

    /// The partial may be used: both views, the last point's first.
    pub fn keep(self) -> (View, View) {
        (self.point, self.partial)
    }

    /// The partial is dropped: the view against the last point.
    pub fn discard(self) -> View {
        self.point
    }
}
