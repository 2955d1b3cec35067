//! The threads that call drivers: one drain loop each, and whoever runs a job where it stands.
//!
//! A worker goes through a span one member after the other, and the watch can take the rest away from one that is
//! blocked: whoever has a driver in hand first, calls it. The worker reports runs of like results in creation order.
//! A hook that follows from what it reported it goes on with itself, as long as its turn lasts.

use std::sync::Arc;
use std::thread;

use crate::calls::{Came, Own, Round, Stop};
use crate::core::{Event, Order, Report};
use crate::desk::{Desk, Same};
use crate::seat::Task;
use crate::shell::Shell;
use crate::slice::Slice;
use crate::span::Span;
use crate::tasks;

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

/// Runs a span, and what follows from it, on the thread that asks.
pub(crate) fn run_here(shell: &Arc<Shell>, span: Span) {
    let guest = Worker {
        shell: Arc::clone(shell),
        desk: shell.guests.come(),
    };
    guest.work(span);
    shell.guests.go(guest.desk);
}

struct Worker {
    shell: Arc<Shell>,
    desk: Arc<Desk>,
}

impl Worker {
    fn drain(self) {
        while let Some(span) = self.shell.queue.take() {
            self.work(span);
            if self.shell.is_to_spare(&self.desk) {
                break;
            }
        }
        self.shell.leave(&self.desk);
    }

    /// Runs a span, then the hooks that it leads to, until its turn is over.
    fn work(&self, span: Span) {
        let mut slice = Slice::begin();
        let mut next = Some(span);
        while let Some(span) = next.take() {
            if slice.was_over() {
                self.shell.queue.put(span);
                break;
            }
            self.desk.sit(&span);
            self.shell.watch.stir(&self.shell);
            self.work_off(&span, &mut slice, &mut next);
            self.desk.rise();
        }
    }

    /// Runs the members of a span that nobody takes away meanwhile. What hook is ordered next comes into `onward`.
    fn work_off(&self, span: &Span, slice: &mut Slice, onward: &mut Option<Span>) {
        let drivers = span.group.drivers();
        let mut round = Round::new(span, &self.desk.claim, slice);
        let end = span.members.end;
        let mut member = span.members.start;
        while member < end {
            match drivers.call(member..end, &mut round) {
                Stop::End => member = end,
                Stop::SlabEnd(next) => member = next,
                Stop::Taken(at) => {
                    member = at;
                    if !self.desk.still_has(member) {
                        break;
                    }
                }
                Stop::TimeUp(next) => {
                    member = next;
                    self.give_back(span, member, onward);
                    break;
                }
                Stop::Other(at, came) => {
                    let refused = span.order == Order::Prepare && came.is_failure();
                    round.same = came.same();
                    if !self.report_one(span, at, came, onward) {
                        return span.group.drivers().discard(at);
                    }
                    member = at + 1;
                    if refused || round.slice.is_over() {
                        self.give_back(span, member, onward);
                        break;
                    }
                }
            }
        }
        let kept = self.desk.report(member, None, member, onward);
        if !kept && member > span.members.start {
            // It was given up while it was in its call: what came back is dropped.
            drivers.discard(member - 1);
        }
    }

    /// Reports what came before a member that came to something else, and what is not shared with neighbours; false if
    /// it counts no more.
    fn report_one(&self, span: &Span, member: u32, came: Came, onward: &mut Option<Span>) -> bool {
        let Own {
            tasks,
            ready,
            report,
        } = match came {
            Came::Same(same) => return self.desk.report(member, Some(same), member, onward),
            Came::Own(own) => *own,
        };
        let spawned = tasks.len() as u32;
        let events = events(span.order, member, spawned, ready, report);
        // Under the lock: a task of this job that ends now may start one of these, and must not tell the
        // core of its end before the core has heard of its beginning.
        let enqueue = || enqueue(span, member, tasks);
        let counts = self
            .desk
            .report_with(member, None, member + 1, events, enqueue, onward);
        if counts && spawned > 0 {
            tasks::launch(&span.group, member);
        }
        counts
    }

    /// Leaves the unclaimed rest of a span to others: a step to whoever is free, a hook to the core,
    /// which may have changed its mind.
    fn give_back(&self, span: &Span, from: u32, onward: &mut Option<Span>) {
        let rest = self.desk.give_back(from);
        if rest.is_empty() {
            return;
        }
        if !span.is_hook() {
            let rest = Span::new(&span.group, span.order, rest);
            self.shell.queue.put(rest);
            return;
        }
        let next = rest.start;
        let left = Event::Ran {
            order: span.order,
            members: rest,
            report: Report::Left,
        };
        self.desk
            .report_with(next, None, next, vec![left], || (), onward);
    }
}

/// What one call came to, as the core hears it.
fn events(order: Order, member: u32, spawned: u32, ready: bool, report: Report) -> Vec<Event> {
    let mut events = Vec::with_capacity(3);
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
        order,
        members: member..member + 1,
        report,
    });
    events
}

fn enqueue(span: &Span, member: u32, tasks: Vec<Task>) {
    if !tasks.is_empty() {
        let mut odds = span.group.seats()[member as usize].odds();
        odds.waiting.extend(tasks);
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
