//! One group under the simulated shell: its core, its seats, and how a turn is taken. Every turn is checked.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::ops::Range;

use cohort_job::core::{Action, Core, Event, Notice, Order, Request};
use cohort_job::{Asked, Cause, Disposition, Hooks, Input, Phase, Status, Verdict};

use super::agenda::{Cx, Due};
use super::cells::Cell;
use super::contain::contained;
use super::laws::{self, Before};
use super::onlooker::Onlooker;
use super::orders;
use super::random::Digest;
use super::script::{MemberSpec, Micros, ShellSpec, What, When, about, member_of};
use super::seat::Seat;
use super::worker::Worker;

/// More turns than any group takes that ends.
const ENDLESS: u64 = 200_000;

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u32,
    pub(crate) shell: ShellSpec,
    pub(crate) core: Core,
    pub(crate) saw: Onlooker,
    /// By place; and which place each number in the script has.
    pub(crate) seats: Vec<Seat>,
    pub(crate) places: BTreeMap<u32, u32>,
    pub(crate) workers: BTreeMap<u32, Worker>,
    pub(crate) next_worker: u32,
    /// What is said at a turning point, and was not said yet.
    pub(crate) says: Vec<(When, What)>,
    /// What the journal holds of it: the verdict and the members with a record, until nothing is owed.
    pub(crate) journal: Option<(Verdict, Vec<u32>)>,
    /// How often its process was started again.
    pub(crate) lives: u32,
    /// Its process ended before it was decided: aborted by presumption, and not built again.
    pub(crate) presumed: bool,
    /// Jobs it ever took; turns it ever took.
    pub(crate) jobs: u32,
    pub(crate) turns: u64,
    pub(crate) digest: Digest,
    pub(crate) trace: Vec<String>,
    /// How much is planned for it; how often mercy came.
    pub(crate) planned: u32,
    pub(crate) mercies: u32,
    sequence: u64,
}

impl Group {
    pub(crate) fn new(id: u32) -> Self {
        let shell = ShellSpec::default();
        Self {
            id,
            shell,
            core: Core::with_turn(shell.turn),
            saw: Onlooker::new(),
            seats: Vec::new(),
            places: BTreeMap::new(),
            workers: BTreeMap::new(),
            next_worker: 0,
            says: Vec::new(),
            journal: None,
            lives: 0,
            presumed: false,
            jobs: 0,
            turns: 0,
            digest: Digest::default(),
            trace: Vec::new(),
            planned: 0,
            mercies: 0,
            sequence: 0,
        }
    }

    pub(crate) fn set_shell(&mut self, shell: ShellSpec) {
        self.shell = shell;
        self.core = Core::with_turn(shell.turn);
    }

    /// Puts something on the agenda.
    pub(crate) fn later(&mut self, cx: &mut Cx, delay: u32, due: Due) {
        self.at(cx, cx.now + Micros::from(delay), due);
    }

    /// The same at a moment.
    pub(crate) fn at(&mut self, cx: &mut Cx, at: Micros, due: Due) {
        self.sequence += 1;
        self.planned += 1;
        cx.agenda.insert((at, self.id, self.sequence), due);
    }

    /// The workers' door.
    pub(crate) fn tell(&mut self, cx: &mut Cx, event: Event) -> Result<(), String> {
        let before = Before::of(&self.core);
        let input = Input::Tell(event.clone());
        self.note(cx, &input);
        let mut out = Vec::new();
        let parked = matches!(event, Event::Woken(member) if self.saw.one(member).is_parked());
        self.saw.told(&event, before.cause.is_some());
        contained(|| self.core.handle(event, &mut out))?;
        orders::hold!(
            !parked || out.is_empty(),
            "D-11: a wake of the parked is seen"
        );
        self.obey(cx, out, before, &input)
    }

    /// The users' door; whether it was accepted.
    pub(crate) fn ask(&mut self, cx: &mut Cx, request: Request) -> Result<bool, String> {
        let before = Before::of(&self.core);
        self.count(cx, &request);
        let should = laws::should_accept(&self.core, &self.saw, &request);
        let untouched = self.core.clone();
        let input = Input::Ask(request.clone());
        self.note(cx, &input);
        let mut out = Vec::new();
        if let Err(refused) = contained(|| self.core.apply(request.clone(), &mut out))? {
            refused.to_string().hash(&mut self.digest);
            self.write(cx, || format!("refused {refused}"));
            orders::hold!(!should, "'{request}' is refused, and should be accepted");
            let same = out.is_empty() && self.core == untouched;
            orders::hold!(same, "I41: '{request}' is refused, and changed something");
            return Ok(false);
        }
        orders::hold!(should, "'{request}' is accepted, and should be refused");
        self.saw.asked(&request, self.core.cause().is_some());
        self.obey(cx, out, before, &input)?;
        if let Request::GiveUp(member) = request {
            self.disown(member);
        }
        Ok(true)
    }

