//! What a machine says of an instant that it keeps.

use std::sync::{Arc, Mutex};

use cohort_backup::Keeper;
use cohort_backup::catalogue::RunId;
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::NbdDevice;
use cohort_nbd::BitmapName;
use serde_json::json;

use super::instant::lock;
use crate::monitor::Monitor;

/// The checkpoint that a disk's last point goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// The run at whose instant it began.
    pub(super) anchor: RunId,
    pub(super) bitmap: String,
    pub(super) granularity: u32,
}

/// Keeps the instant of one disk.
#[derive(Debug)]
pub(super) struct MachineKeeper {
    monitor: Arc<Mutex<Monitor>>,
    /// The job that saves what is overwritten.
    job: String,
    base: Result<Base, String>,
    device: Arc<NbdDevice>,
    /// What is exported of the base.
    copy: BitmapName,
}

impl MachineKeeper {
    pub(super) fn new(
        monitor: Arc<Mutex<Monitor>>,
        job: String,
        base: Result<Base, String>,
        device: Arc<NbdDevice>,
        copy: BitmapName,
    ) -> Self {
        MachineKeeper {
            monitor,
            job,
            base,
            device,
            copy,
        }
    }
}

impl Keeper for MachineKeeper {
    fn changes(&self, anchor: RunId) -> Result<DirtyBitmap, String> {
        let base = self.base.as_ref().map_err(String::clone)?;
        if base.anchor != anchor {
            return Err(format!(
                "bitmap {} speaks of run {}",
                base.bitmap, base.anchor
            ));
        }
        let granularity = Granularity::new(base.granularity.into()).map_err(|e| e.to_string())?;
        let dirty = self.device.dirty_bitmap(&self.copy, granularity);
        dirty.map_err(|error| format!("bitmap {} cannot be read: {error}", base.bitmap))
    }

    fn kept(&self) -> Result<(), String> {
        let jobs = lock(&self.monitor).ask("query-jobs", json!({}));
        let jobs = jobs.map_err(|error| error.to_string())?;
        let mut jobs = jobs.as_array().into_iter().flatten();
        let Some(job) = jobs.find(|job| job["id"] == self.job.as_str()) else {
            return Err(format!(
                "the machine's job {} ended before its time",
                self.job
            ));
        };
        match (&job["error"], job["status"].as_str()) {
            (serde_json::Value::Null, Some("running" | "paused")) => Ok(()),
            (error, status) => Err(format!(
                "the machine's job {} is {}: {}",
                self.job,
                status.unwrap_or("in an unknown status"),
                error.as_str().unwrap_or("it gives no reason"),
            )),
        }
    }
}
