//! One run, as a list of decisions. Any of them may be left out and what remains is still a run: that is
//! what lets a failing one be shrunk. What no decision says is done well: drivers return after a
//! millisecond, hooks succeed, the journal writes.

use std::fmt;

use cohort_job::core::{Order, Request};
use cohort_job::{Phase, Spec, Status};

/// Virtual time since the run began, in microseconds.
pub type Micros = u64;

/// A step, hook or task that takes this long does not come back.
pub const NEVER: u32 = u32::MAX;

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// In no particular order.
    pub decisions: Vec<Decision>,
}

/// One thing that was decided before the run. Members are told by a number of their own, not by their place,
/// so that leaving one out does not rename the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// How the shell treats this group.
    Shell {
        /// Which group.
        group: u32,
        /// How.
        shell: ShellSpec,
    },
    /// A member is added.
    Member {
        /// To which group.
        group: u32,
        /// Its number.
        member: u32,
        /// When.
        at: Micros,
        /// How.
        spec: MemberSpec,
    },
    /// The next step of a member's driver.
    Act {
        /// Which group.
        group: u32,
        /// Which member.
        member: u32,
        /// What it does.
        act: Act,
    },
    /// The next call of one of a member's hooks.
    Hook {
        /// Which group.
        group: u32,
        /// Which member.
        member: u32,
        /// Which hook.
        order: Order,
        /// What it does.
        act: HookAct,
    },
    /// Somebody says something.
    Say {
        /// To which group.
        group: u32,
        /// When.
        when: When,
        /// What.
        what: What,
    },
    /// From this moment on no verdict is known to be written.
    JournalFails {
        /// The moment.
        at: Micros,
        /// What is not known: whether it was.
        written: bool,
    },
    /// The engine is shut down.
    Shutdown {
        /// When.
        at: Micros,
    },
    /// The process is killed, and started again.
    Kill {
        /// When.
        at: Micros,
        /// Whether verdicts that are just being written are found at the start.
        written: bool,
    },
}

/// How the shell treats a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShellSpec {
    /// Members a turn visits.
    pub turn: u32,
    /// Hooks a worker calls before it gives the rest back.
    pub slice: u32,
    /// From an order to its worker, and from one turn to the next, in microseconds.
    pub lag: u32,
    /// The journal's time for one verdict, in microseconds.
    pub journal: u32,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberSpec {
    /// What the core is told.
    pub spec: Spec,
    /// Its driver converges, and then works on until it is asked to complete or finish.
    pub converges: bool,
    /// Its prepare leaves a record.
    pub record: bool,
}

/// One step of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    /// Microseconds, or [`NEVER`].
    pub takes: u32,
    /// Tasks it sets going.
    pub tasks: u32,
    /// What each of them takes, in microseconds, or [`NEVER`].
    pub task_takes: u32,
    /// The last of them panics.
    pub task_panics: bool,
    /// It says that it converged.
    pub ready: bool,
    /// A waker fires while it runs.
    pub woken: bool,
    /// How it returns.
    pub end: End,
}

/// How a step returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// More to do; the worker goes on if the gate lets it, and the core is not told.
    Again,
    /// More to do, and the core is told.
    Yields,
    /// To be woken after so many microseconds.
    Sleeps(u32),
    /// To be woken by something.
    Waits,
    /// Well.
    Done,
    /// With an error.
    Fails,
    /// By a panic.
    Panics,
}

/// One call of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookAct {
    /// Microseconds, or [`NEVER`].
    pub takes: u32,
    /// Tasks it sets going, if it is prepare; each takes as long as the hook.
    pub tasks: u32,
    /// How it returns.
    pub end: HookEnd,
}

/// How a hook returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEnd {
    /// Well.
    Well,
    /// With an error, if it is prepare; else by a panic.
    Fails,
    /// By a panic.
    Panics,
}

/// When something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At this moment.
    At(Micros),
    /// So many microseconds after the group entered this phase.
    Phase(Phase, u32),
    /// So many microseconds after this member entered this status.
    Status(u32, Status, u32),
    /// So many microseconds after its process was started again.
    Again(u32),
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A request. Its member is told by its number; one that was never added is a stale id.
    Ask(Request),
    /// A waker of this member fires, perhaps without need.
    Wake(u32),
}

impl Default for ShellSpec {
    fn default() -> Self {
        Self {
            turn: 1024,
            slice: u32::MAX,
            lag: 1,
            journal: 100,
        }
    }
}

impl Act {
    /// A millisecond, and then this.
    pub fn plain(end: End) -> Self {
        Self {
            takes: 1_000,
            tasks: 0,
            task_takes: 0,
            task_panics: false,
            ready: false,
            woken: false,
            end,
        }
    }
}

impl Default for HookAct {
    fn default() -> Self {
        Self {
            takes: 100,
            tasks: 0,
            end: HookEnd::Well,
        }
    }
}

impl Decision {
    /// Whose decision it is; none if everybody's.
    pub fn group(&self) -> Option<u32> {
        match *self {
            Self::Shell { group, .. }
            | Self::Member { group, .. }
            | Self::Act { group, .. }
            | Self::Hook { group, .. }
            | Self::Say { group, .. } => Some(group),
            Self::JournalFails { .. } | Self::Shutdown { .. } | Self::Kill { .. } => None,
        }
    }

