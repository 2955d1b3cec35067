//! What a bitmap holds: at rest, or while a job has it.

use std::sync::{Arc, Weak};

use cohort_backup::Settled;
use cohort_bitmap::{DirtyBitmap, Recorder, Stretch, View};

use crate::daemon::nodes::Node;

/// What it holds.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each bitmap, and it is rarely moved"
)]
pub(super) enum Content {
    /// At rest. With a partial its views are two, and the target that one of them speaks of is remembered.
    Settled {
        settled: Settled,
        partial: Option<Weak<Node>>,
    },
    /// A job has it: this is what it held when the job began, and what has been written since.
    Lent { base: DirtyBitmap, since: Recorder },
}

impl Content {
    /// One view.
    pub(super) fn of(view: View) -> Self {
        Self::Settled {
            settled: Settled::Point(view),
            partial: None,
        }
    }

    /// What a job left; a partial's view speaks of `target`.
    pub(super) fn left(settled: Settled, target: &Arc<Node>) -> Self {
        let partial = settled.partial().map(|_| Arc::downgrade(target));
        Self::Settled { settled, partial }
    }

    /// Lends its view; nothing if it is lent already.
    pub(super) fn lend(&mut self) -> Option<View> {
        let Self::Settled { settled, partial } = self else {
            return None;
        };
        let view = current(settled, partial.as_ref());
        let (base, since) = (view.snapshot(), view.recorder().clone());
        let lent = View::with_recorder(base.clone(), since.clone());
        *self = Self::Lent { base, since };
        Some(lent)
    }

    /// What is dirty now, as clients see it: frozen while a job has it.
    pub(super) fn seen(&self) -> DirtyBitmap {
        match self {
            Self::Settled { settled, partial } => current(settled, partial.as_ref()).snapshot(),
            Self::Lent { base, .. } => base.clone(),
        }
    }

    /// Whether the byte at `start` is dirty now, and for how far, at most `length`, that stays so: also of what is written while
    /// a job has it.
    pub(super) fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        match self {
            Self::Settled { settled, partial } => {
                current(settled, partial.as_ref()).status(start, length)
            }
            Self::Lent { base, since } => {
                let length = length.min(base.size().checked_sub(start)?);
                let before = base.status(start, length).ok()?;
                Some(since.status(start, length)?.joined(before))
            }
        }
    }

    /// Everything that is dirty, whatever partial there is, and what was written while a job had it.
    pub(super) fn whole(&self) -> DirtyBitmap {
        match self {
            Self::Settled { settled, .. } => settled.point().snapshot(),
            Self::Lent { base, since } => {
                View::with_recorder(base.clone(), since.clone()).snapshot()
            }
        }
    }

    /// The same and what is dirty in these.
    pub(super) fn merged(&self, sources: &[DirtyBitmap]) -> Self {
        let merged = |view: &View| {
            let mut sum = view.snapshot();
            for source in sources {
                sum.merge(source).expect("sizes were compared before");
            }
            View::with_recorder(sum, view.recorder().clone())
        };
        match self {
            Self::Settled { settled, partial } => Self::Settled {
                settled: match settled.partial() {
                    Some(second) => Settled::Both {
                        point: merged(settled.point()),
                        partial: merged(second),
                    },
                    None => Settled::Point(merged(settled.point())),
                },
                partial: partial.clone(),
            },
            Self::Lent { base, since } => Self::Lent {
                base: base.clone(),
                since: since.clone(),
            },
        }
    }

    pub(super) fn is_lent(&self) -> bool {
        matches!(self, Self::Lent { .. })
    }

    /// Whether a partial waits for a word.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(
            self,
            Self::Settled {
                settled: Settled::Undecided(_),
                ..
            }
        )
    }

    /// Answers for a partial that waits for a word; whether one does.
    pub(super) fn decide(&mut self, keep: bool) -> bool {
        let Self::Settled { settled, partial } = self else {
            return false;
        };
        let Settled::Undecided(undecided) = settled else {
            return false;
        };
        let view = |view: &View| View::with_recorder(view.snapshot(), view.recorder().clone());
        let point = view(undecided.point());
        if keep {
            let second = view(undecided.partial());
            *settled = Settled::Both {
                point,
                partial: second,
            };
        } else {
            *settled = Settled::Point(point);
            *partial = None;
        }
        true
    }

    /// Where writes are marked. While a job has the bitmap that is the job's business.
    pub(super) fn recorder(&self) -> Recorder {
        match self {
            Self::Settled { settled, .. } => settled.point().recorder().clone(),
            Self::Lent { since, .. } => since.clone(),
        }
    }
}

/// The view that counts: that against the partial if it is to be kept, as long as its target is there.
fn current<'a>(settled: &'a Settled, partial: Option<&Weak<Node>>) -> &'a View {
    let there = partial.is_some_and(|target| target.strong_count() > 0);
    match settled {
        Settled::Both { partial, .. } if there => partial,
        Settled::Both { point, .. } | Settled::Point(point) => point,
        Settled::Undecided(undecided) => undecided.point(),
    }
}
