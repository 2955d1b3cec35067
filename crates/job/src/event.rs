//! The whole vocabulary between the core and its shell: requests and events in, actions out.
//!
//! Members are told by their position in creation order. Spans of members are half-open; what is
//! said of a span holds for each of its members, in creation order.

use std::ops::Range;
use std::time::Duration;

use crate::error::Error;
use crate::outcome::{Asked, Cause, Disposition, Outcome, Verdict};
use crate::status::Status;

/// A moment, told as the time since the engine began. The core reads no clock.
///
/// ```
/// use std::time::Duration;
/// use cohort_job::Time;
///
/// assert!(Time(Duration::from_secs(1)) < Time(Duration::from_secs(2)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

/// Which of a driver's optional methods exist. What does not exist is not ordered.
///
/// ```
/// use cohort_job::Hooks;
///
/// let both = Hooks::COMMIT.and(Hooks::CLEAN);
/// assert!(both.has(Hooks::CLEAN) && !both.has(Hooks::ABORT));
/// assert!(Hooks::ALL.has(both) && both.has(Hooks::NONE));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hooks(u8);

impl Hooks {
    /// No hook.
    pub const NONE: Self = Self(0);
    /// The driver can say no at the end, and tell what commit or abort need after a crash.
    pub const PREPARE: Self = Self(1);
    /// The driver makes its work count.
    pub const COMMIT: Self = Self(2);
    /// The driver settles work that does not count.
    pub const ABORT: Self = Self(4);
    /// The driver tidies up, always last.
    pub const CLEAN: Self = Self(8);
    /// Every hook.
    pub const ALL: Self = Self(15);

    /// The hooks of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The hooks that both have.
    pub(crate) const fn in_common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every hook of `other` is here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a member is to be treated; fixed when it is added.
///
/// Example: [`Core`](crate::core::Core). Users have [`JobSpec`](crate::JobSpec).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Spec {
    /// Its group stays pending until a user finalizes any member.
    pub manual_finalize: bool,
    /// It stays concluded until a user dismisses it.
    pub manual_dismiss: bool,
    /// The hooks of its driver.
    pub hooks: Hooks,
}

/// What users, and the engine on its own account, ask of a group. May be refused.
///
/// Example: [`Core`](crate::core::Core).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// Add so many like members at the end of the creation order.
    Add {
        /// How many.
        count: u32,
        /// How each is to be treated.
        spec: Spec,
    },
    /// Seal the membership and start every member.
    Launch,
    /// Seal the membership of a group that will not be launched, and undo it.
    Rollback,
    /// Seal the membership of a group rebuilt after a restart, whose verdict was written before: its
    /// hooks run again, the journal is not asked.
    Replay(Verdict),
    /// Cancel one member: verb `cancel`.
    Cancel(u32, Disposition),
    /// Cancel every member, because of [`Cause::User`] or [`Cause::Shutdown`]. If all have converged
    /// and the disposition is Keep, each finishes without the switch-over.
    CancelAll(Cause, Disposition),
    /// Verb `pause`: the user's hold.
    Pause(u32),
    /// Verb `resume`: take the user's hold back.
    Resume(u32),
    /// A hold of the engine's own: nests, in every status.
    Hold(u32),
    /// Take one of the engine's holds back.
    Release(u32),
    /// Verb `set-speed`. The shell stores the speed if this is accepted.
    SetSpeed {
        /// Which member.
        member: u32,
        /// The new limit is none, or above the old: a sleep that was computed from the old is cut short.
        raises: bool,
    },
    /// Verb `complete`.
    Complete(u32),
    /// Verb `finalize`: told to any pending member, it finalizes the group.
    Finalize(u32),
    /// Verb `dismiss`.
    Dismiss(u32),
    /// Go on without a member that is stuck. Whoever asks has revoked its devices before. From then
    /// on whatever its worker still says about it is ignored.
    GiveUp(u32),
}

/// What a worker is ordered to run, one member after the other.
///
/// Example: [`Core`](crate::core::Core).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// One step.
    Step,
    /// The hook `prepare`.
    Prepare,
    /// The hook `commit`.
    Commit,
    /// The hook `abort`.
    Abort,
    /// The hook `clean`.
    Clean,
}