    /// What the script says, with members by their numbers.
    pub(crate) fn say(&mut self, cx: &mut Cx, what: &What) -> Result<(), String> {
        match what {
            What::Ask(request) => {
                let place = |number| self.places.get(&number).copied();
                let to = member_of(request).map(|number| place(number).unwrap_or(u32::MAX));
                let request = to.map_or_else(|| request.clone(), |to| about(request, to));
                if request == Request::Launch && cx.closing && !self.saw.sealed {
                    // No job starts any more; refused only by who needs it no more.
                    self.ask(cx, Request::CancelAll(Cause::Shutdown, Disposition::Keep))?;
                }
                self.ask(cx, request).map(drop)
            }
            What::Wake(number) => match self.places.get(number).copied() {
                // Who was never stepped has given its waker to nobody.
                Some(member) if self.saw.one(member).stepped => self.tell(cx, Event::Woken(member)),
                Some(_) | None => Ok(()),
            },
        }
    }

    /// Adds a member, if the group is open.
    pub(crate) fn add(&mut self, cx: &mut Cx, number: u32, mut seat: Seat) -> Result<(), String> {
        let spec = seat.spec.spec;
        if self.ask(cx, Request::Add { count: 1, spec })? {
            seat.number = number;
            self.jobs += u32::from(self.lives == 0);
            self.places.insert(number, self.seats.len() as u32);
            self.seats.push(seat);
        }
        Ok(())
    }

    fn count(&self, cx: &mut Cx, request: &Request) {
        let Some(member) = member_of(request) else {
            return;
        };
        let status = self.saw.members.get(member as usize).map(|one| one.status);
        let Some(status) = status else {
            return;
        };
        let (cause, how) = (self.core.cause(), self.core.disposition());
        if let Some(cell) = Cell::of(request, status, cause, how, self.core.phase()) {
            cx.cells.count(cell);
        }
    }

    fn note(&mut self, cx: &Cx, input: &Input) {
        (cx.now, input).hash(&mut self.digest);
        self.write(cx, || match input {
            Input::Ask(request) => format!("ask {request}"),
            Input::Tell(event) => format!("tell {event}"),
        });
    }

    fn write(&mut self, cx: &Cx, line: impl FnOnce() -> String) {
        if cx.tracing {
            let line = format!("{:>9} µs  #{} {}", cx.now, self.id, line());
            self.trace.push(line);
        }
    }

    /// Checks what was ordered, order by order, and carries it out.
    fn obey(
        &mut self,
        cx: &mut Cx,
        actions: Vec<Action>,
        before: Before,
        input: &Input,
    ) -> Result<(), String> {
        self.turns += 1;
        orders::hold!(self.turns < ENDLESS, "I35: it never ends");
        actions.hash(&mut self.digest);
        for action in &actions {
            self.write(cx, || format!("  does {action}"));
        }
        for action in &actions {
            orders::check(&self.core, &self.saw, action)?;
            self.saw.ordered(action);
        }
        laws::check(&self.core, &mut self.saw, before, input, self.turns)?;
        for action in actions {
            self.carry_out(cx, action)?;
        }
        if before.phase != self.core.phase() {
            let phase = self.core.phase();
            self.speak(cx, |when| phase_delay(when, phase));
        }
        Ok(())
    }

    fn carry_out(&mut self, cx: &mut Cx, action: Action) -> Result<(), String> {
        let lag = self.shell.lag;
        match action {
            Action::Run { order, members } => self.employ(cx, order, members, lag),
            Action::Hold(span) => self.each(span, |seat| seat.held = true),
            Action::Release(span) => self.each(span, |seat| seat.held = false),
            Action::Stop(span) => self.each(span, |seat| seat.stopped = true),
            Action::Ask(span, asked) => self.each(span, |seat| seat.asked = asked),
            Action::WakeAt(span, time) => {
                let at = time.0.as_micros() as Micros;
                for member in span {
                    self.at(cx, at.max(cx.now), Due::Alarm(member));
                }
            }
            Action::Decide(_) => self.later(cx, self.shell.journal, Due::Answer),
            Action::Notify(Notice::Status(span, status)) => self.entered(cx, span, status),
            Action::Notify(_) => {}
            Action::Continue => self.later(cx, lag, Due::Continue),
            Action::Ended { owed } => {
                if !owed {
                    self.journal = None;
                    self.must_be_settled()?;
                }
            }
        }
        Ok(())
    }

