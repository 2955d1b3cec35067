//! Everything a catalogue says, in memory, and what can be asked of it. Pure.

use std::collections::BTreeMap;

use super::model::{
    Anchor, CATALOGUE_VERSION, Decided, Disk, Meta, Partial, Point, Run, StoreId, StoredDigests,
    Views,
};
use super::name::{DirectoryId, DiskName, ImageName, PointName, RunId, Which};

/// The whole content of a catalogue at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What the catalogue says of itself.
    pub meta: Meta,
    /// The disks.
    pub disks: BTreeMap<DiskName, Disk>,
    /// The runs, also those that left nothing.
    pub runs: BTreeMap<RunId, Run>,
    /// The points of all disks, by disk and run.
    pub points: BTreeMap<(DiskName, RunId), Point>,
    /// The partials, at most one a disk.
    pub partials: BTreeMap<DiskName, Partial>,
    /// The views.
    pub views: BTreeMap<DiskName, Views>,
    /// The verdicts, in the order in which they were written.
    pub verdicts: BTreeMap<u64, Decided>,
}

/// Why a [`PointName`] names nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoSuchPoint {
    /// The disk is not in this catalogue.
    #[error("there is no disk {disk} here{}", known(.disks))]
    Disk {
        /// What was asked for.
        disk: DiskName,
        /// What there is.
        disks: Vec<DiskName>,
    },
    /// The disk has no point at all.
    #[error("disk {0} has no point yet")]
    NoPoint(DiskName),
    /// The disk has other points.
    #[error("disk {disk} has no point {run}; it has {}", numbers(.points))]
    Point {
        /// The disk.
        disk: DiskName,
        /// What was asked for.
        run: RunId,
        /// What there is, oldest first.
        points: Vec<RunId>,
    },
}

/// An image of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer<'a> {
    /// The file.
    pub file: &'a ImageName,
    /// Bytes of the disk when it was taken.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster_size: u32,
    /// The digests of what it holds, if there are any.
    pub digests: Option<&'a StoredDigests>,
}

impl Contents {
    /// A catalogue without rows.
    #[must_use]
    pub fn new(directory: DirectoryId, created_unix_ms: u64) -> Self {
        Self {
            meta: Meta {
                version: CATALOGUE_VERSION,
                directory,
                created_unix_ms,
                next_run: RunId(1),
                sweep_from: RunId(1),
                next_verdict: 1,
            },
            disks: BTreeMap::new(),
            runs: BTreeMap::new(),
            points: BTreeMap::new(),
            partials: BTreeMap::new(),
            views: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        }
    }

    /// The points of one disk, oldest first.
    pub fn points_of(&self, disk: &DiskName) -> impl DoubleEndedIterator<Item = (RunId, &Point)> {
        let range = (disk.clone(), RunId(0))..=(disk.clone(), RunId(u64::MAX));
        self.points
            .range(range)
            .map(|((_, run), point)| (*run, point))
    }

    /// The newest point of a disk.
    #[must_use]
    pub fn latest(&self, disk: &DiskName) -> Option<(RunId, &Point)> {
        self.points_of(disk).next_back()
    }

    /// The point that a disk's view speaks of: not always the newest one, because policy never leaves it behind.
    #[must_use]
    pub fn anchor(&self, disk: &DiskName) -> Option<RunId> {
        let view = self.views.get(disk).and_then(|views| views.point.as_ref());
        match view.map(|view| &view.anchor) {
            Some(Anchor::Point(run)) => Some(*run),
            Some(Anchor::Partial(_)) | None => self.latest(disk).map(|(run, _)| run),
        }
    }

    /// The point of a disk that a run took.
    #[must_use]
    pub fn point(&self, disk: &DiskName, run: RunId) -> Option<&Point> {
        self.points.get(&(disk.clone(), run))
    }

    /// The point that people call so.
    ///
    /// # Errors
    /// [`NoSuchPoint`] says what there is instead.
    pub fn resolve(&self, name: &PointName) -> Result<(RunId, &Point), NoSuchPoint> {
        let disk = &name.disk;
        if !self.disks.contains_key(disk) {
            let disks = self.disks.keys().cloned().collect();
            return Err(NoSuchPoint::Disk {
                disk: disk.clone(),
                disks,
            });
        }
        let Some(latest) = self.latest(disk) else {
            return Err(NoSuchPoint::NoPoint(disk.clone()));
        };
        match name.which {
            Which::Latest => Ok(latest),
            Which::Run(run) => match self.point(disk, run) {
                Some(point) => Ok((run, point)),
                None => Err(NoSuchPoint::Point {
                    disk: disk.clone(),
                    run,
                    points: self.points_of(disk).map(|(run, _)| run).collect(),
                }),
            },
        }
    }

