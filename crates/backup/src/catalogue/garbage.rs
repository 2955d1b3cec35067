//! What the files of a backup directory are, and which of them may go. Pure.
//!
//! A file is a point or a partial only if the catalogue says so. A file that the catalogue does not
//! name is garbage only if its name shows that a run of this very catalogue created it: the exact
//! pattern, this directory's mark, and a run number that this catalogue gave out (one that was loaded
//! from a dump: since the load, for earlier files may be points that the dump did not know). Every
//! other file is somebody else's and is never touched.

use std::ffi::OsStr;
use std::fmt;

use super::contents::Contents;
use super::model::StoredDigests;
use super::name::{DiskName, ImageName, RunId};
use super::store::CATALOGUE_FILES;

/// What a file in a backup directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// The image of this point.
    Point(DiskName, RunId),
    /// An image of points that were pruned, still to be merged into this point.
    Merging(DiskName, RunId),
    /// The image of this disk's partial.
    Partial(DiskName),
    /// The digests of this point's image.
    PointDigests(DiskName, RunId),
    /// The digests of this disk's partial.
    PartialDigests(DiskName),
    /// A target that no verdict made a point and nobody kept: of a run that is under way, or of one
    /// that ended without cleaning up. The next run removes it.
    Unfinished(ImageName),
    /// It has a name of ours, but no run of this catalogue made it: copied here from another
    /// backup directory, or from before the catalogue was loaded from a dump. Never touched.
    Stray(ImageName),
    /// The catalogue, or what belongs to it.
    Catalogue,
    /// Somebody else's. Never touched.
    Other,
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point(disk, run) => write!(f, "point {disk}@{run}"),
            Self::Merging(disk, run) => {
                write!(f, "part of point {disk}@{run}, to be merged into it")
            }
            Self::Partial(disk) => write!(f, "partial of {disk}"),
            Self::PointDigests(disk, run) => write!(f, "digests of point {disk}@{run}"),
            Self::PartialDigests(disk) => write!(f, "digests of the partial of {disk}"),
            Self::Unfinished(_) => f.write_str("unfinished"),
            Self::Stray(_) => f.write_str("a file that this catalogue knows nothing of"),
            Self::Catalogue => f.write_str("catalogue"),
            Self::Other => f.write_str("not of this backup"),
        }
    }
}

impl Contents {
    /// What the file of that name is.
    #[must_use]
    pub fn role_of(&self, file_name: &OsStr) -> FileRole {
        let Some(name) = file_name.to_str() else {
            return FileRole::Other;
        };
        if CATALOGUE_FILES.contains(&name) {
            return FileRole::Catalogue;
        }
        let Ok(image) = name.parse::<ImageName>() else {
            return FileRole::Other;
        };
        let disk = image.disk();
        let is = |digests: &Option<StoredDigests>| {
            digests
                .as_ref()
                .is_some_and(|digests| digests.file == image)
        };
        for (run, point) in self.points_of(disk) {
            match point {
                _ if point.file == image => return FileRole::Point(disk.clone(), run),
                _ if point.merging.iter().any(|layer| layer.file == image) => {
                    return FileRole::Merging(disk.clone(), run);
                }
                _ if point.merging.iter().any(|layer| is(&layer.digests)) => {
                    return FileRole::PointDigests(disk.clone(), run);
                }
                _ if is(&point.digests) => return FileRole::PointDigests(disk.clone(), run),
                _ => {}
            }
        }
        match self.partials.get(disk) {
            Some(partial) if partial.file == image => return FileRole::Partial(disk.clone()),
            Some(partial) if is(&partial.digests) => return FileRole::PartialDigests(disk.clone()),
            Some(_) | None => {}
        }
        let runs = self.meta.sweep_from..self.meta.next_run;
        let made_here = image.belongs_to(self.meta.directory) && runs.contains(&image.run());
        if made_here {
            FileRole::Unfinished(image)
        } else {
            FileRole::Stray(image)
        }
    }

    /// The points that cannot be restored without the file of that name.
    #[must_use]
    pub fn dying_with(&self, file_name: &OsStr) -> Vec<(DiskName, RunId)> {
        match self.role_of(file_name) {
            FileRole::Point(disk, run) | FileRole::Merging(disk, run) => {
                let resting = self.resting_on(&disk, run).into_iter();
                resting.map(|run| (disk.clone(), run)).collect()
            }
            FileRole::Partial(_)
            | FileRole::PointDigests(..)
            | FileRole::PartialDigests(_)
            | FileRole::Unfinished(_)
            | FileRole::Stray(_)
            | FileRole::Catalogue
            | FileRole::Other => Vec::new(),
        }
    }

    /// The files of a directory listing that may be removed by whoever may write, in listing order.
    pub fn garbage<'a>(&self, listing: impl IntoIterator<Item = &'a OsStr>) -> Vec<ImageName> {
        let unfinished = |name| match self.role_of(name) {
            FileRole::Unfinished(image) => Some(image),
            FileRole::Point(..)
            | FileRole::Merging(..)
            | FileRole::Partial(_)
            | FileRole::PointDigests(..)
            | FileRole::PartialDigests(_)
            | FileRole::Stray(_)
            | FileRole::Catalogue
            | FileRole::Other => None,
        };
        listing.into_iter().filter_map(unfinished).collect()
    }

    /// The files that the catalogue names and the listing lacks. Without an image its points cannot be restored;
    /// without its digests they cannot be verified.
    pub fn missing<'a>(&self, listing: impl IntoIterator<Item = &'a OsStr>) -> Vec<&ImageName> {
        let there: std::collections::BTreeSet<_> = listing.into_iter().collect();
        self.files()
            .filter(|file| !there.contains(OsStr::new(&file.to_string())))
            .collect()
    }
}
