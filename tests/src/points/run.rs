//! A script from its first round to its last.

use std::fmt;

use cohort_backup::{BitmapPolicy, OnUndecided, SyncMode, Unproven};

use super::cells::{Cells, End};
use super::judge;
use super::round::{Played, play, put};
use super::script::{Kind, Member, Round, Script};
use super::still::Threads;
use super::world::World;
use crate::sim::random::Random;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Backups.
    pub rounds: u64,
    /// Requests and orders, one after the other.
    pub steps: u64,
    /// Points that were compared with what they show.
    pub points: u64,
    /// Partials that were left.
    pub partials: u64,
    /// What was met.
    pub cells: Cells,
    /// All that happened.
    pub trace: Vec<String>,
}

/// What does not hold, and all that happened before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The sentence.
    pub what: String,
    /// In which round.
    pub round: usize,
    /// The steps of that round.
    pub trace: Vec<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "round {}:", self.round)?;
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "{}", self.what)
    }
}

/// Runs a script. No other thread of this process may be at work meanwhile.
///
/// # Errors
/// What does not hold.
pub fn run(script: &Script) -> Result<Report, Box<Wrong>> {
    let mut report = Report::default();
    let mut trace = Vec::new();
    let wrong = |what: String, round: usize, trace: &mut Vec<String>| {
        let trace = std::mem::take(trace);
        Box::new(Wrong { what, round, trace })
    };
    let world = World::new(script).map_err(|error| error.to_string());
    let mut world = world.map_err(|what| wrong(what, 0, &mut trace))?;
    let threads = Threads::new().map_err(|error| error.to_string());
    let mut threads = threads.map_err(|what| wrong(what, 0, &mut trace))?;
    let mut schedule = Random::new(script.schedule);
    let last = last_round(script);
    for (number, round) in script.rounds.iter().chain([&last]).enumerate() {
        trace.clear();
        one(
            &mut world,
            round,
            &mut schedule,
            &mut threads,
            &mut trace,
            &mut report,
        )
        .map_err(|what| wrong(what, number, &mut trace))?;
        report.trace.extend_from_slice(&trace);
    }
    judge::end(&world).map_err(|what| wrong(what, script.rounds.len(), &mut trace))?;
    let books = world
        .disks
        .iter()
        .map(|disk| disk.book.pages().points.len());
    report.points = books.sum::<usize>() as u64;
    Ok(report)
}

fn one(
    world: &mut World,
    round: &Round,
    schedule: &mut Random,
    threads: &mut Threads,
    trace: &mut Vec<String>,
    report: &mut Report,
) -> Result<(), String> {
    let unproven = round.restart.unwrap_or(Unproven::Use);
    if round.restart.is_some() {
        world.restart(unproven)?;
    }
    for write in &round.before {
        let disk = &world.disks[write.disk];
        let stamp = schedule.next();
        let written = match &disk.tracked {
            Some(tracked) => put(&**tracked.gated(), *write, stamp),
            None => put(&*disk.device, *write, stamp),
        };
        written.map_err(|error| error.to_string())?;
    }
    let Played {
        ended,
        left,
        struck,
        steps,
    } = play(world, round, schedule, threads, trace)?;
    report.rounds += 1;
    report.steps += u64::from(steps);
    let mut meet = |member: &Member, end| {
        let struck = struck.get(&member.disk).copied();
        report.cells.meet(member.mode, member.policy, end, struck);
    };
    if let Some(left) = left {
        round
            .members
            .iter()
            .for_each(|member| meet(member, End::Killed));
        world.resurrect(left, unproven)?;
        if world.directory().join("catalogue.redb").exists() {
            judge::maps(world, &judge::directory(world)?)?;
        }
        return Ok(());
    }
    let Some(ended) = ended else {
        return Err("it did not end".to_owned());
    };
    match &ended {
        Ok(run) => {
            for (member, disk) in round.members.iter().zip(&run.disks) {
                meet(member, End::of(&disk.outcome));
                report.partials += u64::from(disk.left.is_some());
            }
        }
        Err(error) => {
            trace.push(error.to_string());
            round
                .members
                .iter()
                .for_each(|member| meet(member, End::LeftAlone));
        }
    }
    judge::round(world, round, &ended)
}

/// Whatever was before: in the end every disk has a point.
fn last_round(script: &Script) -> Round {
    let disks = script.disks.iter().enumerate();
    let members = disks.map(|(disk, of)| Member {
        disk,
        mode: SyncMode::Bitmap,
        policy: BitmapPolicy::OnSuccess,
        undecided: OnUndecided::Keep,
        cluster: if of.kind == Kind::File {
            8 << 10
        } else {
            64 << 10
        },
        workers: 2,
        staging: 1 << 20,
        skips: None,
        impatient: None,
        digests: true,
    });
    Round {
        restart: None,
        before: Vec::new(),
        individual: false,
        members: members.collect(),
        during: Vec::new(),
        faults: Vec::new(),
        deeds: Vec::new(),
    }
}
