//! One transaction in the shell: its core behind a lock, its seats, and how an event takes its turn.
//!
//! Whoever brings an event takes the lock, applies it, changes gates, alarms and notices under it, and
//! carries the rest out after letting go. The shell decides nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::core::{Action, Core, Event, Notice, Order, Request};
use crate::future::Wakers;
use crate::journal::Entry;
use crate::queue::Cut;
use crate::recording::Input;
use crate::seat::Seat;
use crate::shell::{Shell, now};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::trace::Trace;
use crate::{
    Error, GroupName, Hooks, JobId, Kind, MemberName, Outcome, Refused, Spec, Status, TxnId,
    Verdict,
};

/// One transaction and its members.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) shell: Arc<Shell>,
    pub(crate) id: TxnId,
    pub(crate) name: GroupName,
    pub(crate) trace: Trace,
    /// Filled at the launch: from then on read without a lock.
    seats: OnceLock<Box<[Seat]>>,
    turn: Mutex<Turn>,
    changed: Condvar,
}

/// What only changes under the lock.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) core: Core,
    pub(crate) names: Names,
    /// The seats until the launch.
    open: Vec<Seat>,
    /// The verdict was read from the journal at start.
    pub(crate) replayed: bool,
    /// Some driver has no clean hook, at whose end it would be dropped.
    pub(crate) keeps_drivers: bool,
    /// Some driver could not be built again: the journal must keep what it knows.
    incomplete: bool,
    /// How members ended, by span: the core forgets those who are dismissed, handles do not.
    outcomes: Vec<(Range<u32>, Outcome)>,
    /// Every hook returned, the journal was told, and every driver is gone.
    over: bool,
    waiters: u32,
    /// Futures that wait for the end.
    pub(crate) wakers: Wakers,
    /// Why drivers paused their own jobs.
    pub(crate) paused_themselves: BTreeMap<u32, Error>,
    /// Kept between turns, so that they need no memory of their own.
    actions: Vec<Action>,
}

/// The names of those members that have one, in creation order.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<(u32, MemberName, Kind)>);

impl Names {
    pub(crate) fn add(&mut self, member: u32, name: MemberName, kind: Kind) {
        self.0.push((member, name, kind));
    }

    pub(crate) fn of(&self, member: u32) -> Option<&MemberName> {
        self.entry(member).map(|(_, name, _)| name)
    }

    /// Those of a span, with whose they are.
    fn within(&self, span: &Range<u32>) -> impl Iterator<Item = (u32, &MemberName)> {
        let from = self.0.partition_point(|(member, ..)| *member < span.start);
        let to = self.0.partition_point(|(member, ..)| *member < span.end);
        let named = self.0[from..to].iter();
        named.map(|(member, name, _)| (*member, name))
    }

    fn entry(&self, member: u32) -> Option<&(u32, MemberName, Kind)> {
        self.0
            .binary_search_by_key(&member, |(member, ..)| *member)
            .ok()
            .map(|at| &self.0[at])
    }

    /// Both as texts, empty for a member that has none.
    pub(crate) fn name_and_kind(&self, member: u32) -> (String, String) {
        self.entry(member)
            .map(|(_, name, kind)| (name.to_string(), kind.to_string()))
            .unwrap_or_default()
    }

    /// What a person calls this member.
    pub(crate) fn text(&self, member: u32) -> String {
        self.of(member)
            .map_or_else(|| format!("#{member}"), ToString::to_string)
    }
}

/// Members to be run, as they wait in the ready queue.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) group: Arc<Group>,
    pub(crate) order: Order,
    pub(crate) members: Range<u32>,
}

/// Large enough that the turn per piece is cheap, small enough that nobody waits long behind one.
const PIECE_MAX: u32 = 64;
/// A step span is shared out in pieces that shrink with it, so that workers finish together.
const PIECES: u32 = 8;

