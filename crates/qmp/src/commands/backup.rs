//! Backup jobs.

use super::{record, words};

words! {
    /// What is copied.
    SyncMode { Top = "top", Full = "full", None = "none", Incremental = "incremental", Bitmap = "bitmap" }
}

words! {
    /// What becomes of the bitmap.
    BitmapMode { OnSuccess = "on-success", Never = "never", Always = "always" }
}

words! {
    /// What an error of a disk means for the job.
    OnError { Report = "report", Ignore = "ignore", Enospc = "enospc", Stop = "stop", Auto = "auto" }
}

words! {
    /// What gives way when old data could not be saved before a write.
    OnCbwError { BreakGuestWrite = "break-guest-write", BreakSnapshot = "break-snapshot" }
}

record! {
    /// How a backup goes about its work.
    Perf {
        use_copy_range: Option<bool>,
        max_workers: Option<i64>,
        max_chunk: Option<i64>,
        min_cluster_size: Option<u64>,
    }
}

record! {
    /// What every backup is told.
    BackupCommon {
        job_id: Option<String>,
        device: String,
        sync: SyncMode,
        speed: Option<i64>,
        bitmap: Option<String>,
        bitmap_mode: Option<BitmapMode>,
        compress: Option<bool>,
        on_source_error: Option<OnError>,
        on_target_error: Option<OnError>,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
        filter_node_name: Option<String>,
        discard_source: Option<bool>,
        x_perf: Option<Perf>,
        target: String,
    }
}

record! {
    /// Arguments of `blockdev-backup`. Those that begin with `x-cohort-` are ours.
    Backup on common: BackupCommon {
        x_cohort_ask: Option<bool>,
        x_cohort_skip_limit: Option<u64>,
        x_cohort_attempts: Option<u32>,
        x_cohort_on_cbw_error: Option<OnCbwError>,
        x_cohort_cbw_timeout: Option<u32>,
    }
}

words! {
    /// Whether a target is made or there.
    NewImageMode { Existing = "existing", AbsolutePaths = "absolute-paths" }
}

record! {
    /// Arguments of `drive-backup`.
    DriveBackup on common: BackupCommon {
        format: Option<String>,
        mode: Option<NewImageMode>,
    }
}
