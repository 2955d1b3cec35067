//! The threads that bring old data to the target, and where it waits for them.
//!
//! ```text
//! writer ─► pressing ─► staged ──────────────────► savers ─► target
//!                         └──► spiller ─► scratch ───┘
//!
//! pressing: the writer waits for room in memory; or for the target, if there is no staging
//! staged:   the writer goes on
//! scratch:  old data moves there from memory that is more than half full
//! ```
//!
//! A writer never touches the scratch file: a thread of its own moves old data there, so that a file
//! that does not answer costs room and not time.
//!
//! Threads begin when there is something for them to do, so a disk that nobody writes to has none.
//!
//! Lock order: the queue, then the ledger.

mod gauge;
mod staging;
mod task;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::File;
use crate::sync::{Bell, Monitor, MutexGuard, thread};

pub use gauge::StagingNotice;
pub use staging::{Staging, StagingLevel};
pub(crate) use task::{Outcome, Save};

use staging::{Area, Notify, Slot};
use task::{Done, Spilled, Task};

/// Where old data goes: the target, through handles of the filter's own.
pub trait Sink: Send + Sync {
    /// Writes one cluster, whole or cut by the end of the device, to the target. Called from several
    /// threads at once, for different clusters.
    ///
    /// That it returned well does not make the cluster count; the ledger decides that afterwards. It
    /// may run on when nobody waits for it any more: see [`Sealed::late_saves`](crate::Sealed::late_saves).
    ///
    /// # Errors
    /// The target did not take it.
    fn save(&self, cluster: u64, data: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// The threads that write old data to the target of one backup.
///
/// They begin with the first old data, one more whenever there is more than those that are there can take, and end
/// when the filter is sealed or dropped; a save that is stuck then keeps its thread until the target answers.
/// If the operating system gives none at all, what is to be saved counts as not saved.
pub struct Savers {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Monitor<Queue>,
    /// Rung when there is something to save.
    work: Bell,
    /// Rung when memory is more than half full.
    crowded: Bell,
    notify: Option<Notify>,
}

struct Queue {
    /// Writers wait for these, oldest first.
    pressing: VecDeque<Save>,
    /// In memory, oldest first.
    staged: VecDeque<Save>,
    spilled: VecDeque<Spilled>,
    /// Memory that was in use before: fresh memory costs a writer more than reading into it does.
    spare: Vec<Vec<u8>>,
    area: Area,
    saving: usize,
    threads: Threads,
    /// None once finished: of those that end then none holds the target but who has a save in hand.
    sink: Option<Arc<dyn Sink>>,
}

/// How many there are, of those that save and of those that spill.
struct Threads {
    most: usize,
    running: usize,
    /// Of those, how many wait for work.
    idle: usize,
    spiller: Spiller,
}

#[derive(PartialEq, Eq)]
enum Spiller {
    /// There is no scratch file.
    Unwanted,
    Wanted,
    Running,
}

impl Savers {
    /// At most `threads` of them, and at least one. Nothing is staged: writers wait for the target.
    pub fn new(sink: Arc<dyn Sink>, threads: usize) -> Self {
        Self::staging(sink, threads, Staging::none())
    }

    /// At most `threads` of them, and at least one; writers go on while there is room to stage.
    pub fn staging(sink: Arc<dyn Sink>, threads: usize, staging: Staging) -> Self {
        let spiller = match staging.spills() {
            true => Spiller::Wanted,
            false => Spiller::Unwanted,
        };
        let (area, notify) = staging.into_parts();
        Self {
            shared: Arc::new(Shared {
                queue: Monitor::new(Queue {
                    pressing: VecDeque::new(),
                    staged: VecDeque::new(),
                    spilled: VecDeque::new(),
                    spare: Vec::new(),
                    area,
                    saving: 0,
                    threads: Threads {
                        most: threads.max(1),
                        running: 0,
                        idle: 0,
                        spiller,
                    },
                    sink: Some(sink),
                }),
                work: Bell::default(),
                crowded: Bell::default(),
                notify,
            }),
        }
    }

    pub(crate) fn level(&self) -> StagingLevel {
        self.shared.queue.lock().area.level()
    }

    /// Memory of this length, with whatever content.
    pub(crate) fn buffer(&self, length: usize) -> Vec<u8> {
        let spare = self.shared.queue.lock().spare.pop();
        let mut buffer = spare.unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    pub(crate) fn submit(&self, save: Save) {
        let mut queue = self.shared.queue.lock();
        queue.pressing.push_back(save);
        let notice = queue.admit();
        self.shared.tell(queue, notice, 0);
    }

    /// Gives back what no thread has begun of the saves that one write waits for, so that a target that
    /// answers no more does not fill the memory.
    pub(crate) fn withdraw(&self, outcome: &Arc<Outcome>) {
        let mut queue = self.shared.queue.lock();
        let pressing = mem::take(&mut queue.pressing);
        let (mine, others): (VecDeque<Save>, _) = pressing
            .into_iter()
            .partition(|save| Arc::ptr_eq(&save.outcome, outcome));
        queue.pressing = others;
        // Claims call their ledger's watcher as they go.
        drop(queue);
        drop(mine);
    }

    /// Lets the threads go, and gives back what none has begun; waits until none is saving. Gives the
    /// number of those that still are at the deadline.
    pub(crate) fn finish(&self, deadline: Instant) -> usize {
        self.close();
        let mut queue = self.shared.queue.lock();
        while queue.saving > 0 {
            queue = match self.shared.queue.wait_until(queue, deadline) {
                Ok(queue) => queue,
                Err(queue) => return queue.saving,
            };
        }
        0
    }

    fn close(&self) {
        let mut queue = self.shared.queue.lock();
        let waiting = (
            queue.sink.take(),
            mem::take(&mut queue.pressing),
            mem::take(&mut queue.staged),
            mem::take(&mut queue.spilled),
        );
        self.shared.queue.ring();
        self.shared.work.ring();
        self.shared.crowded.ring();
        drop(queue);
        drop(waiting);
    }
}

impl Drop for Savers {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Savers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savers")
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, name: String, work: fn(&Arc<Shared>)) -> io::Result<()> {
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name(name);
        thread.spawn(move || work(&shared)).map(drop)
    }

    /// What every saver does.
    fn work(self: &Arc<Self>) {
        let mut scratch = Vec::new();
        while let Some((task, sink)) = self.next() {
            let done = task.carry_out(&*sink, &mut scratch);
            drop(sink);
            let mut queue = self.queue.lock();
            queue.saving -= 1;
            queue.take_back(done);
            let notice = queue.admit();
            // The first of what is there this thread takes itself.
            self.tell(queue, notice, 1);
        }
    }

    /// The next one to carry out; none once finished.
    fn next(&self) -> Option<(Task, Arc<dyn Sink>)> {
        let mut queue = self.queue.lock();
        loop {
            queue.sink.as_ref()?;
            if let Some(task) = queue.take() {
                queue.saving += 1;
                return Some((task, queue.sink.clone()?));
            }
            queue.threads.idle += 1;
            queue = self.work.wait(queue);
            queue.threads.idle -= 1;
        }
    }

    /// What the spiller does: keeps half of the memory free while the scratch file has room.
    fn spill(self: &Arc<Self>) {
        while let Some((save, slot)) = self.next_to_spill() {
            let file = self.queue.lock().area.file();
            let written = catch_unwind(AssertUnwindSafe(|| file.write_at(&save.data, slot.offset)))
                .unwrap_or_else(|_| Err(io::Error::other("writing to it panicked")));
            let mut queue = self.queue.lock();
            let notice = match written {
                Ok(()) => queue.spilled(save, slot, file),
                Err(error) => {
                    tracing::warn!(%error, "the scratch file takes no more old data");
                    queue.area.give_up_scratch();
                    queue.staged.push_front(save);
                    None
                }
            };
            self.tell(queue, notice, 0);
        }
    }

    /// The newest, because the savers take the oldest.
    fn next_to_spill(&self) -> Option<(Save, Slot)> {
        let mut queue = self.queue.lock();
        loop {
            if queue.sink.is_none() || queue.area.is_broken() {
                return None;
            }
            if let Some(length) = queue.staged.back().map(|save| save.data.len())
                && let Some(slot) = queue.area.slot(length)
                && let Some(save) = queue.staged.pop_back()
            {
                return Some((save, slot));
            }
            queue = self.crowded.wait(queue);
        }
    }

    /// A thread could not be had. The others do its work; if there is none, nobody does.
    fn without_saver(&self, error: &io::Error) {
        let mut queue = self.queue.lock();
        queue.threads.running -= 1;
        if queue.threads.running > 0 {
            return;
        }
        let pressing = mem::take(&mut queue.pressing);
        let staged = mem::take(&mut queue.staged);
        // Claims call their ledger's watcher as they go.
        drop(queue);
        let tasks = pressing.into_iter().map(Task::Pressing);
        let tasks = tasks.chain(staged.into_iter().map(Task::Staged));
        let given_up: Vec<_> = tasks.map(|task| task.give_up(error)).collect();
        let mut queue = self.queue.lock();
        given_up.into_iter().for_each(|done| queue.take_back(done));
    }

    /// Wakes whom it concerns, but for so many tasks that are taken care of, and says without a lock what there
    /// is to say.
    fn tell(
        self: &Arc<Self>,
        mut queue: MutexGuard<'_, Queue>,
        notice: Option<StagingNotice>,
        taken: usize,
    ) {
        let tasks = queue.tasks().saturating_sub(taken);
        match tasks {
            0 => {}
            1 => self.work.ring_once(),
            _ => self.work.ring(),
        }
        let is_crowded = queue.area.is_crowded();
        if is_crowded {
            self.crowded.ring();
        }
        if queue.saving == 0 {
            self.queue.ring();
        }
        let saver = queue.threads.next_saver(tasks);
        let spiller = is_crowded && queue.threads.needs_spiller();
        drop(queue);
        if let Some(number) = saver
            && let Err(error) = self.spawn(format!("saver-{number}"), Shared::work)
        {
            self.without_saver(&error);
        }
        if spiller && let Err(error) = self.spawn("spiller".to_owned(), Shared::spill) {
            tracing::warn!(%error, "no thread moves old data to the scratch file");
            self.queue.lock().area.give_up_scratch();
        }
        if let (Some(notify), Some(notice)) = (&self.notify, notice) {
            notify(notice);
        }
    }
}

impl Threads {
    /// The number of a saver that is to begin, because there is more to do than those that wait will take.
    fn next_saver(&mut self, tasks: usize) -> Option<usize> {
        let wanted = tasks > self.idle && self.running < self.most;
        wanted.then(|| {
            self.running += 1;
            self.running - 1
        })
    }

    /// Whether the spiller is to begin.
    fn needs_spiller(&mut self) -> bool {
        let wanted = self.spiller == Spiller::Wanted;
        if wanted {
            self.spiller = Spiller::Running;
        }
        wanted
    }
}

impl Queue {
    /// What presses waits for room, not for the target: a saver that has it in hand and is stuck would
    /// keep it there. Unless there will never be room enough.
    fn take(&mut self) -> Option<Task> {
        let never = |save: &Save| !self.area.could_hold(save.data.len());
        if self.pressing.front().is_some_and(never) {
            return self.pressing.pop_front().map(Task::Pressing);
        }
        let staged = self.staged.pop_front().map(Task::Staged);
        staged.or_else(|| self.spilled.pop_front().map(Task::Spilled))
    }

    /// Stages what presses, as far as there is room: its writers go on.
    fn admit(&mut self) -> Option<StagingNotice> {
        let mut notice = None;
        while let Some(save) = self.pressing.front()
            && self.area.has_room(save.data.len())
            && let Some(save) = self.pressing.pop_front()
        {
            // A voided one is dropped by the saver that meets it.
            save.claim.stage();
            notice = self.area.take(save.data.len()).or(notice);
            self.staged.push_back(save);
        }
        notice
    }

    /// How many there are to be taken; what presses is one of them at most.
    fn tasks(&self) -> usize {
        self.staged.len() + self.spilled.len() + usize::from(!self.pressing.is_empty())
    }

    /// Old data has moved from memory to the scratch file.
    fn spilled(&mut self, save: Save, slot: Slot, file: Arc<dyn File>) -> Option<StagingNotice> {
        let (spilled, buffer) = save.spilled(slot, file);
        self.area.moved(buffer.len());
        self.keep(buffer);
        if self.sink.is_some() {
            self.spilled.push_back(spilled);
        }
        self.admit()
    }

    fn take_back(&mut self, done: Done) {
        match done {
            Done::Pressing(buffer) => self.keep(buffer),
            Done::Memory(buffer) => {
                self.area.free_memory(buffer.len());
                self.keep(buffer);
            }
            Done::Scratch(slot, length) => self.area.free_scratch(slot, length),
        }
    }

    /// Keeps a buffer, if it and all others together are no more than what may be staged.
    fn keep(&mut self, buffer: Vec<u8>) {
        if self.area.has_room((self.spare.len() + 1) * buffer.len()) {
            self.spare.push(buffer);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
