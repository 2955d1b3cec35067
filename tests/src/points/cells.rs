//! Which cells of (mode × policy × end × what struck first × when) were met, and which can be.

use std::collections::BTreeMap;
use std::fmt;

use cohort_backup::{BitmapPolicy, DiskOutcome, DiskPhase, SyncMode};
use cohort_job::Disposition;

use super::round::Strike;

/// How a disk's part in a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It has a new point.
    Committed,
    /// It failed itself.
    Failed,
    /// Its group ended, and what its policy keeps is kept.
    Kept,
    /// Its group ended, and left no trace.
    Discarded,
    /// It was left alone.
    LeftAlone,
    /// The process was killed.
    Killed,
}

impl End {
    pub(super) fn of(outcome: &DiskOutcome) -> Self {
        match outcome {
            DiskOutcome::Committed(_) => Self::Committed,
            DiskOutcome::Failed(_) => Self::Failed,
            DiskOutcome::Aborted { disposition, .. } => match disposition {
                Disposition::Keep => Self::Kept,
                Disposition::Discard => Self::Discarded,
            },
            DiskOutcome::Refused(_) | DiskOutcome::NotStarted(_) | DiskOutcome::InDoubt(_) => {
                Self::LeftAlone
            }
        }
    }
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    mode: u8,
    policy: u8,
    end: End,
    struck: Option<(Strike, u8)>,
}

const MODES: [SyncMode; 4] = [
    SyncMode::Full,
    SyncMode::Top,
    SyncMode::Incremental,
    SyncMode::Bitmap,
];
const POLICIES: [BitmapPolicy; 4] = [
    BitmapPolicy::OnSuccess,
    BitmapPolicy::Always,
    BitmapPolicy::Ask,
    BitmapPolicy::Never,
];
const STRIKES: [Strike; 9] = [
    Strike::Read,
    Strike::Save,
    Strike::Sync,
    Strike::Write,
    Strike::Stall,
    Strike::Cancel,
    Strike::Discard,
    Strike::Hurry,
    Strike::Kill,
];
/// Before there is a job, and what a job may be doing.
const PHASES: [Option<DiskPhase>; 7] = [
    None,
    Some(DiskPhase::Queued),
    Some(DiskPhase::Scanning),
    Some(DiskPhase::Copying),
    Some(DiskPhase::Sealing),
    Some(DiskPhase::Waiting),
    Some(DiskPhase::Ended),
];

/// The cells that were met, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cells(BTreeMap<Cell, u64>);

impl Cells {
    pub(super) fn meet(
        &mut self,
        mode: SyncMode,
        policy: BitmapPolicy,
        end: End,
        struck: Option<(Strike, Option<DiskPhase>)>,
    ) {
        let at = |found: Option<usize>| found.map_or(u8::MAX, |at| at as u8);
        let cell = Cell {
            mode: at(MODES.iter().position(|other| *other == mode)),
            policy: at(POLICIES.iter().position(|other| *other == policy)),
            end,
            struck: struck.map(|(strike, phase)| {
                (strike, at(PHASES.iter().position(|other| *other == phase)))
            }),
        };
        *self.0.entry(cell).or_insert(0) += 1;
    }

    /// Joins those of another run.
    pub fn add(&mut self, other: &Self) {
        for (cell, count) in &other.0 {
            *self.0.entry(*cell).or_insert(0) += count;
        }
    }

    /// How many different ones were met.
    #[must_use]
    pub fn met(&self) -> usize {
        self.0.len()
    }

    /// How often disks ended so.
    #[must_use]
    pub fn ended(&self, end: End) -> u64 {
        let of_end = self.0.iter().filter(|(cell, _)| cell.end == end);
        of_end.map(|(_, count)| count).sum()
    }

    /// Mode, policy and what struck: none of whose cells was met.
    fn never(&self) -> Vec<(SyncMode, BitmapPolicy, Strike, Vec<&'static str>)> {
        let mut never = Vec::new();
        for (mode, policy) in pairs() {
            for strike in STRIKES {
                let missing = (1..PHASES.len()).filter(|&phase| possible(strike, phase));
                let missing = missing.filter(|&phase| {
                    !self.0.keys().any(|cell| {
                        MODES[cell.mode as usize] == mode
                            && POLICIES[cell.policy as usize] == policy
                            && cell.struck == Some((strike, phase as u8))
                    })
                });
                let missing: Vec<_> = missing.map(|phase| word(PHASES[phase])).collect();
                if !missing.is_empty() {
                    never.push((mode, policy, strike, missing));
                }
            }
        }
        never
    }
}

/// What goes together.
fn pairs() -> impl Iterator<Item = (SyncMode, BitmapPolicy)> {
    let all = MODES
        .iter()
        .flat_map(|mode| POLICIES.iter().map(|policy| (*mode, *policy)));
    all.filter(|(mode, policy)| match mode {
        SyncMode::Full | SyncMode::Top => *policy != BitmapPolicy::Never,
        SyncMode::Incremental => *policy == BitmapPolicy::OnSuccess,
        SyncMode::Bitmap => true,
        // It makes no point that could be compared with anything.
        SyncMode::None => false,
    })
}

/// Whether that can strike a disk which does this: an error has its place, what people do has none.
fn possible(strike: Strike, phase: usize) -> bool {
    let Some(phase) = PHASES[phase] else {
        return false;
    };
    use DiskPhase::{Copying, Ended, Queued, Scanning, Sealing, Waiting};
    match strike {
        Strike::Read => matches!(phase, Scanning | Copying),
        Strike::Save | Strike::Stall => matches!(phase, Copying | Sealing),
        Strike::Sync => matches!(phase, Copying | Sealing),
        Strike::Write => matches!(phase, Copying | Sealing | Waiting | Ended),
        // The verdict is there.
        Strike::Cancel | Strike::Discard => {
            matches!(phase, Scanning | Copying | Sealing | Waiting)
        }
        Strike::Hurry | Strike::Kill => {
            matches!(
                phase,
                Queued | Scanning | Copying | Sealing | Waiting | Ended
            )
        }
    }
}

fn word(phase: Option<DiskPhase>) -> &'static str {
    match phase {
        None => "before the start",
        Some(DiskPhase::Queued) => "queued",
        Some(DiskPhase::Scanning) => "scanning",
        Some(DiskPhase::Copying) => "copying",
        Some(DiskPhase::Sealing) => "sealing",
        Some(DiskPhase::Waiting) => "waiting for peers",
        Some(DiskPhase::Ended) => "ended",
    }
}

impl fmt::Display for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cells met: {}", self.met())?;
        for (mode, policy, strike, phases) in self.never() {
            writeln!(
                f,
                "  never met: {mode}, {policy}, {strike:?} while {}",
                phases.join(", ")
            )?;
        }
        Ok(())
    }
}
