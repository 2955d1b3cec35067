//! Backs up a group of served disks, some runs one after the other, and dies, or has its files fail, at a point of the
//! last one.
//!
//! Usage: `crash-run FOLDER SCRIPT`; which point, and what happens there, is in the environment (see `watch.rs`). The
//! folder is empty. It prints a line for each disk of the last run: its name, how it ended, and the number of the run.
//!
//! With `COHORT_CRASH_PROGRAM` in the environment it is the program `cohort`, with its arguments, its output and its exit
//! code, and dies or has its files fail in the same way.

mod calls;
mod hooks;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskSpec, OnUndecided, Options, RunReport, Running, Tracked,
};
use cohort_block::{Device, DeviceError, Fault, Faulty, Operation};
use cohort_job::Disposition;
use cohort_tests::crash::{
    Ending, GRANULE, Refused, Script, after_fence, before_fence, make, repository, serve,
};

/// The last granule that a run has to copy: here a disk cannot be read, or the run is cancelled.
const TURN: u64 = 6 * GRANULE;

fn main() -> ExitCode {
    if std::env::var_os("COHORT_CRASH_PROGRAM").is_some() {
        watch::arm();
        return cohort::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match play(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("refused: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &[String]) -> Result<(), Refused> {
    let [folder, script] = arguments else {
        return Err("usage: crash-run FOLDER SCRIPT".into());
    };
    let (folder, script): (PathBuf, Script) = (folder.into(), script.parse()?);
    tracing::subscriber::set_global_default(hooks::Hooks::default())?;
    let alone = script.runs.len() == 1;
    for disk in 0..script.policies.len() {
        make(&folder, disk)?;
    }
    if alone {
        watch::arm();
    }
    let disks = (0..script.policies.len()).map(|disk| serve(&folder, disk));
    let disks: Vec<_> = disks.collect::<Result<_, _>>()?;
    for (run, ending) in (1..).zip(&script.runs) {
        write(&disks, run, before_fence)?;
        if run == script.runs.len() as u64 && !alone {
            watch::arm();
        }
        hooks::expect(disks.len());
        let report = back_up(&folder, &script, &disks, run, *ending)?;
        if run == script.runs.len() as u64 {
            tell(&report);
        }
    }
    for disk in &disks {
        disk.close()?;
    }
    Ok(())
}

fn write<W: IntoIterator<Item = cohort_tests::crash::Write>>(
    disks: &[Arc<Tracked>],
    run: u64,
    writes: impl Fn(usize, u64) -> W,
) -> Result<(), Refused> {
    for (number, disk) in disks.iter().enumerate() {
        for write in writes(number, run) {
            let bytes = vec![write.byte; write.length as usize];
            disk.gated().write_at(&bytes, write.offset)?;
        }
        disk.gated().flush()?;
    }
    Ok(())
}

/// One run, with writes while it copies.
fn back_up(
    folder: &Path,
    script: &Script,
    disks: &[Arc<Tracked>],
    run: u64,
    ending: Ending,
) -> Result<RunReport, Refused> {
    let mut backup = Backup::to(repository(folder)).yields(false);
    let (turns, turn) = channel();
    for (number, disk) in disks.iter().enumerate() {
        let spec = DiskSpec::served(disk.clone()).options(options(script.policies[number].0)?);
        let is_last = number + 1 == disks.len();
        backup = backup.disk(match ending {
            Ending::Failing if is_last => {
                let turns = turns.clone();
                spec.through(move |inner| turning(cannot_be_read(inner), &turns))
            }
            Ending::Kept | Ending::Discarded if number == 0 => {
                let turns = turns.clone();
                spec.through(move |inner| turning(inner, &turns))
            }
            Ending::Success | Ending::Failing | Ending::Kept | Ending::Discarded => spec,
        });
    }
    drop(turns);
    let running = backup.start()?;
    // A disk that breaks while it is backed up is its writer's to know.
    let _ = write(disks, run, after_fence);
    hooks::guests_are_done();
    turn_over(&running, &turn, ending);
    Ok(running.wait())
}

/// Cancels the run, or has a disk fail, when all but a little is copied and the guests have written.
fn turn_over(running: &Running, turn: &Receiver<Sender<()>>, ending: Ending) {
    let disposition = match ending {
        Ending::Success => return,
        Ending::Failing => None,
        Ending::Kept => Some(Disposition::Keep),
        Ending::Discarded => Some(Disposition::Discard),
    };
    // Nobody comes if the run ended before.
    while !running.is_finished() {
        if let Ok(go_on) = turn.recv_timeout(Duration::from_millis(10)) {
            if let Some(disposition) = disposition {
                running.cancel(disposition);
            }
            drop(go_on);
        }
    }
}

fn options(policy: BitmapPolicy) -> Result<Options, Refused> {
    let options = Options::builder().policy(policy).cluster(GRANULE);
    Ok(options.workers(1).undecided(OnUndecided::Keep).build()?)
}

fn cannot_be_read(device: Arc<dyn Device>) -> Arc<dyn Device> {
    let faulty = Faulty::new(device);
    let _ = faulty.inject(Fault::error(Operation::Read).within(TURN + 512..TURN + 1024));
    Arc::new(faulty)
}

fn turning(inner: Arc<dyn Device>, turns: &Sender<Sender<()>>) -> Arc<dyn Device> {
    let turns = turns.clone();
    Arc::new(Turning { inner, turns })
}

fn tell(report: &RunReport) {
    let run = report.run.map_or(0, |run| run.0);
    for disk in &report.disks {
        let ended = match &disk.outcome {
            DiskOutcome::Committed(_) => "committed".to_owned(),
            DiskOutcome::Failed(error) | DiskOutcome::NotStarted(error) => {
                format!("failed: {error}")
            }
            DiskOutcome::Aborted { .. } => "aborted".to_owned(),
            DiskOutcome::Refused(_) => "refused".to_owned(),
            DiskOutcome::InDoubt(why) => format!("in doubt: {why}"),
        };
        println!("{} {run} {ended}", disk.name);
        for note in &disk.notes {
            println!("note: {note}");
        }
    }
}

/// A disk that is read no further until its turn has come.
#[derive(Debug)]
struct Turning {
    inner: Arc<dyn Device>,
    turns: Sender<Sender<()>>,
}

impl Device for Turning {
    cohort_block::forward!(inner: name, size, write_at, write_zeroes, discard, flush, extent);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        if (offset..offset + buf.len() as u64).contains(&TURN) {
            let (go_on, told) = channel();
            if self.turns.send(go_on).is_ok() {
                // Until the other end is dropped.
                let _ = told.recv();
            }
        }
        self.inner.read_at(buf, offset)
    }
}
