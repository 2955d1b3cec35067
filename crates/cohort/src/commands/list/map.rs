//! `cohort list --map`: which extents of a disk's partial are of which instant.

use cohort_backup::catalogue::{Contents, DiskName, Instant, NoSuchPoint, Partial, Shown};
use serde::Serialize;

use super::doubt;
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{json_line, print_line};

/// An instant that a partial shows a part of, as JSON gives it.
#[derive(Debug, Serialize)]
pub(crate) struct JsonInstant {
    run: u64,
    created_unix_ms: u64,
    instant: Instant,
    bytes: u64,
}

/// A map, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonMap<'a> {
    event: &'static str,
    disk: &'a str,
    file: String,
    size: u64,
    durable_bytes: u64,
    instants: Vec<JsonInstant>,
    extents: Vec<JsonExtent>,
}

/// Bytes of the disk, and the run whose instant they show.
#[derive(Debug, Serialize)]
struct JsonExtent {
    offset: u64,
    length: u64,
    run: u64,
}

/// Prints the map of the disk's partial.
pub(super) fn run(args: &args::List, contents: &Contents, disk: &str) -> Result {
    let disk = DiskName::new(disk).map_err(|error| Failure::new(Exit::Usage, error))?;
    let Some(partial) = contents.partials.get(&disk) else {
        return Err(no_map(contents, &disk));
    };
    if args.output.json {
        json_line(&JsonMap {
            event: "map",
            disk: disk.as_str(),
            file: partial.file.to_string(),
            size: partial.size,
            durable_bytes: partial.durable_bytes,
            instants: instants(partial),
            extents: partial
                .extents()
                .into_iter()
                .map(|(offset, length, shown)| JsonExtent {
                    offset,
                    length,
                    run: shown.run.0,
                })
                .collect(),
        });
    } else {
        print(partial);
    }
    Ok(Exit::Done)
}

/// The instants that a partial shows parts of.
pub(super) fn instants(partial: &Partial) -> Vec<JsonInstant> {
    let instant = |shown: &Shown| JsonInstant {
        run: shown.run.0,
        created_unix_ms: shown.created_unix_ms,
        instant: shown.instant,
        bytes: shown.bytes(),
    };
    partial.map.iter().map(instant).collect()
}

/// The row as it is told with other things: the map has a place of its own.
pub(crate) fn without_map(partial: &Partial) -> Partial {
    Partial {
        map: Vec::new(),
        ..partial.clone()
    }
}

fn print(partial: &Partial) {
    let (file, run) = (&partial.file, partial.run);
    print_line(&format!(
        "# {file}: partial of run {run}, not a point; each line: offset, length, and the run whose instant it is of"
    ));
    if partial.map.is_empty() {
        print_line(match partial.durable_bytes {
            0 => "# nothing of it counts",
            _ => "# nobody wrote down of which instants it is: the next run does",
        });
    }
    for shown in &partial.map {
        let doubt = doubt(shown.instant).map_or_else(String::new, |doubt| format!("; {doubt}"));
        print_line(&format!(
            "# run {}: {}, {}{doubt}",
            shown.run,
            human::time(shown.created_unix_ms),
            human::bytes(shown.bytes())
        ));
    }
    for (offset, length, shown) in partial.extents() {
        print_line(&format!("{offset} {length} {}", shown.run));
    }
}

fn no_map(contents: &Contents, disk: &DiskName) -> Failure {
    if contents.disks.contains_key(disk) {
        return Failure::say(
            Exit::NoSuchPoint,
            format_args!("{disk}: it has no partial, and each of its points is of one instant"),
        );
    }
    NoSuchPoint::Disk {
        disk: disk.clone(),
        disks: contents.disks.keys().cloned().collect(),
    }
    .into()
}
