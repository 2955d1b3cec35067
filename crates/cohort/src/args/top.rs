//! `cohort top`.

use std::time::Duration;

use clap::Args;

use super::JobServer;

/// `cohort top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Print one snapshot, also on a terminal.
    #[arg(long)]
    pub(crate) once: bool,
    /// Look again after this time: a whole number with ms, s, m or h.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::human::parse_duration)]
    pub(crate) interval: Duration,
    /// Where.
    #[command(flatten)]
    pub(crate) at: JobServer,
}
