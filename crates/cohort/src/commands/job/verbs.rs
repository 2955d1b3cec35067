//! Verbs on one job, and what is told of one that is refused.

use cohort_job::{Refused, Status, Verb, VerbError};
use cohort_qmp::{Command, ErrorClass, JobCancel, JobId, SetSpeed};
use serde::Serialize;

use super::{Job, Server, no_such_job, unreachable_server};
use crate::args::{self, JobServer, OneJob};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::monitor::MonitorError;
use crate::output::{json_line, print_line};

/// A verb that was accepted, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonAccepted<'a> {
    event: &'static str,
    verb: &'static str,
    id: &'a str,
    /// Where the job is now; nothing if it is gone.
    job: Option<&'a Job>,
}

/// A verb that was refused, as JSON gives it before the error.
#[derive(Debug, Serialize)]
struct JsonRefused<'a> {
    event: &'static str,
    verb: &'static str,
    id: &'a str,
    status: &'a str,
    /// The other verbs that this status accepts.
    accepts: Vec<&'static str>,
    /// The server's own words.
    message: &'a str,
}

/// Why a job is where it is, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonWhy<'a> {
    event: &'static str,
    id: &'a str,
    why: &'a str,
}

pub(super) fn pause(args: &OneJob) -> Result {
    simple(args, Verb::Pause, Command::JobPause)
}

pub(super) fn resume(args: &OneJob) -> Result {
    simple(args, Verb::Resume, Command::JobResume)
}

pub(super) fn complete(args: &OneJob) -> Result {
    simple(args, Verb::Complete, Command::JobComplete)
}

pub(super) fn finalize(args: &OneJob) -> Result {
    simple(args, Verb::Finalize, Command::JobFinalize)
}

pub(super) fn dismiss(args: &OneJob) -> Result {
    simple(args, Verb::Dismiss, Command::JobDismiss)
}

pub(super) fn speed(args: &args::JobSpeed) -> Result {
    let Ok(speed) = i64::try_from(args.speed) else {
        let message = format_args!("{} bytes a second are more than there can be", args.speed);
        return Err(Failure::say(Exit::Usage, message));
    };
    let device = args.job.clone();
    let command = Command::BlockJobSetSpeed(SetSpeed { device, speed });
    let mut server = Server::connect(&args.at)?;
    carry_out(&mut server, &args.at, &args.job, Verb::SetSpeed, &command)
}

pub(super) fn cancel(args: &args::JobCancel) -> Result {
    let mut server = Server::connect(&args.at)?;
    let id = args.job.clone();
    let command = if args.force {
        Command::JobCancel(JobCancel { id, force: None })
    } else {
        server.soft_cancel(id)?
    };
    carry_out(&mut server, &args.at, &args.job, Verb::Cancel, &command)
}

pub(super) fn why(args: &OneJob) -> Result {
    let mut server = Server::connect(&args.at)?;
    let id = args.job.clone();
    let told = match server.0.carry_out(&Command::JobWhy(JobId { id })) {
        Ok(told) => told,
        Err(MonitorError::Refused { class, text, .. }) => {
            return Err(unexplained(&mut server, &args.job, class, &text));
        }
        Err(error) => return Err(unreachable_server(&args.at.socket, error)),
    };
    let why = told["why"].as_str().unwrap_or_default();
    if args.at.output.json {
        json_line(&JsonWhy {
            event: "why",
            id: &args.job,
            why,
        });
    } else {
        print_line(&format!("{}: {why}", args.job));
    }
    Ok(Exit::Done)
}

/// A server that does not say why still says where the job is.
fn unexplained(server: &mut Server, id: &str, class: ErrorClass, text: &str) -> Failure {
    match server.jobs() {
        Err(failure) => failure,
        Ok(jobs) => match jobs.iter().find(|job| job.id == id) {
            None => no_such_job(id, &jobs),
            Some(job) if class == ErrorClass::CommandNotFound => {
                let status = &job.status;
                let error = job.error.as_ref();
                let error = error.map_or_else(String::new, |error| format!(" ({error})"));
                Failure::say(
                    Exit::Other,
                    format_args!(
                        "only `cohort serve` says why; this server says that job '{id}' is {status}{error}"
                    ),
                )
            }
            Some(_) => Failure::say(Exit::Other, text),
        },
    }
}

fn simple(args: &OneJob, verb: Verb, command: impl FnOnce(JobId) -> Command) -> Result {
    let mut server = Server::connect(&args.at)?;
    let id = args.job.clone();
    let command = command(JobId { id });
    carry_out(&mut server, &args.at, &args.job, verb, &command)
}

fn carry_out(
    server: &mut Server,
    at: &JobServer,
    id: &str,
    verb: Verb,
    command: &Command,
) -> Result {
    match server.0.carry_out(command) {
        Ok(_) => {}
        Err(MonitorError::Refused { text, .. }) => {
            return Err(refused(server, at, id, verb, &text));
        }
        Err(error) => return Err(unreachable_server(&at.socket, error)),
    }
    let job = server.find(id)?;
    if at.output.json {
        json_line(&JsonAccepted {
            event: "accepted",
            verb: verb.as_str(),
            id,
            job: job.as_ref(),
        });
    } else {
        let now = job.map_or_else(
            || "it is gone".to_owned(),
            |job| format!("it is {}", job.status),
        );
        print_line(&format!("{id}: {verb} accepted; {now}"));
    }
    Ok(Exit::Done)
}

/// Says why a verb was refused, and which would be accepted. Where the job is may have changed since; then the server's
/// own words count.
fn refused(server: &mut Server, at: &JobServer, id: &str, verb: Verb, text: &str) -> Failure {
    let jobs = match server.jobs() {
        Ok(jobs) => jobs,
        Err(failure) => return failure,
    };
    let Some(job) = jobs.iter().find(|job| job.id == id) else {
        return no_such_job(id, &jobs);
    };
    let status = Status::ALL.into_iter().find(|s| s.as_str() == job.status);
    let accepts: Vec<_> = status.map_or_else(Vec::new, |status| {
        let verbs = Verb::ALL.into_iter();
        verbs
            .filter(|other| *other != verb && other.accepted_in().contains(&status))
            .collect()
    });
    if at.output.json {
        json_line(&JsonRefused {
            event: "refused",
            verb: verb.as_str(),
            id,
            status: &job.status,
            accepts: accepts.iter().map(|verb| verb.as_str()).collect(),
            message: text,
        });
    }
    let why = match status {
        Some(status) if !verb.accepted_in().contains(&status) => {
            let refused = Refused::Status { verb, status };
            let job = id.to_owned();
            VerbError { job, refused }.to_string()
        }
        _ if job.block.is_none() && verb == Verb::SetSpeed => {
            format!(
                "job '{id}' cannot set-speed: it is of type {} and has none",
                job.kind
            )
        }
        _ if job.block.is_none() && verb == Verb::Cancel => format!(
            "job '{id}' is of type {}, which this server cancels only with --force ({text})",
            job.kind
        ),
        _ => format!(
            "job '{id}' cannot {verb} in status '{}': {text}",
            job.status
        ),
    };
    let words: Vec<_> = accepts.iter().map(|verb| verb.as_str()).collect();
    let status = &job.status;
    let message = match words.as_slice() {
        [] => why,
        words => format!("{why}; '{status}' accepts {}", words.join(", ")),
    };
    Failure::say(Exit::VerbRefused, message)
}
