//! Where old data waits for the target: memory up to a bound, then a scratch file. Only accounts; moves
//! no bytes and takes no lock.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::gauge::{Gauge, StagingNotice};
use crate::File;

/// Where old data may wait for a target that is slower than the writers, and how much of it.
///
/// Memory is used first. With a scratch file, what lies in the second half of the memory is moved
/// there by a thread of its own, as long as it has room; it is read back and never synced, because
/// nothing in it outlives the backup.
pub struct Staging {
    memory: u64,
    scratch: Option<Scratch>,
    notify: Option<Notify>,
}

pub(super) type Notify = Box<dyn Fn(StagingNotice) + Send + Sync>;

struct Scratch {
    file: Arc<dyn File>,
    bytes: u64,
    slot: u64,
}

impl Staging {
    /// None: writers wait until the target has the old data.
    pub fn none() -> Self {
        Self::in_memory(0)
    }

    /// So many bytes of memory, counted in what is saved: whole clusters.
    pub fn in_memory(bytes: u64) -> Self {
        Self {
            memory: bytes,
            scratch: None,
            notify: None,
        }
    }

    /// And then so many bytes of a scratch file, in slots of one cluster; less than one is none. The file
    /// is the savers' own; it is written from its start on. Needs room in memory for two clusters, where
    /// data lies on its way.
    #[must_use]
    pub fn then_in(mut self, file: Arc<dyn File>, bytes: u64, cluster: u64) -> Self {
        let slot = cluster.max(1);
        self.scratch = Some(Scratch { file, bytes, slot });
        self
    }

    /// Calls this when the area is 80 % full, and again when that happens after it was half empty.
    /// Threads of writers call it, so it must be quick.
    #[must_use]
    pub fn notify(mut self, notify: impl Fn(StagingNotice) + Send + Sync + 'static) -> Self {
        self.notify = Some(Box::new(notify));
        self
    }

    pub(super) fn spills(&self) -> bool {
        self.scratch.is_some()
    }

    pub(super) fn into_parts(self) -> (Area, Option<Notify>) {
        let slots = self.scratch.as_ref().map_or(0, |s| s.bytes / s.slot);
        let slot_bytes = self.scratch.as_ref().map_or(0, |s| s.slot);
        let area = Area {
            gauge: Gauge::new(self.memory + slots * slot_bytes),
            memory: self.memory,
            in_memory: 0,
            in_scratch: 0,
            peak: 0,
            file: self.scratch.map(|scratch| scratch.file),
            slots,
            slot_bytes,
            used_slots: 0,
            free_slots: Vec::new(),
            broken: false,
            began: Instant::now(),
        };
        (area, self.notify)
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging")
            .field("memory", &self.memory)
            .field("scratch", &self.scratch.as_ref().map(|s| s.bytes))
            .finish_non_exhaustive()
    }
}

/// How full a staging area is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StagingLevel {
    /// What waits for the target now.
    pub used: u64,
    /// The most that waited at one time.
    pub peak: u64,
    /// What may wait.
    pub size: u64,
}

/// A place in the scratch file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) offset: u64,
}

/// The account of one staging area.
pub(super) struct Area {
    gauge: Gauge,
    memory: u64,
    in_memory: u64,
    in_scratch: u64,
    peak: u64,
    file: Option<Arc<dyn File>>,
    slots: u64,
    slot_bytes: u64,
    /// Slots that were ever handed out: the rest of the file is untouched.
    used_slots: u64,
    free_slots: Vec<Slot>,
    broken: bool,
    began: Instant,
}

impl Area {
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.in_memory + length as u64 <= self.memory
    }

    /// Whether there may ever be room for so much.
    pub(super) fn could_hold(&self, length: usize) -> bool {
        length as u64 <= self.memory
    }

    /// So much more lies in memory.
    pub(super) fn take(&mut self, length: usize) -> Option<StagingNotice> {
        self.in_memory += length as u64;
        self.weigh()
    }

    /// So much less lies in memory. Less is never a reason for a notice.
    pub(super) fn free_memory(&mut self, length: usize) {
        self.in_memory -= length as u64;
        let _ = self.weigh();
    }

    /// What lay in a slot is not needed there any more.
    pub(super) fn free_scratch(&mut self, slot: Slot, length: usize) {
        self.in_scratch -= length as u64;
        self.free_slots.push(slot);
        let _ = self.weigh();
    }

    /// Whether more than half of the memory is used.
    pub(super) fn is_crowded(&self) -> bool {
        self.in_memory * 2 > self.memory
    }

    /// A slot for so many bytes, while more than half of the memory is used.
    pub(super) fn slot(&mut self, length: usize) -> Option<Slot> {
        if !self.is_crowded() || length as u64 > self.slot_bytes {
            return None;
        }
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        (self.used_slots < self.slots).then(|| {
            self.used_slots += 1;
            Slot {
                offset: (self.used_slots - 1) * self.slot_bytes,
            }
        })
    }

    /// So much went from memory to the scratch file.
    pub(super) fn moved(&mut self, length: usize) {
        self.in_memory -= length as u64;
        self.in_scratch += length as u64;
    }

    /// The scratch file failed: what it holds is still to be read, and nothing more is written to it.
    pub(super) fn give_up_scratch(&mut self) {
        self.broken = true;
        self.gauge.resize(self.memory + self.in_scratch);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn file(&self) -> Arc<dyn File> {
        let file = self.file.as_ref();
        Arc::clone(file.expect("only with a scratch file is anything spilled"))
    }

    pub(super) fn level(&self) -> StagingLevel {
        StagingLevel {
            used: self.in_memory + self.in_scratch,
            peak: self.peak,
            size: self.gauge.size(),
        }
    }

    fn weigh(&mut self) -> Option<StagingNotice> {
        let used = self.in_memory + self.in_scratch;
        self.peak = self.peak.max(used);
        self.gauge.reads(self.began.elapsed(), used)
    }
}
