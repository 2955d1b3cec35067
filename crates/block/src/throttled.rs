//! A filter for people who must not be fast: so many bytes and requests a second, in all or of either way, alone or together
//! with other devices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::{Device, DeviceError};
use crate::sync::Monitor;

/// A device that passes reads and writes on no faster than its [`Throttle`] lets it. Everything else passes at once.
///
/// A request is never cut: a large one goes through whole, and those behind it wait the longer. The
/// first one after a quiet time is free.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn Device>,
    throttle: Arc<Throttle>,
}

impl Throttled {
    /// A filter that passes on what the throttle lets pass; all devices of one throttle together.
    pub fn new(inner: Arc<dyn Device>, throttle: Arc<Throttle>) -> Self {
        Self { inner, throttle }
    }
}

/// What may pass in a second. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub bytes: Rates,
    /// Requests, however large.
    pub requests: Rates,
}

/// How much a second, of what passes either way and of both together. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Read and written together.
    pub total: u64,
    /// Read.
    pub read: u64,
    /// Written.
    pub write: u64,
}

impl Limits {
    /// So many bytes a second, read and written together.
    #[must_use]
    pub fn of_bytes(total: u64) -> Self {
        let bytes = Rates {
            total,
            ..Rates::default()
        };
        Self {
            bytes,
            ..Self::default()
        }
    }
}

/// Limits, and what has passed of late, of all devices that share it.
#[derive(Debug)]
pub struct Throttle {
    began: Instant,
    state: Monitor<State>,
}

#[derive(Debug)]
struct State {
    bytes: Paces,
    requests: Paces,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Throttle {
    /// One of which nothing has passed.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            began: Instant::now(),
            state: Monitor::new(State::of(limits)),
        }
    }

    /// Waits until a request of so many bytes may pass, and counts it. One at a time passes a slice that is full.
    fn pay(&self, way: Way, bytes: u64) {
        let mut state = self.state.lock();
        loop {
            let now = self.began.elapsed();
            let delay = state.account(way, 0, 0, now);
            if delay.is_zero() {
                state.account(way, bytes, 1, now);
                return;
            }
            // Nobody rings here: time alone lets a request pass.
            state = match self.began.checked_add(now + delay) {
                Some(until) => match self.state.wait_until(state, until) {
                    Ok(state) | Err(state) => state,
                },
                // Further away than clocks go.
                None => self.state.wait(state),
            };
        }
    }
}

impl State {
    /// One of which nothing has passed.
    fn of(limits: Limits) -> Self {
        Self {
            bytes: Paces::of(limits.bytes),
            requests: Paces::of(limits.requests),
        }
    }

    fn account(&mut self, way: Way, bytes: u64, requests: u64, now: Duration) -> Duration {
        let bytes = self.bytes.account(way, bytes, now);
        bytes.max(self.requests.account(way, requests, now))
    }
}

/// What passes, counted three times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Paces {
    total: Pace,
    read: Pace,
    write: Pace,
}

impl Paces {
    fn of(rates: Rates) -> Self {
        Self {
            total: Pace::of(rates.total),
            read: Pace::of(rates.read),
            write: Pace::of(rates.write),
        }
    }

    fn account(&mut self, way: Way, amount: u64, now: Duration) -> Duration {
        let own = match way {
            Way::Read => &mut self.read,
            Way::Write => &mut self.write,
        };
        let own = own.account(amount, now);
        own.max(self.total.account(amount, now))
    }
}

/// How long to wait so that on average no more than so much passes in a second. Knows no clock.
///
/// QEMU's slices (`include/qemu/ratelimit.h`): time goes in slices of a tenth of a second, each with its
/// quota; what exceeds the quota makes the slice longer in proportion. A slice that ended early because
/// nobody came saves nothing up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pace {
    /// Zero is no limit.
    per_second: u64,
    /// When this slice began and ends, from whenever the caller's time begins.
    slice: (Duration, Duration),
    /// What has passed in this slice.
    passed: u64,
}

const SLICE: Duration = Duration::from_millis(100);
const SLICES_PER_SECOND: u128 = 10;

