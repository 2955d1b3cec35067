//! `cohort job …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// `cohort job …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List the jobs: what each is, where it is in its life and how far.
    List(JobList),
    /// Show how far jobs are until all of them are over; the exit code says how they ended. Ctrl-C ends the watching, not
    /// the jobs.
    Watch(JobWatch),
    /// Hold a job: it copies nothing until it is resumed. What is overwritten meanwhile is still saved.
    Pause(OneJob),
    /// Let a job that was paused go on.
    Resume(OneJob),
    /// Change how many bytes a second a backup copies at most.
    Speed(JobSpeed),
    /// End a job early, and its group with it: each disk settles by its policy. With --force no trace is left.
    Cancel(JobCancel),
    /// End a job well that is ready and goes on until it is told.
    Complete(OneJob),
    /// Let the group of a job commit that waits for this word.
    Finalize(OneJob),
    /// Forget a job that is concluded.
    Dismiss(OneJob),
    /// Say in a sentence what a job waits for, or what ended it.
    Why(OneJob),
}

/// Where the jobs are.
#[derive(Debug, Args)]
pub(crate) struct JobServer {
    /// The QMP socket of a running `cohort serve --qmp SOCKET`, or of a QEMU or a qemu-storage-daemon.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) socket: PathBuf,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort job list`.
#[derive(Debug, Args)]
pub(crate) struct JobList {
    /// Where.
    #[command(flatten)]
    pub(crate) at: JobServer,
}

/// `cohort job watch`.
#[derive(Debug, Args)]
pub(crate) struct JobWatch {
    /// The jobs to watch; without any, all that there are.
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub(crate) at: JobServer,
}

/// A command about one job.
#[derive(Debug, Args)]
pub(crate) struct OneJob {
    /// The job, by its id.
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Where.
    #[command(flatten)]
    pub(crate) at: JobServer,
}

/// `cohort job speed`.
#[derive(Debug, Args)]
pub(crate) struct JobSpeed {
    /// The job, by its id.
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Bytes a second, or 0 for no limit; K, M, G and T are powers of 1024.
    #[arg(value_name = "BYTES", value_parser = crate::human::parse_bytes)]
    pub(crate) speed: u64,
    /// Where.
    #[command(flatten)]
    pub(crate) at: JobServer,
}

/// `cohort job cancel`.
#[derive(Debug, Args)]
pub(crate) struct JobCancel {
    /// The job, by its id.
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Leave no trace of it, whatever the policies say.
    #[arg(long)]
    pub(crate) force: bool,
    /// Where.
    #[command(flatten)]
    pub(crate) at: JobServer,
}
