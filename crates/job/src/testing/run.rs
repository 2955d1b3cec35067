//! One run: the engine's own core, one driver, one peer without one, and whatever comes next.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::choices::Choices;
use super::live::Live;
use super::plan::{Disturbance, Plan};
use super::tasks::Tasks;
use super::{Bench, Check, Rule};
use crate::core::{Action, Core, Event, Notice, Order, Report, Request};
use crate::pause::Pass;
use crate::{Asked, Cause, Disposition, Error, Hooks, Record, Spec, Status, Verdict};

/// A ready driver is let go on for this many steps before it is asked to complete.
const LINGER: usize = 2;

/// What came of a run.
pub(crate) struct Ended {
    pub(crate) moments: usize,
    pub(crate) breaches: Vec<(Rule, String)>,
    /// What the driver left, if it committed undisturbed and somebody observes.
    pub(crate) committed: Option<String>,
}

pub(crate) struct Run<'a> {
    pub(super) check: &'a mut Check,
    pub(super) live: &'a Live,
    pub(super) plan: Plan,
    choices: &'a mut Choices,
    pub(super) core: Core,
    pub(super) bench: Arc<Bench>,
    orders: VecDeque<(Order, u32)>,
    pub(super) tasks: Tasks,
    alarm: Option<Duration>,
    deciding: bool,
    again: bool,
    over: bool,
    /// Going on would tell nothing new.
    halted: bool,
    injected: bool,
    moments: usize,
    pub(super) steps: usize,
    pub(super) sleeps: usize,
    pub(super) reason: &'static str,
    ready_at: Option<usize>,
    pub(super) record: Record,
    before: Option<String>,
    pub(super) breaches: Vec<(Rule, String)>,
}

