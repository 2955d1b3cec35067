//! The jobs that clients may name, newest first; and what the protocol says of them beyond the engine.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use cohort_job::{JobHandle, JobId};
use cohort_qmp::IoStatus;

use super::lock;

/// Most jobs that are not dismissed.
pub(super) const MOST_JOBS: usize = 16_384;

/// A job.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// What clients call it.
    pub(super) id: String,
    pub(super) handle: JobHandle,
    /// `backup` or `create`.
    pub(super) kind: &'static str,
    pub(super) auto_finalize: bool,
    pub(super) auto_dismiss: bool,
    /// Whether it ever ran.
    pub(super) started: bool,
    /// Why it does not end well.
    pub(super) error: Option<String>,
    pub(super) io_status: Arc<SharedIoStatus>,
}

impl Entry {
    /// Whether it is of those that `block-job-…` commands know.
    pub(super) fn is_block_job(&self) -> bool {
        self.kind == "backup"
    }
}

/// What the last error made of a job: changed by its driver, looked at by queries.
#[derive(Debug, Default)]
pub(super) struct SharedIoStatus(AtomicU8);

impl SharedIoStatus {
    /// The first error counts, until it is reset.
    pub(super) fn stopped(&self, no_space: bool) {
        let status = if no_space { 2 } else { 1 };
        let _ = self
            .0
            .compare_exchange(0, status, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A user said to go on.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }

    pub(super) fn get(&self) -> IoStatus {
        match self.0.load(Ordering::Acquire) {
            0 => IoStatus::Ok,
            1 => IoStatus::Failed,
            _ => IoStatus::Nospace,
        }
    }
}

/// All jobs that are not dismissed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<Vec<Entry>>);

impl Jobs {
    /// Adds a job that was just added to the engine, and not launched.
    pub(super) fn add(&self, entry: Entry) {
        lock(&self.0).push(entry);
    }

    /// The job of this name.
    pub(super) fn find(&self, id: &str) -> Option<Entry> {
        lock(&self.0)
            .iter()
            .rev()
            .find(|entry| entry.id == id)
            .cloned()
    }

    /// Changes or looks at a job, if it is still there.
    pub(super) fn change<T>(&self, job: JobId, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut all = lock(&self.0);
        let entry = all.iter_mut().rev().find(|entry| entry.handle.id() == job);
        entry.map(change)
    }

    /// Forgets a job that was dismissed.
    pub(super) fn forget(&self, job: JobId) {
        lock(&self.0).retain(|entry| entry.handle.id() != job);
    }

    /// Every job, newest first.
    pub(super) fn newest_first(&self) -> Vec<Entry> {
        lock(&self.0).iter().rev().cloned().collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}
