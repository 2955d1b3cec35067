//! What a worker has before it: shared with the watch, so that a blocked worker holds up nobody else.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::{Event, Order};
use crate::group::{Group, Later, Span};
use crate::shell::now;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// A call that is still the same after this long counts as blocked.
pub(crate) const BLOCKED_AFTER: Duration = Duration::from_millis(10);

/// One worker's place of work.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// The member the worker is at, in the low half, and above it a few bits of the sitting. Only the worker writes it:
    /// what keeps two from calling one member is [`Seat::begin`](crate::seat::Seat::begin).
    at: AtomicU64,
    /// None while the worker has nothing, and once it was disowned.
    place: Mutex<Option<Place>>,
}

#[derive(Debug)]
struct Place {
    group: Arc<Group>,
    order: Order,
    /// Numbers the times that anybody sat down, in order.
    sitting: u64,
    /// Where the worker is to stop: members from here on are not its own.
    end: u32,
    /// Members from here on are not reported yet; all before the one the worker is at came to `same`.
    unreported: u32,
    same: Option<Same>,
    /// The member that the core was told is stuck.
    stuck: Option<u32>,
    /// Where the worker was at the last look, and since when; none before the first.
    seen: Option<(u64, Instant)>,
    blocked: bool,
}

/// A result with nothing else to it, which neighbours may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Same {
    Again,
    Wait,
    Done,
    Left,
}

/// What a look at a desk shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Idle,
    Moving,
    Blocked,
}

/// The worker is not where it was seen.
struct WentOn;

impl Desk {
    /// The worker begins with a span. Sittings are numbered in order, over all desks of an engine.
    pub(crate) fn sit(&self, span: &Span, sitting: u64) {
        let Range { start, end } = span.members;
        self.be_at(start, sitting);
        *self.place.lock() = Some(Place {
            group: Arc::clone(&span.group),
            order: span.order,
            sitting,
            end,
            unreported: start,
            same: None,
            stuck: None,
            seen: None,
            blocked: false,
        });
    }

    /// The worker is through with it.
    pub(crate) fn rise(&self) {
        let place = self.place.lock().take();
        drop(place);
    }

    /// The worker goes on to this member: all before it are done.
    pub(crate) fn be_at(&self, member: u32, sitting: u64) {
        let word = sitting << 32 | u64::from(member);
        self.at.store(word, Ordering::Release);
    }

    /// Whether this member is still the worker's, who could not begin: the watch may have been looking just then.
    pub(crate) fn still_has(&self, member: u32) -> bool {
        let place = self.place.lock();
        place.as_ref().is_some_and(|place| member < place.end)
    }

    /// The worker gives back what it has from here on; what is left of that.
    pub(crate) fn give_back(&self, from: u32) -> Range<u32> {
        let mut place = self.place.lock();
        place.as_mut().map_or(from..from, |place| {
            from..std::mem::replace(&mut place.end, from)
        })
    }

    /// Reports what is unreported below `upto`; from `next` on results are `same`. False if the worker was
    /// disowned: then nothing of it counts.
    pub(crate) fn report(&self, upto: u32, same: Option<Same>, next: u32) -> bool {
        self.report_with(upto, same, next, Vec::new(), || ())
    }

    /// The same with events to follow, in the same turn; `under` runs under the group's lock.
    pub(crate) fn report_with(
        &self,
        upto: u32,
        same: Option<Same>,
        next: u32,
        events: Vec<Event>,
        under: impl FnOnce(),
    ) -> bool {
        let mut desk = self.place.lock();
        let Some(place) = desk.as_mut() else {
            return false;
        };
        let later = place.report(upto, events, under);
        (place.unreported, place.same) = (next, same);
        let group = later.is_some().then(|| Arc::clone(&place.group));
        drop(desk);
        if let (Some(group), Some(later)) = (group, later) {
            group.carry_out(later);
        }
        true
    }

