//! One transaction in the shell: its core behind a lock, its members, and how an event takes its turn.
//!
//! Whoever brings an event takes the lock, applies it, changes gates, alarms and notices under it, and
//! carries the rest out after letting go. The shell decides nothing.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::core::{Action, Event, Notice, Order, Request};
use crate::journal::{Entry, Owed};
use crate::members::Members;
use crate::names::Names;
use crate::recording::Input;
use crate::seat::Seat;
use crate::shell::{Shell, now};
use crate::slab::Drivers;
use crate::span::Span;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::trace::Trace;
use crate::turn::Turn;
use crate::{
    Error, GroupName, Hooks, JobId, Kind, MemberName, Refused, Spec, Status, TxnId, Verdict,
};

/// One transaction and its members.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) shell: Arc<Shell>,
    pub(crate) id: TxnId,
    pub(crate) name: GroupName,
    pub(crate) trace: Trace,
    /// Filled at the launch: from then on read without a lock.
    members: OnceLock<Members>,
    turn: Mutex<Turn>,
    changed: Condvar,
}

/// What is carried out after the lock was let go.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Later {
    /// For whoever traces.
    told: Vec<Notice>,
    runs: Vec<(Order, Range<u32>)>,
    decide: Option<Verdict>,
    again: bool,
    ended: Option<bool>,
    empty: bool,
}

/// So many requests are brought under one lock, as many as a turn visits members.
const ASKED_AT_ONCE: usize = 1024;

impl Later {
    /// What comes after this, of the same group.
    fn join(&mut self, next: Self) {
        self.told.extend(next.told);
        for (order, members) in next.runs {
            match self.runs.last_mut() {
                Some((last, span)) if *last == order && span.end == members.start => {
                    span.end = members.end;
                }
                Some(_) | None => self.runs.push((order, members)),
            }
        }
        self.decide = self.decide.or(next.decide);
        self.again |= next.again;
        self.ended = self.ended.or(next.ended);
        self.empty = next.empty;
    }
}

impl Group {
    pub(crate) fn new(shell: Arc<Shell>, id: TxnId, name: GroupName) -> Self {
        Self {
            shell,
            id,
            trace: Trace::new(id, &name),
            name,
            members: OnceLock::new(),
            turn: Mutex::new(Turn::new()),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock()
    }

    /// Brings events: the workers' door.
    pub(crate) fn tell(self: &Arc<Self>, events: impl IntoIterator<Item = Event>) {
        let later = self.tell_locked(events, || ());
        self.carry_out(later);
    }

    /// The locked half of [`Group::tell`], with something to do first under the same lock. The caller
    /// carries the rest out when it holds no lock.
    pub(crate) fn tell_locked(
        self: &Arc<Self>,
        events: impl IntoIterator<Item = Event>,
        first: impl FnOnce(),
    ) -> Later {
        let mut turn = self.turn.lock();
        first();
        let mut actions = std::mem::take(&mut turn.actions);
        let mut recorded = self.shell.recorder().map(|recorder| (recorder, Vec::new()));
        for event in events {
            if let Some((_, inputs)) = &mut recorded {
                inputs.push(Input::Tell(event.clone()));
            }
            turn.core.handle(event, &mut actions);
        }
        if let Some((recorder, inputs)) = recorded {
            recorder.turn(self.id, &inputs, Ok(&actions));
        }
        self.obey(&mut turn, actions)
    }

    /// Brings a request: the users' door. `then` sees what was accepted, still under the lock.
    pub(crate) fn ask<R>(
        self: &Arc<Self>,
        request: Request,
        then: impl FnOnce(&mut Turn) -> R,
    ) -> Result<R, Refused> {
        let (result, later) = self.ask_locked(request, then)?;
        self.carry_out(later);
        Ok(result)
    }

    /// Brings one request after the other, and carries out together what they lead to. `answered` hears whether each was
    /// accepted, under the lock.
    pub(crate) fn ask_each(
        self: &Arc<Self>,
        requests: impl IntoIterator<Item = Request>,
        mut answered: impl FnMut(&Request, bool),
    ) {
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut later = Later::default();
            let mut turn = self.turn.lock();
            for request in requests.by_ref().take(ASKED_AT_ONCE) {
                let mut actions = std::mem::take(&mut turn.actions);
                let asked = self.apply(&mut turn, request.clone(), &mut actions);
                answered(&request, asked.is_ok());
                later.join(self.obey(&mut turn, actions));
            }
            drop(turn);
            self.carry_out(later);
        }
    }

    /// The locked half of [`Group::ask`].
    pub(crate) fn ask_locked<R>(
        self: &Arc<Self>,
        request: Request,
        then: impl FnOnce(&mut Turn) -> R,
    ) -> Result<(R, Later), Refused> {
        let mut turn = self.turn.lock();
        let mut actions = std::mem::take(&mut turn.actions);
        let asked = self
            .apply(&mut turn, request, &mut actions)
            .map(|()| then(&mut turn));
        let later = self.obey(&mut turn, actions);
        asked.map(|result| (result, later))
    }

