//! What a bitmap holds: at rest, or while a job has it.

use std::sync::{Arc, Weak};

use cohort_backup::Settled;
use cohort_bitmap::{DirtyBitmap, Recorder, Stretch, Undecided, View};

use crate::daemon::nodes::Node;

/// What it holds.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each bitmap, and it is rarely moved"
)]
pub(super) enum Content {
    /// At rest. With a partial its views are two, and the targets that one of them speaks of are remembered.
    Settled {
        settled: Settled,
        partial: Vec<Weak<Node>>,
    },
    /// A job has it: this is what it held when the job began, and what has been written since.
    Lent {
        base: DirtyBitmap,
        since: Recorder,
        /// If that spoke of a partial.
        beneath: Option<Beneath>,
    },
}

/// What a bitmap held against the last point, while a job has what it held against a partial.
#[derive(Debug)]
pub(super) struct Beneath {
    base: DirtyBitmap,
    partial: Vec<Weak<Node>>,
}

impl Content {
    /// One view.
    pub(super) fn of(view: View) -> Self {
        Self::Settled {
            settled: Settled::Point(view),
            partial: Vec::new(),
        }
    }

    /// What a job left; a partial's view speaks of `target`. What the bitmap held `beneath`, it holds again: no job but
    /// one that commits takes from it what no point has.
    pub(super) fn left(settled: Settled, target: &Arc<Node>, beneath: Option<Beneath>) -> Self {
        let own = settled.partial().map(|_| Arc::downgrade(target));
        let Some(Beneath { base, mut partial }) = beneath else {
            let partial = own.into_iter().collect();
            return Self::Settled { settled, partial };
        };
        partial.extend(own);
        let point = View::with_recorder(base, settled.point().recorder().clone());
        let settled = match settled {
            Settled::Point(before) => Settled::Both {
                point,
                partial: before,
            },
            Settled::Both { partial, .. } => Settled::Both { point, partial },
            Settled::Undecided(undecided) => {
                Settled::Undecided(Undecided::new(point, undecided.keep().1))
            }
        };
        Self::Settled { settled, partial }
    }

    /// What the job that has it was not lent.
    pub(super) fn take_beneath(&mut self) -> Option<Beneath> {
        match self {
            Self::Lent { beneath, .. } => beneath.take(),
            Self::Settled { .. } => None,
        }
    }

    /// Lends its view; nothing if it is lent already.
    pub(super) fn lend(&mut self) -> Option<View> {
        let Self::Settled { settled, partial } = self else {
            return None;
        };
        let view = current(settled, partial);
        let (base, since) = (view.snapshot(), view.recorder().clone());
        let beneath = (!std::ptr::eq(view, settled.point())).then(|| Beneath {
            base: settled.point().snapshot(),
            partial: partial.clone(),
        });
        let lent = View::with_recorder(base.clone(), since.clone());
        *self = Self::Lent {
            base,
            since,
            beneath,
        };
        Some(lent)
    }

    /// What is dirty now, as clients see it: frozen while a job has it.
    pub(super) fn seen(&self) -> DirtyBitmap {
        match self {
            Self::Settled { settled, partial } => current(settled, partial).snapshot(),
            Self::Lent { base, .. } => base.clone(),
        }
    }

    /// Whether the byte at `start` is dirty now, and for how far, at most `length`, that stays so: also of what is written while
    /// a job has it.
    pub(super) fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        match self {
            Self::Settled { settled, partial } => current(settled, partial).status(start, length),
            Self::Lent { base, since, .. } => {
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
            Self::Lent {
                base,
                since,
                beneath,
            } => {
                let whole = beneath.as_ref().map_or(base, |beneath| &beneath.base);
                View::with_recorder(whole.clone(), since.clone()).snapshot()
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
            Self::Lent { base, since, .. } => Self::Lent {
                base: base.clone(),
                since: since.clone(),
                // No bitmap in use is merged into.
                beneath: None,
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
            partial.clear();
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

/// The view that counts: that against the partial if it is to be kept, as long as all that it lies in is there.
fn current<'a>(settled: &'a Settled, partial: &[Weak<Node>]) -> &'a View {
    let there = partial.iter().all(|target| target.strong_count() > 0);
    match settled {
        Settled::Both { partial, .. } if there => partial,
        Settled::Both { point, .. } | Settled::Point(point) => point,
        Settled::Undecided(undecided) => undecided.point(),
    }
}

#[cfg(test)]
mod tests {
    use cohort_bitmap::Granularity;
    use cohort_block::{Gated, NullDevice};
    use cohort_qmp::DetectZeroes;

    use super::*;
    use crate::daemon::nodes::{Owner, Traits};

    const SIZE: u64 = 1 << 20;

    fn node() -> Arc<Node> {
        let disk = NullDevice::new("t", SIZE, std::time::Duration::ZERO);
        let traits = Traits {
            read_only: false,
            direct: false,
            no_flush: false,
            detect_zeroes: DetectZeroes::Off,
        };
        let disk = Arc::new(Gated::new(Arc::new(disk)));
        let (owner, name) = (Owner::Client, "t".to_owned());
        Arc::new(Node::new(
            name.clone(),
            "null-co",
            owner,
            traits,
            disk,
            Vec::new(),
            name,
        ))
    }

    fn dirty(from: u64) -> DirtyBitmap {
        let mut bits = DirtyBitmap::new(SIZE, Granularity::DEFAULT).unwrap();
        bits.set(from, SIZE - from).unwrap();
        bits
    }

    /// A job is lent the bitmap, and leaves what `ends` says; another target of it is made, and given.
    fn job(content: &mut Content, ends: impl FnOnce(View) -> Settled) -> Arc<Node> {
        let target = node();
        let settled = ends(content.lend().unwrap());
        let beneath = content.take_beneath();
        *content = Content::left(settled, &target, beneath);
        target
    }

    #[test]
    fn whatever_later_jobs_do_a_lost_partial_costs_no_granule() {
        let (all, half, rest) = (dirty(0), dirty(SIZE / 2), dirty(SIZE / 4 * 3));
        let keeps = |remaining: &DirtyBitmap| {
            let remaining = remaining.clone();
            move |view: View| {
                let (point, partial) = view.split().keep(&remaining);
                Settled::Both { point, partial }
            }
        };
        let reclaims = |view: View| Settled::Point(view.split().reclaim());
        let mut content = Content::of(View::new(all.clone()));
        let first = job(&mut content, keeps(&half));
        let nothing = job(&mut content, reclaims);
        assert_eq!((content.seen(), content.whole()), (half, all.clone()));
        drop(nothing);
        let second = job(&mut content, keeps(&rest));
        assert_eq!((content.seen(), content.whole()), (rest, all.clone()));
        let _lent = content.lend().unwrap();
        assert_eq!(content.whole(), all, "while a job has it");
        let lent = View::new(dirty(0));
        content = Content::left(reclaims(lent), &second, None);
        assert_eq!(content.seen(), all, "a commit is the end of both");
        let first_gone = |content: &mut Content| {
            let first = job(content, keeps(&dirty(SIZE / 2)));
            let second = job(content, keeps(&dirty(SIZE / 4 * 3)));
            (first, second)
        };
        let (one, other) = first_gone(&mut content);
        drop(one);
        assert_eq!(content.seen(), all, "the second goes by the first");
        drop((first, second, other));
        assert_eq!(content.seen(), all);
    }
}
