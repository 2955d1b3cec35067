//! A source whose errors are judged where they happen: for copies that have no job.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cohort_block::{Device, DeviceError};

use crate::options::ErrorPolicy;

/// What is tried again, and left out, by itself.
const GRANULE: u64 = 64 << 10;

/// How often somebody who waits looks whether all was called off.
const LOOK: Duration = Duration::from_millis(50);

/// A device that is read with patience.
#[derive(Debug)]
pub(super) struct Patient<'a> {
    inner: Arc<dyn Device>,
    policy: ErrorPolicy,
    operator: &'a Operator,
    cancel: &'a AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused: Duration,
    /// Where granules begin that were left out.
    skipped: BTreeSet<u64>,
}

/// Somebody who mends what a copy waits for, under an error policy that stops. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    shared: Arc<(Mutex<Waiting>, Condvar)>,
}

#[derive(Debug, Default)]
struct Waiting {
    error: Option<String>,
    resumed: u64,
}

impl Operator {
    /// The error that a copy waits for him to mend.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.lock().error.clone()
    }

    /// Has the copy try again.
    pub fn resume(&self) {
        let mut waiting = self.lock();
        waiting.error = None;
        waiting.resumed += 1;
        self.shared.1.notify_all();
    }

    /// Waits until he says that all is well; false if it was called off.
    fn wait(&self, error: &DeviceError, cancel: &AtomicBool) -> bool {
        let mut waiting = self.lock();
        let resumed = waiting.resumed;
        waiting.error.get_or_insert(error.to_string());
        while waiting.resumed == resumed && !cancel.load(Ordering::Relaxed) {
            let waited = self.shared.1.wait_timeout(waiting, LOOK);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !cancel.load(Ordering::Relaxed)
    }

    /// Lets time pass; less if it is called off.
    fn rest(&self, time: Duration, cancel: &AtomicBool) {
        let mut left = time;
        while !left.is_zero() && !cancel.load(Ordering::Relaxed) {
            let now = left.min(LOOK);
            let waiting = self.lock();
            drop(self.shared.1.wait_timeout(waiting, now));
            left -= now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Patient<'a> {
    pub(super) fn new(
        inner: Arc<dyn Device>,
        policy: ErrorPolicy,
        operator: &'a Operator,
        cancel: &'a AtomicBool,
    ) -> Self {
        Self {
            inner,
            policy,
            operator,
            cancel,
            state: Mutex::default(),
        }
    }

    /// What was left out, in order; neighbours are one.
    pub(super) fn skipped(self) -> Vec<Range<u64>> {
        let size = self.size();
        let state = self.state.into_inner();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for start in state.unwrap_or_else(PoisonError::into_inner).skipped {
            let end = (start + GRANULE).min(size);
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }

    /// Reads bytes of one granule, as often as the policy allows.
    fn read_one(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let mut attempts = 0;
        loop {
            let Err(error) = self.inner.read_at(buf, offset) else {
                return Ok(());
            };
            attempts += 1;
            if self.cancel.load(Ordering::Relaxed) {
                return Err(error);
            }
            if self.pause(attempts) {
                continue;
            }
            match self.policy {
                ErrorPolicy::Report | ErrorPolicy::Enospc | ErrorPolicy::Ignore(_) => {
                    return Err(error);
                }
                ErrorPolicy::Stop(_) if self.operator.wait(&error, self.cancel) => attempts = 0,
                ErrorPolicy::Stop(_) => return Err(error),
                ErrorPolicy::Skip { limit, .. } if self.leave_out(offset, limit) => {
                    buf.fill(0);
                    return Ok(());
                }
                ErrorPolicy::Skip { .. } => return Err(error),
            }
        }
    }

    /// Leaves out the granule of a byte; false if there are as many already as may be.
    fn leave_out(&self, byte: u64, limit: u64) -> bool {
        let mut state = self.lock();
        let granule = byte - byte % GRANULE;
        let room = (state.skipped.len() as u64) < limit;
        state.skipped.contains(&granule) || room && state.skipped.insert(granule)
    }

    /// Rests before another try; false if there is none.
    fn pause(&self, attempts: u32) -> bool {
        let budget = self.policy.budget();
        if attempts >= budget.attempts {
            return false;
        }
        let pause = budget.back_off.saturating_mul(1 << (attempts - 1).min(16));
        {
            let mut state = self.lock();
            let paused = state.paused.saturating_add(pause);
            if paused > budget.total {
                return false;
            }
            state.paused = paused;
        }
        self.operator.rest(pause, self.cancel);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Patient<'_> {
    cohort_block::forward!(inner: name, size, write_at, write_zeroes, discard, flush, extent, plain);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        if self.inner.read_at(buf, offset).is_ok() {
            return Ok(());
        }
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let left = usize::try_from(GRANULE - at % GRANULE).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            self.read_one(now, at)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}
