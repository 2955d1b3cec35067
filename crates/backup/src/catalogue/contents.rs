//! Everything a catalogue says, in memory: and the rules it obeys. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{
    Anchor, ByteRange, CATALOGUE_VERSION, Decided, Disk, Meta, Partial, Point, Run, StoreId,
    StoredDigests, Views,
};
use super::name::{DirectoryId, DiskName, FileKind, ImageName, PointName, RunId, Which};

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

/// A rule that a catalogue's content, or a change to it, breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{row}: {rule}")]
pub struct Broken {
    /// What breaks it, as in `point vda@3`.
    pub row: String,
    /// What is wrong.
    pub rule: &'static str,
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
    pub fn resting_on(&self, disk: &DiskName, run: RunId) -> Vec<RunId> {
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
    pub fn sets_of(&self, store: StoreId) -> impl Iterator<Item = u64> {
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

    /// Checks every rule of `docs/format.md`.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), Broken> {
        self.check_runs()?;
        self.check_points()?;
        self.check_partials()?;
        self.check_views()?;
        self.check_files()?;
        self.check_verdicts()
    }

    fn check_runs(&self) -> Result<(), Broken> {
        let known = self.meta.sweep_from <= self.meta.next_run;
        ensure(known, || "meta".to_owned(), "sweep_from is beyond next_run")?;
        for (id, run) in &self.runs {
            let row = || format!("run {id}");
            ensure(
                id.0 >= 1 && *id < self.meta.next_run,
                row,
                "its number was never given out",
            )?;
            let distinct: BTreeSet<_> = run.disks.iter().collect();
            ensure(
                distinct.len() == run.disks.len(),
                row,
                "it names a disk twice",
            )?;
            let known = run.disks.iter().all(|disk| self.disks.contains_key(disk));
            ensure(known, row, "it names a disk that is not here")?;
        }
        Ok(())
    }

    fn check_points(&self) -> Result<(), Broken> {
        for ((disk, run), point) in &self.points {
            let row = || format!("point {disk}@{run}");
            ensure(self.disks.contains_key(disk), row, "its disk is not here")?;
            ensure(self.ran(*run, disk), row, "its run never had this disk")?;
            ensure(point.file.disk() == disk, row, "its file is another disk's")?;
            // A file that was first a partial keeps the number of the run that created it.
            ensure(
                point.file.run() <= *run,
                row,
                "its file is younger than the point",
            )?;
            ensure(
                digests_fit(&point.digests, disk, *run),
                row,
                "its digests are another disk's, or younger than the point",
            )?;
            ensure(
                self.is_parent(disk, point.parent, *run),
                row,
                "its parent is not an older point",
            )?;
            ensure(
                cluster_size_allowed(point.cluster_size),
                row,
                "its cluster size is not allowed",
            )?;
            for layer in &point.merging {
                let fits = layer.file.disk() == disk
                    && layer.file.run() <= *run
                    && cluster_size_allowed(layer.cluster_size)
                    && digests_fit(&layer.digests, disk, *run);
                ensure(fits, row, "what it is merged with is not of older points")?;
            }
            let skipped = are_apart_and_inside(&point.skipped, point.size);
            ensure(
                skipped,
                row,
                "its skipped ranges are not in order or not inside",
            )?;
        }
        Ok(())
    }

    fn check_partials(&self) -> Result<(), Broken> {
        for (disk, partial) in &self.partials {
            let row = || format!("partial of {disk}");
            ensure(self.disks.contains_key(disk), row, "its disk is not here")?;
            ensure(
                self.ran(partial.run, disk),
                row,
                "its run never had this disk",
            )?;
            ensure(
                partial.file.disk() == disk,
                row,
                "its file is another disk's",
            )?;
            ensure(
                partial.file.run() <= partial.run,
                row,
                "its file is younger than its run",
            )?;
            ensure(
                digests_fit(&partial.digests, disk, partial.run),
                row,
                "its digests are another disk's, or younger than its run",
            )?;
            ensure(
                self.is_parent(disk, partial.parent, partial.run),
                row,
                "its parent is not an older point",
            )?;
            ensure(
                cluster_size_allowed(partial.cluster_size),
                row,
                "its cluster size is not allowed",
            )?;
            partial.check_map(|run| self.ran(run, disk), row)?;
        }
        Ok(())
    }

    fn check_views(&self) -> Result<(), Broken> {
        for (disk, views) in &self.views {
            let row = || format!("views of {disk}");
            ensure(self.disks.contains_key(disk), row, "their disk is not here")?;
            if let Some(view) = &views.point {
                let anchored =
                    matches!(view.anchor, Anchor::Point(run) if self.point(disk, run).is_some());
                ensure(
                    anchored,
                    row,
                    "the first is not anchored at a point of the disk",
                )?;
            }
            let partial = self.partials.get(disk);
            match (&views.partial, partial) {
                (None, None) => {}
                (Some(view), Some(partial)) => {
                    let anchored =
                        matches!(&view.anchor, Anchor::Partial(file) if *file == partial.file);
                    ensure(
                        anchored,
                        row,
                        "the second is not anchored at the disk's partial",
                    )?;
                }
                (Some(_), None) => {
                    ensure(false, row, "there is one against a partial, and no partial")?
                }
                (None, Some(_)) => ensure(false, row, "there is none against the disk's partial")?,
            }
        }
        let viewed = self
            .partials
            .keys()
            .find(|disk| !self.views.contains_key(*disk));
        match viewed {
            None => Ok(()),
            Some(disk) => ensure(
                false,
                || format!("partial of {disk}"),
                "there is no view against it",
            ),
        }
    }

    fn check_files(&self) -> Result<(), Broken> {
        let mut seen = BTreeSet::new();
        let images = self.images().map(|file| (file, FileKind::Image));
        let digests = self.digests().map(|file| (file, FileKind::Digests));
        for (file, kind) in images.chain(digests) {
            let row = || format!("file {file}");
            ensure(seen.insert(file), row, "it is named twice")?;
            ensure(
                file.kind() == kind,
                row,
                "its name says it is another kind of file",
            )?;
            ensure(
                file.belongs_to(self.meta.directory),
                row,
                "it is of another directory",
            )?;
        }
        Ok(())
    }

    fn check_verdicts(&self) -> Result<(), Broken> {
        let mut owed = BTreeSet::new();
        for (number, decided) in &self.verdicts {
            let row = || format!("verdict {number} on {}", decided.group);
            let given = *number >= 1 && *number < self.meta.next_verdict;
            ensure(given, row, "its number was never given out")?;
            if decided.owed {
                ensure(
                    owed.insert(&decided.group),
                    row,
                    "the group has an owed verdict already",
                )?;
                let records = decided.members.iter().all(|member| member.record.is_some());
                ensure(records, row, "it is owed and lacks a record")?;
            }
        }
        Ok(())
    }

    /// Whether that run was to take a point of that disk.
    fn ran(&self, run: RunId, disk: &DiskName) -> bool {
        self.runs
            .get(&run)
            .is_some_and(|run| run.disks.contains(disk))
    }

    fn is_parent(&self, disk: &DiskName, parent: Option<RunId>, child: RunId) -> bool {
        parent.is_none_or(|parent| parent < child && self.point(disk, parent).is_some())
    }
}

/// Digests are of the same disk, and of a run not later than the one that names them.
fn digests_fit(digests: &Option<StoredDigests>, disk: &DiskName, run: RunId) -> bool {
    digests
        .as_ref()
        .is_none_or(|digests| digests.file.disk() == disk && digests.file.run() <= run)
}

/// What qcow2 allows: a power of two from 512 bytes to 2 MiB.
fn cluster_size_allowed(size: u32) -> bool {
    size.is_power_of_two() && (512..=2 << 20).contains(&size)
}

/// Sorted, none empty, no two touching, none beyond `size`.
fn are_apart_and_inside(ranges: &[ByteRange], size: u64) -> bool {
    let mut end = None;
    ranges.iter().all(|range| {
        let apart = range.length > 0 && end.is_none_or(|end| range.offset > end);
        end = range.offset.checked_add(range.length);
        apart && end.is_some_and(|end| end <= size)
    })
}

pub(super) fn ensure(
    holds: bool,
    row: impl FnOnce() -> String,
    rule: &'static str,
) -> Result<(), Broken> {
    if holds {
        Ok(())
    } else {
        Err(Broken { row: row(), rule })
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
    use super::super::tests::samples::{disk, shown, small};
    use super::*;

    /// The rule that the small catalogue breaks after this.
    fn broken(change: impl FnOnce(&mut Contents)) -> String {
        let mut contents = small();
        contents.check().unwrap();
        change(&mut contents);
        contents.check().unwrap_err().to_string()
    }

    fn newest(contents: &mut Contents) -> &mut Point {
        contents
            .points
            .get_mut(&(disk("disk-1.img"), RunId(3)))
            .unwrap()
    }

    #[test]
    #[rustfmt::skip]
    fn every_rule_is_named_when_it_is_broken() {
        let (one, two) = (disk("disk-1.img"), disk("disk-2.img"));
        let range = |offset, length| ByteRange { offset, length };
        // A partial that run 3 continued, with that map.
        let mapped = |map: &[(u64, u64, u64)], durable_bytes| broken(|c| {
            c.runs.get_mut(&RunId(3)).unwrap().disks.push(two.clone());
            let partial = c.partials.get_mut(&two).unwrap();
            (partial.run, partial.durable_bytes) = (RunId(3), durable_bytes);
            partial.map = map.iter().map(|(run, offset, length)| shown(RunId(*run), *offset, *length)).collect();
        });
        for (expected, found) in [
            ("meta: sweep_from is beyond next_run", broken(|c| c.meta.sweep_from = RunId(5))),
            ("run 3: its number was never given out", broken(|c| c.meta.next_run = RunId(3))),
            ("run 1: it names a disk twice", broken(|c| c.runs.get_mut(&RunId(1)).unwrap().disks.push(one.clone()))),
            ("run 1: it names a disk that is not here", broken(|c| drop(c.disks.remove(&two)))),
            ("point disk-1.img@3: its run never had this disk", broken(|c| drop(c.runs.remove(&RunId(3))))),
            ("point disk-1.img@3: its file is another disk's", broken(|c| newest(c).file = c.partials[&two].file.clone())),
            ("point disk-1.img@2: its parent is not an older point", broken(|c| drop(c.points.remove(&(one.clone(), RunId(1)))))),
            ("point disk-1.img@3: its parent is not an older point", broken(|c| newest(c).parent = Some(RunId(3)))),
            ("point disk-1.img@3: its cluster size is not allowed", broken(|c| newest(c).cluster_size = 65537)),
            ("point disk-1.img@3: its skipped ranges are not in order or not inside", broken(|c| newest(c).skipped = vec![range(8, 0)])),
            ("point disk-1.img@3: its skipped ranges are not in order or not inside", broken(|c| newest(c).skipped = vec![range(0, 8), range(8, 8)])),
            ("point disk-1.img@3: its skipped ranges are not in order or not inside", broken(|c| newest(c).skipped = vec![range(u64::MAX, 8)])),
            ("point disk-1.img@3: its skipped ranges are not in order or not inside", broken(|c| newest(c).skipped = vec![range(1 << 30, 1)])),
            ("partial of disk-2.img: its run never had this disk", broken(|c| c.partials.get_mut(&two).unwrap().run = RunId(3))),
            ("partial of disk-2.img: its parent is not an older point", broken(|c| c.partials.get_mut(&two).unwrap().parent = Some(RunId(2)))),
            ("partial of disk-2.img: its map is not of its clusters", broken(|c| c.partials.get_mut(&two).unwrap().cluster_size = 4096)),
            ("partial of disk-2.img: its map names a run for nothing", mapped(&[(2, 0, 0)], 0)),
            ("partial of disk-2.img: its map is not in the order of its runs", mapped(&[(2, 0, 1 << 16), (2, 1 << 20, 1 << 16)], 1 << 17)),
            ("partial of disk-2.img: its map names a run that did not write it", mapped(&[(1, 0, 1 << 16)], 1 << 16)),
            ("partial of disk-2.img: its map names a run that did not write it", mapped(&[(4, 0, 1 << 16)], 1 << 16)),
            ("partial of disk-2.img: its map is not of what it durably holds", mapped(&[(2, 0, 1 << 16)], 1 << 17)),
            ("partial of disk-2.img: its map names bytes twice", mapped(&[(2, 0, 1 << 17), (3, 1 << 16, 1 << 17)], 1 << 18)),
            ("views of disk-2.img: there is one against a partial, and no partial", broken(|c| drop(c.partials.remove(&two)))),
            ("views of disk-2.img: there is none against the disk's partial", broken(|c| c.views.get_mut(&two).unwrap().partial = None)),
            ("partial of disk-2.img: there is no view against it", broken(|c| drop(c.views.remove(&two)))),
            ("views of disk-1.img: the first is not anchored at a point of the disk", broken(|c| c.views.get_mut(&one).unwrap().point.as_mut().unwrap().anchor = Anchor::Point(RunId(4)))),
            ("verdict 3 on run-3: its number was never given out", broken(|c| c.meta.next_verdict = 3)),
            ("verdict 3 on run-3: the group has an owed verdict already", broken(|c| {
                let again = c.verdicts[&3].clone();
                c.verdicts.insert(1, again);
            })),
            ("verdict 1 on run-1: it is owed and lacks a record", broken(|c| c.verdicts.get_mut(&1).unwrap().owed = true)),
        ] {
            assert_eq!(found, expected);
        }
        let elsewhere = broken(|c| c.meta.directory = DirectoryId::random());
        assert!(elsewhere.ends_with("it is of another directory"), "{elsewhere}");
        let twice = broken(|c| newest(c).file = c.points[&(one.clone(), RunId(1))].file.clone());
        assert!(twice.ends_with("it is named twice"), "{twice}");
    }

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
