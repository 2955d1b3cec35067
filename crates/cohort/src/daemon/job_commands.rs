//! `job-…` and `block-job-…`: verbs and queries.

use std::sync::Arc;

use cohort_job::{Disposition, JobHandle, Refused, Status, Verb, VerbError};
use cohort_qmp::{
    Argument, BlockJobCancel, BlockJobInfo, Error, ErrorClass, JobCancel, JobInfo, SetSpeed, Why,
};
use serde_json::Value;

use super::jobs::Entry;
use super::{Answer, Daemon, generic, nothing};

impl Daemon {
    /// Any job by its id.
    fn job(&self, id: &str) -> Result<Entry, Error> {
        let found = self.jobs.find(id);
        found.ok_or_else(|| Error::generic("Job not found"))
    }

    /// A backup by its id.
    fn block_job(&self, id: &str) -> Result<Entry, Error> {
        let found = self.jobs.find(id).filter(Entry::is_block_job);
        let text = format!("Block job '{id}' not found");
        found.ok_or_else(|| Error::of(ErrorClass::DeviceNotActive, text))
    }

    /// Carries a verb out on a job of any kind.
    pub(super) fn on_job(
        self: &Arc<Self>,
        id: &str,
        verb: impl FnOnce(&JobHandle) -> Result<(), VerbError>,
    ) -> Answer {
        let entry = self.job(id)?;
        said(&entry, verb(&entry.handle))
    }

    /// Carries a verb out on a backup.
    pub(super) fn on_block_job(
        self: &Arc<Self>,
        id: &str,
        verb: impl FnOnce(&JobHandle) -> Result<(), VerbError>,
    ) -> Answer {
        let entry = self.block_job(id)?;
        said(&entry, verb(&entry.handle))
    }

    /// A user's word that nothing shall be left, unless it says otherwise.
    pub(super) fn job_cancel(&self, cancel: &JobCancel) -> Answer {
        let entry = self.job(&cancel.id)?;
        let disposition = disposition(cancel.force.unwrap_or(true));
        said(&entry, entry.handle.cancel(disposition))
    }

    /// A user's word that what was done shall be settled by policy, unless it says otherwise.
    pub(super) fn block_job_cancel(&self, cancel: &BlockJobCancel) -> Answer {
        let entry = self.block_job(&cancel.device)?;
        let force = cancel.force.unwrap_or(false);
        if !force && entry.handle.is_paused_by_user() {
            let id = &entry.id;
            return generic(format!(
                "The block job for device '{id}' is currently paused"
            ));
        }
        said(&entry, entry.handle.cancel(disposition(force)))
    }

    pub(super) fn block_job_set_speed(&self, set: &SetSpeed) -> Answer {
        let entry = self.block_job(&set.device)?;
        let status = entry.handle.status();
        if !Verb::SetSpeed.accepted_in().contains(&status) {
            return Err(refusal(&entry, Verb::SetSpeed, status));
        }
        match u64::try_from(set.speed) {
            Ok(speed) => said(&entry, entry.handle.set_speed(speed)),
            Err(_) => generic("Parameter 'speed' expects a non-negative value"),
        }
    }

    pub(super) fn job_why(&self, id: &str) -> Answer {
        let why = self.job(id)?.handle.why();
        Ok(Why { why }.write())
    }

    pub(super) fn query_jobs(&self) -> Value {
        self.job_infos().iter().map(JobInfo::write).collect()
    }

    /// What is told of every job, newest first.
    pub(super) fn job_infos(&self) -> Vec<JobInfo> {
        let jobs = self.jobs.newest_first();
        let told = jobs.into_iter().map(|entry| {
            let progress = entry.handle.progress();
            JobInfo {
                status: entry.handle.status().to_string(),
                id: entry.id,
                r#type: entry.kind.to_owned(),
                current_progress: progress.done,
                total_progress: progress.total,
                error: entry.error,
            }
        });
        told.collect()
    }

    pub(super) fn query_block_jobs(&self) -> Value {
        let jobs = self.jobs.newest_first().into_iter();
        let told = jobs.filter(Entry::is_block_job).map(|entry| {
            let progress = entry.handle.progress();
            let status = entry.handle.status();
            let paused = entry.handle.is_held();
            let info = BlockJobInfo {
                r#type: entry.kind.to_owned(),
                device: entry.id,
                len: progress.total,
                offset: progress.done,
                busy: status == Status::Running && !paused,
                paused,
                speed: entry.handle.speed(),
                io_status: entry.io_status.get(),
                ready: matches!(status, Status::Ready | Status::Standby),
                status: status.to_string(),
                auto_finalize: entry.auto_finalize,
                auto_dismiss: entry.auto_dismiss,
                error: entry.error,
            };
            info.write()
        });
        told.collect()
    }
}

fn disposition(force: bool) -> Disposition {
    if force {
        Disposition::Discard
    } else {
        Disposition::Keep
    }
}

/// What a client is told about a verb.
fn said(entry: &Entry, result: Result<(), VerbError>) -> Answer {
    let Err(VerbError { refused, .. }) = result else {
        // Whoever says resume has looked at the error; whoever cancels does not care.
        if !entry.handle.is_paused_by_user() {
            entry.io_status.reset();
        }
        return nothing();
    };
    Err(refused_as(entry, refused))
}

/// QEMU's text for a refusal, if it has one; ours says more.
fn refused_as(entry: &Entry, refused: Refused) -> Error {
    let id = &entry.id;
    if let Refused::AlreadyPaused { .. } = refused {
        return Error::generic("Job is already paused");
    }
    if let Refused::NotPaused { .. } = refused {
        return Error::generic("Can't resume a job that was not paused");
    }
    if let Refused::Finishing { .. } = refused {
        return Error::generic(format!("The active block job '{id}' cannot be completed"));
    }
    if let Refused::Status { verb, status }
    | Refused::Stopping { verb, status, .. }
    | Refused::Decided { verb, status, .. } = refused
    {
        return refusal(entry, verb, status);
    }
    if let Refused::Finalizing { status } = refused {
        return refusal(entry, Verb::Finalize, status);
    }
    if refused == Refused::Gone {
        return Error::generic("Job not found");
    }
    Error::generic(format!("Job '{id}': {refused}"))
}

fn refusal(entry: &Entry, verb: Verb, status: Status) -> Error {
    let id = &entry.id;
    Error::generic(format!(
        "Job '{id}' in state '{status}' cannot accept command verb '{verb}'"
    ))
}
