//! What is wrong with a file, and which points die with it.

use std::ops::Range;
use std::path::Path;

use super::layer::{Subject, without};
use crate::catalogue::{ByteRange, Contents, DiskName, RunId};
use crate::qcow2_builder::Qcow2Builder;

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, in the backup directory.
    pub file: String,
    /// The disk it belongs to.
    pub disk: DiskName,
    /// What is wrong, in words.
    pub what: String,
    /// The bytes of the disk that are wrong; none if it is the file as a whole.
    pub ranges: Vec<ByteRange>,
    /// The points of the disk that cannot be restored as they were, oldest first. None for a partial, which the next run
    /// drops or repairs, and for digests, without which points cannot be verified.
    pub points: Vec<RunId>,
}

/// What is wrong with an image or its digests, before it is known what that means.
#[derive(Debug)]
pub(super) struct Finding {
    what: String,
    /// None for all of the file.
    ranges: Option<Vec<Range<u64>>>,
    /// The file of digests that it is about, instead of the image.
    digests: Option<String>,
}

impl Finding {
    pub(super) fn whole(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ranges: None,
            digests: None,
        }
    }

    pub(super) fn at(what: impl Into<String>, ranges: Vec<Range<u64>>) -> Self {
        Self {
            ranges: Some(ranges),
            ..Self::whole(what)
        }
    }

    pub(super) fn of_digests(file: String, what: String) -> Self {
        Self {
            digests: Some(file),
            ..Self::whole(what)
        }
    }

    pub(super) fn into_damage(self, subject: &Subject<'_>, points: Vec<RunId>) -> Damage {
        let range = |range: Range<u64>| ByteRange {
            offset: range.start,
            length: range.end - range.start,
        };
        Damage {
            file: self
                .digests
                .unwrap_or_else(|| subject.layer.file.to_string()),
            disk: subject.disk.clone(),
            what: self.what,
            ranges: self
                .ranges
                .unwrap_or_default()
                .into_iter()
                .map(range)
                .collect(),
            points,
        }
    }
}

/// The points in which what is wrong can be seen.
pub(super) fn points_that_die(
    directory: &Path,
    contents: &Contents,
    subject: &Subject<'_>,
    finding: &Finding,
) -> Vec<RunId> {
    let (Some(run), None) = (subject.run, &finding.digests) else {
        return Vec::new();
    };
    let mut resting = contents.resting_on(&subject.disk, run);
    if let Some(ranges) = &finding.ranges {
        resting.retain(|top| sees(directory, contents, &subject.disk, *top, run, ranges));
    }
    resting
}

/// Whether a point shows some of these bytes of the image of another one below it.
fn sees(
    directory: &Path,
    contents: &Contents,
    disk: &DiskName,
    top: RunId,
    bottom: RunId,
    ranges: &[Range<u64>],
) -> bool {
    let mut left = ranges.to_vec();
    let mut next = Some(top);
    while let Some(run) = next.filter(|run| *run != bottom) {
        let Some(point) = contents.point(disk, run) else {
            break;
        };
        // An image that cannot be read hides nothing; its points die of that anyway.
        let path = directory.join(point.file.to_string());
        let hidden = cohort_block::OsFile::open(&path, false)
            .ok()
            .and_then(|file| Qcow2Builder::open(file).ok())
            .map(|image| hides(&image));
        left = without(&left, &hidden.unwrap_or_default());
        left.iter_mut()
            .for_each(|range| range.end = range.end.min(point.size));
        left.retain(|range| !range.is_empty());
        next = point.parent;
    }
    !left.is_empty()
}

/// The bytes of the disk that an image itself holds.
fn hides(image: &Qcow2Builder<cohort_block::OsFile>) -> Vec<Range<u64>> {
    let cluster = image.cluster_size();
    let held = image.held().map_while(Result::ok);
    held.map(|(clusters, _)| clusters.start * cluster..clusters.end * cluster)
        .collect()
}
