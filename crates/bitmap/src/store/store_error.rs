//! Why a store could not be made, opened or changed.

use std::io;

use thiserror::Error;

use super::{Lost, SetId};
use crate::SizeError;

/// What went wrong with a store; in each case nothing was clobbered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system failed.
    #[error("{what} of the tracking store cannot be {verb}: {source}")]
    Io {
        /// Which part.
        what: &'static str,
        /// Read or written.
        verb: &'static str,
        /// What the file said.
        source: io::Error,
    },
    /// The file is empty or something else; it was not touched.
    #[error("the file is no tracking store")]
    NotAStore,
    /// There is something in the file already; it was not touched.
    #[error("the file for the tracking store is not empty: remove it, or choose another name")]
    NotEmpty,
    /// Written by another version of this program.
    #[error("the tracking store has version {version}; this program reads version 1")]
    Version {
        /// What the file says.
        version: u32,
    },
    /// So much is wrong that nothing can be read.
    #[error(
        "the tracking store is damaged: {what}; remove it to begin anew, with everything dirty"
    )]
    Damaged {
        /// What is.
        what: String,
    },
    /// The store speaks of another disk.
    #[error(
        "the tracking store belongs to another disk, or the disk was replaced: remove the store to begin anew, with everything dirty"
    )]
    OtherDisk,
    /// Every place is taken.
    #[error("the tracking store is full: it holds {most} sets; drop some that nobody refers to")]
    Full {
        /// How many it can hold.
        most: usize,
    },
    /// There is no set of that number.
    #[error("the tracking store has no set {set}")]
    NoSuchSet {
        /// The number.
        set: SetId,
    },
    /// What was asked does not go with what the set is used for.
    #[error("set {set} of the tracking store {rule}")]
    Use {
        /// The set.
        set: SetId,
        /// What it is, and so cannot.
        rule: &'static str,
    },
    /// The disk is too large for a set of that granularity.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The store failed before; its recording sets are lost since then.
    #[error("the tracking store failed: {}", .0.why)]
    Lost(Lost),
}

impl StoreError {
    pub(super) fn reading(what: &'static str) -> impl Fn(io::Error) -> StoreError {
        move |source| StoreError::Io {
            what,
            verb: "read",
            source,
        }
    }

    pub(super) fn writing(what: &'static str) -> impl Fn(io::Error) -> StoreError {
        move |source| StoreError::Io {
            what,
            verb: "written",
            source,
        }
    }
}
