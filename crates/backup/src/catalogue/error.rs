//! What can go wrong with a catalogue: opening it, changing it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::CATALOGUE_VERSION;
use super::rules::Broken;

/// Why a backup directory or its catalogue could not be opened, read or made.
///
/// Nothing was changed and nothing overwritten, whatever the variant.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing of that name.
    #[error("{}: there is no such directory", .0.display())]
    NoDirectory(PathBuf),
    /// It is something else.
    #[error("{}: not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is there and has no catalogue.
    #[error("{}: not a backup directory (it has no catalogue.redb)", .0.display())]
    NoCatalogue(PathBuf),
    /// A catalogue was to be loaded where there is one.
    #[error("{}: this directory has a catalogue already", .0.display())]
    HasCatalogue(PathBuf),
    /// Another process (or another handle in this one) writes into the directory.
    #[error("{}: another run writes into this backup directory{}", directory.display(), holder(*.pid))]
    Busy {
        /// The backup directory.
        directory: PathBuf,
        /// The process that holds it.
        pid: Option<u32>,
    },
    /// The directory has no catalogue, and holds a file with a name that we would give to ours.
    #[error(
        "{}: this file would clash with a backup's own, and there is no catalogue beside it that \
         explains it; choose an empty directory, or load a dump of the lost catalogue",
        .0.display()
    )]
    Clash(PathBuf),
    /// The file is no catalogue of ours: not a redb database, or another program's.
    #[error("{}: not a catalogue of Cohort ({detail})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead, as far as that is known.
        detail: String,
    },
    /// A newer program wrote it.
    #[error(
        "{}: the catalogue has version {found}, and this program knows versions up to {CATALOGUE_VERSION}",
        path.display()
    )]
    NewerVersion {
        /// The catalogue.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file is damaged: cut short, or its bytes changed since it was written.
    #[error("{}: the catalogue is damaged ({detail})", path.display())]
    Damaged {
        /// The catalogue.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// The rows can be read and contradict each other.
    #[error("{}: the catalogue contradicts itself ({broken})", path.display())]
    Broken {
        /// The catalogue, or the dump.
        path: PathBuf,
        /// The first rule that does not hold.
        broken: Broken,
    },
    /// The file is far too large to be a catalogue.
    #[error("{}: {length_bytes} bytes are too many for a catalogue", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        length_bytes: u64,
    },
    /// Writers kept dying while the catalogue was being read.
    #[error("{}: the catalogue could not be read beside its writers; try again", .0.display())]
    Restless(PathBuf),
    /// The operating system said no.
    #[error("{}: {operation} failed: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as in `open`.
        operation: &'static str,
        /// What it said.
        #[source]
        source: Arc<io::Error>,
    },
}

impl OpenError {
    /// Whether there was no room for what was to be written.
    #[must_use]
    pub fn no_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::error::no_room(source))
    }

    pub(super) fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            operation,
            source: Arc::new(source),
        }
    }
}

/// Why a catalogue did not take a change.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The change would break a rule. Nothing was written.
    #[error("the catalogue refuses the change: {0}")]
    Refused(#[from] Broken),
    /// The write failed, now or earlier: whether it counts is known at the next start. Until then
    /// this catalogue takes no change.
    #[error("the catalogue is in doubt until the next start: {0}")]
    InDoubt(Arc<str>),
}

/// What a catalogue could not write after all that counts was written: that a group is done with, or that its file is closed.
///
/// Every verdict and every answer stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: the catalogue was not written to its end: {why}; all that was decided stands, and the next run repairs the file \
     and notes what is missing",
    directory.display()
)]
pub struct Unclosed {
    pub(super) directory: PathBuf,
    pub(super) why: Arc<str>,
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
