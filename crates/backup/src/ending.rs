//! How a disk's part in a run ends: the target sealed, the point recorded, the bitmap settled.
//!
//! The order is that of every ending: stop the copier (no task is in flight when a hook runs), seal the
//! filter, flush with a deadline, read what remains, settle, and only then tell the catalogue.
//! The way to a point is `ending/committed.rs`, that without one `ending/aborted.rs`; here is what both end with.

mod aborted;
mod committed;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::catalogue::{ImageName, RunId};
use crate::disk::{Disk, FencedDisk};
use crate::image_bitmap::clear_owed;
use crate::report::{DiskPhase, Rows};
use crate::settle::{Fate, in_granules, settle};
use crate::stored::ViewSets;
use crate::tracked::Views;
use crate::turns;

/// How long copies of old data that are under way may take to end when a backup is over. Their writers wait
/// for them, so this is no longer than writers wait by default.
const SETTLE_WAIT: Duration = Duration::from_secs(1);

impl Disk {
    /// Always last: what no catalogue names is deleted.
    pub(crate) fn clean(&self) {
        self.checkpoints.end(Instant::now());
        self.meter.enter(DiskPhase::Ended);
        let (target, started, ready) = {
            let mut state = self.state();
            (
                state.target.take(),
                state.started.take(),
                state.ready.take(),
            )
        };
        turns::undo(self, ready);
        // Gone after a hook; if a hook panicked, nothing is known of the disk's changes any more.
        if started.is_some_and(|started| started.fenced.is_some()) {
            self.give_back(None);
        }
        if let Some(tracked) = self.decided.source.tracked() {
            tracked.gated().drop_spent_filters();
            tracked.gated().remove_meter(&self.writes);
            tracked.collect(&self.catalogue, tracked.recording().as_ref());
        }
        if let Some(store) = &self.decided.source.store
            && let Err(why) = store.close(&self.catalogue)
        {
            self.note(format!(
                "tracking store {store} is left as after a kill: {why}"
            ));
        }
        self.clear_bitmap();
        let mut spent = std::mem::take(&mut self.state().digests);
        // Of a partial that was continued: replaced, unless all is as it was.
        let before = self
            .decided
            .partial
            .as_ref()
            .and_then(|partial| partial.digests.as_ref());
        spent.extend(before.map(|digests| digests.file.clone()));
        spent.extend(target.map(|target| target.name().clone()));
        for file in spent {
            if let Err(error) = self.catalogue.remove_image(&file) {
                tracing::warn!(disk = %self.decided.name, %error, "an unfinished file stays until the next run sweeps it");
            }
        }
    }

    /// Takes what the new point holds from the bitmap that was named. Nobody reads the source any more.
    fn clear_bitmap(&self) {
        if self.decided.source.bitmap.is_none() {
            return;
        }
        if let Err(error) = self.decided.source.unlock() {
            tracing::warn!(disk = %self.decided.name, %error, "the source stays locked");
        }
        if let Some(said) = clear_owed(&self.catalogue, &self.decided.name) {
            self.note(said);
        }
    }

    /// The file that errors of the target name.
    pub(crate) fn target_path(&self) -> PathBuf {
        let state = self.state();
        let target = state.target.as_ref().map(|target| target.path().to_owned());
        target.unwrap_or_else(|| self.catalogue.directory().to_owned())
    }

    /// Ends the split of a served disk and gives the views back.
    fn settle_views(
        &self,
        fenced: FencedDisk,
        ledger: &cohort_block::Ledger,
        fate: Fate,
        anchor: Option<RunId>,
        partial: Option<ImageName>,
        sets: Option<ViewSets>,
    ) {
        let FencedDisk {
            split,
            manifest,
            filter,
            ..
        } = fenced;
        self.state().staged = Some(filter.staging());
        let owed = in_granules(&manifest, &ledger.remaining());
        let skipped = in_granules(&manifest, &ledger.skipped());
        let (base, successor) = (split.base().clone(), split.successor().clone());
        let settled = settle(split, fate, &owed, &skipped);
        let rows = Rows {
            base,
            since: successor.snapshot(),
            remaining: owed,
            skipped,
            point_view: settled.point().snapshot(),
            partial_view: settled.partial().map(cohort_bitmap::View::snapshot),
        };
        self.state().rows = Some(rows);
        self.give_back(Some(Views {
            directory: self.directory,
            anchor,
            partial,
            settled,
            sets,
        }));
    }

    fn give_back(&self, views: Option<Views>) {
        if let Some(tracked) = self.decided.source.tracked() {
            tracked.give_back(views);
        }
    }
}
