//! A failing script made small: parts are left out as long as the same thing is still wrong.

use std::fmt;
use std::time::{Duration, Instant};

use super::generate::generate;
use super::run::{Report, Wrong, run};
use super::script::Script;

/// Nobody waits longer for a small script than it takes to look at a large one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run that failed, made small.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is wrong in the small run.
    pub wrong: Wrong,
    /// What is left of the script.
    pub script: Script,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}\n{}{}", self.seed, self.script, self.wrong)
    }
}

/// Runs a seed; what fails is shrunk.
///
/// # Errors
/// What was wrong, and the small script that shows it.
pub fn check(seed: u64) -> Result<Report, Box<Failure>> {
    let script = generate(seed);
    run(&script).map_err(|wrong| {
        eprintln!(
            "seed {seed}, round {}: {}; it is made small",
            wrong.round, wrong.what
        );
        let (script, wrong) = shrink(script, *wrong);
        Box::new(Failure {
            seed,
            wrong,
            script,
        })
    })
}

fn shrink(mut script: Script, mut wrong: Wrong) -> (Script, Wrong) {
    let kind = kind(&wrong.what);
    let begun = Instant::now();
    let mut smaller = true;
    while smaller {
        smaller = false;
        for candidate in smaller_ones(&script) {
            if begun.elapsed() > PATIENCE {
                return (script, wrong);
            }
            if let Err(found) = run(&candidate)
                && self::kind(&found.what) == kind
            {
                (script, wrong, smaller) = (candidate, *found, true);
                break;
            }
        }
    }
    (script, wrong)
}

/// What is wrong, without the numbers in it.
fn kind(what: &str) -> String {
    what.chars()
        .filter(|letter| !letter.is_ascii_digit())
        .take(60)
        .collect()
}

/// The script without one of its parts, the largest parts first.
fn smaller_ones(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let mut keep = |change: &dyn Fn(&mut Script)| {
        let mut smaller = script.clone();
        change(&mut smaller);
        all.push(smaller);
    };
    for round in (0..script.rounds.len()).rev() {
        keep(&|script| {
            script.rounds.remove(round);
        });
    }
    for (number, round) in script.rounds.iter().enumerate() {
        if round.members.len() > 1 {
            for member in 0..round.members.len() {
                keep(&|script| {
                    script.rounds[number].members.remove(member);
                });
            }
        }
        keep(&|script| script.rounds[number].during.clear());
        keep(&|script| script.rounds[number].before.clear());
        keep(&|script| script.rounds[number].restart = None);
        for deed in 0..round.deeds.len() {
            keep(&|script| {
                script.rounds[number].deeds.remove(deed);
            });
        }
        for fault in 0..round.faults.len() {
            keep(&|script| {
                script.rounds[number].faults.remove(fault);
            });
        }
        for write in 0..round.during.len() {
            keep(&|script| {
                script.rounds[number].during.remove(write);
            });
        }
        for write in 0..round.before.len() {
            keep(&|script| {
                script.rounds[number].before.remove(write);
            });
        }
    }
    all.retain(|smaller| smaller != script);
    all
}
