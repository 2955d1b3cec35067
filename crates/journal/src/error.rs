//! Why a journal was not opened or read, and what is not to be read in one that was.

use std::io;
use std::path::{Path, PathBuf};

use crate::database::FileError;
use crate::fault::Fault;
use crate::lock::LockError;

/// Why a directory's journal could not be opened, read or made. Nothing was changed, whatever the variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing of that name, or it is something else.
    #[error("{}: there is no such directory", .0.display())]
    NoDirectory(PathBuf),
    /// The directory is there and has no journal.
    #[error("{}: no verdicts were ever written here (it has no journal.redb)", .0.display())]
    NoJournal(PathBuf),
    /// Another process, or another handle in this one, writes here.
    #[error("{}: another process writes its verdicts here{}; one directory serves one process at a time",
        .directory.display(), .holder.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    Held {
        /// The directory.
        directory: PathBuf,
        /// The process that holds it, if it says so.
        holder: Option<u32>,
    },
    /// The file is no journal: not a redb database, or another program's.
    #[error("{}: not a journal of Cohort ({detail})", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead, as far as that is known.
        detail: String,
    },
    /// A newer program wrote it.
    #[error("{}: the journal has version {found}, and this program knows version {}", .path.display(), crate::JOURNAL_VERSION)]
    NewerVersion {
        /// The journal.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file is damaged: cut short, or its bytes changed since it was written.
    #[error("{}: the journal is damaged ({detail}); put a copy of it back, or move it away: \
        what its groups are owed is then forgotten", .path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// Writers kept dying while the journal was being read.
    #[error("{}: the journal could not be read beside its writers; try again", .0.display())]
    Restless(PathBuf),
    /// The operating system said no.
    #[error("{}: {operation} failed: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as in `open`.
        operation: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            operation,
            source,
        }
    }

    pub(crate) fn lock(directory: &Path, error: LockError) -> Self {
        match error {
            LockError::Held { holder, .. } => Self::Held {
                directory: directory.to_owned(),
                holder,
            },
            LockError::Io {
                path,
                operation,
                source,
            } => Self::Io {
                path,
                operation,
                source,
            },
        }
    }

    pub(crate) fn fault(path: &Path, fault: Fault) -> Self {
        let path = path.to_owned();
        match fault {
            Fault::Foreign(detail) => Self::Foreign { path, detail },
            Fault::Newer(found) => Self::NewerVersion { path, found },
            Fault::Damaged(detail) => Self::Damaged { path, detail },
            Fault::Broken(never) => match never {},
            Fault::Unclean => Self::Restless(path),
            Fault::Held => Self::Held {
                directory: path,
                holder: None,
            },
            // Opening may repair, so it may be a write that failed.
            Fault::Io(source) => Self::Io {
                path,
                operation: "access",
                source,
            },
        }
    }

    pub(crate) fn file(error: FileError<std::convert::Infallible>) -> Self {
        let foreign = |path, detail: String| Self::Foreign { path, detail };
        match error {
            FileError::Io(path, operation, source) => Self::Io {
                path,
                operation,
                source,
            },
            FileError::NotAFile(path) => foreign(path, "it is not a regular file".to_owned()),
            FileError::TooLarge(path, length) => {
                foreign(path, format!("{length} bytes are too many for a journal"))
            }
            FileError::Fault(path, fault) => Self::fault(&path, fault),
        }
    }
}

/// A row of a journal that this program cannot read: its group is left alone, and everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The row's number.
    pub number: u64,
    /// What does not fit.
    pub why: String,
}
