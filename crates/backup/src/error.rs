//! What can go wrong with a run, and with one disk of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_bitmap::store::qcow2::Qcow2Error;
use cohort_block::{Broken, DeviceError};

use crate::catalogue::{self, BadDiskName, ByteRange, ChangeError, DiskName};
use crate::copy::CopyError;
use crate::fence::FenceError;
use crate::plan::StepDown;
use crate::qcow2_builder::BuildError;
use crate::target::{DigestsError, SealError, TargetError};

/// Why a disk was not backed up. The text names the disk's file and, where there is one, the byte.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The source could not be opened.
    #[error(transparent)]
    Open(Arc<cohort_block::OpenError>),
    /// The same disk is backed up twice in this run, perhaps by another name.
    #[error("{source_name}: the same disk as {other}; leave one of them out")]
    SameDisk {
        /// This one.
        source_name: String,
        /// The one before it.
        other: String,
    },
    /// The source is a file of the backup directory itself.
    #[error("{source_name}: is a file of the backup directory {}; choose another directory", directory.display())]
    InsideTarget {
        /// The source.
        source_name: String,
        /// The backup directory.
        directory: PathBuf,
    },
    /// Another run is using this served disk's bitmap.
    #[error("{0}: another run is backing up this disk; wait for it")]
    Busy(String),
    /// Nobody's writes to it can be seen here.
    #[error(
        "{0}: sync mode none saves what writers overwrite, and nobody writes to this disk through us: choose another mode"
    )]
    NobodyWrites(String),
    /// The disk has more clusters than can be handled.
    #[error(
        "{source_name}: {size} bytes in clusters of {cluster} are too many; choose larger clusters"
    )]
    TooLarge {
        /// The source.
        source_name: String,
        /// Its size in bytes.
        size: u64,
        /// Bytes in a cluster.
        cluster: u64,
    },
    /// The bitmap that was named cannot be read from the image, or says nothing true.
    #[error("{source_name}: {error}")]
    Bitmap {
        /// The source.
        source_name: String,
        /// Why.
        error: Arc<Qcow2Error>,
    },
    /// The bitmap that was named is none to go by.
    #[error(
        "{source_name}: bitmap \"{name}\" cannot be gone by: {reason}; leave it out, and the disk is compared with its last point"
    )]
    BitmapUnfit {
        /// The source.
        source_name: String,
        /// The bitmap.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The tracking store that was named for it cannot be opened.
    #[error(
        "{source_name}: {error}; leave the store out, and the disk is compared with its last point"
    )]
    TrackingStore {
        /// The source.
        source_name: String,
        /// What is wrong.
        error: Arc<cohort_block::TrackingError>,
    },
    /// A tracking store was named for something that is no image.
    #[error(
        "{source_name}: only images and disks that nobody serves have a tracking store to name"
    )]
    NoTrackingStore {
        /// The source.
        source_name: String,
    },
    /// The source could not be read.
    #[error(transparent)]
    Read(DeviceError),
    /// The target could not be made or written.
    #[error("{}{}: {error}", file.display(), at(*byte))]
    Write {
        /// The target.
        file: PathBuf,
        /// The byte of the disk whose data could not be written, if it was data.
        byte: Option<u64>,
        /// Why.
        error: BuildError,
    },
    /// The target did not become durable.
    #[error("{}: {problem}", file.display())]
    Flush {
        /// The target.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// The file of the target, or that of its digests, could not be made or written.
    #[error("{}{}: {error}", if *digests { "digests of " } else { "" }, file.display())]
    TargetFile {
        /// The target.
        file: PathBuf,
        /// Whether it is that of its digests.
        digests: bool,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// There is no room for the target.
    #[error("{}{}: no room left: {why}", file.display(), at(*byte))]
    TargetFull {
        /// The target.
        file: PathBuf,
        /// The byte of the disk whose data could not be written, if it was data.
        byte: Option<u64>,
        /// What the system said.
        why: String,
    },
    /// The source changed while it was read, so what was read shows no instant.
    #[error("{}: changed while read; stop who writes to it, or accept a point that shows no instant", file.display())]
    ChangedWhileRead {
        /// The file that changed: the source, or one that backs it.
        file: PathBuf,
    },
    /// Who keeps the instant that the source shows did not keep it to the end.
    #[error("{source_name}: what was read shows no instant: {why}")]
    InstantLost {
        /// The source.
        source_name: String,
        /// What happened.
        why: String,
    },
    /// More had to be skipped than was allowed.
    #[error(
        "{source_name}: incomplete: {} could not be read ({limit} clusters may be skipped): {last}",
        Ranges(skipped)
    )]
    Incomplete {
        /// The source.
        source_name: String,
        /// What could not be read, the last of it included.
        skipped: Vec<ByteRange>,
        /// How many clusters may be skipped.
        limit: u64,
        /// The error that was one too many.
        last: DeviceError,
    },
    /// The disk would have had to step down, and strict forbids that.
    #[error("{source_name}: {step}; strict forbids that")]
    TooStrict {
        /// The source.
        source_name: String,
        /// What it would have done, and why.
        step: StepDown,
    },
    /// The instant of the fence can no longer be shown.
    #[error("the backup broke: {0}")]
    Broken(Broken),
    /// The catalogue did not take a change.
    #[error(transparent)]
    Catalogue(ChangeError),
    /// The backup directory failed.
    #[error(transparent)]
    Directory(Box<catalogue::OpenError>),
    /// The operating system failed.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// The job itself failed, for instance by a panic.
    #[error(transparent)]
    Job(cohort_job::Error),
}

