//! Copy-before-write: saves what a write is about to overwrite, for one backup.
//!
//! The writer's thread reads the old data and hands it to the [`Savers`], threads of the filter's own
//! that nothing else uses; so it works while the job is paused, throttled or stuck. If they may
//! *stage*, and have room, the writer goes on at once. Otherwise it waits for them, and for the copier
//! where that has the cluster in hand, up to its bound. After that the backup breaks and the write
//! goes on; or the other way round, if so chosen: [`OnMiss`].
//!
//! Locks are taken in this order: gate, cluster, target. The copier never enters a gate.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::{Before, Broken, Claim, Ledger};
use crate::savers::{Outcome, Save, Savers, StagingLevel};
use crate::{Device, DeviceError, Operation};

/// What gives way when old data could not be saved in time, or at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// The backup: it breaks, once and for all, and the write goes on.
    #[default]
    BreakBackup,
    /// The write: it fails and changes nothing, and the backup goes on. Not for old data that was staged:
    /// its write has passed, so losing it breaks the backup.
    BreakWrite,
}

/// How a [`BeforeWrite`] treats writers.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a write may be delayed in all, from its arrival at the gate, waiting for a fence
    /// included. Reading the old data from the writer's own disk is not stopped by it.
    pub bound: Duration,
    /// What happens then, or on an error.
    pub on_miss: OnMiss,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            bound: Duration::from_secs(1),
            on_miss: OnMiss::default(),
        }
    }
}

/// How many clusters one write has copied at a time: its share of memory, and of the savers.
const CLUSTERS_AT_ONCE: u64 = 16;

/// A bound beyond this is none; instants do not reach much further than some such time.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The filter of one backup, installed in the gate of its source.
pub struct BeforeWrite {
    ledger: Arc<Ledger>,
    source: Arc<dyn Device>,
    savers: Savers,
    patience: Patience,
}

impl BeforeWrite {
    /// Only puts the parts together, so it may be called while the gate is closed. `source` is the
    /// device behind the gate; `ledger` has its size.
    pub fn new(
        ledger: Arc<Ledger>,
        source: Arc<dyn Device>,
        savers: Savers,
        patience: Patience,
    ) -> Self {
        Self {
            ledger,
            source,
            savers,
            patience,
        }
    }

    /// The ledger it shares with the copier.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// How much old data is staged, on its way to the target.
    pub fn staging(&self) -> StagingLevel {
        self.savers.level()
    }

    /// Ends copying: hands out no more claims, waits for copies in flight and for what is staged, voids
    /// what has not ended by the deadline (its clusters are owed), lets the savers go. All later writes pass.
    pub fn seal(&self, deadline: Instant) -> Sealed {
        let voided = self.ledger.seal(deadline);
        Sealed {
            voided,
            late_saves: self.savers.finish(deadline),
        }
    }

    /// Whether every write passes from now on, so that it may be forgotten.
    pub fn is_spent(&self) -> bool {
        self.ledger.is_passing()
    }

    /// Whether this write has no old data to be saved, as far as a few loads can tell.
    pub(crate) fn passes(&self, offset: u64, length: u64) -> bool {
        self.ledger.is_passing() || self.ledger.is_settled(self.ledger.clusters(offset, length))
    }

    /// Called inside the gate, before the recorders are marked. The write is held up since `since`.
    pub(crate) fn before(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        since: Instant,
    ) -> Result<(), DeviceError> {
        if self.passes(offset, length) {
            return Ok(());
        }
        let deadline = since + self.patience.bound.min(FOREVER);
        let Err(why) = self.save_all(offset, length, deadline) else {
            return Ok(());
        };
        match self.patience.on_miss {
            OnMiss::BreakBackup => {
                tracing::warn!(source = self.source.name(), %why, "the backup breaks");
                self.ledger.break_off(why);
                Ok(())
            }
            OnMiss::BreakWrite => {
                let kind = match why {
                    Broken::Late { .. } => io::ErrorKind::TimedOut,
                    Broken::Source(_)
                    | Broken::Target { .. }
                    | Broken::Staged { .. }
                    | Broken::Distrusted(_) => io::ErrorKind::Other,
                };
                let cause = io::Error::new(kind, why.to_string());
                Err(DeviceError::new(
                    self.source.name(),
                    operation,
                    offset,
                    length,
                    cause,
                ))
            }
        }
    }

    /// Returns once no cluster that the write touches is owed, or in flight and not staged.
    fn save_all(&self, offset: u64, length: u64, deadline: Instant) -> Result<(), Broken> {
        let outcome = Arc::new(Outcome::new());
        let clusters = self.ledger.clusters(offset, length);
        let mut from = clusters.start;
        while from < clusters.end {
            let window = from..clusters.end.min(from + CLUSTERS_AT_ONCE);
            from = window.end;
            if let Err(why) = self.save_window(&window, deadline, &outcome) {
                self.savers.withdraw(&outcome);
                return Err(why.unwrap_or_else(|| self.late(offset)));
            }
        }
        Ok(())
    }

    /// An error without a reason means the deadline passed.
    fn save_window(
        &self,
        window: &Range<u64>,
        deadline: Instant,
        outcome: &Arc<Outcome>,
    ) -> Result<(), Option<Broken>> {
        loop {
            let next = self.ledger.before_write(window);
            // A save of ours that failed gave its cluster back; it must not be tried for ever.
            if let Some(why) = outcome.get() {
                return Err(Some(why.clone()));
            }
            match next {
                Before::Claimed(claim) => {
                    let data = self.read(&claim).map_err(|e| Some(Broken::Source(e)))?;
                    let device = self.source.name();
                    self.savers.submit(Save::new(claim, data, device, outcome));
                }
                Before::Busy => {
                    if !self.ledger.wait_while_busy(window, deadline) {
                        return Err(None);
                    }
                }
                Before::Pass => return Ok(()),
            }
        }
    }

    fn read(&self, claim: &Claim) -> Result<Vec<u8>, DeviceError> {
        let bytes = claim.bytes();
        let mut data = self.savers.buffer((bytes.end - bytes.start) as usize);
        self.source.read_at(&mut data, bytes.start)?;
        Ok(data)
    }

    fn late(&self, offset: u64) -> Broken {
        Broken::Late {
            device: self.source.name().to_owned(),
            offset,
            bound: self.patience.bound,
        }
    }
}

impl fmt::Debug for BeforeWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeWrite")
            .field("source", &self.source.name())
            .field("ledger", &self.ledger)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// How [`BeforeWrite::seal`] left the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "late saves make the target unfit to be continued"]
pub struct Sealed {
    /// Clusters whose copy, the copier's or ours, had not ended; they are owed.
    pub voided: u64,
    /// Saves that have not returned and may write to the target at any time later. Unless this is zero
    /// the target must not be written by anybody else while this process lives.
    pub late_saves: usize,
}
