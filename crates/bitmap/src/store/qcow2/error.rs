//! Why an image's bitmaps were not read or not changed: one kind for each thing that may be wrong.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::{Granularity, SizeError, SizeMismatch};

/// Why the bitmaps of a qcow2 image were not read, or not changed.
///
/// After a change that failed the image holds its bitmaps as they were before or as they were to be, and
/// at worst clusters that nothing refers to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Qcow2Error {
    /// The file cannot be read or written.
    #[error("{what}: {cause}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the storage says.
        cause: io::Error,
    },
    /// The file is no qcow2 image.
    #[error("not a qcow2 image: only qcow2 images hold bitmaps")]
    NotQcow2,
    /// The image is of a version without bitmaps.
    #[error(
        "a qcow2 image of version {version}: only version 3 holds bitmaps (`qemu-img amend -o compat=1.1` \
         makes version 3 of version 2)"
    )]
    Version {
        /// What its header says.
        version: u32,
    },
    /// The image uses what we do not know or may not write to.
    #[error("the image has {feature}")]
    Unsupported {
        /// The feature, by name.
        feature: String,
    },
    /// What the image says of its bitmaps cannot be right.
    #[error("the image's bitmaps are damaged: {what}")]
    Damaged {
        /// What cannot be.
        what: String,
    },
    /// Another program wrote to the image without keeping its bitmaps.
    #[error(
        "a program that knows nothing of bitmaps wrote to this image, so none of its bitmaps is true any more; \
         remove them and start anew"
    )]
    Stale,
    /// There is no bitmap of this name.
    #[error("the image has no bitmap \"{name}\"; {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Known,
    },
    /// There is a bitmap of this name already.
    #[error("the image has a bitmap \"{name}\" already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The bitmap was not saved by who used it last.
    #[error(
        "bitmap \"{name}\" is inconsistent: whoever used the image last did not save it, so what it says is not \
         true; have `qemu-img check -r all` look at the image, then remove it"
    )]
    Inconsistent {
        /// The bitmap.
        name: String,
    },
    /// The bitmap is not of a kind that we know; it is left alone.
    #[error("bitmap \"{name}\" cannot be used: {reason}")]
    Unusable {
        /// The bitmap.
        name: String,
        /// What we do not know.
        reason: String,
    },
    /// No bitmap may be called so.
    #[error("a bitmap's name takes 1 to 1023 bytes, and this one takes {bytes}")]
    BadName {
        /// Its length.
        bytes: usize,
    },
    /// No bitmap in an image may be so fine or so coarse.
    #[error("{granularity} granules: an image's bitmaps have granules of 512 B to 2 GiB")]
    Granularity {
        /// Bytes per bit.
        granularity: Granularity,
    },
    /// The bitmap speaks of a disk of another size.
    #[error(transparent)]
    Size(#[from] SizeMismatch),
    /// The disk has more granules than a bitmap here can have.
    #[error(transparent)]
    TooManyGranules(#[from] SizeError),
    /// The bitmap would take more space than the format allows.
    #[error(
        "a bitmap of {granularity} granules takes more than the format's 512 MiB for this disk: use larger ones"
    )]
    TooLarge {
        /// Bytes per bit.
        granularity: Granularity,
    },
    /// The disk has no bytes, or its last sector is not whole: QEMU could not read the bitmap.
    #[error(
        "a disk of {size} bytes: an image keeps bitmaps only of whole sectors of 512 bytes, and at least one"
    )]
    DiskSize {
        /// Bytes.
        size: u64,
    },
    /// The image has as many bitmaps as the format allows, or their names take too much space.
    #[error(
        "the image has no place for another bitmap: at most 65535 of them, in a directory of 64 MiB"
    )]
    TooMany,
    /// The image's header is full.
    #[error("the image's first cluster has no place for the 32 bytes that tell of bitmaps")]
    NoRoom,
}

impl Qcow2Error {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Qcow2Error::Damaged { what: what.into() }
    }

    /// Wraps what the storage says; `what` was being done.
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Qcow2Error::Io { what, cause }
    }
}

/// The names that an image knows, for who asked for another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(pub Vec<String>);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("it has none at all");
        }
        f.write_str("it has ")?;
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}\"{}\"", name.escape_debug())?;
        }
        Ok(())
    }
}
