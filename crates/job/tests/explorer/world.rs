//! The core, the workers around it, and what an onlooker remembers: one state of the exploration.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use cohort_job::core::{Action, Core, Event, Order, Report, Request};
use cohort_job::{Status, Verdict};

use crate::model::Model;
use crate::rules;

/// One thing that may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Move {
    Ask(Request),
    Tell(Event),
}

/// What became of a member's prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Prepared {
    No,
    Well,
    Badly,
}

/// What is remembered of one member: what workers hold of it, and what an onlooker saw.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    /// The last status that was announced.
    pub(crate) status: Status,
    /// A worker has its step.
    pub(crate) stepping: bool,
    /// Its tasks in flight.
    pub(crate) tasks: u32,
    /// Reported stuck; given up.
    pub(crate) stuck: bool,
    pub(crate) lost: bool,
    /// Something happened in its step that the next one must see.
    pub(crate) woken: bool,
    /// Ever stepped.
    pub(crate) stepped: bool,
    /// The engine's holds on it.
    pub(crate) holds: u32,
    /// Its gate: held, or told to come to an end.
    pub(crate) gate_held: bool,
    pub(crate) gate_stopped: bool,
    pub(crate) prepared: Prepared,
    /// Commit or abort ran; clean ran; how it ended was told.
    pub(crate) settled: Option<Order>,
    pub(crate) cleaned: bool,
    pub(crate) told: bool,
    /// It failed by itself.
    pub(crate) failed: bool,
    /// A soft cancel was accepted while it had converged and its group was not stopping.
    pub(crate) soft: bool,
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self {
            status: Status::Created,
            stepping: false,
            tasks: 0,
            stuck: false,
            lost: false,
            woken: false,
            stepped: false,
            holds: 0,
            gate_held: false,
            gate_stopped: false,
            prepared: Prepared::No,
            settled: None,
            cleaned: false,
            told: false,
            failed: false,
            soft: false,
        }
    }

    /// Nothing of it runs.
    pub(crate) fn at_rest(&self) -> bool {
        self.lost || (!self.stepping && self.tasks == 0)
    }
}

/// One state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) seen: Vec<Seen>,
    /// The hook span a worker has; its tail must be given back after a bad prepare.
    pub(crate) hook: Option<(Order, Range<u32>)>,
    pub(crate) give_back: bool,
    /// The journal is asked; a turn is asked for.
    pub(crate) deciding: bool,
    pub(crate) continuing: bool,
    pub(crate) finalized: bool,
    pub(crate) sealed: bool,
    /// The verdict that was asked to be written, and whether it was.
    pub(crate) decided: Option<Verdict>,
    pub(crate) written: Option<bool>,
    pub(crate) ended: bool,
}

impl World {
    /// Feeds `state` with what the future depends on. What is only told, and told the same way to all, is
    /// left out: one state stands for all that differ in which cause or error is told.
    pub(crate) fn hash_future<H: Hasher>(&self, state: &mut H) {
        self.core.hash_future(state);
        (&self.hook, self.give_back, self.deciding, self.continuing).hash(state);
        (self.finalized, self.sealed, self.written, self.ended).hash(state);
        (
            self.decided.is_some(),
            self.decided == Some(Verdict::Commit),
        )
            .hash(state);
        for one in &self.seen {
            (one.status, one.stepping, one.tasks, one.stuck, one.lost).hash(state);
            (one.prepared, one.settled, one.cleaned, one.gate_stopped).hash(state);
        }
    }
}

impl World {
    pub(crate) fn new(model: &Model) -> Self {
        let mut world = Self {
            core: Core::with_turn(model.turn),
            seen: Vec::new(),
            hook: None,
            give_back: false,
            deciding: false,
            continuing: false,
            finalized: false,
            sealed: false,
            decided: None,
            written: None,
            ended: false,
        };
        for &spec in &model.members {
            let request = Request::Add { count: 1, spec };
            world
                .make(model, &Move::Ask(request))
                .expect("a member can be added");
        }
        if model.launched {
            world
                .make(model, &Move::Ask(Request::Launch))
                .expect("a group can be launched");
        }
        world
    }