impl Pace {
    fn of(per_second: u64) -> Self {
        Self {
            per_second,
            ..Self::default()
        }
    }

    /// Counts what passes at the time `now`, and gives how long whoever comes next must wait.
    fn account(&mut self, amount: u64, now: Duration) -> Duration {
        if self.per_second == 0 {
            return Duration::ZERO;
        }
        if self.slice.1 < now {
            self.slice = (now, now + SLICE);
            self.passed = 0;
        }
        self.passed = self.passed.saturating_add(amount);
        let (passed, per_second) = (u128::from(self.passed), u128::from(self.per_second));
        if passed * SLICES_PER_SECOND < per_second {
            return Duration::ZERO;
        }
        let nanos = passed * Duration::from_secs(1).as_nanos() / per_second;
        let length = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.slice.1 = self.slice.0 + length;
        self.slice.1.saturating_sub(now)
    }
}

impl Device for Throttled {
    crate::forward!(inner: name, size, write_zeroes, discard, flush, extent);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.throttle.pay(Way::Read, buf.len() as u64);
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.throttle.pay(Way::Write, buf.len() as u64);
        self.inner.write_at(buf, offset)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_exceeds_a_slice_makes_it_longer() {
        let mut pace = Pace::of(1000);
        assert_eq!(pace.account(99, ms(500)), ms(0));
        assert_eq!(pace.account(1, ms(520)), ms(80));
        assert_eq!(pace.account(900, ms(520)), ms(980));
        assert_eq!(pace.account(0, ms(1500)), ms(0));
    }

    #[test]
    fn a_quiet_time_saves_nothing_up() {
        let mut pace = Pace::of(1000);
        assert_eq!(pace.account(100, ms(0)), ms(100));
        assert_eq!(pace.account(0, ms(60_000)), ms(0));
        assert_eq!(pace.account(200, ms(60_000)), ms(200));
    }

    #[test]
    fn slow_speeds_let_one_pass_and_none_is_no_limit() {
        assert_eq!(Pace::of(4).account(1, ms(5)), ms(250));
        assert_eq!(Pace::of(0).account(u64::MAX, ms(5)), ms(0));
        assert!(Pace::of(1).account(u64::MAX, ms(5)) > ms(1_000_000));
    }

    #[test]
    fn each_limit_counts_what_it_is_of() {
        let limits = |bytes: [u64; 3], requests: [u64; 3]| {
            let rates = |[total, read, write]: [u64; 3]| Rates { total, read, write };
            State::of(Limits {
                bytes: rates(bytes),
                requests: rates(requests),
            })
        };
        let none = [0; 3];
        // What a read of 4 bytes costs the next read and the next write, by each of the limits.
        for (mut state, read, write) in [
            (limits([4, 0, 0], none), 1000, 1000),
            (limits([0, 4, 0], none), 1000, 0),
            (limits([0, 0, 4], none), 0, 0),
            (limits(none, [4, 0, 0]), 250, 250),
            (limits(none, [0, 4, 0]), 250, 0),
            (limits(none, [0, 0, 4]), 0, 0),
            (limits([4, 0, 0], [1, 0, 0]), 1000, 1000),
            (limits([4, 0, 0], [0, 0, 1]), 1000, 1000),
        ] {
            state.account(Way::Read, 4, 1, ms(0));
            let mut next = |way| state.account(way, 0, 0, ms(0));
            assert_eq!((next(Way::Read), next(Way::Write)), (ms(read), ms(write)));
        }
    }

    /// What one device has passed holds up the other.
    #[test]
    fn devices_of_one_throttle_share_its_limits() {
        let throttle = Arc::new(Throttle::new(Limits::of_bytes(1000)));
        let [first, second] = ["m", "n"].map(|name| {
            let disk = Arc::new(MemoryDevice::new(name, 512));
            Throttled::new(disk, throttle.clone())
        });
        first.write_at(&[1; 200], 0).unwrap();
        second.write_at(&[2], 0).unwrap();
        // Never sooner; how much later is the machine's affair.
        assert!(throttle.began.elapsed() >= ms(200));
    }
}
