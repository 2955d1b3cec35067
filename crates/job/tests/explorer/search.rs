//! Walks every state, breadth first, so that what it finds is found by a shortest way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cohort_job::core::{Action, Event, Notice, Report, Request};

use crate::model::Model;
use crate::moves::{fair, moves};
use crate::world::{Move, World};

/// What an exploration saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
}

/// A way to a state in which something does not hold.
#[derive(Debug)]
pub(crate) struct CounterExample {
    pub(crate) trace: String,
}

/// How many moves fair workers may need to end a group of a few members.
const ENOUGH: usize = 200;

/// Explores `model` wholly, or finds a counter-example.
pub(crate) fn explore(model: &Model) -> Result<Count, CounterExample> {
    Search::new(model).run()
}

/// Walks `moves` moves at random through a group too large to explore, then lets it end; `seed` makes the walk
/// the same every time.
pub(crate) fn wander(model: &Model, seed: u64, moves_made: usize) -> Result<(), CounterExample> {
    let mut dice = seed;
    let mut world = World::new(model);
    let mut way = Vec::new();
    let step = |world: &mut World, step: Move, way: &mut Vec<Move>| {
        way.push(step.clone());
        guarded(|| world.make(model, &step).map(drop))
    };
    let mut walk = || -> Result<(), String> {
        for _ in 0..moves_made {
            let choices =
                moves(&world, model).map_err(|(step, wrong)| format!("{step:?}: {wrong}"))?;
            if choices.is_empty() {
                break;
            }
            dice = mix(dice.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let pick = usize::try_from(dice % choices.len() as u64).expect("few moves");
            if ends_the_group(&choices[pick]) && !(dice >> 32).is_multiple_of(512) {
                continue;
            }
            step(&mut world, choices[pick].clone(), &mut way)?;
        }
        for _ in 0..ENOUGH * world.len() as usize {
            match fair(&world)? {
                Some(next) => step(&mut world, next, &mut way)?,
                None => return Ok(()),
            }
        }
        Err("never ends".to_owned())
    };
    walk().map_err(|wrong| {
        let mut world = World::new(model);
        let mut trace = format!("{}, seed {seed}: {wrong}\n", model.name);
        way.iter()
            .for_each(|step| tell(&mut trace, &mut world, model, step));
        CounterExample { trace }
    })
}

struct Search<'a> {
    model: &'a Model,
    /// States seen, by fingerprint; where each came from, by position.
    seen: HashMap<u128, u32>,
    from: Vec<(u32, u16)>,
    queue: VecDeque<(u32, World)>,
    /// States from which the end is known to be reached.
    ends: HashSet<u128>,
    transitions: usize,
}

impl<'a> Search<'a> {
    fn new(model: &'a Model) -> Self {
        let first = World::new(model);
        Self {
            model,
            seen: HashMap::from([(fingerprint(&first, model), 0)]),
            from: vec![(0, 0)],
            queue: VecDeque::from([(0, first)]),
            ends: HashSet::new(),
            transitions: 0,
        }
    }

    fn run(mut self) -> Result<Count, CounterExample> {
        while let Some((at, world)) = self.queue.pop_front() {
            if at % 1_000_000 == 999_999 {
                eprintln!(
                    "{}: {at} states walked, {} to walk",
                    self.model.name,
                    self.queue.len()
                );
            }
            let moves = moves(&world, self.model)
                .map_err(|(step, wrong)| self.found(at, &[step], &wrong))?;
            for (which, step) in moves.iter().enumerate() {
                let mut next = world.clone();
                guarded(|| next.make(self.model, step).map(drop))
                    .map_err(|wrong| self.found(at, std::slice::from_ref(step), &wrong))?;
                self.transitions += 1;
                self.visit(at, which, next);
            }
            self.reaches_the_end(at, world)?;
        }
        Ok(Count {
            states: self.from.len(),
            transitions: self.transitions,
        })
    }

    fn visit(&mut self, at: u32, which: usize, next: World) {
        let fingerprint = fingerprint(&next, self.model);
        if self.seen.contains_key(&fingerprint) {
            return;
        }
        let position = u32::try_from(self.from.len()).expect("fewer than 2^32 states");
        self.seen.insert(fingerprint, position);
        self.from
            .push((at, u16::try_from(which).expect("few moves")));
        self.queue.push_back((position, next));
    }

