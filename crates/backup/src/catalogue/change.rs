//! How a catalogue's content may change: a run begins, a group is decided, a partial is kept, answered
//! or dropped. Pure; the rules are checked afterwards, by [`Contents::check`].

use std::collections::BTreeSet;

use super::contents::Contents;
use super::model::{
    Anchor, Answer, Clearing, Decided, Decision, Disk, Merging, Partial, Proof, Run, StoredDigests,
    Tracking, View, Views,
};
use super::name::{DiskName, RunId};
use super::record::PointRecord;
use super::rules::{Broken, ensure};
use super::{Kept, TrackedViews};

/// Changes. Each either applies whole or leaves a value to be thrown away: callers work on a copy and
/// [`check`](Contents::check) it before it counts.
impl Contents {
    /// Gives out the number of a new run and makes its disks known.
    pub(super) fn begin_run(
        &mut self,
        disks: &[(DiskName, String)],
        now_unix_ms: u64,
    ) -> Result<RunId, Broken> {
        let id = self.meta.next_run;
        // Only a dump made by hand can have used the numbers up.
        ensure(
            id.0 < u64::MAX,
            || format!("run {id}"),
            "there are no more numbers",
        )?;
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
        Ok(id)
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
    pub(super) fn add_verdict(&mut self, decided: Decided) -> Result<(), Broken> {
        let number = self.meta.next_verdict;
        let row = || format!("verdict on {}", decided.group);
        ensure(number < u64::MAX, row, "there are no more numbers")?;
        self.meta.next_verdict = number + 1;
        self.verdicts.insert(number, decided);
        Ok(())
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

    /// Where the bits of a disk's views are now. Of a point that is not the anchor nobody says where they are.
    pub(super) fn track(&mut self, disk: &DiskName, anchor: Option<RunId>, tracked: TrackedViews) {
        let Some(views) = self.views.get_mut(disk) else {
            return;
        };
        let TrackedViews { point, partial } = tracked;
        if let Some(view) = &mut views.point {
            let same = anchor.map(Anchor::Point).as_ref() == Some(&view.anchor);
            view.tracking = if same { point } else { Tracking::none() };
        }
        if let Some(view) = &mut views.partial {
            view.tracking = partial;
        }
    }

    /// A target is named as a partial while its run goes on; what is known of the disk's changes stays, but for where the
    /// view against it is, if that is told.
    pub(super) fn checkpoint(
        &mut self,
        disk: &DiskName,
        partial: Partial,
        tracking: Option<Tracking>,
    ) {
        let anchor = Anchor::Partial(partial.file.clone());
        let views = self.views.entry(disk.clone()).or_default();
        let same = views.partial.take().filter(|view| view.anchor == anchor);
        let before = same.map_or(Tracking::none(), |view| view.tracking);
        views.partial = Some(View {
            anchor,
            tracking: tracking.unwrap_or(before),
        });
        self.partials.insert(disk.clone(), partial);
    }

    /// Another row for a disk's partial, if it still is that file.
    pub(super) fn rewrite_partial(&mut self, disk: &DiskName, row: Partial) {
        if let Some(partial) = self.partials.get_mut(disk)
            && partial.file == row.file
        {
            *partial = row;
        }
    }

    /// Drops a disk's partial and the view against it; the view against the point stays. Returns
    /// it: its files are garbage from now on.
    pub(super) fn drop_partial(&mut self, disk: &DiskName) -> Option<Partial> {
        let partial = self.partials.remove(disk)?;
        if let Some(views) = self.views.get_mut(disk) {
            views.partial = None;
        }
        Some(partial)
    }

    /// Points that are points no more; what lay on them goes on with their images.
    pub(super) fn remove_points(&mut self, disk: &DiskName, removed: &BTreeSet<RunId>) {
        let left: Vec<RunId> = self.points_of(disk).map(|(run, _)| run).collect();
        for run in left.into_iter().filter(|run| !removed.contains(run)) {
            let mut parent = self.point(disk, run).and_then(|point| point.parent);
            let mut merging = Vec::new();
            while let Some(point) = parent
                .filter(|run| removed.contains(run))
                .and_then(|run| self.point(disk, run))
            {
                merging.push(Merging {
                    file: point.file.clone(),
                    size: point.size,
                    cluster_size: point.cluster_size,
                    digests: point.digests.clone(),
                });
                merging.extend(point.merging.iter().cloned());
                parent = point.parent;
            }
            if let Some(point) = self.points.get_mut(&(disk.clone(), run)) {
                point.parent = parent;
                point.merging.extend(merging);
            }
        }
        self.points
            .retain(|(of, run), _| of != disk || !removed.contains(run));
    }

    /// The views of a disk lack writes, nobody knows since when.
    pub(super) fn distrust(&mut self, disk: &DiskName, now_unix_ms: u64) {
        let Some(views) = self.views.get_mut(disk) else {
            return;
        };
        let refuted = Proof::Refuted {
            at_unix_ms: now_unix_ms,
        };
        for view in [&mut views.point, &mut views.partial].into_iter().flatten() {
            view.tracking.proof = refuted;
        }
    }

    /// A point's image holds all that those it was merged with held.
    pub(super) fn merged(
        &mut self,
        disk: &DiskName,
        run: RunId,
        cluster_size: u32,
        digests: Option<StoredDigests>,
    ) -> Result<(), Broken> {
        let row = || format!("point {disk}@{run}");
        let Some(point) = self.points.get_mut(&(disk.clone(), run)) else {
            return ensure(false, row, "it is not there");
        };
        point.merging.clear();
        point.cluster_size = cluster_size;
        point.digests = digests;
        Ok(())
    }

    /// What became of taking a point's content from the image bitmap of a disk's view: done, or never to
    /// be done, and the bitmap is no longer gone by.
    pub(super) fn settle_image_bitmap(&mut self, disk: &DiskName, done: bool) {
        let view = self
            .views
            .get_mut(disk)
            .and_then(|views| views.point.as_mut());
        let Some(view) = view else { return };
        match &mut view.tracking.image_bitmap {
            Some(bitmap) if done => bitmap.clearing = Clearing::Done,
            other => *other = None,
        }
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
