//! Durable operations that fail: no room, a file system that takes nothing more, a sync that loses what it was to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use cohort_tests::crash::{Ending, How, Phase, Point, Reached, Script};

use crate::judge::{Sum, judge};
use crate::play::{Played, each, play};

/// How often an operation failed, in a run that did not commit and in one that did.
type Table = BTreeMap<(How, String, Phase), [u64; 2]>;

/// What is said of each, somewhere.
fn said_of(how: How) -> &'static [&'static str] {
    match how {
        How::Kill => &[],
        How::Full => &["No space left", "no storage space", "full"],
        How::ReadOnly => &["Read-only file system", "read-only"],
        How::Io => &["Input/output error"],
    }
}

/// What came of the run whose operation failed.
fn told(played: &Played, how: How) -> Result<bool, String> {
    let script = &played.script;
    let disks = script.policies.len();
    let committed = played
        .said
        .lines()
        .filter(|line| line.ends_with(" committed"));
    let all = committed.count() == disks;
    let silent = !said_of(how).iter().any(|words| played.said.contains(words));
    match (all, played.hit(), silent) {
        (false, Some(_), true) if script.ending() == Ending::Success => {
            Err("it failed, and does not say why".to_owned())
        }
        _ => Ok(all),
    }
}

fn scripts(torture: bool) -> Vec<Script> {
    let group = "always,ask,on-success,never";
    let usual = ["success", "success,success", "success,failing,success"];
    let more = [
        "success,failing",
        "success,kept",
        "success,discarded",
        "success,failing,failing",
        "success,failing,discarded",
    ];
    let all = usual.iter().chain(if torture { &more[..] } else { &[] });
    all.map(|runs| format!("{group}/{runs}").parse().expect("a script"))
        .collect()
}

/// Each kind of operation of each script fails once, in each way that fits it.
fn plan(torture: bool) -> Vec<(Script, Point, How)> {
    let mut plan = Vec::new();
    for script in scripts(torture) {
        let log = play(&script, None).log;
        for how in [How::Full, How::ReadOnly, How::Io] {
            let mut kinds = BTreeSet::new();
            for Reached { point, .. } in &log {
                let hook = point.name.ends_with(".begins") || point.name.ends_with(".ended");
                let fits = !hook && (how != How::Io || point.name.ends_with(".sync"));
                if fits && kinds.insert((&point.name, point.phase)) {
                    plan.push((script.clone(), point.clone(), how));
                }
            }
        }
    }
    plan
}

#[test]
fn whatever_fails_is_said_nothing_is_lost_and_the_next_run_goes_on() {
    let torture = std::env::var_os("COHORT_TORTURE_CRASH").is_some();
    let found = Mutex::new((Table::new(), Vec::new()));
    each(plan(torture), |(script, point, how)| {
        let played = play(&script, Some((&point, how)));
        let judged = told(&played, how).and_then(|all| {
            judge(&played, &mut Sum::default())?;
            Ok(all)
        });
        let (table, wrong) = &mut *found.lock().unwrap_or_else(PoisonError::into_inner);
        match (judged, played.hit()) {
            (Err(why), _) => {
                let said = &played.said;
                wrong.push(format!("{script}, {how} at {point}: {why}\n{said}"));
            }
            (Ok(all), Some(hit)) => {
                let cell = (how, hit.point.name.clone(), hit.point.phase);
                table.entry(cell).or_default()[usize::from(all)] += 1;
            }
            (Ok(_), None) => {}
        }
    });
    let (table, wrong) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let hits: u64 = table.values().flatten().sum();
    for ((how, name, phase), [failed, all]) in &table {
        println!("{how:8} {name:20} {phase:10} committed {all:3}  not {failed:3}");
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(hits > 100, "{hits} operations failed");
}
