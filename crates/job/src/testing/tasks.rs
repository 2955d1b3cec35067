//! The tasks of a driver under test: each on a thread of its own, one at a time as far as they let us.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::Error;
use crate::driver::panic_error;
use crate::seat::Task;
use crate::shell::now;

/// A task that takes longer may be waiting for another one, or for the job's next step.
const GRACE: Duration = Duration::from_millis(10);

type End = Result<(), Error>;

/// Tasks in flight.
pub(crate) struct Tasks {
    list: Vec<Entry>,
    next: u64,
    tell: Sender<(u64, End)>,
    hear: Receiver<(u64, End)>,
    ended: BTreeMap<u64, End>,
}

struct Entry {
    id: u64,
    /// Not begun yet.
    task: Option<Task>,
    /// It was begun, and did not end soon.
    slow: bool,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        let (tell, hear) = channel();
        Self {
            list: Vec::new(),
            next: 0,
            tell,
            hear,
            ended: BTreeMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn add(&mut self, tasks: Vec<Task>) {
        for task in tasks {
            self.next += 1;
            self.list.push(Entry {
                id: self.next,
                task: Some(task),
                slow: false,
            });
        }
    }

    /// Those worth running on.
    pub(crate) fn ready(&mut self) -> Vec<usize> {
        while let Ok((id, end)) = self.hear.try_recv() {
            self.ended.insert(id, end);
        }
        let ended = &self.ended;
        let ready = |(_, entry): &(usize, &Entry)| !entry.slow || ended.contains_key(&entry.id);
        let ready = self.list.iter().enumerate().filter(ready);
        ready.map(|(at, _)| at).collect()
    }

    /// Runs a task; its number and how it ended, if it did. What has not begun when the job is stopped
    /// never does.
    pub(crate) fn run(&mut self, at: usize, stopped: bool) -> Option<(u64, End)> {
        let id = self.list[at].id;
        if let Some(task) = self.list[at].task.take() {
            if stopped {
                drop(task);
                self.ended.insert(id, Ok(()));
            } else {
                self.begin(id, task);
            }
        }
        let deadline = now() + GRACE;
        while !self.ended.contains_key(&id) {
            let left = deadline.saturating_duration_since(now());
            match self.hear.recv_timeout(left) {
                Ok((id, end)) => drop(self.ended.insert(id, end)),
                Err(_) => break,
            }
        }
        let Some(end) = self.ended.remove(&id) else {
            self.list[at].slow = true;
            return None;
        };
        self.list.remove(at);
        Some((id, end))
    }

    /// Their process is killed: what has not begun never does, and nobody hears of the rest.
    pub(crate) fn die(self) {
        let not_begun = self.list.into_iter().filter_map(|entry| entry.task);
        not_begun.for_each(std::mem::forget);
    }

    /// Waits until any ends; whether one did.
    pub(crate) fn wait(&mut self, patience: Duration) -> bool {
        match self.hear.recv_timeout(patience) {
            Ok((id, end)) => {
                self.ended.insert(id, end);
                true
            }
            Err(_) => false,
        }
    }

    fn begin(&self, id: u64, task: Task) {
        let tell = self.tell.clone();
        let run = move || {
            let end = catch_unwind(AssertUnwindSafe(task)).map_err(|panic| panic_error(&*panic));
            // The run may have been given up meanwhile.
            let _ = tell.send((id, end));
        };
        thread::Builder::new()
            .name("cohort-check-task".into())
            .spawn(run)
            .expect("a thread can be had");
    }
}