    /// The files that make up a point, from the top to the full copy. Empty if there is no such point.
    #[must_use]
    pub fn chain(&self, disk: &DiskName, run: RunId) -> Vec<&ImageName> {
        let mut files = Vec::new();
        let mut next = Some(run);
        // `check` makes every parent older than its child, so this ends.
        while let Some(point) = next.and_then(|run| self.point(disk, run)) {
            files.push(&point.file);
            files.extend(point.merging.iter().map(|layer| &layer.file));
            next = point.parent;
        }
        files
    }

    /// The images that make up a point with what is known of each, from the top to the full copy. Empty if there is no
    /// such point.
    #[must_use]
    pub fn layers(&self, disk: &DiskName, run: RunId) -> Vec<Layer<'_>> {
        let mut layers = Vec::new();
        let mut next = Some(run);
        while let Some(point) = next.and_then(|run| self.point(disk, run)) {
            layers.push(Layer {
                file: &point.file,
                size: point.size,
                cluster_size: point.cluster_size,
                digests: point.digests.as_ref(),
            });
            layers.extend(point.merging.iter().map(|layer| Layer {
                file: &layer.file,
                size: layer.size,
                cluster_size: layer.cluster_size,
                digests: layer.digests.as_ref(),
            }));
            next = point.parent;
        }
        layers
    }

    /// The points of a disk that lie on one of them, itself included, oldest first.
    #[must_use]
    pub(crate) fn resting_on(&self, disk: &DiskName, run: RunId) -> Vec<RunId> {
        let mut resting: Vec<RunId> = Vec::new();
        for (other, point) in self.points_of(disk) {
            let above = point.parent.is_some_and(|parent| resting.contains(&parent));
            if other == run || above {
                resting.push(other);
            }
        }
        resting
    }

    /// Every image file that the catalogue names.
    pub fn images(&self) -> impl Iterator<Item = &ImageName> {
        let points = self.points.values().map(|point| &point.file);
        let merging = self.points.values().flat_map(|point| &point.merging);
        points
            .chain(merging.map(|layer| &layer.file))
            .chain(self.partials.values().map(|partial| &partial.file))
    }

    /// Every file of digests that the catalogue names.
    pub fn digests(&self) -> impl Iterator<Item = &ImageName> {
        let points = self.points.values().map(|point| &point.digests);
        let merging = self.points.values().flat_map(|point| &point.merging);
        let points = points.chain(merging.map(|layer| &layer.digests));
        let all = points.chain(self.partials.values().map(|partial| &partial.digests));
        all.flatten().map(|digests| &digests.file)
    }

    /// Every file that the catalogue names.
    pub fn files(&self) -> impl Iterator<Item = &ImageName> {
        self.images().chain(self.digests())
    }

    /// The numbers of the sets of a tracking store that views are made of.
    pub(crate) fn sets_of(&self, store: StoreId) -> impl Iterator<Item = u64> {
        self.views
            .values()
            .flat_map(|views| views.point.iter().chain(&views.partial))
            .flat_map(|view| &view.tracking.sets)
            .filter(move |set| set.id == store)
            .map(|set| set.number)
    }

    /// The verdicts of which hooks may still have to run, oldest first.
    pub fn owed(&self) -> impl Iterator<Item = &Decided> {
        self.verdicts.values().filter(|decided| decided.owed)
    }
}

fn known(disks: &[DiskName]) -> String {
    if disks.is_empty() {
        return ", nor any other".to_owned();
    }
    let names: Vec<&str> = disks.iter().map(DiskName::as_str).collect();
    format!("; there are {}", names.join(", "))
}

fn numbers(runs: &[RunId]) -> String {
    let numbers: Vec<String> = runs.iter().map(RunId::to_string).collect();
    numbers.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::samples::{disk, small};
    use super::*;

    #[test]
    fn chains_go_down_to_the_full_copy() {
        let contents = small();
        let files = |run: u64| contents.chain(&disk("disk-1.img"), RunId(run));
        let file = |run: u64| {
            &contents
                .point(&disk("disk-1.img"), RunId(run))
                .unwrap()
                .file
        };
        assert_eq!(files(1), [file(1)]);
        assert_eq!(files(3), [file(3), file(2), file(1)]);
        assert!(files(4).is_empty());
    }

    #[test]
    fn points_are_found_by_name_or_the_answer_says_what_there_is() {
        let contents = small();
        let resolve = |name: &str| contents.resolve(&name.parse().unwrap());
        assert_eq!(resolve("disk-1.img").unwrap().0, RunId(3));
        assert_eq!(resolve("disk-2.img@latest").unwrap().0, RunId(1));
        assert_eq!(resolve("disk-1.img@2").unwrap().0, RunId(2));
        let text = |name: &str| resolve(name).unwrap_err().to_string();
        assert_eq!(
            text("disk-2.img@2"),
            "disk disk-2.img has no point 2; it has 1"
        );
        assert_eq!(
            text("nope"),
            "there is no disk nope here; there are disk-1.img, disk-2.img"
        );
    }
}
