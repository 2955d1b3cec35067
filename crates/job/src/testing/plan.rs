//! What disturbs a run, and when.

use std::fmt;

use crate::Disposition;

/// What happens to the driver under test, or around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disturbance {
    Nothing,
    Woken,
    Pause,
    Cancel(Disposition),
    CancelPeer(Disposition),
    Shutdown,
    PeerFails,
    PeerPanics,
    PeerRefuses,
    PeerPanicsInPrepare,
    NeverLaunched,
    JournalFails,
    Crash,
}

impl Disturbance {
    pub(crate) const ALL: [Self; 14] = [
        Self::Woken,
        Self::Pause,
        Self::Cancel(Disposition::Keep),
        Self::Cancel(Disposition::Discard),
        Self::CancelPeer(Disposition::Keep),
        Self::CancelPeer(Disposition::Discard),
        Self::Shutdown,
        Self::PeerFails,
        Self::PeerPanics,
        Self::PeerRefuses,
        Self::PeerPanicsInPrepare,
        Self::NeverLaunched,
        Self::JournalFails,
        Self::Crash,
    ];

    /// Whether it may come at any moment of a run.
    pub(crate) fn has_a_moment(self) -> bool {
        match self {
            Self::Woken
            | Self::Pause
            | Self::Cancel(_)
            | Self::CancelPeer(_)
            | Self::Shutdown
            | Self::PeerFails
            | Self::PeerPanics => true,
            Self::Nothing
            | Self::PeerRefuses
            | Self::PeerPanicsInPrepare
            | Self::NeverLaunched
            | Self::JournalFails
            | Self::Crash => false,
        }
    }

    pub(crate) fn needs_rebuild(self) -> bool {
        self == Self::Crash
    }

    /// Whether the peer stays in its step until the moment comes.
    pub(crate) fn holds_the_peer(self) -> bool {
        matches!(self, Self::PeerFails | Self::PeerPanics)
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("undisturbed"),
            Self::Woken => f.write_str("woken for no reason"),
            Self::Pause => f.write_str("paused and resumed"),
            Self::Cancel(disposition) => write!(f, "cancelled ({disposition:?})"),
            Self::CancelPeer(disposition) => write!(f, "with a cancelled peer ({disposition:?})"),
            Self::Shutdown => f.write_str("with an engine that shuts down"),
            Self::PeerFails => f.write_str("with a peer that fails"),
            Self::PeerPanics => f.write_str("with a peer that panics"),
            Self::PeerRefuses => f.write_str("with a peer that refuses to prepare"),
            Self::PeerPanicsInPrepare => f.write_str("with a peer that panics in prepare"),
            Self::NeverLaunched => f.write_str("rolled back before its launch"),
            Self::JournalFails => f.write_str("with a journal that fails"),
            Self::Crash => f.write_str("killed after the verdict, before its commit"),
        }
    }
}

/// One run: which member the driver is, what disturbs it before which event, and where its process is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) me: u32,
    pub(crate) disturbance: Disturbance,
    pub(crate) moment: usize,
    pub(crate) killed: Option<Killed>,
}

/// Where a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Killed {
    /// Before this event; after the last one if there are no more.
    pub(crate) before: usize,
    /// And the next process after so many hooks.
    pub(crate) again_after: Option<usize>,
}

impl Plan {
    pub(crate) fn new(me: u32, disturbance: Disturbance, moment: usize) -> Self {
        Self {
            me,
            disturbance,
            moment,
            killed: None,
        }
    }

    pub(crate) fn killed(self, before: usize, again_after: Option<usize>) -> Self {
        let killed = Killed {
            before,
            again_after,
        };
        Self {
            killed: Some(killed),
            ..self
        }
    }

    pub(crate) fn peer(&self) -> u32 {
        1 - self.me
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.me == 0 { "first" } else { "last" };
        write!(f, "as the {place} of two members, {}", self.disturbance)?;
        if self.disturbance.has_a_moment() {
            write!(f, " before event {}", self.moment + 1)?;
        }
        let Some(killed) = self.killed else {
            return Ok(());
        };
        match killed.before {
            usize::MAX => f.write_str(", then started again")?,
            before => write!(f, ", killed before event {}", before + 1)?,
        }
        match killed.again_after {
            Some(hooks) => write!(f, ", and again after {hooks} of the hooks it owed"),
            None => Ok(()),
        }
    }
}
