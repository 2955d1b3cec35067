//! Where a job is in its life and what a user may ask of it: two tables, and nothing else.
//!
//! The statuses, their names and the accepted verbs are those of QEMU's `qapi/job.json`, without its
//! `undefined` (no job exists before it is created) and without its silent `aborting` self-edge.

use std::fmt;

use Status::{
    Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Waiting,
};

/// Where a job is in its life.
///
/// ```text
///            launch             ready
///  created ─────────▶ running ────────▶ ready
///     │               │  ▲  │           │ ▲ │
///     │        paused ◀──┘  │   standby ◀─┘ │
///     │                     ├───────────────┤   returned well
///     │                     │               ▼
///     │        failed,      │            waiting ──▶ pending ──┐ commit
///     │        cancelled    ▼               │           │      │
///     └─────────────────▶ aborting ◀────────┴───────────┘      │
///                           │ abort                            ▼
///                           └────────────────────────────▶ concluded ──▶ null
/// ```
///
/// ```
/// use cohort_job::Status;
///
/// let dead_ends = Status::ALL.into_iter().filter(|status| status.leads_to().is_empty());
/// assert_eq!(dead_ends.collect::<Vec<_>>(), [Status::Null]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// Added to a group that was not launched yet.
    Created,
    /// At work.
    Running,
    /// Was running; held, in no step and with no task in flight.
    Paused,
    /// Converged; keeps working until it is told to complete.
    Ready,
    /// Was ready; held, in no step and with no task in flight.
    Standby,
    /// Returned well; waits for its peers.
    Waiting,
    /// All members returned well; to be finalized.
    Pending,
    /// Will not commit; stopped, its group is being undone.
    Aborting,
    /// Over; its result is kept until it is dismissed.
    Concluded,
    /// Dismissed. Announced as the last status, never stored.
    Null,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 10] = [
        Created, Running, Paused, Ready, Standby, Waiting, Pending, Aborting, Concluded, Null,
    ];

    /// Statuses a job may enter next. One row per status.
    #[must_use]
    #[rustfmt::skip]
    pub const fn leads_to(self) -> &'static [Self] {
        match self {
            Created   => &[Running, Aborting, Null],
            Running   => &[Paused, Ready, Waiting, Aborting],
            Paused    => &[Running],
            Ready     => &[Standby, Waiting, Aborting],
            Standby   => &[Ready],
            Waiting   => &[Pending, Aborting],
            Pending   => &[Aborting, Concluded],
            Aborting  => &[Concluded],
            Concluded => &[Null],
            Null      => &[],
        }
    }

    /// The word used in messages and on the wire.
    #[must_use]
    #[rustfmt::skip]
    pub const fn as_str(self) -> &'static str {
        match self {
            Created   => "created",
            Running   => "running",
            Paused    => "paused",
            Ready     => "ready",
            Standby   => "standby",
            Waiting   => "waiting",
            Pending   => "pending",
            Aborting  => "aborting",
            Concluded => "concluded",
            Null      => "null",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a user may ask of a job.
///
/// ```
/// use cohort_job::{Status, Verb};
///
/// let for_the_dead = Verb::ALL.into_iter().filter(|verb| verb.accepted_in().contains(&Status::Concluded));
/// assert_eq!(for_the_dead.collect::<Vec<_>>(), [Verb::Dismiss]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verb {
    /// End early: settle by policy (soft) or leave no trace (forced).
    Cancel,
    /// Hold the job at its next pause point.
    Pause,
    /// Take the user's hold back.
    Resume,
    /// Change the speed limit.
    SetSpeed,
    /// End a ready job well.
    Complete,
    /// Prepare, then commit or abort the whole group.
    Finalize,
    /// Forget a concluded job.
    Dismiss,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] = [
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::SetSpeed,
        Self::Complete,
        Self::Finalize,
        Self::Dismiss,
    ];

    /// Statuses in which a job accepts this verb.
    #[must_use]
    #[rustfmt::skip]
    pub const fn accepted_in(self) -> &'static [Status] {
        match self {
            // A forced cancel also reaches Aborting, to raise the disposition, until the verdict.
            Self::Cancel   => &[Created, Running, Paused, Ready, Standby, Waiting, Pending, Aborting],
            Self::Pause | Self::Resume | Self::SetSpeed
                           => &[Created, Running, Paused, Ready, Standby],
            Self::Complete => &[Ready, Standby],
            Self::Finalize => &[Pending],
            Self::Dismiss  => &[Concluded],
        }
    }

    /// The word used in messages and on the wire.
    #[must_use]
    #[rustfmt::skip]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel   => "cancel",
            Self::Pause    => "pause",
            Self::Resume   => "resume",
            Self::SetSpeed => "set-speed",
            Self::Complete => "complete",
            Self::Finalize => "finalize",
            Self::Dismiss  => "dismiss",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The second telling of both tables: a reviewer reads the drawings, the compiler the matches.
    // Columns are the statuses in the order of `Status::ALL`, by their first letters.
    const LEADS_TO: &str = "
                  cr ru pa re st wa pe ab co nu
        created   .  x  .  .  .  .  .  x  .  x
        running   .  .  x  x  .  x  .  x  .  .
        paused    .  x  .  .  .  .  .  .  .  .
        ready     .  .  .  .  x  x  .  x  .  .
        standby   .  .  .  x  .  .  .  .  .  .
        waiting   .  .  .  .  .  .  x  x  .  .
        pending   .  .  .  .  .  .  .  x  x  .
        aborting  .  .  .  .  .  .  .  .  x  .
        concluded .  .  .  .  .  .  .  .  .  x
        null      .  .  .  .  .  .  .  .  .  .";

    const ACCEPTED_IN: &str = "
                  cr ru pa re st wa pe ab co nu
        cancel    x  x  x  x  x  x  x  x  .  .
        pause     x  x  x  x  x  .  .  .  .  .
        resume    x  x  x  x  x  .  .  .  .  .
        set-speed x  x  x  x  x  .  .  .  .  .
        complete  .  .  .  x  x  .  .  .  .  .
        finalize  .  .  .  .  .  .  x  .  .  .
        dismiss   .  .  .  .  .  .  .  .  x  .";

    /// Rows of a drawing: their names, and ten cells each.
    fn rows(drawing: &str) -> Vec<(&str, Vec<bool>)> {
        let lines = drawing
            .lines()
            .filter(|line| !line.trim().is_empty())
            .skip(1);
        lines
            .map(|line| {
                let mut words = line.split_whitespace();
                let name = words.next().expect("a row has a name");
                (name, words.map(|cell| cell == "x").collect())
            })
            .collect()
    }

    #[test]
    fn every_edge_is_as_drawn() {
        let rows = rows(LEADS_TO);
        assert_eq!(rows.len(), Status::ALL.len());
        for (from, (name, cells)) in Status::ALL.into_iter().zip(rows) {
            assert_eq!((from.as_str(), cells.len()), (name, 10));
            for (to, cell) in Status::ALL.into_iter().zip(cells) {
                assert_eq!(from.leads_to().contains(&to), cell, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn every_verb_is_accepted_as_drawn() {
        let rows = rows(ACCEPTED_IN);
        assert_eq!(rows.len(), Verb::ALL.len());
        for (verb, (name, cells)) in Verb::ALL.into_iter().zip(rows) {
            assert_eq!((verb.as_str(), cells.len()), (name, 10));
            for (status, cell) in Status::ALL.into_iter().zip(cells) {
                assert_eq!(
                    verb.accepted_in().contains(&status),
                    cell,
                    "{verb} in {status}"
                );
            }
        }
    }

    #[test]
    fn there_are_eighteen_edges_and_every_status_can_be_reached() {
        let edges: usize = Status::ALL
            .iter()
            .map(|status| status.leads_to().len())
            .sum();
        assert_eq!(edges, 18);
        for to in &Status::ALL[1..] {
            assert!(
                Status::ALL.iter().any(|from| from.leads_to().contains(to)),
                "{to}"
            );
        }
    }
}
