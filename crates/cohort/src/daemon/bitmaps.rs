//! A node's dirty bitmap: what it holds, and who has it.

use std::sync::{Arc, Mutex};

use cohort_backup::Settled;
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, Stretch, View};
use cohort_block::ClosedGate;
use cohort_qmp::{BitmapInfo, Error};

use super::lock;
use super::nodes::Node;

/// Most bitmaps of one node.
pub(super) const MOST_BITMAPS: usize = 1024;

/// A bitmap under a name.
#[derive(Debug)]
pub(super) struct Bitmap {
    pub(super) name: String,
    pub(super) granularity: Granularity,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    content: Content,
    /// Whether writes count.
    enabled: bool,
    /// How many exports show it, so that it must not change by command.
    exports: usize,
    /// It is to be removed by a transaction that is not over.
    leaving: bool,
}

/// What it holds.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each bitmap, and it is rarely moved"
)]
enum Content {
    /// At rest. With a partial its views are two, and the target that one of them speaks of is remembered.
    Settled {
        settled: Settled,
        partial: Option<std::sync::Weak<Node>>,
    },
    /// A job has it: this is what it held when the job began, and what has been written since.
    Lent { base: DirtyBitmap, since: Recorder },
}

/// What a bitmap held, to be put back.
#[derive(Debug)]
pub(super) struct Before(Box<Content>);

impl Bitmap {
    /// An empty one, which records from now on if it is enabled.
    pub(super) fn new(
        name: &str,
        empty: DirtyBitmap,
        enabled: bool,
        closed: &mut ClosedGate<'_>,
    ) -> Self {
        let granularity = empty.granularity();
        let view = View::new(empty);
        if enabled {
            closed.install_recorder(view.recorder().clone());
        }
        Self {
            name: name.to_owned(),
            granularity,
            state: Mutex::new(State {
                content: point(view),
                enabled,
                exports: 0,
                leaving: false,
            }),
        }
    }

    /// Refuses while somebody has it.
    pub(super) fn check_free(&self) -> Result<(), Error> {
        let state = lock(&self.state);
        if state.is_busy() {
            let name = &self.name;
            return Err(Error::generic(format!(
                "Bitmap '{name}' is currently in use by another operation and cannot be used"
            )));
        }
        Ok(())
    }

    /// What is dirty now, as clients see it: frozen while a job has it.
    pub(super) fn snapshot(&self) -> DirtyBitmap {
        match &lock(&self.state).content {
            Content::Settled { settled, partial } => current(settled, partial.as_ref()).snapshot(),
            Content::Lent { base, .. } => base.clone(),
        }
    }

    /// What queries say of it.
    pub(super) fn info(&self) -> BitmapInfo {
        let count = self.snapshot().count();
        let state = lock(&self.state);
        BitmapInfo {
            name: Some(self.name.clone()),
            count,
            granularity: u32::try_from(self.granularity.bytes()).unwrap_or(u32::MAX),
            recording: state.enabled,
            busy: state.is_busy(),
            persistent: false,
            inconsistent: None,
        }
    }

    /// Whether writes count.
    pub(super) fn is_enabled(&self) -> bool {
        lock(&self.state).enabled
    }

    /// Empties it; gives what it held.
    pub(super) fn clear(&self, closed: &mut ClosedGate<'_>) -> Before {
        let mut state = lock(&self.state);
        let mut empty = self.shape(&state);
        empty.clear();
        let view = View::new(empty);
        let fresh = view.recorder().clone();
        self.put(&mut state, point(view), fresh, closed)
    }

    /// Adds what is dirty in these; gives what it held.
    pub(super) fn merge(&self, sources: &[DirtyBitmap]) -> Before {
        let mut state = lock(&self.state);
        let merged = |view: &View| {
            let mut sum = view.snapshot();
            for source in sources {
                sum.merge(source).expect("sizes were compared before");
            }
            View::with_recorder(sum, view.recorder().clone())
        };
        let content = match &state.content {
            Content::Settled { settled, partial } => Content::Settled {
                settled: match settled.partial() {
                    Some(second) => Settled::Both {
                        point: merged(settled.point()),
                        partial: merged(second),
                    },
                    None => Settled::Point(merged(settled.point())),
                },
                partial: partial.clone(),
            },
            Content::Lent { base, since } => Content::Lent {
                base: base.clone(),
                since: since.clone(),
            },
        };
        Before(Box::new(std::mem::replace(&mut state.content, content)))
    }

    /// Puts back what it held.
    pub(super) fn restore(&self, before: Before, closed: &mut ClosedGate<'_>) {
        let mut state = lock(&self.state);
        let recorder = before.0.recorder();
        self.put(&mut state, *before.0, recorder, closed);
    }