    /// Which member of its group it is about, if one.
    pub fn member(&self) -> Option<u32> {
        match self {
            Self::Member { member, .. } | Self::Act { member, .. } | Self::Hook { member, .. } => {
                Some(*member)
            }
            Self::Say { what, .. } => match what {
                What::Ask(request) => member_of(request),
                What::Wake(member) => Some(*member),
            },
            Self::Shell { .. }
            | Self::JournalFails { .. }
            | Self::Shutdown { .. }
            | Self::Kill { .. } => None,
        }
    }
}

impl Script {
    /// Only what concerns one group.
    #[must_use]
    pub fn of_group(&self, group: u32) -> Self {
        let concerns = |decision: &&Decision| decision.group().is_none_or(|of| of == group);
        Self {
            decisions: self.decisions.iter().filter(concerns).cloned().collect(),
        }
    }
}

/// The member a request is about, if one.
pub(crate) fn member_of(request: &Request) -> Option<u32> {
    match *request {
        Request::Add { .. }
        | Request::Launch
        | Request::Rollback
        | Request::Replay(_)
        | Request::CancelAll(..) => None,
        Request::Cancel(member, _)
        | Request::Pause(member)
        | Request::Resume(member)
        | Request::Hold(member)
        | Request::Release(member)
        | Request::SetSpeed { member, .. }
        | Request::Complete(member)
        | Request::Finalize(member)
        | Request::Dismiss(member)
        | Request::GiveUp(member) => Some(member),
    }
}

/// The same request about another member.
pub(crate) fn about(request: &Request, to: u32) -> Request {
    match *request {
        Request::Add { .. }
        | Request::Launch
        | Request::Rollback
        | Request::Replay(_)
        | Request::CancelAll(..) => request.clone(),
        Request::Cancel(_, how) => Request::Cancel(to, how),
        Request::Pause(_) => Request::Pause(to),
        Request::Resume(_) => Request::Resume(to),
        Request::Hold(_) => Request::Hold(to),
        Request::Release(_) => Request::Release(to),
        Request::SetSpeed { raises, .. } => Request::SetSpeed { member: to, raises },
        Request::Complete(_) => Request::Complete(to),
        Request::Finalize(_) => Request::Finalize(to),
        Request::Dismiss(_) => Request::Dismiss(to),
        Request::GiveUp(_) => Request::GiveUp(to),
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell { group, shell } => write!(
                f,
                "group {group}: turns of {}, hooks by {}, lag {} µs, journal {} µs",
                shell.turn, shell.slice, shell.lag, shell.journal
            ),
            Self::Member {
                group,
                member,
                at,
                spec,
            } => {
                let add = Request::Add {
                    count: 1,
                    spec: spec.spec,
                };
                write!(f, "group {group}: at {at} µs member {member}: {add}")?;
                f.write_str(if spec.converges { ", converges" } else { "" })?;
                f.write_str(if spec.record { "" } else { ", no record" })
            }
            Self::Act { group, member, act } => write!(f, "group {group}: step of {member}: {act}"),
            Self::Hook {
                group,
                member,
                order,
                act,
            } => write!(
                f,
                "group {group}: {order} of {member}: {}, {} tasks, {:?}",
                Takes(act.takes),
                act.tasks,
                act.end
            ),
            Self::Say { group, when, what } => {
                write!(f, "group {group}: {when}: ")?;
                match what {
                    What::Ask(request) => write!(f, "{request}"),
                    What::Wake(member) => write!(f, "a waker of {member} fires"),
                }
            }
            Self::JournalFails { at, written } => {
                let word = if *written { "" } else { " not" };
                write!(f, "at {at} µs the journal fails; it was{word} written")
            }
            Self::Shutdown { at } => write!(f, "at {at} µs shutdown"),
            Self::Kill { at, written } => {
                let word = if *written { "" } else { " not" };
                write!(
                    f,
                    "at {at} µs killed; what was being written is{word} found"
                )
            }
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => write!(f, "at {at} µs"),
            Self::Phase(phase, delay) => write!(f, "{delay} µs after {phase:?}"),
            Self::Status(member, status, delay) => {
                write!(f, "{delay} µs after {member} is {status}")
            }
            Self::Again(delay) => write!(f, "{delay} µs after the next start"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:?}", Takes(self.takes), self.end)?;
        if self.tasks > 0 {
            write!(f, ", {} tasks of {}", self.tasks, Takes(self.task_takes))?;
        }
        let words = [
            (self.task_panics && self.tasks > 0, ", the last panics"),
            (self.ready, ", converged"),
            (self.woken, ", woken meanwhile"),
        ];
        words
            .iter()
            .filter(|(so, _)| *so)
            .try_for_each(|(_, word)| f.write_str(word))
    }
}

/// A duration, or that it does not end.
struct Takes(u32);

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NEVER => f.write_str("never returns"),
            time => write!(f, "{time} µs"),
        }
    }
}
