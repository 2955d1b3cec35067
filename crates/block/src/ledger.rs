//! Who has which cluster of one backup: owed, in flight, written, durable, or skipped.
//!
//! The copier and the copy-before-write filter take clusters from the same [`Ledger`], so none is
//! copied twice and none is forgotten. The protocol, for everybody:
//!
//! ```text
//! claim ─► read the source ─► write the target ─► claim.complete() ─► true: written
//!   │                      │                                      └─► false: the copy does not count
//!   │                      └─ claim.stage(): writes pass
//!   └─ dropped: owed again; if a write has passed, the backup breaks
//! ```
//!
//! A write to the source waits while its cluster is in flight, and first has it copied if it is owed;
//! so whoever holds a live claim reads what the disk held at the fence. A claim can be *voided*
//! meanwhile (the backup broke, or is being settled); its clusters are owed again and its copy does not
//! count, whatever it still writes: the bytes of the target in an owed cluster mean nothing.
//!
//! A *staged* cluster is still in its claimant's hands, who has read its old data and keeps it: so writes
//! need not wait for the target. It is neither owed nor written; once a write has passed over it, it
//! cannot be read again.
//!
//! Written is not durable. That it becomes by a flush which began after the write completed and then
//! succeeded: [`Ledger::begin_flush`].

mod answers;
mod claim;
mod flights;

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};

use crate::sync::{AtomicBool, Monitor, MutexGuard, Ordering};

pub(crate) use answers::Before;
pub use answers::{Broken, Counts, Next};
pub use claim::{Claim, Flush};

use flights::{Flight, Flights};

/// The clusters of one backup of one device. Shared by the copier, the filter, and who settles.
///
/// Clusters are numbered from the start of the device; ranges of them are half-open. The last one may
/// be cut short by the end of the device.
pub struct Ledger {
    size: u64,
    cluster: Granularity,
    manifest: DirtyBitmap,
    /// Clusters whose old data nobody needs any more. Grows only, so a write that finds its own there asks
    /// no lock.
    settled: Recorder,
    state: Monitor<State>,
    /// Set, for good, once no write to the source has to wait or copy any more.
    passing: AtomicBool,
    watcher: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct State {
    owed: DirtyBitmap,
    written: DirtyBitmap,
    durable: DirtyBitmap,
    skipped: DirtyBitmap,
    /// What was written when each flush under way began, oldest first.
    flushing: Vec<(u64, DirtyBitmap)>,
    in_flight: Flights,
    /// The copier was told to wait until a copy ends.
    awaited: bool,
    /// Numbers claims and flushes; none is used twice.
    next: u64,
    sealed: bool,
    broken: Option<Broken>,
    trusted: bool,
}

impl Ledger {
    /// All clusters of the manifest are owed; one granule of it is one cluster.
    pub fn new(manifest: DirtyBitmap) -> Self {
        Self {
            size: manifest.size(),
            cluster: manifest.granularity(),
            settled: Recorder::like(&manifest),
            state: Monitor::new(State {
                owed: manifest.clone(),
                written: empty_like(&manifest),
                durable: empty_like(&manifest),
                skipped: empty_like(&manifest),
                flushing: Vec::new(),
                in_flight: Flights::default(),
                awaited: false,
                next: 0,
                sealed: false,
                broken: None,
                trusted: true,
            }),
            manifest,
            passing: AtomicBool::new(false),
            watcher: OnceLock::new(),
        }
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> Granularity {
        self.cluster
    }

    /// The bytes of a range of clusters, cut at the end of the device.
    pub fn bytes(&self, clusters: &Range<u64>) -> Range<u64> {
        let at = |cluster| self.size.min(self.offset(cluster));
        at(clusters.start)..at(clusters.end)
    }

    /// The clusters that a range of bytes touches.
    pub fn clusters(&self, offset: u64, length: u64) -> Range<u64> {
        let first = offset >> self.cluster.shift();
        let end = offset.saturating_add(length).min(self.size);
        if length == 0 || end <= offset {
            return first..first;
        }
        first..self.cluster.granules(end)
    }

    /// Has `watcher` called, with no lock held, whenever it is time to ask again: a copy has ended and the
    /// copier was told to [`Wait`](Next::Wait) or nothing is left, clusters came back, or the ledger was broken or sealed.
    /// Threads of writers call it; it must be quick. Only the first one counts; says whether this one does.
    pub fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) -> bool {
        self.watcher.set(Box::new(watcher)).is_ok()
    }

