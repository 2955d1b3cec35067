//! One member's record: small, since there may be hundreds of thousands. What is rare (errors) or the
//! same for all (cause, disposition, verdict) lives in the group.

use crate::event::{Hooks, Spec};
use crate::outcome::Asked;
use crate::status::Status;

/// What a member does that its status does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Doing {
    /// Nothing, and no wake changes that: not started, parked, or finished.
    Nothing,
    /// A step is ordered and was not reported.
    Step,
    /// Between steps, until it is woken.
    Asleep,
    /// Given up while stuck: whatever its worker says is ignored.
    Lost,
    /// Dismissed.
    Gone,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub(crate) status: Status,
    pub(crate) doing: Doing,
    pub(crate) asked: Asked,
    /// Requests to pause, which nest: a user's, at most one by the verb's own rule, and the engine's.
    pub(crate) user_hold: bool,
    pub(crate) holds: u16,
    pub(crate) hooks: Hooks,
    /// Stays concluded until dismissed.
    pub(crate) manual_dismiss: bool,
    /// Was ever running.
    pub(crate) started: bool,
    /// Was ever ready; stays through standby, waiting and pending.
    pub(crate) converged: bool,
    /// Something happened that the next step must see.
    pub(crate) woken: bool,
    /// Its step, hook or tasks were reported not to come back.
    pub(crate) stuck: bool,
    /// Tasks in flight.
    pub(crate) tasks: u32,
}

impl Job {
    pub(crate) fn new(spec: Spec) -> Self {
        Self {
            status: Status::Created,
            doing: Doing::Nothing,
            asked: Asked::Run,
            user_hold: false,
            holds: 0,
            hooks: spec.hooks,
            manual_dismiss: spec.manual_dismiss,
            started: false,
            converged: false,
            woken: false,
            stuck: false,
            tasks: 0,
        }
    }

    /// Enters a status; only [`Txn::enter_all`](crate::txn::Txn::enter_all) knows whether it may.
    #[inline]
    pub(crate) fn enter(&mut self, to: Status) {
        match to {
            // Announced, never stored.
            Status::Null => self.doing = Doing::Gone,
            Status::Running => (self.status, self.started) = (to, true),
            Status::Created
            | Status::Paused
            | Status::Ready
            | Status::Standby
            | Status::Waiting
            | Status::Pending
            | Status::Aborting
            | Status::Concluded => self.status = to,
        }
    }

    /// Its step was reported; what it does now.
    #[inline]
    pub(crate) fn leave_step(&mut self, doing: Doing) {
        assert!(
            self.doing == Doing::Step,
            "{self:?} was not ordered to step"
        );
        self.stuck = false;
        self.doing = doing;
    }

    /// Anybody asks it to pause.
    pub(crate) fn is_held(&self) -> bool {
        self.user_hold || self.holds > 0
    }

    /// In no step and with no task in flight. Nothing of it runs, or will without an order.
    pub(crate) fn at_rest(&self) -> bool {
        self.doing != Doing::Step && self.tasks == 0
    }

    /// Nothing that is said of it counts any more.
    pub(crate) fn is_out(&self) -> bool {
        matches!(self.doing, Doing::Lost | Doing::Gone)
    }

    /// Held, with nothing of it running.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.status, Status::Paused | Status::Standby)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_takes_sixteen_bytes() {
        assert!(size_of::<Job>() <= 16, "{}", size_of::<Job>());
    }
}
