//! The end of a backup in place: the filter is sealed, the target made durable, the bitmap settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Split};
use cohort_block::{BeforeWrite, Ledger};
use cohort_job::Disposition;

use super::{InPlace, Observer};
use crate::settle::{Aborted, Ended, fate, in_granules, settle};

/// How long copies under way are waited for when the job is stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is needed to end.
pub(super) struct Ending {
    pub(super) plan: Arc<InPlace>,
    pub(super) filter: Arc<BeforeWrite>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) split: Option<Split>,
    pub(super) observer: Arc<dyn Observer>,
}

impl Ending {
    pub(super) fn commit(&mut self) {
        // Everything is copied, so nothing is under way that could be late.
        let _ = self.filter.seal(Instant::now() + PATIENCE);
        self.settle(Ended::Committed);
    }

    pub(super) fn abort(&mut self, disposition: Disposition) {
        let sealed = self.filter.seal(Instant::now() + PATIENCE);
        if sealed.late_saves > 0 {
            self.ledger
                .distrust("old data may reach the target at any time");
        }
        let discard = disposition == Disposition::Discard;
        if !discard && self.split.is_some() && self.ledger.is_trusted() {
            // An error is remembered by the ledger.
            let _ = self.ledger.flush(|| self.plan.target.flush(), |_| true);
        }
        let aborted = Aborted {
            started: true,
            discard,
            flush_failed: !self.ledger.is_trusted(),
            anything_durable: self.ledger.counts().durable > 0,
        };
        self.settle(aborted.into());
    }

    /// What was left out, in granules of the bitmap.
    pub(super) fn skipped(&self) -> Option<DirtyBitmap> {
        let split = self.split.as_ref()?;
        Some(in_granules(&self.manifest(split), &self.ledger.skipped()))
    }

    fn settle(&mut self, ended: Ended) {
        self.plan.source.drop_spent_filters();
        let settled = self.split.take().map(|split| {
            let manifest = self.manifest(&split);
            let remaining = in_granules(&manifest, &self.ledger.remaining());
            let skipped = in_granules(&manifest, &self.ledger.skipped());
            settle(split, fate(ended, self.plan.policy), &remaining, &skipped)
        });
        self.observer.settled(settled, ended);
    }

    /// What was to be copied, in granules of the bitmap: exactly, if it is the bitmap that said so.
    fn manifest(&self, split: &Split) -> DirtyBitmap {
        match self.plan.part {
            super::Part::Bitmap => split.to_copy().clone(),
            super::Part::Full | super::Part::Top | super::Part::Overwritten => {
                self.ledger.manifest().fitted_to(split.base())
            }
        }
    }
}
