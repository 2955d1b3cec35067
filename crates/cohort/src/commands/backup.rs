//! `cohort backup`: a run of grouped backups, watched until it ends; Ctrl-C stops it, gently at first.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cohort_backup::catalogue::{self, Catalogue};
use cohort_backup::{
    Backup, Budget, DiskSpec, ErrorPolicy, Hook, OnUndecided, Options, RunReport, Running,
};
use cohort_job::Disposition;

use super::report;
use super::sources::{MachineSource, NamedBitmaps, Policies, Source};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::{self, Interrupt};
use crate::machine::{Frozen, Machine};
use crate::output::eprint_line;
use crate::progress::{DiskNow, Progress};

/// How often a run is looked at: often enough for a bar that moves smoothly.
const LOOK: Duration = Duration::from_millis(100);

/// How long a hook may take to freeze, and to thaw.
const HOOK_WAIT: Duration = Duration::from_secs(10);

pub(super) fn run(args: &args::Backup) -> Result {
    let (machines, sources) = sources(args)?;
    let specs = disks(args, &machines, &sources)?;
    let interrupts = interrupt::listen().map_err(|error| Failure::new(Exit::Other, error))?;
    if machines.is_empty() {
        let report = watch(start(Backup::to(&args.to), specs, args)?, args, &interrupts);
        return Ok(report::print(&report, args));
    }
    let catalogue = Catalogue::open_or_create(&args.to)?;
    let mut frozen = Instants::take(machines, &catalogue, args)?;
    let mut all = Vec::new();
    for spec in frozen.specs() {
        all.push(with_options(spec, args)?);
    }
    all.extend(specs);
    let running = start(Backup::into_open(catalogue), all, args)?;
    let report = watch(running, args, &interrupts);
    drop(frozen);
    Ok(report::print(&report, args))
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
fn disks(args: &args::Backup, machines: &[Machine], sources: &[Source]) -> Result<Vec<DiskSpec>> {
    let policies = Policies::parse(&args.policy)?;
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
        specs.push(with_options(spec, args)?);
    }
    bitmaps.all_used(&names)?;
    names.extend(machines.iter().flat_map(Machine::disks).cloned());
    policies.all_used(&names)?;
    Ok(specs)
}

fn with_options(spec: DiskSpec, args: &args::Backup) -> Result<DiskSpec> {
    let name = spec.disk_name()?;
    let options = Options::builder()
        .policy(Policies::parse(&args.policy)?.of(&name))
        .undecided(undecided(args.undecided))
        .on_source_error(error_policy(&args.on_error)?)
        .speed(args.speed.unwrap_or(0))
        .strict(args.strict)
        .accept_changes(args.accept_changed)
        .digests(!args.no_digests)
        .build()
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(spec.options(options))
}

fn undecided(answer: args::Undecided) -> OnUndecided {
    match answer {
        args::Undecided::Refuse => OnUndecided::Refuse,
        args::Undecided::Keep => OnUndecided::Keep,
        args::Undecided::Discard => OnUndecided::Discard,
    }
}

/// Looks whether a text is an action on errors, so that what is wrong is told where it stands.
///
/// # Errors
/// As [`error_policy`].
pub(crate) fn error_policy_text(text: &str) -> std::result::Result<String, String> {
    match error_policy(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(failure) => Err(failure.error.to_string()),
    }
}

/// Reads `report`, `ignore` or `skip:N`.
fn error_policy(text: &str) -> Result<ErrorPolicy> {
    let budget = Budget::default();
    match text.split_once(':') {
        None if text == "report" => Ok(ErrorPolicy::Report),
        None if text == "ignore" => Ok(ErrorPolicy::Ignore(budget)),
        Some(("skip", limit)) if limit.parse::<u64>().is_ok_and(|limit| limit > 0) => {
            Ok(ErrorPolicy::Skip {
                budget,
                limit: limit.parse().unwrap_or(1),
            })
        }
        _ => Err(Failure::say(
            Exit::Usage,
            format_args!(
                "--on-error {text}: say report, ignore, or skip:N with the number of granules that may be left out"
            ),
        )),
    }
}

/// Shows progress until the run has ended, and passes on what the user wishes meanwhile.
fn watch(running: Running, args: &args::Backup, interrupts: &Receiver<Interrupt>) -> RunReport {
    let start = Instant::now();
    let mut progress = Progress::new(args.output.json);
    let mut wishes = 0;
    while !running.is_finished() {
        progress.show(start.elapsed(), &now(&running));
        match interrupts.recv_timeout(LOOK) {
            Ok(Interrupt) => {
                wishes += 1;
                stop(&running, args.discard_on_interrupt, wishes, &progress);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
    progress.finish();
    running.wait()
}

/// Stops the run as the user's `wishes`-th wish asks.
fn stop(running: &Running, discard: bool, wishes: u32, progress: &Progress) {
    match (discard, wishes) {
        (true, 1) => {
            progress.say("Stopping: nothing of this run will be left.");
            running.cancel(Disposition::Discard);
        }
        (false, 1) => {
            progress.say("Stopping: each disk keeps what its policy says. Once more: without waiting for the flush.");
            running.cancel(Disposition::Keep);
        }
        (false, 2) => {
            progress.say("Stopping without waiting for the flush: what is not yet durable will be copied again.");
            running.hurry();
        }
        _ => {}
    }
}

/// Where every disk of the run is.
fn now(running: &Running) -> Vec<DiskNow> {
    let look = |disk: &cohort_backup::RunningDisk| {
        let at = disk.progress();
        DiskNow {
            name: disk.name().to_string(),
            phase: at.phase.to_string(),
            done: at.done,
            total: at.total,
        }
    };
    running.disks().iter().map(look).collect()
}
