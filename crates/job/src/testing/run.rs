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
use crate::core::{Core, Event, Order, Report, Request};
use crate::pause::Pass;
use crate::{Disposition, Error, Hooks, Record, Spec, Verdict};

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
    pub(super) orders: VecDeque<(Order, u32)>,
    pub(super) tasks: Tasks,
    pub(super) alarm: Option<Duration>,
    pub(super) deciding: bool,
    pub(super) again: bool,
    pub(super) over: bool,
    /// Going on would tell nothing new.
    halted: bool,
    pub(super) injected: bool,
    pub(super) moments: usize,
    pub(super) steps: usize,
    pub(super) sleeps: usize,
    /// How long it slept since it was asked to end.
    pub(super) dozed: Duration,
    pub(super) reason: &'static str,
    pub(super) ready_at: Option<usize>,
    pub(super) record: Record,
    /// The journal has the verdict.
    written: bool,
    /// The driver was told to commit, or to abort.
    pub(super) settled: bool,
    before: Option<String>,
    pub(super) breaches: Vec<(Rule, String)>,
}

/// What is left of a process that was killed.
pub(crate) struct Remains {
    pub(crate) moments: usize,
    pub(crate) breaches: Vec<(Rule, String)>,
    /// What the driver's world was before.
    pub(crate) before: Option<String>,
    /// What the journal has: the verdict, if it was written.
    pub(crate) verdict: Option<Verdict>,
    /// What `prepare` returned; it lies beside the verdict, unless it is empty.
    pub(crate) record: Record,
    /// The driver was told to commit, or to abort.
    pub(crate) settled: bool,
    /// Every hook returned.
    pub(crate) over: bool,
    /// The journal knows that, too.
    pub(crate) done: bool,
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
            dozed: Duration::ZERO,
            reason: "",
            ready_at: None,
            record: Record::default(),
            written: false,
            settled: false,
            before,
            breaches: Vec::new(),
        }
    }

    /// The whole run; `committed` is what an undisturbed one left.
    pub(crate) fn all(mut self, committed: &Option<String>) -> Ended {
        self.go_on(usize::MAX);
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

    /// Runs until its process is killed before this event. No destructor runs.
    pub(crate) fn die_before(mut self, event: usize) -> Remains {
        self.go_on(event);
        if let Some(driver) = self.bench.take_driver() {
            std::mem::forget(driver);
        }
        self.tasks.die();
        let verdict = self.core.verdict().filter(|_| self.written);
        Remains {
            moments: self.moments,
            breaches: self.breaches,
            before: self.before,
            verdict,
            record: self.record,
            settled: self.settled,
            over: self.over,
            done: self.over && self.moments < event,
        }
    }

    /// Launches, and goes on to the end, or until this event is next.
    fn go_on(&mut self, event: usize) {
        self.launch();
        while !self.over && !self.halted && self.moments < event {
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
            self.written = true;
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
}