    /// A request's turn, with the recorder listening if there is one.
    fn apply(
        &self,
        turn: &mut Turn,
        request: Request,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let Some(recorder) = self.shell.recorder() else {
            return turn.core.apply(request, actions);
        };
        let input = Input::Ask(request.clone());
        let asked = turn.core.apply(request, actions);
        recorder.turn(self.id, &[input], asked.map(|()| &**actions));
        asked
    }

    /// Makes room for so many more members, before the launch.
    pub(crate) fn make_room(&self, count: usize) {
        let mut turn = self.turn.lock();
        turn.core.make_room(count);
        turn.open.make_room(count);
    }

    /// Adds so many like members, before the launch. `fill` puts them in, and the names of those who have one.
    pub(crate) fn add(
        self: &Arc<Self>,
        count: u32,
        spec: Spec,
        fill: impl FnOnce(&mut Members, &mut Names),
    ) -> Result<(), Refused> {
        self.ask(Request::Add { count, spec }, |turn| {
            fill(&mut turn.open, &mut turn.names);
            debug_assert_eq!(turn.open.seats().len(), turn.core.len() as usize);
            turn.keeps_drivers |= !spec.hooks.has(Hooks::CLEAN);
        })
    }

    /// Seals the membership, by launch, rollback or replay.
    pub(crate) fn seal(
        self: &Arc<Self>,
        request: Request,
        incomplete: bool,
    ) -> Result<(), Refused> {
        let later = self.seal_locked(request, incomplete)?;
        self.carry_out(later);
        Ok(())
    }

    /// The locked half of [`Group::seal`].
    pub(crate) fn seal_locked(
        self: &Arc<Self>,
        request: Request,
        incomplete: bool,
    ) -> Result<Later, Refused> {
        let mut turn = self.turn.lock();
        turn.replayed = matches!(request, Request::Replay(_));
        // The members must be in place before the core's first order; a refusal finds them there already.
        if self.members.get().is_none() {
            let _ = self.members.set(std::mem::take(&mut turn.open).sealed());
            turn.incomplete = incomplete;
        }
        let mut actions = std::mem::take(&mut turn.actions);
        let asked = self.apply(&mut turn, request, &mut actions);
        let later = self.obey(&mut turn, actions);
        asked.map(|()| later)
    }

    /// The seats of a sealed group; none before.
    pub(crate) fn seats(&self) -> &[Seat] {
        self.members.get().map_or(&[], Members::seats)
    }

    /// The drivers of a sealed group.
    pub(crate) fn drivers(&self) -> &Drivers {
        // Nobody calls a driver before the launch.
        let members = self.members.get();
        members.expect("a sealed group").drivers()
    }

    /// Looks at a member's seat, before or after the launch.
    pub(crate) fn with_seat<R>(&self, member: u32, look: impl FnOnce(&Seat) -> R) -> Option<R> {
        match self.members.get() {
            Some(members) => members.seats().get(member as usize).map(look),
            None => self.lock().open.seats().get(member as usize).map(look),
        }
    }

