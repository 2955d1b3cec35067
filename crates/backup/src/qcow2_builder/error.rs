//! What can go wrong while a target is built.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Why an operation on a [`Qcow2Builder`](super::Qcow2Builder) failed.
///
/// Whatever the variant, the file is still what it was at its last seal.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The file below failed. Nothing that this operation wrote is referenced.
    #[error("cannot {operation} the target: {source}")]
    Io {
        /// What was asked of the file, and where.
        operation: FileOperation,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A flush or the write of the header sector failed before: what the file durably holds is
    /// known no longer, so this builder takes nothing more.
    #[error("a flush of the target failed earlier ({source}); it is not trusted again")]
    Distrusted {
        /// The failure that broke the trust.
        source: Arc<io::Error>,
    },
    /// The builder was finished; a finished file is not written to.
    #[error("the target is finished")]
    Finished,
    /// The cluster size is not a power of two from 512 bytes to 2 MiB.
    #[error("{0} bytes is not a cluster size: a power of two from 512 to 2097152 is")]
    ClusterSize(u64),
    /// The disk is larger than qcow2 readers accept with this cluster size.
    #[error(
        "a disk of {size} bytes is too large for clusters of {cluster_size} bytes (at most {limit})"
    )]
    TooLarge {
        /// The size asked for, in bytes.
        size: u64,
        /// The cluster size, in bytes.
        cluster_size: u64,
        /// The largest disk that this cluster size can hold, in bytes.
        limit: u64,
    },
    /// The file would need more reference counts than qcow2 readers accept.
    #[error("the target would grow beyond what clusters of {cluster_size} bytes can count")]
    TooManyClusters {
        /// The cluster size, in bytes.
        cluster_size: u64,
    },
    /// The name or format of the backing file cannot be written into the header cluster.
    #[error(
        "a backing file name of {length} bytes does not fit: 1 to {limit} do with this cluster size"
    )]
    BackingName {
        /// The length of the name, in bytes.
        length: usize,
        /// The longest name that fits, in bytes.
        limit: usize,
    },
    /// A new target must start from an empty file; this one holds something.
    #[error("a new target needs an empty file, this one holds {length} bytes")]
    NotEmpty {
        /// The length found, in bytes.
        length: u64,
    },
    /// The file carries no sealed image: it never reached its first seal, or it is something else.
    #[error("the file holds no sealed qcow2 image")]
    NotSealed,
    /// A valid image, but not one that this builder can continue.
    #[error("the image uses {feature}, which a target being built never does")]
    Unsupported {
        /// The feature in the way.
        feature: &'static str,
    },
    /// The image contradicts itself.
    #[error("the image is damaged: {what}")]
    Damaged {
        /// The contradiction found.
        what: String,
    },
    /// A cluster beyond the end of the disk.
    #[error("cluster {index} is beyond the end of the disk, which has {clusters}")]
    OutOfRange {
        /// The first index that is too large.
        index: u64,
        /// Clusters of the disk.
        clusters: u64,
    },
    /// Data that is empty, or that ends inside a cluster which is not the last one.
    #[error("{length} bytes are not whole clusters")]
    NotWholeClusters {
        /// The length given, in bytes.
        length: usize,
    },
}

impl BuildError {
    /// The system's error below, if that is what happened: for telling "no space" from the rest.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        if let Self::Io { source, .. } | Self::Distrusted { source } = self {
            return Some(source);
        }
        None
    }

    /// Whether it was a flush that failed.
    pub(crate) fn is_flush(&self) -> bool {
        let flush = FileOperation::Flush;
        matches!(self, Self::Io { operation, .. } if *operation == flush)
    }

    /// Whether trying again can only fail again.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

/// What was asked of the file below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOperation {
    /// Reading `length` bytes at `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Writing `length` bytes at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Making everything written durable.
    Flush,
    /// Asking for the length, or changing it.
    Length,
}

impl FileOperation {
    pub(super) fn failed(self) -> impl FnOnce(io::Error) -> BuildError {
        move |source| BuildError::Io {
            operation: self,
            source: Arc::new(source),
        }
    }
}

impl fmt::Display for FileOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { offset, length } => write!(f, "read {length} bytes at {offset} of"),
            Self::Write { offset, length } => write!(f, "write {length} bytes at {offset} of"),
            Self::Flush => f.write_str("flush"),
            Self::Length => f.write_str("size"),
        }
    }
}
