//! One call of one driver, with its panics contained, and what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::core::{Order, Report};
use crate::desk::Same;
use crate::driver::{ErasedDriver, panic_error};
use crate::group::{Group, Span};
use crate::pause::Pass;
use crate::seat::{Hands, Seat, Task};
use crate::{
    Abort, Asked, Cause, Commit, Context, Disposition, Error, Record, Step, Time, Verdict,
};

/// What came of one call.
pub(crate) enum Came {
    /// A result that neighbours may share.
    Same(Same),
    /// One that is reported by itself, with what the call asked for.
    Own {
        tasks: Vec<Task>,
        ready: bool,
        report: Report,
    },
}

/// The calls of one span: what they have in common.
pub(crate) struct Calls<'a> {
    group: &'a Arc<Group>,
    order: Order,
    abort: Abort,
    replayed: bool,
}

impl<'a> Calls<'a> {
    pub(crate) fn of(span: &'a Span) -> Self {
        let mut calls = Self {
            group: &span.group,
            order: span.order,
            abort: Abort::new(Cause::ProcessEnded, Disposition::Keep),
            replayed: false,
        };
        if matches!(span.order, Order::Commit | Order::Abort) {
            let turn = span.group.lock();
            calls.replayed = turn.replayed;
            if let Some(Verdict::Abort { cause, disposition }) = turn.core.verdict() {
                calls.abort = Abort {
                    replayed: turn.replayed,
                    ..Abort::new(cause, disposition)
                };
            }
        }
        calls
    }

    /// Calls one member, whose driver the worker has in hand; holding no lock.
    pub(crate) fn call(&self, member: u32, seat: &Seat, hands: &mut Hands) -> Came {
        if self.order == Order::Step && seat.gate.pass() != Pass::Run {
            return Came::Same(Same::Left);
        }
        let Some(driver) = hands.driver.as_deref_mut() else {
            debug_assert!(seat.gate.is_abandoned(), "member {member} has no driver");
            return Came::own(Report::Panicked(Error::new("its driver is gone")));
        };
        let _entered = self.group.trace.enter(self.group, member, Some(self.order));
        match self.order {
            Order::Step => self.step(member, seat, driver),
            Order::Prepare => self.prepare(member, seat, driver),
            Order::Commit => contain(|| driver.commit(&self.how(seat))),
            Order::Abort => contain(|| driver.abort(&self.abort)),
            Order::Clean => {
                let driver = hands.driver.take();
                contain(move || {
                    // What it held is given back before its end is told.
                    driver.into_iter().for_each(|mut driver| driver.clean());
                })
            }
        }
    }

    fn how(&self, seat: &Seat) -> Commit {
        Commit {
            replayed: self.replayed,
            short: seat.gate.asked() == Asked::Finish,
        }
    }

    fn step(&self, member: u32, seat: &Seat, driver: &mut dyn ErasedDriver) -> Came {
        let mut cx = Context::new(self.group, member, seat);
        let step = catch_unwind(AssertUnwindSafe(|| driver.step(&mut cx)));
        let (tasks, ready) = cx.into_wishes();
        let plain = tasks.is_empty() && !ready;
        let report = match step {
            Ok(Step::Again) if plain => return Came::Same(Same::Again),
            Ok(Step::Again) => Report::Again,
            Ok(Step::Wait(reason)) => {
                seat.set_reason(reason);
                if plain {
                    return Came::Same(Same::Wait);
                }
                Report::Wait
            }
            Ok(Step::Sleep(time)) => {
                seat.set_reason("sleeps");
                Report::Sleep(Time(self.group.shell.elapsed().saturating_add(time)))
            }
            Ok(Step::Done(Ok(()))) if plain => return Came::Same(Same::Done),
            Ok(Step::Done(Ok(()))) => Report::Done,
            Ok(Step::Done(Err(error))) => Report::Failed(error),
            Err(panic) => Report::Panicked(panic_error(&*panic)),
        };
        Came::Own {
            tasks,
            ready,
            report,
        }
    }

    fn prepare(&self, member: u32, seat: &Seat, driver: &mut dyn ErasedDriver) -> Came {
        let mut cx = Context::new(self.group, member, seat);
        let prepared = catch_unwind(AssertUnwindSafe(|| driver.prepare(&mut cx)));
        let (tasks, _) = cx.into_wishes();
        let report = match prepared {
            Ok(Ok(record)) => {
                if record != Record::default() {
                    seat.odds().record = Some(record);
                }
                if tasks.is_empty() {
                    return Came::Same(Same::Done);
                }
                Report::Done
            }
            Ok(Err(error)) => Report::Failed(error),
            Err(panic) => Report::Panicked(panic_error(&*panic)),
        };
        Came::Own {
            tasks,
            ready: false,
            report,
        }
    }
}

impl Came {
    fn own(report: Report) -> Self {
        Self::Own {
            tasks: Vec::new(),
            ready: false,
            report,
        }
    }
}

fn contain(hook: impl FnOnce()) -> Came {
    match catch_unwind(AssertUnwindSafe(hook)) {
        Ok(()) => Came::Same(Same::Done),
        Err(panic) => Came::own(Report::Panicked(panic_error(&*panic))),
    }
}
