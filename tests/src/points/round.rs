//! One backup, step by step: whoever is let go on does one request, and everything comes to rest before the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use cohort_backup::{
    Backup, Budget, DiskPhase, ErrorPolicy, Options, RunReport, Running, StartError,
};
use cohort_block::{Device, File, Gated};
use cohort_job::Disposition;

use super::script::{Deed, Fault, Kind, Member, Round, Write};
use super::stage::{Answer, Moment, What, Who};
use super::still::Threads;
use super::watched::WatchedFile;
use super::world::{Left, LiveDisk, World, bytes_of};
use crate::sim::random::Random;

/// Nobody in a script waits so long for anything but a mistake.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Hardly any patience.
const IMPATIENCE: std::time::Duration = std::time::Duration::from_millis(40);

/// After so many steps that nobody goes on, somebody waits for what will never come.
const STUCK: u32 = 15_000;

/// How a round went.
pub(super) struct Played {
    /// What the backup said; none if the process was killed.
    pub(super) ended: Option<Result<RunReport, StartError>>,
    /// What is left of a process that was killed.
    pub(super) left: Option<Left>,
    /// What struck first, and while the disk did what.
    pub(super) struck: BTreeMap<usize, (Strike, Option<DiskPhase>)>,
    /// How many steps it took.
    pub(super) steps: u32,
}

/// What went wrong with a disk first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strike {
    /// The source could not be read.
    Read,
    /// The target could not be written to.
    Save,
    /// The target could not be made durable.
    Sync,
    /// A write to the source failed.
    Write,
    /// The target did not answer for a while.
    Stall,
    /// It was cancelled softly.
    Cancel,
    /// It was cancelled by force.
    Discard,
    /// The run was told to hurry.
    Hurry,
    /// The process was killed.
    Kill,
}

/// Plays a round.
pub(super) fn play(
    world: &World,
    round: &Round,
    schedule: &mut Random,
    threads: &mut Threads,
    trace: &mut Vec<String>,
) -> Result<Played, String> {
    let bad = round.faults.iter().filter_map(|fault| match *fault {
        Fault::Bad(disk, at) => Some((disk, at)),
        Fault::Save(..) | Fault::Sync(..) | Fault::Write(..) | Fault::Stall(..) => None,
    });
    world.stage.spoil(bad);
    world.stage.close();
    let mut conductor = Conductor::new(world, round, schedule, threads, trace)?;
    let left = conductor.all();
    // Also if something is wrong: nobody may wait for ever.
    let dead = !matches!(left, Ok(None));
    world
        .stage
        .open(if dead { Answer::Fail } else { Answer::Go });
    let ended = conductor.end(dead);
    world.stage.spoil([]);
    world.stage.open(Answer::Go);
    let left = left?;
    Ok(Played {
        ended: ended.filter(|_| left.is_none()),
        left,
        struck: conductor.struck,
        steps: conductor.step,
    })
}

struct Conductor<'a> {
    world: &'a World,
    round: &'a Round,
    schedule: &'a mut Random,
    threads: &'a mut Threads,
    trace: &'a mut Vec<String>,
    writers: Vec<Writer>,
    starter: Option<JoinHandle<Result<Running, StartError>>>,
    running: Option<Running>,
    refused: Option<StartError>,
    deeds: VecDeque<(u32, Deed)>,
    /// How likely each goes on.
    weights: [u32; 8],
    /// How many of each were let go on, by disk.
    counts: BTreeMap<(What, usize), u32>,
    /// Targets that do not answer, until which step.
    stalled: BTreeMap<usize, u32>,
    struck: BTreeMap<usize, (Strike, Option<DiskPhase>)>,
    step: u32,
    idle: u32,
}

/// One of those who use the disks.
struct Writer {
    queue: VecDeque<Write>,
    tell: Sender<(Arc<Gated>, Write, u64)>,
    done: Receiver<()>,
    busy: bool,
    thread: JoinHandle<()>,
}

/// What may happen next.
#[derive(Clone, Copy)]
enum Next {
    Go(Moment),
    Write(usize),
}

