//! `cohort demo`: the whole idea on three disks that are being written to all the while, checked byte for byte.
//!
//! Everything is real: files, the gate, the jobs, the backup directory. Only the faults are made.

mod acts;
mod checks;
mod disks;
mod rows;
mod show;
mod stage;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

pub use checks::{Evidence, Tamper, Verdict};
use show::Show;
use stage::{Fencing, Stage};

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Runs the demonstration in a directory of its own and prints the verdict.
pub(crate) fn run(args: &args::Demo) -> Result {
    let directory = tempfile::Builder::new().prefix("cohort-demo-").tempdir();
    let directory = directory
        .context("no temporary directory")
        .map_err(|error| Failure {
            exit: Exit::Other,
            error,
        })?;
    let hook = args.hook.clone();
    let fence = Fencing {
        hook: hook.map(|command| (command, Duration::from_secs(args.hook_wait))),
        writer_wait: Some(args.writer_wait),
    };
    let show = Show::new(args.output.json);
    let played = play_all(directory.path(), show, fence, &mut |_| {});
    if args.keep {
        let kept = directory.keep();
        crate::output::eprint_line(&format!("kept: {}", kept.display()));
    }
    let verdict = played.map_err(|error| Failure {
        exit: Exit::CheckFailed,
        error,
    })?;
    Ok(if verdict.holds() {
        Exit::Done
    } else {
        Exit::CheckFailed
    })
}

/// Plays every act in `directory` and gives the verdict. `tamper` sees all evidence before the checks do.
///
/// # Errors
/// Something broke that was not meant to.
pub fn play(directory: &Path, json: bool, tamper: Tamper<'_>) -> anyhow::Result<Verdict> {
    play_all(directory, Show::new(json), Fencing::default(), tamper)
}

fn play_all(
    directory: &Path,
    show: Show,
    fence: Fencing,
    tamper: Tamper<'_>,
) -> anyhow::Result<Verdict> {
    let mut stage = Stage::set(directory, show, fence, tamper)?;
    acts::prologue(&mut stage)?;
    acts::first_backup(&mut stage)?;
    acts::increment(&mut stage)?;
    acts::one_disk_fails(&mut stage)?;
    acts::decide_keep(&mut stage)?;
    acts::forced_cancel(&mut stage)?;
    acts::soft_cancel(&mut stage)?;
    acts::decide_discard(&mut stage)?;
    acts::retry(&mut stage)?;
    acts::restore_everything(&mut stage)?;
    Ok(stage.end())
}
