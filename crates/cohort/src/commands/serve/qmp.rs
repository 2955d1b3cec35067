//! `cohort serve --qmp`: disks that clients command.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};

use serde::Serialize;

use crate::args;
use crate::commands::sources::Source;
use crate::daemon::{Daemon, Monitor, Settings};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::{json_line, print_line};

/// Told when clients may connect.
#[derive(Debug, Serialize)]
struct JsonReady<'a> {
    event: &'static str,
    qmp: &'a Path,
}

pub(super) fn run(
    args: &args::Serve,
    path: &Path,
    tell: Sender<Interrupt>,
    interrupts: &Receiver<Interrupt>,
) -> Result {
    let failed = |error| Failure::new(Exit::Other, error);
    if args.socket.is_some() || args.listen.is_some() {
        let message =
            "with --qmp exports are started by nbd-server-start: leave --socket and --listen out";
        return Err(Failure::say(Exit::Usage, message));
    }
    let settings = Settings {
        restrict: args.restrict.clone(),
    };
    let daemon = Daemon::start(settings, tell).map_err(failed)?;
    for text in &args.disks {
        let source = Source::parse(text);
        let name = source.disk_name()?;
        let format = args.format.map(|format| match format {
            args::Format::Raw => "raw",
            args::Format::Qcow2 => "qcow2",
        });
        let added = daemon.add_disk(name.as_str(), &source.path, format, args.read_only);
        added.map_err(|error| Failure::say(Exit::Usage, format_args!("{text}: {error}")))?;
    }
    let monitor = Monitor::start(&daemon, path).map_err(|error| Failure {
        exit: Exit::Other,
        error: anyhow::Error::new(error).context(format!("cannot listen at {}", path.display())),
    })?;
    if args.output.json {
        json_line(&JsonReady {
            event: "ready",
            qmp: path,
        });
    } else {
        print_line(&format!("commanded over QMP at {}", path.display()));
        print_line("ready");
    }
    // A signal, or a client's word.
    let _ = interrupts.recv();
    monitor.stop();
    daemon.stop();
    Ok(Exit::Done)
}
