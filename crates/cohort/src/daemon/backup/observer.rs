//! What a backup has while it lasts, and what becomes of that: who tells clients of its errors, writes down what it is
//! about to clear, and takes back the bitmap at its end.

use std::sync::{Arc, Mutex};

use cohort_backup::{Ended, Observer, Reaction, Settled, Side};
use cohort_bitmap::DirtyBitmap;
use cohort_bitmap::store::SetId;
use cohort_block::{Device, DeviceError};
use cohort_job::Record;
use cohort_qmp::{BlockJobError, Event};

use crate::daemon::bitmaps::Bitmap;
use crate::daemon::events::Events;
use crate::daemon::jobs::{Jobs, SharedIoStatus};
use crate::daemon::nodes::{Node, Use};
use crate::daemon::state::{Clears, JobEnd};
use crate::daemon::{StateDirectory, complain, lock};

/// Tells clients of a backup's errors, and takes back what it had when it ends.
pub(super) struct JobObserver {
    pub(super) events: Arc<Events>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) state: Arc<StateDirectory>,
    pub(super) id: String,
    pub(super) io_status: Arc<SharedIoStatus>,
    pub(super) held: Mutex<Option<Held>>,
}

/// What a backup has as long as it lasts.
pub(super) struct Held {
    pub(super) bitmap: Option<Arc<Bitmap>>,
    /// Whether the bitmap is cleared of what is copied, if all goes well.
    pub(super) clears: bool,
    /// The sets that the bitmap was made of.
    pub(super) lent: Vec<SetId>,
    pub(super) source: Arc<Node>,
    pub(super) target: Arc<Node>,
    pub(super) _uses: [Arc<Use>; 2],
}

impl Observer for JobObserver {
    fn failed(&self, side: Side, error: &DeviceError, reaction: Reaction) {
        let action = match reaction {
            Reaction::Report => "report",
            Reaction::Ignore => "ignore",
            Reaction::Stop => "stop",
        };
        let operation = match side {
            Side::Source => "read",
            Side::Target => "write",
        };
        // Not before what the engine has said of the job until now.
        self.events.catch_up();
        self.events.tell(Event::BlockJobError(BlockJobError {
            device: self.id.clone(),
            operation: operation.to_owned(),
            action: action.to_owned(),
        }));
        if reaction == Reaction::Stop {
            let no_space = error.cause().kind() == std::io::ErrorKind::StorageFull;
            self.io_status.stopped(no_space);
        }
    }

    fn prepared(&self, skipped: Option<&DirtyBitmap>) -> Result<Record, cohort_job::Error> {
        let held = lock(&self.held);
        let Some((held, bitmap)) = held
            .as_ref()
            .and_then(|held| Some((held, held.bitmap.as_ref()?)))
        else {
            return Ok(Record::default());
        };
        let Some(store) = self
            .state
            .store_of(&held.source.name)
            .filter(|_| held.clears)
        else {
            return Ok(Record::default());
        };
        if store.outlives_power() {
            // Else a loss of power could take back writes of which the bitmap is about to be cleared.
            let flushed = held.source.disk.flush();
            flushed.map_err(|error| {
                cohort_job::Error::with_source("the disk must be durable first", error)
            })?;
        }
        if let Some(skipped) = skipped.filter(|skipped| !skipped.is_empty())
            && let Some(set) = store.write(&bitmap.name, skipped)
        {
            bitmap.add_set(set);
        }
        let clears = Clears::of(&held.source.name, &bitmap.name, store.id(), &held.lent);
        let record = serde_json::to_vec(&clears).map_err(|error| error.to_string())?;
        Ok(Record(record))
    }

    fn settled(&self, settled: Option<Settled>, ended: Ended) {
        let mut error = None;
        if self.state.is_kept() && ended != Ended::Committed {
            // What the engine has said of the job until now.
            self.events.catch_up();
            let job = self.jobs.find(&self.id);
            let said = job.and_then(|job| job.error);
            error = said.or_else(|| Some("Operation canceled".to_owned()));
        }
        let held = lock(&self.held);
        let Some(held) = &*held else { return };
        let lent = held.bitmap.as_ref().zip(settled);
        let bitmap = lent.map(|(bitmap, settled)| {
            let is_cleared = ended == Ended::Committed && held.clears;
            let durable = is_cleared.then_some(&*held.lent);
            bitmap.come_back(settled, &held.target, durable);
            bitmap
        });
        let ended = JobEnd { error };
        let written = self.state.settle_job(&self.id, ended, &held.source, bitmap);
        if let Err(error) = written {
            complain(&format!("job '{}': {}", self.id, error.text));
        }
    }

    fn over(&self) {
        drop(lock(&self.held).take());
    }
}