    /// Hands the copier the next owed run of at most `most` clusters, searching from cluster `from` on
    /// and then from the start.
    ///
    /// Writes to these clusters wait until the claim ends, so hold it for the copy and for nothing else.
    pub fn claim_next(self: &Arc<Self>, from: u64, most: u64) -> Next {
        let mut state = self.state.lock();
        if state.is_closed() {
            return Next::Closed;
        }
        let run = self
            .first_owed(&state, from..u64::MAX)
            .or_else(|| self.first_owed(&state, 0..from));
        match run {
            Some(run) => {
                let end = run.end.min(run.start.saturating_add(most.max(1)));
                Next::Claimed(self.claim(&mut state, run.start..end))
            }
            None if state.in_flight.is_empty() => Next::Finished,
            None => {
                state.awaited = true;
                Next::Wait
            }
        }
    }

    /// What a write to these clusters must do first.
    pub(crate) fn before_write(self: &Arc<Self>, clusters: &Range<u64>) -> Before {
        let mut state = self.state.lock();
        if !state.is_closed()
            && let Some(run) = self.first_owed(&state, clusters.clone())
        {
            return Before::Claimed(self.claim(&mut state, run.start..run.start + 1));
        }
        if state.in_flight.is_busy(clusters) {
            Before::Busy
        } else {
            state.in_flight.pass(clusters);
            Before::Pass
        }
    }

    /// Waits until none of these clusters is in flight; false if the deadline passed first.
    pub(crate) fn wait_while_busy(&self, clusters: &Range<u64>, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.in_flight.is_busy(clusters) {
            state = match self.state.wait_until(state, deadline) {
                Ok(state) => state,
                Err(_) => return false,
            };
        }
        true
    }

    /// Whether nobody needs the old data of these clusters, now and for good: they were not to be copied, or have
    /// been dealt with. Takes no lock.
    pub(crate) fn is_settled(&self, clusters: Range<u64>) -> bool {
        let at = |cluster| self.offset(cluster);
        clusters
            .map(at)
            .all(|byte| self.settled.get(byte) || !self.manifest.get(byte))
    }

    /// Whether writes to the source need not ask any more.
    pub(crate) fn is_passing(&self) -> bool {
        self.passing.load(Ordering::Acquire)
    }

    /// The backup cannot show its instant any more: voids every claim and hands out no more; writes
    /// pass. What is written stays so. Only the first reason is kept.
    pub fn break_off(&self, why: Broken) {
        let mut state = self.state.lock();
        state.broken.get_or_insert(why);
        self.void_all(&mut state);
        self.changed(state);
    }

    /// Why the backup broke, if it did.
    pub fn broken(&self) -> Option<Broken> {
        self.state.lock().broken.clone()
    }

    /// Hands out nothing more, waits until copies in flight have ended, staged ones too, and voids those
    /// that have not by the deadline. Gives the number of clusters voided. Afterwards writes pass.
    pub fn seal(&self, deadline: Instant) -> u64 {
        let mut state = self.state.lock();
        state.sealed = true;
        self.state.ring();
        while !state.in_flight.is_empty() {
            state = match self.state.wait_until(state, deadline) {
                Ok(state) => state,
                Err(state) => {
                    let mut state = state;
                    let voided = state.in_flight.clusters();
                    self.void_all(&mut state);
                    self.changed(state);
                    return voided;
                }
            };
        }
        self.changed(state);
        0
    }

