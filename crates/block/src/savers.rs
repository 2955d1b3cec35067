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
//! Lock order: the queue, then the ledger.

mod gauge;
mod staging;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::ledger::{Broken, Claim};
use crate::sync::{Monitor, MutexGuard, thread};

pub use gauge::StagingNotice;
pub use staging::{Staging, StagingLevel};

use staging::{Area, Notify, Slot};

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
/// Started before the fence, because inside it nothing may be called out. They end when the filter is
/// sealed or dropped; a save that is stuck then keeps its thread until the target answers.
pub struct Savers {
    shared: Arc<Shared>,
}

struct Shared {
    sink: Arc<dyn Sink>,
    queue: Monitor<Queue>,
    notify: Option<Notify>,
}

struct Queue {
    /// Writers wait for these, oldest first.
    pressing: VecDeque<Save>,
    /// In memory, oldest first.
    staged: VecDeque<Save>,
    spilled: VecDeque<Spilled>,
    area: Area,
    saving: usize,
    finished: bool,
}

/// One cluster on its way to the target.
pub(crate) struct Save {
    claim: Claim,
    data: Vec<u8>,
    source: String,
    /// That of the write it is done for.
    outcome: Arc<Outcome>,
}

/// Why the saves of one write failed, if they did. Set before the claim is given back.
pub(crate) type Outcome = OnceLock<Broken>;

/// One cluster whose old data is in the scratch file.
struct Spilled {
    claim: Claim,
    slot: Slot,
    length: usize,
    source: String,
}

/// What a saver takes in hand.
enum Task {
    Pressing(Save),
    Staged(Save),
    Spilled(Spilled),
}

impl Savers {
    /// Starts `threads` of them, at least one. Nothing is staged: writers wait for the target.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(sink: Arc<dyn Sink>, threads: usize) -> io::Result<Self> {
        Self::staging(sink, threads, Staging::none())
    }

    /// Starts `threads` of them, at least one, and lets writers go on while there is room to stage.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn staging(sink: Arc<dyn Sink>, threads: usize, staging: Staging) -> io::Result<Self> {
        let spills = staging.spills();
        let (area, notify) = staging.into_parts();
        let savers = Self {
            shared: Arc::new(Shared {
                sink,
                queue: Monitor::new(Queue {
                    pressing: VecDeque::new(),
                    staged: VecDeque::new(),
                    spilled: VecDeque::new(),
                    area,
                    saving: 0,
                    finished: false,
                }),
                notify,
            }),
        };
        for number in 0..threads.max(1) {
            savers.spawn(format!("saver-{number}"), Shared::work)?;
        }
        if spills {
            savers.spawn("spiller".to_owned(), Shared::spill)?;
        }
        Ok(savers)
    }

    pub(crate) fn level(&self) -> StagingLevel {
        self.shared.queue.lock().area.level()
    }

    pub(crate) fn submit(&self, save: Save) {
        let mut queue = self.shared.queue.lock();
        queue.pressing.push_back(save);
        let notice = queue.admit();
        self.shared.tell(queue, notice);
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

    fn spawn(&self, name: String, work: fn(&Shared)) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name);
        thread.spawn(move || work(&shared)).map(drop)
    }

    fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.finished = true;
        let waiting = (
            mem::take(&mut queue.pressing),
            mem::take(&mut queue.staged),
            mem::take(&mut queue.spilled),
        );
        self.shared.queue.ring();
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
    /// What every saver does.
    fn work(&self) {
        let mut scratch = Vec::new();
        while let Some(task) = self.next() {
            let done = task.carry_out(&*self.sink, self, &mut scratch);
            let mut queue = self.queue.lock();
            queue.saving -= 1;
            queue.area.free(done);
            let notice = queue.admit();
            self.tell(queue, notice);
        }
    }

    /// The next one to carry out; none once finished.
    fn next(&self) -> Option<Task> {
        let mut queue = self.queue.lock();
        loop {
            if queue.finished {
                return None;
            }
            if let Some(task) = queue.take() {
                queue.saving += 1;
                return Some(task);
            }
            queue = self.queue.wait(queue);
        }
    }

    /// What the spiller does: keeps half of the memory free while the scratch file has room.
    fn spill(&self) {
        while let Some((save, slot)) = self.next_to_spill() {
            let file = self.scratch();
            let written = catch_unwind(AssertUnwindSafe(|| file.write_at(&save.data, slot.offset)))
                .unwrap_or_else(|_| Err(io::Error::other("writing to it panicked")));
            let mut queue = self.queue.lock();
            let notice = match written {
                Ok(()) => queue.spilled(save, slot),
                Err(error) => {
                    tracing::warn!(%error, "the scratch file takes no more old data");
                    queue.area.give_up_scratch();
                    queue.staged.push_front(save);
                    None
                }
            };
            self.tell(queue, notice);
        }
    }

    /// The newest, because the savers take the oldest.
    fn next_to_spill(&self) -> Option<(Save, Slot)> {
        let mut queue = self.queue.lock();
        loop {
            if queue.finished || queue.area.is_broken() {
                return None;
            }
            if let Some(length) = queue.staged.back().map(|save| save.data.len())
                && let Some(slot) = queue.area.slot(length)
                && let Some(save) = queue.staged.pop_back()
            {
                return Some((save, slot));
            }
            queue = self.queue.wait(queue);
        }
    }

    fn scratch(&self) -> Arc<dyn crate::File> {
        self.queue.lock().area.file()
    }

    /// Rings, and says what there is to say without a lock.
    fn tell(&self, queue: MutexGuard<'_, Queue>, notice: Option<StagingNotice>) {
        self.queue.ring();
        drop(queue);
        if let (Some(notify), Some(notice)) = (&self.notify, notice) {
            notify(notice);
        }
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

    /// Old data has moved from memory to the scratch file.
    fn spilled(&mut self, save: Save, slot: Slot) -> Option<StagingNotice> {
        self.area.moved(save.data.len());
        if !self.finished {
            self.spilled.push_back(Spilled {
                claim: save.claim,
                slot,
                length: save.data.len(),
                source: save.source,
            });
        }
        self.admit()
    }
}

