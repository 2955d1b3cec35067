//! One call of one driver, with its panics contained, and what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::claim::Claim;
use crate::core::{Order, Report};
use crate::desk::Same;
use crate::driver::{ErasedDriver, caught};
use crate::group::Group;
use crate::pause::Pass;
use crate::reasons::Reason;
use crate::seat::{Seat, Task};
use crate::slice::Slice;
use crate::span::Span;
use crate::{
    Abort, Asked, Cause, Commit, Context, Disposition, Error, Record, Step, Time, Verdict,
};

/// What came of one call.
pub(crate) enum Came {
    /// A result that neighbours may share.
    Same(Same),
    /// One that is reported by itself. Boxed, since most are the other one.
    Own(Box<Own>),
}

/// What one call came to by itself, with what it asked for.
pub(crate) struct Own {
    pub(crate) tasks: Vec<Task>,
    pub(crate) ready: bool,
    pub(crate) report: Report,
}

impl Came {
    #[cold]
    fn own(tasks: Vec<Task>, ready: bool, report: Report) -> Self {
        Self::Own(Box::new(Own {
            tasks,
            ready,
            report,
        }))
    }

    /// What neighbours may share, if they may.
    pub(crate) fn same(&self) -> Option<Same> {
        match self {
            Self::Same(same) => Some(*same),
            Self::Own(_) => None,
        }
    }

    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::Same(_) => false,
            Self::Own(own) => matches!(own.report, Report::Failed(_) | Report::Panicked(_)),
        }
    }
}

/// Why a worker stopped calling one member after the other.
pub(crate) enum Stop {
    /// All were called.
    End,
    /// All of one slab were called; the next begins with this member.
    SlabEnd(u32),
    /// This member came to something else than those before it.
    Other(u32, Came),
    /// This member is not the worker's, or the watch is looking at it just now.
    Taken(u32),
    /// The worker's turn is over; it has not begun with this member.
    TimeUp(u32),
}

/// One worker's way through a span: what its calls have in common.
pub(crate) struct Round<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) slice: &'a mut Slice,
    /// What all that is not reported yet came to.
    pub(crate) same: Option<Same>,
    group: &'a Arc<Group>,
    order: Order,
    abort: Abort,
    replayed: bool,
    /// Some member converged, so that some may be asked for something.
    converged: bool,
    /// What the last one that waits said, and its number.
    reason: (&'static str, Reason),
}

impl<'a> Round<'a> {
    pub(crate) fn new(span: &'a Span, claim: &'a Claim, slice: &'a mut Slice) -> Self {
        let mut round = Self {
            claim,
            slice,
            same: None,
            group: &span.group,
            order: span.order,
            abort: Abort::new(Cause::ProcessEnded, Disposition::Keep),
            replayed: false,
            converged: false,
            reason: ("", 0),
        };
        if matches!(span.order, Order::Commit | Order::Abort) {
            let turn = span.group.lock();
            round.replayed = turn.replayed;
            round.converged = turn.core.any_has_converged();
            if let Some(Verdict::Abort { cause, disposition }) = turn.core.verdict() {
                round.abort = Abort {
                    replayed: turn.replayed,
                    ..Abort::new(cause, disposition)
                };
            }
        }
        round
    }

    #[inline]
    pub(crate) fn order(&self) -> Order {
        self.order
    }

