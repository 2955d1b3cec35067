//! `cohort serve --qmp`: disks that clients command.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use cohort_bitmap::store::Mode;

use super::disks::open_disks;
use super::ready::{JsonExport, JsonReady, show};
use super::{encryption, finish, limits, listen, metrics};
use crate::args;
use crate::daemon::{Daemon, Monitor, Settings, StateDirectory, StateError};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::serve::tell_manager;

pub(super) fn run(
    args: &args::Serve,
    path: &Path,
    tell: Sender<Interrupt>,
    interrupts: &Receiver<Interrupt>,
) -> Result {
    let failed = |error| Failure::new(Exit::Other, error);
    // Before any disk is opened: another daemon that has the directory has its disks as well.
    let state = match &args.state {
        Some(directory) => StateDirectory::open(directory, mode(args)).map_err(unusable)?,
        None => StateDirectory::default(),
    };
    let settings = Settings {
        restrict: args.restrict.clone(),
        drain: Duration::from_secs(args.drain),
        state: Arc::new(state),
    };
    let disks = open_disks(args)?;
    let tls = encryption(args)?;
    let listeners = listen(args, tls.is_some())?;
    let socket = metrics::listen(args)?;
    let exports = disks.iter().map(JsonExport::of_disk).collect();
    let ready = JsonReady::new(exports, &listeners, args)?
        .with_metrics(socket.as_ref().map(|socket| &socket.address));
    let daemon = Daemon::start(settings, tell).map_err(failed)?;
    for disk in disks {
        let name = disk.name.clone();
        let added = daemon.add_disk(disk);
        added.map_err(|error| Failure::say(Exit::Usage, format_args!("{name}: {error}")))?;
    }
    daemon.restore_nodes();
    if !listeners.is_empty() {
        let served = daemon.serve(listeners, tls, limits(args));
        served.map_err(|error| Failure::say(Exit::Other, error))?;
    }
    daemon.restore_exports();
    let metrics = metrics::start(socket, daemon.source())?;
    let monitor = Monitor::start(&daemon, path).map_err(|error| Failure {
        exit: Exit::Other,
        error: anyhow::Error::new(error).context(format!("cannot listen at {}", path.display())),
    })?;
    show(&ready, args.output.json);
    tell_manager("READY=1");
    // A signal, or a client's word.
    let _ = interrupts.recv();
    tell_manager("STOPPING=1");
    if let Some(metrics) = metrics {
        metrics.stop();
    }
    monitor.stop();
    finish(&daemon.stop(), args)
}

/// What bitmaps of QMP clients survive: what those of the disks do.
fn mode(args: &args::Serve) -> Mode {
    match args.track {
        Some(args::Track::Power) => Mode::PowerLoss,
        Some(args::Track::Kill | args::Track::Off) | None => Mode::KilledProcess,
    }
}

fn unusable(error: StateError) -> Failure {
    let exit = match error {
        StateError::Journal(error) => return error.into(),
        StateError::Foreign(_) | StateError::Newer { .. } => Exit::CatalogueForeign,
        StateError::Backups(_) | StateError::Io { .. } => Exit::DirectoryUnusable,
    };
    Failure::new(exit, error)
}
