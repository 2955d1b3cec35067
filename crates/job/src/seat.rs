//! What the shell keeps for one job beside its driver: its gate, and what only some jobs need.

use std::collections::VecDeque;

use crate::limit::Limit;
use crate::pause::Gate;
use crate::progress::Progress;
use crate::sync::{Mutex, MutexGuard, OnceBox};
use crate::timer::Alarm;
use crate::{Record, Snapshot};

/// A blocking piece of a job's work.
pub(crate) type Task = Box<dyn FnOnce() + Send + 'static>;

/// One job as the shell sees it. Kept small: there may be a million.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    pub(crate) gate: Gate,
    cold: OnceBox<Cold>,
}

/// What a job has only once it asks for it.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    pub(crate) progress: Progress,
    odds: Mutex<Odds>,
}

/// Odds and ends under one lock, which is never held while a driver's code runs.
#[derive(Default)]
pub(crate) struct Odds {
    pub(crate) limit: Limit,
    pub(crate) alarm: Option<Alarm>,
    pub(crate) record: Option<Record>,
    /// How many of its tasks may run at a time; 0 stands for the engine's default.
    pub(crate) task_limit: u32,
    /// Tasks that have a thread, and those that wait for one.
    pub(crate) running: u32,
    pub(crate) waiting: VecDeque<Task>,
}

impl std::fmt::Debug for Odds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Odds")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Odds {
    /// Tasks in flight.
    pub(crate) fn tasks(&self) -> usize {
        self.running as usize + self.waiting.len()
    }
}

impl Seat {
    /// What this job rarely needs, made now if need be.
    pub(crate) fn cold(&self) -> &Cold {
        self.cold.get_or_init(Box::default)
    }

    /// The odds, made now if need be.
    pub(crate) fn odds(&self) -> MutexGuard<'_, Odds> {
        self.cold().odds.lock()
    }

    /// The odds, if this job ever needed any.
    #[inline]
    pub(crate) fn odds_if_any(&self) -> Option<MutexGuard<'_, Odds>> {
        self.cold.get().map(|cold| cold.odds.lock())
    }

    pub(crate) fn progress(&self) -> Snapshot {
        self.cold
            .get()
            .map(|cold| cold.progress.snapshot())
            .unwrap_or_default()
    }
}
