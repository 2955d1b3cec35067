//! What the clients of an export asked for, counted when it was carried out and before the answer goes.

use std::sync::atomic::{AtomicU64, Ordering};

use cohort_nbd::Command;
use cohort_qmp::OperationStatistics;

/// The kinds of requests that are told apart, in the order of [`operation`].
const OPERATIONS: [&str; 7] = [
    "read",
    "write",
    "flush",
    "trim",
    "write_zeroes",
    "cache",
    "block_status",
];

/// Counts the requests to one export.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    counts: [Count; OPERATIONS.len()],
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Count {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// A request was carried out, or its disk failed it.
    pub(super) fn count(&self, command: &Command, done: bool) {
        let (at, bytes) = operation(command);
        let count = &self.counts[at];
        count.requests.fetch_add(1, Ordering::Relaxed);
        if done {
            count.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            count.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request was refused before the disk was asked.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What was counted, kind by kind.
    pub(super) fn operations(&self) -> Vec<OperationStatistics> {
        let counts = OPERATIONS.iter().zip(&self.counts);
        let told = counts.map(|(name, count)| OperationStatistics {
            operation: (*name).to_owned(),
            requests: count.requests.load(Ordering::Relaxed),
            errors: count.errors.load(Ordering::Relaxed),
            bytes: count.bytes.load(Ordering::Relaxed),
        });
        told.collect()
    }
}

/// Where a request is counted, and the bytes that it moves or changes.
fn operation(command: &Command) -> (usize, u64) {
    match *command {
        Command::Read { length, .. } => (0, length.into()),
        Command::Write { length, .. } => (1, length.into()),
        Command::Flush => (2, 0),
        Command::Trim { length, .. } => (3, length),
        Command::WriteZeroes { length, .. } => (4, length),
        Command::Cache { .. } => (5, 0),
        Command::BlockStatus { .. } => (6, 0),
    }
}
