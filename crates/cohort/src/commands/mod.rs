//! The commands, one file each: from arguments to a call of the library, and from its answer to what people see.

mod audit;
mod backup;
mod bitmap;
mod catalogue;
mod completions;
mod copy;
mod doctor;
mod exit_codes;
mod explain;
mod job;
mod list;
mod man;
mod prune;
mod report;
mod restore;
mod serve;
mod sources;
mod verify;
mod watched;

pub(crate) use backup::{Words, go_on, now, stop};
#[cfg(all(test, feature = "top"))]
pub(crate) use job::BlockJob;
#[cfg(feature = "top")]
pub(crate) use job::{Job, Server};
pub(crate) use report::{Told, fence_line};
pub(crate) use restore::restore_raw;
pub(crate) use sources::per_disk;

use cohort_backup::catalogue::Catalogue;

use crate::args::Command;
use crate::failure::Result;
use crate::output::eprint_line;

/// Carries out a command.
pub(crate) fn run(command: &Command) -> Result {
    match command {
        Command::Backup(args) => backup::run(args),
        Command::Copy(args) => copy::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Prune(args) => prune::run(args),
        Command::List(args) => list::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Job(args) => job::run(args),
        #[cfg(feature = "top")]
        Command::Top(args) => crate::top::run(args),
        Command::Bitmap(args) => bitmap::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Catalogue(args) => catalogue::run(args),
        Command::Demo(args) => crate::demo::run(args),
        Command::ExitCodes(args) => exit_codes::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// Gives a backup directory free when all is done in it. What fails of that undoes nothing, so it is only said.
fn close(catalogue: Catalogue) {
    if let Err(unclosed) = catalogue.close() {
        eprint_line(&format!("cohort: {unclosed}"));
    }
}

/// Whether the command was asked for JSON.
pub(crate) fn wants_json(command: &Command) -> bool {
    match command {
        Command::Backup(args) => args.output.json,
        Command::Copy(args) => args.output.json,
        Command::Restore(args) => args.output.json,
        Command::Serve(args) => args.output.json,
        Command::Verify(args) => args.output.json,
        Command::Audit(args) => args.output.json,
        Command::Prune(args) => args.output.json,
        Command::List(args) => args.output.json,
        Command::Doctor(args) => args.output.json,
        Command::Job(args) => job::wants_json(args),
        #[cfg(feature = "top")]
        Command::Top(args) => args.at.output.json,
        Command::Bitmap(args) => bitmap::wants_json(args),
        Command::Explain(args) => args.output.json,
        Command::Demo(args) => args.output.json,
        Command::ExitCodes(args) => args.output.json,
        Command::Catalogue(_) | Command::Completions(_) | Command::Man(_) => false,
    }
}
