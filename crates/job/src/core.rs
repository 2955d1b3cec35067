//! The pure core of one transaction: a request or an event in, actions out.
//!
//! It has no thread, clock, I/O or hash order, so the same calls give the same actions in the same
//! order. Users come in through [`Core::apply`], which may refuse and then changed nothing; workers
//! through [`Core::handle`], which may not refuse. What is said of single members is settled here; what
//! follows for the group, in `txn.rs`.

use std::ops::Range;

use crate::emit::Emit;
use crate::error::Error;
use crate::event::Spec;
pub use crate::event::{Action, Event, Notice, Order, Report, Request};
use crate::job::{Doing, Job};
use crate::outcome::{Asked, Cause, Disposition, Phase, Verdict};
use crate::refused::Refused;
use crate::status::{Status, Verb};
use crate::txn::{Pass, Txn};

/// How many members one turn visits at most: some microseconds, so that no verb waits longer for a lock.
const TURN: u32 = 1024;

/// One transaction and its members. A lone job is a transaction of one.
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
    #[must_use]
    pub fn with_turn(turn: u32) -> Self {
        Self {
            txn: Txn::new(turn),
        }
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

    // Requests: every check first, in the order of the reference, then the change.

    fn add(&mut self, count: u32, spec: Spec, out: &mut Vec<Action>) -> Result<(), Refused> {
        if self.txn.sealed {
            return Err(Refused::Sealed);
        }
        self.txn.len().checked_add(count).ok_or(Refused::Full)?;
        self.txn.manual |= spec.manual_finalize && count > 0;
        self.txn.jobs.reserve(count as usize);
        for _ in 0..count {
            self.txn.add(Job::new(spec), out);
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Refused> {
        if self.txn.sealed {
            return Err(Refused::Sealed);
        }
        self.txn.sealed = true;
        Ok(())
    }

    /// A group that was cancelled before has nothing to start: it ends as aborted.
    fn launch(&mut self) {
        if !self.txn.is_stopping() {
            self.txn.begin(Pass::Start);
        }
    }

    fn replay(&mut self, verdict: Verdict) -> Result<(), Refused> {
        if self.txn.is_stopping() {
            return Err(Refused::Cancelled);
        }
        self.seal()?;
        if let Verdict::Abort { cause, disposition } = verdict {
            self.txn.abandon(cause, disposition);
        }
        self.txn.verdict = Some(verdict);
        self.txn.phase = Phase::Deciding;
        self.txn.begin(Pass::Rebuild);
        Ok(())
    }

    fn cancel(
        &mut self,
        member: u32,
        disposition: Disposition,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let status = self.accepts(Verb::Cancel, member)?;
        self.undecided(Verb::Cancel, status)?;
        let soft = disposition == Disposition::Keep && self.txn.job(member).converged;
        if !soft {
            self.txn.abandon(Cause::Cancelled(member), disposition);
        } else if !self.txn.is_stopping() {
            self.txn.shorten(member, out);
        }
        Ok(())
    }

    fn cancel_all(
        &mut self,
        cause: Cause,
        disposition: Disposition,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        if let Some(verdict) = self.txn.verdict {
            return Err(Refused::GroupDecided {
                verdict,
                in_doubt: self.txn.in_doubt,
            });
        }
        // Only a user's word ever means Discard.
        let disposition = if cause == Cause::User {
            disposition
        } else {
            Disposition::Keep
        };
        let soft = disposition == Disposition::Keep
            && self.txn.converged == self.txn.len()
            && self.txn.len() > 0;
        if !soft {
            self.txn.abandon(cause, disposition);
        } else if !self.txn.is_stopping() && !self.txn.short {
            self.txn.short = true;
            out.push(Action::Ask(0..self.txn.len(), Asked::Finish));
            // All converged, so all were started; if a pass is under way, all have returned already.
            if self.txn.pass == Pass::Rest {
                self.txn.begin(Pass::Shorten);
            }
        }
        Ok(())
    }

    fn pause(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        let status = self.accepts(Verb::Pause, member)?;
        self.unstopped(Verb::Pause, status)?;
        let before = self.txn.job(member).holds;
        if before.user {
            return Err(Refused::AlreadyPaused { status });
        }
        self.txn.job_mut(member).holds.user = true;
        if !before.any() {
            self.held(member, out);
        }
        Ok(())
    }

    fn resume(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        let status = self.status(member).ok_or(Refused::Gone)?;
        // The flag first, then the table. A group that stops has dropped every user's hold, even where
        // its pass did not come by yet.
        if !self.txn.job(member).holds.user || self.txn.is_stopping() {
            return Err(Refused::NotPaused { status });
        }
        self.accepts(Verb::Resume, member)?;
        self.txn.job_mut(member).holds.user = false;
        self.txn.released(member, out);
        Ok(())
    }

    fn hold(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        self.status(member).ok_or(Refused::Gone)?;
        let holds = &mut self.txn.job_mut(member).holds;
        let before = *holds;
        holds.internal = holds.internal.checked_add(1).ok_or(Refused::Full)?;
        if !before.any() {
            self.held(member, out);
        }
        Ok(())
    }

    fn release(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        self.status(member).ok_or(Refused::Gone)?;
        let holds = &mut self.txn.job_mut(member).holds;
        holds.internal = holds.internal.checked_sub(1).ok_or(Refused::NotHeld)?;
        self.txn.released(member, out);
        Ok(())
    }

    fn set_speed(
        &mut self,
        member: u32,
        raises: bool,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let status = self.accepts(Verb::SetSpeed, member)?;
        self.unstopped(Verb::SetSpeed, status)?;
        if raises {
            self.txn.wake(member, out);
        }
        Ok(())
    }

    fn complete(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        let status = self.accepts(Verb::Complete, member)?;
        self.unstopped(Verb::Complete, status)?;
        match self.txn.asked(member) {
            Asked::Finish => return Err(Refused::Finishing { status }),
            Asked::Complete => {}
            Asked::Run => {
                self.txn.job_mut(member).asked = Asked::Complete;
                out.push(Action::Ask(member..member + 1, Asked::Complete));
                self.txn.wake(member, out);
            }
        }
        Ok(())
    }

    fn finalize(&mut self, member: u32) -> Result<(), Refused> {
        let status = self.accepts(Verb::Finalize, member)?;
        self.unstopped(Verb::Finalize, status)?;
        if self.txn.phase != Phase::Open || self.txn.finalized {
            return Err(Refused::Finalizing { status });
        }
        self.txn.finalized = true;
        Ok(())
    }

    fn dismiss(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        self.accepts(Verb::Dismiss, member)?;
        self.txn.dismiss(member, out);
        Ok(())
    }

    fn give_up(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        let status = self.status(member).ok_or(Refused::Gone)?;
        if !self.txn.job(member).stuck {
            return Err(Refused::NotStuck { status });
        }
        let order = self.order_of(member);
        let job = self.txn.job_mut(member);
        job.stuck = false;
        job.doing = Doing::Lost;
        let tasks = std::mem::take(&mut job.tasks);
        self.txn.tasks -= u64::from(tasks);
        self.txn.owed = true;
        out.notify(Notice::GivenUp(member));
        let error = Error::new("given up: it was stuck and did not come back");
        if let Some(order) = order {
            // Its worker is lost too: what came after this member in the span is ordered again.
            self.txn.next = member + 1;
            self.txn.hook = 0..0;
            if order != Order::Prepare {
                out.notify(Notice::Owed(member, order, error));
                return Ok(());
            }
        }
        self.txn.fail(member, error, out);
        self.txn.settle(member, out);
        Ok(())
    }

    /// The status of a member that accepts `verb`, by the table.
    fn accepts(&self, verb: Verb, member: u32) -> Result<Status, Refused> {
        let status = self.status(member).ok_or(Refused::Gone)?;
        if !verb.accepted_in().contains(&status) {
            return Err(Refused::Status { verb, status });
        }
        Ok(status)
    }

    fn undecided(&self, verb: Verb, status: Status) -> Result<(), Refused> {
        match self.txn.verdict {
            Some(verdict) => Err(Refused::Decided {
                verb,
                status,
                verdict,
                in_doubt: self.txn.in_doubt,
            }),
            None => Ok(()),
        }
    }

    fn unstopped(&self, verb: Verb, status: Status) -> Result<(), Refused> {
        self.undecided(verb, status)?;
        match self.txn.cause {
            Some(cause) => Err(Refused::Stopping {
                verb,
                status,
                cause,
            }),
            None => Ok(()),
        }
    }

    /// The first hold came: the gate closes, and who is at rest parks.
    fn held(&mut self, member: u32, out: &mut Vec<Action>) {
        if self.txn.is_stopping() || !self.txn.is_gated(member) {
            return;
        }
        out.hold(member);
        self.txn.proceed(member, out);
    }

    // Events.

    fn stepped(&mut self, members: Range<u32>, report: &Report, out: &mut Vec<Action>) {
        for member in members {
            let job = self.txn.job_mut(member);
            if job.is_out() {
                continue;
            }
            assert!(
                job.doing == Doing::Step,
                "member {member} was not ordered to step"
            );
            job.stuck = false;
            job.doing = Doing::Asleep;
            match report {
                Report::Again | Report::Left => job.woken = true,
                Report::Wait | Report::Sleep(_) => {}
                Report::Done => self.returned(member, out),
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
    }

    /// A step said that all is done. From here on it counts as completed, even if tasks still end: a
    /// pause has nothing to hold any more.
    fn returned(&mut self, member: u32, out: &mut Vec<Action>) {
        let job = self.txn.job_mut(member);
        job.doing = Doing::Nothing;
        job.holds.user = false;
        if !self.txn.is_stopping() {
            self.txn.enter(member, Status::Waiting, out);
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
            members.for_each(|member| self.txn.job_mut(member).stuck = false);
            return;
        }
        hook.start = members.end;
        for member in members {
            self.txn.job_mut(member).stuck = false;
            match (report, order) {
                (Report::Done, _) => {}
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
    fn order_of(&self, member: u32) -> Option<Order> {
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
