//! A whole run: groups side by side on one virtual clock, restarts, and the mercy that ends it.

use std::collections::BTreeMap;
use std::hash::Hasher;

use cohort_job::core::{Event, Request};
use cohort_job::{Cause, Disposition, Phase, Status, Verdict, WaitsFor};

use super::agenda::{Cx, Due, EVERYBODY};
use super::cells::Cells;
use super::group::Group;
use super::onlooker::Onlooker;
use super::orders::hold;
use super::random::Digest;
use super::script::{Decision, Micros, Script, When};
use super::seat::Seat;

/// Starts of the process after which drivers mean well, so that nothing stays owed for ever.
const LIVES: u32 = 3;
/// More rounds of mercy than any group needs.
const ROUNDS: u32 = 2_000;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Groups, and jobs that were added to them.
    pub groups: u32,
    /// Jobs.
    pub jobs: u32,
    /// Requests and events.
    pub turns: u64,
    /// Groups that committed, and that aborted, each counted at its verdict.
    pub committed: u32,
    /// Aborted, or presumed so after a kill.
    pub aborted: u32,
    /// Starts of the process after the first, counted once for each group that was built again.
    pub replayed: u32,
    /// How much virtual time passed, in microseconds.
    pub time: Micros,
    /// The cells that were met.
    pub cells: Cells,
    /// A fingerprint of all that happened in each group, in order, by its number.
    pub digests: BTreeMap<u32, u64>,
    /// Every input and action, if they were asked for.
    pub trace: Vec<String>,
}

impl Report {
    /// A fingerprint of the whole run.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        for (group, one) in &self.digests {
            digest.write_u32(*group);
            digest.write_u64(*one);
        }
        digest.finish()
    }
}

/// What a run found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// In which group.
    pub group: u32,
    /// When.
    pub at: Micros,
    /// What does not hold.
    pub what: String,
    /// Every input and action of that group before it, if they were asked for.
    pub trace: Vec<String>,
}

/// Runs a script to its end.
///
/// # Errors
/// The first thing that does not hold.
pub fn run(script: &Script, tracing: bool) -> Result<Report, Box<Wrong>> {
    let mut run = Run::new(script, tracing);
    match run.through() {
        Ok(()) => Ok(run.report()),
        Err((group, what)) => {
            let at = run.cx.now;
            let of = run.groups.get_mut(&group);
            let trace = of
                .map(|group| std::mem::take(&mut group.trace))
                .unwrap_or_default();
            Err(Box::new(Wrong {
                group,
                at,
                what,
                trace,
            }))
        }
    }
}

struct Run {
    cx: Cx,
    groups: BTreeMap<u32, Group>,
    replayed: u32,
}

type Held = Result<(), (u32, String)>;

impl Run {
    fn new(script: &Script, tracing: bool) -> Self {
        let cx = Cx {
            tracing,
            ..Cx::default()
        };
        let mut run = Self {
            cx,
            groups: BTreeMap::new(),
            replayed: 0,
        };
        let mut seats = BTreeMap::new();
        for decision in &script.decisions {
            run.read(decision, &mut seats);
        }
        for ((group, member), (at, seat)) in seats {
            run.plan(group, at, Due::Add(member, Box::new(seat)));
        }
        // What is said comes after the members of the same moment.
        for decision in &script.decisions {
            if let Decision::Say { group, when, what } = decision {
                match *when {
                    When::At(at) => run.plan(*group, at, Due::Say(what.clone())),
                    When::Phase(..) | When::Status(..) | When::Again(_) => {
                        run.group(*group).says.push((*when, what.clone()));
                    }
                }
            }
        }
        run
    }

    fn read(&mut self, decision: &Decision, seats: &mut BTreeMap<(u32, u32), (Micros, Seat)>) {
        match *decision {
            Decision::Shell { group, shell } => self.group(group).set_shell(shell),
            Decision::Member {
                group,
                member,
                at,
                spec,
            } => {
                self.group(group);
                seats.insert((group, member), (at, Seat::new(spec)));
            }
            // A member's decisions come after it; without it they are about nobody.
            Decision::Act { group, member, act } => {
                if let Some((_, seat)) = seats.get_mut(&(group, member)) {
                    seat.plan(act);
                }
            }
            Decision::Hook {
                group,
                member,
                order,
                act,
            } => {
                if let Some((_, seat)) = seats.get_mut(&(group, member)) {
                    seat.plan_hook(order, act);
                }
            }
            Decision::Say { group, .. } => {
                self.group(group);
            }
            Decision::JournalFails { at, written } => self.cx.journal_fails = Some((at, written)),
            Decision::Shutdown { at } => self.everybody(at, 0, Due::Shutdown),
            Decision::Kill { at, written } => self.everybody(at, 1, Due::Kill(written)),
        }
    }

