//! The doors of a run's core: what it is told and asked, and its actions carried out.

use std::sync::Arc;

use super::run::Run;
use crate::Status;
use crate::core::{Action, Event, Notice, Order, Report, Request};

impl Run<'_> {
    /// Reports one member's order; after a refusal to prepare nobody else is asked.
    pub(super) fn report(&mut self, order: Order, member: u32, report: Report) {
        let refused = order == Order::Prepare && report != Report::Done;
        let ran = |member: u32, report| Event::Ran {
            order,
            members: member..member + 1,
            report,
        };
        let mut events = vec![ran(member, report)];
        if refused {
            let rest = std::mem::take(&mut self.orders);
            events.extend(
                rest.into_iter()
                    .map(|(_, member)| ran(member, Report::Left)),
            );
        }
        self.tell(events);
    }

    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut actions = Vec::new();
        for event in events {
            self.core.handle(event, &mut actions);
        }
        self.obey(actions);
    }

    pub(super) fn ask(&mut self, what: &str, request: Request) {
        let mut actions = Vec::new();
        match self.core.apply(request, &mut actions) {
            Ok(()) => self.live.note(format!("user: {what}")),
            Err(_) => self.live.note(format!("user: {what} (refused)")),
        }
        self.obey(actions);
    }

    pub(super) fn apply(&mut self, request: Request) {
        let mut actions = Vec::new();
        let applied = self.core.apply(request, &mut actions);
        debug_assert!(applied.is_ok(), "a group is opened and sealed once");
        self.obey(actions);
    }

    fn obey(&mut self, actions: Vec<Action>) {
        let me = self.plan.me;
        let bench = Arc::clone(&self.bench);
        let gate = &bench.seat().gate;
        for action in actions {
            match action {
                Action::Run { order, members } => {
                    self.orders.extend(members.map(|member| (order, member)));
                }
                Action::Hold(span) if span.contains(&me) => gate.hold(),
                Action::Release(span) if span.contains(&me) => gate.release(),
                Action::Stop(span) if span.contains(&me) => gate.stop(),
                Action::Ask(span, asked) if span.contains(&me) => gate.ask(asked),
                Action::WakeAt(span, time) if span.contains(&me) => self.alarm = Some(time.0),
                Action::Decide(_) => self.deciding = true,
                Action::Continue => self.again = true,
                Action::Ended { .. } => self.over = true,
                Action::Notify(Notice::Status(span, status)) if span.contains(&me) => {
                    if status == Status::Ready {
                        self.ready_at.get_or_insert(self.steps);
                    }
                }
                Action::Hold(_)
                | Action::Release(_)
                | Action::Stop(_)
                | Action::Ask(..)
                | Action::WakeAt(..)
                | Action::Notify(_) => {}
            }
        }
    }
}
