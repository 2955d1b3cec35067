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
    /// The members not claimed yet: the first in the low half, the end in the high half.
    claims: AtomicU64,
    /// None while the worker has nothing, and once it was disowned.
    place: Mutex<Option<Place>>,
}

#[derive(Debug)]
struct Place {
    group: Arc<Group>,
    order: Order,
    /// Claimed members from here on are not reported yet; all but the last claimed came to `same`.
    unreported: u32,
    same: Option<Same>,
    /// The member that the core was told is stuck.
    stuck: Option<u32>,
    /// The claims at the last look, and since when they are so.
    seen: (u64, Instant),
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
        let members = span.members.clone();
        let unreported = members.start;
        self.claims.store(pack(members), Ordering::Release);
        *self.place.lock() = Some(Place {
            group: Arc::clone(&span.group),
            order: span.order,
            unreported,
            same: None,
            stuck: None,
            seen: (u64::MAX, now()),
            blocked: false,
        });
    }

    /// The worker is through with it.
    pub(crate) fn rise(&self) {
        let place = self.place.lock().take();
        drop(place);
    }

    /// The next member, if any is left.
    pub(crate) fn claim(&self) -> Option<u32> {
        let before = self.shift(|span| {
            if span.is_empty() {
                span
            } else {
                span.start + 1..span.end
            }
        });
        (!before.is_empty()).then_some(before.start)
    }

    /// Takes what was not claimed yet.
    pub(crate) fn take_rest(&self) -> Range<u32> {
        self.shift(|span| span.start..span.start)
    }

    /// The end of what was claimed.
    pub(crate) fn claimed(&self) -> u32 {
        unpack(self.claims.load(Ordering::Acquire)).start
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
        let (word, time) = (self.claims.load(Ordering::Acquire), now());
        let (seen, since) = place.seen;
        if word != seen {
            place.seen = (word, time);
            place.blocked = false;
            return Look::Moving;
        }
        let blocked_for = time.saturating_duration_since(since);
        if blocked_for < BLOCKED_AFTER.min(stuck_after) {
            return Look::Moving;
        }
        place.blocked = true;
        if place.order == Order::Step {
            let rest = self.take_rest();
            place.seen.0 = pack(rest.start..rest.start);
            if !rest.is_empty() {
                let span = Span {
                    group: Arc::clone(&place.group),
                    order: place.order,
                    members: rest,
                };
                place.group.shell.queue.put(span);
            }
        }
        let later = place.stuck_now(unpack(word).start, blocked_for >= stuck_after);
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
        let place = desk.as_ref()?;
        if !Arc::ptr_eq(&place.group, group) || place.stuck != Some(member) {
            return None;
        }
        let result = give_up();
        if result.is_ok() {
            let end = self.claimed();
            self.claims.store(pack(end..end), Ordering::Release);
            let place = desk.take();
            drop(desk);
            drop(place);
        }
        Some(result)
    }

    fn shift(&self, change: impl Fn(Range<u32>) -> Range<u32>) -> Range<u32> {
        let mut seen = self.claims.load(Ordering::Acquire);
        loop {
            let next = pack(change(unpack(seen)));
            match self
                .claims
                .compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return unpack(seen),
                Err(now) => seen = now,
            }
        }
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

    /// Tells the core that the last claimed member is stuck, and again at every look: the end of one of
    /// its tasks takes it back.
    fn stuck_now(&mut self, claimed: u32, is_stuck: bool) -> Option<Later> {
        let member = claimed
            .checked_sub(1)
            .filter(|member| *member >= self.unreported)?;
        if !is_stuck {
            return None;
        }
        self.stuck = Some(member);
        let later = self.report(member, vec![Event::Stuck(member)], || ());
        self.unreported = member;
        later
    }
}

const fn pack(members: Range<u32>) -> u64 {
    (members.end as u64) << 32 | members.start as u64
}

const fn unpack(word: u64) -> Range<u32> {
    word as u32..(word >> 32) as u32
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::explore;

    #[test]
    fn every_member_is_claimed_by_the_worker_or_taken_by_the_watch() {
        explore("a worker that claims against a watch that takes", || {
            let desk = Arc::new(Desk::default());
            desk.claims.store(pack(0..2), Ordering::Release);
            let watch = thread::spawn({
                let desk = Arc::clone(&desk);
                move || desk.take_rest()
            });
            let claimed: Vec<u32> = std::iter::from_fn(|| desk.claim()).collect();
            let taken = watch.join().unwrap();
            let all: Vec<u32> = claimed.iter().copied().chain(taken).collect();
            assert_eq!(all, [0, 1]);
            assert_eq!(desk.claimed() as usize, claimed.len());
        });
    }
}
