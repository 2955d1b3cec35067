//! What a target is worth while it is no point: how much of it counts, of which instants that is, and the row that says so.
//!
//! All of it is said of one moment of the ledger, so that nothing is counted twice and nothing is missing:
//!
//! ```text
//! whole  = kept ∪ manifest          kept: what an earlier run left, and this one does not copy again
//! counts = whole − remaining        remaining: what of the manifest is not durable at that moment
//! ```
//!
//! What an earlier run left keeps the instant that its row gives it. What the file holds besides, because a seal was not
//! followed by a row any more, is not copied again if the disk at this run's instant has the same there: so it is of this
//! instant. What this run is about to replace is of none: nobody could say whether it was replaced when the process ended.

use std::sync::Arc;

use cohort_bitmap::DirtyBitmap;
use cohort_block::Ledger;

use crate::catalogue::{Decision, Extents, Instant, Partial, RunId, Shown, StoredDigests};
use crate::disk::{Disk, Started, now_unix_ms};
use crate::report::Continued;
use crate::target::Target;

/// A disk that is being copied, as far as what its target is worth depends on it.
pub(crate) struct Copied {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) target: Arc<Target>,
    pub(crate) parent: Option<RunId>,
    created_unix_ms: u64,
}

/// What the target is at one moment of the ledger.
pub(crate) struct Moment {
    /// What of the manifest does not count.
    pub(crate) remaining: DirtyBitmap,
    /// What counts.
    map: Vec<Shown>,
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
            created_unix_ms: started.created_unix_ms,
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

    /// What of an earlier run's extents this one does not copy again.
    fn kept(&self, shown: &Shown) -> Option<Shown> {
        let mut clusters = shown.extents.clusters().clone();
        // Of another file that has the same name nothing is known.
        let same = self.target.held_before()?.granularity() == clusters.granularity();
        clusters.subtract(self.ledger.manifest()).ok()?;
        (same && !clusters.is_empty()).then(|| Shown {
            extents: Extents::of(clusters),
            ..shown.clone()
        })
    }
}

impl Moment {
    /// How much counts.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.map.iter().map(Shown::bytes).sum()
    }
}

impl Disk {
    /// The disk as it is being copied, if it is.
    pub(crate) fn copied(&self) -> Option<Copied> {
        self.state().started.as_ref().map(Copied::of)
    }

    /// What the target is now.
    pub(crate) fn moment(&self, copied: &Copied) -> Moment {
        // Asked once: copies go on.
        self.moment_with(copied, copied.ledger.remaining())
    }

    /// What the target was before this run wrote to it.
    pub(crate) fn moment_before(&self, copied: &Copied) -> Moment {
        self.moment_with(copied, copied.ledger.manifest().clone())
    }

    fn moment_with(&self, copied: &Copied, remaining: DirtyBitmap) -> Moment {
        let earlier = self.decided.partial.iter().flat_map(|row| &row.map);
        let mut map: Vec<_> = earlier.filter_map(|shown| copied.kept(shown)).collect();
        let mut own = copied.counts(&remaining);
        for shown in &map {
            own.subtract(shown.extents.clusters())
                .expect("both are of one disk");
        }
        if !own.is_empty() {
            map.push(Shown {
                run: self.run,
                created_unix_ms: copied.created_unix_ms,
                instant: self.instant_now(),
                extents: Extents::of(own),
            });
        }
        Moment { remaining, map }
    }

    /// What is known of the instant that is being copied: nothing, if the source changed meanwhile.
    fn instant_now(&self) -> Instant {
        match self.decided.source.changed() {
            Ok(None) => self.decided.source.instant(),
            Ok(Some(_)) | Err(_) => Instant::NoInstant,
        }
    }

    /// The row of the target at that moment.
    pub(crate) fn partial_row(&self, copied: &Copied, moment: &Moment, left: Left) -> Partial {
        let Left {
            decision,
            why,
            digests,
        } = left;
        Partial {
            file: copied.target.name().clone(),
            parent: copied.parent,
            decision,
            size: self.size(),
            cluster_size: u32::try_from(copied.target.cluster_size()).unwrap_or(u32::MAX),
            durable_bytes: moment.durable_bytes(),
            remaining_bytes: moment.remaining.dirty_bytes(),
            run: self.run,
            stopped_unix_ms: now_unix_ms(),
            why,
            digests,
            map: moment.map.clone(),
        }
    }

    /// Notes how much of the partial that is continued need not be copied again. What is to be copied is known by now.
    pub(crate) fn note_continued(&self) {
        let Some((copied, row)) = self.copied().zip(self.decided.partial.as_ref()) else {
            return;
        };
        if !copied.target.continued() {
            return;
        }
        let before = self.moment_before(&copied);
        let kept_bytes = before.durable_bytes();
        self.state().continued = Some(Continued {
            run: row.run,
            kept_bytes,
            whole_bytes: kept_bytes + before.remaining.dirty_bytes(),
        });
    }
}
