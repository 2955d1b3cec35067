//! What a target is worth while it is no point: how much of it counts, and the row that says so.
//!
//! All of it is said of one moment of the ledger, so that nothing is counted twice and nothing is missing:
//!
//! ```text
//! whole = kept ∪ manifest          kept: what an earlier run left, and this one does not copy again
//! counts = whole − remaining       remaining: what of the manifest is not durable at that moment
//! ```

use std::sync::Arc;

use cohort_bitmap::DirtyBitmap;
use cohort_block::Ledger;

use crate::catalogue::{Decision, Partial, RunId, StoredDigests};
use crate::disk::{Disk, Started, now_unix_ms};
use crate::report::Continued;
use crate::target::Target;

/// A disk that is being copied, as far as what its target is worth depends on it.
pub(crate) struct Copied {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) target: Arc<Target>,
    pub(crate) parent: Option<RunId>,
}

/// Why there is a partial, and what may become of it.
pub(crate) struct Left {
    pub(crate) decision: Decision,
    pub(crate) why: String,
    pub(crate) digests: Option<StoredDigests>,
}

impl Copied {
    pub(crate) fn of(started: &Started) -> Self {
        Copied {
            ledger: started.ledger.clone(),
            target: started.target.clone(),
            parent: started.parent,
        }
    }

    /// What of the target counts when so much remains of what the run was to copy.
    fn counts(&self, remaining: &DirtyBitmap) -> DirtyBitmap {
        let mut counts = self.target.in_clusters(self.ledger.manifest());
        if let Some(held) = self.target.held_before() {
            counts.merge(held).expect("both are of one disk");
        }
        counts.subtract(remaining).expect("both are of one disk");
        counts
    }

    /// How much counts at that moment.
    pub(crate) fn durable_bytes(&self, remaining: &DirtyBitmap) -> u64 {
        self.counts(remaining).dirty_bytes()
    }
}

impl Disk {
    /// The disk as it is being copied, if it is.
    pub(crate) fn copied(&self) -> Option<Copied> {
        self.state().started.as_ref().map(Copied::of)
    }

    /// The row of the target when so much remains.
    pub(crate) fn partial_row(
        &self,
        copied: &Copied,
        remaining: &DirtyBitmap,
        left: Left,
    ) -> Partial {
        let Left {
            decision,
            why,
            digests,
        } = left;
        Partial {
            file: copied.target.name().clone(),
            parent: copied.parent,
            decision,
            size: self.source.device.size(),
            cluster_size: u32::try_from(copied.target.cluster_size()).unwrap_or(u32::MAX),
            durable_bytes: copied.durable_bytes(remaining),
            remaining_bytes: remaining.dirty_bytes(),
            run: self.run,
            stopped_unix_ms: now_unix_ms(),
            why,
            digests,
        }
    }

    /// Notes how much of the partial that is continued need not be copied again. What is to be copied is known by now.
    pub(crate) fn note_continued(&self) {
        let Some((copied, row)) = self.copied().zip(self.partial.as_ref()) else {
            return;
        };
        if !copied.target.continued() {
            return;
        }
        let manifest = copied.ledger.manifest();
        let kept_bytes = copied.durable_bytes(manifest);
        self.state().continued = Some(Continued {
            run: row.run,
            kept_bytes,
            whole_bytes: kept_bytes + manifest.dirty_bytes(),
        });
    }
}
