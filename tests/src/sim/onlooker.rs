//! What somebody remembers who only hears what goes into a group's core and what comes out of it. The rules
//! (`orders.rs`, `laws.rs`) compare the core with this. Counters stand in for looks at every member, since
//! there may be hundreds.

use std::collections::BTreeSet;
use std::ops::Range;

use cohort_job::core::{Action, Event, Notice, Order, Report, Request};
use cohort_job::{Asked, Hooks, Outcome, Spec, Status, Verdict};

/// What became of a member's prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepared {
    No,
    Well,
    Badly,
}

/// One member.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) spec: Spec,
    /// The last status that was announced.
    pub(crate) status: Status,
    /// A worker has its step; its tasks in flight.
    pub(crate) stepping: bool,
    pub(crate) tasks: u32,
    /// Ever stepped; ever ready.
    pub(crate) stepped: bool,
    pub(crate) converged: bool,
    /// Reported stuck; given up.
    pub(crate) stuck: bool,
    pub(crate) lost: bool,
    /// Something happened that its next step must see.
    pub(crate) woken: bool,
    /// The engine's holds, and whether the user's was there at the last look.
    pub(crate) holds: u32,
    pub(crate) paused: bool,
    pub(crate) gate_held: bool,
    pub(crate) gate_stopped: bool,
    pub(crate) asked: Asked,
    pub(crate) prepared: Prepared,
    /// Commit or abort returned; clean returned; how it ended was told.
    pub(crate) settled: Option<Order>,
    pub(crate) cleaned: bool,
    pub(crate) told: Option<Outcome>,
    /// It failed by itself.
    pub(crate) failed: bool,
    /// A soft cancel was accepted, and disturbs nobody.
    pub(crate) soft: bool,
}

impl Seen {
    fn new(spec: Spec) -> Self {
        Self {
            spec,
            status: Status::Created,
            stepping: false,
            tasks: 0,
            stepped: false,
            converged: false,
            stuck: false,
            lost: false,
            woken: false,
            holds: 0,
            paused: false,
            gate_held: false,
            gate_stopped: false,
            asked: Asked::Run,
            prepared: Prepared::No,
            settled: None,
            cleaned: false,
            told: None,
            failed: false,
            soft: false,
        }
    }

    /// Nothing of it runs.
    pub(crate) fn at_rest(&self) -> bool {
        !self.stepping && self.tasks == 0
    }

    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.status, Status::Paused | Status::Standby)
    }

    pub(crate) fn has(&self, hook: Hooks) -> bool {
        self.spec.hooks.has(hook) && !self.lost
    }
}

/// A group.
#[derive(Debug, Clone)]
pub(crate) struct Onlooker {
    pub(crate) members: Vec<Seen>,
    /// How many are in each status.
    pub(crate) census: [u32; 10],
    /// Members with a step or a task; members in a step.
    pub(crate) busy: u32,
    pub(crate) stepping: u32,
    pub(crate) failed: u32,
    pub(crate) lost: u32,
    pub(crate) manual: bool,
    /// The hook span a worker has; its tail must be given back after a bad prepare.
    pub(crate) hook: Option<(Order, Range<u32>)>,
    pub(crate) give_back: bool,
    /// The kind of hook that was ordered last, and the first member it may still be ordered for.
    pub(crate) hooks_from: Option<(Order, u32)>,
    /// The journal is asked; a turn is asked for.
    pub(crate) deciding: bool,
    pub(crate) continuing: bool,
    pub(crate) finalized: bool,
    pub(crate) sealed: bool,
    pub(crate) replayed: bool,
    /// The verdict that was asked to be written, and whether it was.
    pub(crate) decided: Option<Verdict>,
    pub(crate) written: Option<bool>,
    pub(crate) owed: bool,
    /// The group ended; what it then said is owed.
    pub(crate) ended: Option<bool>,
    /// Members that the input or its actions were about.
    pub(crate) touched: BTreeSet<u32>,
}

