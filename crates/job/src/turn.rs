//! What of a group only changes under its lock: the core, and what the shell keeps beside it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::core::{Action, Core, Notice};
use crate::future::Wakers;
use crate::journal::Entry;
use crate::members::Members;
use crate::names::Names;
use crate::{Error, Outcome};

/// What only changes under the lock.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) core: Core,
    pub(crate) names: Names,
    /// The members until the launch.
    pub(crate) open: Members,
    /// The verdict was read from the journal at start.
    pub(crate) replayed: bool,
    /// What the journal was given of its members, or gave: to be told what is done.
    pub(crate) records: Vec<Entry>,
    /// Some driver has no clean hook, at whose end it would be dropped.
    pub(crate) keeps_drivers: bool,
    /// Some driver could not be built again: the journal must keep what it knows.
    pub(crate) incomplete: bool,
    /// How members ended, by span: the core forgets those who are dismissed, handles do not.
    outcomes: Vec<(Range<u32>, Outcome)>,
    /// Every hook returned, the journal was told, and every driver is gone.
    pub(crate) over: bool,
    pub(crate) waiters: u32,
    /// Futures that wait for the end.
    pub(crate) wakers: Wakers,
    /// Why drivers paused their own jobs.
    pub(crate) paused_themselves: BTreeMap<u32, Error>,
    /// Kept between turns, so that they need no memory of their own.
    pub(crate) actions: Vec<Action>,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self {
            core: Core::new(),
            names: Names::default(),
            open: Members::default(),
            replayed: false,
            records: Vec::new(),
            keeps_drivers: false,
            incomplete: false,
            outcomes: Vec::new(),
            over: false,
            waiters: 0,
            wakers: Wakers::default(),
            paused_themselves: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    /// Keeps how members ended, which the core forgets.
    pub(crate) fn remember(&mut self, notice: &Notice) {
        if let Notice::Ended(span, outcome) = notice {
            // In creation order, as all that is said of members: see `Turn::outcome`.
            debug_assert!(
                self.outcomes
                    .last()
                    .is_none_or(|(last, _)| last.end <= span.start)
            );
            self.outcomes.push((span.clone(), outcome.clone()));
        }
    }

    /// Whether nobody need wait any more: it is over, or in doubt, which no waiting changes.
    pub(crate) fn is_settled(&self) -> bool {
        self.over || self.core.in_doubt()
    }

    /// A member's own error, also after it was dismissed.
    pub(crate) fn failure(&self, member: u32) -> Option<Error> {
        let ended = || match self.outcome(member)? {
            Outcome::Failed { error, .. } => Some(error),
            Outcome::Committed { .. } | Outcome::Cancelled { .. } => None,
        };
        self.core.error(member).cloned().or_else(ended)
    }

    /// How a member ended, also after it was dismissed.
    pub(crate) fn outcome(&self, member: u32) -> Option<Outcome> {
        let at = self
            .outcomes
            .partition_point(|(span, _)| span.end <= member);
        let (span, outcome) = self.outcomes.get(at)?;
        span.contains(&member).then(|| outcome.clone())
    }
}
