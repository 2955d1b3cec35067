//! Why a restore did not happen.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use cohort_block::DeviceError;

use crate::qcow2_builder::BuildError;

/// Why a disk was not restored. Nothing is left of the output, unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The output exists, and replacing it was not asked for.
    #[error("{} exists already, and is left as it is", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output exists and is a directory, a device or another thing that a file cannot replace.
    #[error("{} is not a regular file, and only such a file can be replaced", path.display())]
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// The path ends in no name of a file.
    #[error("{} names no file", path.display())]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
    /// The directory of the output is missing or cannot be used.
    #[error("the directory {} cannot be used: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another restore is writing to the same output.
    #[error("another restore is writing {}", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },
    /// The range is empty, or ends after the disk does.
    #[error("the disk has {size_bytes} bytes: bytes {} to {} are no part of it", range.start, range.end)]
    Range {
        /// What was asked for.
        range: Range<u64>,
        /// Bytes of the disk.
        size_bytes: u64,
    },
    /// The source could not be read.
    #[error(transparent)]
    Read(#[from] DeviceError),
    /// There is no room for the output.
    #[error("no space for {}: {source}", path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output could not be built as a qcow2 file.
    #[error("cannot build {}: {source}", path.display())]
    Build {
        /// The output.
        path: PathBuf,
        /// What is in the way.
        source: BuildError,
    },
    /// The output is whole and in its place, but its directory could not be made durable: the name
    /// may not survive a loss of power.
    #[error("{} is restored, but may not survive a loss of power: {source}", path.display())]
    NotDurable {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The restore was cancelled.
    #[error("the restore was cancelled")]
    Cancelled,
}