impl Onlooker {
    pub(crate) fn new() -> Self {
        Self {
            members: Vec::new(),
            census: [0; 10],
            busy: 0,
            stepping: 0,
            failed: 0,
            lost: 0,
            manual: false,
            hook: None,
            give_back: false,
            hooks_from: None,
            deciding: false,
            continuing: false,
            finalized: false,
            sealed: false,
            replayed: false,
            decided: None,
            written: None,
            owed: false,
            ended: None,
            touched: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.members.len() as u32
    }

    pub(crate) fn one(&self, member: u32) -> &Seen {
        &self.members[member as usize]
    }

    /// How many are in `status`.
    pub(crate) fn count(&self, status: Status) -> u32 {
        self.census[status as usize]
    }

    /// Changes a member, and the counters with it.
    fn change(&mut self, member: u32, change: impl FnOnce(&mut Seen)) {
        self.touched.insert(member);
        let one = &mut self.members[member as usize];
        let count =
            |one: &Seen| [!one.at_rest(), one.stepping, one.failed, one.lost].map(u32::from);
        let before = count(one);
        self.census[one.status as usize] -= 1;
        change(one);
        self.census[one.status as usize] += 1;
        let after = count(one);
        let counters = [
            &mut self.busy,
            &mut self.stepping,
            &mut self.failed,
            &mut self.lost,
        ];
        for (at, counter) in counters.into_iter().enumerate() {
            *counter = *counter + after[at] - before[at];
        }
    }

    /// A request was accepted. `caused` says that the group has a cause to stop now.
    pub(crate) fn asked(&mut self, request: &Request, caused: bool) {
        match *request {
            Request::Launch | Request::Rollback => self.sealed = true,
            Request::Replay(verdict) => {
                (self.sealed, self.replayed) = (true, true);
                (self.decided, self.written) = (Some(verdict), Some(true));
                for member in 0..self.len() {
                    self.change(member, |one| one.prepared = Prepared::Well);
                }
            }
            Request::Hold(member) => self.change(member, |one| one.holds += 1),
            Request::Release(member) => self.change(member, |one| one.holds -= 1),
            Request::Finalize(_) => self.finalized = true,
            Request::GiveUp(member) => self.given_up(member),
            // Accepted without a cause: so it was soft, and for the converged.
            Request::Cancel(member, _) => self.change(member, |one| one.soft |= !caused),
            Request::CancelAll(..) if !caused => {
                (0..self.len()).for_each(|member| self.change(member, |one| one.soft = true));
            }
            Request::CancelAll(..) => {}
            // The members themselves come with their first status.
            Request::Add { spec, count } => {
                self.manual |= spec.manual_finalize && count > 0;
                self.census[Status::Created as usize] += count;
                let new = std::iter::repeat_n(Seen::new(spec), count as usize);
                self.members.extend(new);
            }
            Request::Pause(member)
            | Request::Resume(member)
            | Request::SetSpeed { member, .. }
            | Request::Complete(member)
            | Request::Dismiss(member) => {
                self.touched.insert(member);
            }
        }
    }

    fn given_up(&mut self, member: u32) {
        let span = self.hook.as_ref().map(|(_, span)| span.start);
        if span == Some(member) {
            self.hook = None;
            self.give_back = false;
            self.hooks_from = self.hooks_from.map(|(order, _)| (order, member + 1));
        }
        let decided = self.decided.is_some();
        self.owed = true;
        self.change(member, |one| {
            (one.lost, one.stuck, one.stepping, one.tasks) = (true, false, false, 0);
            one.failed |= !decided;
        });
    }

    /// An event came.
    pub(crate) fn told(&mut self, event: &Event, caused: bool) {
        match event {
            Event::Ran {
                order: Order::Step,
                members,
                report,
            } => members
                .clone()
                .for_each(|member| self.step_came_back(member, report)),
            Event::Ran {
                order,
                members,
                report,
            } => self.hooks_came_back(*order, members, report),
            Event::Spawned { member, tasks } => self.live(*member, |one| one.tasks += tasks),
            Event::TaskEnded(member) => self.task_ended(*member, false),
            Event::TaskPanicked(member, _) => self.task_ended(*member, true),
            Event::Woken(member) => self.live(*member, |one| one.woken = true),
            Event::Ready(member) => {
                self.live(*member, |one| one.converged |= one.stepping && !caused);
            }
            Event::Stuck(member) => self.live(*member, |one| one.stuck = true),
            Event::Decided(result) => {
                self.deciding = false;
                self.written = Some(result.is_ok());
            }
            Event::Continue => self.continuing = false,
        }
    }

    /// Of those who are given up nothing counts.
    fn live(&mut self, member: u32, change: impl FnOnce(&mut Seen)) {
        if !self.one(member).lost {
            self.change(member, change);
        }
    }

    fn step_came_back(&mut self, member: u32, report: &Report) {
        self.live(member, |one| {
            (one.stepping, one.stuck) = (false, false);
            one.woken |= matches!(report, Report::Again | Report::Left);
            one.failed |= matches!(report, Report::Failed(_) | Report::Panicked(_));
        });
    }

    fn task_ended(&mut self, member: u32, badly: bool) {
        self.live(member, |one| {
            one.tasks -= 1;
            (one.stuck, one.woken) = (false, true);
            one.failed |= badly;
        });
    }

    fn hooks_came_back(&mut self, order: Order, members: &Range<u32>, report: &Report) {
        if self.one(members.start).lost {
            return;
        }
        let left = *report == Report::Left;
        let (_, span) = self.hook.as_mut().expect("a hook is out");
        span.start = members.end;
        let rest = span.start < span.end;
        if left {
            self.hooks_from = Some((order, members.start));
        }
        if left || !rest {
            self.hook = None;
            self.give_back = false;
        }
        if left {
            return;
        }
        let well = *report == Report::Done;
        self.owed |= !well && order != Order::Prepare;
        self.give_back = rest && !well && order == Order::Prepare;
        for member in members.clone() {
            self.change(member, |one| {
                one.stuck = false;
                match order {
                    Order::Step => {}
                    Order::Prepare if well => one.prepared = Prepared::Well,
                    Order::Prepare => (one.prepared, one.failed) = (Prepared::Badly, true),
                    Order::Commit | Order::Abort => one.settled = Some(order),
                    Order::Clean => one.cleaned = true,
                }
            });
        }
    }

    /// An action was ordered, and found right.
    pub(crate) fn ordered(&mut self, action: &Action) {
        match action {
            Action::Run {
                order: Order::Step,
                members,
            } => self.each(members, |one| {
                (one.stepping, one.stepped, one.woken) = (true, true, false);
            }),
            Action::Run { order, members } => {
                self.hook = Some((*order, members.clone()));
                self.hooks_from = Some((*order, members.end));
            }
            Action::Hold(span) => self.each(span, |one| one.gate_held = true),
            Action::Release(span) => self.each(span, |one| one.gate_held = false),
            Action::Stop(span) => self.each(span, |one| one.gate_stopped = true),
            Action::Ask(span, asked) => self.each(span, |one| {
                one.asked = *asked;
                one.woken = true;
            }),
            Action::Decide(verdict) => {
                self.deciding = true;
                self.decided = Some(*verdict);
            }
            Action::Continue => self.continuing = true,
            Action::Ended { owed } => self.ended = Some(*owed),
            Action::Notify(Notice::Status(span, status)) => {
                self.each(span, |one| one.status = *status);
            }
            Action::Notify(Notice::Ended(span, outcome)) => {
                self.each(span, |one| one.told = Some(outcome.clone()));
            }
            Action::Notify(
                Notice::Failed(..)
                | Notice::Stuck(_)
                | Notice::GivenUp(_)
                | Notice::Decided(_)
                | Notice::InDoubt(_)
                | Notice::Owed(..),
            )
            | Action::WakeAt(..) => {}
        }
    }

    fn each(&mut self, span: &Range<u32>, change: impl Fn(&mut Seen)) {
        for member in span.clone() {
            self.change(member, &change);
        }
    }
}
