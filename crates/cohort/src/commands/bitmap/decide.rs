//! `cohort bitmap decide`: keep or discard what an unfinished run copied of a disk.

use cohort_backup::catalogue::{self, Answer, Catalogue, Decision, DiskName, NoSuchPoint};
use serde::Serialize;

use crate::args;
use crate::commands::close;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{json_line, print_line};

/// The answer that was given, as JSON gives it.
#[derive(Debug, Serialize)]
struct Decided<'a> {
    event: &'static str,
    disk: &'a str,
    answer: &'static str,
    /// Whether the disk was waiting for one.
    was_undecided: bool,
}

pub(super) fn run(args: &args::Decide) -> Result {
    let disk = DiskName::new(&args.disk).map_err(|error| Failure::new(Exit::Usage, error))?;
    let catalogue = Catalogue::open(&args.from)?;
    let contents = catalogue.snapshot()?;
    let Some(partial) = contents.partials.get(&disk) else {
        return Err(nothing_to_decide(&contents, &disk));
    };
    let was_undecided = partial.decision == Decision::Undecided;
    let (answer, word, then) = match args.answer {
        args::Answer::Keep => (
            Answer::Keep,
            "keep",
            "the next run continues the partial copy",
        ),
        args::Answer::Discard => (
            Answer::Discard,
            "discard",
            "the next run starts from the last point",
        ),
    };
    catalogue.answer(&disk, answer)?;
    // The file goes with the answer; if it cannot be removed now, the next run sweeps it.
    catalogue.sweep()?;
    if args.output.json {
        json_line(&Decided {
            event: "decided",
            disk: disk.as_str(),
            answer: word,
            was_undecided,
        });
    } else {
        print_line(&format!("{disk}: {word}: {then}"));
    }
    close(catalogue);
    Ok(Exit::Done)
}

fn nothing_to_decide(contents: &catalogue::Contents, disk: &DiskName) -> Failure {
    if contents.disks.contains_key(disk) {
        return Failure::say(
            Exit::NoSuchPoint,
            format_args!("{disk}: there is no partial copy, so there is nothing to decide"),
        );
    }
    NoSuchPoint::Disk {
        disk: disk.clone(),
        disks: contents.disks.keys().cloned().collect(),
    }
    .into()
}
