//! One transaction: its members in creation order, and what happens to one of them at a time.
//!
//! What follows for the group is in `converge.rs`. The counters kept here make it unnecessary to look at
//! every member for that.

use std::collections::BTreeMap;
use std::iter::repeat_n;
use std::ops::Range;

use crate::emit::{Emit, one};
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
    /// Hooks that any member has, and those that every member has.
    pub(crate) hooks: Hooks,
    pub(crate) common_hooks: Hooks,
    /// Members that were ever ready; tasks in flight of all members.
    pub(crate) converged: u32,
    pub(crate) tasks: u64,
    /// A `Continue` is on its way.
    pub(crate) continuing: bool,
    /// How many members one turn may visit.
    pub(crate) turn: u32,
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
            common_hooks: Hooks::ALL,
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

    pub(crate) fn all_are(&self, status: Status) -> bool {
        self.count(status) == self.len()
    }

    /// The group will not commit, whether its members know that already or not.
    pub(crate) fn is_stopping(&self) -> bool {
        self.cause.is_some() || self.phase == Phase::Stopping
    }

    /// Whether members that are told to finish would wait for a user all the same: for their finalize, or since one of them
    /// was told before, and is parked again.
    pub(crate) fn needs_a_word(&self) -> bool {
        let told = self.short && self.pass == Pass::Rest;
        self.manual && !self.finalized || told && self.count(Status::Standby) > 0
    }

    /// Cuts off the first members of `rest` of which `what` says the same, and says what. None are left at
    /// the end.
    pub(crate) fn next_run<T: PartialEq>(
        &self,
        rest: &mut Range<u32>,
        what: impl Fn(&Job) -> T,
    ) -> Option<(Range<u32>, T)> {
        let jobs = self.span(rest);
        let first = what(jobs.first()?);
        let differs = |job: &Job| what(job) != first;
        let length = jobs.iter().position(differs).unwrap_or(jobs.len());
        let run = rest.start..rest.start + length as u32;
        rest.start = run.end;
        Some((run, first))
    }

    fn span(&self, members: &Range<u32>) -> &[Job] {
        &self.jobs[members.start as usize..members.end as usize]
    }

    pub(crate) fn span_mut(&mut self, members: &Range<u32>) -> &mut [Job] {
        &mut self.jobs[members.start as usize..members.end as usize]
    }

    /// One member's [`Txn::enter_all`].
    pub(crate) fn enter(&mut self, member: u32, to: Status, out: &mut Vec<Action>) {
        self.enter_all(one(member), to, out);
    }

    /// The one place that changes a status.
    pub(crate) fn enter_all(&mut self, members: Range<u32>, to: Status, out: &mut Vec<Action>) {
        let mut rest = members;
        while !rest.is_empty() {
            let first = self.job(rest.start);
            let (from, gone) = (first.status, first.doing == Doing::Gone);
            assert!(
                !gone && from.leads_to().contains(&to),
                "members {rest:?}: {from} -> {to}"
            );
            let alike = |job: &Job| job.status == from && job.doing != Doing::Gone;
            let mut count = 0;
            for job in self.span_mut(&rest) {
                if !alike(job) {
                    break;
                }
                job.enter(to);
                count += 1;
            }
            let run = rest.start..rest.start + count;
            self.census[from as usize] -= count;
            self.census[to as usize] += count;
            rest.start = run.end;
            out.status(run, to);
        }
    }

    /// Puts so many more at the end, all like this one.
    pub(crate) fn add(&mut self, count: u32, job: &Job, out: &mut Vec<Action>) {
        let first = self.len();
        if count > 0 {
            self.hooks = self.hooks.and(job.hooks);
            self.common_hooks = self.common_hooks.in_common(job.hooks);
            self.census[job.status as usize] += count;
            self.jobs.extend(repeat_n(job.clone(), count as usize));
            out.status(first..first + count, job.status);
        }
    }

    /// One member's [`Txn::step_all`].
    pub(crate) fn step(&mut self, member: u32, out: &mut Vec<Action>) {
        self.step_all(one(member), out);
    }

    /// Has `members` stepped. They start from a clean slate: what woke one is what it will see.
    pub(crate) fn step_all(&mut self, members: Range<u32>, out: &mut Vec<Action>) {
        for job in self.span_mut(&members) {
            job.doing = Doing::Step;
            job.woken = false;
        }
        out.run(Order::Step, members);
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
        if !job.is_held() {
            if job.woken {
                self.step(member, out);
            }
        } else if job.tasks == 0 {
            self.park(member, out);
        }
    }

    /// A held member at rest: announced only now that it is true.
    pub(crate) fn park(&mut self, member: u32, out: &mut Vec<Action>) {
        let to = if self.job(member).converged {
            Status::Standby
        } else {
            Status::Paused
        };
        self.enter(member, to, out);
        self.job_mut(member).doing = Doing::Nothing;
    }

    /// Back from a parked status, which is the same for all of them, to the one before it.
    pub(crate) fn unpark(&mut self, members: Range<u32>, from: Status, out: &mut Vec<Action>) {
        match from {
            Status::Paused => self.enter_all(members, Status::Running, out),
            Status::Standby => self.enter_all(members, Status::Ready, out),
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

    /// One member's [`Txn::settle_all`].
    pub(crate) fn settle(&mut self, member: u32, out: &mut Vec<Action>) {
        self.settle_all(one(member), out);
    }

    /// Brings those members of a stopping group to `aborting` of which nothing runs any more.
    pub(crate) fn settle_all(&mut self, members: Range<u32>, out: &mut Vec<Action>) {
        let mut rest = members;
        let what = |job: &Job| (job.at_rest(), job.status);
        while let Some((run, (at_rest, status))) = self.next_run(&mut rest, what) {
            // Before the group is in that phase its pass will come by.
            if self.phase != Phase::Stopping || !at_rest || status == Status::Aborting {
                continue;
            }
            self.unpark(run.clone(), status, out);
            self.enter_all(run.clone(), Status::Aborting, out);
            for job in self.span_mut(&run) {
                if job.doing != Doing::Lost {
                    job.doing = Doing::Nothing;
                }
            }
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

    /// Tells a converged member to finish without the switch-over.
    pub(crate) fn shorten(&mut self, member: u32, out: &mut Vec<Action>) {
        if self.asked(member) != Asked::Finish {
            self.job_mut(member).asked = Asked::Finish;
            out.push(Action::Ask(member..member + 1, Asked::Finish));
        }
        self.wake(member, out);
        if self.job(member).user_hold {
            self.job_mut(member).user_hold = false;
            self.released(member, out);
        }
    }

    /// A hold was taken back: if it was the last, the member goes on.
    pub(crate) fn released(&mut self, member: u32, out: &mut Vec<Action>) {
        if self.job(member).is_held() || self.is_stopping() || !self.is_gated(member) {
            return;
        }
        out.release(member);
        if self.job(member).is_parked() {
            self.unpark(one(member), self.job(member).status, out);
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

    /// Forgets concluded members.
    pub(crate) fn dismiss(&mut self, members: Range<u32>, out: &mut Vec<Action>) {
        self.enter_all(members.clone(), Status::Null, out);
        while let Some((&member, _)) = self.errors.range(members.clone()).next() {
            self.errors.remove(&member);
        }
    }
}
