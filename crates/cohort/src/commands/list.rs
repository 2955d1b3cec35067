//! `cohort list`: every point, every partial, and what every file is.

mod map;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use cohort_backup::catalogue::{self, Contents, Decision, FileRole, Instant, Partial, Point};
use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{self, json_line, print_line};

pub(crate) use map::without_map;

/// All that a backup directory holds, as JSON gives it.
#[derive(Debug, Serialize)]
struct Listing<'a> {
    event: &'static str,
    directory: String,
    id: String,
    points: Vec<PointRow<'a>>,
    partials: Vec<PartialRow<'a>>,
    files: Vec<FileRow>,
    missing: Vec<String>,
    /// Images to be merged that are not there: their merge was interrupted after its last step but one.
    #[serde(skip)]
    merged: Vec<String>,
}

/// One point.
#[derive(Debug, Serialize)]
struct PointRow<'a> {
    name: String,
    disk: &'a str,
    point: u64,
    #[serde(flatten)]
    row: &'a Point,
}

/// One partial.
#[derive(Debug, Serialize)]
struct PartialRow<'a> {
    disk: &'a str,
    /// When the point was taken that a discard returns to.
    #[serde(skip_serializing_if = "Option::is_none")]
    returns_to_unix_ms: Option<u64>,
    /// What it shows parts of.
    instants: Vec<map::JsonInstant>,
    #[serde(flatten)]
    row: Partial,
}

/// One file of the directory.
#[derive(Debug, Serialize)]
struct FileRow {
    name: String,
    what: String,
    /// The points that cannot be restored without it.
    points: Vec<String>,
    #[serde(skip)]
    role: FileRole,
}

/// One file alone, as JSON gives it.
#[derive(Debug, Serialize)]
struct OneFile {
    event: &'static str,
    missing: bool,
    #[serde(flatten)]
    row: FileRow,
}

pub(super) fn run(args: &args::List) -> Result {
    let contents = catalogue::read(&args.dir)?;
    let names = catalogue::list_files(&args.dir)?;
    if let Some(file) = &args.file {
        return one(args, &contents, &names, file);
    }
    if let Some(disk) = &args.map {
        return map::run(args, &contents, disk);
    }
    let listing = listing(&args.dir, &contents, &names);
    if args.output.json {
        json_line(&listing);
    } else {
        print(&listing);
    }
    Ok(Exit::Done)
}

/// What one file is, there or missing, and what dies with it.
fn one(args: &args::List, contents: &Contents, names: &[OsString], file: &Path) -> Result {
    let name = file.file_name().unwrap_or(file.as_os_str());
    let there = names.iter().any(|other| other == name);
    let named = contents.files().any(|other| *name == *other.to_string());
    if !there && !named {
        let (name, directory) = (name.display(), args.dir.display());
        let message = format!("there is no file {name} in {directory}");
        return Err(Failure::say(Exit::NoSuchPoint, message));
    }
    let row = file_row(contents, name);
    if args.output.json {
        json_line(&OneFile {
            event: "file",
            missing: !there,
            row,
        });
        return Ok(Exit::Done);
    }
    let missing = if there { "" } else { "MISSING: " };
    let dies = match (&row.role, row.points.join(", ")) {
        (FileRole::Catalogue, _) => {
            "without it nothing says what the images are; `cohort catalogue dump` makes a copy"
                .into()
        }
        (FileRole::PointDigests(..) | FileRole::PartialDigests(_), _) => {
            "no point dies with it, but it cannot be verified any more".into()
        }
        (_, none) if none.is_empty() => "no point dies with it".into(),
        (_, points) => format!("with it die {points}"),
    };
    print_line(&format!("{missing}{}: {}; {dies}", row.name, row.what));
    Ok(Exit::Done)
}

fn file_row(contents: &Contents, name: &OsStr) -> FileRow {
    let role = contents.role_of(name);
    let points = contents.dying_with(name);
    FileRow {
        name: name.to_string_lossy().into_owned(),
        what: role.to_string(),
        points: points
            .iter()
            .map(|(disk, run)| format!("{disk}@{run}"))
            .collect(),
        role,
    }
}

