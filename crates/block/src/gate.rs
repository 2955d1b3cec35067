//! The turnstile: who is inside, who waits, who closes it, and in which order. Knows nothing of what is
//! written.
//!
//! Turns are fair. Writes that arrive while somebody closes or has closed the gate wait; when that one
//! opens it or gives up, all of them are let in before the next one closes it. So a closer waits only
//! for writes that were there before it, and a write waits for one closer at most.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Monitor;

/// The place of a gate in the order in which several are closed. Unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GateId(u64);

impl GateId {
    fn next() -> Self {
        // Not one of loom's: nothing waits on it.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What kept a gate from closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// So many writes had not returned.
    Writes(u64),
    /// Another fence, of this name, had it closed.
    Fence(String),
}

/// A gate that gives whoever enters what is installed there.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    id: GateId,
    state: Monitor<State<T>>,
}

#[derive(Debug, Default)]
struct State<T> {
    /// Writes between enter and leave.
    inside: u64,
    /// Writes that wait for the turn to change.
    waiting: u64,
    /// Who wants the gate closed, or has it closed.
    closers: u64,
    closed_by: Option<Arc<str>>,
    /// Counts how often waiting writes were let in.
    turn: u64,
    /// Writes take the whole of it along as they enter.
    installed: Arc<T>,
}

impl<T: Clone + Default> Gate<T> {
    pub(crate) fn new() -> Self {
        Self {
            id: GateId::next(),
            state: Monitor::default(),
        }
    }

    pub(crate) fn id(&self) -> GateId {
        self.id
    }

    /// Waits while somebody closes the gate or has it closed.
    pub(crate) fn enter(&self) -> Inside<'_, T> {
        let mut state = self.state.lock();
        let mut arrived = None;
        if state.closers == 0 {
            state.inside += 1;
        } else {
            // Whoever changes the turn counts us in, so no closer can slip in between.
            arrived = Some(Instant::now());
            state.waiting += 1;
            let turn = state.turn;
            while state.turn == turn {
                state = self.state.wait(state);
            }
        }
        Inside {
            gate: self,
            installed: Arc::clone(&state.installed),
            arrived,
            at_gate: arrived.map(|arrived| arrived.elapsed()),
        }
    }

    /// From now on writes that arrive wait; those inside go on.
    pub(crate) fn approach(&self) -> Closing<'_, T> {
        self.state.lock().closers += 1;
        Closing {
            gate: self,
            closed: false,
        }
    }

    /// Changes what is installed for whoever enters from now on.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(Arc::make_mut(&mut self.state.lock().installed))
    }

    /// What is installed.
    pub(crate) fn installed(&self) -> Arc<T> {
        Arc::clone(&self.state.lock().installed)
    }

    /// How many wait.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn waiting(&self) -> u64 {
        self.state.lock().waiting
    }

    /// How many want it closed, or have it closed.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn closers(&self) -> u64 {
        self.state.lock().closers
    }
}

impl<T> State<T> {
    fn closer_leaves(&mut self, had_closed: bool) {
        self.closers -= 1;
        if had_closed {
            self.closed_by = None;
        }
        if self.closed_by.is_none() {
            self.inside += self.waiting;
            self.waiting = 0;
            self.turn += 1;
        }
    }

    fn held_by(&self) -> HeldBy {
        match &self.closed_by {
            Some(who) => HeldBy::Fence(who.to_string()),
            None => HeldBy::Writes(self.inside),
        }
    }
}

/// A write on its way. Leaves when dropped, however the write ended.
#[derive(Debug)]
pub(crate) struct Inside<'a, T> {
    gate: &'a Gate<T>,
    pub(crate) installed: Arc<T>,
    /// When it arrived, if it had to wait: its patience counts from there.
    pub(crate) arrived: Option<Instant>,
    /// How long it waited, if it had to.
    pub(crate) at_gate: Option<Duration>,
}

impl<T> Drop for Inside<'_, T> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.inside -= 1;
        if state.inside == 0 && state.closers > 0 {
            self.gate.state.ring();
        }
    }
}

/// Somebody who wants a gate closed, or has it closed: nobody is inside then. Dropped, it gives up or
/// opens: the waiting writes go in.
#[derive(Debug)]
#[must_use = "dropped, it lets writes in again"]
pub(crate) struct Closing<'a, T> {
    gate: &'a Gate<T>,
    closed: bool,
}

impl<T> Closing<'_, T> {
    /// Waits until no write is inside and nobody else has it closed.
    pub(crate) fn close(&mut self, who: &Arc<str>, deadline: Instant) -> Result<(), HeldBy> {
        let monitor = &self.gate.state;
        let mut state = monitor.lock();
        while state.inside > 0 || state.closed_by.is_some() {
            state = match monitor.wait_until(state, deadline) {
                Ok(state) => state,
                Err(state) => return Err(state.held_by()),
            };
        }
        state.closed_by = Some(Arc::clone(who));
        self.closed = true;
        Ok(())
    }
}

impl<T> Drop for Closing<'_, T> {
    fn drop(&mut self) {
        self.gate.state.lock().closer_leaves(self.closed);
        self.gate.state.ring();
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeldBy::Writes(1) => f.write_str("one write had not returned"),
            HeldBy::Writes(count) => write!(f, "{count} writes had not returned"),
            HeldBy::Fence(who) => write!(f, "the fence of {who} had it closed"),
        }
    }
}
