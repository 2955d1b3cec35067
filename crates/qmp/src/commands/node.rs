//! Nodes of the block graph.

use super::blkdebug::Blkdebug;
use super::{choices, record, text_or, words};

record! {
    /// A node to be added: what all have in common, and what its driver needs.
    NodeOptions {
        node_name: Option<String>,
        discard: Option<Discard>,
        cache: Option<CacheOptions>,
        read_only: Option<bool>,
        auto_read_only: Option<bool>,
        force_share: Option<bool>,
        detect_zeroes: Option<DetectZeroes>,
    } by driver: Driver
}

words! {
    /// Whether discards reach what is beneath.
    Discard { Ignore = "ignore", Unmap = "unmap" }
}

words! {
    /// Whether written zeroes become write-zeroes.
    DetectZeroes { Off = "off", On = "on", Unmap = "unmap" }
}

record! {
    /// How the host's cache is used.
    CacheOptions { direct: Option<bool>, no_flush: Option<bool> }
}

choices! {
    /// The kind of a node.
    Driver by "driver" {
        Blkdebug(Blkdebug) = "blkdebug",
        File(FileOptions) = "file",
        HostDevice(FileOptions) = "host_device",
        Nbd(NbdOptions) = "nbd",
        NullCo(NullOptions) = "null-co",
        Qcow2(Qcow2Options) = "qcow2",
        Raw(RawOptions) = "raw",
        Throttle(ThrottleOptions) = "throttle",
    }
}

text_or! {
    /// A child node: by name, or added on the spot.
    NodeRef "BlockdevRef" { Name, Options(NodeOptions) }
}

text_or! {
    /// A child node, or expressly none.
    NodeRefOrNull "BlockdevRefOrNull" { Name, Options(NodeOptions), Null }
}

words! {
    /// Yes, no, or as it turns out.
    OnOffAuto { Auto = "auto", On = "on", Off = "off" }
}

words! {
    /// By what means a file is read and written.
    Aio { Threads = "threads", Native = "native", IoUring = "io_uring" }
}

record! {
    /// A file or block device of the host.
    FileOptions { filename: String, locking: Option<OnOffAuto>, aio: Option<Aio>, drop_cache: Option<bool> }
}

record! {
    /// The bytes of another node, or some of them.
    RawOptions { file: NodeRef, offset: Option<i64>, size: Option<i64> }
}

record! {
    /// A qcow2 image.
    Qcow2Options {
        file: NodeRef,
        backing: Option<NodeRefOrNull>,
        lazy_refcounts: Option<bool>,
        pass_discard_request: Option<bool>,
        pass_discard_snapshot: Option<bool>,
        pass_discard_other: Option<bool>,
    }
}

record! {
    /// Zeroes, whatever was written.
    NullOptions { size: Option<i64>, latency_ns: Option<u64>, read_zeroes: Option<bool> }
}

record! {
    /// A node that may not be fast.
    ThrottleOptions { throttle_group: String, file: NodeRef }
}

choices! {
    /// Where a server listens.
    Address by "type" {
        Inet(InetAddress) = "inet",
        Unix(UnixAddress) = "unix",
    }
}

record! {
    /// Where a server listens, as an object of its own.
    SocketAddress {} by address: Address
}

record! {
    /// A host and a port.
    InetAddress { host: String, port: String, ipv4: Option<bool>, ipv6: Option<bool>, keep_alive: Option<bool> }
}

record! {
    /// A path.
    UnixAddress { path: String }
}

record! {
    /// An export of an NBD server.
    NbdOptions {
        server: SocketAddress,
        export: Option<String>,
        x_dirty_bitmap: Option<String>,
        reconnect_delay: Option<u32>,
        open_timeout: Option<u32>,
    }
}

record! {
    /// Arguments of `blockdev-del`.
    NodeName { node_name: String }
}

record! {
    /// Arguments of `blockdev-reopen`.
    Reopen { options: Vec<NodeOptions> }
}

record! {
    /// Arguments of `block_resize`.
    Resize { device: Option<String>, node_name: Option<String>, size: i64 }
}

record! {
    /// Arguments of `query-named-block-nodes`.
    QueryNodes { flat: Option<bool> }
}

record! {
    /// Arguments of `query-blockstats`.
    QueryStats { query_nodes: Option<bool> }
}
