//! Checkpoints: what a run under `always` or `ask` keeps if nobody can end it in order.
//!
//! Every now and then a thread of its own makes the target durable and then names it in the catalogue as the disk's
//! partial, so that after a kill or a loss of power the next run continues it. Neither writers nor copies wait for it,
//! and the end of a run only for the phase that is under way.
//!
//! ```text
//! a row that stays true ─► seal the target ─► what is durable ─► digests ─► remaining, as a set ─► the partial's row
//! ```
//!
//! A served disk with a tracking store has what remains written there as a set, and the row names it with the set that
//! records: then whoever continues the partial need not compare.
//!
//! Whatever stops this between two phases, row, file and digests agree: a file may hold more than its row says, and
//! digests may be missing; whoever continues it looks at the file, and reads what has no digest. What a continued partial
//! holds and this run copies again is taken out of its row before anything of it can be replaced.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cohort_bitmap::DirtyBitmap;
use cohort_bitmap::store::SetId;
use cohort_block::Ledger;

use crate::catalogue::{Decision, Partial, StoredDigests, Tracking};
use crate::disk::Disk;
use crate::error::DiskError;
use crate::options::BitmapPolicy;
use crate::partial::{Copied, Left, Moment};
use crate::target::Target;
use crate::turns;

/// The longest that copied data is not kept.
const EVERY: Duration = Duration::from_secs(10);

/// The part of all that is to be copied after which a checkpoint does not wait for the time: a twentieth. Digests are
/// written again no more often than that, because each time all of them are.
const PARTS: u64 = 20;

/// What a row says of its run's end before there is one.
const NO_END: &str = "no end is written down yet: the run is under way, or was killed";

/// The checkpoints of one disk in one run.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether to make one without waiting for the time.
    due: bool,
    /// Whether one is under way.
    busy: bool,
    /// Whether there will be no other.
    ended: bool,
}

/// The partial's row as this run wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    digests: Option<StoredDigests>,
    /// How much was durable when the digests were written.
    digested: u64,
    /// The set of the disk's store that holds what remains, if it is in one.
    remaining: Option<SetId>,
}

impl Checkpoints {
    /// Begins to make them, if the disk's policy keeps partials.
    pub(crate) fn begin(disk: &Arc<Disk>) {
        if decision(disk.decided.options.policy).is_none() {
            return;
        }
        let (checkpoints, disk_then) = (Arc::clone(&disk.checkpoints), Arc::downgrade(disk));
        let thread = std::thread::Builder::new().name("cohort-checkpoint".to_owned());
        if let Err(error) = thread.spawn(move || checkpoints.work(&disk_then)) {
            disk.note(format!(
                "nothing is kept if the program is killed: no thread for checkpoints: {error}"
            ));
        }
    }

    /// So much has been copied that the next one is due. `part` is bytes, of `total` to be copied.
    pub(crate) fn is_due(part: u64, total: u64) -> bool {
        part > 0 && part >= total / PARTS
    }

    /// Has one made as soon as possible.
    pub(crate) fn demand(&self) {
        self.lock().due = true;
        self.changed.notify_all();
    }