/// What became of an order. A span has one report; a worker cuts it where reports differ.
///
/// Example: [`Core`](crate::core::Core).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Report {
    /// Step: more to do.
    Again,
    /// Step: nothing to do before this moment.
    Sleep(Time),
    /// Step: nothing to do until a task ends, a waker fires, or what is asked changes.
    Wait,
    /// Step: all is done, and well. Hook: it returned, and well.
    Done,
    /// Step or prepare: it returned an error.
    Failed(Error),
    /// It panicked.
    Panicked(Error),
    /// Given back without having been begun. The worker of a hook span may give back its tail (because
    /// its slice is over, say), and must after `Failed` or `Panicked` in prepare; the worker of a
    /// step span may give back anything.
    Left,
}

/// What happened. Facts, past tense; may not be refused.
///
/// Example: [`Core`](crate::core::Core).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// These members were stepped, prepared, and so on. Hook spans are reported in creation order.
    Ran {
        /// What had been ordered.
        order: Order,
        /// A part of what had been ordered.
        members: Range<u32>,
        /// What became of each of them.
        report: Report,
    },
    /// This member, in a step or hook, sets so many tasks going. Precedes their ends.
    Spawned {
        /// Which member.
        member: u32,
        /// How many.
        tasks: u32,
    },
    /// A task of this member returned.
    TaskEnded(u32),
    /// A task of this member panicked, which is a failure of the member, and the task's end.
    TaskPanicked(u32, Error),
    /// A waker of this member fired, or its time came. May be late or without need.
    Woken(u32),
    /// This member, in a step, converged.
    Ready(u32),
    /// This member's step, hook or tasks do not come back. What came before it in its hook span has
    /// been reported, what comes after it in its step span has been given back. To be told again as long as
    /// it is so: whatever else is reported of the member takes it back.
    Stuck(u32),
    /// The verdict was written; or the write failed, and nobody knows.
    Decided(Result<(), Error>),
    /// The next turn that [`Action::Continue`] asked for.
    Continue,
}

/// What the shell is to do, in this order. Gates, `Ask` and notices change under the lock of the
/// group; the rest is carried out after it.
///
/// Example: [`Core`](crate::core::Core).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Have these members stepped, or their hooks run. There is at most one hook span out at a time.
    Run {
        /// What to run.
        order: Order,
        /// On whom.
        members: Range<u32>,
    },
    /// Their gates: a step or task that looks should pause.
    Hold(Range<u32>),
    /// Their gates: run on.
    Release(Range<u32>),
    /// Their gates: come to an end. Final; no `Hold` or `Release` follows.
    Stop(Range<u32>),
    /// What their drivers are asked for.
    Ask(Range<u32>, Asked),
    /// Send [`Event::Woken`] for each of them at this moment. A wake that comes late is harmless.
    WakeAt(Range<u32>, Time),
    /// Write the verdict and the records of the prepared down; answer with [`Event::Decided`].
    Decide(Verdict),
    /// Tell the subscribers.
    Notify(Notice),
    /// Come back with [`Event::Continue`]: a turn does not visit more than 1,024 members.
    Continue,
    /// The group is done.
    Ended {
        /// A hook panicked or was given up: the journal must not forget this group.
        owed: bool,
    },
}

/// What subscribers learn.
///
/// Example: [`Core`](crate::core::Core).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    /// These members entered this status.
    Status(Range<u32>, Status),
    /// This is how these members ended. Comes before their `concluded`.
    Ended(Range<u32>, Outcome),
    /// This member failed; its group will not commit.
    Failed(u32, Error),
    /// This member does not come back.
    Stuck(u32),
    /// The group goes on without this member.
    GivenUp(u32),
    /// The group's verdict, written down.
    Decided(Verdict),
    /// The verdict could not be written: whether it was is not known before the next start.
    InDoubt(Error),
    /// This hook did not return; it is owed, and will be run again at the next start.
    Owed(u32, Order, Error),
}

impl Notice {
    /// Whom it is about; nobody in particular if about the group.
    pub(crate) fn members(&self) -> Range<u32> {
        match self {
            Self::Status(span, _) | Self::Ended(span, _) => span.clone(),
            Self::Failed(member, _)
            | Self::Stuck(member)
            | Self::GivenUp(member)
            | Self::Owed(member, ..) => *member..member + 1,
            Self::Decided(_) | Self::InDoubt(_) => 0..0,
        }
    }
}