/// What is free again once a task is done.
enum Done {
    Nothing,
    Memory(usize),
    Scratch(Slot, usize),
}

impl Task {
    fn carry_out(self, sink: &dyn Sink, shared: &Shared, buffer: &mut Vec<u8>) -> Done {
        match self {
            Task::Pressing(save) => {
                save.carry_out(sink, false);
                Done::Nothing
            }
            Task::Staged(save) => {
                let length = save.data.len();
                save.carry_out(sink, true);
                Done::Memory(length)
            }
            Task::Spilled(spilled) => {
                let done = Done::Scratch(spilled.slot, spilled.length);
                spilled.carry_out(sink, shared, buffer);
                done
            }
        }
    }
}

impl Save {
    pub(crate) fn new(claim: Claim, data: Vec<u8>, source: &str, outcome: &Arc<Outcome>) -> Self {
        Self {
            claim,
            data,
            source: source.to_owned(),
            outcome: Arc::clone(outcome),
        }
    }

    fn carry_out(self, sink: &dyn Sink, staged: bool) {
        match bring(sink, &self.claim, &self.data, &self.source) {
            Ok(()) => {
                self.claim.complete();
            }
            Err(why) if staged => self.claim.lose(why),
            Err(why) => {
                // Others of the same write may have failed before; one reason is enough.
                let _ = self.outcome.set(why);
                drop(self.claim);
            }
        }
    }
}

impl Spilled {
    fn carry_out(self, sink: &dyn Sink, shared: &Shared, buffer: &mut Vec<u8>) {
        if !self.claim.is_live() {
            return;
        }
        buffer.resize(self.length, 0);
        let file = shared.scratch();
        let read = catch_unwind(AssertUnwindSafe(|| file.read_at(buffer, self.slot.offset)))
            .unwrap_or_else(|_| Err(io::Error::other("reading the scratch file panicked")));
        if let Err(cause) = read {
            let offset = self.claim.bytes().start;
            let cause = Arc::new(cause);
            return self.claim.lose(Broken::Staged { offset, cause });
        }
        match bring(sink, &self.claim, buffer, &self.source) {
            Ok(()) => {
                self.claim.complete();
            }
            Err(why) => self.claim.lose(why),
        }
    }
}

/// Writes old data to the target, if anybody still wants it.
fn bring(sink: &dyn Sink, claim: &Claim, data: &[u8], source: &str) -> Result<(), Broken> {
    if !claim.is_live() {
        return Ok(()); // Voided while it waited: completing it says so.
    }
    let cluster = claim.clusters().start;
    let saved = catch_unwind(AssertUnwindSafe(|| sink.save(cluster, data)))
        .unwrap_or_else(|_| Err("saving it panicked".into()));
    saved.map_err(|cause| Broken::Target {
        device: source.to_owned(),
        offset: claim.bytes().start,
        cause: cause.into(),
    })
}
