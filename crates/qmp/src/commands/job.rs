//! Jobs.

use super::{record, words};

record! {
    /// Arguments of the commands that name a job by its id.
    JobId { id: String }
}

record! {
    /// Arguments of the commands that call a job's id `device`.
    JobDevice { device: String }
}

record! {
    /// Arguments of `job-cancel`: without trace, unless told otherwise.
    JobCancel { id: String, force: Option<bool> }
}

record! {
    /// Arguments of `block-job-cancel`.
    BlockJobCancel { device: String, force: Option<bool> }
}

record! {
    /// Arguments of `block-job-set-speed`.
    SetSpeed { device: String, speed: i64 }
}

record! {
    /// An item of `query-jobs`.
    JobInfo {
        id: String,
        r#type: String,
        status: String,
        current_progress: u64,
        total_progress: u64,
        error: Option<String>,
    }
}

words! {
    /// What the last error made of a job.
    IoStatus { Ok = "ok", Failed = "failed", Nospace = "nospace" }
}

record! {
    /// An item of `query-block-jobs`.
    BlockJobInfo {
        r#type: String,
        device: String,
        len: u64,
        offset: u64,
        busy: bool,
        paused: bool,
        speed: u64,
        io_status: IoStatus,
        ready: bool,
        status: String,
        auto_finalize: bool,
        auto_dismiss: bool,
        error: Option<String>,
    }
}

record! {
    /// What `x-cohort-job-why` returns.
    Why { why: String }
}
