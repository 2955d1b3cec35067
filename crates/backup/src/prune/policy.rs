//! Which points are kept, and why. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::catalogue::{Anchor, Contents, DiskName, Point, RunId};

/// What a user wants to keep of each disk. A point that either rule keeps is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest points.
    pub last: usize,
    /// The newest point of a day, for so many of the newest days that have one.
    pub daily: usize,
}

/// A point, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The disk.
    pub disk: DiskName,
    /// The run that took it.
    pub run: RunId,
    /// What becomes of it.
    pub fate: PointFate,
}

/// What becomes of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointFate {
    /// It stays, for these reasons.
    Keep(Vec<KeepReason>),
    /// It goes.
    Remove,
}

/// Why a point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeepReason {
    /// It is among the last ones.
    Last,
    /// It is the newest of its day.
    Daily,
    /// It is the newest of its disk, which always stays.
    Newest,
    /// The next increment is against it.
    Anchor,
    /// A partial lies on it.
    Partial,
    /// Several points lie on it, so that it cannot be merged into one.
    Shared,
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Last => "last",
            Self::Daily => "daily",
            Self::Newest => "newest",
            Self::Anchor => "the next increment is against it",
            Self::Partial => "a partial lies on it",
            Self::Shared => "several points lie on it",
        })
    }
}

/// Decides about every point of every disk, disk by disk, oldest first. `day_of` gives the number of the day of a time in
/// milliseconds since 1970.
pub fn plan_prune(contents: &Contents, keep: &Keep, day_of: &dyn Fn(u64) -> i64) -> Vec<Pruned> {
    let disks: BTreeSet<&DiskName> = contents.points.keys().map(|(disk, _)| disk).collect();
    disks
        .into_iter()
        .flat_map(|disk| plan_disk(contents, disk, keep, day_of))
        .collect()
}

fn plan_disk(
    contents: &Contents,
    disk: &DiskName,
    keep: &Keep,
    day_of: &dyn Fn(u64) -> i64,
) -> Vec<Pruned> {
    let points: Vec<(RunId, &Point)> = contents.points_of(disk).collect();
    let mut kept: BTreeMap<RunId, Vec<KeepReason>> = BTreeMap::new();
    let mut stay = |run: RunId, why| kept.entry(run).or_default().push(why);
    for (run, _) in points.iter().rev().take(keep.last) {
        stay(*run, KeepReason::Last);
    }
    let mut days = BTreeSet::new();
    for (run, point) in points.iter().rev() {
        let day = day_of(point.created_unix_ms);
        if days.len() < keep.daily && days.insert(day) {
            stay(*run, KeepReason::Daily);
        }
    }
    if let Some((run, _)) = points.last() {
        stay(*run, KeepReason::Newest);
    }
    let view = contents
        .views
        .get(disk)
        .and_then(|views| views.point.as_ref());
    if let Some(Anchor::Point(run)) = view.map(|view| &view.anchor) {
        stay(*run, KeepReason::Anchor);
    }
    if let Some(run) = contents
        .partials
        .get(disk)
        .and_then(|partial| partial.parent)
    {
        stay(run, KeepReason::Partial);
    }
    for run in shared(&points, &kept) {
        kept.entry(run).or_default().push(KeepReason::Shared);
    }
    let fate = |run: &RunId| {
        kept.get(run)
            .cloned()
            .map_or(PointFate::Remove, PointFate::Keep)
    };
    points
        .iter()
        .map(|(run, _)| Pruned {
            disk: disk.clone(),
            run: *run,
            fate: fate(run),
        })
        .collect()
}

/// The points that nobody asked to keep and that more than one point which stays lies on.
fn shared(points: &[(RunId, &Point)], kept: &BTreeMap<RunId, Vec<KeepReason>>) -> Vec<RunId> {
    let mut shared = Vec::new();
    // From the newest on: every child is seen before its parent. What leads to no kept point counts for nothing.
    let mut branches: BTreeMap<RunId, usize> = BTreeMap::new();
    for (run, point) in points.iter().rev() {
        let above = branches.get(run).copied().unwrap_or(0);
        let stays = kept.contains_key(run);
        if !stays && above > 1 {
            shared.push(*run);
        }
        if let Some(parent) = point.parent.filter(|_| stays || above > 0) {
            *branches.entry(parent).or_default() += 1;
        }
    }
    shared
}