    /// Waits until the group is over or in doubt, at most until the deadline; whether it is over.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut turn = self.turn.lock();
        turn.waiters += 1;
        while !turn.over && !turn.core.in_doubt() {
            let Some(deadline) = deadline else {
                turn = self.changed.wait(turn);
                continue;
            };
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                break;
            }
            turn = self.changed.wait_timeout(turn, left);
        }
        turn.waiters -= 1;
        turn.over
    }

    /// Whether every hook returned and every driver is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.turn.lock().over
    }

    /// Carries out what must see the lock held, in order; the rest is for later.
    fn obey(self: &Arc<Self>, turn: &mut Turn, mut actions: Vec<Action>) -> Later {
        let mut later = Later::default();
        for action in actions.drain(..) {
            match action {
                Action::Run { order, members } => later.runs.push((order, members)),
                Action::Hold(span) => self.each(turn, span, |seat| seat.gate.hold()),
                Action::Release(span) => self.each(turn, span, |seat| seat.gate.release()),
                Action::Stop(span) => self.each(turn, span, |seat| seat.gate.stop()),
                Action::Ask(members, asked) => {
                    self.each(turn, members, |seat| seat.gate.ask(asked));
                }
                Action::WakeAt(span, time) => self.set_alarms(span, time.0),
                Action::Decide(verdict) => later.decide = Some(verdict),
                Action::Notify(notice) => {
                    if self.trace.is_on() {
                        later.told.push(notice.clone());
                    }
                    self.notify(turn, notice);
                }
                Action::Continue => later.again = true,
                Action::Ended { owed } => later.ended = Some(owed || turn.incomplete),
            }
        }
        later.empty = turn.over && turn.core.is_forgotten();
        turn.actions = actions;
        later
    }

    fn each(&self, turn: &Turn, span: Range<u32>, change: impl Fn(&Seat)) {
        let seats = self.members.get().unwrap_or(&turn.open).seats();
        seats[span.start as usize..span.end as usize]
            .iter()
            .for_each(change);
    }

    fn set_alarms(self: &Arc<Self>, span: Range<u32>, time: Duration) {
        let after = time.saturating_sub(self.shell.elapsed());
        for member in span {
            let Some(seat) = self.seats().get(member as usize) else {
                continue;
            };
            let mut odds = seat.odds();
            if let Some(alarm) = odds.alarm.take() {
                self.shell.timer.cancel(alarm);
            }
            odds.alarm = self.shell.timer.set(after, (Arc::downgrade(self), member));
        }
    }

    /// The records of those who have one: what the next start needs. Only between the last prepare and
    /// the first hook after the verdict, when nobody else looks at them.
    pub(crate) fn take_records(&self) -> Vec<Entry> {
        let taken = |(member, seat): (usize, &Seat)| {
            Some((member as u32, seat.odds_if_any()?.record.take()?))
        };
        let records: Vec<_> = self.seats().iter().enumerate().filter_map(taken).collect();
        let turn = self.turn.lock();
        let named = |(member, record)| {
            let (name, kind) = match turn.names.entry(member) {
                Some((_, name, kind)) => (name.clone(), kind.clone()),
                None => (MemberName::new(turn.names.text(member)), Kind::new("")),
            };
            (name, kind, record)
        };
        records.into_iter().map(named).collect()
    }

    /// What the journal holds of it, now that it is over.
    pub(crate) fn owed(&self) -> Owed {
        let mut turn = self.turn.lock();
        Owed {
            group: self.name.clone(),
            verdict: turn.core.verdict().expect("a verdict precedes the end"),
            records: std::mem::take(&mut turn.records),
        }
    }

    fn notify(&self, turn: &mut Turn, notice: Notice) {
        turn.remember(&notice);
        if let Notice::Status(span, Status::Null) = &notice {
            for (member, name) in turn.names.within(span) {
                let job = JobId {
                    txn: self.id,
                    member,
                };
                self.shell.directory.free(name, job);
            }
        }
        self.shell
            .hub
            .publish(self.id, &self.name, &turn.names, notice);
    }

    /// Carries out what must not hold the lock.
    pub(crate) fn carry_out(self: &Arc<Self>, later: Later) {
        let left = self.carry_on(later, |_| false);
        debug_assert!(left.is_none(), "none was asked for");
    }

    /// The same, for somebody who goes on with one of the spans that are ordered, if there is one that is `mine`.
    pub(crate) fn carry_on(
        self: &Arc<Self>,
        mut later: Later,
        mine: impl Fn(&Span) -> bool,
    ) -> Option<Span> {
        let mut taken = None;
        loop {
            self.trace.tell(self, later.told);
            for (order, members) in later.runs {
                let span = Span::new(self, order, members);
                if taken.is_none() && mine(&span) {
                    taken = Some(span);
                } else {
                    self.shell.queue.put(span);
                }
            }
            if let Some(owed) = later.ended {
                self.shell.conclude(self, owed);
            }
            if later.empty {
                self.shell.forget(self);
            }
            let decide = later.decide;
            let decided = decide.and_then(|verdict| self.shell.decide(self, verdict));
            let again = later.again.then_some(Event::Continue);
            if decided.is_none() && again.is_none() {
                break;
            }
            later = self.tell_locked(decided.into_iter().chain(again), || ());
        }
        if self.shell.is_orphaned() {
            self.shell.speak_for_the_user(self);
        }
        taken
    }

    /// The journal answered. Who waits for a group in doubt is let go: nothing more will come.
    pub(crate) fn decided(self: &Arc<Self>, answer: Result<(), Error>) {
        let in_doubt = answer.is_err();
        self.tell([Event::Decided(answer)]);
        if in_doubt {
            self.changed.notify_all();
            let wakers = self.lock().wakers.take();
            wakers.wake();
            self.shell.group_is_in_doubt();
        }
    }

    /// Whether nothing more will come of it in this process.
    pub(crate) fn is_at_its_end(&self) -> bool {
        let turn = self.turn.lock();
        turn.over || turn.core.in_doubt()
    }

    /// Marks the group over, after its drivers were dropped and the journal told; false if it was.
    pub(crate) fn finish(self: &Arc<Self>) -> bool {
        self.trace.close();
        let mut turn = self.turn.lock();
        if std::mem::replace(&mut turn.over, true) {
            return false;
        }
        let empty = turn.core.is_forgotten();
        if turn.waiters > 0 {
            self.changed.notify_all();
        }
        let wakers = turn.wakers.take();
        drop(turn);
        wakers.wake();
        if empty {
            self.shell.forget(self);
        }
        true
    }
}