    /// Nothing is owed: so every hook that the verdict calls for returned, in this life or before.
    fn must_be_settled(&self) -> Result<(), String> {
        let commits = self.core.verdict() == Some(Verdict::Commit);
        for (member, seat) in self.seats.iter().enumerate() {
            let (hook, ran) = if commits {
                (Hooks::COMMIT, seat.committed)
            } else {
                (Hooks::ABORT, seat.aborted)
            };
            let has = seat.spec.spec.hooks.has(hook);
            orders::hold!(ran || !has, "nothing is owed, and {member} was not settled");
        }
        Ok(())
    }

    fn each(&mut self, span: Range<u32>, change: impl Fn(&mut Seat)) {
        for member in span {
            change(&mut self.seats[member as usize]);
        }
    }

    fn entered(&mut self, cx: &mut Cx, span: Range<u32>, status: Status) {
        if self.says.is_empty() {
            return;
        }
        for member in span {
            let Some(seat) = self.seats.get(member as usize) else {
                continue;
            };
            let number = seat.number;
            self.speak(cx, |when| match when {
                When::Status(of, at, delay) if of == number && at == status => Some(delay),
                When::At(_) | When::Phase(..) | When::Status(..) | When::Again(_) => None,
            });
        }
    }

    /// Its process was started again.
    pub(crate) fn started_again(&mut self, cx: &mut Cx) {
        self.speak(cx, |when| match when {
            When::Again(delay) => Some(delay),
            When::At(_) | When::Phase(..) | When::Status(..) => None,
        });
    }

    /// Has what waits for this turning point said, each once.
    fn speak(&mut self, cx: &mut Cx, delay: impl Fn(When) -> Option<u32>) {
        let mut rest = Vec::new();
        for (when, what) in std::mem::take(&mut self.says) {
            match delay(when) {
                Some(delay) => self.later(cx, delay, Due::Say(what)),
                None => rest.push((when, what)),
            }
        }
        self.says = rest;
    }

    /// The journal's answer.
    pub(crate) fn answered(&mut self, cx: &mut Cx) -> Result<(), String> {
        // Of a write under way when the journal failed nobody knows; later ones are not even begun.
        let fails = cx.journal_fails.filter(|(at, _)| *at <= cx.now);
        let begun = cx.now - Micros::from(self.shell.journal);
        if fails.is_none_or(|(at, written)| written && begun <= at) {
            self.note_verdict();
        }
        let answer = match fails {
            None => Ok(()),
            Some(_) => Err(cohort_job::Error::new("no space left")),
        };
        self.tell(cx, Event::Decided(answer))
    }

    /// The journal durably holds the verdict and the records.
    pub(crate) fn note_verdict(&mut self) {
        let verdict = self.core.verdict().expect("a verdict is being written");
        let recorded = |place: &u32| self.seats[*place as usize].left_record;
        let members = (0..self.saw.len()).filter(recorded).collect();
        self.journal = Some((verdict, members));
    }

    pub(crate) fn asked(&self, member: u32) -> Asked {
        self.seats[member as usize].asked
    }

    pub(crate) fn member_spec(&self, member: u32) -> MemberSpec {
        self.seats[member as usize].spec
    }

    /// A hook ran in a driver: across all lives never both commit and abort.
    pub(crate) fn hook_ran(&mut self, member: u32, order: Order, well: bool) -> Result<(), String> {
        let seat = &mut self.seats[member as usize];
        match order {
            Order::Commit => seat.committed |= well,
            Order::Abort => seat.aborted |= well,
            Order::Step | Order::Prepare | Order::Clean => {}
        }
        let both = seat.committed && seat.aborted;
        orders::hold!(!both, "I18: {member} was committed, and aborted");
        Ok(())
    }
}

fn phase_delay(when: When, phase: Phase) -> Option<u32> {
    match when {
        When::Phase(of, delay) if of == phase => Some(delay),
        When::At(_) | When::Phase(..) | When::Status(..) | When::Again(_) => None,
    }
}
