//! Every family of metrics: its name, its kind, its labels, and what it says. The one table that pages are written by,
//! and that `docs/metrics.md` prints.

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only ever grows, as long as the process lives.
    Counter,
    /// What is now.
    Gauge,
    /// How many were at most so much, for some bounds, and all of them added up.
    Histogram,
    /// A number of things, and all of them added up.
    Summary,
}

impl Kind {
    /// Its word in the text format.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

macro_rules! families {
    ($($variant:ident $name:literal $kind:ident [$($label:literal)*] $help:literal;)*) => {
        /// A family of metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Family { $(#[doc = $help] $variant),* }

        impl Family {
            /// All of them, in the order in which they are told.
            pub(crate) const ALL: &'static [Family] = &[$(Self::$variant),*];

            /// Its name.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The kind of its numbers.
            pub(crate) const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind),* }
            }

            /// The labels that every sample has.
            pub(crate) const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),*]),* }
            }

            /// What it says.
            pub(crate) const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }
        }
    };
}

families! {
    BuildInfo "cohort_build_info" Gauge ["version"]
        "Always 1; the label is the program's version.";

    ExportRequests "cohort_export_requests_total" Counter ["export" "operation"]
        "Requests of NBD clients that reached the disk, those that it failed included.";
    ExportErrors "cohort_export_errors_total" Counter ["export" "operation"]
        "Requests of NBD clients that the disk failed.";
    ExportBytes "cohort_export_bytes_total" Counter ["export" "operation"]
        "Bytes that requests of NBD clients read, wrote, trimmed or zeroed; without those of failed requests.";
    ExportRefused "cohort_export_refused_total" Counter ["export"]
        "Requests of NBD clients that were refused before the disk was asked: out of range, not allowed, or unknown.";
    ExportClients "cohort_export_clients" Gauge ["export"]
        "NBD clients inside the export.";

    DiskSize "cohort_disk_size_bytes" Gauge ["disk"]
        "Size of the disk.";
    WriteDelay "cohort_disk_write_delay_seconds" Histogram ["disk"]
        "How long writes were held up before their own disk was asked: by a closed gate, and by saving what they overwrite.";
    WriteDelayWorst "cohort_disk_write_delay_worst_seconds" Gauge ["disk"]
        "The longest that a write was held up since the disk is there.";
    WriteDevice "cohort_disk_write_device_seconds" Summary ["disk"]
        "How long the disk itself took for writes.";
    FenceWaits "cohort_disk_fence_waits_total" Counter ["disk"]
        "Writes that found the disk's gate closed.";
    FenceWaitWorst "cohort_disk_fence_wait_worst_seconds" Gauge ["disk"]
        "The longest that a write waited at the disk's closed gate.";

    BitmapDirty "cohort_bitmap_dirty_bytes" Gauge ["disk" "bitmap"]
        "Bytes of the disk that are dirty by the bitmap; of one that a job has, as it was when the job began.";
    TrackedDirty "cohort_tracking_dirty_bytes" Gauge ["disk"]
        "Bytes of the disk that differ from its last point, once this process has backed it up; not told during a run.";

    Jobs "cohort_jobs" Gauge ["status"]
        "Jobs that are not dismissed, by status.";
    JobDone "cohort_job_done_bytes" Gauge ["job"]
        "Bytes that a backup is through with.";
    JobSize "cohort_job_size_bytes" Gauge ["job"]
        "Bytes that a backup has to go through, as far as is known.";

    GroupsDecided "cohort_groups_decided_total" Counter ["verdict"]
        "Groups of jobs that were decided; a job by itself is a group of one.";
    Fences "cohort_fences_total" Counter []
        "How often gates were closed so that backups or bitmaps share one instant.";
    FenceLast "cohort_fence_last_seconds" Gauge []
        "How long gates were closed the last time.";
    FenceWorst "cohort_fence_worst_seconds" Gauge []
        "The longest that gates were closed.";

    NbdClients "cohort_nbd_clients" Gauge []
        "NBD clients that are connected.";
    NbdClientsLimit "cohort_nbd_clients_limit" Gauge []
        "NBD clients that may be connected at once.";
    NbdClientsAccepted "cohort_nbd_clients_accepted_total" Counter []
        "NBD clients that came and were let in.";
    NbdClientsTurnedAway "cohort_nbd_clients_turned_away_total" Counter []
        "NBD clients that came when there were too many.";
    QmpClients "cohort_qmp_clients" Gauge []
        "QMP clients that are connected.";
    RequestMemory "cohort_request_memory_bytes" Gauge []
        "Memory that large requests of NBD clients hold.";
    RequestMemoryLimit "cohort_request_memory_limit_bytes" Gauge []
        "Memory that large requests of NBD clients may hold together.";

    ResidentMemory "process_resident_memory_bytes" Gauge []
        "Memory that the process has.";
    OpenFiles "process_open_fds" Gauge []
        "Files and sockets that the process has open.";
    StartTime "process_start_time_seconds" Gauge []
        "When the server began, in seconds since 1970.";
}
