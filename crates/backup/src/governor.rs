//! How many copies may be in flight: all jobs of a run share one allowance, and writers steer it.
//!
//! The rule is in `pace.rs`, pure. Here are the permits: a copy holds one while it is in flight, and
//! who finds none is woken when one comes back.

mod pace;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cohort_block::{DeviceTime, WriteMeter};

use pace::{HEARING, Pace, Sample};

/// The allowance of one run.
pub(crate) struct Governor {
    /// Off: every worker may copy, whatever writers suffer.
    yields: AtomicBool,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pace: Pace,
    disks: Vec<Watched>,
    in_flight: usize,
    /// Jobs that found no permit.
    waiting: Vec<Box<dyn Fn() + Send>>,
    /// Set where the pace is less than one copy at a time.
    rests_until: Duration,
}

/// A disk whose writers are listened to.
struct Watched {
    meter: Arc<WriteMeter>,
    seen: DeviceTime,
}

/// The right to have one copy in flight.
pub(crate) struct Permit {
    governor: Arc<Governor>,
    since: Instant,
}

impl Governor {
    pub(crate) fn new(yields: bool) -> Arc<Self> {
        Arc::new(Self {
            yields: AtomicBool::new(yields),
            began: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// One more job, with so many workers, and its writers if there are any.
    pub(crate) fn add(&self, workers: usize, meter: Option<&Arc<WriteMeter>>) {
        let mut state = self.lock();
        state.pace.add_workers(workers);
        state.disks.extend(meter.map(|meter| Watched {
            meter: Arc::clone(meter),
            seen: meter.device(),
        }));
    }

    /// Whether copies yield to writers, from now on.
    pub(crate) fn set_yields(&self, yields: bool) {
        self.yields.store(yields, Ordering::Release);
        self.wake(self.lock());
    }

    /// A permit, or when to ask again. `waker` is called when one comes back earlier.
    ///
    /// Who waits asks again even if none does: a copy that hangs in its target must not keep the others
    /// from theirs.
    pub(crate) fn acquire<W: Fn() + Send + 'static>(
        self: &Arc<Self>,
        waker: impl FnOnce() -> W,
    ) -> Result<Permit, Duration> {
        let mut state = self.lock();
        if self.yields.load(Ordering::Acquire) && !state.disks.is_empty() {
            let now = self.began.elapsed();
            state.listen(now);
            if let Some(wait) = state.wait(now) {
                state.waiting.push(Box::new(waker()));
                return Err(wait);
            }
        }
        state.in_flight += 1;
        Ok(Permit {
            governor: Arc::clone(self),
            since: Instant::now(),
        })
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.iter().for_each(|wake| wake());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the pace what writers saw since it last asked.
    fn listen(&mut self, now: Duration) {
        if !self.pace.is_due(now) {
            return;
        }
        let samples = self.disks.iter_mut().map(|disk| {
            let seen = disk.meter.device();
            let before = std::mem::replace(&mut disk.seen, seen);
            Sample {
                writes: seen.writes - before.writes,
                total: seen.total.saturating_sub(before.total),
            }
        });
        let samples: Vec<_> = samples.collect();
        self.pace.hear(now, self.in_flight, &samples);
    }

    fn wait(&self, now: Duration) -> Option<Duration> {
        if self.in_flight > 0 && self.in_flight >= self.pace.copies() {
            return Some(HEARING);
        }
        let until = self.pace.quiet_until(now).max(self.rests_until);
        (until > now).then(|| until - now)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let governor = &self.governor;
        let mut state = governor.lock();
        state.in_flight -= 1;
        let now = governor.began.elapsed();
        state.rests_until = now + state.pace.rest_after(self.since.elapsed());
        governor.wake(state);
    }
}

impl fmt::Debug for Governor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Governor")
            .field("in_flight", &state.in_flight)
            .field("pace", &state.pace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_writers_or_without_yielding_everybody_may_copy() {
        for (yields, meter) in [(true, None), (false, Some(Arc::default()))] {
            let governor = Governor::new(yields);
            governor.add(2, meter.as_ref());
            let permits: Vec<_> = (0..9).map(|_| governor.acquire(no_waker).ok()).collect();
            assert!(permits.iter().all(Option::is_some));
        }
    }

    #[test]
    fn permits_are_shared_and_come_back() {
        let governor = Governor::new(true);
        let meter = Arc::default();
        governor.add(2, Some(&meter));
        governor.add(1, None);
        // The first moment is quiet: nobody copies while the writers are listened to.
        let held = governor.acquire(|| || ()).err();
        assert!(held.is_some_and(|wait| wait <= 2 * HEARING), "{held:?}");
        governor.lock().pace = Pace::open(3);
        let permits: Vec<_> = (0..3).map(|_| governor.acquire(no_waker)).collect();
        assert!(permits.iter().all(Result::is_ok));
        assert_eq!(governor.lock().in_flight, 3);
        drop(permits);
        assert_eq!(governor.lock().in_flight, 0);
        governor.set_yields(false);
        assert!(governor.acquire(no_waker).is_ok());
    }

    #[test]
    fn who_waits_is_called_when_a_permit_comes_back_and_may_ask_again_without() {
        let governor = Governor::new(true);
        governor.add(2, Some(&Arc::default()));
        governor.lock().pace = Pace::open(1);
        let permit = governor.acquire(no_waker).ok();
        let (call, called) = std::sync::mpsc::channel();
        let waker = || move || call.send(()).unwrap();
        assert_eq!(governor.acquire(waker).err(), Some(HEARING));
        assert!(called.try_recv().is_err());
        drop(permit);
        assert!(called.try_recv().is_ok());
    }

    fn no_waker() -> fn() {
        unreachable!("a permit is free")
    }
}