    /// Lets writes count from now on, or not.
    pub(super) fn set_enabled(&self, enabled: bool, closed: &mut ClosedGate<'_>) {
        let mut state = lock(&self.state);
        state.enabled = enabled;
        let recorder = state.content.recorder();
        if enabled {
            closed.install_recorder(recorder);
        } else {
            closed.remove_recorder(&recorder);
        }
    }

    /// Marks it as to be removed, or not.
    pub(super) fn set_leaving(&self, leaving: bool) {
        lock(&self.state).leaving = leaving;
    }

    /// Records no more; it is not of its node any longer.
    pub(super) fn retire(&self, closed: &mut ClosedGate<'_>) {
        closed.remove_recorder(&lock(&self.state).content.recorder());
    }

    /// Gives the view to a job; [`come_back`](Self::come_back) ends that. Nothing if it is lent already.
    pub(super) fn lend(&self) -> Option<View> {
        let mut state = lock(&self.state);
        let Content::Settled { settled, partial } = &state.content else {
            return None;
        };
        let view = current(settled, partial.as_ref());
        let (base, since) = (view.snapshot(), view.recorder().clone());
        let lent = View::with_recorder(base.clone(), since.clone());
        state.content = Content::Lent { base, since };
        Some(lent)
    }

    /// Takes back what a job left, and remembers the target that a partial's view speaks of.
    pub(super) fn come_back(&self, settled: Settled, target: &Arc<Node>) {
        let partial = settled.partial().map(|_| Arc::downgrade(target));
        lock(&self.state).content = Content::Settled { settled, partial };
    }

    /// Answers for a partial that waits for a word. An error if none does.
    pub(super) fn decide(&self, keep: bool) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let Content::Settled { settled, partial } = &mut state.content else {
            return self.nothing_to_decide();
        };
        let Settled::Undecided(undecided) = settled else {
            return self.nothing_to_decide();
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
        Ok(())
    }

    fn nothing_to_decide(&self) -> Result<(), Error> {
        let name = &self.name;
        let text = format!("Bitmap '{name}' does not wait for an answer");
        Err(Error::generic(text))
    }

    /// Whether a partial waits for a word.
    pub(super) fn is_undecided(&self) -> bool {
        let state = lock(&self.state);
        matches!(
            &state.content,
            Content::Settled {
                settled: Settled::Undecided(_),
                ..
            }
        )
    }

    /// Counts an export that shows it, or one less.
    pub(super) fn set_exported(&self, exported: bool) {
        let mut state = lock(&self.state);
        state.exports = match exported {
            true => state.exports + 1,
            false => state.exports.saturating_sub(1),
        };
    }

    /// Whether the byte at `start` is dirty now, and for how far, at most `length`, that stays so.
    pub(super) fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        match &lock(&self.state).content {
            Content::Settled { settled, partial } => {
                current(settled, partial.as_ref()).status(start, length)
            }
            Content::Lent { base, .. } => {
                let length = length.min(base.size().checked_sub(start)?);
                base.status(start, length).ok()
            }
        }
    }

    fn shape(&self, state: &State) -> DirtyBitmap {
        match &state.content {
            Content::Settled { settled, .. } => settled.point().snapshot(),
            Content::Lent { base, .. } => base.clone(),
        }
    }

    fn put(
        &self,
        state: &mut State,
        content: Content,
        fresh: Recorder,
        closed: &mut ClosedGate<'_>,
    ) -> Before {
        closed.remove_recorder(&state.content.recorder());
        if state.enabled {
            closed.install_recorder(fresh);
        }
        Before(Box::new(std::mem::replace(&mut state.content, content)))
    }
}

impl State {
    fn is_busy(&self) -> bool {
        matches!(self.content, Content::Lent { .. }) || self.exports > 0 || self.leaving
    }
}

impl Content {
    /// Where writes are marked. While a job has the bitmap that is the job's business.
    fn recorder(&self) -> Recorder {
        match self {
            Content::Settled { settled, .. } => settled.point().recorder().clone(),
            Content::Lent { since, .. } => since.clone(),
        }
    }
}

fn point(view: View) -> Content {
    Content::Settled {
        settled: Settled::Point(view),
        partial: None,
    }
}

/// The view that counts: that against the partial if it is to be kept, as long as its target is there.
fn current<'a>(settled: &'a Settled, partial: Option<&std::sync::Weak<Node>>) -> &'a View {
    let there = partial.is_some_and(|target| target.strong_count() > 0);
    match settled {
        Settled::Both { partial, .. } if there => partial,
        Settled::Both { point, .. } | Settled::Point(point) => point,
        Settled::Undecided(undecided) => undecided.point(),
    }
}