    /// The watch looks: takes the rest of a step span from a blocked worker, and tells the core of a
    /// call that is stuck.
    pub(crate) fn look(&self, stuck_after: Duration) -> Look {
        let mut desk = self.place.lock();
        let Some(place) = desk.as_mut() else {
            return Look::Idle;
        };
        let (word, time) = (self.at.load(Ordering::Acquire), now());
        let since = match place.seen {
            Some((seen, since)) if seen == word => since,
            Some(_) | None => {
                place.seen = Some((word, time));
                place.blocked = false;
                return Look::Moving;
            }
        };
        let member = word as u32;
        let blocked_for = time.saturating_duration_since(since);
        if blocked_for < BLOCKED_AFTER.min(stuck_after) {
            return Look::Moving;
        }
        place.blocked = true;
        if place.order == Order::Step {
            let rest = place.take_rest(member);
            if !rest.is_empty() {
                let span = Span {
                    group: Arc::clone(&place.group),
                    order: place.order,
                    members: rest,
                };
                place.group.shell.queue.put(span);
            }
        }
        let later = place.stuck_now(member, blocked_for >= stuck_after);
        let group = Arc::clone(&place.group);
        drop(desk);
        if let Some(later) = later {
            group.carry_out(later);
        }
        Look::Blocked
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.place
            .lock()
            .as_ref()
            .is_some_and(|place| place.blocked)
    }

    /// Disowns the worker if it is stuck in this member and `give_up`, which runs meanwhile, says yes.
    pub(crate) fn disown_if<E>(
        &self,
        group: &Arc<Group>,
        member: u32,
        give_up: impl FnOnce() -> Result<Later, E>,
    ) -> Option<Result<Later, E>> {
        let mut desk = self.place.lock();
        let place = desk.as_mut()?;
        if !Arc::ptr_eq(&place.group, group) || place.stuck != Some(member) {
            return None;
        }
        let barred = place.bar_after(member, self.at.load(Ordering::Acquire) as u32);
        let Ok(barred) = barred else {
            // It came back and went on: the core must hear of that first.
            let later = place.report(member + 1, Vec::new(), || ());
            (place.unreported, place.stuck) = (member + 1, None);
            drop(desk);
            later.into_iter().for_each(|later| group.carry_out(later));
            return None;
        };
        let result = give_up();
        if result.is_ok() {
            let place = desk.take();
            drop(desk);
            drop(place);
        } else if let Some(before) = barred {
            group.seats()[member as usize + 1].unbar(before);
        }
        Some(result)
    }
}

impl Place {
    /// Brings what is unreported below `upto`, then these events.
    fn report(&mut self, upto: u32, events: Vec<Event>, under: impl FnOnce()) -> Option<Later> {
        let span = self.unreported..upto;
        let run = self.same.filter(|_| !span.is_empty());
        if run == Some(Same::Again) && events.is_empty() {
            // To the core a job that goes on is still in its step: whoever takes it looks at its gate.
            let group = Arc::clone(&self.group);
            self.group.shell.queue.put(Span {
                group,
                order: self.order,
                members: span,
            });
            return None;
        }
        let ran = run.map(|same| Event::Ran {
            order: self.order,
            members: span,
            report: same.into(),
        });
        if ran.is_none() && events.is_empty() {
            return None;
        }
        Some(self.group.tell_locked(ran.into_iter().chain(events), under))
    }

    /// Takes what comes after the member the worker is at, which is a blocked one. It may come back any moment and go on,
    /// so what is taken begins with the first that it can be kept from; there it stops by itself.
    fn take_rest(&mut self, at: u32) -> Range<u32> {
        let seats = self.group.seats();
        let can_bar = |member: &u32| seats[*member as usize].bar(self.sitting).is_some();
        let from = (at + 1..self.end).find(can_bar).unwrap_or(self.end);
        from..std::mem::replace(&mut self.end, from)
    }

    /// Keeps the worker from going on after a member it is stuck in. Says what [`Seat::unbar`](crate::seat::Seat::unbar)
    /// needs, if there is a member after it; refused if the worker went on already.
    fn bar_after(&self, member: u32, at: u32) -> Result<Option<u64>, WentOn> {
        if at != member {
            return Err(WentOn);
        }
        if member + 1 >= self.end {
            return Ok(None);
        }
        let next = &self.group.seats()[member as usize + 1];
        next.bar(self.sitting).map(Some).ok_or(WentOn)
    }

    /// Tells the core that the member the worker is at is stuck, and again at every look: the end of one of
    /// its tasks takes it back.
    fn stuck_now(&mut self, member: u32, is_stuck: bool) -> Option<Later> {
        if !is_stuck || member < self.unreported {
            return None;
        }
        self.stuck = Some(member);
        let later = self.report(member, vec![Event::Stuck(member)], || ());
        self.unreported = member;
        later
    }
}
