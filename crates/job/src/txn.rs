//! One transaction: its members in creation order, and when they converge.
//!
//! Whatever a request or an event did to single members, the rules of the group are applied afterwards,
//! in [`Txn::converge`] and nowhere else. Work on every member goes in *passes* of bounded turns; the
//! counters make it unnecessary to look at members in between.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::emit::Emit;
use crate::error::Error;
use crate::event::{Action, Hooks, Notice, Order};
use crate::job::{Doing, Job};
use crate::outcome::{Asked, Cause, Disposition, Outcome, Phase, Verdict};
use crate::status::Status;

/// Work that visits every member once, in creation order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// No pass.
    Rest,
    /// Start the created.
    Start,
    /// Tell the converged to finish without the switch-over.
    Shorten,
    /// From waiting to pending.
    Pend,
    /// Bring to rest.
    Stop,
    /// Bring to where the verdict found them before a restart.
    Rebuild,
    /// Run one kind of hook.
    Hook(Order),
    /// Final notices; dismiss who need not be dismissed by hand.
    Conclude,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Txn {
    pub(crate) jobs: Vec<Job>,
    /// How many members are in each status, in the order of `Status::ALL`; the dismissed are `Null`.
    census: [u32; 10],
    /// The members' own errors. A tree, so that nothing depends on hash order.
    pub(crate) errors: BTreeMap<u32, Error>,
    pub(crate) phase: Phase,
    pub(crate) pass: Pass,
    /// The next member of the pass.
    pub(crate) next: u32,
    /// Members whose hook is ordered and not reported; only their first can be in it.
    pub(crate) hook: Range<u32>,
    /// Membership is closed: launched, rolled back, or replayed.
    pub(crate) sealed: bool,
    /// Some member waits for a user's finalize; a user gave it.
    pub(crate) manual: bool,
    pub(crate) finalized: bool,
    /// Every member was told to finish without the switch-over.
    pub(crate) short: bool,
    pub(crate) cause: Option<Cause>,
    pub(crate) disposition: Disposition,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) in_doubt: bool,
    /// A hook panicked or was given up.
    pub(crate) owed: bool,
    /// Hooks that any member has.
    pub(crate) hooks: Hooks,
    /// Members that were ever ready; tasks in flight of all members.
    pub(crate) converged: u32,
    pub(crate) tasks: u64,
    /// A `Continue` is on its way.
    pub(crate) continuing: bool,
    /// How many members one turn may visit.
    turn: u32,
}

impl Txn {
    pub(crate) fn new(turn: u32) -> Self {
        assert!(turn > 0, "a turn visits at least one member");
        Self {
            jobs: Vec::new(),
            census: [0; 10],
            errors: BTreeMap::new(),
            phase: Phase::Open,
            pass: Pass::Rest,
            next: 0,
            hook: 0..0,
            sealed: false,
            manual: false,
            finalized: false,
            short: false,
            cause: None,
            disposition: Disposition::Keep,
            verdict: None,
            in_doubt: false,
            owed: false,
            hooks: Hooks::NONE,
            converged: 0,
            tasks: 0,
            continuing: false,
            turn,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.jobs.len()).expect("a group holds at most u32::MAX members")
    }

    pub(crate) fn job(&self, member: u32) -> &Job {
        &self.jobs[member as usize]
    }

    pub(crate) fn job_mut(&mut self, member: u32) -> &mut Job {
        &mut self.jobs[member as usize]
    }

    /// How many members are in `status`.
    pub(crate) fn count(&self, status: Status) -> u32 {
        self.census[status as usize]
    }

    fn all_are(&self, status: Status) -> bool {
        self.count(status) == self.len()
    }

    /// The group will not commit, whether its members know that already or not.
    pub(crate) fn is_stopping(&self) -> bool {
        self.cause.is_some() || self.phase == Phase::Stopping
    }

    /// The one place that changes a status.
    pub(crate) fn enter(&mut self, member: u32, to: Status, out: &mut Vec<Action>) {
        let job = &mut self.jobs[member as usize];
        let from = job.status;
        assert!(
            job.doing != Doing::Gone && from.leads_to().contains(&to),
            "member {member}: {from} -> {to}"
        );
        self.census[from as usize] -= 1;
        self.census[to as usize] += 1;
        match to {
            // Announced, never stored.
            Status::Null => job.doing = Doing::Gone,
            Status::Created
            | Status::Running
            | Status::Paused
            | Status::Ready
            | Status::Standby
            | Status::Waiting
            | Status::Pending
            | Status::Aborting
            | Status::Concluded => job.status = to,
        }
        out.status(member, to);
    }