    /// Begins a flush of the target: call this, flush, and tell the answer how it went.
    pub fn begin_flush(self: &Arc<Self>) -> Flush {
        let mut state = self.state.lock();
        let fresh = empty_like(&state.written);
        let written = mem::replace(&mut state.written, fresh);
        let id = state.unique();
        state.flushing.push((id, written));
        Flush::new(self, id)
    }

    /// Flushes the target by `flush`: what had been written when this began is durable if that succeeds. After an error that
    /// `costs_trust` the target is not trusted from here on; any other came before the target was asked for anything.
    ///
    /// # Errors
    /// What `flush` says.
    pub fn flush<E: fmt::Display>(
        self: &Arc<Self>,
        flush: impl FnOnce() -> Result<(), E>,
        costs_trust: impl FnOnce(&E) -> bool,
    ) -> Result<(), E> {
        let begun = self.begin_flush();
        let flushed = flush();
        match &flushed {
            Ok(()) => begun.succeeded(),
            Err(error) if costs_trust(error) => begun.failed(error.to_string()),
            Err(_) => begun.withdrawn(),
        }
        flushed
    }

    /// The target may have lost what it acknowledged (it reconnected, or a flush failed): every written
    /// cluster is owed again, none becomes durable any more, and the backup is broken, because what
    /// was overwritten on the source meanwhile cannot be copied again.
    pub fn distrust(&self, why: impl Into<String>) {
        let mut state = self.state.lock();
        state.trusted = false;
        let State {
            owed,
            written,
            flushing,
            ..
        } = &mut *state;
        for lost in flushing.drain(..).map(|(_, lost)| lost) {
            unite(owed, &lost);
        }
        unite(owed, written);
        written.clear();
        state.broken.get_or_insert(Broken::Distrusted(why.into()));
        self.void_all(&mut state);
        self.changed(state);
    }

    /// Whether nothing ever said that the target lost what it acknowledged.
    pub fn is_trusted(&self) -> bool {
        self.state.lock().trusted
    }

    /// The manifest without what is durable: skipped clusters are among it. Final once the ledger is
    /// sealed or broken, no flush is under way, and no other will begin.
    pub fn remaining(&self) -> DirtyBitmap {
        let mut remaining = self.manifest.clone();
        subtract(&mut remaining, &self.state.lock().durable);
        remaining
    }

    /// All clusters that were to be copied.
    pub fn manifest(&self) -> &DirtyBitmap {
        &self.manifest
    }

    /// Whether this cluster waits to be claimed.
    pub fn is_owed(&self, cluster: u64) -> bool {
        self.state.lock().owed.get(self.offset(cluster))
    }

    /// What was given up with permission.
    pub fn skipped(&self) -> DirtyBitmap {
        self.state.lock().skipped.clone()
    }

    /// Whether nothing is left to be copied, nor in anybody's hands.
    pub fn is_finished(&self) -> bool {
        self.state.lock().is_finished()
    }

    /// How many clusters are where.
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        let flushing: u64 = state.flushing.iter().map(|(_, b)| b.dirty_granules()).sum();
        Counts {
            owed: state.owed.dirty_granules(),
            in_flight: state.in_flight.clusters() - state.in_flight.staged(),
            staged: state.in_flight.staged(),
            written: state.written.dirty_granules() + flushing,
            durable: state.durable.dirty_granules(),
            skipped: state.skipped.dirty_granules(),
        }
    }

