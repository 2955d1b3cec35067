//! The primitives that threads meet at: std's, or loom's under `--cfg loom`. Chosen here and nowhere
//! else, so that what must be right can be explored by loom.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync as primitives;
#[cfg(not(loom))]
use std::sync as primitives;

pub(crate) use primitives::MutexGuard;

// Set once, one pointer, no waiting: nothing that loom need see.
pub(crate) use once_cell::race::OnceBox;

/// A mutex that a panic does not poison: what a panic leaves behind is said in the types, and no
/// driver code ever runs under one of our locks.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(primitives::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(primitives::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What one thread holds at a time, while others find it taken and never wait for it: one atomic operation to take it,
/// a plain store to give it back.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct Baton<T>(
    // The mutex is never locked: it lets what only one thread may look at be where others can reach it.
    atomic_refcell::AtomicRefCell<std::sync::Mutex<T>>,
);

#[cfg(not(loom))]
impl<T> Baton<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(atomic_refcell::AtomicRefCell::new(value.into()))
    }

    /// None while another thread holds it.
    #[inline]
    pub(crate) fn take(&self) -> Option<impl std::ops::DerefMut<Target = T> + '_> {
        let held = self.0.try_borrow_mut().ok()?;
        Some(atomic_refcell::AtomicRefMut::map(held, |mutex| {
            mutex
                .get_mut()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }))
    }
}

/// The same out of what loom can see.
#[cfg(loom)]
#[derive(Debug, Default)]
pub(crate) struct Baton<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Baton<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn take(&self) -> Option<impl std::ops::DerefMut<Target = T> + '_> {
        self.0.try_lock().ok()
    }
}

/// A condition variable for that mutex.
#[derive(Debug, Default)]
pub(crate) struct Condvar(primitives::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(primitives::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0
            .wait(guard)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for at most this long; whether it was that long the caller finds out from its own clock.
    /// Loom's never fires.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: std::time::Duration,
    ) -> MutexGuard<'a, T> {
        match self.0.wait_timeout(guard, timeout) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Runs a model in every order and prints how many there are.
#[cfg(all(test, loom))]
pub(crate) fn explore(name: &str, model: impl Fn() + Sync + Send + 'static) {
    explore_within(None, name, model);
}

/// Runs a model in every order with at most so many preemptions, and prints how many there are.
#[cfg(all(test, loom))]
pub(crate) fn explore_within(
    bound: Option<usize>,
    name: &str,
    model: impl Fn() + Sync + Send + 'static,
) {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.check(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    let within = bound.map_or_else(String::new, |bound| {
        format!(", at most {bound} preemptions")
    });
    println!(
        "{name}: {} interleavings{within}",
        runs.load(std::sync::atomic::Ordering::Relaxed)
    );
}
