//! The rules of a group, in one place: what follows once its members are where they are.
//!
//! [`Txn::converge`] runs at the end of every turn. It changes the phase, and carries *passes* on: work that
//! visits every member once, in creation order, a bounded number of them in a turn.

use std::ops::Range;

use crate::emit::Emit;
use crate::event::{Action, Hooks, Notice, Order};
use crate::job::{Doing, Job};
use crate::outcome::{Phase, Verdict};
use crate::status::Status;
use crate::txn::{Pass, Txn};

impl Txn {
    /// The rules of the group: called once at the end of every turn.
    pub(crate) fn converge(&mut self, out: &mut Vec<Action>) {
        // While a `Continue` is on its way the passes wait for it: no turn grows by another's work.
        let mut left = if self.continuing { 0 } else { self.turn };
        loop {
            self.advance_phase();
            if self.is_pass_over() {
                if !self.after_pass(out) {
                    return;
                }
            } else if !self.hook.is_empty() {
                return;
            } else if left > 0 {
                left -= self.visit(left, out);
            } else {
                if !self.continuing {
                    self.continuing = true;
                    out.push(Action::Continue);
                }
                return;
            }
        }
    }

    /// Changes of phase that do not wait for the pass under way.
    fn advance_phase(&mut self) {
        match self.phase {
            // No hook is interrupted: those under way return, then the group stops.
            Phase::Open | Phase::Preparing if self.cause.is_some() && self.hook.is_empty() => {
                self.turn_to(Phase::Stopping);
                self.begin(Pass::Stop);
            }
            Phase::Open
            | Phase::Preparing
            | Phase::Stopping
            | Phase::Deciding
            | Phase::Committing
            | Phase::Aborting
            | Phase::Done => {}
        }
    }

    /// The one place that changes the phase.
    pub(crate) fn turn_to(&mut self, to: Phase) {
        let from = self.phase;
        assert!(from.leads_to().contains(&to), "a group: {from:?} -> {to:?}");
        self.phase = to;
    }

    fn is_pass_over(&self) -> bool {
        self.pass == Pass::Rest || (self.next == self.len() && self.hook.is_empty())
    }

    pub(crate) fn begin(&mut self, pass: Pass) {
        self.pass = pass;
        self.next = 0;
    }

    /// What follows when every member was visited. Says whether anything did.
    fn after_pass(&mut self, out: &mut Vec<Action>) -> bool {
        match self.phase {
            Phase::Open => self.after_open(),
            Phase::Preparing => {
                // Prepare may set tasks going; they belong to it.
                let ready = self.tasks == 0;
                if ready {
                    self.decide(Verdict::Commit, out);
                }
                ready
            }
            Phase::Stopping => {
                let ready = self.sealed && self.all_are(Status::Aborting);
                if ready {
                    let cause = self.cause.expect("a stopping group has a cause");
                    let disposition = self.disposition;
                    self.decide(Verdict::Abort { cause, disposition }, out);
                }
                ready
            }
            Phase::Deciding => {
                let rebuilt = self.pass == Pass::Rebuild;
                if rebuilt {
                    self.begin_hooks(out);
                }
                rebuilt
            }
            Phase::Committing | Phase::Aborting => {
                self.after_hooks(out);
                true
            }
            Phase::Done => false,
        }
    }

    fn after_open(&mut self) -> bool {
        self.pass = Pass::Rest;
        if !self.sealed || self.tasks > 0 {
            return false;
        }
        if self.all_are(Status::Pending) {
            let go = self.finalized || !self.manual;
            if go {
                self.turn_to(Phase::Preparing);
                self.begin(Pass::Hook(Order::Prepare));
            }
            return go;
        }
        let go = self.all_are(Status::Waiting);
        if go {
            self.begin(Pass::Pend);
        }
        go
    }

    /// Fixes the verdict. From here on nothing changes it.
    fn decide(&mut self, verdict: Verdict, out: &mut Vec<Action>) {
        assert!(self.verdict.is_none(), "one verdict per group");
        self.turn_to(Phase::Deciding);
        self.pass = Pass::Rest;
        self.verdict = Some(verdict);
        if self.jobs.is_empty() {
            // Nobody to tell after a restart, so nothing to write.
            self.begin_hooks(out);
        } else {
            out.push(Action::Decide(verdict));
        }
    }

    /// The verdict is written down: carry it out.
    pub(crate) fn begin_hooks(&mut self, out: &mut Vec<Action>) {
        let verdict = self.verdict.expect("hooks follow a verdict");
        let (phase, order) = match verdict {
            Verdict::Commit => (Phase::Committing, Order::Commit),
            Verdict::Abort { .. } => (Phase::Aborting, Order::Abort),
        };
        out.notify(Notice::Decided(verdict));
        self.turn_to(phase);
        self.begin(Pass::Hook(order));
    }

