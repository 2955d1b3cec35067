//! The primitives that threads of this crate meet at: std's, or loom's under `--cfg loom`. Chosen here
//! and nowhere else.
//!
//! Everything that waits in this crate waits on a [`Monitor`].

use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// A value behind a lock, and the bell that is rung when it changed.
#[derive(Debug, Default)]
pub(crate) struct Monitor<T> {
    value: Mutex<T>,
    changed: Bell,
}

impl<T> Monitor<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Bell::default(),
        }
    }

    /// Nothing that can panic runs while a value of this crate is half changed, so a poisoned one is
    /// as good as any.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next ring; may also return without one.
    pub(crate) fn wait<'a>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.changed.wait(guard)
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
        Ok(self.changed.wait_for(guard, left))
    }

    /// Wakes everyone who waits. Whoever rings has changed the value, so has held its lock.
    pub(crate) fn ring(&self) {
        self.changed.ring();
    }
}

/// Rung for those who wait at it, each of whom holds the lock of what it waits for.
///
/// A condition variable calls the kernel at every ring, whether anybody waits or not; writers ring
/// several times a write. Here they are counted under the lock: who comes after the change sees it, and
/// who came before it is seen.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    bell: Condvar,
    waiting: AtomicUsize,
}

impl Bell {
    /// Waits for a ring; may also return without one.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let woken = self.bell.wait(guard);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, time: Duration) -> MutexGuard<'a, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let woken = self.bell.wait_timeout(guard, time);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes everyone who waits.
    pub(crate) fn ring(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.bell.notify_all();
        }
    }

    /// Wakes one of those who wait.
    pub(crate) fn ring_once(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.bell.notify_one();
        }
    }
}
