//! Making image files.

use super::{NodeRef, choices, record, words};

record! {
    /// Arguments of `blockdev-create`.
    CreateJob { job_id: String, options: CreateOptions }
}

record! {
    /// What is to be made.
    CreateOptions {} by driver: CreateDriver
}

choices! {
    /// The kind of image. Those without anything to make are refused by name.
    CreateDriver by "driver" {
        Blkdebug(CreateNothing) = "blkdebug",
        File(CreateFile) = "file",
        HostDevice(CreateNothing) = "host_device",
        Nbd(CreateNothing) = "nbd",
        NullCo(CreateNothing) = "null-co",
        Qcow2(CreateQcow2) = "qcow2",
        Raw(CreateNothing) = "raw",
        Throttle(CreateNothing) = "throttle",
    }
}

record! {
    /// Nothing can be made.
    CreateNothing {}
}

words! {
    /// What of a new file is there from the start.
    Preallocation { Off = "off", Metadata = "metadata", Falloc = "falloc", Full = "full" }
}

record! {
    /// A file of the host.
    CreateFile { filename: String, size: u64, preallocation: Option<Preallocation> }
}

words! {
    /// Versions of qcow2.
    Qcow2Version { V2 = "v2", V3 = "v3" }
}

record! {
    /// A qcow2 image in a node.
    CreateQcow2 {
        file: NodeRef,
        size: u64,
        version: Option<Qcow2Version>,
        backing_file: Option<String>,
        backing_fmt: Option<String>,
        cluster_size: Option<u64>,
        preallocation: Option<Preallocation>,
        lazy_refcounts: Option<bool>,
        refcount_bits: Option<i64>,
    }
}
