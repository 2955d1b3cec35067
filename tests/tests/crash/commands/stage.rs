//! How far a backup had come when it was cut short, told by the rows that its catalogue holds.

use std::fmt;

use cohort_tests::checker;

use super::act::Act;
use super::world::Played;

/// The run that is cut short.
const RUN: u64 = 5;

/// The exit code for what may or may not be written: that the run began, or its verdict.
const IN_DOUBT: i32 = 10;

/// What the catalogue knows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nothing: it was being opened, or the run noted.
    Begun,
    /// That it began: its verdict was still to be written.
    Undecided,
    /// Its verdict; that all hooks ran was still to be noted.
    Owed,
    /// That it is over: the catalogue was being closed.
    Over,
}

impl Stage {
    pub(crate) const ALL: [Self; 4] = [Self::Begun, Self::Undecided, Self::Owed, Self::Over];

    /// What the catalogue holds now; nothing of other commands, and of a run that is decided to have failed.
    pub(crate) fn of(played: &Played) -> Option<Self> {
        if played.act != Act::Backup {
            return None;
        }
        let checked = checker::check(&played.world().join("R")).ok()??;
        let rows = &checked.catalogue;
        let group = format!("run-{RUN}");
        let verdict = rows.verdicts.values().find(|row| row.group == group);
        Some(match (rows.runs.contains_key(&RUN), verdict) {
            (false, _) => Self::Begun,
            (true, None) => Self::Undecided,
            (true, Some(verdict)) if !verdict.commits => return None,
            (true, Some(verdict)) if verdict.owed => Self::Owed,
            (true, Some(_)) => Self::Over,
        })
    }

    /// Whether there is a verdict, which counts whatever fails after it.
    pub(crate) fn counts(self) -> bool {
        self >= Self::Owed
    }

    /// A backup exits well if, and only if, its verdict counts; if that could not be written to its end, it may or may not.
    /// Who is killed says nothing.
    pub(crate) fn agrees(stage: Option<Self>, played: &Played) -> Result<(), String> {
        let (Some(stage), Some(code)) = (stage, played.ended.code) else {
            return Ok(());
        };
        let agrees = match code {
            0 => stage.counts(),
            IN_DOUBT => stage != Self::Over,
            _ => !stage.counts(),
        };
        match agrees {
            true => Ok(()),
            false => Err(format!("it exits with {code}, and the run is {stage}")),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Begun => "not begun",
            Self::Undecided => "undecided",
            Self::Owed => "decided, its hooks owed",
            Self::Over => "over, its catalogue open",
        })
    }
}
