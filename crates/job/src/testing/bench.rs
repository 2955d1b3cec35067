//! Where a driver under test sits: a seat without an engine, and a clock that costs no waiting.

use std::fmt;
use std::time::{Duration, Instant};

use crate::driver::ErasedDriver;
use crate::seat::Seat;
use crate::shell::now;
use crate::sync::{Condvar, Mutex};

/// One driver's seat, its clock, and whether somebody woke it.
pub(crate) struct Bench {
    seat: Seat,
    driver: Mutex<Option<Box<dyn ErasedDriver>>>,
    time: Mutex<Duration>,
    woken: Mutex<bool>,
    /// The driver pauses its own job.
    pauses: Mutex<bool>,
    changed: Condvar,
}

impl Bench {
    pub(crate) fn new(driver: Box<dyn ErasedDriver>) -> Self {
        Self {
            seat: Seat::default(),
            driver: Mutex::new(Some(driver)),
            time: Mutex::new(Duration::ZERO),
            woken: Mutex::new(false),
            pauses: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Takes the driver out, for a call or for good.
    pub(crate) fn take_driver(&self) -> Option<Box<dyn ErasedDriver>> {
        self.driver.lock().take()
    }

    /// Puts it, or another one, in.
    pub(crate) fn put_driver(&self, driver: Box<dyn ErasedDriver>) {
        *self.driver.lock() = Some(driver);
    }

    pub(crate) fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_all();
    }

    pub(crate) fn pause(&self) {
        *self.pauses.lock() = true;
    }

    pub(crate) fn take_pause(&self) -> bool {
        std::mem::take(&mut *self.pauses.lock())
    }

    pub(crate) fn is_woken(&self) -> bool {
        *self.woken.lock()
    }

    pub(crate) fn take_woken(&self) -> bool {
        std::mem::take(&mut *self.woken.lock())
    }

    /// Waits at most so long for a wake, and leaves it to be taken.
    pub(crate) fn wait_woken(&self, patience: Duration) -> bool {
        let deadline: Instant = now() + patience;
        let mut woken = self.woken.lock();
        loop {
            let left = deadline.saturating_duration_since(now());
            if *woken || left.is_zero() {
                return *woken;
            }
            woken = self.changed.wait_timeout(woken, left);
        }
    }

    pub(crate) fn time(&self) -> Duration {
        *self.time.lock()
    }

    /// It is this late now, if it was not later.
    pub(crate) fn set_time(&self, time: Duration) {
        let mut now = self.time.lock();
        *now = time.max(*now);
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bench")
    }
}
