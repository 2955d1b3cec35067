//! Cells: which operation of which command was cut short how, and why others never are.

use std::collections::{BTreeMap, BTreeSet};

use cohort_tests::crash::How;

use super::act::Act::{self, Audit, Backup, Clear, Over, Prune, Qcow2, Raw};
use super::stage::Stage;
use super::world::Played;
use super::{WAYS, fits};

const RESTORES: &[Act] = &[Raw, Qcow2, Over];

/// Those that make files in the directory, and those that change its catalogue.
const MAKES: &[Act] = &[Backup, Clear, Prune];
const CHANGES: &[Act] = &[Backup, Audit, Clear, Prune];

/// Points, the commands that reach them, and why no other does.
#[rustfmt::skip]
const LAW: &[(&[&str], &[Act], &str)] = &[
    (&["lock.write", "lock.cut"],                            CHANGES,  "who reads takes no lock; the files of a lock are there since the first run"),
    (&["catalogue.write", "catalogue.sync", "catalogue.cut"], CHANGES, "who reads changes no catalogue"),
    (&["target.make", "target.write", "target.sync"],        MAKES,    "a restore and an audit read images"),
    (&["digests.make", "digests.write", "digests.sync", "spool.write"], MAKES, "digests follow what is copied or merged"),
    (&["directory.sync"],                                    MAKES,    "what is restored lies beside the directory, and an audit gives no names"),
    (&["target.rename", "target.remove", "digests.remove"],  &[Prune], "a backup that goes well leaves nothing to remove; images are renamed by merging alone"),
    (&["image.write", "image.sync"],                         &[Clear], "only an account in an image is cleared"),
    (&["output.make", "output.write", "output.cut", "output.sync", "folder.sync"], RESTORES, "the others write into the directory alone"),
    (&["output.rename"],                                     &[Over],  "a new name is given by a call of its own (renameat2), which is not taken: what is there before it is what is there before the folder's sync, without the name"),
];

/// What was hit how in which command.
type Cell = (Act, String, How);

/// How a process ended, and how far its run had come.
type End = (Option<i32>, Option<Stage>);

/// How often each cell was hit, by how the process ended and, of a backup, how far its run had come.
#[derive(Debug, Default)]
pub(crate) struct Cells(BTreeMap<Cell, BTreeMap<End, u64>>);

impl Cells {
    pub(crate) fn note(&mut self, played: &Played, stage: Option<Stage>) {
        let mut log = played.ended.log.iter();
        let hit = log.find(|reached| reached.hit);
        if let (Some(hit), Some(how)) = (hit, played.how) {
            let cell = (played.act, hit.point.name.clone(), how);
            let counts = self.0.entry(cell).or_default();
            *counts.entry((played.ended.code, stage)).or_insert(0) += 1;
        }
    }

    /// A line for each cell: how often it was hit, by exit code and stage.
    pub(crate) fn print(&self) {
        for ((act, point, how), counts) in &self.0 {
            let count = |((code, stage), count): (&End, &u64)| {
                let stage = stage.map_or_else(String::new, |stage| format!(" ({stage})"));
                match code {
                    None => format!("killed{stage} {count}"),
                    Some(code) => format!("exit {code}{stage}: {count}"),
                }
            };
            let counts: Vec<_> = counts.iter().map(count).collect();
            println!("{act:14} {point:16} {how:8} {}", counts.join(", "));
        }
    }

    /// Every cell was hit that the law knows, and no other.
    pub(crate) fn check(&self) {
        let mut known = BTreeSet::new();
        for (points, acts, why) in LAW {
            let never: Vec<_> = Act::ALL.iter().filter(|act| !acts.contains(act)).collect();
            println!("{points:?} never in {never:?}: {why}");
            for point in *points {
                for act in *acts {
                    let ways = WAYS.into_iter();
                    let ways = ways.filter(|how| fits(point, *how));
                    known.extend(ways.map(|how| (*act, (*point).to_owned(), how)));
                }
            }
        }
        let hit: BTreeSet<_> = self.0.keys().cloned().collect();
        let strange: Vec<_> = hit.difference(&known).collect();
        assert!(strange.is_empty(), "the law knows nothing of {strange:#?}");
        let missing: Vec<_> = known.difference(&hit).collect();
        assert!(
            missing.is_empty(),
            "not hit, without a reason: {missing:#?}"
        );
        println!("{} cells hit, all that can be", hit.len());
        // Of each sync of the catalogue it is known what it was of.
        let syncs = &self.0[&(Backup, "catalogue.sync".to_owned(), How::Io)];
        let stages: BTreeSet<_> = syncs.keys().filter_map(|(_, stage)| *stage).collect();
        assert_eq!(stages, BTreeSet::from(Stage::ALL));
    }
}
