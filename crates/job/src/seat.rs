//! What the shell keeps for one job: its driver, its gate, and what only some jobs need.

use std::collections::VecDeque;
use std::ops::DerefMut;
use std::sync::OnceLock;

use crate::driver::ErasedDriver;
use crate::limit::Limit;
use crate::pause::Gate;
use crate::progress::Progress;
use crate::sync::{Baton, Mutex, MutexGuard};
use crate::timer::Alarm;
use crate::{Record, Snapshot};

/// A blocking piece of a job's work.
pub(crate) type Task = Box<dyn FnOnce() + Send + 'static>;

/// One job as the shell sees it. Kept small: there may be a million.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) gate: Gate,
    hands: Baton<Hands>,
    /// What the driver said that it waits for. Here because most jobs wait and have nothing else that is cold.
    reason: Mutex<&'static str>,
    cold: OnceLock<Box<Cold>>,
}

/// What a worker holds while it calls a driver. Its order came from the core, so nobody else wants it meanwhile but the
/// watch, which takes members away from a blocked worker: see [`Seat::bar`].
#[derive(Debug)]
pub(crate) struct Hands {
    /// None after its last call.
    pub(crate) driver: Option<Box<dyn ErasedDriver>>,
    /// The last sitting that called it, or that was kept from it: neither that one nor an earlier one may begin here.
    last: u64,
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
    pub(crate) fn new(driver: Box<dyn ErasedDriver>) -> Self {
        Self {
            gate: Gate::new(),
            hands: Baton::new(Hands {
                driver: Some(driver),
                last: 0,
            }),
            reason: Mutex::new(""),
            cold: OnceLock::new(),
        }
    }

    /// Takes the driver in hand for one call, if the worker of this sitting still may.
    pub(crate) fn begin(&self, sitting: u64) -> Option<impl DerefMut<Target = Hands> + '_> {
        let mut hands = self.hands.take()?;
        if hands.last >= sitting {
            return None;
        }
        hands.last = sitting;
        Some(hands)
    }

    /// Keeps the worker of this sitting from beginning here; none if it has begun, which may be over. Otherwise what
    /// [`Seat::unbar`] needs.
    pub(crate) fn bar(&self, sitting: u64) -> Option<u64> {
        let mut hands = self.hands.take()?;
        (hands.last < sitting).then(|| std::mem::replace(&mut hands.last, sitting))
    }

    /// Takes that back.
    pub(crate) fn unbar(&self, before: u64) {
        // Who is barred lets go at once: it holds this only to find that out.
        let mut hands = loop {
            match self.hands.take() {
                Some(hands) => break hands,
                None => std::thread::yield_now(),
            }
        };
        hands.last = before;
    }

    /// Puts another driver in.
    pub(crate) fn put_driver(&self, driver: Box<dyn ErasedDriver>) {
        if let Some(mut hands) = self.hands.take() {
            hands.driver = Some(driver);
        }
    }

    /// Takes the driver out for good, unless a call of it has not come back.
    pub(crate) fn take_driver(&self) -> Option<Box<dyn ErasedDriver>> {
        self.hands.take()?.driver.take()
    }

    /// What it waits for, in its driver's words.
    pub(crate) fn reason(&self) -> &'static str {
        *self.reason.lock()
    }

    pub(crate) fn set_reason(&self, reason: &'static str) {
        *self.reason.lock() = reason;
    }

    /// What this job rarely needs, made now if need be.
    pub(crate) fn cold(&self) -> &Cold {
        self.cold.get_or_init(Box::default)
    }

    /// The odds, made now if need be.
    pub(crate) fn odds(&self) -> MutexGuard<'_, Odds> {
        self.cold().odds.lock()
    }

    /// The odds, if this job ever needed any.
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

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::{AtomicU64, Ordering, explore};
    use crate::{Context, Driver, Step};

    struct Nothing;

    impl Driver for Nothing {
        fn step(&mut self, _: &mut Context<'_>) -> Step {
            Step::done()
        }
    }

    type Seats = Vec<(Seat, AtomicU64)>;

    /// Begins a member and counts that; false if this sitting may not.
    fn work(seats: &Seats, at: usize, sitting: u64) -> bool {
        let (seat, calls) = &seats[at];
        let hands = seat.begin(sitting);
        hands
            .map(|_| calls.fetch_add(1, Ordering::Relaxed))
            .is_some()
    }

    fn seats(count: usize) -> Arc<Seats> {
        let seat = || (Seat::new(Box::new(Nothing)), AtomicU64::new(0));
        Arc::new(std::iter::repeat_with(seat).take(count).collect())
    }

    /// Who cannot begin asks under the lock of the desk whether the member is still its own. Here the first worker only
    /// ever fails where it is barred, so it may simply stop; the second may meet the hand of the first, and tries again.
    fn every_member_is_called_once(count: usize) {
        let seats = seats(count);
        let worker = thread::spawn({
            let seats = Arc::clone(&seats);
            move || (0..count).find(|&at| !work(&seats, at, 1)).unwrap_or(count)
        });
        let taken = (1..count).find(|&at| seats[at].0.bar(1).is_some());
        // Somebody who sat down later takes what was taken away.
        for at in taken.unwrap_or(count)..count {
            while !work(&seats, at, 2) {
                thread::yield_now();
            }
        }
        let stopped = worker.join().unwrap();
        assert_eq!(stopped, taken.unwrap_or(count), "{taken:?}");
        for (_, calls) in seats.iter() {
            assert_eq!(calls.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn the_watch_takes_members_from_a_worker_that_goes_on() {
        explore("a worker of two members against the watch", || {
            every_member_is_called_once(2);
        });
        explore("a worker of three members against the watch", || {
            every_member_is_called_once(3);
        });
    }
}
