//! `cohort serve`: disks, and points of backup directories, for NBD clients.

mod disks;
mod metrics;
mod qmp;
mod ready;

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use cohort_block::TlsServer;
use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::{self, Interrupt};
use crate::output::{eprint_line, json_line};
use crate::serve::{Encryption, Limits, Listener, Server, Stopped, tell_manager};
use disks::{open_disks, open_points, served};
use ready::{JsonExport, JsonReady, show};

/// Told at the end.
#[derive(Debug, Serialize)]
struct JsonStopped<'a> {
    event: &'static str,
    cut_off: usize,
    failures: &'a [String],
    unproven: &'a [String],
}

pub(super) fn run(args: &args::Serve) -> Result {
    // Before anything is opened: a wish to stop must find somebody who hears it.
    let (tell, interrupts) = std::sync::mpsc::channel();
    interrupt::listen_beside(tell.clone()).map_err(|error| Failure::new(Exit::Other, error))?;
    if let Some(path) = &args.qmp {
        return qmp::run(args, path, tell, &interrupts);
    }
    // Nobody but a signal says that we are to stop.
    drop(tell);
    let (catalogue, sockets) = match args.disks.split_first() {
        Some((first, points)) if Path::new(first).is_dir() => {
            (open_points(first, points, args)?, Sockets::of(args)?)
        }
        _ => {
            let (disks, sockets) = open_disks(args, |_| Sockets::of(args))?;
            (served(disks)?, sockets)
        }
    };
    let Sockets {
        tls,
        listeners,
        metrics: socket,
    } = sockets;
    let exports = catalogue.all().into_iter();
    let exports = exports.map(|served| JsonExport::of_served(&served));
    let ready = JsonReady::new(exports.collect(), &listeners, args)?
        .with_metrics(socket.as_ref().map(|socket| &socket.address));
    let server = Server::start(catalogue, listeners, tls, limits(args))
        .map_err(|error| Failure::new(Exit::Other, error))?;
    let metrics = metrics::start(socket, server.source())?;
    show(&ready, args.output.json);
    tell_manager("READY=1");
    wait(&interrupts);
    tell_manager("STOPPING=1");
    if let Some(metrics) = metrics {
        metrics.stop();
    }
    finish(&server.stop(Duration::from_secs(args.drain)), args)
}

/// Where clients will be served; nobody is answered there yet.
struct Sockets {
    tls: Option<Encryption>,
    listeners: Vec<Listener>,
    metrics: Option<metrics::Socket>,
}

impl Sockets {
    fn of(args: &args::Serve) -> Result<Sockets> {
        let tls = encryption(args)?;
        Ok(Sockets {
            listeners: listen(args, tls.is_some())?,
            metrics: metrics::listen(args)?,
            tls,
        })
    }
}

fn limits(args: &args::Serve) -> Limits {
    Limits {
        connections: args.max_connections,
        memory_bytes: args.memory,
    }
}

/// What clients are shown, and asked for.
fn encryption(args: &args::Serve) -> Result<Option<Encryption>> {
    let Some(folder) = &args.tls_certificates else {
        return Ok(None);
    };
    let server = TlsServer::new(folder, args.tls_anyone);
    Ok(Some(Encryption {
        server: server.map_err(|error| Failure::new(Exit::Other, error))?,
        required: !args.tls_optional,
    }))
}

/// What is said of a socket that cannot be.
fn failed_to_listen(what: String) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure {
        exit: Exit::Other,
        error: anyhow::Error::new(error).context(format!("cannot listen at {what}")),
    }
}

fn listen(args: &args::Serve, encrypted: bool) -> Result<Vec<Listener>> {
    let failed = failed_to_listen;
    let mut listeners = Vec::new();
    if let Some(path) = &args.socket {
        listeners.push(Listener::unix(path).map_err(failed(path.display().to_string()))?);
    }
    if let Some(address) = args.listen {
        listeners.push(Listener::tcp(address).map_err(failed(address.to_string()))?);
        let how = match (encrypted, args.tls_optional, args.tls_anyone) {
            (true, false, false) => None,
            (true, false, true) => Some("without a certificate"),
            (false, _, _) | (true, true, _) => Some("without encryption or password"),
        };
        if let Some(how) = how {
            eprint_line(&format!(
                "cohort: warning: whoever reaches {address} reads these disks{}, {how}",
                if args.read_only {
                    ""
                } else {
                    " and writes to them"
                }
            ));
        }
    }
    Ok(listeners)
}

/// Waits until somebody asks us to stop.
fn wait(interrupts: &Receiver<Interrupt>) {
    // An error means that nobody can ask any more, so there is no reason to go on.
    let _ = interrupts.recv();
}

fn finish(stopped: &Stopped, args: &args::Serve) -> Result {
    if stopped.cut_off > 0 {
        eprint_line(&format!(
            "cohort: {} clients were cut off: their requests were not done within {} seconds",
            stopped.cut_off, args.drain
        ));
    }
    for why in &stopped.unproven {
        eprint_line(&format!(
            "cohort: a tracking store is left as after a kill, so the next backup compares or is told to go by it: {why}"
        ));
    }
    if args.output.json {
        json_line(&JsonStopped {
            event: "stopped",
            cut_off: stopped.cut_off,
            failures: &stopped.failures,
            unproven: &stopped.unproven,
        });
    }
    if stopped.failures.is_empty() {
        Ok(Exit::Done)
    } else {
        let message = stopped.failures.join("; ");
        Err(Failure::say(
            Exit::TargetFailed,
            format_args!("what was written may be lost: {message}"),
        ))
    }
}
