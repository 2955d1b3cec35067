//! What may be asked of a group and its members: each request makes every check first, in the order in which
//! QEMU makes them, and then its change. So a refusal changes nothing.

use crate::core::{Action, Core, Notice, Order};
use crate::emit::{Emit, one};
use crate::error::Error;
use crate::event::Spec;
use crate::job::{Doing, Job};
use crate::outcome::{Asked, Cause, Disposition, Phase, Verdict};
use crate::refused::Refused;
use crate::status::{Status, Verb};
use crate::txn::Pass;

impl Core {
    pub(crate) fn add(
        &mut self,
        count: u32,
        spec: Spec,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        if self.txn.sealed {
            return Err(Refused::Sealed);
        }
        self.txn.len().checked_add(count).ok_or(Refused::Full)?;
        self.txn.manual |= spec.manual_finalize && count > 0;
        self.txn.add(count, &Job::new(spec), out);
        Ok(())
    }

    pub(crate) fn seal(&mut self) -> Result<(), Refused> {
        if self.txn.sealed {
            return Err(Refused::Sealed);
        }
        self.txn.sealed = true;
        Ok(())
    }

    /// A group that was cancelled before has nothing to start: it ends as aborted.
    pub(crate) fn launch(&mut self) {
        if !self.txn.is_stopping() {
            self.txn.begin(Pass::Start);
        }
    }

    pub(crate) fn replay(&mut self, verdict: Verdict) -> Result<(), Refused> {
        if self.txn.is_stopping() {
            return Err(Refused::Cancelled);
        }
        self.seal()?;
        if let Verdict::Abort { cause, disposition } = verdict {
            self.txn.abandon(cause, disposition);
        }
        self.txn.verdict = Some(verdict);
        self.txn.turn_to(Phase::Deciding);
        self.txn.begin(Pass::Rebuild);
        Ok(())
    }

    pub(crate) fn cancel(
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

    pub(crate) fn cancel_all(
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
            && self.txn.len() > 0
            && !(cause == Cause::Shutdown && self.txn.needs_a_word());
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

    pub(crate) fn pause(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        let status = self.accepts(Verb::Pause, member)?;
        self.unstopped(Verb::Pause, status)?;
        let job = self.txn.job_mut(member);
        if job.user_hold {
            return Err(Refused::AlreadyPaused { status });
        }
        let held_before = job.is_held();
        job.user_hold = true;
        if !held_before {
            self.held(member, out);
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        let status = self.status(member).ok_or(Refused::Gone)?;
        // The flag first, then the table. A group that stops has dropped every user's hold.
        if !self.txn.job(member).user_hold || self.txn.is_stopping() {
            return Err(Refused::NotPaused { status });
        }
        self.accepts(Verb::Resume, member)?;
        self.txn.job_mut(member).user_hold = false;
        self.txn.released(member, out);
        Ok(())
    }

    pub(crate) fn hold(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        self.status(member).ok_or(Refused::Gone)?;
        let job = self.txn.job_mut(member);
        let held_before = job.is_held();
        job.holds = job.holds.checked_add(1).ok_or(Refused::Full)?;
        if !held_before {
            self.held(member, out);
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        self.status(member).ok_or(Refused::Gone)?;
        let job = self.txn.job_mut(member);
        job.holds = job.holds.checked_sub(1).ok_or(Refused::NotHeld)?;
        self.txn.released(member, out);
        Ok(())
    }

    pub(crate) fn set_speed(
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

    pub(crate) fn complete(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
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

    pub(crate) fn finalize(&mut self, member: u32) -> Result<(), Refused> {
        let status = self.accepts(Verb::Finalize, member)?;
        self.unstopped(Verb::Finalize, status)?;
        if self.txn.phase != Phase::Open || self.txn.finalized {
            return Err(Refused::Finalizing { status });
        }
        self.txn.finalized = true;
        Ok(())
    }

    pub(crate) fn dismiss(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
        self.accepts(Verb::Dismiss, member)?;
        self.txn.dismiss(one(member), out);
        Ok(())
    }

    pub(crate) fn give_up(&mut self, member: u32, out: &mut Vec<Action>) -> Result<(), Refused> {
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
}
