//! `cohort serve --qmp`: disks that clients command.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use cohort_bitmap::store::Mode;

use super::disks::open_disks;
use super::ready::{JsonExport, JsonReady, show};
use super::{Sockets, failed_to_listen, finish, limits, metrics};
use crate::args;
use crate::daemon::{Daemon, Monitor, Settings, StateDirectory, StateError, check_name};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::serve::{Disk, Listener, tell_manager};

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
    let state = Arc::new(state);
    let settings = Settings {
        restrict: args.restrict.clone(),
        drain: Duration::from_secs(args.drain),
        state: state.clone(),
    };
    let prepared = open_disks(args, |disks| {
        for Disk { name, .. } in disks {
            let checked = check_name(name.as_str());
            checked.map_err(|error| Failure::say(Exit::Usage, format_args!("{name}: {error}")))?;
        }
        let sockets = Sockets::of(args)?;
        let listener =
            Listener::unix(path).map_err(failed_to_listen(path.display().to_string()))?;
        let exports = disks.iter().map(JsonExport::of_disk).collect();
        let ready = JsonReady::new(exports, &sockets.listeners, args)?
            .with_metrics(sockets.metrics.as_ref().map(|socket| &socket.address));
        let daemon = Daemon::start(settings, tell).map_err(failed)?;
        Ok((sockets, listener, ready, daemon))
    });
    let (disks, (sockets, listener, ready, daemon)) =
        prepared.inspect_err(|_| state.leave_as_found())?;
    let Sockets {
        tls,
        listeners,
        metrics: socket,
    } = sockets;
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
    let monitor = Monitor::start(&daemon, listener).map_err(failed)?;
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