    fn everybody(&mut self, at: Micros, number: u64, due: Due) {
        self.cx.to_come += 1;
        self.cx.agenda.insert((at, EVERYBODY, number), due);
    }

    fn group(&mut self, id: u32) -> &mut Group {
        self.groups.entry(id).or_insert_with(|| Group::new(id))
    }

    fn plan(&mut self, group: u32, at: Micros, due: Due) {
        let group = self
            .groups
            .entry(group)
            .or_insert_with(|| Group::new(group));
        group.at(&mut self.cx, at, due);
    }

    /// To the end: what is planned, and what mercy adds to it.
    fn through(&mut self) -> Held {
        self.look_after_all();
        while let Some(((at, id, _), due)) = self.cx.agenda.pop_first() {
            self.cx.now = at;
            if id == EVERYBODY {
                self.cx.to_come -= 1;
                self.happens_to_all(&due)?;
                self.look_after_all();
                continue;
            }
            let group = self
                .groups
                .get_mut(&id)
                .expect("it is planned by its group");
            group.planned -= 1;
            let lived = group.lives;
            handle(group, &mut self.cx, due).map_err(|what| (id, what))?;
            self.replayed += group.lives - lived;
            look_after(group, &mut self.cx);
        }
        self.all_over()
    }

    fn look_after_all(&mut self) {
        for group in self.groups.values_mut() {
            look_after(group, &mut self.cx);
        }
    }

    fn happens_to_all(&mut self, due: &Due) -> Held {
        let killed = if let Due::Kill(written) = due {
            Some(*written)
        } else {
            None
        };
        self.cx.closing = killed.is_none();
        if killed.is_some() {
            self.cx.agenda.retain(|(_, id, _), _| *id == EVERYBODY);
        }
        for (id, group) in &mut self.groups {
            match killed {
                Some(written) => {
                    group.planned = 0;
                    let again = start_again(group, &mut self.cx, Some(written));
                    self.replayed += u32::from(again.map_err(|what| (*id, what))?);
                }
                None if group.presumed => {}
                None => {
                    let all = Request::CancelAll(Cause::Shutdown, Disposition::Keep);
                    group.ask(&mut self.cx, all).map_err(|what| (*id, what))?;
                }
            }
        }
        Ok(())
    }

    fn all_over(&mut self) -> Held {
        for (id, group) in &self.groups {
            let over = group.presumed || group.core.is_forgotten();
            let owed = group.journal.is_some();
            if !over || owed {
                let phase = group.core.phase();
                return Err((*id, format!("I35: it is not over: {phase:?}, owed: {owed}")));
            }
        }
        Ok(())
    }

    fn report(self) -> Report {
        let committed =
            |group: &&Group| !group.presumed && group.core.verdict() == Some(Verdict::Commit);
        let groups = self.groups.len() as u32;
        let committed = self.groups.values().filter(committed).count() as u32;
        Report {
            groups,
            jobs: self.groups.values().map(|group| group.jobs).sum(),
            turns: self.groups.values().map(|group| group.turns).sum(),
            committed,
            aborted: groups - committed,
            replayed: self.replayed,
            time: self.cx.now,
            cells: self.cx.cells,
            digests: self
                .groups
                .iter()
                .map(|(id, group)| (*id, group.digest.0))
                .collect(),
            trace: self
                .groups
                .into_values()
                .flat_map(|group| group.trace)
                .collect(),
        }
    }
}

fn handle(group: &mut Group, cx: &mut Cx, due: Due) -> Result<(), String> {
    match due {
        Due::Add(number, seat) => group.add(cx, number, *seat),
        Due::Say(what) => group.say(cx, &what),
        Due::Begin(worker) => group.begin(cx, worker),
        Due::Returns(worker) => group.returns(cx, worker),
        Due::Watch(worker, calls) => group.watch(cx, worker, calls),
        Due::TaskEnds(member, panics) => group.task_ends(cx, member, panics),
        Due::TasksWatched(member) => group.tasks_watched(cx, member),
        Due::Alarm(member) => group.tell(cx, Event::Woken(member)),
        Due::Answer => group.answered(cx),
        Due::Continue => group.tell(cx, Event::Continue),
        Due::Mercy => mercy(group, cx),
        Due::Shutdown | Due::Kill(_) => unreachable!("everybody's"),
    }
}

/// A group for which nothing is planned any more, neither by itself nor for all, is shown mercy, until it is
/// over. That moment depends on no other group.
fn look_after(group: &mut Group, cx: &mut Cx) {
    let finished = group.presumed || (group.core.is_forgotten() && group.journal.is_none());
    if group.planned == 0 && cx.to_come == 0 && !finished {
        group.later(cx, 1, Due::Mercy);
    }
}