    /// Puts one more member at the end.
    pub(crate) fn add(&mut self, job: Job, out: &mut Vec<Action>) {
        let member = self.len();
        self.hooks = self.hooks.and(job.hooks);
        self.census[job.status as usize] += 1;
        out.status(member, job.status);
        self.jobs.push(job);
    }

    /// Has `member` stepped. It starts from a clean slate: what woke it is what it will see.
    pub(crate) fn step(&mut self, member: u32, out: &mut Vec<Action>) {
        let job = self.job_mut(member);
        job.doing = Doing::Step;
        job.woken = false;
        out.run(Order::Step, member);
    }

    /// Parks, steps or leaves asleep a member that is between two steps.
    pub(crate) fn proceed(&mut self, member: u32, out: &mut Vec<Action>) {
        if self.is_stopping() {
            return self.settle(member, out);
        }
        let job = self.job(member);
        if job.doing != Doing::Asleep {
            return;
        }
        if !job.holds.any() {
            if job.woken {
                self.step(member, out);
            }
        } else if job.tasks == 0 {
            self.park(member, out);
        }
    }

    /// A held member at rest: announced only now that it is true.
    fn park(&mut self, member: u32, out: &mut Vec<Action>) {
        let to = if self.job(member).converged {
            Status::Standby
        } else {
            Status::Paused
        };
        self.enter(member, to, out);
        self.job_mut(member).doing = Doing::Nothing;
    }

    /// Back from a parked status to the one before it.
    pub(crate) fn unpark(&mut self, member: u32, out: &mut Vec<Action>) {
        match self.job(member).status {
            Status::Paused => self.enter(member, Status::Running, out),
            Status::Standby => self.enter(member, Status::Ready, out),
            Status::Created
            | Status::Running
            | Status::Ready
            | Status::Waiting
            | Status::Pending
            | Status::Aborting
            | Status::Concluded
            | Status::Null => {}
        }
    }

    /// Brings a member of a stopping group to `aborting`, if nothing of it runs any more.
    pub(crate) fn settle(&mut self, member: u32, out: &mut Vec<Action>) {
        // Before the group is in that phase its pass will come by.
        let job = self.job(member);
        if self.phase != Phase::Stopping || !job.at_rest() || job.status == Status::Aborting {
            return;
        }
        self.unpark(member, out);
        self.enter(member, Status::Aborting, out);
        let job = self.job_mut(member);
        if job.doing != Doing::Lost {
            job.doing = Doing::Nothing;
        }
    }

    /// Notes a member's own error, and that the group will not commit. The first error and the first
    /// cause stay.
    pub(crate) fn fail(&mut self, member: u32, error: Error, out: &mut Vec<Action>) {
        if let std::collections::btree_map::Entry::Vacant(slot) = self.errors.entry(member) {
            slot.insert(error.clone());
            out.notify(Notice::Failed(member, error));
        }
        self.abandon(Cause::Failed(member), Disposition::Keep);
    }

    /// The group will not commit. The first cause stays; the disposition only rises.
    pub(crate) fn abandon(&mut self, cause: Cause, disposition: Disposition) {
        self.cause.get_or_insert(cause);
        self.disposition = self.disposition.max(disposition);
    }

    /// How `member` ended, once that is fixed.
    pub(crate) fn outcome(&self, member: u32) -> Option<Outcome> {
        Some(match self.verdict? {
            Verdict::Commit => Outcome::Committed {
                short: self.asked(member) == Asked::Finish,
            },
            Verdict::Abort { cause, disposition } => match self.errors.get(&member) {
                Some(error) => Outcome::Failed {
                    error: error.clone(),
                    disposition,
                },
                None => Outcome::Cancelled { cause, disposition },
            },
        })
    }

