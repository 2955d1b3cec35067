//! A recording of the threaded engine, run again: every group's inputs go through a core of its own, every
//! turn is checked as in a run, and what the core orders must be what it ordered then.

use std::collections::BTreeMap;
use std::io::BufRead;

use cohort_job::core::{Action, Core};
use cohort_job::{Input, Line, Said};

use super::contain::contained;
use super::laws::{self, Before};
use super::onlooker::Onlooker;
use super::orders::{self, hold};

/// What a recording held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Groups.
    pub groups: u64,
    /// Jobs.
    pub jobs: u64,
    /// Turns.
    pub turns: u64,
    /// Turns that were refused.
    pub refused: u64,
    /// Actions, notices among them.
    pub actions: u64,
}

/// Replays a recording in the text form of `cohort_job::TextRecorder`.
///
/// # Errors
/// The number of the line (from 1) at which something was not as recorded or does not hold, and what.
pub fn replay(recording: impl BufRead) -> Result<Replayed, (usize, String)> {
    let mut groups = BTreeMap::<u64, Group>::new();
    let mut came = Replayed::default();
    let mut number = 0;
    for line in recording.lines() {
        number += 1;
        let wrong = |what: String| (number, what);
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let line = Line::parse(&line).map_err(|error| wrong(error.to_string()))?;
        let group = groups.entry(line.group).or_default();
        group.take(line.said, &mut came).map_err(wrong)?;
    }
    for (id, group) in &mut groups {
        came.groups += 1;
        came.jobs += u64::from(group.core.len());
        let end = group.end_turn(&mut came);
        end.map_err(|what| (number, format!("group {id}: {what}")))?;
    }
    Ok(came)
}

/// One group, with the turn that is being read.
#[derive(Default)]
struct Group {
    core: Core,
    saw: Option<Onlooker>,
    inputs: Vec<Input>,
    does: Vec<String>,
    refused: Option<String>,
    turns: u64,
}

impl Group {
    fn take(&mut self, said: Said, came: &mut Replayed) -> Result<(), String> {
        match said {
            Said::Input(input) => {
                self.end_turn(came)?;
                self.inputs.push(input);
            }
            Said::Also(event) => {
                hold!(!self.inputs.is_empty(), "one more event of no turn");
                self.inputs.push(Input::Tell(event));
            }
            Said::Does(action) => self.does.push(action),
            Said::Refused(why) => self.refused = Some(why),
        }
        Ok(())
    }

    /// Runs the turn that was read, and compares.
    fn end_turn(&mut self, came: &mut Replayed) -> Result<(), String> {
        let inputs = std::mem::take(&mut self.inputs);
        if inputs.is_empty() {
            return Ok(());
        }
        let does = std::mem::take(&mut self.does);
        let refused = self.refused.take();
        let mut whole = self.core.clone();
        let mut out = Vec::new();
        for input in inputs {
            self.turns += 1;
            match (run(&mut whole, &input, &mut out), &refused) {
                (Ok(()), None) => self.checked(&input)?,
                (Err(why), Some(then)) if why == *then => came.refused += 1,
                (now, then) => {
                    return Err(format!("{input:?}: now {now:?}, refused then: {then:?}"));
                }
            }
        }
        let now: Vec<String> = out.iter().map(ToString::to_string).collect();
        hold!(now == does, "now {now:?}, then {does:?}");
        hold!(
            whole == self.core,
            "a turn of several events is not its events, one by one"
        );
        came.turns += 1;
        came.actions += now.len() as u64;
        Ok(())
    }

    /// One input by itself, under the rules of a run.
    fn checked(&mut self, input: &Input) -> Result<(), String> {
        let saw = self.saw.get_or_insert_with(Onlooker::new);
        let before = Before::of(&self.core);
        let mut out = Vec::new();
        if let Input::Tell(event) = input {
            saw.told(event, before.cause.is_some());
        }
        run(&mut self.core, input, &mut out)?;
        if let Input::Ask(request) = input {
            saw.asked(request, self.core.cause().is_some());
        }
        for action in &out {
            orders::check(&self.core, saw, action)?;
            saw.ordered(action);
        }
        laws::check(&self.core, saw, before, input, self.turns)
    }
}

fn run(core: &mut Core, input: &Input, out: &mut Vec<Action>) -> Result<(), String> {
    match input.clone() {
        Input::Ask(request) => {
            contained(|| core.apply(request, out))?.map_err(|why| why.to_string())
        }
        Input::Tell(event) => contained(|| core.handle(event, out)),
    }
}
