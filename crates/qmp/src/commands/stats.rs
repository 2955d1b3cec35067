//! What a server of ours has counted, which QEMU's does not tell.

use super::record;

record! {
    /// What `x-cohort-query-stats` returns. Counts begin with the server, or with what they are of.
    Statistics {
        exports: Vec<ExportStatistics>,
        disks: Vec<DiskStatistics>,
        groups: Vec<GroupState>,
        decided: Decided,
        fences: FenceStatistics,
        clients: ClientStatistics,
        memory: MemoryStatistics,
    }
}

record! {
    /// An export: who is inside, what they asked for, and how often they were refused before the disk was asked.
    ExportStatistics {
        name: String,
        clients: u64,
        operations: Vec<OperationStatistics>,
        refused: u64,
    }
}

record! {
    /// One kind of request: how many came, how many of these the disk failed, and the bytes of the others.
    OperationStatistics { operation: String, requests: u64, errors: u64, bytes: u64 }
}

record! {
    /// A disk: how long writes to it take, and what is dirty of it by each bitmap, and against the last point of the
    /// directory into which it was backed up.
    DiskStatistics {
        name: String,
        size: u64,
        writes: Option<WriteStatistics>,
        bitmaps: Vec<BitmapStatistics>,
        tracked_dirty_bytes: Option<u64>,
    }
}

record! {
    /// The writes that passed a disk's gate: how long they were held up there, in all and by a closed gate, and how long
    /// their own disk took.
    WriteStatistics {
        writes: u64,
        delayed: Vec<DelayedWrites>,
        delay_ns: u64,
        delay_p99_ns: u64,
        delay_worst_ns: u64,
        fence_waits: u64,
        fence_wait_worst_ns: u64,
        device_writes: u64,
        device_ns: u64,
    }
}

record! {
    /// How many writes were held up no longer than that.
    DelayedWrites { up_to_ns: u64, writes: u64 }
}

record! {
    /// A bitmap, and how much it says is dirty.
    BitmapStatistics { name: String, dirty_bytes: u64 }
}

record! {
    /// Jobs that finish together, and where their group is.
    GroupState { name: String, phase: String, jobs: Vec<String> }
}

record! {
    /// How many groups were decided in either way; a job by itself is a group of one.
    Decided { committed: u64, aborted: u64 }
}

record! {
    /// How often gates were closed for one instant, and for how long: the last time, and the longest.
    FenceStatistics { fences: u64, last_ns: u64, worst_ns: u64 }
}

record! {
    /// Who is connected, and how many NBD clients came or were turned away because there were too many.
    ClientStatistics {
        nbd: u64,
        nbd_limit: u64,
        nbd_accepted: u64,
        nbd_turned_away: u64,
        qmp: u64,
    }
}

record! {
    /// What large requests of NBD clients hold now, and may hold; and what the whole process has in memory.
    MemoryStatistics { requests_bytes: u64, requests_limit_bytes: u64, resident_bytes: u64 }
}