    /// The seats of so many members, from this one on.
    #[inline]
    pub(crate) fn seats(&self, from: u32, count: usize) -> &'a [Seat] {
        &self.group.seats()[from as usize..][..count]
    }

    /// Steps a member, whose driver is in hand; as all calls do, holding no lock.
    #[inline]
    pub(crate) fn step(
        &mut self,
        member: u32,
        seat: &Seat,
        held: &mut Option<impl ErasedDriver>,
    ) -> Came {
        if seat.gate.pass() != Pass::Run {
            return Came::Same(Same::Left);
        }
        let Some(driver) = held else {
            return gone();
        };
        let _entered = self.group.trace.enter(self.group, member, Some(self.order));
        let in_flight = seat.odds_if_any().map_or(0, |odds| odds.tasks());
        let mut cx = Context::new(self.group, member, seat, in_flight);
        let step = catch_unwind(AssertUnwindSafe(|| driver.step(&mut cx)));
        let (tasks, ready) = cx.into_wishes();
        let plain = tasks.is_empty() && !ready;
        let report = match step {
            Ok(Step::Done(Ok(()))) if plain => return Came::Same(Same::Done),
            Ok(Step::Done(Ok(()))) => Report::Done,
            Ok(Step::Again) if plain => return Came::Same(Same::Again),
            Ok(Step::Again) => Report::Again,
            Ok(Step::Wait(reason)) => {
                self.set_reason(seat, reason);
                if plain {
                    return Came::Same(Same::Wait);
                }
                Report::Wait
            }
            Ok(Step::Sleep(time)) => {
                self.set_reason(seat, "sleeps");
                Report::Sleep(Time(self.group.shell.elapsed().saturating_add(time)))
            }
            Ok(Step::Done(Err(error))) => Report::Failed(error),
            Err(panic) => Report::Panicked(caught(panic)),
        };
        Came::own(tasks, ready, report)
    }

    #[inline]
    pub(crate) fn prepare(
        &self,
        member: u32,
        seat: &Seat,
        held: &mut Option<impl ErasedDriver>,
    ) -> Came {
        let Some(driver) = held else {
            return gone();
        };
        let _entered = self.group.trace.enter(self.group, member, Some(self.order));
        // A group prepares when all its tasks have ended.
        let mut cx = Context::new(self.group, member, seat, 0);
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
            Err(panic) => Report::Panicked(caught(panic)),
        };
        Came::own(tasks, false, report)
    }

    #[inline]
    pub(crate) fn commit(
        &self,
        member: u32,
        seat: &Seat,
        held: &mut Option<impl ErasedDriver>,
    ) -> Came {
        let how = Commit {
            replayed: self.replayed,
            short: self.converged && seat.gate.asked() == Asked::Finish,
        };
        self.hook(member, held, |driver| driver.commit(&how))
    }

    #[inline]
    pub(crate) fn abort(&self, member: u32, held: &mut Option<impl ErasedDriver>) -> Came {
        self.hook(member, held, |driver| driver.abort(&self.abort))
    }

    #[inline]
    pub(crate) fn clean(&self, member: u32, held: &mut Option<impl ErasedDriver>) -> Came {
        let _entered = self.group.trace.enter(self.group, member, Some(self.order));
        let driver = held.take();
        contain(move || {
            // What it held is given back before its end is told.
            driver.into_iter().for_each(|mut driver| driver.clean());
        })
    }

    #[inline]
    fn hook<D: ErasedDriver>(
        &self,
        member: u32,
        held: &mut Option<D>,
        call: impl FnOnce(&mut D),
    ) -> Came {
        let Some(driver) = held else {
            return gone();
        };
        let _entered = self.group.trace.enter(self.group, member, Some(self.order));
        contain(|| call(driver))
    }

    fn set_reason(&mut self, seat: &Seat, reason: &'static str) {
        if !std::ptr::eq(self.reason.0, reason) {
            self.reason = (reason, self.group.shell.reasons.number(reason));
        }
        seat.gate.set_reason(self.reason.1);
    }
}

/// Only a member that was given up is called without a driver, and then nobody hears of it.
#[cold]
fn gone() -> Came {
    own(Report::Panicked(Error::new("its driver is gone")))
}

fn own(report: Report) -> Came {
    Came::own(Vec::new(), false, report)
}

#[inline]
fn contain(hook: impl FnOnce()) -> Came {
    match catch_unwind(AssertUnwindSafe(hook)) {
        Ok(()) => Came::Same(Same::Done),
        Err(panic) => own(Report::Panicked(caught(panic))),
    }
}
