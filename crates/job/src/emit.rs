//! Actions appended so that neighbours share one span.

use std::ops::Range;

use crate::event::{Action, Notice, Order, Time};
use crate::outcome::Outcome;
use crate::status::Status;

/// Appends orders and notices to the caller's buffer, joining members to the span before them where all
/// else is equal.
pub(crate) trait Emit {
    /// `members` entered `status`.
    fn status(&mut self, members: Range<u32>, status: Status);
    /// `members` ended.
    fn ended(&mut self, members: Range<u32>, outcome: Outcome);
    /// Have `members` run.
    fn run(&mut self, order: Order, members: Range<u32>);
    /// The gate of `member`: hold.
    fn hold(&mut self, member: u32);
    /// The gate of `member`: run on.
    fn release(&mut self, member: u32);
    /// The gates of `members`: come to an end.
    fn stop(&mut self, members: Range<u32>);
    /// Wake `member` at a moment.
    fn wake_at(&mut self, member: u32, at: Time);
    /// Tell the subscribers.
    fn notify(&mut self, notice: Notice);
}

impl Emit for Vec<Action> {
    fn status(&mut self, members: Range<u32>, status: Status) {
        if let Some(Action::Notify(Notice::Status(span, last))) = self.last_mut()
            && *last == status
            && join(span, &members)
        {
            return;
        }
        self.notify(Notice::Status(members, status));
    }

    fn ended(&mut self, members: Range<u32>, outcome: Outcome) {
        if let Some(Action::Notify(Notice::Ended(span, last))) = self.last_mut()
            && *last == outcome
            && join(span, &members)
        {
            return;
        }
        self.notify(Notice::Ended(members, outcome));
    }

    fn run(&mut self, order: Order, members: Range<u32>) {
        if let Some(Action::Run {
            order: last,
            members: span,
        }) = self.last_mut()
            && *last == order
            && join(span, &members)
        {
            return;
        }
        self.push(Action::Run { order, members });
    }

    fn hold(&mut self, member: u32) {
        if let Some(Action::Hold(span)) = self.last_mut()
            && join(span, &one(member))
        {
            return;
        }
        self.push(Action::Hold(one(member)));
    }

    fn release(&mut self, member: u32) {
        if let Some(Action::Release(span)) = self.last_mut()
            && join(span, &one(member))
        {
            return;
        }
        self.push(Action::Release(one(member)));
    }

    fn stop(&mut self, members: Range<u32>) {
        if let Some(Action::Stop(span)) = self.last_mut()
            && join(span, &members)
        {
            return;
        }
        self.push(Action::Stop(members));
    }

    fn wake_at(&mut self, member: u32, at: Time) {
        if let Some(Action::WakeAt(span, last)) = self.last_mut()
            && *last == at
            && join(span, &one(member))
        {
            return;
        }
        self.push(Action::WakeAt(one(member), at));
    }

    fn notify(&mut self, notice: Notice) {
        self.push(Action::Notify(notice));
    }
}

/// The span of a single member.
pub(crate) fn one(member: u32) -> Range<u32> {
    member..member + 1
}

/// Joins `members` to `span` if they come next.
fn join(span: &mut Range<u32>, members: &Range<u32>) -> bool {
    let next = span.end == members.start;
    if next {
        span.end = members.end;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_span_and_others_do_not() {
        let mut out = Vec::new();
        for member in [0, 1, 3] {
            out.run(Order::Step, one(member));
        }
        out.run(Order::Clean, one(4));
        assert_eq!(
            out,
            [
                Action::Run {
                    order: Order::Step,
                    members: 0..2
                },
                Action::Run {
                    order: Order::Step,
                    members: 3..4
                },
                Action::Run {
                    order: Order::Clean,
                    members: 4..5
                },
            ]
        );
    }
}
