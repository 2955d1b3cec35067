//! What a worker has before it: shared with the watch, so that a blocked worker holds up nobody else.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::claim::Claim;
use crate::core::{Event, Order};
use crate::group::{Group, Later};
use crate::shell::now;
use crate::span::Span;
use crate::sync::Mutex;

/// A call that is still the same after this long counts as blocked.
pub(crate) const BLOCKED_AFTER: Duration = Duration::from_millis(10);

/// One worker's place of work.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) claim: Claim,
    /// None while the worker has nothing, and once it was disowned.
    place: Mutex<Option<Place>>,
}

#[derive(Debug)]
struct Place {
    group: Arc<Group>,
    order: Order,
    /// Members from here on are not reported yet; all before the one the worker is at came to `same`.
    unreported: u32,
    same: Option<Same>,
    /// The member that the core was told is stuck.
    stuck: Option<u32>,
    /// Where the worker was at the last look, and since when; none before the first.
    seen: Option<(u32, Instant)>,
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

impl Desk {
    /// The worker begins with a span.
    pub(crate) fn sit(&self, span: &Span) {
        let mut place = self.place.lock();
        self.claim.stake(&span.members);
        *place = Some(Place {
            group: Arc::clone(&span.group),
            order: span.order,
            unreported: span.members.start,
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

    /// Whether this member is still the worker's, who could not begin: the watch may have been looking just then.
    pub(crate) fn still_has(&self, member: u32) -> bool {
        let place = self.place.lock();
        place.is_some() && self.claim.covers(member)
    }

    /// The worker gives back what it has from here on; what is left of that.
    pub(crate) fn give_back(&self, from: u32) -> Range<u32> {
        let place = self.place.lock();
        let end = if place.is_some() {
            self.claim.end()
        } else {
            from
        };
        self.claim.set_end(from);
        from..end.max(from)
    }

    /// Reports what is unreported below `upto`; from `next` on results are `same`. False if the worker was
    /// disowned: then nothing of it counts.
    pub(crate) fn report(
        &self,
        upto: u32,
        same: Option<Same>,
        next: u32,
        onward: &mut Option<Span>,
    ) -> bool {
        self.report_with(upto, same, next, Vec::new(), || (), onward)
    }

    /// The same with events to follow, in the same turn; `under` runs under the group's lock. What hook is ordered next
    /// is for the worker to go on with.
    pub(crate) fn report_with(
        &self,
        upto: u32,
        same: Option<Same>,
        next: u32,
        events: Vec<Event>,
        under: impl FnOnce(),
        onward: &mut Option<Span>,
    ) -> bool {
        let mut desk = self.place.lock();
        let Some(place) = desk.as_mut() else {
            return false;
        };
        let later = place.report(upto, events, under);
        (place.unreported, place.same) = (next, same);
        let group = later.is_some().then(|| Arc::clone(&place.group));
        drop(desk);
        if let (Some(group), Some(later)) = (group, later)
            && let Some(span) = group.carry_on(later, Span::is_hook)
        {
            // There is at most one hook span out at a time.
            *onward = Some(span);
        }
        true
    }

    /// The watch looks: takes the rest of a step span from a blocked worker, reports for it what it did before, and tells
    /// the core of a call that is stuck.
    pub(crate) fn look(&self, stuck_after: Duration) -> Look {
        let mut desk = self.place.lock();
        let Some(place) = desk.as_mut() else {
            return Look::Idle;
        };
        let (member, time) = (self.claim.at(), now());
        let since = match place.seen {
            Some((seen, since)) if seen == member => since,
            Some(_) | None => {
                place.seen = Some((member, time));
                place.blocked = false;
                return Look::Moving;
            }
        };
        let blocked_for = time.saturating_duration_since(since);
        if blocked_for < BLOCKED_AFTER.min(stuck_after) {
            return Look::Moving;
        }
        place.blocked = true;
        if place.order == Order::Step {
            let group = &place.group;
            let rest = self
                .claim
                .take_rest(|member| group.drivers().is_free(member));
            if !rest.is_empty() {
                group.shell.queue.put(Span::new(group, place.order, rest));
            }
        }
        let later = place.blocked_at(member, blocked_for >= stuck_after);
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
        let end = self.claim.end();
        if !self.bar_after(member, group) {
            self.claim.set_end(end);
            // It came back and went on: the core must hear of that first.
            let later = place.report(member + 1, Vec::new(), || ());
            (place.unreported, place.stuck) = (member + 1, None);
            drop(desk);
            later.into_iter().for_each(|later| group.carry_out(later));
            return None;
        }
        let result = give_up();
        if result.is_ok() {
            let place = desk.take();
            drop(desk);
            drop(place);
        } else {
            self.claim.set_end(end);
        }
        Some(result)
    }

    /// Keeps the worker from going on after a member it is stuck in; false if it went on already.
    fn bar_after(&self, member: u32, group: &Group) -> bool {
        let next = member + 1;
        let is_free = |next| group.drivers().is_free(next);
        self.claim.at() == member && (next >= self.claim.end() || self.claim.bar(next, is_free))
    }
}

impl Place {
    /// Brings what is unreported below `upto`, then these events.
    fn report(&mut self, upto: u32, events: Vec<Event>, under: impl FnOnce()) -> Option<Later> {
        let span = self.unreported..upto;
        let run = self.same.filter(|_| !span.is_empty());
        let came_back = self.stuck.take_if(|member| span.contains(member));
        if run == Some(Same::Again) && events.is_empty() && came_back.is_none() {
            // To the core a job that goes on is still in its step, unless it was told that the job is stuck there: whoever
            // takes it looks at its gate.
            let span = Span::new(&self.group, self.order, span);
            self.group.shell.queue.put(span);
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

    /// Reports what the worker did before the member it is blocked in. If that one is stuck, tells the core so, and
    /// again at every look: the end of one of its tasks takes it back.
    fn blocked_at(&mut self, member: u32, is_stuck: bool) -> Option<Later> {
        if member < self.unreported {
            return None;
        }
        let mut events = Vec::new();
        if is_stuck {
            self.stuck = Some(member);
            events.push(Event::Stuck(member));
        }
        let later = self.report(member, events, || ());
        self.unreported = member;
        later
    }
}
