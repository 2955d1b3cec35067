//! The jobs that clients may name, newest first; and what the protocol says of them beyond the engine.

use std::collections::{BTreeMap, HashMap};
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
    /// Whether it only tells what became of a job of the daemon before.
    pub(super) before: bool,
    /// Whether it is of another engine than the daemon's, so that its number means nothing here.
    pub(super) outside: bool,
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

/// All jobs that are not dismissed.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<All>);

/// The jobs, and where to find one of thousands.
#[derive(Debug, Default)]
struct All {
    /// Numbered as they came.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    by_id: HashMap<String, u64>,
    /// Those of the daemon's engine.
    by_job: HashMap<JobId, u64>,
}

impl All {
    fn add(&mut self, entry: Entry) {
        let number = self.next;
        self.next += 1;
        self.by_id.insert(entry.id.clone(), number);
        if !entry.outside {
            self.by_job.insert(entry.handle.id(), number);
        }
        self.entries.insert(number, entry);
    }

    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.by_id.remove(&entry.id);
            if !entry.outside {
                self.by_job.remove(&entry.handle.id());
            }
        }
    }
}

impl Jobs {
    /// Adds a job that was just added to the engine, and not launched. Nobody else has its id.
    pub(super) fn add(&self, entry: Entry) {
        lock(&self.0).add(entry);
    }

    /// The job of this name.
    pub(super) fn find(&self, id: &str) -> Option<Entry> {
        let all = lock(&self.0);
        all.entries.get(all.by_id.get(id)?).cloned()
    }

    /// Changes or looks at a job, if it is still there.
    pub(super) fn change<T>(&self, job: JobId, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut all = lock(&self.0);
        let number = *all.by_job.get(&job)?;
        all.entries.get_mut(&number).map(change)
    }

    /// Forgets a job that was dismissed.
    pub(super) fn forget(&self, job: JobId) {
        let mut all = lock(&self.0);
        if let Some(number) = all.by_job.get(&job).copied() {
            all.remove(number);
        }
    }

    /// Adds a job of another engine under this name, or one that begins so if it is taken. Gives the name.
    pub(super) fn add_outside(&self, id: &str, handle: JobHandle) -> String {
        let mut all = lock(&self.0);
        let more = (2..).map(|number: u64| format!("{id}-{number}"));
        let mut names = std::iter::once(id.to_owned()).chain(more);
        let free = names.find(|name| !all.by_id.contains_key(name));
        let id = free.unwrap_or_else(|| id.to_owned());
        all.add(Entry {
            id: id.clone(),
            handle,
            kind: "backup",
            auto_finalize: true,
            auto_dismiss: true,
            started: true,
            before: false,
            outside: true,
            error: None,
            io_status: Arc::default(),
        });
        id
    }

    /// Forgets a job of another engine.
    pub(super) fn forget_outside(&self, id: &str) {
        let mut all = lock(&self.0);
        if let Some(number) = all.by_id.get(id).copied()
            && all.entries.get(&number).is_some_and(|entry| entry.outside)
        {
            all.remove(number);
        }
    }

    /// Every job, newest first.
    pub(super) fn newest_first(&self) -> Vec<Entry> {
        lock(&self.0).entries.values().rev().cloned().collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).entries.len()
    }
}