    /// Makes a move and checks every rule. Gives what the core ordered.
    pub(crate) fn make(&mut self, model: &Model, step: &Move) -> Result<Vec<Action>, String> {
        let before = self.clone();
        let mut out = Vec::new();
        match step {
            Move::Ask(request) => {
                self.core
                    .apply(request.clone(), &mut out)
                    .map_err(|refused| format!("refused: {refused}"))?;
                self.asked(request);
            }
            Move::Tell(event) => {
                self.told(event);
                self.core.handle(event.clone(), &mut out);
            }
        }
        for member in 0..before.len() {
            let news = before.core.asked(member) != self.core.asked(member);
            self.one_mut(member).woken |= news;
        }
        for action in &out {
            rules::before_action(self, model, action)?;
            self.carry_out(action);
        }
        rules::after_move(self, &before, model, step)?;
        Ok(out)
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.seen.len()).expect("few members")
    }

    pub(crate) fn one(&self, member: u32) -> &Seen {
        &self.seen[member as usize]
    }

    fn one_mut(&mut self, member: u32) -> &mut Seen {
        &mut self.seen[member as usize]
    }

    /// Any hold on a member.
    pub(crate) fn is_held(&self, member: u32) -> bool {
        self.one(member).holds > 0 || self.core.is_paused_by_user(member)
    }

    fn asked(&mut self, request: &Request) {
        match *request {
            Request::Launch | Request::Rollback | Request::Replay(_) => self.sealed = true,
            Request::Hold(member) => self.one_mut(member).holds += 1,
            Request::Release(member) => self.one_mut(member).holds -= 1,
            Request::Finalize(_) => self.finalized = true,
            Request::GiveUp(member) => self.given_up(member),
            // Accepted without a cause: so it was soft, and for the converged.
            Request::Cancel(member, _) => {
                let soft = self.core.cause().is_none();
                self.one_mut(member).soft |= soft;
            }
            Request::CancelAll(..) => {
                let soft = self.core.cause().is_none();
                self.seen.iter_mut().for_each(|one| one.soft |= soft);
            }
            Request::Add { .. }
            | Request::Pause(_)
            | Request::Resume(_)
            | Request::SetSpeed { .. }
            | Request::Complete(_)
            | Request::Dismiss(_) => {}
        }
        if let Request::Replay(verdict) = *request {
            self.decided = Some(verdict);
            self.written = Some(true);
            self.seen
                .iter_mut()
                .for_each(|one| one.prepared = Prepared::Well);
        }
    }

    fn given_up(&mut self, member: u32) {
        if self
            .hook
            .as_ref()
            .is_some_and(|(_, span)| span.start == member)
        {
            self.hook = None;
            self.give_back = false;
        }
        let decided = self.decided.is_some();
        let one = self.one_mut(member);
        (one.lost, one.stuck) = (true, false);
        (one.stepping, one.tasks) = (false, 0);
        one.failed |= !decided;
    }

    fn told(&mut self, event: &Event) {
        match event {
            Event::Ran {
                order: Order::Step,
                members,
                report,
            } => {
                for member in members.clone() {
                    let one = self.one_mut(member);
                    (one.stepping, one.stuck) = (false, false);
                    one.failed |= matches!(report, Report::Failed(_) | Report::Panicked(_));
                }
            }
            Event::Ran {
                order,
                members,
                report,
            } => self.hooked(*order, members, report),
            Event::Spawned { member, tasks } => self.one_mut(*member).tasks += tasks,
            Event::TaskEnded(member) | Event::TaskPanicked(member, _) => {
                let one = self.one_mut(*member);
                one.tasks -= 1;
                one.stuck = false;
                one.failed |= matches!(event, Event::TaskPanicked(..));
                one.woken = true;
            }
            Event::Stuck(member) => self.one_mut(*member).stuck = true,
            Event::Decided(result) => {
                self.deciding = false;
                self.written = Some(result.is_ok());
            }
            Event::Continue => self.continuing = false,
            Event::Woken(member) => self.one_mut(*member).woken = true,
            Event::Ready(_) => {}
        }
    }

    fn hooked(&mut self, order: Order, members: &Range<u32>, report: &Report) {
        let (_, span) = self.hook.as_mut().expect("a hook is out");
        let left = *report == Report::Left;
        span.start = members.end;
        if span.start >= span.end || left {
            self.hook = None;
            self.give_back = false;
        }
        for member in members.clone() {
            let one = self.one_mut(member);
            one.stuck = false;
            match (order, left) {
                (_, true) | (Order::Step, _) => {}
                (Order::Prepare, false) => {
                    let well = *report == Report::Done;
                    one.prepared = if well {
                        Prepared::Well
                    } else {
                        Prepared::Badly
                    };
                    one.failed |= !well;
                    self.give_back = !well && self.hook.is_some();
                }
                (Order::Commit | Order::Abort, false) => one.settled = Some(order),
                (Order::Clean, false) => one.cleaned = true,
            }
        }
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Run {
                order: Order::Step,
                members,
            } => {
                for member in members.clone() {
                    let one = self.one_mut(member);
                    (one.stepping, one.stepped, one.woken) = (true, true, false);
                }
            }
            Action::Run { order, members } => self.hook = Some((*order, members.clone())),
            Action::Hold(span) => self.gate(span, |one| one.gate_held = true),
            Action::Release(span) => self.gate(span, |one| one.gate_held = false),
            Action::Stop(span) => self.gate(span, |one| one.gate_stopped = true),
            Action::Decide(verdict) => {
                self.deciding = true;
                self.decided = Some(*verdict);
            }
            Action::Continue => self.continuing = true,
            Action::Ended { .. } => self.ended = true,
            Action::Notify(notice) => self.noticed(notice),
            Action::Ask(..) | Action::WakeAt(..) => {}
        }
    }

    fn gate(&mut self, span: &Range<u32>, set: impl Fn(&mut Seen)) {
        for member in span.clone() {
            set(self.one_mut(member));
        }
    }

    fn noticed(&mut self, notice: &cohort_job::core::Notice) {
        use cohort_job::core::Notice;
        match notice {
            Notice::Status(span, Status::Created) => {
                self.seen.extend(span.clone().map(|_| Seen::new()));
            }
            Notice::Status(span, status) => {
                for member in span.clone() {
                    self.one_mut(member).status = *status;
                }
            }
            Notice::Ended(span, _) => {
                for member in span.clone() {
                    self.one_mut(member).told = true;
                }
            }
            Notice::Failed(..)
            | Notice::Stuck(_)
            | Notice::GivenUp(_)
            | Notice::Decided(_)
            | Notice::InDoubt(_)
            | Notice::Owed(..) => {}
        }
    }
}