impl<'a> Conductor<'a> {
    fn new(
        world: &'a World,
        round: &'a Round,
        schedule: &'a mut Random,
        threads: &'a mut Threads,
        trace: &'a mut Vec<String>,
    ) -> Result<Self, String> {
        let writers = (0..2).map(|number| Writer::start(number, &round.during));
        let writers = writers.collect::<std::io::Result<_>>();
        let backup = backup(world, round)?;
        let starter = thread::Builder::new().name("starter".to_owned());
        let starter = starter.spawn(move || backup.start());
        let failed = |error: std::io::Error| error.to_string();
        let weights = std::array::from_fn(|_| schedule.pick(&[1, 1, 4, 16]));
        Ok(Self {
            world,
            round,
            schedule,
            threads,
            trace,
            writers: writers.map_err(failed)?,
            starter: Some(starter.map_err(failed)?),
            running: None,
            refused: None,
            deeds: round.deeds.iter().copied().collect(),
            weights,
            counts: BTreeMap::new(),
            stalled: BTreeMap::new(),
            struck: BTreeMap::new(),
            step: 0,
            idle: 0,
        })
    }

    /// Until it is over, or killed: then what is left.
    fn all(&mut self) -> Result<Option<Left>, String> {
        loop {
            if !self.threads.settle() {
                return Err("a thread runs and runs".to_owned());
            }
            self.hear();
            self.step += 1;
            if self.has_started()
                && let Some(left) = self.do_deeds()?
            {
                return Ok(Some(left));
            }
            let choices = self.choices();
            if choices.is_empty() {
                if self.is_over() {
                    return Ok(None);
                }
                self.nobody_goes_on()?;
                continue;
            }
            self.idle = 0;
            match self.choose(&choices) {
                Next::Go(moment) => self.let_go(moment),
                Next::Write(number) => self.begin_write(number),
            }
        }
    }

    /// Joins what has ended.
    fn hear(&mut self) {
        if self.starter.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(starter) = self.starter.take()
        {
            match starter.join() {
                Ok(Ok(running)) => self.running = Some(running),
                Ok(Err(error)) => self.refused = Some(error),
                Err(_) => self.refused = Some(StartError::Engine("it panicked".to_owned())),
            }
        }
        for writer in &mut self.writers {
            if writer.busy && writer.done.try_recv().is_ok() {
                writer.busy = false;
            }
        }
    }

    fn has_started(&self) -> bool {
        self.starter.is_none()
    }

    fn is_over(&self) -> bool {
        let run = self.refused.is_some() || self.running.as_ref().is_some_and(Running::is_finished);
        run && self.writers.iter().all(|writer| !writer.busy)
    }

    fn do_deeds(&mut self) -> Result<Option<Left>, String> {
        while let Some(&(step, deed)) = self.deeds.front()
            && step <= self.step
        {
            self.deeds.pop_front();
            self.trace.push(format!("{deed:?}"));
            if deed == Deed::Kill {
                let disks: Vec<_> = self.round.members.iter().map(|m| m.disk).collect();
                for disk in disks {
                    self.strike(disk, Strike::Kill);
                }
                let left = self.world.left().map_err(|error| error.to_string())?;
                return Ok(Some(left));
            }
            self.tell(deed);
            if !self.threads.settle() {
                return Err("a thread runs and runs".to_owned());
            }
        }
        Ok(None)
    }

    /// What was refused was refused: the verdict was there.
    fn tell(&mut self, deed: Deed) {
        let job = |disk: usize| {
            let name = &self.world.disks[disk].name;
            let disks = self.running.iter().flat_map(|running| running.disks());
            let mut of_name = disks.filter(|running| running.name() == name);
            of_name.next().map(|running| running.job().clone())
        };
        match deed {
            Deed::Cancel(disk, disposition) => {
                if let Some(job) = job(disk)
                    && job.cancel(disposition).is_ok()
                {
                    let strike = match disposition {
                        Disposition::Keep => Strike::Cancel,
                        Disposition::Discard => Strike::Discard,
                    };
                    self.strike(disk, strike);
                }
            }
            Deed::Pause(disk) => drop(job(disk).map(|job| job.pause())),
            Deed::Resume(disk) => drop(job(disk).map(|job| job.resume())),
            Deed::Hurry => {
                if let Some(running) = &self.running {
                    running.hurry();
                }
                let disks: Vec<_> = self.round.members.iter().map(|m| m.disk).collect();
                for disk in disks {
                    self.strike(disk, Strike::Hurry);
                }
            }
            Deed::Kill => {}
        }
    }

