//! Which cells of (status × verb × cause × disposition × phase) were met, and which can be.

use std::collections::BTreeMap;
use std::fmt;

use cohort_job::core::Request;
use cohort_job::{Cause, Disposition, Phase, Status};

/// The verbs, and the two that differ by what they mean.
const VERBS: [&str; 8] = [
    "cancel keep",
    "cancel discard",
    "pause",
    "resume",
    "set-speed",
    "complete",
    "finalize",
    "dismiss",
];
const CAUSES: [&str; 7] = [
    "none",
    "failed",
    "cancelled",
    "user",
    "rollback",
    "shutdown",
    "process ended",
];
const PHASES: [Phase; 7] = [
    Phase::Open,
    Phase::Preparing,
    Phase::Stopping,
    Phase::Deciding,
    Phase::Committing,
    Phase::Aborting,
    Phase::Done,
];

/// One cell: where a member and its group were when a verb came. A dismissed member counts as `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    phase: Phase,
    status: Status,
    cause: u8,
    disposition: Disposition,
    verb: u8,
}

impl Cell {
    /// The cell of this request, if it is a verb on a member.
    pub(crate) fn of(
        request: &Request,
        status: Status,
        cause: Option<Cause>,
        disposition: Disposition,
        phase: Phase,
    ) -> Option<Self> {
        let verb = match request {
            Request::Cancel(_, Disposition::Keep) => 0,
            Request::Cancel(_, Disposition::Discard) => 1,
            Request::Pause(_) => 2,
            Request::Resume(_) => 3,
            Request::SetSpeed { .. } => 4,
            Request::Complete(_) => 5,
            Request::Finalize(_) => 6,
            Request::Dismiss(_) => 7,
            Request::Add { .. }
            | Request::Launch
            | Request::Rollback
            | Request::Replay(_)
            | Request::CancelAll(..)
            | Request::Hold(_)
            | Request::Release(_)
            | Request::GiveUp(_) => return None,
        };
        let cause = match cause {
            None => 0,
            Some(Cause::Failed(_)) => 1,
            Some(Cause::Cancelled(_)) => 2,
            Some(Cause::User) => 3,
            Some(Cause::Rollback) => 4,
            Some(Cause::Shutdown) => 5,
            Some(Cause::ProcessEnded) => 6,
        };
        Some(Self {
            phase,
            status,
            cause,
            disposition,
            verb,
        })
    }

    fn all() -> impl Iterator<Item = Self> {
        let causes = 0..CAUSES.len() as u8;
        let dispositions = [Disposition::Keep, Disposition::Discard];
        PHASES.into_iter().flat_map(move |phase| {
            let causes = causes.clone();
            Status::ALL.into_iter().flat_map(move |status| {
                causes.clone().flat_map(move |cause| {
                    dispositions.into_iter().flat_map(move |disposition| {
                        (0..VERBS.len() as u8).map(move |verb| Self {
                            phase,
                            status,
                            cause,
                            disposition,
                            verb,
                        })
                    })
                })
            })
        })
    }

    /// Whether the laws of `docs/states.md` and `docs/completion.md` let there be such a moment. The verb does
    /// not matter: anything may be asked at any time.
    fn can_be(self) -> bool {
        use Status::{
            Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Waiting,
        };
        const ROLLBACK: u8 = 4;
        const PROCESS_ENDED: u8 = 6;
        if self.cause == 0 && self.disposition == Disposition::Discard {
            return false;
        }
        let statuses: &[Status] = match self.phase {
            // A cause ends this phase in the turn in which it comes.
            Phase::Open if self.cause == 0 => {
                &[Created, Running, Paused, Ready, Standby, Waiting, Pending]
            }
            // All are pending; with a cause, while the hook under way returns. What was launched is not
            // rolled back, what is replayed is not prepared.
            Phase::Preparing if self.cause != ROLLBACK && self.cause != PROCESS_ENDED => &[Pending],
            // Rolled back is what was never launched.
            Phase::Stopping if self.cause == ROLLBACK => &[Created, Aborting],
            Phase::Stopping if self.cause != 0 && self.cause != PROCESS_ENDED => &[
                Created, Running, Paused, Ready, Standby, Waiting, Pending, Aborting,
            ],
            // A replayed member passes through running and waiting within one turn.
            Phase::Deciding if self.cause == 0 => &[Created, Pending],
            // Who was rolled back was not prepared: there is no record to build it from, and nothing to look at.
            Phase::Deciding if self.cause == ROLLBACK => &[Aborting],
            Phase::Aborting if self.cause == ROLLBACK => &[Aborting, Null],
            Phase::Done if self.cause == ROLLBACK => &[Null],
            Phase::Deciding => &[Created, Aborting],
            Phase::Committing if self.cause == 0 => &[Pending, Concluded, Null],
            Phase::Aborting if self.cause != 0 => &[Aborting, Concluded, Null],
            Phase::Done => &[Concluded, Null],
            Phase::Open
            | Phase::Preparing
            | Phase::Stopping
            | Phase::Committing
            | Phase::Aborting => &[],
        };
        statuses.contains(&self.status)
    }

    /// All of the cell but the verb.
    fn place(self) -> String {
        let disposition = match self.disposition {
            Disposition::Keep => "keep",
            Disposition::Discard => "discard",
        };
        let cause = CAUSES[usize::from(self.cause)];
        format!("{:?}, {}, {cause}, {disposition}", self.phase, self.status)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), VERBS[usize::from(self.verb)])
    }
}

/// How often each cell was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cells(BTreeMap<Cell, u64>);

impl Cells {
    pub(crate) fn count(&mut self, cell: Cell) {
        *self.0.entry(cell).or_default() += 1;
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        for (cell, count) in &other.0 {
            *self.0.entry(*cell).or_default() += count;
        }
    }

    /// Cells that were met though the laws say that there is no such moment.
    pub fn impossible(&self) -> Vec<Cell> {
        self.0
            .keys()
            .copied()
            .filter(|cell| !cell.can_be())
            .collect()
    }

    /// Cells that can be, and were not met.
    pub fn missed(&self) -> Vec<Cell> {
        Cell::all()
            .filter(|cell| cell.can_be() && !self.0.contains_key(cell))
            .collect()
    }

    /// How many cells were met.
    pub fn met(&self) -> usize {
        self.0.len()
    }
}

/// The counts, the cells never met, and apart from them those that cannot be.
impl fmt::Display for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let possible = Cell::all().filter(|cell| cell.can_be()).count();
        let impossible = Cell::all().count() - possible;
        let verbs: u64 = self.0.values().sum();
        writeln!(
            f,
            "cells (phase, status, cause, disposition: verb): {} of {possible} met by {verbs} verbs",
            self.met()
        )?;
        writeln!(f, "  {impossible} more cannot be, by the tables")?;
        let mut missed: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for cell in self.missed() {
            let verbs = missed.entry(cell.place()).or_default();
            verbs.push(VERBS[usize::from(cell.verb)]);
        }
        for (place, verbs) in missed {
            let verbs = if verbs.len() == VERBS.len() {
                "every verb".to_owned()
            } else {
                verbs.join(", ")
            };
            writeln!(f, "  never met: {place}: {verbs}")?;
        }
        Ok(())
    }
}
