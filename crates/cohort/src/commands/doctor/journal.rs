//! What is left in the journal of a program that embeds the engine, or of a daemon.

use std::path::Path;

use cohort_journal::lock::{self, Found, LockFiles};
use cohort_journal::{
    Contents, Decided, FileJournal, OpenError, Outcome, Settling, Unreadable, read,
};

use serde::Serialize;

use super::{Finding, LEAVE, chosen, daemon, only_left, resolved, show};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;

/// What an answer is carried out on.
#[derive(Debug, Serialize)]
pub(super) enum Subject {
    /// A row of the journal.
    Row(u64),
    /// A note, by its key.
    Note(String),
}

pub(super) fn run(args: &args::Doctor) -> Result {
    let seen = findings(&read(&args.dir)?);
    if args.resolve.is_empty() {
        show(args, has_writer(&args.dir)?, &seen);
        return Ok(Exit::Done);
    }
    if only_left(args, &seen)? {
        return Ok(Exit::Done);
    }
    let journal = FileJournal::open(&args.dir)?;
    let findings = findings(&journal.contents());
    for (finding, answer) in chosen(args, &findings)? {
        if answer.answer != LEAVE {
            let forgotten = match &finding.subject {
                Subject::Row(number) => journal.forget(*number).map(drop),
                Subject::Note(key) => journal.note(vec![(key.clone(), None)]),
            };
            forgotten.map_err(|error| Failure::new(Exit::InDoubt, error))?;
        }
        resolved(args, finding, answer);
    }
    Ok(Exit::Done)
}

fn has_writer(directory: &Path) -> Result<bool> {
    let found = lock::look(&LockFiles::of(directory, "journal"));
    let found = found.map_err(|error| Failure::new(Exit::DirectoryUnusable, error))?;
    Ok(matches!(found, Found::Writer))
}

fn findings(contents: &Contents) -> Vec<Finding<Subject>> {
    let owed = contents.owed.iter();
    let owed = owed.map(|(number, decided)| group(*number, decided));
    owed.chain(contents.unreadable.iter().map(quarantined))
        .chain(daemon::findings(&contents.notes))
        .collect()
}

/// A verdict whose hooks are owed.
fn group(number: u64, decided: &Decided) -> Finding<Subject> {
    let (verdict, hooks) = match &decided.outcome {
        Outcome::Commit => ("commit", "commit"),
        Outcome::Abort(aborted) => match aborted.disposition {
            Settling::Keep => ("abort, keep", "abort"),
            Settling::Discard => ("abort, discard", "abort"),
        },
    };
    let members = decided.members.iter();
    let members: Vec<_> = members
        .map(|member| format!("{} ({})", member.name, member.kind))
        .collect();
    let what = format!(
        "group '{}' was decided ({verdict}) at {}, and its members may be owed their {hooks} hooks: {}",
        decided.group,
        human::time(decided.decided_unix_ms),
        members.join(", ")
    );
    let left =
        format!("the program's next start runs their {hooks} hooks, perhaps for the second time");
    let forget = format!(
        "their {hooks} hooks never run again: what they had not done yet stays undone, and what was prepared stays"
    );
    let id = format!("row:{number}");
    Finding::new(id, what, &left, &[("forget", forget)], Subject::Row(number))
}

/// A row that nobody can read.
fn quarantined(row: &Unreadable) -> Finding<Subject> {
    let forget = "is removed: whatever its group was owed is never done".to_owned();
    Finding::new(
        format!("row:{}", row.number),
        format!("cannot be read ({}), so whose it is is not known", row.why),
        "stays, holds up no other group, and is told at every start; a newer program may read it",
        &[("forget", forget)],
        Subject::Row(row.number),
    )
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let exit = match &error {
            OpenError::Held { .. } => Exit::DirectoryBusy,
            OpenError::Foreign { .. } | OpenError::NewerVersion { .. } => Exit::CatalogueForeign,
            OpenError::Damaged { .. } => Exit::CatalogueDamaged,
            OpenError::NoDirectory(_)
            | OpenError::NoJournal(_)
            | OpenError::Restless(_)
            | OpenError::Io { .. }
            | _ => Exit::DirectoryUnusable,
        };
        Failure::new(exit, error)
    }
}
