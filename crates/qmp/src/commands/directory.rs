//! Backups into a directory, which are ours: QEMU has none.

use super::{record, words};

words! {
    /// What to do with a disk whose last run still waits for an answer.
    OnUndecided { Refuse = "refuse", Keep = "keep", Discard = "discard" }
}

record! {
    /// Arguments of `x-cohort-backup`, most of them lists of `[NAME=]VALUE`. What is not given is as `cohort backup` has it.
    DirectoryBackup {
        directory: String,
        disks: Option<Vec<String>>,
        individual: Option<bool>,
        mode: Option<Vec<String>>,
        policy: Option<Vec<String>>,
        undecided: Option<OnUndecided>,
        on_error: Option<Vec<String>>,
        on_source_error: Option<Vec<String>>,
        on_target_error: Option<Vec<String>>,
        compress: Option<Vec<String>>,
        speed: Option<Vec<String>>,
        cluster_size: Option<Vec<String>>,
        min_cluster_size: Option<Vec<String>>,
        strict: Option<bool>,
        digests: Option<bool>,
    }
}

record! {
    /// A run: what `x-cohort-backup` returns, and the argument of `x-cohort-backup-resume` and `x-cohort-query-backup`.
    BackupRun { id: String }
}

words! {
    /// How a run is stopped: settled by policy, the same without waiting for the flush, or without a trace.
    StopHow { Keep = "keep", Hurry = "hurry", Discard = "discard" }
}

record! {
    /// Arguments of `x-cohort-backup-stop`.
    BackupStop { id: String, how: StopHow }
}

record! {
    /// What `x-cohort-query-backup` returns: where the disks are, and once the run is over its report.
    BackupState { disks: Vec<DiskState>, report: Option<Report> }
}

record! {
    /// Where a disk of a run is, in bytes of its present phase, and what it waits for the operator to mend.
    DiskState { name: String, phase: String, done: u64, total: u64, stopped: Option<String> }
}

record! {
    /// How a run ended, as `cohort backup` tells it: the word of its exit code, lines for people, and the result as JSON.
    Report { exit: String, lines: Vec<ReportLine>, result: String }
}

record! {
    /// A line for people; what is not good goes to standard error.
    ReportLine { good: bool, text: String }
}
