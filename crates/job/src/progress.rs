//! How far a job is: two numbers that are always read together.

use crate::sync::Mutex;

/// A job's progress, in the driver's own unit. Starts at nothing done of nothing, survives pause and
/// failure, and is never reset.
///
/// ```
/// use cohort_job::Progress;
///
/// let progress = Progress::default();
/// progress.set_remaining(100);
/// progress.advance(30);
/// progress.add_remaining(50);
/// let now = progress.snapshot();
/// assert_eq!((now.done, now.total, now.remaining()), (30, 150, 120));
/// ```
#[derive(Debug, Default)]
pub struct Progress(Mutex<Snapshot>);

/// Both counters at one instant.
///
/// Example: [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Units done; never decreases.
    pub done: u64,
    /// Units to do in all, as far as known; may move either way.
    pub total: u64,
}

impl Snapshot {
    /// Units still to do; none if more was done than was announced.
    pub const fn remaining(self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

impl Progress {
    /// So many more units are done.
    pub fn advance(&self, units: u64) {
        self.update(|now| now.done = now.done.saturating_add(units));
    }

    /// So many units remain from here.
    pub fn set_remaining(&self, units: u64) {
        self.update(|now| now.total = now.done.saturating_add(units));
    }

    /// So many more units turned up.
    pub fn add_remaining(&self, units: u64) {
        self.update(|now| now.total = now.total.saturating_add(units));
    }

    /// Both counters, read at one instant.
    pub fn snapshot(&self) -> Snapshot {
        *self.0.lock()
    }

    fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn done_never_falls_and_total_may() {
        let progress = Progress::default();
        progress.set_remaining(10);
        progress.advance(4);
        progress.set_remaining(1);
        assert_eq!(progress.snapshot(), Snapshot { done: 4, total: 5 });
        progress.add_remaining(u64::MAX);
        progress.advance(u64::MAX);
        assert_eq!(
            progress.snapshot(),
            Snapshot {
                done: u64::MAX,
                total: u64::MAX
            }
        );
        assert_eq!(progress.snapshot().remaining(), 0);
    }

    #[test]
    fn a_snapshot_is_whole_under_concurrent_updates() {
        let progress = Progress::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..10_000 {
                    progress.update(|now| {
                        now.done += 1;
                        now.total += 1;
                    });
                }
            });
            while !writer.is_finished() {
                let now = progress.snapshot();
                assert_eq!(now.done, now.total);
            }
        });
    }
}