    /// Makes no other, and waits until the one under way is over. False if it is not over by the deadline: then
    /// somebody may still write to the target.
    pub(crate) fn end(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        state.ended = true;
        self.changed.notify_all();
        while state.busy {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn work(&self, disk: &Weak<Disk>) {
        while self.wait_for_next() {
            // Nobody who ended this waits for the disk any more once it is not busy.
            let made = disk
                .upgrade()
                .map(|disk| disk.checkpoint(&|| !self.lock().ended));
            let mut state = self.lock();
            state.busy = false;
            self.changed.notify_all();
            match made {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    state.ended = true;
                    tracing::warn!(%error, "no more checkpoints are made");
                }
                None => return,
            }
        }
    }

    /// Waits until one is due; false if there will be no other.
    fn wait_for_next(&self) -> bool {
        let next = Instant::now() + EVERY;
        let mut state = self.lock();
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if state.ended {
                return false;
            }
            if state.due || left.is_zero() {
                state.due = false;
                state.busy = true;
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Makes durable what is copied, and names it as the disk's partial.
    fn checkpoint(&self, goes_on: &dyn Fn() -> bool) -> Result<(), DiskError> {
        let Some(copied) = self.copied() else {
            return Ok(());
        };
        let Copied { ledger, target, .. } = &copied;
        if ledger.counts().written == 0 || !goes_on() {
            return Ok(());
        }
        self.free_what_is_copied(&copied)?;
        match target.seal_without_limit(ledger) {
            Ok(()) => {}
            Err(error) if error.costs_trust() => {
                return Err(DiskError::seal(target.path(), error));
            }
            Err(error) => {
                // There may be room for the next one: somebody may be making some just now.
                tracing::warn!(%error, "a checkpoint was not made");
                return Ok(());
            }
        }
        if ledger.counts().durable == 0 || !goes_on() {
            return Ok(());
        }
        let moment = self.moment(&copied);
        let durable_bytes = moment.durable_bytes();
        let named = self.state().named.clone();
        let named = match named {
            Some(named) if durable_bytes < named.digested + remaining_part(ledger) => named,
            Some(_) | None => {
                let before = named.and_then(|named| named.digests);
                Named {
                    digests: self
                        .store_some_digests(target, &moment.remaining, goes_on)
                        .or(before),
                    digested: durable_bytes,
                    remaining: None,
                }
            }
        };
        self.name_partial(&copied, &moment, named)
    }

    /// A disk that is complete and waits for others of its group is kept as well, if anything was copied for it:
    /// an abort leaves no partial where nothing is durable.
    pub(crate) fn checkpoint_complete(
        &self,
        digests: Option<StoredDigests>,
    ) -> Result<(), DiskError> {
        let Some(copied) = self
            .copied()
            .filter(|_| !self.alone && decision(self.decided.options.policy).is_some())
        else {
            return Ok(());
        };
        if copied.ledger.counts().durable == 0 {
            return Ok(());
        }
        let moment = self.moment(&copied);
        let named = Named {
            digests,
            digested: moment.durable_bytes(),
            remaining: None,
        };
        self.name_partial(&copied, &moment, named)
    }

    /// Before more of a continued partial becomes durable: from now on its digests and its map speak of nothing that this
    /// run copies, so they are true whatever the next seal leaves.
    pub(crate) fn free_what_is_copied(&self, copied: &Copied) -> Result<(), DiskError> {
        let Copied { target, ledger, .. } = copied;
        if !target.continued() || ledger.counts().written == 0 || self.state().named.is_some() {
            return Ok(());
        }
        let Some(row) = self.partial_now()? else {
            return Ok(());
        };
        let before = self.moment_before(copied);
        let digests = match row.digests {
            Some(_) => self.store_some_digests(target, &before.remaining, &|| true),
            None => None,
        };
        let named = Named {
            digests,
            digested: before.durable_bytes(),
            remaining: None,
        };
        let left = Left {
            decision: row.decision,
            why: NO_END.to_owned(),
            digests: named.digests.clone(),
        };
        let row = self.partial_row(copied, &before, left);
        // Whether the group is decided or not: an abort seals after its verdict.
        self.catalogue.rewrite_partial(&self.decided.name, row)?;
        self.state().named = Some(named);
        Ok(())
    }

    /// A partial that this run continued stays as one of before: its row says how this run ended, if the run changed it.
    pub(crate) fn say_end(&self, why: &str) {
        if self.state().named.is_none() {
            return;
        }
        let said = self.partial_now().and_then(|row| {
            row.map_or(Ok(()), |row| {
                let why = why.to_owned();
                let row = Partial { why, ..row };
                self.catalogue.rewrite_partial(&self.decided.name, row)
            })
        });
        if let Err(error) = said {
            self.note(format!("the partial's row speaks of no end yet: {error}"));
        }
    }

    /// The digests of what is not in `leave_out`; none if they cannot be stored, which costs reading.
    fn store_some_digests(
        &self,
        target: &Arc<Target>,
        leave_out: &DirtyBitmap,
        goes_on: &dyn Fn() -> bool,
    ) -> Option<StoredDigests> {
        let size = target.cluster_size();
        let wanted = |cluster: u64| match goes_on() {
            true => Ok(!leave_out.get(cluster * size)),
            false => Err(io::ErrorKind::Interrupted.into()),
        };
        self.store_digests(target, wanted).unwrap_or_else(|error| {
            tracing::debug!(%error, "a partial is named without new digests");
            None
        })
    }

    fn name_partial(
        &self,
        copied: &Copied,
        moment: &Moment,
        named: Named,
    ) -> Result<(), DiskError> {
        let Some(decision) = decision(self.decided.options.policy) else {
            return Ok(());
        };
        let left = Left {
            decision,
            why: NO_END.to_owned(),
            digests: named.digests.clone(),
        };
        let row = self.partial_row(copied, moment, left);
        self.catalogue.sync_names()?;
        let (set, tracking) = turns::at_checkpoint(self, &moment.remaining).unzip();
        let named = Named {
            remaining: set,
            ..named
        };
        self.write_row(row, named, tracking)
    }

    /// Writes the partial's row, and removes the digests and the set that it named before.
    fn write_row(
        &self,
        row: Partial,
        named: Named,
        tracking: Option<Tracking>,
    ) -> Result<(), DiskError> {
        self.catalogue
            .checkpoint(&self.group, &self.decided.name, row, tracking)?;
        let digests = named.digests.as_ref().map(|digests| digests.file.clone());
        let before = self.state().named.replace(named);
        if let Some(set) = before.as_ref().and_then(|before| before.remaining) {
            turns::forget(self, set);
        }
        let before = before.and_then(|before| before.digests);
        if let Some(before) = before.filter(|before| Some(&before.file) != digests.as_ref()) {
            self.catalogue.remove_image(&before.file)?;
        }
        Ok(())
    }
}

/// What the next run may do with what a run under this policy leaves; none if it leaves nothing.
fn decision(policy: BitmapPolicy) -> Option<Decision> {
    match policy {
        BitmapPolicy::Always => Some(Decision::Keep),
        BitmapPolicy::Ask => Some(Decision::Undecided),
        BitmapPolicy::OnSuccess | BitmapPolicy::Never => None,
    }
}

/// Bytes that must become durable before digests are written again.
fn remaining_part(ledger: &Ledger) -> u64 {
    let counts = ledger.counts();
    let all = counts.owed
        + counts.in_flight
        + counts.staged
        + counts.written
        + counts.durable
        + counts.skipped;
    all * ledger.cluster().bytes() / PARTS
}
