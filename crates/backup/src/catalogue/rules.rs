//! The rules that a catalogue's content obeys, and which one is broken. Pure.
//!
//! They are those of `docs/format.md`. Nothing is read, and no change is written, that breaks one.

use std::collections::BTreeSet;

use super::contents::Contents;
use super::model::{Anchor, ByteRange, StoredDigests};
use super::name::{DiskName, FileKind, RunId};

/// A rule that a catalogue's content, or a change to it, breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{row}: {rule}")]
pub struct Broken {
    /// What breaks it, as in `point vda@3`.
    pub row: String,
    /// What is wrong.
    pub rule: &'static str,
}
impl Contents {
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

#[cfg(test)]
mod tests {
    use super::super::model::Point;
    use super::super::name::DirectoryId;
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
}
