//! Cells: where processes were killed, in which phase, under which policy and ending; where they can be, and why nowhere
//! else.

use std::collections::{BTreeMap, BTreeSet};

use cohort_backup::BitmapPolicy::{self, Always, Ask, Never, OnSuccess};
use cohort_tests::crash::Ending::{self, Discarded, Failing, Kept, Success};
use cohort_tests::crash::Phase::{self, *};
use cohort_tests::crash::{Point, Script};

use crate::play::Played;

/// Every policy.
pub(crate) const POLICIES: [BitmapPolicy; 4] = [Always, Ask, OnSuccess, Never];
const KEEP: &[BitmapPolicy] = &[Always, Ask];
/// Those without checkpoints.
pub(crate) const SPARE: &[BitmapPolicy] = &[OnSuccess, Never];
const ANY: &[BitmapPolicy] = &POLICIES;

/// Under these endings a point is reached in every run; under others, threads decide.
const ALL: &[Ending] = &Ending::ALL;
const GOOD: &[Ending] = &[Success];
const BAD: &[Ending] = &[Failing, Kept, Discarded];
const CHANCE: &[Ending] = &[];

type Where = (Phase, &'static [BitmapPolicy], &'static [Ending]);

/// Points, where each is reached, and why nowhere else.
#[rustfmt::skip]
const LAW: &[(&[&str], &[Where], &str)] = &[
    (&["new-catalogue.make", "new-catalogue.write", "new-catalogue.cut", "new-catalogue.sync", "new-catalogue.rename", "directory.make", "folder.sync"],
        &[(Starting, ANY, ALL)],
        "directory and catalogue are made once, before there is a group"),
    (&["lock.make", "lock.write"],
        &[(Starting, ANY, ALL)],
        "the lock is taken first"),
    (&["lock.cut"],
        &[(Starting, ANY, ALL), (Closing, ANY, ALL)],
        "the lock is taken first and given back last"),
    (&["store.make"],
        &[(Starting, ANY, ALL)],
        "a store is made once, before its disk is written to"),
    (&["store.write", "store.sync"],
        &[(Starting, ANY, ALL), (Running, ANY, ALL), (Stopping, ANY, CHANCE), (Aborting, ANY, CHANCE), (Cleaning, ANY, CHANCE), (Closing, ANY, ALL)],
        "sets change before the fence, when guests write, at checkpoints, when a disk settles, and at the end; a commit changes rows only"),
    (&["disk.write"],
        &[(Starting, ANY, ALL), (Running, ANY, ALL), (Stopping, ANY, CHANCE)],
        "here guests write before the fence and while data is copied"),
    (&["disk.sync"],
        &[(Starting, ANY, ALL), (Running, ANY, ALL), (Stopping, ANY, CHANCE), (Aborting, KEEP, CHANCE), (Closing, ANY, ALL)],
        "a disk is flushed by its guest, before what was copied from it, and at the end"),
    (&["target.make"],
        &[(Starting, ANY, ALL)],
        "targets are there before the fence"),
    (&["target.write"],
        &[(Starting, ANY, ALL), (Running, ANY, ALL), (Stopping, ANY, CHANCE), (Aborting, ANY, CHANCE)],
        "data is copied while the group runs; what guests wrote over waits until a saver brings it, or the abort stops that, or seals"),
    (&["target.sync"],
        &[(Starting, KEEP, ALL), (Running, ANY, GOOD), (Stopping, ANY, CHANCE), (Aborting, KEEP, CHANCE)],
        "a partial is flushed when it is taken up, a target when it is complete, at checkpoints, and by an abort that keeps"),
    (&["target.cut"],
        &[(Running, ANY, CHANCE), (Stopping, ANY, CHANCE)],
        "a target that is complete is cut to what it holds"),
    (&["target.remove"],
        &[(Cleaning, ANY, &[Discarded])],
        "what no row names is removed when its job is over"),
    (&["digests.make", "digests.write", "digests.sync"],
        &[(Running, ANY, GOOD), (Stopping, ANY, CHANCE), (Aborting, KEEP, CHANCE)],
        "digests are written when a target is complete, at checkpoints, and by an abort that keeps"),
    (&["digests.remove"],
        &[(Running, KEEP, CHANCE), (Stopping, KEEP, CHANCE), (Aborting, KEEP, CHANCE), (Cleaning, ANY, CHANCE)],
        "digests go when a checkpoint names others, and when a job is over"),
    (&["spool.write"],
        &[(Starting, ANY, ALL), (Running, ANY, ALL), (Stopping, ANY, CHANCE), (Aborting, ANY, CHANCE)],
        "digests come in while data is copied"),
    (&["directory.sync"],
        &[(Starting, ANY, ALL), (Running, ANY, CHANCE), (Preparing, KEEP, CHANCE), (Preparing, SPARE, GOOD), (Stopping, ANY, CHANCE), (Aborting, ANY, CHANCE)],
        "names are durable before a row has them: at checkpoints, in an abort that keeps, and in prepare if the last file was made after the last checkpoint"),
    (&["catalogue.write", "catalogue.sync"],
        &[(Starting, ANY, ALL), (Running, ANY, CHANCE), (Stopping, ANY, CHANCE), (Deciding, ANY, ALL), (Aborting, ANY, CHANCE), (Cleaning, ANY, CHANCE), (Closing, ANY, CHANCE)],
        "the rows of a commit are the verdict's own transaction; prepare writes none"),
    (&["catalogue.cut"],
        &[(Starting, ANY, CHANCE), (Running, ANY, CHANCE), (Stopping, ANY, CHANCE), (Deciding, ANY, CHANCE), (Aborting, ANY, CHANCE), (Cleaning, ANY, CHANCE), (Closing, ANY, CHANCE)],
        "the database grows and shrinks with its transactions"),
    (&["prepare.begins", "prepare.ended"], &[(Preparing, ANY, GOOD)], "nobody prepares in a group that stops"),
    (&["commit.begins", "commit.ended"], &[(Committing, ANY, GOOD)], "the verdict was abort"),
    (&["abort.begins", "abort.ended"], &[(Aborting, ANY, BAD)], "the verdict was commit"),
    (&["clean.begins", "clean.ended"], &[(Cleaning, ANY, ALL)], "clean comes last"),
];

