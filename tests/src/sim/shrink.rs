//! A failing run made small: decisions are left out as long as the same thing is still wrong (delta debugging:
//! Zeller, Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002).

use std::fmt;

use super::generate::generate;
use super::run::{Report, Wrong, run};
use super::script::{Act, Decision, End, HookAct, Script, ShellSpec, When};

/// More runs than shrinking takes when it gets somewhere.
const TRIES: u32 = 4_000;

/// A run that failed, made small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// What does not hold.
    pub wrong: Wrong,
    /// Decisions of the whole run.
    pub decisions: usize,
    /// What is left of them.
    pub script: Script,
}

/// The seed, what is wrong, the decisions that are left, and what happened.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.wrong.what)?;
        let left = self.script.decisions.len();
        writeln!(f, "script ({left} of {} decisions):", self.decisions)?;
        for decision in &self.script.decisions {
            writeln!(f, "  {decision}")?;
        }
        writeln!(f, "trace:")?;
        for line in &self.wrong.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "  {:>9} µs  wrong: {}", self.wrong.at, self.wrong.what)
    }
}

/// Runs a seed; what fails is shrunk.
///
/// # Errors
/// What was wrong, and the small run that shows it.
pub fn simulate(seed: u64) -> Result<Report, Box<Failure>> {
    let script = generate(seed);
    run(&script, false).map_err(|wrong| {
        let small = shrink(&script, &wrong);
        let traced = run(&small, true).err().unwrap_or(wrong);
        Box::new(Failure {
            seed,
            wrong: *traced,
            decisions: script.decisions.len(),
            script: small,
        })
    })
}

/// Leaves out what is not needed for the same thing to be wrong.
fn shrink(script: &Script, wrong: &Wrong) -> Script {
    let mut small = Shrink {
        script: script.clone(),
        kind: kind(&wrong.what),
        tries: TRIES,
    };
    small.try_this(script.of_group(wrong.group));
    small.leave_out();
    small.plain();
    small.leave_out();
    small.script
}

/// What is wrong, without the numbers in it.
fn kind(what: &str) -> String {
    what.chars()
        .filter(|letter| !letter.is_ascii_digit())
        .collect()
}

struct Shrink {
    script: Script,
    kind: String,
    tries: u32,
}

impl Shrink {
    fn try_this(&mut self, script: Script) -> bool {
        if self.tries == 0 {
            return false;
        }
        self.tries -= 1;
        let fails = run(&script, false).is_err_and(|wrong| kind(&wrong.what) == self.kind);
        if fails {
            self.script = script;
        }
        fails
    }

    /// Large pieces first, then smaller ones, until no single decision can be left out.
    fn leave_out(&mut self) {
        let mut piece = self.script.decisions.len().div_ceil(2);
        while piece > 0 {
            let mut from = 0;
            let mut any = false;
            while from < self.script.decisions.len() {
                let mut fewer = self.script.clone();
                let to = (from + piece).min(fewer.decisions.len());
                fewer.decisions.drain(from..to);
                if self.try_this(fewer) {
                    any = true;
                } else {
                    from = to;
                }
            }
            if piece > 1 {
                piece = piece.div_ceil(2);
            } else if !any || self.tries == 0 {
                break;
            }
        }
    }

    /// Makes what is left plainer, decision by decision.
    fn plain(&mut self) {
        for at in 0..self.script.decisions.len() {
            for plainer in plainer(&self.script.decisions[at]) {
                let mut other = self.script.clone();
                other.decisions[at] = plainer;
                self.try_this(other);
            }
        }
    }
}

/// The same decision with less to it, one thing at a time.
fn plainer(decision: &Decision) -> Vec<Decision> {
    match decision.clone() {
        Decision::Shell { group, shell } => {
            let plain = ShellSpec::default();
            let of = |shell| Decision::Shell { group, shell };
            vec![
                of(ShellSpec {
                    turn: plain.turn,
                    ..shell
                }),
                of(ShellSpec {
                    slice: plain.slice,
                    ..plain
                }),
            ]
        }
        Decision::Member {
            group,
            member,
            spec,
            ..
        } => vec![Decision::Member {
            group,
            member,
            at: 0,
            spec,
        }],
        Decision::Act { group, member, act } => {
            let of = |act| Decision::Act { group, member, act };
            let plain = Act::plain(End::Done);
            vec![
                of(Act { tasks: 0, ..act }),
                of(Act {
                    tasks: act.tasks.min(1),
                    task_panics: false,
                    ..act
                }),
                of(Act {
                    ready: false,
                    ..act
                }),
                of(Act {
                    woken: false,
                    ..act
                }),
                of(Act {
                    takes: plain.takes,
                    ..act
                }),
                of(Act {
                    ..Act::plain(act.end)
                }),
            ]
        }
        Decision::Hook {
            group,
            member,
            order,
            act,
        } => {
            let of = |act| Decision::Hook {
                group,
                member,
                order,
                act,
            };
            let takes = HookAct::default().takes;
            vec![
                of(HookAct { tasks: 0, ..act }),
                of(HookAct { takes, ..act }),
            ]
        }
        Decision::Say { group, when, what } => {
            let when = match when {
                When::At(_) => When::At(0),
                When::Phase(phase, _) => When::Phase(phase, 0),
                When::Status(member, status, _) => When::Status(member, status, 0),
                When::Again(_) => When::Again(0),
            };
            vec![Decision::Say { group, when, what }]
        }
        Decision::JournalFails { .. } | Decision::Shutdown { .. } | Decision::Kill { .. } => {
            Vec::new()
        }
    }
}