    fn choices(&self) -> Vec<Next> {
        let stalled = |moment: &Moment| {
            matches!(moment.what, What::Save | What::Sync)
                && self
                    .stalled
                    .get(&moment.disk)
                    .is_some_and(|until| *until > self.step)
        };
        let waiting = self.world.stage.waiting().into_iter();
        let mut choices: Vec<_> = waiting
            .filter(|moment| !stalled(moment))
            .map(Next::Go)
            .collect();
        let over = self.is_over();
        let writers = self.writers.iter().enumerate();
        let ready = writers.filter(|(_, writer)| !over && !writer.busy && !writer.queue.is_empty());
        choices.extend(ready.map(|(number, _)| Next::Write(number)));
        choices
    }

    fn choose(&mut self, choices: &[Next]) -> Next {
        let weight = |next: &Next| match next {
            Next::Write(_) => self.weights[0],
            Next::Go(moment) => {
                self.weights[match moment.who {
                    Who::Writer(_) => 1,
                    Who::Starter => 2,
                    Who::Task => 3,
                    Who::Worker => 4,
                    Who::Saver => 5,
                    Who::Checkpoint => 6,
                    Who::Flusher | Who::Other => 7,
                }]
            }
        };
        let total = choices.iter().map(weight).sum();
        let mut at = self.schedule.below(total);
        for next in choices {
            match at.checked_sub(weight(next)) {
                Some(rest) => at = rest,
                None => return *next,
            }
        }
        unreachable!("the weights add up")
    }

    fn let_go(&mut self, moment: Moment) {
        let Moment { what, disk, .. } = moment;
        let count = self.counts.entry((what, disk)).or_insert(0);
        *count += 1;
        let nth = *count;
        let mut answer = Answer::Go;
        let faults = self.round.faults.clone();
        for fault in &faults {
            match *fault {
                Fault::Save(d, n, on) if what == What::Save && d == disk => {
                    if nth == n || on && nth > n {
                        answer = Answer::Fail;
                        self.strike(disk, Strike::Save);
                    }
                }
                Fault::Sync(d, n) if what == What::Sync && d == disk && nth == n => {
                    answer = Answer::Fail;
                    self.strike(disk, Strike::Sync);
                }
                Fault::Write(d, n) if what == What::Write && d == disk && nth == n => {
                    answer = Answer::Fail;
                    self.strike(disk, Strike::Write);
                }
                Fault::Stall(d, n, steps) if what == What::Save && d == disk && nth == n => {
                    self.stalled.insert(disk, self.step + steps);
                    self.strike(disk, Strike::Stall);
                }
                Fault::Bad(d, at)
                    if what == What::Read
                        && d == disk
                        && (moment.offset..moment.offset + moment.length).contains(&at) =>
                {
                    self.strike(disk, Strike::Read);
                }
                Fault::Bad(..)
                | Fault::Save(..)
                | Fault::Sync(..)
                | Fault::Write(..)
                | Fault::Stall(..) => {}
            }
        }
        self.trace.push(format!("{moment}: {answer:?}"));
        self.world.stage.answer(moment, answer);
    }

    fn begin_write(&mut self, number: usize) {
        let writer = &mut self.writers[number];
        let Some(write) = writer.queue.pop_front() else {
            return;
        };
        let disk = &self.world.disks[write.disk];
        if let Some(tracked) = &disk.tracked {
            self.trace.push(format!("writer {number}: {write:?}"));
            let stamp = self.schedule.next();
            writer.busy = writer
                .tell
                .send((tracked.gated().clone(), write, stamp))
                .is_ok();
        }
    }

    /// Only time helps, or those who hold something up.
    fn nobody_goes_on(&mut self) -> Result<(), String> {
        self.idle += 1;
        let impatient = self.round.members.iter().any(|m| m.impatient.is_some());
        if !self.stalled.is_empty() && self.idle > if impatient { 60 } else { 3 } {
            self.stalled.clear();
            return Ok(());
        }
        if self.idle == 100 && self.deeds.is_empty() {
            for number in 0..self.world.disks.len() {
                self.tell(Deed::Resume(number));
            }
        }
        // Steps are what deeds wait for.
        if self.idle > STUCK {
            let jobs = self.running.iter().flat_map(|running| running.disks());
            let why: Vec<_> = jobs.map(|disk| disk.job().why()).collect();
            return Err(format!("nobody goes on: {why:?}"));
        }
        self.world.stage.wait_for_anybody();
        Ok(())
    }

