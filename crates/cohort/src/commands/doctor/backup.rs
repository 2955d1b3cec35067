//! What is left in a backup directory.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use cohort_backup::catalogue::{
    self, Answer as Word, Catalogue, Contents, Decision, DiskName, FileRole, ImageName, Partial,
};
use cohort_job::Journal;
use cohort_journal::lock::{self, Found, LockFiles};
use cohort_journal::{Decided, Outcome, Settling};
use serde::Serialize;

use super::{Answer, Finding, LEAVE, chosen, only_left, resolved, show};
use crate::args;
use crate::commands::close;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::machine;

/// What an answer is carried out on.
#[derive(Debug, Serialize)]
enum Subject {
    Group(String),
    Partial(DiskName),
    Image(ImageName),
    Other(OsString),
}

pub(super) fn run(args: &args::Doctor) -> Result {
    let contents = catalogue::read(&args.dir)?;
    let seen = findings(&contents, &catalogue::list_files(&args.dir)?);
    if args.resolve.is_empty() {
        show(args, has_writer(&args.dir)?, &seen);
        return Ok(Exit::Done);
    }
    if only_left(args, &seen)? {
        return Ok(Exit::Done);
    }
    // What is carried out was found by the one who may write.
    let catalogue = Catalogue::open(&args.dir)?;
    let contents = catalogue.snapshot()?;
    let findings = findings(&contents, &catalogue::list_files(&args.dir)?);
    for (finding, answer) in chosen(args, &findings)? {
        if answer.answer != LEAVE {
            carry_out(&catalogue, &contents, &finding.subject, answer)?;
        }
        resolved(args, finding, answer);
    }
    close(catalogue);
    Ok(Exit::Done)
}

fn has_writer(directory: &Path) -> Result<bool> {
    let found = lock::look(&LockFiles::of(directory, "catalogue"));
    let found = found.map_err(|error| Failure::new(Exit::DirectoryUnusable, error))?;
    Ok(matches!(found, Found::Writer))
}

fn findings(contents: &Contents, names: &[OsString]) -> Vec<Finding<Subject>> {
    let groups = contents.owed().map(group);
    let undecided = |(_, partial): &(&DiskName, &Partial)| partial.decision == Decision::Undecided;
    let partials = contents.partials.iter().filter(undecided);
    let partials = partials.map(|(disk, row)| partial(contents, disk, row));
    let files = names.iter().filter_map(|name| file(contents, name));
    groups.chain(partials).chain(files).collect()
}

/// A verdict of which nobody knows whether all its hooks ran.
fn group(decided: &Decided) -> Finding<Subject> {
    let name = &decided.group;
    let members: Vec<_> = decided.members.iter().map(|m| m.name.as_str()).collect();
    let (verdict, lasting) = match &decided.outcome {
        Outcome::Commit => ("commit", "its points are in the catalogue, and stay"),
        Outcome::Abort(aborted) if aborted.disposition == Settling::Keep => (
            "abort, keep",
            "what its disks keep is what their last checkpoints say",
        ),
        Outcome::Abort(_) => ("abort, discard", "its disks keep nothing of it"),
    };
    let what = format!(
        "decided ({verdict}) at {}, and whether all hooks of its members ({}) ran is not known; {lasting}",
        human::time(decided.decided_unix_ms),
        members.join(", ")
    );
    let then = "is marked as done; no point, partial or file changes by that".to_owned();
    Finding::new(
        format!("group:{name}"),
        what,
        "the next run marks it as done before it begins",
        &[("done", then)],
        Subject::Group(name.clone()),
    )
}

/// A partial that waits for an answer.
fn partial(contents: &Contents, disk: &DiskName, row: &Partial) -> Finding<Subject> {
    let (saved, left) = (
        human::bytes(row.durable_bytes),
        human::bytes(row.remaining_bytes),
    );
    let back = match row
        .parent
        .and_then(|run| contents.point(disk, run).map(|p| (run, p)))
    {
        Some((run, point)) => format!(
            "{disk}@{run} of {}: the next run copies what changed since",
            human::time(point.created_unix_ms)
        ),
        None => "nothing: the next run copies everything".to_owned(),
    };
    let keep = format!("the next run continues it: {saved} are not copied again");
    let discard = format!("its {saved} are dropped, and the disk returns to {back}");
    Finding::new(
        format!("partial:{disk}"),
        format!(
            "run {} stopped ({}) with {saved} copied and about {left} to go ({})",
            row.run, row.why, row.file
        ),
        "the next run refuses this disk until there is an answer, unless it is given one",
        &[("keep", keep), ("discard", discard)],
        Subject::Partial(disk.clone()),
    )
}

/// A file that no row names.
fn file(contents: &Contents, name: &OsString) -> Option<Finding<Subject>> {
    let (what, left, gone, subject) = match contents.role_of(name) {
        FileRole::Unfinished(image) => (
            "a run made it, and no verdict made it a point".to_owned(),
            "the next run removes it",
            "is removed now; no point lies on it",
            Subject::Image(image),
        ),
        FileRole::Stray(image) => (
            "it has a name of ours, and no run of this directory made it: it is of another backup directory, or of before \
             the catalogue was loaded from a dump"
                .to_owned(),
            "stays for ever; nothing here reads it",
            "is removed; no point of this catalogue lies on it, but one of another may be lost",
            Subject::Image(image),
        ),
        FileRole::Other => {
            let text = name.to_str()?;
            let run = machine::scratch_of(contents.meta.directory, text)?;
            (
                format!("it is what run {run} saved of a running machine's disk"),
                "the next backup of that machine removes it, once the machine has let it go",
                "is removed; a machine that still saves into it goes on into a file without a name, until its next backup",
                Subject::Other(name.clone()),
            )
        }
        FileRole::Point(..)
        | FileRole::Merging(..)
        | FileRole::Partial(_)
        | FileRole::PointDigests(..)
        | FileRole::PartialDigests(_)
        | FileRole::Catalogue => return None,
    };
    let id = format!("file:{}", name.to_string_lossy());
    let remove = ("remove", gone.to_owned());
    Some(Finding::new(id, what, left, &[remove], subject))
}

fn carry_out(
    catalogue: &Catalogue,
    contents: &Contents,
    subject: &Subject,
    answer: &Answer,
) -> Result<()> {
    match subject {
        Subject::Group(name) => {
            let failed = |error| Failure::new(Exit::Other, error);
            let owed = catalogue.owed().map_err(failed)?;
            for owed in owed.iter().filter(|owed| owed.group.as_str() == name) {
                catalogue.done(owed).map_err(failed)?;
            }
        }
        Subject::Partial(disk) if answer.answer == "keep" => catalogue.answer(disk, Word::Keep)?,
        Subject::Partial(disk) => {
            catalogue.answer(disk, Word::Discard)?;
            // Only what was its own: other left-overs have answers of their own.
            let row = contents.partials.get(disk).into_iter();
            let digests = row.clone().filter_map(|row| row.digests.as_ref());
            let digests = digests.map(|digests| &digests.file);
            for file in row.map(|row| &row.file).chain(digests) {
                catalogue.remove_image(file)?;
            }
        }
        Subject::Image(image) => drop(catalogue.remove_image(image)?),
        Subject::Other(name) => {
            let path = catalogue.directory().join(name);
            fs::remove_file(&path).map_err(|error| Failure {
                exit: Exit::DirectoryUnusable,
                error: anyhow::Error::new(error).context(path.display().to_string()),
            })?;
        }
    }
    Ok(())
}
