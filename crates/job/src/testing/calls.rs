//! The calls that a run makes of its driver, and what each may not do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Rule;
use super::outside::tasks;
use super::plan::Disturbance;
use super::run::Run;
use crate::core::{Event, Order, Report, Request};
use crate::driver::{ErasedDriver, panic_error};
use crate::pause::Pass;
use crate::{
    Abort, Asked, Cause, Commit, Context, Disposition, Error, Hooks, Record, Step, Time, Verdict,
};

/// A driver that sleeps this often waits for something real: its clock no longer runs ahead.
const SLEEPS: usize = 1_000;

impl Run<'_> {
    /// Carries out an order on the driver.
    pub(super) fn call(&mut self, order: Order) {
        let me = self.plan.me;
        match order {
            Order::Step => self.step(),
            Order::Prepare => self.prepare(),
            Order::Commit => {
                let crash =
                    self.plan.disturbance == Disturbance::Crash && !self.record.0.is_empty();
                if crash && let Some(rebuild) = &mut self.check.rebuild {
                    self.live.note("killed, and rebuilt from its record".into());
                    drop(self.bench.take_driver());
                    self.bench.put_driver(rebuild(&self.record));
                }
                let how = Commit {
                    replayed: crash,
                    short: self.core.short(me),
                };
                self.settled = true;
                self.hook("commit", |driver| driver.commit(&how));
                self.report(order, me, Report::Done);
            }
            Order::Abort => {
                let why = self.why(false);
                self.settled = true;
                self.hook("abort", |driver| driver.abort(&why));
                self.report(order, me, Report::Done);
            }
            Order::Clean => {
                self.hook("clean", |driver| driver.clean());
                self.report(order, me, Report::Done);
            }
        }
    }

    /// Has the hooks called again, as after a crash, on a driver rebuilt from its record if that can be,
    /// and looks whether that changed anything.
    pub(super) fn repeat_hooks(&mut self, verdict: Verdict, left: &Option<String>) {
        if !self.record.0.is_empty()
            && let Some(rebuild) = &mut self.check.rebuild
        {
            drop(self.bench.take_driver());
            self.bench.put_driver(rebuild(&self.record));
        }
        let hooks = self.hooks();
        self.live.note("after a crash, again:".into());
        let name = match verdict {
            Verdict::Commit if hooks.has(Hooks::COMMIT) => {
                let how = Commit {
                    replayed: true,
                    short: self.core.short(self.plan.me),
                };
                self.hook("commit", |driver| driver.commit(&how));
                "commit"
            }
            Verdict::Abort { .. } if hooks.has(Hooks::ABORT) => {
                let why = self.why(true);
                self.hook("abort", |driver| driver.abort(&why));
                "abort"
            }
            Verdict::Commit | Verdict::Abort { .. } => "clean",
        };
        self.unchanged(name, left);
        if hooks.has(Hooks::CLEAN) {
            self.hook("clean", |driver| driver.clean());
            self.unchanged("clean", left);
        }
    }

    fn unchanged(&mut self, hook: &str, left: &Option<String>) {
        let (Some(before), Some(after)) = (left, self.see()) else {
            return;
        };
        let known = self
            .breaches
            .iter()
            .any(|(rule, _)| *rule == Rule::NotRepeatable);
        if *before != after && !known {
            let what = format!("{hook}, called again as after a crash, made {after} of {before}");
            self.breach(Rule::NotRepeatable, what);
        }
    }

    fn why(&self, replayed: bool) -> Abort {
        let (cause, disposition) = match self.core.verdict() {
            Some(Verdict::Abort { cause, disposition }) => (cause, disposition),
            Some(Verdict::Commit) | None => (Cause::ProcessEnded, Disposition::Keep),
        };
        Abort {
            replayed,
            ..Abort::new(cause, disposition)
        }
    }

    fn hook(&mut self, name: &'static str, call: impl FnOnce(&mut dyn ErasedDriver)) {
        let Some(mut driver) = self.bench.take_driver() else {
            return;
        };
        let called = self.live.hook(name, &mut *driver, call);
        self.bench.put_driver(driver);
        if let Err(what) = called {
            self.breach(Rule::HookPanics, what);
        }
    }

    fn prepare(&mut self) {
        let me = self.plan.me;
        let bench = std::sync::Arc::clone(&self.bench);
        let Some(mut driver) = bench.take_driver() else {
            return;
        };
        let mut cx = Context::on_bench(&bench, 0);
        let prepared = self.live.call("prepare", || {
            catch_unwind(AssertUnwindSafe(|| driver.prepare(&mut cx)))
        });
        let (spawned, _) = cx.into_wishes();
        bench.put_driver(driver);
        let report = match prepared {
            Ok(Ok(record)) => {
                self.note_prepared(&record);
                self.record = record;
                Report::Done
            }
            Ok(Err(error)) => {
                self.live.note(format!("prepare fails: {error}"));
                self.breach(Rule::PrepareFails, format!("prepare failed: {error}"));
                Report::Failed(error)
            }
            Err(panic) => {
                let error = panic_error(&*panic);
                self.live.note(format!("prepare {error}"));
                self.breach(Rule::HookPanics, format!("prepare {error}"));
                Report::Panicked(error)
            }
        };
        let count = spawned.len() as u32;
        if count > 0 {
            self.tasks.add(spawned);
            self.tell([Event::Spawned {
                member: me,
                tasks: count,
            }]);
        }
        self.report(Order::Prepare, me, report);
    }

    fn note_prepared(&self, record: &Record) {
        self.live.note(match record.0.len() {
            0 => "prepare".into(),
            bytes => format!("prepare, with a record of {bytes} bytes"),
        });
    }

    fn step(&mut self) {
        let me = self.plan.me;
        let bench = std::sync::Arc::clone(&self.bench);
        if bench.seat().gate.pass() != Pass::Run {
            return self.report(Order::Step, me, Report::Left);
        }
        let Some(mut driver) = bench.take_driver() else {
            return;
        };
        self.steps += 1;
        let mut cx = Context::on_bench(&bench, self.tasks.len());
        let step = self.live.call("step", || {
            catch_unwind(AssertUnwindSafe(|| driver.step(&mut cx)))
        });
        let (spawned, ready) = cx.into_wishes();
        bench.put_driver(driver);

        let count = spawned.len();
        self.note_step(&step, count, ready);
        self.tasks.add(spawned);
        if bench.take_pause() {
            self.ask("pause, by the driver itself", Request::Pause(me));
        }
        let report = self.judge(step, ready);
        let mut events = Vec::new();
        if count > 0 {
            events.push(Event::Spawned {
                member: me,
                tasks: count as u32,
            });
        }
        if ready {
            events.push(Event::Ready(me));
        }
        events.push(Event::Ran {
            order: Order::Step,
            members: me..me + 1,
            report,
        });
        self.tell(events);
    }

    fn note_step(&self, step: &std::thread::Result<Step>, spawned: usize, ready: bool) {
        let mut line = match step {
            Ok(Step::Again) => "step: again".into(),
            Ok(Step::Sleep(time)) => format!("step: sleep {time:?}"),
            Ok(Step::Wait(reason)) => format!("step: {reason}"),
            Ok(Step::Done(Ok(()))) => "step: done".into(),
            Ok(Step::Done(Err(error))) => format!("step: failed, {error}"),
            Err(panic) => format!("step {}", panic_error(&**panic)),
        };
        if ready {
            line += ", ready";
        }
        if spawned > 0 {
            line += &format!(", {} spawned", tasks(spawned));
        }
        self.live.note(line);
    }

    /// What a step said, and whether it may.
    fn judge(&mut self, step: std::thread::Result<Step>, ready: bool) -> Report {
        let limit = self.check.limits.steps;
        if self.steps >= limit {
            self.never_ends(&format!("did not end within {limit} steps"));
        }
        match step {
            Ok(Step::Again) => Report::Again,
            Ok(Step::Wait(reason)) => {
                self.reason = reason;
                Report::Wait
            }
            Ok(Step::Sleep(time)) => {
                self.doze(time);
                Report::Sleep(Time(self.bench.time().saturating_add(time)))
            }
            Ok(Step::Done(Ok(()))) => {
                self.judge_done(ready);
                Report::Done
            }
            Ok(Step::Done(Err(error))) => {
                self.breach(Rule::StepFails, format!("step failed: {error}"));
                Report::Failed(error)
            }
            Err(panic) => {
                let error: Error = panic_error(&*panic);
                self.breach(Rule::StepPanics, format!("step {error}"));
                Report::Panicked(error)
            }
        }
    }

    /// Who sleeps often may wait for a thread of its own, which needs some time; who was asked to end gets so much of it.
    fn doze(&mut self, time: Duration) {
        self.sleeps += 1;
        if self.sleeps <= SLEEPS {
            return;
        }
        let time = time.min(Duration::from_millis(1));
        self.bench.wait_woken(time);
        if self.bench.seat().gate.asked() != Asked::Run {
            self.dozed += time;
        }
        let patience = self.check.limits.patience;
        if self.dozed >= patience {
            self.never_ends(&format!("slept on for {patience:?}"));
        }
    }

    fn never_ends(&mut self, how: &str) {
        let asked = match self.bench.seat().gate.asked() {
            Asked::Run => "",
            Asked::Complete => ", although it was asked to complete",
            Asked::Finish => ", although it was asked to finish",
        };
        self.halt(Rule::NeverEnds, format!("it {how}{asked}"));
    }

    fn judge_done(&mut self, ready: bool) {
        let in_flight = self.tasks.len();
        if in_flight > 0 {
            let count = tasks(in_flight);
            let what =
                format!("step said done with {count} in flight, whose result nobody will see");
            self.breach(Rule::LeavesTasks, what);
        }
        let asked = self.bench.seat().gate.asked();
        let converged = ready || self.core.has_converged(self.plan.me);
        if converged && asked == Asked::Run {
            let what = "it said it was ready, and ended before anybody asked it to";
            self.breach(Rule::EndsUnasked, what.into());
        }
        let progress = self.bench.seat().progress();
        if progress.done != progress.total && asked != Asked::Finish {
            let what = format!(
                "step said done, and the progress {} of {}",
                progress.done, progress.total
            );
            self.breach(Rule::MiscountsProgress, what);
        }
    }
}
