//! What comes from outside during a run: what the plan brings, and a user who keeps the job going.

use std::sync::Arc;

use super::Rule;
use super::plan::{Disturbance, Plan};
use super::run::Run;
use crate::core::{Event, Request};
use crate::pause::Pass;
use crate::{Asked, Cause, Disposition, Status};

/// A ready driver is let go on for this many steps before it is asked to complete.
const LINGER: usize = 2;

impl Run<'_> {
    /// Does what the plan says, if it is time for it, and asks a ready driver to complete.
    pub(super) fn interfere(&mut self) {
        let Plan {
            me,
            disturbance,
            moment,
            ..
        } = self.plan;
        if !self.injected && disturbance.has_a_moment() && self.moments == moment {
            self.injected = true;
            let peer = self.plan.peer();
            match disturbance {
                // As by a new speed, or a pause that was taken back at once.
                Disturbance::Woken => {
                    self.live.note("it is woken for no reason".into());
                    self.tell([Event::Woken(me)]);
                }
                Disturbance::Pause => self.ask("pause", Request::Pause(me)),
                Disturbance::Cancel(how) => {
                    self.ask(&format!("cancel, {how:?}"), Request::Cancel(me, how));
                }
                Disturbance::CancelPeer(how) => {
                    self.ask(
                        &format!("cancel the peer, {how:?}"),
                        Request::Cancel(peer, how),
                    );
                }
                Disturbance::Shutdown => {
                    let request = Request::CancelAll(Cause::Shutdown, Disposition::Keep);
                    self.ask("shut down", request);
                }
                Disturbance::PeerFails
                | Disturbance::PeerPanics
                | Disturbance::Nothing
                | Disturbance::PeerRefuses
                | Disturbance::PeerPanicsInPrepare
                | Disturbance::NeverLaunched
                | Disturbance::JournalFails
                | Disturbance::Crash => {}
            }
        }
        if self.ready_at.is_some_and(|at| self.steps >= at + LINGER) {
            self.complete();
        }
    }

    fn complete(&mut self) -> bool {
        let me = self.plan.me;
        let can = self.core.status(me) == Some(Status::Ready)
            && self.core.asked(me) == Asked::Run
            && self.core.cause().is_none();
        if can {
            self.ask("complete", Request::Complete(me));
        }
        can
    }

    /// Nothing happens by itself: does what a user would, or finds out who is to blame. False at the end.
    pub(super) fn nudge(&mut self) -> bool {
        let me = self.plan.me;
        let patience = self.check.limits.patience;
        if self.core.in_doubt() {
            return false;
        }
        if matches!(self.core.status(me), Some(Status::Paused | Status::Standby)) {
            self.ask("resume", Request::Resume(me));
            return true;
        }
        if self.plan.disturbance.holds_the_peer() && !self.injected {
            self.injected = true;
            return true;
        }
        if self.tasks.len() > 0 {
            if self.tasks.wait(patience) {
                return true;
            }
            let told = match self.bench.seat().gate.pass() {
                Pass::Run => "",
                Pass::Hold => "its job is paused, and ",
                Pass::Stop => "its job was stopped, and ",
            };
            let count = tasks(self.tasks.len());
            self.halt(
                Rule::TaskBlocks,
                format!("{told}{count} did not return within {patience:?}"),
            );
            return true;
        }
        if self.complete() {
            return true;
        }
        let reason = self.reason;
        // Somebody holds a waker or a token besides us, so somebody may wake it.
        let watched = Arc::strong_count(&self.bench) > 1;
        if watched && self.bench.wait_woken(patience) {
            return true;
        }
        let what = if watched {
            format!("it {reason}, and nobody woke it for {patience:?}")
        } else {
            format!("it {reason}, without a task in flight, and nobody holds its waker")
        };
        self.halt(Rule::WaitsForNothing, what);
        true
    }
}

/// So many tasks, in words.
pub(super) fn tasks(count: usize) -> String {
    match count {
        1 => "1 task".into(),
        _ => format!("{count} tasks"),
    }
}
