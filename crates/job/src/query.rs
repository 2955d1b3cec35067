//! What can be read from a core at any time, without changing it.

use std::hash::{Hash, Hasher};

use crate::core::{Core, Order};
use crate::error::Error;
use crate::job::{Doing, Job};
use crate::outcome::{Asked, Cause, Disposition, Outcome, Phase, Verdict, WaitsFor};
use crate::status::Status;
use crate::txn::Pass;

impl Core {
    /// How many members were added; positions below this are known.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.txn.len()
    }

    /// Whether no member was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.txn.jobs.is_empty()
    }

    /// The group is done and every member dismissed: nothing of it will be asked for again.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.txn.phase == Phase::Done && self.txn.count(Status::Null) == self.txn.len()
    }

    /// Where a member is in its life; `None` if there is no such member, or it was dismissed.
    #[must_use]
    pub fn status(&self, member: u32) -> Option<Status> {
        let job = self.txn.jobs.get(member as usize)?;
        (job.doing != Doing::Gone).then_some(job.status)
    }

    /// How a member ended; `None` until it is concluded, and after it was dismissed.
    #[must_use]
    pub fn outcome(&self, member: u32) -> Option<Outcome> {
        (self.status(member)? == Status::Concluded).then(|| self.txn.outcome(member))?
    }

    /// A member's own error, from the moment it is known.
    #[must_use]
    pub fn error(&self, member: u32) -> Option<&Error> {
        self.txn.errors.get(&member)
    }

    /// Whether any member was ever ready.
    #[must_use]
    pub fn any_has_converged(&self) -> bool {
        self.txn.converged > 0
    }

    /// Where the group is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.txn.phase
    }

    /// Whether its membership is closed.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.txn.sealed
    }

    /// What is decided, as soon as it is fixed; it may still be on its way to the journal.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.txn.verdict
    }

    /// The verdict could not be written down; whether it was is not known before the next start.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.txn.in_doubt
    }

    /// Why the group does not commit, as soon as that is known.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.txn.cause
    }

    /// What an abort means for what was done, so far; final with the verdict.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        self.txn.disposition
    }

    /// Which hook the group's members run now, one after the other.
    #[must_use]
    pub fn hook_under_way(&self) -> Option<Order> {
        match self.txn.pass {
            Pass::Hook(order) => Some(order),
            Pass::Rest
            | Pass::Start
            | Pass::Shorten
            | Pass::Pend
            | Pass::Stop
            | Pass::Rebuild
            | Pass::Conclude => None,
        }
    }

    /// What a member is asked to do.
    ///
    /// # Panics
    /// If there is no such member; so for the following.
    #[must_use]
    pub fn asked(&self, member: u32) -> Asked {
        self.txn.asked(member)
    }

    /// Whether a member that commits does so without the switch-over. Final with the verdict.
    #[must_use]
    pub fn short(&self, member: u32) -> bool {
        self.txn.asked(member) == Asked::Finish
    }

    /// Whether a member was ever ready.
    ///
    /// ```
    /// use cohort_job::core::{Core, Event, Request};
    /// use cohort_job::{Disposition, Spec};
    ///
    /// let (mut core, mut out) = (Core::new(), Vec::new());
    /// core.apply(Request::Add { count: 1, spec: Spec::default() }, &mut out)?;
    /// core.apply(Request::Launch, &mut out)?;
    /// core.handle(Event::Ready(0), &mut out);
    /// core.apply(Request::Pause(0), &mut out)?;
    /// assert!(core.has_converged(0) && core.is_paused_by_user(0));
    ///
    /// // A soft cancel takes the pause back, and has it finish without its switch-over.
    /// core.apply(Request::Cancel(0, Disposition::Keep), &mut out)?;
    /// assert!(core.short(0) && !core.is_paused_by_user(0));
    /// # Ok::<(), cohort_job::Refused>(())
    /// ```
    #[must_use]
    pub fn has_converged(&self, member: u32) -> bool {
        self.txn.job(member).converged
    }

    /// Whether the user's hold is on a member.
    #[must_use]
    pub fn is_paused_by_user(&self, member: u32) -> bool {
        self.txn.job(member).user_hold && !self.txn.is_stopping()
    }

    /// Whether any hold is on a member: the user's, or one of the engine's.
    #[must_use]
    pub fn is_held(&self, member: u32) -> bool {
        self.txn.job(member).is_held() && !self.txn.is_stopping()
    }

    /// Feeds `state` with what the future of this core depends on. Left out is what it only reports (which
    /// cause, which error) and what no longer matters (holds of a member that returned): two cores that
    /// agree in the rest accept the same requests and answer the same events with the same kinds of
    /// actions. For explorers, which need not walk both.
    pub fn hash_future<H: Hasher>(&self, state: &mut H) {
        let txn = &self.txn;
        let stopping = txn.cause.is_some();
        (txn.phase, txn.pass, txn.next, &txn.hook).hash(state);
        (
            txn.sealed,
            txn.finalized,
            txn.short,
            stopping,
            txn.disposition,
        )
            .hash(state);
        (
            txn.verdict.is_some(),
            txn.in_doubt,
            txn.owed,
            txn.continuing,
        )
            .hash(state);
        for job in &txn.jobs {
            (job.status, job.doing, job.stuck, job.tasks).hash(state);
            if stopping {
                continue;
            }
            (job.asked, job.converged).hash(state);
            if job.status < Status::Waiting {
                (job.holds, job.woken).hash(state);
            }
        }
    }

    /// What a member waits for; `None` if there is no such member, or it was dismissed.
    #[must_use]
    pub fn waits_for(&self, member: u32) -> Option<WaitsFor> {
        let status = self.status(member)?;
        let job = self.txn.job(member);
        if job.stuck {
            return Some(WaitsFor::Stuck(member));
        }
        Some(match status {
            _ if self.txn.in_doubt => WaitsFor::InDoubt,
            Status::Created if !self.txn.sealed => WaitsFor::Launch,
            Status::Created => WaitsFor::Turn,
            Status::Running | Status::Ready => match job.doing {
                Doing::Step => WaitsFor::Step,
                _ if job.tasks > 0 && (job.is_held() || self.txn.is_stopping()) => {
                    WaitsFor::Tasks(job.tasks)
                }
                Doing::Asleep if !self.txn.is_stopping() => WaitsFor::Driver,
                Doing::Asleep | Doing::Nothing | Doing::Lost | Doing::Gone => WaitsFor::Turn,
            },
            Status::Paused | Status::Standby if self.txn.is_stopping() => WaitsFor::Turn,
            Status::Paused | Status::Standby => WaitsFor::Resume {
                user: job.user_hold,
                internal: job.holds,
            },
            Status::Waiting | Status::Pending | Status::Aborting if job.tasks > 0 => {
                WaitsFor::Tasks(job.tasks)
            }
            Status::Waiting | Status::Pending | Status::Aborting => self.group_waits_for(),
            Status::Concluded => WaitsFor::Dismiss,
            Status::Null => return None,
        })
    }

    /// Whether a member waits for what only a user can say. Not one that is at work on its end, since it was asked for
    /// that, nor while a pass is under way: it may be about to be told.
    pub(crate) fn waits_for_a_user(&self) -> bool {
        let txn = &self.txn;
        if txn.phase != Phase::Open || txn.cause.is_some() || txn.pass != Pass::Rest {
            return false;
        }
        let keeps_up = |job: &Job| job.status == Status::Ready && job.asked == Asked::Run;
        txn.count(Status::Paused) + txn.count(Status::Standby) > 0
            || self.group_is_to_be_finalized()
            || !txn.short && txn.count(Status::Ready) > 0 && txn.jobs.iter().any(keeps_up)
    }

    fn group_is_to_be_finalized(&self) -> bool {
        let txn = &self.txn;
        txn.sealed && txn.tasks == 0 && txn.all_are(Status::Pending)
    }

    /// What the group as a whole waits for.
    #[must_use]
    pub fn group_waits_for(&self) -> WaitsFor {
        let txn = &self.txn;
        if txn.in_doubt {
            return WaitsFor::InDoubt;
        }
        if !txn.hook.is_empty() {
            let member = txn.hook.start;
            return if txn.job(member).stuck {
                WaitsFor::Stuck(member)
            } else {
                WaitsFor::Hook(member)
            };
        }
        if txn.continuing {
            return WaitsFor::Turn;
        }
        match txn.phase {
            Phase::Open if !txn.sealed => WaitsFor::Launch,
            Phase::Open if self.group_is_to_be_finalized() => WaitsFor::Finalize,
            Phase::Stopping if !txn.sealed && txn.count(Status::Aborting) == txn.len() => {
                WaitsFor::Launch
            }
            Phase::Open | Phase::Preparing | Phase::Stopping => self.peers(),
            Phase::Deciding if txn.pass == Pass::Rest => WaitsFor::Journal,
            Phase::Deciding | Phase::Committing | Phase::Aborting => WaitsFor::Turn,
            Phase::Done => WaitsFor::Dismiss,
        }
    }

    /// The members that keep the group from going on. Looks at every member: for answers to people.
    fn peers(&self) -> WaitsFor {
        let blocks = |member: &u32| {
            let job = self.txn.job(*member);
            let arrived = match self.txn.phase {
                Phase::Stopping => job.status == Status::Aborting,
                Phase::Open
                | Phase::Preparing
                | Phase::Deciding
                | Phase::Committing
                | Phase::Aborting
                | Phase::Done => matches!(job.status, Status::Waiting | Status::Pending),
            };
            !arrived || job.tasks > 0
        };
        let mut members = (0..self.txn.len()).filter(blocks);
        match members.next() {
            Some(first) => WaitsFor::Peers {
                first,
                count: 1 + members.count() as u32,
            },
            None => WaitsFor::Turn,
        }
    }
}
