//! The stage: every request that a room makes of a disk or a file waits here until it is let go on.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum What {
    /// The source is read.
    Read,
    /// A writer's data reaches the source.
    Write,
    /// The target is written to.
    Save,
    /// The target is made durable.
    Sync,
}

/// Who asks, as far as the name of the thread says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Who {
    /// A user of the disk.
    Writer(u8),
    /// Who starts the run.
    Starter,
    /// A copy, a scan or a verdict.
    Task,
    /// A hook.
    Worker,
    /// Who brings old data to the target.
    Saver,
    /// Who makes a checkpoint.
    Checkpoint,
    /// Who flushes under a deadline.
    Flusher,
    /// Anybody else.
    Other,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    /// Who asks.
    pub(super) who: Who,
    /// What for.
    pub(super) what: What,
    /// Of which disk.
    pub(super) disk: usize,
    /// From which byte on.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) length: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Go,
    Fail,
}

/// Where requests wait. Clones are the same stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How everybody is answered at once; none if they wait.
    standing: Option<Answer>,
    waiting: Vec<Waiting>,
    next: u64,
    arrivals: u64,
    /// Bytes that cannot be read, by disk.
    bad: BTreeSet<(usize, u64)>,
}

#[derive(Debug)]
struct Waiting {
    moment: Moment,
    ticket: u64,
    answer: Option<Answer>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            standing: Some(Answer::Go),
            waiting: Vec::new(),
            next: 0,
            arrivals: 0,
            bad: BTreeSet::new(),
        }
    }
}

impl Stage {
    /// Waits for an answer.
    pub(super) fn reach(&self, what: What, disk: usize, offset: u64, length: u64) -> Answer {
        let mut state = self.lock();
        if let Some(answer) = state.standing {
            return answer;
        }
        let ticket = state.next;
        state.next += 1;
        state.arrivals += 1;
        state.waiting.push(Waiting {
            moment: Moment {
                who: who(),
                what,
                disk,
                offset,
                length,
            },
            ticket,
            answer: None,
        });
        self.0.changed.notify_all();
        loop {
            let at = state
                .waiting
                .iter()
                .position(|other| other.ticket == ticket);
            if let Some(at) = at
                && let Some(answer) = state.waiting[at].answer
            {
                state.waiting.remove(at);
                return answer;
            }
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether bytes of a disk cannot be read.
    pub(super) fn is_bad(&self, disk: usize, offset: u64, length: u64) -> bool {
        let state = self.lock();
        let range = (disk, offset)..(disk, offset + length);
        state.bad.range(range).next().is_some()
    }

    /// From now on these bytes, and no others, cannot be read.
    pub(super) fn spoil(&self, bad: impl IntoIterator<Item = (usize, u64)>) {
        self.lock().bad = bad.into_iter().collect();
    }

    /// Has everybody wait from now on.
    pub(super) fn close(&self) {
        self.lock().standing = None;
    }

    /// Answers everybody so, who waits and who will come.
    pub(super) fn open(&self, answer: Answer) {
        let mut state = self.lock();
        state.standing = Some(answer);
        for waiting in &mut state.waiting {
            waiting.answer.get_or_insert(answer);
        }
        self.0.changed.notify_all();
    }

    /// Who waits, in an order that does not depend on who came first.
    pub(super) fn waiting(&self) -> Vec<Moment> {
        let state = self.lock();
        let unanswered = state
            .waiting
            .iter()
            .filter(|waiting| waiting.answer.is_none());
        let mut moments: Vec<_> = unanswered.map(|waiting| waiting.moment).collect();
        moments.sort_unstable();
        moments
    }

    /// Lets one of those who wait go on.
    pub(super) fn answer(&self, moment: Moment, answer: Answer) {
        let mut state = self.lock();
        let one = state
            .waiting
            .iter_mut()
            .find(|waiting| waiting.moment == moment && waiting.answer.is_none());
        if let Some(one) = one {
            one.answer = Some(answer);
        }
        self.0.changed.notify_all();
    }

    /// Waits a moment for somebody to come: for what only time brings about.
    pub(super) fn wait_for_anybody(&self) {
        let state = self.lock();
        let before = state.arrivals;
        drop(
            self.0
                .changed
                .wait_timeout_while(state, Duration::from_millis(2), |state| {
                    state.arrivals == before
                }),
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who this thread is.
fn who() -> Who {
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    if let Some(number) = name.strip_prefix("writer-") {
        return Who::Writer(number.parse().unwrap_or(u8::MAX));
    }
    match name {
        "starter" => Who::Starter,
        "cohort-task" => Who::Task,
        "cohort-worker" => Who::Worker,
        "cohort-checkpoint" => Who::Checkpoint,
        "cohort-flush" => Who::Flusher,
        _ if name.starts_with("saver-") => Who::Saver,
        _ => Who::Other,
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moment {
            who,
            what,
            disk,
            offset,
            length,
        } = self;
        write!(
            f,
            "{who:?}: {what:?} disk {disk}, {length} bytes at {offset}"
        )
    }
}
