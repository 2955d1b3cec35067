//! What a saver takes in hand: old data, and the claim that ends once the target has it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::Sink;
use super::staging::Slot;
use crate::File;
use crate::ledger::{Broken, Claim};

/// One cluster on its way to the target.
pub(crate) struct Save {
    pub(super) claim: Claim,
    pub(super) data: Vec<u8>,
    source: String,
    /// That of the write it is done for.
    pub(super) outcome: Arc<Outcome>,
}

/// Why the saves of one write failed, if they did. Set before the claim is given back.
pub(crate) type Outcome = OnceLock<Broken>;

/// One cluster whose old data is in the scratch file.
pub(super) struct Spilled {
    claim: Claim,
    slot: Slot,
    length: usize,
    source: String,
    file: Arc<dyn File>,
}

/// What a saver takes in hand.
pub(super) enum Task {
    Pressing(Save),
    Staged(Save),
    Spilled(Spilled),
}

/// What is free again once a task is done.
pub(super) enum Done {
    /// A buffer whose writer waited.
    Pressing(Vec<u8>),
    /// A buffer that counted as staged.
    Memory(Vec<u8>),
    Scratch(Slot, usize),
}

impl Task {
    pub(super) fn carry_out(self, sink: &dyn Sink, buffer: &mut Vec<u8>) -> Done {
        match self {
            Task::Pressing(save) => Done::Pressing(save.carry_out(sink, false)),
            Task::Staged(save) => Done::Memory(save.carry_out(sink, true)),
            Task::Spilled(spilled) => {
                let done = Done::Scratch(spilled.slot, spilled.length);
                spilled.carry_out(sink, buffer);
                done
            }
        }
    }
}

impl Task {
    /// Nobody can carry it out.
    pub(super) fn give_up(self, error: &io::Error) -> Done {
        let why = |claim: &Claim, source: &str| Broken::Target {
            device: source.to_owned(),
            offset: claim.bytes().start,
            cause: Arc::new(io::Error::other(format!(
                "no thread brings it there: {error}"
            ))),
        };
        match self {
            Task::Pressing(save) => {
                let why = why(&save.claim, &save.source);
                Done::Pressing(save.failed(why, false))
            }
            Task::Staged(save) => {
                let why = why(&save.claim, &save.source);
                Done::Memory(save.failed(why, true))
            }
            Task::Spilled(spilled) => {
                let why = why(&spilled.claim, &spilled.source);
                spilled.claim.lose(why);
                Done::Scratch(spilled.slot, spilled.length)
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

    /// Its data has moved to the scratch file; gives the memory back.
    pub(super) fn spilled(self, slot: Slot, file: Arc<dyn File>) -> (Spilled, Vec<u8>) {
        let spilled = Spilled {
            claim: self.claim,
            slot,
            length: self.data.len(),
            source: self.source,
            file,
        };
        (spilled, self.data)
    }

    fn carry_out(self, sink: &dyn Sink, staged: bool) -> Vec<u8> {
        match bring(sink, &self.claim, &self.data, &self.source) {
            Ok(()) => {
                self.claim.complete();
            }
            Err(why) => return self.failed(why, staged),
        }
        self.data
    }

    fn failed(self, why: Broken, staged: bool) -> Vec<u8> {
        if staged {
            self.claim.lose(why);
        } else {
            // Others of the same write may have failed before; one reason is enough.
            let _ = self.outcome.set(why);
            drop(self.claim);
        }
        self.data
    }
}

impl Spilled {
    fn carry_out(self, sink: &dyn Sink, buffer: &mut Vec<u8>) {
        if !self.claim.is_live() {
            return;
        }
        buffer.resize(self.length, 0);
        let read = || self.file.read_at(buffer, self.slot.offset);
        let read = catch_unwind(AssertUnwindSafe(read))
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