    /// The first byte of a cluster, which may lie past the end.
    fn offset(&self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.cluster.bytes())
    }

    fn first_owed(&self, state: &State, clusters: Range<u64>) -> Option<Range<u64>> {
        let run = state.owed.next_dirty_area(
            self.offset(clusters.start),
            self.offset(clusters.end),
            u64::MAX,
        )?;
        Some(run.offset >> self.cluster.shift()..self.cluster.granules(run.offset + run.length))
    }

    /// Takes owed clusters.
    fn claim(self: &Arc<Self>, state: &mut State, clusters: Range<u64>) -> Claim {
        self.remove(&mut state.owed, &clusters);
        let id = state.unique();
        state.in_flight.begin(&clusters, id);
        Claim::new(self, id, clusters)
    }

    /// Ends the flight of a claim and puts its clusters where `to` says; none if it was voided. Else the caller tells
    /// those who wait.
    fn land(
        &self,
        claim: &Claim,
        to: impl FnOnce(&mut State) -> &mut DirtyBitmap,
    ) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.end(claim)?;
        self.add(to(&mut state), &claim.clusters);
        let bytes = self.bytes(&claim.clusters);
        self.settled.mark(bytes.start, bytes.end - bytes.start);
        Some(state)
    }

    /// Ends the flight of a claim that copied nothing: owed again. If a write has passed over it there is
    /// nothing left to copy again, so the backup breaks.
    fn give_back(&self, claim: &Claim, why: impl FnOnce() -> Broken) {
        let mut state = self.state.lock();
        let Some(ended) = state.end(claim) else {
            return;
        };
        self.add(&mut state.owed, &claim.clusters);
        state.awaited = true;
        if ended.passed && !state.is_closed() {
            state.broken = Some(why());
            self.void_all(&mut state);
        }
        self.changed(state);
    }

    /// Lets writes pass a claimed cluster; false if the claim was voided.
    fn stage(&self, claim: &Claim) -> bool {
        let mut state = self.state.lock();
        let live = state.in_flight.stage(claim.clusters.start, claim.id);
        if live {
            self.state.ring();
        }
        live
    }

    fn void_all(&self, state: &mut State) {
        for clusters in state.in_flight.void() {
            self.add(&mut state.owed, &clusters);
        }
    }

    /// Tells everyone who waits.
    fn changed(&self, mut state: MutexGuard<'_, State>) {
        let told = mem::take(&mut state.awaited) || state.is_closed() || state.is_finished();
        self.changed_for_writers(state);
        if told && let Some(watcher) = self.watcher.get() {
            watcher();
        }
    }

    /// Tells those who write, or seal.
    fn changed_for_writers(&self, state: MutexGuard<'_, State>) {
        if state.is_closed() && state.in_flight.is_empty() {
            self.passing.store(true, Ordering::Release);
        }
        self.state.ring();
    }

    fn add(&self, set: &mut DirtyBitmap, clusters: &Range<u64>) {
        let bytes = self.bytes(clusters);
        set.set(bytes.start, bytes.end - bytes.start)
            .expect("clusters of a claim lie inside the device");
    }

    fn remove(&self, set: &mut DirtyBitmap, clusters: &Range<u64>) {
        let bytes = self.bytes(clusters);
        set.reset(bytes.start, bytes.end - bytes.start)
            .expect("clusters of a claim are whole granules of the device");
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.sealed || self.broken.is_some()
    }

    fn is_finished(&self) -> bool {
        self.in_flight.is_empty() && self.owed.is_empty()
    }

    fn is_live(&self, claim: &Claim) -> bool {
        self.in_flight.is_live(claim.clusters.start, claim.id)
    }

    fn end(&mut self, claim: &Claim) -> Option<Flight> {
        self.in_flight.end(claim.clusters.start, claim.id)
    }

    fn unique(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("cluster", &self.cluster)
            .field("counts", &self.counts())
            .field("broken", &self.broken())
            .finish()
    }
}

fn unite(set: &mut DirtyBitmap, other: &DirtyBitmap) {
    set.merge(other).expect("sets of one ledger have one size");
}

fn subtract(set: &mut DirtyBitmap, other: &DirtyBitmap) {
    set.subtract(other)
        .expect("sets of one ledger have one size");
}

fn empty_like(bitmap: &DirtyBitmap) -> DirtyBitmap {
    DirtyBitmap::new(bitmap.size(), bitmap.granularity()).expect("its twin has the same shape")
}
