//! Why an image was not opened: one kind for each thing that may be wrong.

use std::io;
use std::path::{Path, PathBuf};

use cohort_bitmap::store::qcow2::Qcow2Error;

use crate::open::Access;

/// Why an image was not opened. Nothing was changed and nothing stays locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing of this name.
    #[error("{}: no such file", path.display())]
    Missing {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The operating system does not let us.
    #[error("{}: permission denied to {}", path.display(), match access {
        Access::ReadOnly => "read it",
        Access::ReadWrite => "read and write it",
    })]
    Permission {
        /// What was to be opened.
        path: PathBuf,
        /// For what.
        access: Access,
    },
    /// A directory, a pipe, or something else that holds no disk.
    #[error("{}: {what}, neither a file nor a block device", path.display())]
    NotAFile {
        /// What was to be opened.
        path: PathBuf,
        /// What it is instead, with its article.
        what: &'static str,
    },
    /// A file of no bytes: neither a disk nor an image.
    #[error("{}: the file is empty (0 bytes), so it holds no disk", path.display())]
    Empty {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Another process uses it in a way that does not go together with ours.
    #[error("{}: locked: {why}", path.display())]
    Locked {
        /// What was to be opened.
        path: PathBuf,
        /// What the other one does.
        why: &'static str,
    },
    /// Not of the format that was asked for.
    #[error("{}: not a {wanted} image", path.display())]
    WrongFormat {
        /// What was to be opened.
        path: PathBuf,
        /// The format.
        wanted: &'static str,
    },
    /// An image whose end is missing.
    #[error("{}: the image is truncated: {what}", path.display())]
    Truncated {
        /// What was to be opened.
        path: PathBuf,
        /// What lies where the file is not.
        what: String,
    },
    /// An image whose metadata cannot be right.
    #[error("{}: the image is damaged: it has {what}", path.display())]
    Damaged {
        /// What was to be opened.
        path: PathBuf,
        /// What cannot be.
        what: String,
    },
    /// An image that uses what we cannot read.
    #[error("{}: unsupported: the image has {feature}", path.display())]
    Unsupported {
        /// What was to be opened.
        path: PathBuf,
        /// The feature's name.
        feature: String,
    },
    /// An image whose lower layer is not there.
    #[error("{}: its backing file {} does not exist", image.display(), backing.display())]
    MissingBacking {
        /// The image that refers to it.
        image: PathBuf,
        /// Where it should be.
        backing: PathBuf,
    },
    /// An image that lies, by way of its backing files, on itself.
    #[error("{}: its chain of backing files comes back to {}", image.display(), backing.display())]
    BackingLoop {
        /// The image that closes the loop.
        image: PathBuf,
        /// The file that was in the chain already.
        backing: PathBuf,
    },
    /// An image with QEMU's own dirty bitmaps, which cannot be kept while it is written to.
    #[error(
        "{}: it has dirty bitmaps that cannot be kept while it is written to: {cause}; remove them \
         (qemu-img bitmap --remove) or put an overlay on it (qemu-img create -b)", path.display()
    )]
    Bitmaps {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        cause: Qcow2Error,
    },
    /// An image whose tables of clusters may be counted as free, so that a writer might take their clusters.
    #[error(
        "{}: it is not written to, for its tables of clusters cannot be counted: {cause}; see what \
         `qemu-img check` says of it", path.display()
    )]
    Uncounted {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        cause: Qcow2Error,
    },
    /// The operating system failed otherwise.
    #[error("{}: {cause}", path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// How.
        cause: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, cause: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            cause,
        }
    }

    /// Sorts what the operating system said when `path` was looked at or opened.
    pub(crate) fn of_opening(path: &Path, access: Access, cause: io::Error) -> Self {
        let path = path.into();
        let is = |kinds: &[io::ErrorKind]| kinds.contains(&cause.kind());
        if is(&[io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]) {
            Self::Missing { path }
        } else if is(&[
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::ReadOnlyFilesystem,
        ]) {
            Self::Permission { path, access }
        } else if is(&[io::ErrorKind::ResourceBusy]) {
            Self::Locked {
                path,
                why: "it is mounted, or another program has it for itself",
            }
        } else {
            Self::Io { path, cause }
        }
    }

    /// The file that the error is about; a missing backing file's is that of the image above it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::Permission { path, .. }
            | Self::NotAFile { path, .. }
            | Self::Empty { path }
            | Self::Locked { path, .. }
            | Self::WrongFormat { path, .. }
            | Self::Truncated { path, .. }
            | Self::Damaged { path, .. }
            | Self::Uncounted { path, .. }
            | Self::Unsupported { path, .. }
            | Self::MissingBacking { image: path, .. }
            | Self::BackingLoop { image: path, .. }
            | Self::Bitmaps { path, .. }
            | Self::Io { path, .. } => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_sorted() {
        let sort = |code: rustix::io::Errno| {
            OpenError::of_opening(Path::new("d"), Access::ReadOnly, code.into())
        };
        use rustix::io::Errno;
        assert!(matches!(sort(Errno::NOENT), OpenError::Missing { .. }));
        assert!(matches!(sort(Errno::NOTDIR), OpenError::Missing { .. }));
        assert!(matches!(sort(Errno::ACCESS), OpenError::Permission { .. }));
        assert!(matches!(sort(Errno::PERM), OpenError::Permission { .. }));
        assert!(matches!(sort(Errno::ROFS), OpenError::Permission { .. }));
        assert!(matches!(sort(Errno::BUSY), OpenError::Locked { .. }));
        assert!(matches!(sort(Errno::IO), OpenError::Io { .. }));
        assert_eq!(
            sort(Errno::ACCESS).to_string(),
            "d: permission denied to read it"
        );
    }
}