    fn strike(&mut self, disk: usize, strike: Strike) {
        let name = &self.world.disks[disk].name;
        let running = self.running.iter().flat_map(|running| running.disks());
        let mut of_name = running.filter(|running| running.name() == name);
        let phase = of_name.next().map(|running| running.progress().phase);
        self.struck.entry(disk).or_insert((strike, phase));
    }

    /// Ends all threads; how the backup ended, if it was not killed.
    fn end(&mut self, dead: bool) -> Option<Result<RunReport, StartError>> {
        if let Some(starter) = self.starter.take() {
            match starter.join() {
                Ok(Ok(running)) => self.running = Some(running),
                Ok(Err(error)) => self.refused = Some(error),
                Err(_) => {}
            }
        }
        let report = self.running.take().map(|running| {
            if dead {
                running.cancel(Disposition::Keep);
                running.hurry();
            }
            Ok(running.wait())
        });
        for writer in self.writers.drain(..) {
            drop(writer.tell);
            // A writer that panicked is found missing by what it did not write.
            let _ = writer.thread.join();
        }
        report.or_else(|| self.refused.take().map(Err))
    }
}

impl Writer {
    fn start(number: u8, writes: &[Write]) -> std::io::Result<Self> {
        let (tell, told) = channel::<(Arc<Gated>, Write, u64)>();
        let (finish, done) = channel();
        let thread = thread::Builder::new().name(format!("writer-{number}"));
        let thread = thread.spawn(move || {
            while let Ok((gated, write, stamp)) = told.recv() {
                // One that fails is not acknowledged.
                let _ = put(&*gated, write, stamp);
                let _ = finish.send(());
            }
        })?;
        let queue = writes.iter().filter(|write| write.writer == number);
        Ok(Self {
            queue: queue.copied().collect(),
            tell,
            done,
            busy: false,
            thread,
        })
    }
}

/// Writes blocks that bear a number, or zeroes.
pub(super) fn put(
    device: &dyn Device,
    write: Write,
    stamp: u64,
) -> Result<(), cohort_block::DeviceError> {
    if write.zeroes {
        return device.write_zeroes(write.offset, write.length);
    }
    let bytes: Vec<u8> = stamp
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(write.length as usize)
        .collect();
    device.write_at(&bytes, write.offset)
}

fn backup(world: &World, round: &Round) -> Result<Backup, String> {
    let mut backup = Backup::to(world.directory())
        .individual(round.individual)
        .yields(false);
    let mut looks = Vec::new();
    for member in &round.members {
        let disk = &world.disks[member.disk];
        backup = backup.disk(disk.spec(&world.stage).options(options(member)?));
        if disk.script.kind != Kind::File {
            looks.push((disk.device.clone(), disk.book.clone(), disk.tracked.clone()));
        }
    }
    backup = backup.inside_fence(move || {
        for (device, book, tracked) in looks {
            // A disk that waits for an answer is in no fence.
            if tracked.is_some_and(|tracked| tracked.dirty().is_none()) {
                book.fence(bytes_of(&*device));
            }
        }
    });
    let (stage, names) = (world.stage.clone(), names(&world.disks));
    Ok(backup.target_files(move |image, inner| {
        let disk = names.get(image.disk().as_str()).copied().unwrap_or(0);
        let stage = stage.clone();
        let file: Arc<dyn File> = Arc::new(WatchedFile { inner, stage, disk });
        file
    }))
}

fn names(disks: &[LiveDisk]) -> BTreeMap<String, usize> {
    let names = disks
        .iter()
        .map(|disk| (disk.name.to_string(), disk.number));
    names.collect()
}

fn options(member: &Member) -> Result<Options, String> {
    let on_error = match member.skips {
        Some(limit) => ErrorPolicy::Skip {
            budget: Budget::NONE,
            limit,
        },
        None => ErrorPolicy::Report,
    };
    let mut options = Options::builder()
        .mode(member.mode)
        .policy(member.policy)
        .undecided(member.undecided)
        .cluster(member.cluster)
        .workers(member.workers)
        .staging_memory(member.staging)
        .on_source_error(on_error)
        .writer_wait(PATIENCE)
        .digests(member.digests);
    if let Some(on_miss) = member.impatient {
        options = options.writer_wait(IMPATIENCE).on_miss(on_miss);
    }
    options.build().map_err(|error| error.to_string())
}
