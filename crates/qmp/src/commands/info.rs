//! What queries return of the server and its nodes.

use super::{DetectZeroes, record};
use serde_json::Value;

record! {
    /// What `query-version` returns, and the greeting has.
    VersionInfo { qemu: VersionNumbers, package: String }
}

record! {
    /// A version.
    VersionNumbers { major: i64, minor: i64, micro: i64 }
}

record! {
    /// An item of `query-commands`.
    NameInfo { name: String }
}

record! {
    /// An item of `query-named-block-nodes`.
    NodeInfo {
        node_name: Option<String>,
        drv: String,
        ro: bool,
        active: bool,
        encrypted: bool,
        file: String,
        backing_file ["backing_file"]: Option<String>,
        backing_file_depth ["backing_file_depth"]: i64,
        detect_zeroes ["detect_zeroes"]: DetectZeroes,
        write_threshold ["write_threshold"]: i64,
        bps: i64,
        bps_rd ["bps_rd"]: i64,
        bps_wr ["bps_wr"]: i64,
        iops: i64,
        iops_rd ["iops_rd"]: i64,
        iops_wr ["iops_wr"]: i64,
        cache: CacheInfo,
        image: Value,
        dirty_bitmaps: Option<Vec<BitmapInfo>>,
    }
}

record! {
    /// How a node's cache is used.
    CacheInfo { writeback: bool, direct: bool, no_flush: bool }
}

record! {
    /// A bitmap of a node.
    BitmapInfo {
        name: Option<String>,
        count: u64,
        granularity: u32,
        recording: bool,
        busy: bool,
        persistent: bool,
        inconsistent: Option<bool>,
    }
}
