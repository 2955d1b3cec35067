//! One snapshot as text or JSON, where there is no terminal.

use cohort_qmp::Argument;
use serde::Serialize;
use serde_json::Value;

use super::ask::Sample;
use super::rows;
use crate::args;
use crate::commands::Job;
use crate::output::{self, json_line, print_line};

/// All that was seen, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonTop<'a> {
    event: &'static str,
    jobs: &'a [Job],
    /// As `x-cohort-query-stats` returns it; null of a server that does not know that.
    statistics: Option<Value>,
}

pub(super) fn print(sample: &Sample, args: &args::Top) {
    if args.at.output.json {
        return json_line(&JsonTop {
            event: "top",
            jobs: &sample.jobs,
            statistics: sample.statistics.as_ref().map(Argument::write),
        });
    }
    let server = args.at.socket.display().to_string();
    for line in rows::head(&server, Some(sample)) {
        print_line(&line);
    }
    let jobs = rows::jobs(sample, None);
    if !jobs.is_empty() {
        let mut table = output::table(&["GROUP", "JOB", "STATUS", "DONE", "", ""]);
        for row in jobs {
            table.add_row([
                row.group,
                row.id,
                row.status,
                row.done,
                row.limit,
                row.trouble,
            ]);
        }
        print_line(&format!("\n{}", table.trim_fmt()));
    }
    let disks = rows::disks(sample, None);
    if !disks.is_empty() {
        let mut table = output::table(&[
            "DISK", "CLIENTS", "ERRORS", "HELD UP", "WORST", "ITSELF", "DIRTY",
        ]);
        for row in disks {
            table.add_row([
                row.name,
                row.clients,
                row.errors,
                row.held_up,
                row.held_up_worst,
                row.own,
                row.dirty,
            ]);
        }
        print_line(&format!("\n{}", table.trim_fmt()));
    }
}
