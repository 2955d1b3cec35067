//! Durable operations that fail: no room, a file system that takes nothing more, a sync that loses what it was to write.

use std::collections::{BTreeMap, BTreeSet};

use cohort_tests::crash::{Ending, How, Phase, Script};

use crate::judge::{Sum, judge};
use crate::play::{Played, play};

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

#[test]
fn whatever_fails_is_said_nothing_is_lost_and_the_next_run_goes_on() {
    let torture = std::env::var_os("COHORT_TORTURE_CRASH").is_some();
    let mut table: BTreeMap<(How, String, Phase), [u64; 2]> = BTreeMap::new();
    let (mut wrong, mut hits) = (Vec::new(), 0);
    for script in scripts(torture) {
        let log = play(&script, None).log;
        let mut tried = BTreeSet::new();
        for how in [How::Full, How::ReadOnly, How::Io] {
            for reached in &log {
                let name = &reached.point.name;
                let hook = name.ends_with(".begins") || name.ends_with(".ended");
                let fits = !hook && (how != How::Io || name.ends_with(".sync"));
                if !fits || !tried.insert((how, name.clone(), reached.point.phase)) {
                    continue;
                }
                let played = play(&script, Some((&reached.point, how)));
                let judged = told(&played, how).and_then(|all| {
                    judge(&played, &mut Sum::default())?;
                    Ok(all)
                });
                match judged {
                    Err(why) => {
                        let (point, said) = (&reached.point, &played.said);
                        wrong.push(format!("{script}, {how} at {point}: {why}\n{said}"));
                    }
                    Ok(all) => {
                        if let Some(hit) = played.hit() {
                            let counts =
                                table.entry((how, hit.point.name.clone(), hit.point.phase));
                            counts.or_default()[usize::from(all)] += 1;
                            hits += 1;
                        }
                    }
                }
            }
        }
    }
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
