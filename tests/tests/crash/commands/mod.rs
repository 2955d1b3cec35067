//! The program's `backup`, `audit`, `prune`, which merges increments, and `restore`, killed at every durable operation, and with each
//! of them failing: what a directory lists can be restored at any time, nothing passes for a restored disk that is not, the
//! same command, given again, finishes; and what failed is told, with an exit code of the page.
//!
//! The suite tries each kind of operation at its first time and at some other; `COHORT_TORTURE_CRASH` all of them.

mod act;
mod cells;
mod exits;
mod judge;
mod stage;
mod world;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use cohort_tests::crash::{How, Point};
use cohort_tests::power_loss::Chance;

use crate::play::each;
use act::Act;
use cells::Cells;
use judge::judge;
use stage::Stage;
use world::Template;

/// What happens at a point; a hook of a job is never the operating system's to fail, and there are none here.
const WAYS: [How; 4] = [How::Kill, How::Full, How::ReadOnly, How::Io];

/// A command, where something happens, and what.
type Try = (Act, Point, How);

/// Only a sync loses what was written before it.
fn fits(point: &str, how: How) -> bool {
    how != How::Io || point.ends_with(".sync")
}

/// Where each command is disturbed: everywhere, or at the first operation of each kind and at some other of it. At each sync
/// of the catalogue in any case: what one that fails leads to differs with what it was of.
fn plan(template: &Template, torture: bool) -> Vec<Try> {
    let mut plan = Vec::new();
    let mut chance = Chance::new(1);
    for act in Act::ALL {
        let log = template.play(act, None).ended.log;
        for how in WAYS {
            let mut kinds = BTreeSet::new();
            for (at, reached) in log.iter().enumerate() {
                let point = &reached.point;
                if !fits(&point.name, how) {
                    continue;
                }
                let is_first = kinds.insert(&point.name);
                let same = log[at..].iter();
                let same: Vec<_> = same
                    .filter(|other| other.point.name == point.name)
                    .collect();
                if torture || how == How::Io && point.name == "catalogue.sync" {
                    plan.push((act, point.clone(), how));
                } else if is_first {
                    let other = same[chance.below(same.len() as u64) as usize];
                    let both = BTreeSet::from([point.clone(), other.point.clone()]);
                    plan.extend(both.into_iter().map(|point| (act, point, how)));
                }
            }
        }
    }
    plan
}

#[test]
fn a_command_that_is_cut_short_leaves_every_point_and_nothing_that_passes_for_a_disk() {
    let torture = std::env::var_os("COHORT_TORTURE_CRASH").is_some();
    let template = Template::make();
    for act in Act::ALL {
        let played = template.play(act, None);
        assert_eq!(played.ended.code, Some(act.code()), "{act}: {played:?}");
        assert_eq!(judge(&template, &played), Ok(()), "{act}, undisturbed");
    }
    let found = Mutex::new((Cells::default(), Vec::new()));
    each(plan(&template, torture), |(act, point, how)| {
        let played = template.play(act, Some((&point, how)));
        let stage = Stage::of(&played);
        let judged = judge(&template, &played).and_then(|()| exits::told(&played));
        let judged = judged.and_then(|()| Stage::agrees(stage, &played));
        let (cells, wrong) = &mut *found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = judged {
            let said = &played.ended.stderr;
            wrong.push(format!("{act}, {how} at {point}: {why}\n{said}"));
        }
        cells.note(&played, stage);
    });
    let (cells, wrong) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    cells.print();
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} wrong:\n{}", wrong.join("\n"));
    cells.check();
}
