//! `cohort restore`: a point of a disk, as a file of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cohort_backup::catalogue::{self, PointName};
use cohort_backup::{RestoreError, RestoreOptions, Restored, restore};
use cohort_block::{Device, Format, OpenError, OpenOptions};
use serde::Serialize;

use super::watched::{Shown, watched};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{eprint_line, json_line, print_line};

/// The result as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonRestored<'a> {
    event: &'static str,
    point: String,
    out: String,
    size_bytes: u64,
    data_bytes: u64,
    skipped: &'a [catalogue::ByteRange],
}

/// A point, opened for reading.
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) device: Arc<dyn Device>,
    pub(super) row: catalogue::Point,
}

pub(super) fn run(args: &args::Restore) -> Result {
    outside(&args.from, &args.out)?;
    let opened = open(&args.from, &args.point)?;
    let format = match args.format {
        Some(args::Format::Raw) => Format::Raw,
        Some(args::Format::Qcow2) => Format::Qcow2,
        None if args.out.extension().is_some_and(|end| end == "qcow2") => Format::Qcow2,
        None => Format::Raw,
    };
    let options = RestoreOptions::new(format)
        .overwrite(args.force)
        .length_bytes(opened.row.size);
    let options = match &args.range {
        Some(range) => options.range(range.clone()),
        None => options,
    };
    let shown = Shown {
        name: &opened.name,
        phase: "restoring",
        stopping: "Stopping: nothing of the output will be left.",
        json: args.output.json,
    };
    let restored = watched(shown, |tell, cancel| {
        restore(&*opened.device, &args.out, &options, tell, cancel)
    })?
    .map_err(failure)?;
    let Opened { name, row, .. } = &opened;
    let skipped: Vec<_> = holes(&row.skipped, args.range.as_ref());
    for hole in &skipped {
        eprint_line(&format!(
            "cohort: {name} is incomplete: {} bytes at byte {} could not be read when it was taken, and are zeroes now",
            hole.length, hole.offset
        ));
    }
    if args.output.json {
        let (point, out) = (name.clone(), args.out.display().to_string());
        let Restored {
            size_bytes,
            data_bytes,
            ..
        } = restored;
        json_line(&JsonRestored {
            event: "restored",
            point,
            out,
            size_bytes,
            data_bytes,
            skipped: &skipped,
        });
    } else {
        let (size, data) = (
            human::bytes(restored.size_bytes),
            human::bytes(restored.data_bytes),
        );
        let part = args.range.as_ref().map_or_else(String::new, |range| {
            format!(" from byte {} on", range.start)
        });
        print_line(&format!(
            "{name}{part} restored to {}: {size}, {data} of it data",
            args.out.display()
        ));
    }
    Ok(Exit::Done)
}

/// The holes of a point that lie in what is restored.
fn holes(
    skipped: &[catalogue::ByteRange],
    range: Option<&std::ops::Range<u64>>,
) -> Vec<catalogue::ByteRange> {
    let inside = |hole: &&catalogue::ByteRange| {
        range.is_none_or(|range| hole.offset < range.end && hole.offset + hole.length > range.start)
    };
    skipped.iter().filter(inside).copied().collect()
}

/// Restores a point to a raw file, without further ado.
pub(crate) fn restore_raw(directory: &Path, point: &str, out: &Path) -> anyhow::Result<()> {
    let opened = open(directory, point).map_err(|failure| failure.error)?;
    let options = RestoreOptions::new(Format::Raw).length_bytes(opened.row.size);
    restore(
        &*opened.device,
        out,
        &options,
        &|_, _| {},
        &AtomicBool::new(false),
    )?;
    Ok(())
}

/// Refuses an output in the backup directory: it would pass for one of its files, or replace one.
fn outside(directory: &Path, out: &Path) -> Result<()> {
    // A link leads to the file that is replaced.
    let place = out.canonicalize();
    let parent = place.as_deref().unwrap_or(out);
    let parent = parent
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match (parent.canonicalize(), directory.canonicalize()) {
        (Ok(parent), Ok(directory)) if parent == directory => {
            let out = out.display();
            Err(Failure::say(
                Exit::Usage,
                format_args!("{out} lies in the backup directory; choose another place"),
            ))
        }
        _ => Ok(()),
    }
}

/// Finds a point and opens its image, with all that backs it.
pub(super) fn open(directory: &Path, point: &str) -> Result<Opened> {
    let name: PointName = point
        .parse()
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    let mut tries = 0;
    loop {
        tries += 1;
        match open_once(directory, &name, point)? {
            Ok(opened) => return Ok(opened),
            // A prune has put the merged image in the place of this one between the look at the one and the other. It does so
            // once for a point.
            Err(OpenError::Missing { .. } | OpenError::MissingBacking { .. })
                if tries < OPENING_TRIES => {}
            // What is wrong with a file of ours is not wrong with a source.
            Err(error) => return Err(Failure::new(Exit::PointDamaged, error)),
        }
    }
}

/// How often a point is opened whose images are being merged: more than one prune may run meanwhile.
const OPENING_TRIES: u32 = 5;

fn open_once(
    directory: &Path,
    name: &PointName,
    point: &str,
) -> Result<std::result::Result<Opened, OpenError>> {
    let contents = catalogue::read(directory)?;
    let (run, row) = contents.resolve(name).map_err(|error| Failure {
        exit: Exit::NoSuchPoint,
        error: anyhow::Error::new(error).context(format!("there is no point {point}")),
    })?;
    let path: PathBuf = directory.join(row.file.to_string());
    let opened = cohort_block::open(&path, OpenOptions::read_only().format(Format::Qcow2));
    Ok(opened.map(|device| Opened {
        name: format!("{}@{run}", name.disk),
        device,
        row: row.clone(),
    }))
}

fn failure(error: RestoreError) -> Failure {
    Failure::new(exit_of(&error), error)
}

/// How a process exits whose output could not be made.
pub(super) fn exit_of(error: &RestoreError) -> Exit {
    match error {
        RestoreError::Exists { .. } => Exit::OutputExists,
        RestoreError::NoSpace { .. } => Exit::TargetFull,
        RestoreError::Read(_) => Exit::PointDamaged,
        RestoreError::Range { .. } => Exit::Usage,
        RestoreError::Cancelled => Exit::Cancelled,
        RestoreError::NotAFile { .. }
        | RestoreError::NoName { .. }
        | RestoreError::Directory { .. }
        | RestoreError::Busy { .. }
        | RestoreError::Write { .. }
        | RestoreError::Build { .. }
        | RestoreError::NotDurable { .. }
        | _ => Exit::TargetFailed,
    }
}
