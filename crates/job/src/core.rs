//! The pure core of one transaction: a request or an event in, actions out.
//!
//! It has no thread, clock, I/O or hash order, so the same calls give the same actions in the same
//! order. Users come in through [`Core::apply`], which may refuse and then changed nothing; workers
//! through [`Core::handle`], which may not refuse. Requests are judged in `verbs.rs`, events are settled
//! here; what follows for the group is in `converge.rs`.

use std::ops::Range;

use crate::emit::Emit;
use crate::error::Error;
pub use crate::event::{Action, Event, Notice, Order, Report, Request};
use crate::job::{Doing, Job};
use crate::outcome::{Cause, Disposition, Phase};
use crate::refused::Refused;
use crate::status::Status;
use crate::txn::{Pass, Txn};

/// How many members one turn visits at most: some microseconds, so that no verb waits longer for a lock.
const TURN: u32 = 1024;

/// One transaction and its members. A lone job is a transaction of one.
///
/// One member, from its launch to its dismissal, as a shell leads it:
///
/// ```
/// use cohort_job::core::{Action, Core, Event, Order, Report, Request};
/// use cohort_job::{Hooks, Phase, Spec, Status, Verdict, WaitsFor};
///
/// let (mut core, mut out) = (Core::new(), Vec::new());
/// let spec = Spec { hooks: Hooks::COMMIT, ..Spec::default() };
/// core.apply(Request::Add { count: 1, spec }, &mut out)?;
/// assert!(!core.is_sealed() && core.len() == 1);
/// core.apply(Request::Launch, &mut out)?;
/// assert_eq!(out.pop(), Some(Action::Run { order: Order::Step, members: 0..1 }));
/// assert_eq!(core.waits_for(0), Some(WaitsFor::Step));
///
/// // A worker has stepped it.
/// core.handle(Event::Ran { order: Order::Step, members: 0..1, report: Report::Done }, &mut out);
/// assert_eq!(out.pop(), Some(Action::Decide(Verdict::Commit)));
/// assert_eq!((core.verdict(), core.group_waits_for()), (Some(Verdict::Commit), WaitsFor::Journal));
///
/// // The journal has the verdict, so its commit may run.
/// core.handle(Event::Decided(Ok(())), &mut out);
/// assert_eq!((core.phase(), core.hook_under_way()), (Phase::Committing, Some(Order::Commit)));
/// core.handle(Event::Ran { order: Order::Commit, members: 0..1, report: Report::Done }, &mut out);
/// assert_eq!(out.pop(), Some(Action::Ended { owed: false }));
/// assert!(core.is_forgotten() && core.status(0).is_none());
///
/// // A refusal changes nothing.
/// let before = core.clone();
/// assert!(core.apply(Request::Pause(0), &mut out).is_err() && core == before);
/// # Ok::<(), cohort_job::Refused>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Core {
    pub(crate) txn: Txn,
}

impl Default for Core {
    fn default() -> Self {
        Self::new()
    }
}

impl Core {
    /// An open group without members.
    #[must_use]
    pub fn new() -> Self {
        Self::with_turn(TURN)
    }

    /// The same with turns of another size: how an explorer sees what happens between two turns.
    ///
    /// # Panics
    /// If `turn` is 0.
    ///
    /// ```
    /// use cohort_job::core::{Action, Core, Event, Request};
    /// use cohort_job::{Spec, Status};
    ///
    /// let (mut core, mut out) = (Core::with_turn(1), Vec::new());
    /// core.apply(Request::Add { count: 2, spec: Spec::default() }, &mut out)?;
    /// core.apply(Request::Launch, &mut out)?;
    /// // One was started; the other waits for the next turn.
    /// assert_eq!(out.last(), Some(&Action::Continue));
    /// assert_eq!((core.status(0), core.status(1)), (Some(Status::Running), Some(Status::Created)));
    /// core.handle(Event::Continue, &mut out);
    /// assert_eq!(core.status(1), Some(Status::Running));
    /// # Ok::<(), cohort_job::Refused>(())
    /// ```
    #[must_use]
    pub fn with_turn(turn: u32) -> Self {
        Self {
            txn: Txn::new(turn),
        }
    }