/// Whether a run that ends so is ever in that phase.
fn passes(ending: Ending, phase: Phase) -> bool {
    match phase {
        Starting | Running | Deciding | Cleaning | Closing => true,
        Preparing | Committing => ending == Success,
        Stopping | Aborting => ending != Success,
    }
}

/// Where a process was killed, or an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    point: String,
    phase: Phase,
    ending: Ending,
    /// The word of the policy.
    policy: String,
}

impl Cell {
    /// The cells of a point: one for each policy of the disks to which it belongs.
    pub(crate) fn all<'a>(script: &'a Script, point: &'a Point) -> impl Iterator<Item = Self> + 'a {
        let policies = script.policies_of(&point.disk).into_iter();
        policies.map(|policy| Self {
            point: point.name.clone(),
            phase: point.phase,
            ending: script.ending(),
            policy: policy.to_string(),
        })
    }
}

/// Which cells were reached, and how often a process was killed in each.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    reached: BTreeSet<Cell>,
    hit: BTreeMap<Cell, u64>,
}

impl Cells {
    /// Notes what a process reached and where it was killed: a cell for each policy of the disks to which a point belongs.
    pub(crate) fn note(&mut self, played: &Played) {
        for reached in &played.log {
            for cell in Cell::all(&played.script, &reached.point) {
                if reached.hit {
                    *self.hit.entry(cell.clone()).or_insert(0) += 1;
                }
                self.reached.insert(cell);
            }
        }
    }

    /// A line for each point and phase: how often it was hit under each ending.
    pub(crate) fn print(&self) {
        let places = self.hit.keys().map(|cell| (&cell.point, cell.phase));
        let places: BTreeSet<_> = places.collect();
        for (point, phase) in places {
            let of = |ending| -> u64 {
                let same =
                    |cell: &Cell| (&cell.point, cell.phase, cell.ending) == (point, phase, ending);
                let cells = self.hit.iter().filter(|(cell, _)| same(cell));
                cells.map(|(_, count)| count).sum()
            };
            let [success, failing, kept, discarded] = Ending::ALL.map(of);
            println!(
                "{point:20} {phase:10} success {success:5}  failing {failing:5}  kept {kept:5}  discarded {discarded:5}"
            );
        }
    }

    /// Cells that must be hit and were not: each of them, or those of which not even one policy was.
    pub(crate) fn missing(&self, every_policy: bool) -> BTreeSet<Cell> {
        let mut missing = BTreeSet::new();
        for place in places().filter(|place| place.sure) {
            let unhit: BTreeSet<_> = place
                .cells()
                .filter(|cell| !self.hit.contains_key(cell))
                .collect();
            if every_policy || unhit.len() == place.policies.len() {
                missing.extend(unhit);
            }
        }
        missing
    }

    /// Every cell was hit, or has a reason: threads decided, it is left to `just torture`, or it cannot be.
    pub(crate) fn check(&self, every_policy: bool) {
        let known: BTreeSet<_> = places().flat_map(|place| place.cells()).collect();
        let strange: Vec<_> = self.reached.difference(&known).collect();
        assert!(
            strange.is_empty(),
            "reached, and the law says they cannot be: {strange:#?}"
        );
        let missing = self.missing(every_policy);
        assert!(
            missing.is_empty(),
            "not hit, without a reason: {missing:#?}"
        );
        let unhit = |sure: bool| {
            let cells = places().filter(move |place| place.sure == sure);
            let cells = cells.flat_map(|place| place.cells().collect::<Vec<_>>());
            cells.filter(|cell| !self.hit.contains_key(cell)).count()
        };
        for (points, _, why) in LAW {
            let can = known
                .iter()
                .filter(|cell| points.contains(&&*cell.point))
                .count();
            let all = points.len() * Phase::ALL.len() * Ending::ALL.len() * POLICIES.len();
            println!(
                "{:4} cells of {} and the like are never reached: {why}",
                all - can,
                points[0]
            );
        }
        println!(
            "{} cells hit; of those that can be, {} are left to `just torture`, and {} to chance",
            self.hit.len(),
            unhit(true),
            unhit(false)
        );
    }
}

/// A point in a phase of a run that ends so.
struct Place {
    point: &'static str,
    phase: Phase,
    ending: Ending,
    policies: &'static [BitmapPolicy],
    /// Whether every such run passes it.
    sure: bool,
}

impl Place {
    fn cells(&self) -> impl Iterator<Item = Cell> + use<> {
        let (point, phase, ending) = (self.point, self.phase, self.ending);
        self.policies.iter().map(move |policy| Cell {
            point: point.to_owned(),
            phase,
            ending,
            policy: policy.to_string(),
        })
    }
}

/// Every place that the law knows.
fn places() -> impl Iterator<Item = Place> {
    LAW.iter().flat_map(|(points, places, _)| {
        points.iter().flat_map(|point| {
            places.iter().flat_map(|(phase, policies, sure)| {
                let endings = Ending::ALL.into_iter();
                let endings = endings.filter(|ending| passes(*ending, *phase));
                endings.map(|ending| Place {
                    point,
                    phase: *phase,
                    ending,
                    policies,
                    sure: sure.contains(&ending),
                })
            })
        })
    })
}