    /// Liveness: with fair workers, and users who give what is waited for, every group ends.
    fn reaches_the_end(&mut self, at: u32, mut world: World) -> Result<(), CounterExample> {
        let mut way = Vec::new();
        let mut passed = Vec::new();
        loop {
            let fingerprint = fingerprint(&world, self.model);
            if self.ends.contains(&fingerprint) {
                break;
            }
            passed.push(fingerprint);
            let wrong = match fair(&world) {
                Ok(None) => break,
                Ok(Some(_)) if way.len() > ENOUGH => "never ends".to_owned(),
                Ok(Some(step)) => {
                    let made = guarded(|| world.make(self.model, &step).map(drop));
                    way.push(step);
                    match made {
                        Ok(()) => continue,
                        Err(wrong) => wrong,
                    }
                }
                Err(wrong) => wrong,
            };
            return Err(self.found(at, &way, &wrong));
        }
        self.ends.extend(passed);
        Ok(())
    }

    /// The way to state `at` and on, move by move.
    fn found(&self, at: u32, rest: &[Move], wrong: &str) -> CounterExample {
        let mut picks = Vec::new();
        let mut here = at;
        while here != 0 {
            let (before, which) = self.from[here as usize];
            picks.push(which);
            here = before;
        }
        let mut world = World::new(self.model);
        let mut trace = format!("{}: {wrong}\n", self.model.name);
        for which in picks.into_iter().rev() {
            let step =
                moves(&world, self.model).expect("walked before")[usize::from(which)].clone();
            tell(&mut trace, &mut world, self.model, &step);
        }
        for step in rest {
            tell(&mut trace, &mut world, self.model, step);
        }
        let _ = write!(
            trace,
            "  here: {:?}, {:?}",
            world.core.phase(),
            world.core.cause()
        );
        for member in 0..world.len() {
            let (status, waits) = (world.one(member).status, world.core.waits_for(member));
            let _ = write!(trace, "\n    {member}: {status}, waits for {waits:?}");
        }
        CounterExample { trace }
    }
}

/// Most walks should see a group at work, and its end in every way: what ends a group is chosen seldom.
fn ends_the_group(step: &Move) -> bool {
    match step {
        Move::Ask(request) => matches!(
            request,
            Request::Cancel(..) | Request::CancelAll(..) | Request::Rollback | Request::GiveUp(_)
        ),
        Move::Tell(event) => matches!(
            event,
            Event::TaskPanicked(..)
                | Event::Ran {
                    report: Report::Failed(_) | Report::Panicked(_),
                    ..
                }
        ),
    }
}

/// Makes a move and writes one line about it.
fn tell(trace: &mut String, world: &mut World, model: &Model, step: &Move) {
    let before = world.core.clone();
    let mut out = Vec::new();
    let what = match step {
        Move::Ask(request) => {
            let _ = guarded(|| {
                let _ = world.core.apply(request.clone(), &mut out);
                Ok(())
            });
            format!("user: {request:?}")
        }
        Move::Tell(event) => {
            let _ = guarded(|| {
                world.core.handle(event.clone(), &mut out);
                Ok(())
            });
            format!("worker: {event:?}")
        }
    };
    world.core = before;
    let _ = guarded(|| world.make(model, step).map(drop));
    let actions: Vec<String> = out.iter().map(short).collect();
    let _ = writeln!(trace, "  {what:<60} ⇒ {}", actions.join(", "));
}

fn short(action: &Action) -> String {
    match action {
        Action::Notify(Notice::Status(span, status)) => format!("{span:?}:{status}"),
        Action::Notify(notice) => format!("{notice:?}"),
        Action::Run { order, members } => format!("{order:?} {members:?}"),
        Action::Hold(_)
        | Action::Release(_)
        | Action::Stop(_)
        | Action::Ask(..)
        | Action::WakeAt(..)
        | Action::Decide(_)
        | Action::Continue
        | Action::Ended { .. } => format!("{action:?}"),
    }
}

/// A panic of the core is a finding like any other.
fn guarded(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        Err(format!(
            "panicked: {}",
            words.unwrap_or_else(|| "without a word".to_owned())
        ))
    })
}

/// 128 bits of a state. Two lanes of multiply and rotate: fast, and the same in every run.
fn fingerprint(world: &World, model: &Model) -> u128 {
    let mut lanes = Lanes {
        a: 0x9e37_79b9_7f4a_7c15,
        b: 0xc2b2_ae3d_27d4_eb4f,
    };
    if model.exact {
        world.hash(&mut lanes);
    } else {
        world.hash_future(&mut lanes);
    }
    (u128::from(lanes.finish()) << 64) | u128::from(mix(lanes.b ^ lanes.a.rotate_left(23)))
}

struct Lanes {
    a: u64,
    b: u64,
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word = (word ^ (word >> 29)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^ (word >> 32)
}

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.a = (self.a.rotate_left(25) ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.b = (self.b.rotate_left(41) ^ word).wrapping_mul(0xa24b_aed4_963e_e407);
        self.b ^= self.b >> 31;
        self.a ^= self.a >> 29;
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        mix(self.a)
    }
}
