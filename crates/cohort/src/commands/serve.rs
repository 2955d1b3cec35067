//! `cohort serve`: disks, and points of backup directories, for NBD clients.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use cohort_backup::catalogue::DiskName;
use cohort_bitmap::store::Mode;
use cohort_block::{Access, Device, Format, Gated, Image, OpenOptions, TlsServer};
use cohort_nbd::{BitmapName, Name, Uri, UriTls};
use serde::Serialize;

use super::restore;
use super::sources::Source;
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_open};
use crate::interrupt::{self, Interrupt};
use crate::output::{eprint_line, json_line, print_line};
use crate::serve::{Catalogue, Dirt, Encryption, Limits, Listener, Served, Server, Tracking};

/// Told when clients may connect.
#[derive(Debug, Serialize)]
struct JsonReady {
    event: &'static str,
    exports: Vec<JsonExport>,
}

#[derive(Debug, Serialize)]
struct JsonExport {
    name: String,
    size_bytes: u64,
    read_only: bool,
    bitmaps: Vec<String>,
    tracking: Option<JsonTracking>,
    addresses: Vec<String>,
}

/// Where a disk's writes are recorded.
#[derive(Debug, Serialize)]
struct JsonTracking {
    store: String,
    survives: &'static str,
    #[serde(skip)]
    mode: Mode,
}

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
        return super::serve_qmp::run(args, path, tell, &interrupts);
    }
    // Nobody but a signal says that we are to stop.
    drop(tell);
    let catalogue = match args.disks.split_first() {
        Some((first, points)) if Path::new(first).is_dir() => open_points(first, points, args)?,
        _ => open_disks(args)?,
    };
    let tls = encryption(args)?;
    let listeners = listen(args, tls.is_some())?;
    let ready = describe(&catalogue, &listeners, args)?;
    let limits = Limits {
        connections: args.max_connections,
        memory_bytes: args.memory,
    };
    let server = Server::start(catalogue, listeners, tls, limits)
        .map_err(|error| Failure::new(Exit::Other, error))?;
    show(&ready, args.output.json);
    wait(&interrupts);
    finish(server, args)
}

/// The disks named by path.
fn open_disks(args: &args::Serve) -> Result<Catalogue> {
    let disks = Catalogue::default();
    for text in &args.disks {
        let source = Source::parse(text);
        let name = source.disk_name()?;
        let access = if args.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let disk = open_disk(&source.path, &name, access, args)?;
        add(&disks, disk, text)?;
    }
    Ok(disks)
}

fn open_disk(path: &Path, name: &DiskName, access: Access, args: &args::Serve) -> Result<Served> {
    let options = match access {
        Access::ReadOnly => OpenOptions::read_only(),
        Access::ReadWrite => OpenOptions::read_write(),
    };
    let options = match args.format {
        Some(args::Format::Raw) => options.format(Format::Raw),
        Some(args::Format::Qcow2) => options.format(Format::Qcow2),
        None => options,
    };
    let image =
        Image::open(path, options).map_err(|error| Failure::new(exit_of_open(&error), error))?;
    let bitmaps = bitmaps_of(&image);
    let device = image.device().clone();
    let read_only = access == Access::ReadOnly;
    let gated = Arc::new(Gated::new(device));
    let tracking = match access {
        Access::ReadOnly => None,
        Access::ReadWrite => track(name, &gated, &image, args.track)?,
    };
    let disk = served(name.as_str(), gated.size(), gated, read_only, bitmaps)?;
    Ok(Served { tracking, ..disk })
}

/// Has a disk's writes recorded beside it. Where that cannot be, and nobody asked for it, the disk is served without.
fn track(
    name: &DiskName,
    disk: &Arc<Gated>,
    image: &Image,
    asked: Option<args::Track>,
) -> Result<Option<Tracking>> {
    let mode = match asked {
        Some(args::Track::Kill) | None => Mode::KilledProcess,
        Some(args::Track::Power) => Mode::PowerLoss,
        Some(args::Track::Off) => return Ok(None),
    };
    match Tracking::begin(name.clone(), disk, image, mode) {
        Ok(tracking) => Ok(Some(tracking)),
        Err(error) if asked.is_none() => {
            eprint_line(&format!(
                "cohort: warning: what is written to {name} is recorded nowhere, so the next backup compares all of it: {error}"
            ));
            Ok(None)
        }
        Err(error) => Err(Failure {
            exit: Exit::TargetFailed,
            error: anyhow::Error::new(error).context(format!(
                "{name} cannot be tracked; say --track off to serve it all the same"
            )),
        }),
    }
}

