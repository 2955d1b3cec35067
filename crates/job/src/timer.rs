//! One thread that waits for instants: sleeping jobs, and the watch over the workers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::shell::now;
use crate::sync::{Condvar, Mutex};

/// Names one alarm, to take it back.
pub(crate) type Alarm = (Instant, u64);

/// What is due when.
#[derive(Debug)]
pub(crate) struct Timer<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    due: BTreeMap<Alarm, T>,
    next: u64,
    /// The thread should ask its watch again: something began to move.
    stirred: bool,
    closed: bool,
}

impl<T> Timer<T> {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            due: BTreeMap::new(),
            next: 0,
            stirred: false,
            closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        }
    }

    /// Sets an alarm. A time too far to be told is never.
    pub(crate) fn set(&self, after: Duration, item: T) -> Option<Alarm> {
        let when = now().checked_add(after)?;
        let mut inner = self.inner.lock();
        let alarm = (when, inner.next);
        inner.next += 1;
        let first = inner.due.keys().next().is_none_or(|first| alarm < *first);
        inner.due.insert(alarm, item);
        drop(inner);
        if first {
            self.changed.notify_one();
        }
        Some(alarm)
    }

    /// Takes an alarm back.
    pub(crate) fn cancel(&self, alarm: Alarm) {
        let item = self.inner.lock().due.remove(&alarm);
        drop(item);
    }

    /// Has the watch asked again soon.
    pub(crate) fn stir(&self) {
        self.inner.lock().stirred = true;
        self.changed.notify_one();
    }

    /// Ends [`Timer::run`].
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_one();
    }

    /// The thread's life: rings alarms in order of time, and asks the watch as often as it wants to be.
    pub(crate) fn run(&self, mut ring: impl FnMut(T), mut watch: impl FnMut() -> Option<Duration>) {
        let mut look = None;
        let mut inner = self.inner.lock();
        while !inner.closed {
            let time = now();
            if let Some(entry) = inner.due.first_entry()
                && entry.key().0 <= time
            {
                let item = entry.remove();
                drop(inner);
                ring(item);
                inner = self.inner.lock();
                continue;
            }
            if std::mem::take(&mut inner.stirred) || look.is_some_and(|look| look <= time) {
                drop(inner);
                look = watch().map(|pause| time + pause);
                inner = self.inner.lock();
                continue;
            }
            let next = [inner.due.keys().next().map(|alarm| alarm.0), look]
                .into_iter()
                .flatten()
                .min();
            inner = match next {
                Some(next) => self
                    .changed
                    .wait_timeout(inner, next.saturating_duration_since(time)),
                None => self.changed.wait(inner),
            };
        }
    }
}
