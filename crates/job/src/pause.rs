//! The pause point: may this job run its next step, is it held, or must it stop?
//!
//! The core decides and changes the gate under its lock; workers and tasks look at it without one. A
//! look may be late by one step, never wrong for good: `Stop` is final, whatever hold arrives after it.

use crate::Asked;
use crate::reasons::Reason;
use crate::sync::{AtomicU64, Ordering};

/// What a job that comes to its pause point does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Goes on.
    Run,
    /// Waits there until it is released.
    Hold,
    /// Comes to an end there.
    Stop,
}

/// The orders one job is under, and what it waits for, in one word.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU64);

const HELD: u64 = 1;
const STOPPED: u64 = 2;
const ASKED_SHIFT: u32 = 2;
const ASKED: u64 = 0b11 << ASKED_SHIFT;
const REASON_SHIFT: u32 = 32;
const REASON: u64 = (Reason::MAX as u64) << REASON_SHIFT;

impl Gate {
    /// What the job is to do here.
    #[inline]
    pub(crate) fn pass(&self) -> Pass {
        let word = self.0.load(Ordering::Acquire);
        // Stop first: a hold that came late must not keep a stopped job waiting.
        if word & STOPPED != 0 {
            Pass::Stop
        } else if word & HELD != 0 {
            Pass::Hold
        } else {
            Pass::Run
        }
    }

    /// What the driver is asked.
    #[inline]
    pub(crate) fn asked(&self) -> Asked {
        match (self.0.load(Ordering::Acquire) & ASKED) >> ASKED_SHIFT {
            0 => Asked::Run,
            1 => Asked::Complete,
            _ => Asked::Finish,
        }
    }

    pub(crate) fn hold(&self) {
        self.0.fetch_or(HELD, Ordering::AcqRel);
    }

    pub(crate) fn release(&self) {
        self.0.fetch_and(!HELD, Ordering::AcqRel);
    }

    pub(crate) fn stop(&self) {
        self.0.fetch_or(STOPPED, Ordering::AcqRel);
    }

    /// Changes what the driver is asked. Called under the core's lock only, so by one thread at a time;
    /// what others change meanwhile stays.
    pub(crate) fn ask(&self, asked: Asked) {
        let bits = match asked {
            Asked::Run => 0,
            Asked::Complete => 1,
            Asked::Finish => 2,
        } << ASKED_SHIFT;
        self.replace(ASKED, bits);
    }

    /// What the driver said last that it waits for.
    pub(crate) fn reason(&self) -> Reason {
        (self.0.load(Ordering::Acquire) >> REASON_SHIFT) as Reason
    }

    /// Keeps what the driver says that it waits for. Called by whoever calls the driver.
    pub(crate) fn set_reason(&self, reason: Reason) {
        if self.reason() != reason {
            self.replace(REASON, u64::from(reason) << REASON_SHIFT);
        }
    }

    /// Changes some bits, and leaves to the others what others change meanwhile.
    fn replace(&self, mask: u64, bits: u64) {
        let mut seen = self.0.load(Ordering::Acquire);
        while let Err(now) = self.0.compare_exchange(
            seen,
            seen & !mask | bits,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            seen = now;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_late_hold_does_not_undo_stop() {
        let gate = Gate::default();
        gate.hold();
        assert_eq!(gate.pass(), Pass::Hold);
        gate.stop();
        gate.hold();
        assert_eq!(gate.pass(), Pass::Stop);
        gate.release();
        assert_eq!(gate.pass(), Pass::Stop);
    }

    #[test]
    fn what_is_asked_leaves_the_orders_alone() {
        let gate = Gate::default();
        gate.hold();
        gate.ask(Asked::Complete);
        assert_eq!((gate.pass(), gate.asked()), (Pass::Hold, Asked::Complete));
        gate.ask(Asked::Finish);
        gate.release();
        assert_eq!((gate.pass(), gate.asked()), (Pass::Run, Asked::Finish));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::explore;

    #[test]
    fn stop_is_sticky_whatever_hold_and_release_do() {
        explore("stop, hold and release", || {
            let gate = Arc::new(Gate::default());
            let holder = thread::spawn({
                let gate = Arc::clone(&gate);
                move || {
                    gate.hold();
                    gate.release();
                    gate.hold();
                }
            });
            let stopper = thread::spawn({
                let gate = Arc::clone(&gate);
                move || {
                    gate.stop();
                    assert_eq!(gate.pass(), Pass::Stop);
                }
            });
            // A look at any moment: once stopped, stopped.
            let first = gate.pass();
            let second = gate.pass();
            assert!(first != Pass::Stop || second == Pass::Stop);
            holder.join().unwrap();
            stopper.join().unwrap();
            assert_eq!(gate.pass(), Pass::Stop);
        });
    }

    #[test]
    fn a_reason_that_is_kept_loses_no_order_given_meanwhile() {
        explore("a reason against ask, hold and stop", || {
            let gate = Arc::new(Gate::default());
            let worker = thread::spawn({
                let gate = Arc::clone(&gate);
                move || gate.set_reason(7)
            });
            let stopper = thread::spawn({
                let gate = Arc::clone(&gate);
                move || gate.stop()
            });
            gate.ask(Asked::Complete);
            worker.join().unwrap();
            stopper.join().unwrap();
            assert_eq!((gate.pass(), gate.asked()), (Pass::Stop, Asked::Complete));
            assert_eq!(gate.reason(), 7);
        });
    }

    #[test]
    fn asking_loses_no_order_given_meanwhile() {
        explore("ask against stop and hold", || {
            let gate = Arc::new(Gate::default());
            let asker = thread::spawn({
                let gate = Arc::clone(&gate);
                move || gate.ask(Asked::Finish)
            });
            let stopper = thread::spawn({
                let gate = Arc::clone(&gate);
                move || gate.stop()
            });
            gate.hold();
            asker.join().unwrap();
            stopper.join().unwrap();
            assert_eq!((gate.pass(), gate.asked()), (Pass::Stop, Asked::Finish));
        });
    }
}