fn listing<'a>(directory: &Path, contents: &'a Contents, names: &[OsString]) -> Listing<'a> {
    let point =
        |((disk, run), row): (&'a (catalogue::DiskName, catalogue::RunId), &'a Point)| PointRow {
            name: format!("{disk}@{run}"),
            disk: disk.as_str(),
            point: run.0,
            row,
        };
    let missing = contents.missing(names.iter().map(OsString::as_os_str));
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let merged = |name: &str| matches!(contents.role_of(OsStr::new(name)), FileRole::Merging(..));
    Listing {
        event: "list",
        directory: directory.display().to_string(),
        id: contents.meta.directory.to_string(),
        points: contents.points.iter().map(point).collect(),
        partials: contents
            .partials
            .iter()
            .map(|(disk, row)| PartialRow {
                disk: disk.as_str(),
                returns_to_unix_ms: row
                    .parent
                    .and_then(|run| contents.point(disk, run))
                    .map(|point| point.created_unix_ms),
                instants: map::instants(row),
                row: without_map(row),
            })
            .collect(),
        files: names.iter().map(|name| file_row(contents, name)).collect(),
        missing: missing
            .iter()
            .filter(|name| !merged(name))
            .cloned()
            .collect(),
        merged: missing
            .iter()
            .filter(|name| merged(name))
            .cloned()
            .collect(),
    }
}

fn print(listing: &Listing<'_>) {
    if listing.points.is_empty() {
        print_line("no points yet");
    } else {
        let mut table = output::table(&["POINT", "TAKEN", "SIZE", "COPIED", "LIES ON", "FILE", ""]);
        for row in &listing.points {
            let Point {
                parent,
                size,
                created_unix_ms,
                bytes_copied,
                file,
                ..
            } = row.row;
            table.add_row([
                row.name.clone(),
                human::time(*created_unix_ms),
                human::bytes(*size),
                human::bytes(*bytes_copied),
                parent.map_or_else(
                    || "itself".into(),
                    |parent| format!("{}@{parent}", row.disk),
                ),
                file.to_string(),
                remarks(row.row),
            ]);
        }
        print_line(&table.trim_fmt());
    }
    for partial in &listing.partials {
        print_line(&partial_line(partial));
    }
    for file in &listing.files {
        match &file.role {
            FileRole::Unfinished(_) => {
                print_line(&format!(
                    "{}: unfinished: not a point; the next run removes it unless one is writing it now",
                    file.name
                ));
            }
            FileRole::Stray(_) | FileRole::Other => {
                print_line(&format!("{}: {}; left alone", file.name, file.what))
            }
            FileRole::Merging(disk, run) => print_line(&format!(
                "{}: part of {disk}@{run}: a prune was interrupted; the next one finishes it",
                file.name
            )),
            FileRole::Point(..)
            | FileRole::Partial(_)
            | FileRole::PointDigests(..)
            | FileRole::PartialDigests(_)
            | FileRole::Catalogue => {}
        }
    }
    for name in &listing.merged {
        print_line(&format!(
            "{name}: gone: merged already, if a prune was interrupted; the next one finishes it, and `cohort verify` tells"
        ));
    }
    for name in &listing.missing {
        print_line(&format!(
            "{name}: MISSING: {}",
            if name.ends_with(".digests") {
                "what it spoke of cannot be verified"
            } else {
                "what lies on it cannot be restored; the next run copies that disk in full"
            }
        ));
    }
}

/// What is special about a point: its holes, and an instant that nobody can vouch for.
fn remarks(point: &Point) -> String {
    let mut remarks = Vec::new();
    if point.incomplete() {
        let bytes = point.skipped.iter().map(|range| range.length).sum();
        remarks.push(format!(
            "incomplete: {} could not be read",
            human::bytes(bytes)
        ));
    }
    remarks.extend(doubt(point.instant).map(str::to_owned));
    remarks.join("; ")
}

/// What is wrong with an instant, if anything is.
fn doubt(instant: Instant) -> Option<&'static str> {
    match instant {
        Instant::Proven => None,
        Instant::NoInstant => Some("no instant: it changed while it was read"),
        Instant::NoInstantProven => Some("no instant proven"),
    }
}

fn partial_line(partial: &PartialRow<'_>) -> String {
    let Partial {
        decision,
        durable_bytes,
        remaining_bytes,
        run,
        why,
        file,
        parent,
        ..
    } = &partial.row;
    let disk = partial.disk;
    let (saved, left) = (human::bytes(*durable_bytes), human::bytes(*remaining_bytes));
    let (anchor, back) = match parent {
        Some(parent) => {
            let time = partial.returns_to_unix_ms;
            let time = time.map_or_else(String::new, |time| format!(" of {}", human::time(time)));
            (
                format!("against {disk}@{parent}"),
                format!("{disk}@{parent}{time}"),
            )
        }
        None => (
            "of a full copy".into(),
            "nothing: the next run is full".into(),
        ),
    };
    let next = match decision {
        Decision::Keep => "The next run continues it",
        Decision::Undecided => "It waits for an answer",
    };
    let several = match partial.instants.len() {
        0 | 1 => String::new(),
        many => format!(" It is of {many} instants: --map {disk} says which parts."),
    };
    format!(
        "{disk}: partial of run {run}, not a point ({file}), {anchor}: {saved} copied, about {left} to go; ended: {why}. \
         {next}: keep saves {saved} of copying; discard returns to {back}.{several}"
    )
}
