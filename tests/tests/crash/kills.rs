//! Kills at every point.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use cohort_tests::crash::{Ending, How, Point, Reached, Script, Word};
use cohort_tests::power_loss::Chance;

use crate::cells::{Cell, Cells, POLICIES, SPARE};
use crate::judge::{Sum, judge};
use crate::play::{each, play};

/// What is played, and where its process dies.
type Try = (Script, Point);

/// How often cells are tried again that threads kept from being hit.
const TRIES: usize = 4;

/// What the runs before the last one leave: nothing, a point, and besides it partials that the last run continues.
const BEFORE: [&[Ending]; 3] = [&[], &[Ending::Success], CONTINUED];

const CONTINUED: &[Ending] = &[Ending::Success, Ending::Failing];

/// Groups of four that have every policy, and of two without checkpoints, with every end after every beginning.
fn whole_groups() -> Vec<Script> {
    let mut scripts = Vec::new();
    for group in [&POLICIES[..], SPARE] {
        let policies: Vec<_> = group.iter().copied().map(Word).collect();
        for before in BEFORE {
            scripts.extend(Ending::ALL.map(|ending| script(&policies, before, ending)));
        }
    }
    scripts
}

/// Smaller groups, and those in which a policy is there twice: a few of them, or all that there are.
fn mixes(all: bool) -> Vec<Script> {
    let mut scripts = Vec::new();
    let mut groups = vec![Vec::new()];
    for _ in 0..4 {
        let longer = groups.iter().flat_map(|group: &Vec<usize>| {
            let from = group.last().copied().unwrap_or(0);
            (from..4).map(|policy| [&group[..], &[policy]].concat())
        });
        groups = longer.collect();
        for (number, group) in groups.iter().enumerate() {
            let policies: Vec<_> = group.iter().map(|policy| Word(POLICIES[*policy])).collect();
            for (at, before) in BEFORE.into_iter().enumerate() {
                for (which, ending) in Ending::ALL.into_iter().enumerate() {
                    let few = group.len() < 4 && (number + at) % 4 == which && number % 3 == at;
                    if all || few {
                        scripts.push(script(&policies, before, ending));
                    }
                }
            }
        }
    }
    scripts
}

fn script(policies: &[Word], before: &[Ending], ending: Ending) -> Script {
    Script {
        policies: policies.to_vec(),
        runs: [before, &[ending]].concat(),
    }
}

/// Where the processes are killed: once at each point in each phase under each ending, or at every one of a run that
/// continues partials; and at some points of each mix. Besides, the first points of each phase, for cells that threads
/// kept from being hit.
fn plan(torture: Option<u64>, cells: &mut Cells) -> (Vec<Try>, Vec<Try>) {
    let (mut plan, mut planned) = (Vec::new(), BTreeSet::new());
    let mut firsts = Vec::new();
    let mut chance = Chance::new(1);
    for script in whole_groups() {
        let log = undisturbed(&script, cells);
        let first = log.iter().filter(|reached| reached.point.time == 1);
        firsts.extend(first.map(|reached| (script.clone(), reached.point.clone())));
        if torture.is_some() && script.runs.starts_with(CONTINUED) {
            let every = log.iter().map(|reached| &reached.point);
            plan.extend(every.map(|point| (script.clone(), point.clone())));
            continue;
        }
        let kind = |reached: &Reached| (reached.point.name.clone(), reached.point.phase);
        for one in log.iter().map(kind).collect::<BTreeSet<_>>() {
            if planned.insert((one.clone(), script.ending())) {
                // The first of its phase, which is there however threads run.
                let first = |reached: &&Reached| kind(reached) == one && reached.point.time == 1;
                let same: Vec<_> = log.iter().filter(first).collect();
                let reached = same[chance.below(same.len() as u64) as usize];
                plan.push((script.clone(), reached.point.clone()));
            }
        }
    }
    for script in mixes(torture.is_some()) {
        let log = undisturbed(&script, cells);
        for _ in 0..torture.unwrap_or(3) {
            let reached = &log[chance.below(log.len() as u64) as usize];
            plan.push((script.clone(), reached.point.clone()));
        }
    }
    (plan, firsts)
}

/// What a script comes to if nobody disturbs it, which must be right, too.
fn undisturbed(script: &Script, cells: &mut Cells) -> Vec<Reached> {
    let whole = play(script, None);
    assert!(whole.succeeded, "{script}: {}", whole.said);
    let judged = judge(&whole, &mut Sum::default());
    assert_eq!(judged, Ok(()), "{script}: {}", whole.said);
    cells.note(&whole);
    whole.log
}

#[test]
fn whatever_a_kill_interrupts_is_whole_or_garbage_and_the_next_run_goes_on() {
    let torture = std::env::var("COHORT_TORTURE_CRASH").ok();
    let torture = torture.and_then(|text| text.parse().ok());
    let mut tried = Tried::default();
    let (first, again) = plan(torture, &mut tried.cells);
    try_all(first, How::Kill, &mut tried);
    for _ in 0..TRIES {
        let missing = tried.cells.missing(torture.is_some());
        let gains =
            |(script, point): &&Try| Cell::all(script, point).any(|cell| missing.contains(&cell));
        let more = again.iter().filter(gains).cloned().collect();
        try_all(more, How::Kill, &mut tried);
    }
    tried.cells.print();
    println!("{:?}", tried.sum);
    assert!(
        tried.wrong.is_empty(),
        "{} wrong:\n{}",
        tried.wrong.len(),
        tried.wrong.join("\n")
    );
    let Sum {
        judged,
        partials,
        instants,
        views,
        unfinished,
        owed,
        by_store,
        continued,
        ..
    } = tried.sum;
    assert!(judged > 300, "{judged} judged");
    for (what, count) in [
        ("partial", partials),
        ("instant of a partial", instants),
        ("view", views),
        ("unfinished file", unfinished),
        ("verdict that is owed", owed),
        ("run by a store", by_store),
        ("continued partial", continued),
    ] {
        assert!(count > judged / 10, "{count} of {what}, of {judged}");
    }
    tried.cells.check(torture.is_some());
}

/// What came of many tries.
#[derive(Debug, Default)]
struct Tried {
    cells: Cells,
    sum: Sum,
    wrong: Vec<String>,
}

/// Tries each, as many at a time as there are processors.
fn try_all(plan: Vec<Try>, how: How, tried: &mut Tried) {
    let tried = Mutex::new(tried);
    each(plan, |(script, point)| {
        let played = play(&script, Some((&point, how)));
        let mut sum = Sum::default();
        let judged = judge(&played, &mut sum);
        let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = judged {
            let said = &played.said;
            tried
                .wrong
                .push(format!("{script}, {how} at {point}: {why}\n{said}"));
        }
        tried.sum.add(&sum);
        tried.cells.note(&played);
    });
}
