//! A node that fails on command.

use super::{NodeRef, record, words};

record! {
    /// What fails, and when.
    Blkdebug {
        image: NodeRef,
        align: Option<u64>,
        inject_error: Option<Vec<InjectError>>,
        set_state: Option<Vec<SetState>>,
    }
}

record! {
    /// A rule that makes requests fail.
    InjectError {
        event: BlkdebugEvent,
        state: Option<i64>,
        iotype: Option<IoType>,
        errno: Option<i64>,
        sector: Option<i64>,
        once: Option<bool>,
        immediately: Option<bool>,
    }
}

record! {
    /// A rule that goes from one state to another.
    SetState { event: BlkdebugEvent, state: Option<i64>, new_state ["new_state"]: i64 }
}

words! {
    /// A kind of request.
    IoType {
        Read = "read",
        Write = "write",
        WriteZeroes = "write-zeroes",
        Discard = "discard",
        Flush = "flush",
        BlockStatus = "block-status",
    }
}

words! {
    /// What the node above is about to do. Those that its driver here never does are known, and never happen.
    BlkdebugEvent {
        L1Update = "l1_update", L1GrowAllocTable = "l1_grow_alloc_table", L1GrowWriteTable = "l1_grow_write_table",
        L1GrowActivateTable = "l1_grow_activate_table", L2Load = "l2_load", L2Update = "l2_update",
        L2UpdateCompressed = "l2_update_compressed", L2AllocCowRead = "l2_alloc_cow_read",
        L2AllocWrite = "l2_alloc_write", ReadAio = "read_aio", ReadBackingAio = "read_backing_aio",
        ReadCompressed = "read_compressed", WriteAio = "write_aio", WriteCompressed = "write_compressed",
        VmstateLoad = "vmstate_load", VmstateSave = "vmstate_save", CowRead = "cow_read", CowWrite = "cow_write",
        ReftableLoad = "reftable_load", ReftableGrow = "reftable_grow", ReftableUpdate = "reftable_update",
        RefblockLoad = "refblock_load", RefblockUpdate = "refblock_update",
        RefblockUpdatePart = "refblock_update_part", RefblockAlloc = "refblock_alloc",
        RefblockAllocHookup = "refblock_alloc_hookup", RefblockAllocWrite = "refblock_alloc_write",
        RefblockAllocWriteBlocks = "refblock_alloc_write_blocks",
        RefblockAllocWriteTable = "refblock_alloc_write_table",
        RefblockAllocSwitchTable = "refblock_alloc_switch_table", ClusterAlloc = "cluster_alloc",
        ClusterAllocBytes = "cluster_alloc_bytes", ClusterFree = "cluster_free", FlushToOs = "flush_to_os",
        FlushToDisk = "flush_to_disk", PwritevRmwHead = "pwritev_rmw_head",
        PwritevRmwAfterHead = "pwritev_rmw_after_head", PwritevRmwTail = "pwritev_rmw_tail",
        PwritevRmwAfterTail = "pwritev_rmw_after_tail", Pwritev = "pwritev", PwritevZero = "pwritev_zero",
        PwritevDone = "pwritev_done", EmptyImagePrepare = "empty_image_prepare",
        L1ShrinkWriteTable = "l1_shrink_write_table", L1ShrinkFreeL2Clusters = "l1_shrink_free_l2_clusters",
        CorWrite = "cor_write", ClusterAllocSpace = "cluster_alloc_space", None = "none",
    }
}
