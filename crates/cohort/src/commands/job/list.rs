//! `cohort job list`.

use serde::Serialize;

use super::{BlockJob, Job, Server};
use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::human;
use crate::output::{self, json_line, print_line};

/// All jobs, as JSON gives them.
#[derive(Debug, Serialize)]
struct JsonJobs<'a> {
    event: &'static str,
    jobs: &'a [Job],
}

pub(super) fn run(args: &args::JobList) -> Result {
    let jobs = Server::connect(&args.at)?.jobs()?;
    if args.at.output.json {
        json_line(&JsonJobs {
            event: "jobs",
            jobs: &jobs,
        });
    } else if jobs.is_empty() {
        print_line("no jobs");
    } else {
        print(&jobs);
    }
    Ok(Exit::Done)
}

fn print(jobs: &[Job]) {
    let mut table = output::table(&["JOB", "TYPE", "STATUS", "DONE", "SPEED", ""]);
    for job in jobs {
        table.add_row([
            job.id.clone(),
            job.kind.clone(),
            job.status.clone(),
            done(job),
            job.block.as_ref().map_or_else(String::new, speed),
            remarks(job),
        ]);
    }
    print_line(&table.trim_fmt());
}

/// `512 MiB of 1.00 GiB`; what does not copy counts in a unit of its own.
fn done(job: &Job) -> String {
    let number = match job.block {
        Some(_) => human::bytes,
        None => human::count,
    };
    format!("{} of {}", number(job.done), number(job.total))
}

fn speed(block: &BlockJob) -> String {
    match block.speed_bytes {
        0 => String::new(),
        limit => format!("{}/s", human::bytes(limit)),
    }
}

/// What its status does not say.
fn remarks(job: &Job) -> String {
    let mut remarks = Vec::new();
    if let Some(block) = &job.block {
        if block.paused && !matches!(job.status.as_str(), "paused" | "standby") {
            remarks.push("to be held".to_owned());
        }
        if block.io_status == "nospace" {
            remarks.push("no space left".to_owned());
        } else if block.io_status == "failed" {
            remarks.push("an I/O error".to_owned());
        }
    }
    remarks.extend(job.error.clone());
    remarks.join("; ")
}
