//! `cohort job watch`: jobs until all of them are over.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Job, Server, no_such_job};
use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::human;
use crate::monitor::Heard;
use crate::output::{json_line, print_line};
use crate::progress::{DiskNow, Progress};

/// How often jobs are looked at when nothing is told of them.
const LOOK: Duration = Duration::from_millis(200);

/// What QEMU, and we, call the error of a job that was cancelled.
const CANCELLED: &str = "Operation canceled";

/// A job that changed, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonChanged<'a> {
    event: &'static str,
    #[serde(flatten)]
    job: &'a Job,
}

/// How all of them ended, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonWatched<'a> {
    event: &'static str,
    jobs: Vec<JsonEnded<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonEnded<'a> {
    id: &'a str,
    outcome: &'static str,
    done: u64,
    total: u64,
    error: Option<&'a str>,
}

/// A job that is watched.
#[derive(Debug)]
struct Watched {
    /// As it was last seen.
    job: Job,
    end: Option<End>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Done,
    Cancelled,
    Failed(String),
    /// It is gone, and what became of it was not told.
    Unknown,
}

pub(super) fn run(args: &args::JobWatch) -> Result {
    let mut server = Server::connect(&args.at)?;
    server.0.listen();
    let jobs = server.jobs()?;
    if let Some(missing) = args
        .jobs
        .iter()
        .find(|id| !jobs.iter().any(|j| j.id == **id))
    {
        return Err(no_such_job(missing, &jobs));
    }
    let mut watched: Vec<_> = jobs.into_iter().map(Watched::new).collect();
    if !args.jobs.is_empty() {
        watched.retain(|watched| args.jobs.contains(&watched.job.id));
    }
    let json = args.at.output.json;
    watch(&mut server, &mut watched, json)?;
    if json {
        json_line(&JsonWatched {
            event: "watched",
            jobs: watched.iter().map(Watched::json).collect(),
        });
    } else if watched.is_empty() {
        print_line("no jobs");
    } else {
        watched
            .iter()
            .for_each(|watched| print_line(&watched.line()));
    }
    Ok(exit(&watched))
}

/// Shows the jobs until all are over.
fn watch(server: &mut Server, watched: &mut [Watched], json: bool) -> Result<()> {
    let start = Instant::now();
    let mut face = (!json).then(|| Progress::new(false));
    watched.iter().for_each(|one| tell(one, face.as_ref()));
    while watched.iter().any(Watched::lives) {
        let jobs = look(server);
        let heard = server.0.heard();
        for one in watched.iter_mut().filter(|one| one.lives()) {
            let before = one.job.clone();
            one.learn(&heard, jobs.as_deref().ok());
            if one.job.status != before.status || (json && one.job != before) {
                tell(one, face.as_ref());
            }
        }
        if !watched.iter().any(Watched::lives) {
            break;
        }
        jobs?;
        if let Some(progress) = &mut face {
            let now: Vec<_> = watched.iter().map(Watched::now).collect();
            progress.show(start.elapsed(), &now);
        }
        // That it went away, the next look finds.
        let _ = server.0.wait(LOOK);
    }
    if let Some(progress) = face {
        progress.finish();
    }
    Ok(())
}

/// All jobs. A server that goes away has said before what became of them.
fn look(server: &mut Server) -> Result<Vec<Job>> {
    let jobs = server.jobs();
    if jobs.is_err() {
        server.0.hear_out();
    }
    jobs
}

/// Says where a job is.
fn tell(watched: &Watched, face: Option<&Progress>) {
    let job = &watched.job;
    match face {
        Some(progress) => progress.say(&format!("{}: {}", job.id, job.status)),
        None => json_line(&JsonChanged { event: "job", job }),
    }
}

/// One failure counts more than one cancel.
fn exit(watched: &[Watched]) -> Exit {
    let of = |watched: &Watched| match &watched.end {
        Some(End::Failed(_)) => Exit::JobFailed,
        Some(End::Cancelled) => Exit::Cancelled,
        Some(End::Unknown) => Exit::Other,
        Some(End::Done) | None => Exit::Done,
    };
    let exits: Vec<_> = watched.iter().map(of).collect();
    let worst = [Exit::JobFailed, Exit::Cancelled, Exit::Other];
    let found = worst.into_iter().find(|exit| exits.contains(exit));
    found.unwrap_or(Exit::Done)
}