impl Cut for Span {
    /// Steps are shared out; hooks run in order, so one worker takes the whole span.
    fn cut(self) -> (Self, Option<Self>) {
        let Range { start, end } = self.members;
        if self.order != Order::Step || end - start <= 1 {
            return (self, None);
        }
        let middle = start + ((end - start) / PIECES).clamp(1, PIECE_MAX);
        let rest = Self {
            group: Arc::clone(&self.group),
            order: self.order,
            members: middle..end,
        };
        (
            Self {
                members: start..middle,
                ..self
            },
            Some(rest),
        )
    }
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

impl Group {
    pub(crate) fn new(shell: Arc<Shell>, id: TxnId, name: GroupName) -> Self {
        Self {
            shell,
            id,
            trace: Trace::new(id, &name),
            name,
            seats: OnceLock::new(),
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

    /// Adds so many like members, before the launch. `fill` puts their seats in, and the names of those who have one;
    /// it is told the position of the first.
    pub(crate) fn add(
        self: &Arc<Self>,
        count: u32,
        spec: Spec,
        fill: impl FnOnce(&mut Vec<Seat>, &mut Names, u32),
    ) -> Result<(), Refused> {
        self.ask(Request::Add { count, spec }, |turn| {
            let first = turn.open.len() as u32;
            fill(&mut turn.open, &mut turn.names, first);
            debug_assert_eq!(turn.open.len() as u32, first + count, "a seat for each");
            turn.keeps_drivers |= !spec.hooks.has(Hooks::CLEAN);
        })
    }

    /// Seals the membership, by launch, rollback or replay.
    pub(crate) fn seal(
        self: &Arc<Self>,
        request: Request,
        incomplete: bool,
    ) -> Result<(), Refused> {
        let mut turn = self.turn.lock();
        turn.replayed = matches!(request, Request::Replay(_));
        // The seats must be in place before the core's first order; a refusal finds them there already.
        if self.seats.get().is_none() {
            let seats = std::mem::take(&mut turn.open).into_boxed_slice();
            let _ = self.seats.set(seats);
            turn.incomplete = incomplete;
        }
        let mut actions = std::mem::take(&mut turn.actions);
        let asked = self.apply(&mut turn, request, &mut actions);
        let later = self.obey(&mut turn, actions);
        drop(turn);
        self.carry_out(later);
        asked
    }

    /// The seats of a sealed group; none before.
    pub(crate) fn seats(&self) -> &[Seat] {
        self.seats.get().map_or(&[], |seats| seats)
    }

    /// Looks at a member's seat, before or after the launch.
    pub(crate) fn with_seat<R>(&self, member: u32, look: impl FnOnce(&Seat) -> R) -> Option<R> {
        if let Some(seats) = self.seats.get() {
            return seats.get(member as usize).map(look);
        }
        let turn = self.turn.lock();
        seat(&turn, self.seats(), member).map(look)
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
        for member in span {
            if let Some(seat) = seat(turn, self.seats(), member) {
                change(seat);
            }
        }
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
            odds.alarm = self.shell.timer.set(after, (Arc::clone(self), member));
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
    pub(crate) fn carry_out(self: &Arc<Self>, mut later: Later) {
        loop {
            self.trace.tell(self, later.told);
            for (order, members) in later.runs {
                self.shell.queue.put(Span {
                    group: Arc::clone(self),
                    order,
                    members,
                });
            }
            if let Some(verdict) = later.decide {
                self.shell.decide(self, verdict);
            }
            if let Some(owed) = later.ended {
                self.shell.conclude(self, owed);
            }
            if later.empty {
                self.shell.forget(self);
            }
            if !later.again {
                break;
            }
            later = self.tell_locked([Event::Continue], || ());
        }
        if self.shell.is_orphaned() {
            self.shell.speak_for_the_user(self);
        }
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

impl Turn {
    pub(crate) fn new() -> Self {
        Self {
            core: Core::new(),
            names: Names::default(),
            open: Vec::new(),
            replayed: false,
            keeps_drivers: false,
            incomplete: false,
            outcomes: Vec::new(),
            over: false,
            waiters: 0,
            wakers: Wakers::default(),
            paused_themselves: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    /// Keeps how members ended, which the core forgets.
    pub(crate) fn remember(&mut self, notice: &Notice) {
        if let Notice::Ended(span, outcome) = notice {
            // In creation order, as all that is said of members: see `Turn::outcome`.
            debug_assert!(
                self.outcomes
                    .last()
                    .is_none_or(|(last, _)| last.end <= span.start)
            );
            self.outcomes.push((span.clone(), outcome.clone()));
        }
    }

    /// Whether nobody need wait any more: it is over, or in doubt, which no waiting changes.
    pub(crate) fn is_settled(&self) -> bool {
        self.over || self.core.in_doubt()
    }

    /// A member's own error, also after it was dismissed.
    pub(crate) fn failure(&self, member: u32) -> Option<Error> {
        let ended = || match self.outcome(member)? {
            Outcome::Failed { error, .. } => Some(error),
            Outcome::Committed { .. } | Outcome::Cancelled { .. } => None,
        };
        self.core.error(member).cloned().or_else(ended)
    }

    /// How a member ended, also after it was dismissed.
    pub(crate) fn outcome(&self, member: u32) -> Option<Outcome> {
        let at = self
            .outcomes
            .partition_point(|(span, _)| span.end <= member);
        let (span, outcome) = self.outcomes.get(at)?;
        span.contains(&member).then(|| outcome.clone())
    }
}

fn seat<'a>(turn: &'a Turn, sealed: &'a [Seat], member: u32) -> Option<&'a Seat> {
    sealed
        .get(member as usize)
        .or_else(|| turn.open.get(member as usize))
}
