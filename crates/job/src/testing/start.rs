//! The start after a kill: the registry makes a driver of its record, the engine's core orders the hooks that are owed,
//! and what nobody decided is swept away.

use super::crashes::Registry;
use super::live::Live;
use super::run::Remains;
use super::{Observe, Rule};
use crate::core::{Action, Core, Event, Order, Report, Request};
use crate::{Abort, Commit, ErasedDriver, GroupName, MemberName, Spec, Verdict};

pub(crate) type Sweep = Box<dyn FnMut() + Send>;

/// One start, and what it does wrong.
pub(crate) struct Start<'a> {
    pub(crate) registry: &'a mut Registry,
    pub(crate) sweep: &'a mut Option<Sweep>,
    pub(crate) live: &'a Live,
    pub(crate) breaches: Vec<(Rule, String)>,
}

impl Start<'_> {
    /// Runs the hooks that are owed; killed after so many of them, if it is told to.
    pub(crate) fn recover(&mut self, remains: &Remains, killed_after: Option<usize>) {
        self.live.note("the next start:".into());
        let (Some(verdict), false) = (remains.verdict, remains.done) else {
            return;
        };
        if remains.record.0.is_empty() {
            self.live.note("it has no record".into());
            return;
        }
        let (group, name) = (GroupName::new("crashes"), MemberName::new("driver"));
        let Registry { kind, rebuild } = self.registry;
        let Some(driver) = rebuild(&group, &name, kind, &remains.record) else {
            let what = format!("the registry makes no driver of kind {kind:?} and its record");
            self.live.note(what.clone());
            self.breaches.push((Rule::NotRebuilt, what));
            return;
        };
        self.live.note("rebuilt from its record".into());
        self.replay(verdict, driver, killed_after.unwrap_or(usize::MAX));
    }

    /// Has what no verdict speaks of swept away.
    pub(crate) fn sweep(&mut self) {
        if let Some(sweep) = self.sweep {
            self.live.call("the sweep", sweep);
            self.live.note("the sweep".into());
        }
    }

    fn replay(&mut self, verdict: Verdict, mut driver: Box<dyn ErasedDriver>, hooks: usize) {
        let spec = Spec {
            hooks: driver.hooks(),
            ..Spec::default()
        };
        let (mut core, mut actions) = (Core::new(), Vec::new());
        for request in [Request::Add { count: 1, spec }, Request::Replay(verdict)] {
            let taken = core.apply(request, &mut actions);
            debug_assert!(taken.is_ok(), "an open group can be replayed");
        }
        let mut called = 0;
        while let Some(action) = actions.pop() {
            let Action::Run { order, .. } = action else {
                continue;
            };
            if called == hooks {
                self.live.note("killed again".into());
                std::mem::forget(driver);
                return;
            }
            called += 1;
            self.hook(order, verdict, &mut *driver);
            let ran = Event::Ran {
                order,
                members: 0..1,
                report: Report::Done,
            };
            core.handle(ran, &mut actions);
        }
    }

    fn hook(&mut self, order: Order, verdict: Verdict, driver: &mut dyn ErasedDriver) {
        let live = self.live;
        let called = match (order, verdict) {
            (Order::Commit, _) => {
                let how = Commit {
                    replayed: true,
                    short: false,
                };
                live.hook("commit", driver, |driver| driver.commit(&how))
            }
            (Order::Abort, Verdict::Abort { cause, disposition }) => {
                let why = Abort {
                    replayed: true,
                    ..Abort::new(cause, disposition)
                };
                live.hook("abort", driver, |driver| driver.abort(&why))
            }
            (Order::Clean, _) => live.hook("clean", driver, |driver| driver.clean()),
            (Order::Step | Order::Prepare | Order::Abort, _) => Ok(()),
        };
        if let Err(what) = called {
            self.breaches.push((Rule::HookPanics, what));
        }
    }
}

/// What the driver's world is, without a call that might not return going unseen.
pub(crate) fn see(live: &Live, observe: &mut Option<Observe>) -> Option<String> {
    observe
        .as_mut()
        .map(|observe| live.call("the observation", observe))
}
