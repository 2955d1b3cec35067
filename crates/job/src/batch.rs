//! Jobs that are launched together or not at all, and then go their own ways.

use crate::{AddError, Driver, Engine, JobHandle, JobSpec, Txn, TxnHandle};

/// Jobs that are launched together, each in a group of its own: once launched, one that fails disturbs no
/// other. Dropped instead, because one could not be added, say, all are rolled back, the newest first.
///
/// ```
/// use cohort_job::{Engine, JobSpec, for_each};
///
/// let engine = Engine::new()?;
/// let mut batch = engine.individually();
/// let good = batch.add(JobSpec::new("good"), for_each(0..3, |_, _| Ok(())))?;
/// assert!(batch.add(JobSpec::new("no name"), for_each(0..3, |_, _| Ok(()))).is_err());
/// batch.roll_back();
/// assert_eq!(good.why(), "cancelled because its group was never launched");
/// assert!(engine.job("good").is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a batch that was not launched rolls it back"]
pub struct Batch {
    engine: Engine,
    txns: Vec<Txn>,
}

impl Engine {
    /// Opens a batch: jobs that are launched together and finish each for itself.
    pub fn individually(&self) -> Batch {
        Batch {
            engine: self.clone(),
            txns: Vec::new(),
        }
    }
}

impl Batch {
    /// Adds a job, in a group of its own that has the job's name.
    ///
    /// # Errors
    /// As [`Txn::add`]. Those added before stay added: launch them without it, or roll them back.
    pub fn add(&mut self, spec: JobSpec, driver: impl Driver) -> Result<JobHandle, AddError> {
        let mut txn = self.engine.group(spec.group_name());
        let job = txn.add(spec, driver)?;
        self.txns.push(txn);
        Ok(job)
    }

    /// Starts every job, in the order in which they were added.
    pub fn launch(mut self) -> Vec<TxnHandle> {
        self.txns.drain(..).map(Txn::launch).collect()
    }

    /// Undoes every job that was added, the newest first, and waits until that is done: then their names
    /// are free again. Do not call it inside a driver.
    pub fn roll_back(mut self) {
        let groups: Vec<_> = self.txns.iter().map(Txn::handle).collect();
        self.drop_newest_first();
        for group in groups {
            group.wait();
        }
    }

    fn drop_newest_first(&mut self) {
        while let Some(newest) = self.txns.pop() {
            drop(newest);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.drop_newest_first();
    }
}
