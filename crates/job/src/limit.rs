//! The speed limit: quotas per slice of 100 ms, with overshoot paid for by a longer slice.
//!
//! The arithmetic is QEMU's (`include/qemu/ratelimit.h`), so that a speed means here what it means there.
//! Time comes in as a value: how long since some fixed instant.

use std::time::Duration;

const SLICE: Duration = Duration::from_millis(100);
const SLICES_PER_SECOND: u64 = 10;

/// A speed, and what has been spent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limit {
    speed: u64,
    start: Duration,
    end: Duration,
    spent: u64,
}

impl Limit {
    /// Units per second; 0 is no limit.
    pub(crate) const fn new(speed: u64) -> Self {
        Self {
            speed,
            start: Duration::ZERO,
            end: Duration::ZERO,
            spent: 0,
        }
    }

    pub(crate) const fn speed(&self) -> u64 {
        self.speed
    }

    /// Changes the speed; whether a job that sleeps for the limit should be woken. What was spent in
    /// the running slice is reckoned anew at the new speed; a lower one never wakes.
    pub(crate) fn set_speed(&mut self, speed: u64) -> bool {
        let before = std::mem::replace(&mut self.speed, speed);
        before != 0 && (speed == 0 || speed > before)
    }

    /// Charges these units if the slice is not spent yet; otherwise says how long to wait, charging nothing.
    pub(crate) fn pay(&mut self, units: u64, now: Duration) -> Result<(), Duration> {
        match self.delay_after(0, now) {
            Duration::ZERO => {
                self.delay_after(units, now);
                Ok(())
            }
            delay => Err(delay),
        }
    }

    /// Accounts for units at an instant: how long until the slice is paid for.
    fn delay_after(&mut self, units: u64, now: Duration) -> Duration {
        if self.speed == 0 {
            return Duration::ZERO;
        }
        if self.end < now {
            (self.start, self.end, self.spent) = (now, now + SLICE, 0);
        }
        let quota = (self.speed / SLICES_PER_SECOND).max(1);
        self.spent = self.spent.saturating_add(units);
        if self.spent < quota {
            return Duration::ZERO;
        }
        let slices = self.spent as f64 / quota as f64;
        let length = Duration::try_from_secs_f64(slices * SLICE.as_secs_f64()).unwrap_or(FOREVER);
        self.end = self.start.saturating_add(length);
        self.end.saturating_sub(now)
    }
}

/// Longer than any process lives, and far from overflowing an `Instant`.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_piece_is_free_and_the_second_waits_for_it() {
        let mut limit = Limit::new(64 * 1024);
        assert_eq!(limit.pay(MIB, at(5)), Ok(()));
        let wait = limit.pay(MIB, at(5)).unwrap_err();
        assert!(wait >= at(16_000) && wait <= at(16_000) + SLICE, "{wait:?}");
        assert!(
            limit.pay(MIB, at(5) + wait / 2).is_err(),
            "an early wake does not cheat"
        );
        assert_eq!(limit.pay(MIB, at(5) + wait), Ok(()));
    }

    #[test]
    fn no_limit_never_waits() {
        let mut limit = Limit::new(0);
        assert!((0..100).all(|_| limit.pay(u64::MAX, at(1)).is_ok()));
    }

    #[test]
    fn the_lowest_speed_pays_one_unit_a_slice() {
        let mut limit = Limit::new(1);
        assert_eq!(limit.pay(1, at(0)), Ok(()));
        assert_eq!(limit.pay(1, at(0)), Err(SLICE));
    }

    #[test]
    fn raising_the_speed_wakes_and_reckons_anew_lowering_does_not_wake() {
        let mut limit = Limit::new(1_000);
        assert_eq!(limit.pay(10_000, at(0)), Ok(()));
        assert_eq!(limit.pay(1, at(0)), Err(at(10_000)));
        assert!(!limit.set_speed(500));
        assert!(limit.set_speed(10_000));
        assert_eq!(limit.pay(1, at(0)), Err(at(1_000)));
        assert!(limit.set_speed(0));
        assert_eq!(limit.pay(1, at(0)), Ok(()));
        assert!(
            !limit.set_speed(5),
            "nobody slept for a limit that was not there"
        );
    }

    #[test]
    fn a_quiet_time_is_neither_paid_for_nor_saved_up() {
        let mut limit = Limit::new(1_000);
        assert_eq!(limit.pay(2_000, at(0)), Ok(()));
        assert_eq!(limit.pay(100, at(60_000)), Ok(()));
        assert_eq!(limit.pay(1, at(60_000)), Err(SLICE));
    }

    #[test]
    fn what_is_spent_in_a_window_is_bounded() {
        let (speed, piece) = (1_000_u64, 70_u64);
        let mut limit = Limit::new(speed);
        let (mut now, mut spent) = (Duration::ZERO, 0_u64);
        while now < at(20_000) {
            match limit.pay(piece, now) {
                Ok(()) => spent += piece,
                Err(wait) => now += wait,
            }
            let allowed = now.as_secs_f64() * speed as f64 + (speed / 10 + piece) as f64;
            assert!(
                spent as f64 <= allowed + 1.0,
                "{spent} > {allowed} at {now:?}"
            );
        }
        assert!(spent > 15_000, "the limit is used: {spent}");
    }
}
