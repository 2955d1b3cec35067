//! `cohort doctor`.

use std::path::PathBuf;

use clap::Args;

use super::Output;

/// `cohort doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// A backup directory, the state directory of a `cohort serve`, or one with the journal of a program that embeds the
    /// engine.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Answer for what was found: the finding as it is listed, and one of its answers. Nobody else may write into the
    /// directory meanwhile. May be repeated; all of it is looked at before anything is changed.
    #[arg(long, value_name = "FINDING=ANSWER")]
    pub(crate) resolve: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}
