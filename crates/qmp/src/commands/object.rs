//! Objects beside the block graph.

use super::{choices, record, words};

record! {
    /// Arguments of `object-add`.
    ObjectOptions { id: String } by object: ObjectKind
}

choices! {
    /// The kinds of object.
    ObjectKind by "qom-type" {
        Iothread(Iothread) = "iothread",
        Secret(Secret) = "secret",
        ThrottleGroup(ThrottleGroup) = "throttle-group",
    }
}

record! {
    /// A thread for requests. Nodes here have as many as they need; it is accepted and does nothing.
    Iothread { aio_max_batch: Option<i64>, poll_max_ns: Option<i64>, poll_grow: Option<i64>, poll_shrink: Option<i64> }
}

words! {
    /// How a secret is written down.
    SecretFormat { Raw = "raw", Base64 = "base64" }
}

record! {
    /// Something that nobody shall read.
    Secret { format: Option<SecretFormat>, data: Option<String>, file: Option<String> }
}

record! {
    /// Limits that nodes share.
    ThrottleGroup { limits: Option<ThrottleLimits> }
}

record! {
    /// How fast.
    ThrottleLimits {
        iops_total: Option<i64>,
        iops_read: Option<i64>,
        iops_write: Option<i64>,
        bps_total: Option<i64>,
        bps_read: Option<i64>,
        bps_write: Option<i64>,
    }
}

record! {
    /// Arguments of `object-del`.
    ObjectId { id: String }
}