/// What may happen next.
#[derive(Clone, Copy)]
enum Next {
    Continue,
    Decided,
    Order(usize),
    Task(usize),
    Woken,
    Alarm,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        check: &'a mut Check,
        live: &'a Live,
        plan: Plan,
        choices: &'a mut Choices,
    ) -> Self {
        let driver = (check.make)();
        let before = check.observe.as_mut().map(|observe| observe());
        Self {
            bench: Arc::new(Bench::new(driver)),
            check,
            live,
            plan,
            choices,
            core: Core::new(),
            orders: VecDeque::new(),
            tasks: Tasks::new(),
            alarm: None,
            deciding: false,
            again: false,
            over: false,
            halted: false,
            injected: false,
            moments: 0,
            steps: 0,
            sleeps: 0,
            reason: "",
            ready_at: None,
            record: Record::default(),
            before,
            breaches: Vec::new(),
        }
    }

    /// The whole run; `committed` is what an undisturbed one left.
    pub(crate) fn all(mut self, committed: &Option<String>) -> Ended {
        self.launch();
        while !self.over && !self.halted {
            self.interfere();
            let next = self.possible();
            if next.is_empty() {
                if !self.nudge() {
                    break;
                }
                continue;
            }
            let chosen = self.choices.choose(next.len());
            self.perform(next[chosen]);
            self.moments += 1;
        }
        let left = if self.over && !self.halted {
            self.examine(committed)
        } else {
            None
        };
        if let Some(driver) = self.bench.take_driver()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(driver)))
        {
            let what = crate::driver::panic_error(&*panic);
            self.breach(Rule::HookPanics, format!("dropping it {what}"));
        }
        Ended {
            moments: self.moments,
            breaches: self.breaches,
            committed: left,
        }
    }

    fn launch(&mut self) {
        let hooks = self.hooks();
        for member in [0, 1] {
            let hooks = if member == self.plan.me {
                hooks
            } else {
                Hooks::PREPARE
            };
            let spec = Spec {
                hooks,
                ..Spec::default()
            };
            self.apply(Request::Add { count: 1, spec });
        }
        if self.plan.disturbance == Disturbance::NeverLaunched {
            self.live.note("the group is rolled back".into());
            self.apply(Request::Rollback);
        } else {
            self.apply(Request::Launch);
        }
    }

    /// Does what the plan says, if it is time for it, and asks a ready driver to complete.
    fn interfere(&mut self) {
        let Plan {
            me,
            disturbance,
            moment,
        } = self.plan;
        if !self.injected && disturbance.has_a_moment() && self.moments == moment {
            self.injected = true;
            let peer = self.plan.peer();
            match disturbance {
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

    /// What may happen next; what is there for certain goes last, so that what comes beside it is tried
    /// early, then ever later.
    fn possible(&mut self) -> Vec<Next> {
        if self.again {
            return vec![Next::Continue];
        }
        if self.deciding {
            return vec![Next::Decided];
        }
        let mut next = Vec::new();
        let mine = |order: &(Order, u32)| order.1 == self.plan.me;
        if let Some(at) = self.orders.iter().position(|order| !mine(order))
            && self.may_run(at)
        {
            next.push(Next::Order(at));
        }
        if self.alarm.is_some() {
            next.push(Next::Alarm);
        }
        next.extend(self.tasks.ready().into_iter().map(Next::Task));
        if self.bench.is_woken() {
            next.push(Next::Woken);
        }
        if let Some(at) = self.orders.iter().position(mine)
            && self.may_run(at)
        {
            next.push(Next::Order(at));
        }
        next
    }

    /// Steps go in any order, hooks one after the other; a peer that is to fail waits for its moment.
    fn may_run(&self, at: usize) -> bool {
        let (order, member) = self.orders[at];
        if order != Order::Step {
            return at == 0;
        }
        let held = self.plan.disturbance.holds_the_peer() && !self.injected;
        member == self.plan.me || !held || self.core.cause().is_some()
    }

    fn perform(&mut self, next: Next) {
        match next {
            Next::Continue => {
                self.again = false;
                self.tell([Event::Continue]);
            }
            Next::Decided => self.decided(),
            Next::Woken => {
                self.bench.take_woken();
                self.live.note("it is woken".into());
                self.tell([Event::Woken(self.plan.me)]);
            }
            Next::Alarm => {
                if let Some(time) = self.alarm.take() {
                    self.bench.set_time(time);
                    self.tell([Event::Woken(self.plan.me)]);
                }
            }
            Next::Task(at) => self.run_task(at),
            Next::Order(at) => {
                let Some((order, member)) = self.orders.remove(at) else {
                    return;
                };
                if member == self.plan.me {
                    self.call(order);
                } else {
                    let report = self.peer_reports(order);
                    self.report(order, member, report);
                }
            }
        }
    }

    fn decided(&mut self) {
        self.deciding = false;
        if self.plan.disturbance == Disturbance::JournalFails {
            self.live.note("the journal fails: in doubt".into());
            self.tell([Event::Decided(Err(Error::new("no space left")))]);
        } else {
            let verdict = self.core.verdict();
            self.live.note(match verdict {
                Some(Verdict::Commit) => "the verdict: commit".into(),
                Some(Verdict::Abort { disposition, .. }) => {
                    format!("the verdict: abort, {disposition:?}")
                }
                None => String::new(),
            });
            self.tell([Event::Decided(Ok(()))]);
        }
    }

    fn peer_reports(&self, order: Order) -> Report {
        let failing = self.injected && self.core.cause().is_none();
        let (report, text) = match (order, self.plan.disturbance) {
            (Order::Step, Disturbance::PeerFails) if failing => {
                (Report::Failed(Error::new("the peer failed")), "fails")
            }
            (Order::Step, Disturbance::PeerPanics) if failing => {
                (Report::Panicked(Error::new("the peer panicked")), "panics")
            }
            (Order::Prepare, Disturbance::PeerRefuses) => (
                Report::Failed(Error::new("the peer refused")),
                "refuses to prepare",
            ),
            (Order::Prepare, Disturbance::PeerPanicsInPrepare) => (
                Report::Panicked(Error::new("the peer panicked")),
                "panics in prepare",
            ),
            (Order::Step, _) => (Report::Done, "returns well"),
            _ => (Report::Done, "agrees"),
        };
        self.live.note(format!("the peer {text}"));
        report
    }

    fn run_task(&mut self, at: usize) {
        let stopped = self.bench.seat().gate.pass() == Pass::Stop;
        let Some((number, end)) = self.tasks.run(at, stopped) else {
            return;
        };
        match end {
            Ok(()) => {
                self.live.note(format!("task {number} ends"));
                self.tell([Event::TaskEnded(self.plan.me)]);
            }
            Err(error) => {
                self.live.note(format!("task {number} {error}"));
                self.breach(Rule::TaskPanics, format!("task {number} {error}"));
                self.tell([Event::TaskPanicked(self.plan.me, error)]);
            }
        }
    }

    /// Nothing happens by itself: does what a user would, or finds out who is to blame. False at the end.
    fn nudge(&mut self) -> bool {
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

    pub(super) fn hooks(&self) -> Hooks {
        let Some(driver) = self.bench.take_driver() else {
            return Hooks::NONE;
        };
        let hooks = driver.hooks();
        self.bench.put_driver(driver);
        hooks
    }

    /// What the driver left in its world, and whether that is as it must be.
    fn examine(&mut self, committed: &Option<String>) -> Option<String> {
        let verdict = self.core.verdict()?;
        let left = self.see();
        if let (Some(before), Some(left), Verdict::Abort { disposition, .. }) =
            (&self.before, &left, verdict)
            && before != left
        {
            let why = if self.steps == 0 {
                "it never ran"
            } else {
                "it was told to discard"
            };
            if self.steps == 0 || disposition == Disposition::Discard {
                let what = format!("{why}, and left {left} where {before} was");
                self.breach(Rule::LeavesTrace, what);
            }
        }
        if self.plan.disturbance == Disturbance::Crash && left != *committed {
            let what = format!(
                "rebuilt from its record it commits {}, without the crash {}",
                left.as_deref().unwrap_or_default(),
                committed.as_deref().unwrap_or_default()
            );
            self.breach(Rule::RecordFallsShort, what);
        }
        self.repeat_hooks(verdict, &left);
        let undisturbed = self.plan.disturbance == Disturbance::Nothing;
        left.filter(|_| undisturbed && verdict == Verdict::Commit)
    }

    pub(super) fn see(&mut self) -> Option<String> {
        self.check.observe.as_mut().map(|observe| observe())
    }

    pub(super) fn breach(&mut self, rule: Rule, what: String) {
        self.breaches.push((rule, what));
    }

    pub(super) fn halt(&mut self, rule: Rule, what: String) {
        self.halted = true;
        self.breach(rule, what);
    }

    /// Reports one member's order; after a refusal to prepare nobody else is asked.
    pub(super) fn report(&mut self, order: Order, member: u32, report: Report) {
        let refused = order == Order::Prepare && report != Report::Done;
        let ran = |member: u32, report| Event::Ran {
            order,
            members: member..member + 1,
            report,
        };
        let mut events = vec![ran(member, report)];
        if refused {
            let rest = std::mem::take(&mut self.orders);
            events.extend(
                rest.into_iter()
                    .map(|(_, member)| ran(member, Report::Left)),
            );
        }
        self.tell(events);
    }

    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut actions = Vec::new();
        for event in events {
            self.core.handle(event, &mut actions);
        }
        self.obey(actions);
    }

    pub(super) fn ask(&mut self, what: &str, request: Request) {
        let mut actions = Vec::new();
        match self.core.apply(request, &mut actions) {
            Ok(()) => self.live.note(format!("user: {what}")),
            Err(_) => self.live.note(format!("user: {what} (refused)")),
        }
        self.obey(actions);
    }

    fn apply(&mut self, request: Request) {
        let mut actions = Vec::new();
        let applied = self.core.apply(request, &mut actions);
        debug_assert!(applied.is_ok(), "a group is opened and sealed once");
        self.obey(actions);
    }

    fn obey(&mut self, actions: Vec<Action>) {
        let me = self.plan.me;
        let bench = Arc::clone(&self.bench);
        let gate = &bench.seat().gate;
        for action in actions {
            match action {
                Action::Run { order, members } => {
                    self.orders.extend(members.map(|member| (order, member)));
                }
                Action::Hold(span) if span.contains(&me) => gate.hold(),
                Action::Release(span) if span.contains(&me) => gate.release(),
                Action::Stop(span) if span.contains(&me) => gate.stop(),
                Action::Ask(span, asked) if span.contains(&me) => gate.ask(asked),
                Action::WakeAt(span, time) if span.contains(&me) => self.alarm = Some(time.0),
                Action::Decide(_) => self.deciding = true,
                Action::Continue => self.again = true,
                Action::Ended { .. } => self.over = true,
                Action::Notify(Notice::Status(span, status)) if span.contains(&me) => {
                    if status == Status::Ready {
                        self.ready_at.get_or_insert(self.steps);
                    }
                }
                Action::Hold(_)
                | Action::Release(_)
                | Action::Stop(_)
                | Action::Ask(..)
                | Action::WakeAt(..)
                | Action::Notify(_) => {}
            }
        }
    }
}

/// So many tasks, in words.
pub(super) fn tasks(count: usize) -> String {
    match count {
        1 => "1 task".into(),
        _ => format!("{count} tasks"),
    }
}
