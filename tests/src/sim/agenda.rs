//! The virtual clock: what is due when. Things of one moment come in order of their groups, and within a
//! group in the order in which they were planned, so that no group's life depends on another.

use std::collections::BTreeMap;

use super::cells::Cells;
use super::script::{Micros, What};
use super::seat::Seat;

/// Something to come.
#[derive(Debug)]
pub(crate) enum Due {
    /// A member is added, under its number.
    Add(u32, Box<Seat>),
    /// Somebody says something.
    Say(What),
    /// A worker takes its span; the call it is in returns.
    Begin(u32),
    Returns(u32),
    /// The watch looks at a worker that was in its so many'th call.
    Watch(u32, u32),
    /// A task of a member ends, or panics.
    TaskEnds(u32, bool),
    /// The watch looks at a member's tasks.
    TasksWatched(u32),
    /// A member's alarm rings.
    Alarm(u32),
    /// The journal answers.
    Answer,
    /// The next turn.
    Continue,
    /// Nothing else is planned for this group.
    Mercy,
    /// Everybody's: the engine is shut down; the process is killed.
    Shutdown,
    Kill(bool),
}

/// What groups share: the clock, and what happens to all of them alike.
#[derive(Debug, Default)]
pub(crate) struct Cx {
    pub(crate) now: Micros,
    /// By moment, group, and number within the group.
    pub(crate) agenda: BTreeMap<(Micros, u32, u64), Due>,
    pub(crate) cells: Cells,
    /// From when on the journal fails, and whether what it then says it did not write is there.
    pub(crate) journal_fails: Option<(Micros, bool)>,
    /// What is still to happen to all.
    pub(crate) to_come: u32,
    /// The engine is shutting down.
    pub(crate) closing: bool,
    pub(crate) tracing: bool,
}

/// Stands for everybody on the agenda: comes last of its moment.
pub(crate) const EVERYBODY: u32 = u32::MAX;