    /// Makes room for so many more members, if there is as much memory.
    pub(crate) fn make_room(&mut self, count: usize) {
        // No harm if there is none: it is asked for again when it is needed.
        let _ = self.txn.jobs.try_reserve(count);
    }

    /// A user's request. Appends what is to be done to `out`.
    ///
    /// # Errors
    /// Says why it is refused; then nothing changed and nothing was appended.
    pub fn apply(&mut self, request: Request, out: &mut Vec<Action>) -> Result<(), Refused> {
        match request {
            Request::Add { count, spec } => self.add(count, spec, out),
            Request::Launch => self.seal().map(|()| self.launch()),
            Request::Rollback => self
                .seal()
                .map(|()| self.txn.abandon(Cause::Rollback, Disposition::Keep)),
            Request::Replay(verdict) => self.replay(verdict),
            Request::Cancel(member, disposition) => self.cancel(member, disposition, out),
            Request::CancelAll(cause, disposition) => self.cancel_all(cause, disposition, out),
            Request::Pause(member) => self.pause(member, out),
            Request::Resume(member) => self.resume(member, out),
            Request::Hold(member) => self.hold(member, out),
            Request::Release(member) => self.release(member, out),
            Request::SetSpeed { member, raises } => self.set_speed(member, raises, out),
            Request::Complete(member) => self.complete(member, out),
            Request::Finalize(member) => self.finalize(member),
            Request::Dismiss(member) => self.dismiss(member, out),
            Request::GiveUp(member) => self.give_up(member, out),
        }?;
        self.txn.converge(out);
        Ok(())
    }

