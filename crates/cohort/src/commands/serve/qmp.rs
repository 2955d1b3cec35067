//! `cohort serve --qmp`: disks that clients command.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use super::disks::open_disks;
use super::ready::{JsonExport, JsonReady, show};
use super::{encryption, finish, limits, listen};
use crate::args;
use crate::daemon::{Daemon, Monitor, Settings};
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
    let settings = Settings {
        restrict: args.restrict.clone(),
        drain: Duration::from_secs(args.drain),
    };
    let disks = open_disks(args)?;
    let tls = encryption(args)?;
    let listeners = listen(args, tls.is_some())?;
    let exports = disks.iter().map(JsonExport::of_disk).collect();
    let ready = JsonReady::new(exports, &listeners, args)?;
    let daemon = Daemon::start(settings, tell).map_err(failed)?;
    for disk in disks {
        let name = disk.name.clone();
        let added = daemon.add_disk(disk);
        added.map_err(|error| Failure::say(Exit::Usage, format_args!("{name}: {error}")))?;
    }
    if !listeners.is_empty() {
        let served = daemon.serve(listeners, tls, limits(args));
        served.map_err(|error| Failure::say(Exit::Other, error))?;
    }
    let monitor = Monitor::start(&daemon, path).map_err(|error| Failure {
        exit: Exit::Other,
        error: anyhow::Error::new(error).context(format!("cannot listen at {}", path.display())),
    })?;
    show(&ready, args.output.json);
    tell_manager("READY=1");
    // A signal, or a client's word.
    let _ = interrupts.recv();
    tell_manager("STOPPING=1");
    monitor.stop();
    finish(&daemon.stop(), args)
}
