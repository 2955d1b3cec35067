//! Pruning: points that are not wanted any more, and their images merged into those that lie on them.
//!
//! ```text
//!  before       root@1 ◄── root@2 ◄── root@3 ◄── root@4        keep 3 and 4
//!  catalogue    (image 1 ◄── image 2 ◄──) root@3 ◄── root@4    1 and 2 are points no more, 3 needs their images
//!  merge        what images 2 and 3 hold is appended to image 1, and one seal makes it count
//!  rename       image 1 becomes root@3's image, under that name  ◄── root@4
//!  catalogue    root@3 needs nobody
//! ```
//!
//! So the work is that of the increments, not of the full copy below them. At every moment each kept point reads as it
//! always did: what is appended to image 1 was hidden behind images 2 and 3 anyway, and after the rename it is all there
//! in one. No image ever names a file that is missing: the name under which others lie on root@3 stays. A process that is
//! killed leaves a point with images to be merged, which `list` explains and the next prune finishes.

mod merge;
mod policy;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use cohort_block::DeviceError;

use crate::catalogue::{self, Catalogue, ChangeError, Contents, DiskName, RunId};
use crate::expected::ExpectedError;
use crate::qcow2_builder::BuildError;

pub use policy::{Keep, KeepReason, PointFate, Pruned, plan_prune};

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The points that are points no more.
    pub removed: Vec<(DiskName, RunId)>,
    /// The points whose images were merged with those below, this time or for an earlier prune that was interrupted.
    pub merged: Vec<Merged>,
    /// Bytes of the directory's files before and after.
    pub bytes: (u64, u64),
}

/// A point whose image was merged with those of points that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The disk.
    pub disk: DiskName,
    /// The run that took the point.
    pub run: RunId,
    /// Bytes that were copied for that.
    pub copied_bytes: u64,
}

/// Why a prune stopped. Every point that was to be kept can be restored, and the next prune goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The backup directory failed.
    #[error(transparent)]
    Directory(#[from] catalogue::OpenError),
    /// The catalogue did not take a change.
    #[error(transparent)]
    Catalogue(#[from] ChangeError),
    /// What was to be merged is not what was backed up. Merging would make that last.
    #[error(
        "{disk}@{run}: {length} bytes at byte {offset} are not what was backed up; see `cohort verify`"
    )]
    Damaged {
        /// The disk.
        disk: DiskName,
        /// The run that took the point.
        run: RunId,
        /// The first wrong byte of the disk.
        offset: u64,
        /// How many are wrong there.
        length: u64,
    },
    /// An image could not be opened or read.
    #[error("{disk}@{run}: {what}")]
    Unreadable {
        /// The disk.
        disk: DiskName,
        /// The run that took the point.
        run: RunId,
        /// What the matter is.
        what: String,
    },
    /// The merged image could not be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: BuildError,
    },
    /// A file could not be made, renamed or made durable.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It was told to stop.
    #[error("stopped; what is left to merge the next prune finishes")]
    Cancelled,
}

impl PruneError {
    /// Whether there was no room for what was to be written.
    #[must_use]
    pub fn no_room(&self) -> bool {
        match self {
            Self::Write { error, .. } => error.io().is_some_and(crate::error::no_room),
            Self::File { error, .. } => crate::error::no_room(error),
            Self::Directory(error) => error.no_room(),
            Self::Catalogue(_)
            | Self::Damaged { .. }
            | Self::Unreadable { .. }
            | Self::Cancelled => false,
        }
    }
}

/// Carries out a plan, and finishes what earlier prunes left.
///
/// `progress` is told (bytes merged, about how many there are to merge); setting `cancel` ends it soon, with every point
/// whole.
///
/// # Errors
/// [`PruneError`].
pub fn prune(
    catalogue: &Catalogue,
    plan: &[Pruned],
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<PruneReport, PruneError> {
    let before = catalogue.bytes()?;
    let mut report = PruneReport::default();
    let disks: BTreeSet<&DiskName> = plan.iter().map(|point| &point.disk).collect();
    for disk in disks {
        let removed = plan
            .iter()
            .filter(|point| point.disk == *disk && point.fate == PointFate::Remove);
        let removed: BTreeSet<RunId> = removed.map(|point| point.run).collect();
        catalogue.remove_points(disk, &removed)?;
        report
            .removed
            .extend(removed.into_iter().map(|run| (disk.clone(), run)));
    }
    // What nothing lies on goes at once: there may be no room for more.
    catalogue.sweep()?;
    let unmerged = unmerged(&*catalogue.snapshot()?);
    let total = unmerged.iter().map(|(_, _, bytes)| bytes).sum();
    let mut done = 0;
    for (disk, run, bytes) in unmerged {
        let tell = |copied: u64| progress(done + copied.min(bytes), total);
        report
            .merged
            .push(merge::merge(catalogue, &disk, run, &tell, cancel)?);
        done += bytes;
    }
    catalogue.sweep()?;
    report.bytes = (before, catalogue.bytes()?);
    Ok(report)
}

/// The points that have images to be merged, and about how many bytes that takes.
fn unmerged(contents: &Contents) -> Vec<(DiskName, RunId, u64)> {
    let points = contents
        .points
        .iter()
        .filter(|(_, point)| !point.merging.is_empty());
    points
        .map(|((disk, run), point)| (disk.clone(), *run, point.bytes_copied))
        .collect()
}

/// An error of a merge, before it is known whose.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Expected(#[from] ExpectedError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Open(#[from] cohort_block::OpenError),
    #[error(transparent)]
    Tables(#[from] BuildError),
    #[error(transparent)]
    Stored(#[from] crate::digests::SidecarError),
}

impl ReadError {
    fn of(self, disk: &DiskName, run: RunId) -> PruneError {
        PruneError::Unreadable {
            disk: disk.clone(),
            run,
            what: self.to_string(),
        }
    }
}