    /// What a worker or the journal tells. Appends what is to be done to `out`.
    ///
    /// # Panics
    /// If the event cannot have happened: a report without an order, the end of a task that was not
    /// spawned, a second answer of the journal. That is a mistake of the shell, never a user's.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Ran {
                order: Order::Step,
                members,
                report,
            } => {
                self.stepped(members, &report, out);
            }
            Event::Ran {
                order,
                members,
                report,
            } => self.hooked(order, members, &report, out),
            Event::Spawned { member, tasks } => self.spawned(member, tasks),
            Event::TaskEnded(member) => self.task_ended(member, None, out),
            Event::TaskPanicked(member, error) => self.task_ended(member, Some(error), out),
            Event::Woken(member) => self.txn.wake(member, out),
            Event::Ready(member) => self.ready(member, out),
            Event::Stuck(member) => self.stuck(member, out),
            Event::Decided(result) => self.decided(result, out),
            Event::Continue => {
                assert!(self.txn.continuing, "a turn that was not asked for");
                self.txn.continuing = false;
            }
        }
        self.txn.converge(out);
    }

    fn stepped(&mut self, members: Range<u32>, report: &Report, out: &mut Vec<Action>) {
        let mut rest = members;
        while let Some((run, is_out)) = self.txn.next_run(&mut rest, Job::is_out) {
            if is_out {
                continue;
            }
            if *report == Report::Done {
                self.returned(run, out);
            } else {
                run.for_each(|member| self.came_back(member, report, out));
            }
        }
    }

    /// A step came to anything but its job's good end.
    fn came_back(&mut self, member: u32, report: &Report, out: &mut Vec<Action>) {
        let job = self.txn.job_mut(member);
        job.leave_step(Doing::Asleep);
        match report {
            Report::Again | Report::Left => job.woken = true,
            Report::Wait | Report::Sleep(_) | Report::Done => {}
            Report::Failed(error) | Report::Panicked(error) => {
                job.doing = Doing::Nothing;
                self.txn.fail(member, error.clone(), out);
            }
        }
        self.txn.proceed(member, out);
        if let Report::Sleep(at) = *report
            && self.txn.job(member).doing == Doing::Asleep
            && !self.txn.is_stopping()
        {
            out.wake_at(member, at);
        }
    }

    /// A step said that all is done. From here on it counts as completed, even if tasks still end: a
    /// pause has nothing to hold any more.
    fn returned(&mut self, members: Range<u32>, out: &mut Vec<Action>) {
        for job in self.txn.span_mut(&members) {
            job.leave_step(Doing::Nothing);
            job.user_hold = false;
        }
        if self.txn.is_stopping() {
            self.txn.settle_all(members, out);
        } else {
            self.txn.enter_all(members, Status::Waiting, out);
        }
    }

    fn hooked(
        &mut self,
        order: Order,
        members: Range<u32>,
        report: &Report,
        out: &mut Vec<Action>,
    ) {
        if members.clone().all(|member| self.txn.job(member).is_out()) {
            return;
        }
        // Hooks run one after the other: only the first of those ordered can have been stuck.
        self.txn.job_mut(members.start).stuck = false;
        let hook = &mut self.txn.hook;
        assert!(
            self.txn.pass == Pass::Hook(order)
                && members.start == hook.start
                && members.end <= hook.end
                && !members.is_empty(),
            "{order:?} of {members:?} was not ordered, {hook:?} was"
        );
        if *report == Report::Left {
            assert!(
                members.end == hook.end,
                "only the tail of a span is given back"
            );
            *hook = 0..0;
            self.txn.next = members.start;
            return;
        }
        hook.start = members.end;
        if *report == Report::Done {
            return;
        }
        for member in members {
            match (report, order) {
                (Report::Failed(error) | Report::Panicked(error), Order::Prepare) => {
                    self.txn.fail(member, error.clone(), out);
                }
                (Report::Panicked(error), _) => {
                    self.txn.owed = true;
                    out.notify(Notice::Owed(member, order, error.clone()));
                }
                (
                    Report::Again
                    | Report::Sleep(_)
                    | Report::Wait
                    | Report::Done
                    | Report::Failed(_)
                    | Report::Left,
                    _,
                ) => unreachable!("{report:?} is no report of {order:?}"),
            }
        }
    }

    fn spawned(&mut self, member: u32, tasks: u32) {
        let inside = self.order_of(member) == Some(Order::Prepare);
        let job = self.txn.job_mut(member);
        if job.is_out() {
            return;
        }
        assert!(
            inside || job.doing == Doing::Step,
            "member {member} is in no step"
        );
        job.tasks += tasks;
        self.txn.tasks += u64::from(tasks);
    }

    fn task_ended(&mut self, member: u32, panic: Option<Error>, out: &mut Vec<Action>) {
        let job = self.txn.job_mut(member);
        if job.is_out() {
            return;
        }
        assert!(job.tasks > 0, "member {member} has no task in flight");
        job.tasks -= 1;
        job.stuck = false;
        self.txn.tasks -= 1;
        if let Some(error) = panic {
            self.txn.fail(member, error, out);
        }
        self.txn.wake(member, out);
        self.txn.proceed(member, out);
    }

    fn ready(&mut self, member: u32, out: &mut Vec<Action>) {
        let job = self.txn.job_mut(member);
        // A member told to stop does not converge any more, and nobody converges twice.
        if job.doing != Doing::Step || job.converged || self.txn.is_stopping() {
            return;
        }
        self.txn.job_mut(member).converged = true;
        self.txn.converged += 1;
        self.txn.enter(member, Status::Ready, out);
    }

    fn stuck(&mut self, member: u32, out: &mut Vec<Action>) {
        let hooked = self.order_of(member).is_some();
        let job = self.txn.job_mut(member);
        if job.is_out() || job.stuck || !(hooked || job.doing == Doing::Step || job.tasks > 0) {
            return;
        }
        job.stuck = true;
        out.notify(Notice::Stuck(member));
    }

    fn decided(&mut self, result: Result<(), Error>, out: &mut Vec<Action>) {
        assert!(
            self.txn.phase == Phase::Deciding && self.txn.pass == Pass::Rest && !self.txn.in_doubt,
            "an answer of the journal that was not asked for"
        );
        match result {
            Ok(()) => self.txn.begin_hooks(out),
            // Never retried, never guessed: the next start reads what is there.
            Err(error) => {
                self.txn.in_doubt = true;
                out.notify(Notice::InDoubt(error));
            }
        }
    }

    /// The hook `member` is in now.
    pub(crate) fn order_of(&self, member: u32) -> Option<Order> {
        match self.txn.pass {
            Pass::Hook(order) if self.txn.hook.start == member && !self.txn.hook.is_empty() => {
                Some(order)
            }
            Pass::Hook(_)
            | Pass::Rest
            | Pass::Start
            | Pass::Shorten
            | Pass::Pend
            | Pass::Stop
            | Pass::Rebuild
            | Pass::Conclude => None,
        }
    }
}
