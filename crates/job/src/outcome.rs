//! How jobs and groups end: cause, disposition, verdict, outcome, and a group's phases.

use std::fmt;

use crate::error::Error;

/// What becomes of what a job did, when its group does not commit. It only ever rises.
///
/// ```
/// use cohort_job::Disposition::{Discard, Keep};
///
/// assert_eq!(Keep.max(Discard), Discard);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Disposition {
    /// Settle by each job's own policy.
    #[default]
    Keep,
    /// Leave no trace. Only ever a user's word.
    Discard,
}

/// Why a group does not commit. The first cause stays; members are told by creation order.
///
/// One cause serves all members: whoever reads it for member `m` compares. `Failed(m)` and
/// `Cancelled(m)` mean "itself" for `m` and "a peer" for the others.
///
/// Example: [a page about it](crate::guide::cancel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This member failed: in a step, a task, or prepare; by a panic; or given up as stuck.
    Failed(u32),
    /// A user cancelled this member.
    Cancelled(u32),
    /// A user cancelled the group as a whole.
    User,
    /// The group was dropped before its launch.
    Rollback,
    /// The engine shuts down.
    Shutdown,
    /// The process ended before a verdict was written; only ever found at the next start.
    ProcessEnded,
}

/// What is decided for a whole group, once.
///
/// Example: [`TxnHandle`](crate::TxnHandle).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every member commits.
    Commit,
    /// No member commits, and all settle by the same disposition.
    Abort {
        /// The first reason.
        cause: Cause,
        /// The highest disposition asked for before the verdict.
        disposition: Disposition,
    },
}

/// How one job ended. Fixed once the job is concluded.
///
/// ```
/// use cohort_job::{Disposition, Engine, JobSpec, Outcome, Step, from_fn};
///
/// let failed = Engine::new()?.run(JobSpec::new("j"), from_fn(|_| Step::failed("no luck")))?;
/// let told = match failed {
///     Some(Outcome::Committed { short }) => format!("done, switched over: {}", !short),
///     Some(Outcome::Failed { error, disposition: Disposition::Keep }) => format!("{error}, kept"),
///     Some(Outcome::Failed { error, .. }) => format!("{error}, thrown away"),
///     Some(Outcome::Cancelled { cause, .. }) => format!("{cause:?}"),
///     None => "in doubt".into(),
/// };
/// assert_eq!(told, "no luck, kept");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its group committed.
    Committed {
        /// A converging job that was cancelled softly: it finished without the switch-over.
        short: bool,
    },
    /// It failed by itself; this holds even if it was also cancelled.
    Failed {
        /// Its own error.
        error: Error,
        /// How it settled.
        disposition: Disposition,
    },
    /// It did not fail, but was cancelled or a peer took it along.
    Cancelled {
        /// Why its group did not commit.
        cause: Cause,
        /// How it settled.
        disposition: Disposition,
    },
}

/// Where a group is in its life. Nobody goes back; [`Phase::leads_to`] is the law
/// (with an example), and `docs/completion.md` prints it.
///
/// ```text
///  Open ──▶ Preparing ──▶ Deciding ──▶ Committing ──▶ Done
///    │          │            ▲  │                       ▲
///    └──────────┴▶ Stopping ─┘  └───▶ Aborting ─────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Members are added, run, and wait for each other.
    Open,
    /// Every member returned well; each is asked for its last chance to say no.
    Preparing,
    /// The group will not commit; its members come to rest.
    Stopping,
    /// The verdict is fixed and being written down.
    Deciding,
    /// Commit hooks, then clean hooks, then the final notices.
    Committing,
    /// Abort hooks, then clean hooks, then the final notices.
    Aborting,
    /// Every member is concluded.
    Done,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::Preparing,
        Self::Stopping,
        Self::Deciding,
        Self::Committing,
        Self::Aborting,
        Self::Done,
    ];

    /// Phases a group may enter next. One row per phase.
    ///
    /// ```
    /// use cohort_job::Phase;
    ///
    /// // A verdict is fixed in one phase, whatever it is, and nothing leads back.
    /// assert_eq!(Phase::Preparing.leads_to(), [Phase::Stopping, Phase::Deciding]);
    /// assert!(Phase::Deciding.leads_to().iter().all(|next| *next > Phase::Deciding));
    /// ```
    #[must_use]
    #[rustfmt::skip]
    pub const fn leads_to(self) -> &'static [Self] {
        match self {
            // Straight to Deciding: a group whose verdict was written before a restart.
            Self::Open       => &[Self::Preparing, Self::Stopping, Self::Deciding],
            Self::Preparing  => &[Self::Stopping, Self::Deciding],
            Self::Stopping   => &[Self::Deciding],
            Self::Deciding   => &[Self::Committing, Self::Aborting],
            Self::Committing => &[Self::Done],
            Self::Aborting   => &[Self::Done],
            Self::Done       => &[],
        }
    }

    /// Its name in lower case.
    ///
    /// ```
    /// assert_eq!(cohort_job::Phase::Open.to_string(), "open");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Preparing => "preparing",
            Self::Stopping => "stopping",
            Self::Deciding => "deciding",
            Self::Committing => "committing",
            Self::Aborting => "aborting",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a running driver is asked to do.
///
/// Example: [a page about jobs that converge](crate::guide::converging).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Asked {
    /// Work on; if converged, keep up.
    #[default]
    Run,
    /// A ready job: finish, with the switch-over.
    Complete,
    /// A ready job was cancelled softly: finish without the switch-over.
    Finish,
}

/// What a member waits for right now. Nothing waits without saying for what.
///
/// Example: [`Core`](crate::core::Core); for people there is [`JobHandle::why`](crate::JobHandle::why).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitsFor {
    /// The launch of its group (or the end of one that is cancelled already).
    Launch,
    /// A thread for its next step, or the end of the step it is in.
    Step,
    /// This many tasks to end.
    Tasks(u32),
    /// A time, a waker, or a task; the driver gave the reason.
    Driver,
    /// A resume: it is held by the user, by the engine so many times, or both.
    Resume {
        /// Held by the user.
        user: bool,
        /// Holds of the engine.
        internal: u16,
    },
    /// Peers that did not return yet, or that did not come to rest yet.
    Peers {
        /// The first of them, in creation order.
        first: u32,
        /// How many they are.
        count: u32,
    },
    /// A user's finalize.
    Finalize,
    /// A hook, its own or a peer's: this member is in it now.
    Hook(u32),
    /// The group's next turn.
    Turn,
    /// The verdict to be written.
    Journal,
    /// The next start: whether the verdict was written is not known.
    InDoubt,
    /// A step, task or hook of this member, which does not come back.
    Stuck(u32),
    /// A user's dismissal; it is over.
    Dismiss,
}
