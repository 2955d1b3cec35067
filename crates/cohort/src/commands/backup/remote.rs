//! `cohort backup --socket`: the same run, by the daemon that serves the disks.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use cohort_qmp::{
    Argument, BackupRun, BackupState, BackupStop, Command, ErrorClass, Place, Report, StopHow,
};
use serde_json::Value;

use super::words::Words;
use super::{Heard, LOOK, wish};
use crate::args;
use crate::commands::report::Told;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::monitor::{Monitor, MonitorError};
use crate::progress::{DiskNow, Progress};

/// A run that a daemon carries out.
struct Remote {
    monitor: Monitor,
    id: String,
}

pub(super) fn run(args: &args::Backup, socket: &Path) -> Result {
    let directory = std::path::absolute(&args.to);
    let directory = directory.map_err(|error| Failure::new(Exit::DirectoryUnusable, error))?;
    let Some(directory) = directory.to_str() else {
        let message = format_args!("{}: a daemon takes UTF-8 only", directory.display());
        return Err(Failure::say(Exit::DirectoryUnusable, message));
    };
    // Before anything begins: a wish to stop must find somebody who hears it.
    let heard = Heard::listen()?;
    let mut remote = Remote::begin(socket, Words::ask(args, directory.to_owned()))?;
    let start = Instant::now();
    let mut progress = Progress::new(args.output.json);
    let mut wishes = 0;
    let told = loop {
        let state = remote.look()?;
        if let Some(report) = state.report {
            break told(report);
        }
        progress.show(start.elapsed(), &now(&state));
        match heard.interrupts.recv_timeout(LOOK) {
            Ok(Interrupt) => {
                wishes += 1;
                if let Some((how, said)) = wish(args.discard_on_interrupt, wishes) {
                    progress.say(said);
                    remote.stop(how)?;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if heard.continued.swap(false, Ordering::Relaxed) {
            remote.go_on()?;
        }
    };
    progress.finish();
    Ok(told.print(args.output.json))
}

impl Remote {
    fn begin(socket: &Path, backup: cohort_qmp::DirectoryBackup) -> Result<Remote> {
        let mut monitor = Monitor::connect(socket).map_err(|error| lost(None, error))?;
        let begun = monitor.carry_out(&Command::DirectoryBackup(backup));
        let run: BackupRun = read(begun.map_err(|error| lost(None, error))?)?;
        let id = run.id;
        Ok(Remote { monitor, id })
    }

    fn look(&mut self) -> Result<BackupState> {
        let id = self.id.clone();
        let looked = self
            .monitor
            .carry_out(&Command::QueryBackup(BackupRun { id }));
        read(looked.map_err(|error| lost(Some(&self.id), error))?)
    }

    fn stop(&mut self, how: StopHow) -> Result<()> {
        let id = self.id.clone();
        self.say(&Command::BackupStop(BackupStop { id, how }))
    }

    fn go_on(&mut self) -> Result<()> {
        let id = self.id.clone();
        self.say(&Command::BackupResume(BackupRun { id }))
    }

    fn say(&mut self, command: &Command) -> Result<()> {
        let said = self.monitor.carry_out(command);
        said.map(drop).map_err(|error| lost(Some(&self.id), error))
    }
}

fn read<T: Argument>(value: Value) -> Result<T> {
    let read = T::read(value, &Place::WHOLE);
    read.map_err(|error| {
        let message = format_args!("the daemon is of another version: {error}");
        Failure::say(Exit::Other, message)
    })
}

fn now(state: &BackupState) -> Vec<DiskNow> {
    let look = |disk: &cohort_qmp::DiskState| DiskNow {
        name: disk.name.clone(),
        phase: disk.phase.clone(),
        done: disk.done,
        total: disk.total,
        stopped: disk.stopped.clone(),
    };
    state.disks.iter().map(look).collect()
}

fn told(report: Report) -> Told {
    let lines = report.lines.into_iter();
    Told {
        exit: Exit::of_word(&report.exit).unwrap_or(Exit::Other),
        lines: lines.map(|line| (line.good, line.text)).collect(),
        result: report.result,
    }
}

/// The daemon says no; or does not answer, and of a run that has begun nobody knows here how it ends.
fn lost(run: Option<&str>, error: MonitorError) -> Failure {
    if let MonitorError::Refused { class, text, .. } = error {
        if class == ErrorClass::CommandNotFound {
            let message = "it is no `cohort serve`: to back up a running QEMU, say qmp:SOCKET instead of --socket";
            return Failure::say(Exit::NoServer, message);
        }
        return Failure::say(Exit::Other, text);
    }
    let context = match run {
        None => "no daemon for this backup; one is `cohort serve DISK… --qmp SOCKET`".to_owned(),
        Some(run) => {
            format!("{run}: the daemon is gone; what became of the run `cohort list` says")
        }
    };
    Failure {
        exit: Exit::NoServer,
        error: anyhow::Error::new(error).context(context),
    }
}