impl Watched {
    fn new(job: Job) -> Self {
        let mut watched = Self { job, end: None };
        watched.see_end();
        watched
    }

    /// Whether it is not over, as far as is known.
    fn lives(&self) -> bool {
        self.end.is_none()
    }

    /// Takes what was told of it, and then what a list says, if there is one.
    fn learn(&mut self, heard: &[Heard], jobs: Option<&[Job]>) {
        let gone = heard.iter().any(|event| self.hear(event));
        if let Some(jobs) = jobs
            && !gone
        {
            self.see(jobs.iter().find(|job| job.id == self.job.id));
        }
    }

    /// Takes what an event says. Whether it was the last one: what a list says after it is of another job.
    fn hear(&mut self, event: &Heard) -> bool {
        let text = |key: &str| event.data.get(key).and_then(|value| value.as_str());
        let of = match event.name.as_str() {
            "JOB_STATUS_CHANGE" => text("id"),
            _ => text("device"),
        };
        if of != Some(self.job.id.as_str()) {
            return false;
        }
        let number = |key: &str| event.data.get(key).and_then(|value| value.as_u64());
        match event.name.as_str() {
            "JOB_STATUS_CHANGE" if text("status") == Some("null") => {
                self.end.get_or_insert(End::Unknown);
                return true;
            }
            "JOB_STATUS_CHANGE" => {
                self.job.status = text("status").unwrap_or_default().to_owned();
            }
            "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED" => {
                self.job.done = number("offset").unwrap_or(self.job.done);
                self.job.total = number("len").unwrap_or(self.job.total);
                self.job.error = text("error").map(str::to_owned);
                let cancelled = event.name == "BLOCK_JOB_CANCELLED";
                self.end = Some(match &self.job.error {
                    _ if cancelled => End::Cancelled,
                    Some(error) => End::Failed(error.clone()),
                    None => End::Done,
                });
            }
            _ => {}
        }
        false
    }

    /// Takes what a list says.
    fn see(&mut self, job: Option<&Job>) {
        match job {
            Some(job) => {
                self.job = job.clone();
                self.see_end();
            }
            None => drop(self.end.get_or_insert(End::Unknown)),
        }
    }

    fn see_end(&mut self) {
        if self.job.status == "concluded" && self.end.is_none() {
            self.end = Some(match &self.job.error {
                None => End::Done,
                Some(error) if error == CANCELLED => End::Cancelled,
                Some(error) => End::Failed(error.clone()),
            });
        }
    }

    fn now(&self) -> DiskNow {
        DiskNow {
            name: self.job.id.clone(),
            phase: self.job.status.clone(),
            done: self.job.done,
            total: self.job.total,
            stopped: None,
        }
    }

    fn json(&self) -> JsonEnded<'_> {
        let error = match &self.end {
            Some(End::Failed(error)) => Some(error.as_str()),
            Some(End::Done | End::Cancelled | End::Unknown) | None => None,
        };
        JsonEnded {
            id: &self.job.id,
            outcome: match self.end {
                Some(End::Done) => "done",
                Some(End::Cancelled) => "cancelled",
                Some(End::Failed(_)) => "failed",
                Some(End::Unknown) | None => "unknown",
            },
            done: self.job.done,
            total: self.job.total,
            error,
        }
    }

    fn line(&self) -> String {
        let id = &self.job.id;
        let done = match self.job.block {
            Some(_) => format!(
                " ({} of {})",
                human::bytes(self.job.done),
                human::bytes(self.job.total)
            ),
            None => String::new(),
        };
        match &self.end {
            Some(End::Done) => format!("{id}: done{done}"),
            Some(End::Cancelled) => format!("{id}: cancelled{done}"),
            Some(End::Failed(error)) => format!("{id}: failed{done}: {error}"),
            Some(End::Unknown) | None => format!("{id}: gone; what became of it was not told"),
        }
    }
}