/// Nothing is planned for it: what its members say they wait for is given; or its process starts again, if it
/// is in doubt, or over but owed something.
fn mercy(group: &mut Group, cx: &mut Cx) -> Result<(), String> {
    group.mercies += 1;
    hold!(group.mercies < ROUNDS, "I35: mercy does not end it");
    if group.core.in_doubt() || group.core.is_forgotten() {
        return start_again(group, cx, None).map(drop);
    }
    give(group, cx)
}

/// Gives a group what its members say they wait for. Nobody may wait for what is under way, since nothing is.
fn give(group: &mut Group, cx: &mut Cx) -> Result<(), String> {
    if !group.saw.sealed {
        return group.ask(cx, Request::Launch).map(drop);
    }
    let mut given = false;
    for member in 0..group.saw.len() {
        let Some(waits) = group.core.waits_for(member) else {
            continue;
        };
        let request = match waits {
            WaitsFor::Resume { user: true, .. } => Request::Resume(member),
            WaitsFor::Resume { .. } => Request::Release(member),
            WaitsFor::Finalize => Request::Finalize(member),
            WaitsFor::Stuck(other) => Request::GiveUp(other),
            WaitsFor::Dismiss => Request::Dismiss(member),
            WaitsFor::Peers { .. } => continue,
            WaitsFor::Driver if wants_completion(group, member) => Request::Complete(member),
            WaitsFor::Driver => {
                group.tell(cx, Event::Woken(member))?;
                given = true;
                continue;
            }
            // An earlier word of this round set something going.
            _ if given => return Ok(()),
            WaitsFor::Launch
            | WaitsFor::Step
            | WaitsFor::Tasks(_)
            | WaitsFor::Hook(_)
            | WaitsFor::Turn
            | WaitsFor::Journal
            | WaitsFor::InDoubt => {
                return Err(format!(
                    "I35: {member} waits for {waits:?}, and nobody does it"
                ));
            }
        };
        given |= group.ask(cx, request)?;
    }
    let phase = group.core.phase();
    hold!(given, "I35: all wait for each other in {phase:?}");
    Ok(())
}

fn wants_completion(group: &Group, member: u32) -> bool {
    group.saw.one(member).status == Status::Ready
        && group.asked(member) == cohort_job::Asked::Run
        && group.member_spec(member).converges
}

/// The process ends and starts again, seen from one group. Whether it is built again.
fn start_again(group: &mut Group, cx: &mut Cx, killed: Option<bool>) -> Result<bool, String> {
    if group.presumed || (group.core.is_forgotten() && group.journal.is_none()) {
        return Ok(false);
    }
    if killed == Some(true) && group.saw.deciding {
        group.note_verdict();
    }
    group.lives += 1;
    let Some((verdict, members)) = group.journal.clone().or_else(|| remembered(group)) else {
        // No verdict: aborted by presumption. Whoever committed would have had one.
        group.presumed = true;
        let committed = group.seats.iter().any(|seat| seat.committed);
        let over = group.core.phase() == Phase::Done;
        hold!(
            !committed || over,
            "a member committed, and no verdict is found"
        );
        return Ok(false);
    };
    let mut seats = Vec::new();
    for member in members {
        let mut seat = group.seats[member as usize].rebuilt();
        if group.lives >= LIVES {
            seat.forget_plans();
        }
        seats.push((seat.number, seat));
    }
    group.set_shell(group.shell);
    group.saw = Onlooker::new();
    (group.seats, group.places, group.workers) = Default::default();
    for (number, seat) in seats {
        group.add(cx, number, seat)?;
    }
    // Places are given anew.
    if let Some((_, members)) = &mut group.journal {
        *members = (0..group.saw.len()).collect();
    }
    group.ask(cx, Request::Replay(verdict))?;
    group.started_again(cx);
    Ok(true)
}

/// Of a group that was not decided every other is built again from what its owner remembers, to be told that
/// it was aborted: the core allows it, though this engine, which keeps its records in the journal, does not.
fn remembered(group: &Group) -> Option<(Verdict, Vec<u32>)> {
    let undecided = group.saw.decided.is_none() && group.lives < LIVES;
    let disposition = match group.id % 4 {
        1 => Disposition::Keep,
        3 => Disposition::Discard,
        _ => return None,
    };
    let cause = Cause::ProcessEnded;
    undecided.then(|| {
        (
            Verdict::Abort { cause, disposition },
            (0..group.saw.len()).collect(),
        )
    })
}