impl DiskError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| DiskError::System {
            what: what.into(),
            error: Arc::new(error),
        }
    }

    pub(crate) fn copy(file: &Path, error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => DiskError::Read(error),
            CopyError::Target { byte, error } => Self::write(file, Some(byte), error),
        }
    }

    pub(crate) fn write(file: &Path, byte: Option<u64>, error: BuildError) -> Self {
        let file = file.to_owned();
        if error.io().is_some_and(no_room) {
            return DiskError::TargetFull {
                file,
                byte,
                why: error.to_string(),
            };
        }
        DiskError::Write { file, byte, error }
    }

    pub(crate) fn digests(file: &Path, error: DigestsError) -> Self {
        match error {
            DigestsError::File(error) if no_room(&error) => DiskError::TargetFull {
                file: file.to_owned(),
                byte: None,
                why: error.to_string(),
            },
            DigestsError::File(error) => DiskError::TargetFile {
                file: file.to_owned(),
                digests: true,
                error,
            },
            DigestsError::Tables(error) => Self::write(file, None, error),
            DigestsError::Image(error) => DiskError::Read(error),
            DigestsError::Stored(error) => DiskError::System {
                what: "stored digests".to_owned(),
                error: Arc::new(io::Error::other(error)),
            },
        }
    }

    pub(crate) fn seal(file: &Path, error: SealError) -> Self {
        match error {
            SealError::Failed(error) if error.io().is_some_and(no_room) => {
                Self::write(file, None, error)
            }
            SealError::Failed(_)
            | SealError::Source(_)
            | SealError::TooLate(_)
            | SealError::NoThread(_) => DiskError::Flush {
                file: file.to_owned(),
                problem: error.to_string(),
            },
        }
    }
}

impl From<TargetError> for DiskError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Build(file, error) => Self::write(&file, None, error),
            TargetError::File(file, error) if no_room(&error) => DiskError::TargetFull {
                file,
                byte: None,
                why: error.to_string(),
            },
            TargetError::File(file, error) => DiskError::TargetFile {
                file,
                digests: false,
                error,
            },
        }
    }
}

impl From<ChangeError> for DiskError {
    fn from(error: ChangeError) -> Self {
        DiskError::Catalogue(error)
    }
}

impl From<catalogue::OpenError> for DiskError {
    fn from(error: catalogue::OpenError) -> Self {
        DiskError::Directory(Box::new(error))
    }
}

impl From<cohort_block::OpenError> for DiskError {
    fn from(error: cohort_block::OpenError) -> Self {
        DiskError::Open(Arc::new(error))
    }
}

/// Why a run did not start. Nothing was copied and no disk was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No disk was given.
    #[error("no disk to back up was given")]
    NoDisks,
    /// A name that no disk may have.
    #[error("{source_name}: {error}; name the disk yourself: NAME={source_name}")]
    BadName {
        /// The source.
        source_name: String,
        /// The rule.
        error: BadDiskName,
    },
    /// Two disks of one run have the same name.
    #[error("{first} and {second} would both be called {name}; name one of them: NAME={second}")]
    NameTaken {
        /// The name.
        name: DiskName,
        /// The disk that has it.
        first: String,
        /// The disk that would get it too.
        second: String,
    },
    /// The backup directory cannot be used.
    #[error(transparent)]
    Directory(#[from] catalogue::OpenError),
    /// The catalogue did not take the run.
    #[error(transparent)]
    Catalogue(#[from] ChangeError),
    /// One disk of the group cannot be backed up, so none is.
    #[error("disk {name}: {error}")]
    Disk {
        /// The disk.
        name: DiskName,
        /// Why.
        error: Box<DiskError>,
    },
    /// No common instant.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The engine could not take the jobs.
    #[error("the jobs could not be started: {0}")]
    Engine(String),
}

pub(crate) fn no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn at(byte: Option<u64>) -> String {
    byte.map_or_else(String::new, |byte| {
        format!(": cannot store byte {byte} of the disk")
    })
}

/// Byte ranges as people read them; more than a few are counted.
pub(crate) struct Ranges<'a>(pub(crate) &'a [ByteRange]);

/// A message names this many ranges, and counts the rest.
const NAMED: usize = 8;

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |range: &ByteRange| format!("{} bytes at byte {}", range.length, range.offset);
        let named: Vec<String> = self.0.iter().take(NAMED).map(one).collect();
        f.write_str(&named.join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
