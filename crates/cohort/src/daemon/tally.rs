//! What happened since the daemon began: how groups were decided, and how long gates were closed.

use std::sync::Mutex;
use std::time::Duration;

use cohort_job::Verdict;
use cohort_qmp::{Decided, FenceStatistics};

use super::lock;
use crate::serve::nanos;

/// Counts both.
#[derive(Debug)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Clone, Copy, Debug)]
struct Counts {
    committed: u64,
    aborted: u64,
    fences: u64,
    last: Duration,
    worst: Duration,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Counts {
            committed: 0,
            aborted: 0,
            fences: 0,
            last: Duration::ZERO,
            worst: Duration::ZERO,
        }))
    }

    /// A group was decided.
    pub(super) fn decided(&self, verdict: &Verdict) {
        let mut counts = lock(&self.0);
        match verdict {
            Verdict::Commit => counts.committed += 1,
            Verdict::Abort { .. } => counts.aborted += 1,
        }
    }

    /// Gates were closed for one instant, that long.
    pub(super) fn fenced(&self, time: Duration) {
        let mut counts = lock(&self.0);
        counts.fences += 1;
        counts.last = time;
        counts.worst = counts.worst.max(time);
    }

    /// What was counted.
    pub(super) fn tell(&self) -> (Decided, FenceStatistics) {
        let counts = *lock(&self.0);
        let decided = Decided {
            committed: counts.committed,
            aborted: counts.aborted,
        };
        let fences = FenceStatistics {
            fences: counts.fences,
            last_ns: nanos(counts.last),
            worst_ns: nanos(counts.worst),
        };
        (decided, fences)
    }
}
