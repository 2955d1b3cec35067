//! `cohort backup`: a run of grouped backups, watched until it ends; Ctrl-C stops it, gently at first.

mod remote;
mod words;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use cohort_backup::catalogue::{self, Catalogue};
use cohort_backup::{Backup, DiskSpec, Hook, RunReport, Running};
use cohort_job::Disposition;
use cohort_qmp::StopHow;

use super::report::Told;
use super::sources::{MachineSource, NamedBitmaps, Source};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::{self, Interrupt};
use crate::machine::{Frozen, Machine};
use crate::output::eprint_line;
use crate::progress::{DiskNow, Progress};

pub(crate) use words::Words;

/// How often a run is looked at: often enough for a bar that moves smoothly.
const LOOK: Duration = Duration::from_millis(100);

/// How long a hook may take to freeze, and to thaw.
const HOOK_WAIT: Duration = Duration::from_secs(10);

pub(super) fn run(args: &args::Backup) -> Result {
    if let Some(socket) = &args.socket {
        return remote::run(args, socket);
    }
    let (machines, sources) = sources(args)?;
    let words = Words::of(args)?;
    let specs = disks(args, &words, &machines, &sources)?;
    let heard = Heard::listen()?;
    if machines.is_empty() {
        let report = watch(start(Backup::to(&args.to), specs, args)?, args, &heard);
        return Ok(Told::of(&report).print(args.output.json));
    }
    let catalogue = Catalogue::open_or_create(&args.to)?;
    let mut frozen = Instants::take(machines, &catalogue, args)?;
    let mut all = Vec::new();
    for spec in frozen.specs() {
        all.push(words.spec(spec)?);
    }
    all.extend(specs);
    let running = start(Backup::into_open(catalogue), all, args)?;
    let report = watch(running, args, &heard);
    drop(frozen);
    Ok(Told::of(&report).print(args.output.json))
}

fn start(backup: Backup, specs: Vec<DiskSpec>, args: &args::Backup) -> Result<Running> {
    let mut backup = backup.individual(args.individual);
    for spec in specs {
        backup = backup.disk(spec);
    }
    Ok(backup.start()?)
}

/// The machines, each with a connection to its monitor, and the other sources.
fn sources(args: &args::Backup) -> Result<(Vec<Machine>, Vec<Source>)> {
    let (mut machines, mut others) = (Vec::new(), Vec::new());
    for text in &args.sources {
        match MachineSource::parse(text)? {
            Some(source) => machines.push(Machine::connect(&source.monitor, source.disks)?),
            None => others.push(Source::parse(text)),
        }
    }
    if machines.is_empty() && (args.scratch.is_some() || !args.hook.is_empty()) {
        let message = "--scratch and --hook are for machines: say qmp:SOCKET";
        return Err(Failure::say(Exit::Usage, message));
    }
    Ok((machines, others))
}

/// The instants of all machines. Dropped, they are given back as the directory then says, whatever became of the run.
struct Instants<'a> {
    frozen: Vec<Frozen>,
    directory: &'a Path,
}

impl<'a> Instants<'a> {
    fn take(machines: Vec<Machine>, catalogue: &Catalogue, args: &'a args::Backup) -> Result<Self> {
        let contents = catalogue.snapshot()?;
        let mut instants = Instants {
            frozen: Vec::new(),
            directory: &args.to,
        };
        let scratch = args.scratch.as_deref().unwrap_or(&args.to);
        for machine in machines {
            let hooks = args.hook.iter();
            let hooks = hooks.map(|command| Hook::command(command.as_str(), HOOK_WAIT));
            let frozen = machine.freeze(&contents, scratch, hooks.collect())?;
            instants.frozen.push(frozen);
        }
        Ok(instants)
    }

    fn specs(&mut self) -> Vec<DiskSpec> {
        self.frozen.iter_mut().flat_map(Frozen::specs).collect()
    }
}

impl Drop for Instants<'_> {
    fn drop(&mut self) {
        let contents = match catalogue::read(self.directory) {
            Ok(contents) => contents,
            Err(error) => {
                let why = "the machine is left as it is, the next run sees to that";
                return eprint_line(&format!("cohort: {why}: {error}"));
            }
        };
        for note in self
            .frozen
            .drain(..)
            .flat_map(|frozen| frozen.release(&contents))
        {
            eprint_line(&format!("cohort: {note}"));
        }
    }
}