    /// What `member` is asked to do.
    pub(crate) fn asked(&self, member: u32) -> Asked {
        if self.short {
            Asked::Finish
        } else {
            self.job(member).asked
        }
    }

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
                self.phase = Phase::Stopping;
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
                self.phase = Phase::Preparing;
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
        self.phase = Phase::Deciding;
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
        self.phase = phase;
        self.begin(Pass::Hook(order));
    }

    fn after_hooks(&mut self, out: &mut Vec<Action>) {
        match self.pass {
            Pass::Hook(Order::Commit | Order::Abort) => self.begin(Pass::Hook(Order::Clean)),
            Pass::Hook(Order::Clean) => self.begin(Pass::Conclude),
            Pass::Conclude => {
                self.phase = Phase::Done;
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
            Pass::Pend => (from..to).for_each(|member| self.enter(member, Status::Pending, out)),
            Pass::Stop => self.stop(from..to, out),
            Pass::Rebuild => self.rebuild(from..to, out),
            Pass::Hook(order) => return self.order_hooks(order, from..to, out),
            Pass::Conclude => self.conclude(from..to, out),
        }
        to - from
    }

    fn start(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        for member in span.clone() {
            self.enter(member, Status::Running, out);
            self.job_mut(member).started = true;
        }
        for member in span.clone() {
            if self.job(member).holds.any() {
                self.park(member, out);
            }
        }
        for member in span {
            if !self.job(member).holds.any() {
                self.step(member, out);
            }
        }
    }

    /// Tells a converged member to finish without the switch-over.
    pub(crate) fn shorten(&mut self, member: u32, out: &mut Vec<Action>) {
        if self.asked(member) != Asked::Finish {
            self.job_mut(member).asked = Asked::Finish;
            out.push(Action::Ask(member..member + 1, Asked::Finish));
        }
        self.wake(member, out);
        if self.job(member).holds.user {
            self.job_mut(member).holds.user = false;
            self.released(member, out);
        }
    }

    /// A hold was taken back: if it was the last, the member goes on.
    pub(crate) fn released(&mut self, member: u32, out: &mut Vec<Action>) {
        if self.job(member).holds.any() || self.is_stopping() || !self.is_gated(member) {
            return;
        }
        out.release(member);
        if self.job(member).is_parked() {
            self.unpark(member, out);
            self.step(member, out);
        } else {
            // It was held between two steps while its tasks finished.
            self.wake(member, out);
        }
    }

    /// Whether holds mean anything to `member`: not started, or at work.
    pub(crate) fn is_gated(&self, member: u32) -> bool {
        match self.job(member).status {
            Status::Created
            | Status::Running
            | Status::Paused
            | Status::Ready
            | Status::Standby => true,
            Status::Waiting
            | Status::Pending
            | Status::Aborting
            | Status::Concluded
            | Status::Null => false,
        }
    }

    /// The next step must see something new. No wake un-parks: a hold ends only by a release.
    pub(crate) fn wake(&mut self, member: u32, out: &mut Vec<Action>) {
        let job = self.job_mut(member);
        match job.doing {
            Doing::Step => job.woken = true,
            Doing::Asleep => {
                job.woken = true;
                self.proceed(member, out);
            }
            Doing::Nothing | Doing::Lost | Doing::Gone => {}
        }
    }

    fn stop(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        for member in span.clone() {
            let job = self.job_mut(member);
            job.holds.user = false;
            if !job.at_rest() {
                out.stop(member);
            }
        }
        for member in span {
            self.settle(member, out);
        }
    }

    fn rebuild(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        let path: &[Status] = match self.verdict.expect("a replayed group has a verdict") {
            Verdict::Commit => &[Status::Running, Status::Waiting, Status::Pending],
            Verdict::Abort { .. } => &[Status::Aborting],
        };
        for &status in path {
            for member in span.clone() {
                self.enter(member, status, out);
                self.job_mut(member).started = true;
            }
        }
    }

    /// Orders the hook of the next members that have it, as one span; says how many were looked at.
    fn order_hooks(&mut self, order: Order, span: Range<u32>, out: &mut Vec<Action>) -> u32 {
        let hook = hook_of(order);
        if !self.hooks.has(hook) {
            self.next = self.len();
            return 0;
        }
        let runs = |txn: &Self, member: u32| {
            let job = txn.job(member);
            job.hooks.has(hook) && job.doing != Doing::Lost
        };
        let from = span
            .clone()
            .find(|&member| runs(self, member))
            .unwrap_or(span.end);
        let to = (from..span.end)
            .find(|&member| !runs(self, member))
            .unwrap_or(span.end);
        if from < to {
            self.hook = from..to;
            out.push(Action::Run {
                order,
                members: from..to,
            });
        }
        self.next = to;
        to - span.start
    }

    fn conclude(&mut self, span: Range<u32>, out: &mut Vec<Action>) {
        for member in span.clone() {
            let outcome = self.outcome(member).expect("a verdict precedes the end");
            out.ended(member, outcome);
        }
        for member in span.clone() {
            self.enter(member, Status::Concluded, out);
        }
        for member in span {
            let job = self.job(member);
            // What never ran leaves nothing to look at.
            if !job.manual_dismiss || !job.started {
                self.dismiss(member, out);
            }
        }
    }

    /// Forgets a concluded member.
    pub(crate) fn dismiss(&mut self, member: u32, out: &mut Vec<Action>) {
        self.enter(member, Status::Null, out);
        if !self.errors.is_empty() {
            self.errors.remove(&member);
        }
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
