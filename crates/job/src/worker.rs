//! The threads that call drivers: one drain loop each.
//!
//! A worker goes through a span one member after the other, and the watch can take the rest away from one that is
//! blocked: whoever has a driver in hand first, calls it. The worker reports runs of like results in creation order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::calls::{Calls, Came};
use crate::core::{Event, Order, Report};
use crate::desk::{Desk, Same};
use crate::group::Span;
use crate::seat::Task;
use crate::shell::{Shell, now};
use crate::sync::Ordering;
use crate::tasks;

/// After this long a worker lets others have their turn.
const SLICE: Duration = Duration::from_millis(1);
/// The clock is asked once in so many calls: asking it costs as much as a short call. While the calls are short, once in more.
const CALLS_PER_LOOK: u32 = 8;
const CALLS_PER_LOOK_MAX: u32 = 32;
/// So many calls in less than this are short ones.
const SHORT: Duration = Duration::from_micros(16);

/// Starts one worker.
pub(crate) fn start(shell: &Arc<Shell>) -> std::io::Result<()> {
    let desk = Arc::new(Desk::default());
    shell.desks.lock().push(Arc::clone(&desk));
    let worker = Worker {
        shell: Arc::clone(shell),
        desk: Arc::clone(&desk),
    };
    let started = thread::Builder::new()
        .name("cohort-worker".into())
        .spawn(move || worker.drain());
    if started.is_err() {
        shell.leave(&desk);
    }
    started.map(drop)
}

struct Worker {
    shell: Arc<Shell>,
    desk: Arc<Desk>,
}

impl Worker {
    fn drain(self) {
        while let Some(span) = self.shell.queue.take() {
            self.work(&span);
            drop(span);
            if self.shell.is_to_spare(&self.desk) {
                break;
            }
        }
        self.shell.leave(&self.desk);
    }

    fn work(&self, span: &Span) {
        let sitting = self.shell.sittings.fetch_add(1, Ordering::Relaxed);
        self.desk.sit(span, sitting);
        self.shell.watch.stir(&self.shell);
        self.work_off(span, sitting);
        self.desk.rise();
    }

    /// Runs the members of a span that nobody takes away meanwhile.
    fn work_off(&self, span: &Span, sitting: u64) {
        let mut slice = Slice::begin();
        let calls = Calls::of(span);
        let seats = span.group.seats();
        let mut same = None;
        let mut member = span.members.start;
        while member < span.members.end {
            self.desk.be_at(member, sitting);
            let seat = &seats[member as usize];
            let Some(mut hands) = seat.begin(sitting) else {
                if self.desk.still_has(member) {
                    continue;
                }
                break;
            };
            let came = calls.call(member, seat, &mut hands);
            drop(hands);
            let refused = matches!(
                &came,
                Came::Own {
                    report: Report::Failed(_) | Report::Panicked(_),
                    ..
                }
            );
            let counts = match came {
                Came::Same(result) if same == Some(result) => true,
                Came::Same(result) => {
                    same = Some(result);
                    self.desk.report(member, same, member)
                }
                Came::Own {
                    tasks,
                    ready,
                    report,
                } => {
                    same = None;
                    self.report_own(span, member, tasks, ready, report)
                }
            };
            if !counts {
                return disown(span, member);
            }
            member += 1;
            if (refused && span.order == Order::Prepare) || slice.is_over() {
                self.give_back(span, member);
                break;
            }
        }
        let kept = self.desk.report(member, None, member);
        if !kept && member > span.members.start {
            disown(span, member - 1);
        }
    }

    /// Reports a result of its own, with what the call asked for; false if it counts no more.
    fn report_own(
        &self,
        span: &Span,
        member: u32,
        tasks: Vec<Task>,
        ready: bool,
        report: Report,
    ) -> bool {
        let mut events = Vec::with_capacity(3);
        let spawned = tasks.len() as u32;
        if spawned > 0 {
            events.push(Event::Spawned {
                member,
                tasks: spawned,
            });
        }
        if ready {
            events.push(Event::Ready(member));
        }
        events.push(Event::Ran {
            order: span.order,
            members: member..member + 1,
            report,
        });
        // Under the lock: a task of this job that ends now may start one of these, and must not tell the
        // core of its end before the core has heard of its beginning.
        let enqueue = || {
            if spawned > 0 {
                span.group.seats()[member as usize]
                    .odds()
                    .waiting
                    .extend(tasks);
            }
        };
        let counts = self
            .desk
            .report_with(member, None, member + 1, events, enqueue);
        if counts && spawned > 0 {
            tasks::launch(&span.group, member);
        }
        counts
    }

    /// Leaves the unclaimed rest of a span to others: a step to whoever is free, a hook to the core,
    /// which may have changed its mind.
    fn give_back(&self, span: &Span, from: u32) {
        let rest = self.desk.give_back(from);
        if rest.is_empty() {
            return;
        }
        if span.order == Order::Step {
            self.shell.queue.put(Span {
                group: Arc::clone(&span.group),
                order: span.order,
                members: rest,
            });
            return;
        }
        let next = rest.start;
        let left = Event::Ran {
            order: span.order,
            members: rest,
            report: Report::Left,
        };
        self.desk.report_with(next, None, next, vec![left], || ());
    }
}

/// This worker's member was given up while it was in its call: drops what came back.
fn disown(span: &Span, member: u32) {
    let driver = span.group.seats()[member as usize].take_driver();
    // A panic while dropping has nobody left to concern.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(driver)));
}

/// One worker's turn.
struct Slice {
    end: Instant,
    /// The last look at the clock, the calls since, and how many to wait for.
    looked: Instant,
    calls: u32,
    until_look: u32,
}

impl Slice {
    fn begin() -> Self {
        let looked = now();
        Self {
            end: looked + SLICE,
            looked,
            calls: 0,
            until_look: CALLS_PER_LOOK,
        }
    }

    fn is_over(&mut self) -> bool {
        self.calls += 1;
        if self.calls < self.until_look {
            return false;
        }
        let time = now();
        let short = time.saturating_duration_since(self.looked) < SHORT;
        self.until_look = if short {
            CALLS_PER_LOOK_MAX.min(self.until_look * 2)
        } else {
            CALLS_PER_LOOK
        };
        (self.calls, self.looked) = (0, time);
        time >= self.end
    }
}

impl From<Same> for Report {
    fn from(same: Same) -> Self {
        match same {
            Same::Again => Self::Again,
            Same::Wait => Self::Wait,
            Same::Done => Self::Done,
            Same::Left => Self::Left,
        }
    }
}