/// The disks with their options, as the library wants them.
fn disks(
    args: &args::Backup,
    words: &Words,
    machines: &[Machine],
    sources: &[Source],
) -> Result<Vec<DiskSpec>> {
    let bitmaps = NamedBitmaps::parse(&args.bitmap)?;
    let mut specs = Vec::new();
    let mut names = Vec::new();
    for source in sources {
        let spec = source.spec()?;
        let name = spec.disk_name()?;
        let spec = match bitmaps.of(&name) {
            Some(bitmap) => match source.tracking_store(bitmap) {
                Some(store) => spec.tracking_store(store),
                None => spec.bitmap(bitmap),
            },
            None => spec,
        };
        names.push(name);
        specs.push(words.spec(spec)?);
    }
    bitmaps.all_used(&names)?;
    names.extend(machines.iter().flat_map(Machine::disks).cloned());
    words.all_used(&names)?;
    Ok(specs)
}

/// Shows progress until the run has ended, and passes on what the user wishes meanwhile.
fn watch(running: Running, args: &args::Backup, heard: &Heard) -> RunReport {
    let start = Instant::now();
    let mut progress = Progress::new(args.output.json);
    let mut wishes = 0;
    while !running.is_finished_within(LOOK) {
        progress.show(start.elapsed(), &now(&running));
        if let Ok(Interrupt) = heard.interrupts.try_recv() {
            wishes += 1;
            if let Some((how, said)) = wish(args.discard_on_interrupt, wishes) {
                progress.say(said);
                stop(&running, how);
            }
        }
        go_on(&heard.continued, &running);
    }
    progress.finish();
    running.wait()
}

/// What the user says while it runs.
struct Heard {
    interrupts: Receiver<Interrupt>,
    /// That what waits for the operator shall try again.
    continued: Arc<AtomicBool>,
}

impl Heard {
    fn listen() -> Result<Heard> {
        let other = |error| Failure::new(Exit::Other, error);
        Ok(Heard {
            interrupts: interrupt::listen().map_err(other)?,
            continued: interrupt::continued().map_err(other)?,
        })
    }
}

/// Has the disks try again that wait for the operator to mend something, if that is wished. The wish stays while one of
/// them says that it waits and does not yet.
pub(crate) fn go_on(wish: &AtomicBool, running: &Running) {
    if !wish.swap(false, Ordering::Relaxed) {
        return;
    }
    let stopped = running
        .disks()
        .iter()
        .filter(|disk| disk.stopped().is_some());
    let refused = stopped.filter(|disk| disk.job().resume().is_err());
    if refused.count() > 0 {
        wish.store(true, Ordering::Relaxed);
    }
}

/// How the user's `wishes`-th wish stops a run, and what is said of that; further wishes change nothing.
fn wish(discard: bool, wishes: u32) -> Option<(StopHow, &'static str)> {
    match (discard, wishes) {
        (true, 1) => Some((
            StopHow::Discard,
            "Stopping: nothing of this run will be left.",
        )),
        (false, 1) => Some((
            StopHow::Keep,
            "Stopping: each disk keeps what its policy says. Once more: without waiting for the flush.",
        )),
        (false, 2) => Some((
            StopHow::Hurry,
            "Stopping without waiting for the flush: what is not yet durable will be copied again.",
        )),
        _ => None,
    }
}

/// Stops a run so.
pub(crate) fn stop(running: &Running, how: StopHow) {
    match how {
        StopHow::Keep => running.cancel(Disposition::Keep),
        StopHow::Discard => running.cancel(Disposition::Discard),
        StopHow::Hurry => running.hurry(),
    }
}

/// Where every disk of the run is.
pub(crate) fn now(running: &Running) -> Vec<DiskNow> {
    let look = |disk: &cohort_backup::RunningDisk| {
        let at = disk.progress();
        DiskNow {
            name: disk.name().to_string(),
            phase: at.phase.to_string(),
            done: at.done,
            total: at.total,
            stopped: disk.stopped(),
        }
    };
    running.disks().iter().map(look).collect()
}
