//! The primitives that threads of this crate meet at: std's, or loom's under `--cfg loom`. Chosen here
//! and nowhere else.
//!
//! Everything that waits in this crate waits on a [`Monitor`].

use std::sync::PoisonError;
use std::time::Instant;

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A value behind a lock, and the bell that is rung when it changed.
#[derive(Debug, Default)]
pub(crate) struct Monitor<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Condvar::new(),
        }
    }

    /// Nothing that can panic runs while a value of this crate is half changed, so a poisoned one is
    /// as good as any.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next ring; may also return without one.
    pub(crate) fn wait<'a>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`wait`](Self::wait), unless `deadline` has passed: then at once, as an error.
    ///
    /// Loom's time stands still: there a deadline has passed from the start or never does, and one that
    /// has passed still lets others have the lock in between, as a wait that times out does.
    pub(crate) fn wait_until<'a>(
        &'a self,
        guard: MutexGuard<'a, T>,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, T>, MutexGuard<'a, T>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            #[cfg(loom)]
            let guard = {
                drop(guard);
                self.lock()
            };
            return Err(guard);
        }
        let woken = self.changed.wait_timeout(guard, left);
        Ok(woken.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Wakes everyone who waits.
    pub(crate) fn ring(&self) {
        self.changed.notify_all();
    }
}
