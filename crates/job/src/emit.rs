//! Actions appended so that neighbours share one span.

use std::ops::Range;

use crate::event::{Action, Notice, Order, Time};
use crate::outcome::Outcome;
use crate::status::Status;

/// Appends orders and notices to the caller's buffer, joining a member to the span before it where all
/// else is equal.
pub(crate) trait Emit {
    /// `member` entered `status`.
    fn status(&mut self, member: u32, status: Status);
    /// `member` ended.
    fn ended(&mut self, member: u32, outcome: Outcome);
    /// Have `member` run.
    fn run(&mut self, order: Order, member: u32);
    /// The gate of `member`: hold.
    fn hold(&mut self, member: u32);
    /// The gate of `member`: run on.
    fn release(&mut self, member: u32);
    /// The gate of `member`: come to an end.
    fn stop(&mut self, member: u32);
    /// Wake `member` at a moment.
    fn wake_at(&mut self, member: u32, at: Time);
    /// Tell the subscribers.
    fn notify(&mut self, notice: Notice);
}

impl Emit for Vec<Action> {
    fn status(&mut self, member: u32, status: Status) {
        if let Some(Action::Notify(Notice::Status(span, last))) = self.last_mut()
            && *last == status
            && join(span, member)
        {
            return;
        }
        self.notify(Notice::Status(one(member), status));
    }

    fn ended(&mut self, member: u32, outcome: Outcome) {
        if let Some(Action::Notify(Notice::Ended(span, last))) = self.last_mut()
            && *last == outcome
            && join(span, member)
        {
            return;
        }
        self.notify(Notice::Ended(one(member), outcome));
    }

    fn run(&mut self, order: Order, member: u32) {
        if let Some(Action::Run {
            order: last,
            members,
        }) = self.last_mut()
            && *last == order
            && join(members, member)
        {
            return;
        }
        self.push(Action::Run {
            order,
            members: one(member),
        });
    }

    fn hold(&mut self, member: u32) {
        if let Some(Action::Hold(span)) = self.last_mut()
            && join(span, member)
        {
            return;
        }
        self.push(Action::Hold(one(member)));
    }

    fn release(&mut self, member: u32) {
        if let Some(Action::Release(span)) = self.last_mut()
            && join(span, member)
        {
            return;
        }
        self.push(Action::Release(one(member)));
    }

    fn stop(&mut self, member: u32) {
        if let Some(Action::Stop(span)) = self.last_mut()
            && join(span, member)
        {
            return;
        }
        self.push(Action::Stop(one(member)));
    }

    fn wake_at(&mut self, member: u32, at: Time) {
        if let Some(Action::WakeAt(span, last)) = self.last_mut()
            && *last == at
            && join(span, member)
        {
            return;
        }
        self.push(Action::WakeAt(one(member), at));
    }

    fn notify(&mut self, notice: Notice) {
        self.push(Action::Notify(notice));
    }
}

fn one(member: u32) -> Range<u32> {
    member..member + 1
}

/// Joins `member` to `span` if it is the next one.
fn join(span: &mut Range<u32>, member: u32) -> bool {
    let next = span.end == member;
    span.end += u32::from(next);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_span_and_others_do_not() {
        let mut out = Vec::new();
        for member in [0, 1, 3] {
            out.run(Order::Step, member);
        }
        out.run(Order::Clean, 4);
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