    fn after_hooks(&mut self, out: &mut Vec<Action>) {
        match self.pass {
            Pass::Hook(Order::Commit | Order::Abort) => self.begin(Pass::Hook(Order::Clean)),
            Pass::Hook(Order::Clean) => self.begin(Pass::Conclude),
            Pass::Conclude => {
                self.turn_to(Phase::Done);
                self.pass = Pass::Rest;
                out.push(Action::Ended { owed: self.owed });
            }
            Pass::Rest
            | Pass::Start
            | Pass::Shorten
            | Pass::Pend
            | Pass::Stop
            | Pass::Rebuild
            | Pass::Hook(Order::Step | Order::Prepare) => {
                unreachable!("no pass {:?} in phase {:?}", self.pass, self.phase)
            }
        }
    }

    /// Visits at most `limit` members of the pass under way; says how many.
    fn visit(&mut self, limit: u32, out: &mut Vec<Action>) -> u32 {
        let from = self.next;
        let to = self.len().min(from.saturating_add(limit));
        self.next = to;
        match self.pass {
            Pass::Rest => {}
            Pass::Start => self.start(from..to, out),
            Pass::Shorten => (from..to).for_each(|member| self.shorten(member, out)),
            Pass::Pend => self.enter_all(from..to, Status::Pending, out),
            Pass::Stop => self.stop(from..to, out),
            Pass::Rebuild => self.rebuild(from..to, out),
            Pass::Hook(order) => return self.order_hooks(order, from..to, out),
            Pass::Conclude => self.conclude(from..to, out),
        }
        to - from
    }

    fn start(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        self.enter_all(span.clone(), Status::Running, out);
        let mut rest = span;
        while let Some((run, held)) = self.next_run(&mut rest, |job| job.is_held()) {
            if held {
                run.for_each(|member| self.park(member, out));
            } else {
                self.step_all(run, out);
            }
        }
    }

    fn stop(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        let mut rest = span.clone();
        while let Some((run, at_rest)) = self.next_run(&mut rest, Job::at_rest) {
            if !at_rest {
                out.stop(run);
            }
        }
        self.settle_all(span, out);
    }

    fn rebuild(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        let path: &[Status] = match self.verdict.expect("a replayed group has a verdict") {
            Verdict::Commit => &[Status::Running, Status::Waiting, Status::Pending],
            Verdict::Abort { .. } => &[Status::Aborting],
        };
        for &status in path {
            self.enter_all(span.clone(), status, out);
        }
        for job in self.span_mut(&span) {
            job.started = true;
        }
    }

    /// Orders the hook of the next members that have it, as one span; says how many were looked at.
    fn order_hooks(&mut self, order: Order, span: Range<u32>, out: &mut Vec<Action>) -> u32 {
        let hook = hook_of(order);
        if !self.hooks.has(hook) {
            self.next = self.len();
            return 0;
        }
        // Mostly everybody has it, and nobody was given up, who would be owed: then nobody need be looked at.
        let members = if self.common_hooks.has(hook) && !self.owed {
            span.clone()
        } else {
            self.first_with(hook, span.clone())
        };
        self.next = members.end;
        let looked_at = members.end - span.start;
        if !members.is_empty() {
            self.hook = members.clone();
            out.push(Action::Run { order, members });
        }
        looked_at
    }

    /// The first neighbours of `span` whose hook is to run; none, at its end, if there is nobody.
    fn first_with(&self, hook: Hooks, span: Range<u32>) -> Range<u32> {
        let runs = |&member: &u32| {
            let job = self.job(member);
            job.hooks.has(hook) && job.doing != Doing::Lost
        };
        let mut members = span.clone();
        let from = members.find(runs).unwrap_or(span.end);
        let to = (from..span.end)
            .find(|member| !runs(member))
            .unwrap_or(span.end);
        from..to
    }

    fn conclude(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        let mut rest = span.clone();
        while !rest.is_empty() {
            let run = self.next_alike(&mut rest);
            let outcome = self.outcome(run.start);
            out.ended(run, outcome.expect("a verdict precedes the end"));
        }
        self.enter_all(span.clone(), Status::Concluded, out);
        let mut rest = span;
        // What never ran leaves nothing to look at.
        let stays = |job: &Job| job.manual_dismiss && job.started;
        while let Some((run, stays)) = self.next_run(&mut rest, stays) {
            if !stays {
                self.dismiss(run, out);
            }
        }
    }

    /// Cuts off the first members of `rest` that end alike: see [`Txn::outcome`].
    fn next_alike(&self, rest: &mut Range<u32>) -> Range<u32> {
        let failed = self.errors.range(rest.clone()).next();
        let until = match failed {
            Some((&member, _)) if member == rest.start => member + 1,
            Some((&member, _)) => member,
            None => rest.end,
        };
        let mut span = rest.start..until;
        // Nobody is asked for anything who has not converged.
        let run = match self.converged {
            0 => span,
            _ => self
                .next_run(&mut span, |job| job.asked)
                .map_or(rest.clone(), |(run, _)| run),
        };
        rest.start = run.end;
        run
    }
}

/// The hook an order runs.
fn hook_of(order: Order) -> Hooks {
    match order {
        Order::Step => Hooks::NONE,
        Order::Prepare => Hooks::PREPARE,
        Order::Commit => Hooks::COMMIT,
        Order::Abort => Hooks::ABORT,
        Order::Clean => Hooks::CLEAN,
    }
}
