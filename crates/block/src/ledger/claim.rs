//! What a ledger hands out: claims on clusters, and flushes under way. Both say how they ended, if only
//! by being dropped.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;

use super::{Broken, Ledger, State, unite};

/// The right, and the duty, to copy a run of clusters. Dropped, it gives them back as owed; if a
/// write has passed over them, that breaks the backup.
#[derive(Debug)]
#[must_use = "dropped, the clusters are owed again"]
pub struct Claim {
    ledger: Arc<Ledger>,
    pub(super) id: u64,
    pub(super) clusters: Range<u64>,
    landed: bool,
}

impl Claim {
    pub(super) fn new(ledger: &Arc<Ledger>, id: u64, clusters: Range<u64>) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            id,
            clusters,
            landed: false,
        }
    }

    /// Which clusters; never none.
    pub fn clusters(&self) -> Range<u64> {
        self.clusters.clone()
    }

    /// Their bytes, cut at the end of the device.
    pub fn bytes(&self) -> Range<u64> {
        self.ledger.bytes(&self.clusters)
    }

    /// Whether the copy would still count. Worth asking before a write to the target is begun.
    pub fn is_live(&self) -> bool {
        self.ledger.state.lock().is_live(self)
    }

    /// The target has taken the data of all of them. False if the claim was voided meanwhile: they
    /// are owed again, and nothing may be concluded from what the target holds there.
    pub fn complete(mut self) -> bool {
        self.landed = true;
        let landed = self.ledger.land(&self, |state| &mut state.written);
        landed.map(|state| self.ledger.changed(state)).is_some()
    }

    /// The same, by somebody whose own end has the copier ask again: the watcher is not called for it.
    pub fn complete_in_a_task(mut self) -> bool {
        self.landed = true;
        let landed = self.ledger.land(&self, |state| &mut state.written);
        landed
            .map(|state| self.ledger.changed_for_writers(state))
            .is_some()
    }

    /// Gives them up for good, with permission: nobody tries again in this run. False if voided.
    pub fn skip(mut self) -> bool {
        self.landed = true;
        let landed = self.ledger.land(&self, |state| &mut state.skipped);
        landed.map(|state| self.ledger.changed(state)).is_some()
    }

    /// The old data is read and kept: writes to these clusters pass from now on, while the target takes
    /// it. False if voided: nobody wants it any more.
    pub fn stage(&self) -> bool {
        self.ledger.stage(self)
    }

    /// Gives them back. If a write has passed over them the backup breaks, and that is why.
    pub fn lose(mut self, why: Broken) {
        self.landed = true;
        self.ledger.give_back(&self, || why);
    }

    /// Divides the claim: keeps the clusters before `at`, gives those from there on.
    ///
    /// # Panics
    /// `at` is not strictly inside.
    pub fn split_off(&mut self, at: u64) -> Claim {
        let Range { start, end } = self.clusters;
        assert!(start < at && at < end, "{at} lies inside {start}..{end}");
        let mut state = self.ledger.state.lock();
        let id = state.unique();
        state.in_flight.split(start, self.id, at, id);
        drop(state);
        self.clusters = start..at;
        Claim::new(&self.ledger, id, at..end)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.landed {
            self.ledger.give_back(self, || Broken::Staged {
                offset: self.bytes().start,
                cause: Arc::from(Box::<dyn Error + Send + Sync>::from("nobody kept it")),
            });
        }
    }
}

/// A flush of the target under way. Dropped without a word it counts as failed.
#[derive(Debug)]
#[must_use = "say how the flush went"]
pub struct Flush {
    ledger: Arc<Ledger>,
    id: u64,
    ended: bool,
}

impl Flush {
    pub(super) fn new(ledger: &Arc<Ledger>, id: u64) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            id,
            ended: false,
        }
    }

    /// What was written when it began is durable, unless the target is distrusted.
    pub fn succeeded(mut self) {
        self.ended = true;
        let mut state = self.ledger.state.lock();
        let State {
            flushing, durable, ..
        } = &mut *state;
        // It also covers flushes that began before it and have not returned.
        flushing.retain(|(id, written)| {
            let covered = *id <= self.id;
            if covered {
                unite(durable, written);
            }
            !covered
        });
    }

    /// It ended before the target was asked to make anything durable, and may be tried again: what was written is written
    /// as before, and the target is trusted as before.
    pub fn withdrawn(mut self) {
        self.ended = true;
        let mut state = self.ledger.state.lock();
        let State {
            flushing, written, ..
        } = &mut *state;
        // A later one that succeeded has covered it.
        if let Some(at) = flushing.iter().position(|(id, _)| *id == self.id) {
            unite(written, &flushing.remove(at).1);
        }
    }

    /// The target is not trusted from here on: [`Ledger::distrust`].
    pub fn failed(mut self, why: impl Into<String>) {
        self.ended = true;
        self.ledger.distrust(why);
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.distrust("a flush ended without saying how");
        }
    }
}
