//! A filter for people who must not be fast: so many bytes a second, read and written together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::{Device, DeviceError};
use crate::sync::Monitor;

/// A device that passes reads and writes on no faster than its speed. Everything else passes at once.
///
/// A request is never cut: a large one goes through whole, and those behind it wait the longer. The
/// first one after a quiet time is free.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn Device>,
    began: Instant,
    state: Monitor<State>,
}

#[derive(Debug, Default)]
struct State {
    pace: Pace,
    /// Requests that wait for their turn.
    waiting: usize,
}

impl Throttled {
    /// A filter that lets so many bytes pass a second; zero means all.
    pub fn new(inner: Arc<dyn Device>, bytes_per_second: u64) -> Self {
        let state = State {
            pace: Pace::new(bytes_per_second),
            waiting: 0,
        };
        Self {
            inner,
            began: Instant::now(),
            state: Monitor::new(state),
        }
    }

    /// Changes the speed, also for the requests that wait; zero means no limit.
    pub fn set_speed(&self, bytes_per_second: u64) {
        self.state.lock().pace.set_speed(bytes_per_second);
        self.state.ring();
    }

    /// Waits until `bytes` may pass, and counts them. One request at a time passes a slice that is full.
    fn pay(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.state.ring();
        loop {
            let now = self.began.elapsed();
            let delay = state.pace.account(0, now);
            if delay.is_zero() {
                state.pace.account(bytes, now);
                break;
            }
            let Some(until) = self.began.checked_add(now + delay) else {
                // Further away than clocks go: only a change of speed helps.
                state = self.state.wait(state);
                continue;
            };
            state = match self.state.wait_until(state, until) {
                Ok(state) | Err(state) => state,
            };
        }
        state.waiting -= 1;
    }
}

/// How long to wait so that on average no more than a speed is kept. Knows no clock.
///
/// QEMU's slices (`include/qemu/ratelimit.h`): time goes in slices of a tenth of a second, each with its
/// quota; what exceeds the quota makes the slice longer in proportion. A slice that ended early because
/// nobody came saves nothing up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pace {
    /// Bytes per slice; zero is no limit.
    quota: u64,
    /// When this slice began and ends, from whenever the caller's time begins.
    slice: (Duration, Duration),
    /// Bytes in this slice.
    dispatched: u64,
}

const SLICE: Duration = Duration::from_millis(100);
const SLICES_PER_SECOND: u64 = 10;

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        let mut pace = Self::default();
        pace.set_speed(bytes_per_second);
        pace
    }

    /// What was dispatched stays, so a change of speed changes how long it lasts.
    fn set_speed(&mut self, bytes_per_second: u64) {
        self.quota = match bytes_per_second {
            0 => 0,
            speed => (speed / SLICES_PER_SECOND).max(1),
        };
    }

    /// Counts `bytes` at the time `now`, and gives how long whoever comes next must wait.
    fn account(&mut self, bytes: u64, now: Duration) -> Duration {
        if self.quota == 0 {
            return Duration::ZERO;
        }
        if self.slice.1 < now {
            self.slice = (now, now + SLICE);
            self.dispatched = 0;
        }
        self.dispatched = self.dispatched.saturating_add(bytes);
        if self.dispatched < self.quota {
            return Duration::ZERO;
        }
        let nanos = u128::from(self.dispatched) * SLICE.as_nanos() / u128::from(self.quota);
        let length = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.slice.1 = self.slice.0 + length;
        self.slice.1.saturating_sub(now)
    }
}

impl Device for Throttled {
    crate::forward!(inner: name, size, write_zeroes, discard, flush, extent);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.pay(buf.len() as u64);
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.pay(buf.len() as u64);
        self.inner.write_at(buf, offset)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Fault, Faulty, MemoryDevice, Operation};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_exceeds_a_slice_makes_it_longer() {
        let mut pace = Pace::new(64 << 10);
        assert_eq!(pace.account(6553, ms(1000)), ms(100));
        let mut pace = Pace::new(1000);
        assert_eq!(pace.account(99, ms(500)), ms(0));
        assert_eq!(pace.account(1, ms(520)), ms(80));
        assert_eq!(pace.account(900, ms(520)), ms(980));
        assert_eq!(pace.account(0, ms(1500)), ms(0));
    }

    #[test]
    fn a_quiet_time_saves_nothing_up() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.account(100, ms(0)), ms(100));
        assert_eq!(pace.account(0, ms(60_000)), ms(0));
        assert_eq!(pace.account(200, ms(60_000)), ms(200));
    }

    #[test]
    fn slow_speeds_let_a_byte_pass_and_none_is_no_limit() {
        assert_eq!(Pace::new(1).quota, 1);
        assert_eq!(Pace::new(19).quota, 1);
        assert_eq!(Pace::new(20).quota, 2);
        assert_eq!(Pace::new(0).account(u64::MAX, ms(5)), ms(0));
        assert!(Pace::new(1).account(u64::MAX, ms(5)) > ms(1_000_000));
    }

    #[test]
    fn a_second_request_waits_until_the_speed_allows_it() {
        let watched = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("m", 1 << 20))));
        // A fault that never strikes would not count; one that strikes tells that a request came.
        let second = watched.inject(Fault::error(Operation::Write).nth(2));
        let device = Throttled::new(watched, 1);
        device.write_at(&[1; 1 << 20], 0).unwrap();
        std::thread::scope(|scope| {
            let write = scope.spawn(|| device.write_at(&[2; 10], 0));
            let mut state = device.state.lock();
            while state.waiting == 0 {
                state = device.state.wait(state);
            }
            drop(state);
            // A megabyte at a byte a second: only the change of speed lets it pass.
            assert_eq!(second.strikes(), 0);
            device.set_speed(0);
            assert!(write.join().unwrap().is_err());
        });
        assert_eq!(second.strikes(), 1);
    }
}
