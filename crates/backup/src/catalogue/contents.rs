//! Everything a catalogue says, in memory: the rules it obeys, and how it may change. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Kept;
use super::model::{
    Anchor, Answer, CATALOGUE_VERSION, Decided, Decision, Disk, Meta, Partial, Point, Run, View,
    Views,
};
use super::name::{DirectoryId, DiskName, ImageName, PointName, RunId, Which};
use super::record::PointRecord;

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
            next = point.parent;
        }
        files
    }

    /// Every image file that the catalogue names.
    pub fn files(&self) -> impl Iterator<Item = &ImageName> {
        let points = self.points.values().map(|point| &point.file);
        points.chain(self.partials.values().map(|partial| &partial.file))
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
                self.is_parent(disk, point.parent, *run),
                row,
                "its parent is not an older point",
            )?;
            ensure(
                cluster_size_allowed(point.cluster_size),
                row,
                "its cluster size is not allowed",
            )?;
            let (mut end, mut apart) = (0, true);
            for (index, range) in point.skipped.iter().enumerate() {
                apart &= range.length > 0 && (index == 0 || range.offset > end);
                end = range.offset.checked_add(range.length).unwrap_or(u64::MAX);
            }
            ensure(
                apart && end <= point.size,
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
                self.is_parent(disk, partial.parent, partial.run),
                row,
                "its parent is not an older point",
            )?;
            ensure(
                cluster_size_allowed(partial.cluster_size),
                row,
                "its cluster size is not allowed",
            )?;
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
        for file in self.files() {
            let row = || format!("file {file}");
            ensure(seen.insert(file), row, "it is named twice")?;
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

/// Changes. Each either applies whole or leaves a value to be thrown away: callers work on a copy and
/// [`check`](Contents::check) it before it counts.
impl Contents {
    /// Gives out the number of a new run and makes its disks known.
    pub(super) fn begin_run(&mut self, disks: &[(DiskName, String)], now_unix_ms: u64) -> RunId {
        let id = self.meta.next_run;
        self.meta.next_run = RunId(id.0 + 1);
        for (disk, source) in disks {
            self.disks.insert(
                disk.clone(),
                Disk {
                    source: source.clone(),
                },
            );
        }
        let disks = disks.iter().map(|(disk, _)| disk.clone()).collect();
        self.runs.insert(
            id,
            Run {
                started_unix_ms: now_unix_ms,
                disks,
            },
        );
        id
    }

    /// A committed point: it replaces both views, and the partial it continued or supersedes.
    pub(super) fn commit_point(&mut self, record: PointRecord) -> Result<(), Broken> {
        let PointRecord {
            disk,
            run,
            point,
            view,
        } = record;
        self.partials.remove(&disk);
        let view = View {
            anchor: Anchor::Point(view.anchor),
            tracking: view.tracking,
        };
        self.views.insert(
            disk.clone(),
            Views {
                point: Some(view),
                partial: None,
            },
        );
        let row = || format!("point {disk}@{run}");
        let key = (disk.clone(), run);
        ensure(!self.points.contains_key(&key), row, "it is there already")?;
        self.points.insert(key, point);
        Ok(())
    }

    /// Adds a verdict.
    pub(super) fn add_verdict(&mut self, decided: Decided) {
        let number = self.meta.next_verdict;
        self.meta.next_verdict += 1;
        self.verdicts.insert(number, decided);
    }

    /// Every hook of the group ran. Its records are no longer of use; the verdict stays as history.
    pub(super) fn verdict_done(&mut self, group: &str) -> Result<(), Broken> {
        let mut of_group = self
            .verdicts
            .values_mut()
            .filter(|decided| decided.group == group);
        let Some(last) = of_group.next_back() else {
            return ensure(
                false,
                || format!("group {group}"),
                "it was never decided here",
            );
        };
        last.owed = false;
        for member in &mut last.members {
            member.record = None;
        }
        Ok(())
    }

    /// A target that did not become a point is kept, with both views; an older partial is replaced.
    pub(super) fn keep_partial(&mut self, kept: Kept) {
        let Kept {
            disk,
            partial,
            against_point,
            against_partial,
        } = kept;
        let views = self.views.entry(disk.clone()).or_default();
        if let Some(view) = &mut views.point {
            view.tracking = against_point;
        }
        let anchor = Anchor::Partial(partial.file.clone());
        views.partial = Some(View {
            anchor,
            tracking: against_partial,
        });
        self.partials.insert(disk, partial);
    }

    /// Drops a disk's partial and the view against it; the view against the point stays. Returns
    /// the file, garbage from now on.
    pub(super) fn drop_partial(&mut self, disk: &DiskName) -> Option<ImageName> {
        let partial = self.partials.remove(disk)?;
        if let Some(views) = self.views.get_mut(disk) {
            views.partial = None;
        }
        Some(partial.file)
    }

    /// Answers an undecided partial. Keeping a kept one changes nothing.
    pub(super) fn answer(&mut self, disk: &DiskName, answer: Answer) -> Result<(), Broken> {
        match (answer, self.partials.get_mut(disk)) {
            (_, None) => ensure(false, || format!("disk {disk}"), "it has no partial"),
            (Answer::Keep, Some(partial)) => {
                partial.decision = Decision::Keep;
                Ok(())
            }
            (Answer::Discard, Some(_)) => {
                self.drop_partial(disk);
                Ok(())
            }
        }
    }
}

/// What qcow2 allows: a power of two from 512 bytes to 2 MiB.
fn cluster_size_allowed(size: u32) -> bool {
    size.is_power_of_two() && (512..=2 << 20).contains(&size)
}

fn ensure(holds: bool, row: impl FnOnce() -> String, rule: &'static str) -> Result<(), Broken> {
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