/// The bitmaps that QEMU keeps in the top layer: the enabled ones of an image that is written to as they are meanwhile, the
/// others as they are in the file. Those that nobody promises to be true are left out.
fn bitmaps_of(image: &Image) -> Vec<(BitmapName, Arc<dyn Dirt>)> {
    let mut told: Vec<(BitmapName, Arc<dyn Dirt>)> = Vec::new();
    for live in image.live_bitmaps() {
        if let Some(name) = BitmapName::new(live.name()) {
            told.push((name, Arc::new(live.clone())));
        }
    }
    let top = image.bitmaps().into_iter().next();
    let Some(Ok(bitmaps)) = top.map(|layer| layer.bitmaps) else {
        return told;
    };
    for entry in bitmaps.list() {
        // What is in use says nothing in the file.
        if let (Some(name), Ok(bits)) = (BitmapName::new(entry.name()), bitmaps.read(entry.name()))
        {
            told.push((name, Arc::new(bits)));
        }
    }
    told
}

/// The points of a backup directory, to be read only.
fn open_points(directory: &str, points: &[String], args: &args::Serve) -> Result<Catalogue> {
    if !args.read_only {
        let message =
            format!("{directory} is a backup directory: its points never change; say --read-only");
        return Err(Failure::say(Exit::Usage, message));
    }
    if points.is_empty() {
        let message =
            format!("{directory} is a directory: name points in it, each as DISK or DISK@POINT");
        return Err(Failure::say(Exit::Usage, message));
    }
    let disks = Catalogue::default();
    for point in points {
        let opened = restore::open(Path::new(directory), point)?;
        for hole in &opened.row.skipped {
            let (name, length, offset) = (&opened.name, hole.length, hole.offset);
            eprint_line(&format!(
                "cohort: {name} is incomplete: {length} bytes at byte {offset} could not be read when it was taken"
            ));
        }
        let disk = served(
            &opened.name,
            opened.row.size,
            Arc::new(Gated::new(opened.device)),
            true,
            Vec::new(),
        )?;
        add(&disks, disk, point)?;
    }
    Ok(disks)
}

fn served(
    name: &str,
    size: u64,
    disk: Arc<Gated>,
    read_only: bool,
    bitmaps: Vec<(BitmapName, Arc<dyn Dirt>)>,
) -> Result<Served> {
    let name = Name::new(name).map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(Served {
        name,
        disk,
        tracking: None,
        size,
        read_only,
        bitmaps,
    })
}

fn add(disks: &Catalogue, disk: Served, text: &str) -> Result<()> {
    disks.add(disk).map_err(|error| {
        Failure::say(
            Exit::SourceTwice,
            format_args!("{text}: {error}; say NAME=PATH"),
        )
    })
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

fn listen(args: &args::Serve, encrypted: bool) -> Result<Vec<Listener>> {
    let failed = |what: String| {
        move |error| Failure {
            exit: Exit::Other,
            error: anyhow::Error::new(error).context(format!("cannot listen at {what}")),
        }
    };
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

fn describe(
    catalogue: &Catalogue,
    listeners: &[Listener],
    args: &args::Serve,
) -> Result<JsonReady> {
    // Where a client's certificates are is its own business; these are on this host.
    let required = args
        .tls_certificates
        .as_ref()
        .filter(|_| !args.tls_optional);
    let tls = required.map(|folder| UriTls {
        certificates: folder.clone(),
        hostname: None,
    });
    let mut exports = Vec::new();
    for disk in catalogue.all() {
        let mut addresses = Vec::new();
        for listener in listeners {
            let server = listener
                .server()
                .map_err(|error| Failure::new(Exit::Other, error))?;
            let name = disk.name.clone();
            let tls = tls.clone();
            addresses.push(Uri { server, name, tls }.to_string());
        }
        exports.push(JsonExport {
            name: disk.name.as_str().to_owned(),
            size_bytes: disk.size,
            read_only: disk.read_only,
            bitmaps: disk
                .bitmaps
                .iter()
                .map(|(name, _)| name.as_str().to_owned())
                .collect(),
            tracking: disk.tracking.as_ref().map(|tracking| JsonTracking {
                store: tracking.path().display().to_string(),
                survives: match tracking.mode() {
                    Mode::KilledProcess => "kill",
                    Mode::PowerLoss => "power-loss",
                },
                mode: tracking.mode(),
            }),
            addresses,
        });
    }
    Ok(JsonReady {
        event: "ready",
        exports,
    })
}

fn show(ready: &JsonReady, json: bool) {
    if json {
        return json_line(ready);
    }
    for export in &ready.exports {
        let tracking = export.tracking.as_ref();
        let tracking = tracking.map_or(String::new(), |JsonTracking { store, mode, .. }| {
            format!(", tracked in {store} ({mode})")
        });
        let way = if export.read_only {
            "read-only"
        } else {
            "read-write"
        };
        for address in &export.addresses {
            print_line(&format!(
                "serving {address} {way}, {} bytes{tracking}",
                export.size_bytes
            ));
        }
    }
    print_line("ready");
}

/// Waits until somebody asks us to stop.
fn wait(interrupts: &Receiver<Interrupt>) {
    // An error means that nobody can ask any more, so there is no reason to go on.
    let _ = interrupts.recv();
}

fn finish(server: Server, args: &args::Serve) -> Result {
    let stopped = server.stop(Duration::from_secs(args.drain));
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
