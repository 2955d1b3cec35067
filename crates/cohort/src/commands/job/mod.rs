//! `cohort job …`: the jobs of a server, ours or QEMU's, looked at and told what to do over QMP.

mod list;
mod verbs;
mod watch;

use std::path::Path;

use cohort_qmp::{BlockJobCancel, Command, JobCancel, Nothing};
use serde::Serialize;
use serde_json::Value;

use crate::args::{self, JobServer};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::monitor::{Monitor, MonitorError};

/// Carries out one of the commands.
pub(super) fn run(command: &args::Job) -> Result {
    match command {
        args::Job::List(args) => list::run(args),
        args::Job::Watch(args) => watch::run(args),
        args::Job::Pause(args) => verbs::pause(args),
        args::Job::Resume(args) => verbs::resume(args),
        args::Job::Speed(args) => verbs::speed(args),
        args::Job::Cancel(args) => verbs::cancel(args),
        args::Job::Complete(args) => verbs::complete(args),
        args::Job::Finalize(args) => verbs::finalize(args),
        args::Job::Dismiss(args) => verbs::dismiss(args),
        args::Job::Why(args) => verbs::why(args),
    }
}

/// Whether the command was asked for JSON.
pub(super) fn wants_json(command: &args::Job) -> bool {
    at(command).output.json
}

fn at(command: &args::Job) -> &JobServer {
    match command {
        args::Job::List(args) => &args.at,
        args::Job::Watch(args) => &args.at,
        args::Job::Speed(args) => &args.at,
        args::Job::Cancel(args) => &args.at,
        args::Job::Pause(args)
        | args::Job::Resume(args)
        | args::Job::Complete(args)
        | args::Job::Finalize(args)
        | args::Job::Dismiss(args)
        | args::Job::Why(args) => &args.at,
    }
}

/// A server of jobs.
pub(crate) struct Server(pub(crate) Monitor);

/// A job, as a server told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Job {
    /// What it is called.
    pub(crate) id: String,
    /// What it does.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Where it is in its life.
    pub(crate) status: String,
    /// How far it is.
    pub(crate) done: u64,
    /// How far it has to go.
    pub(crate) total: u64,
    /// Why it does not end well.
    pub(crate) error: Option<String>,
    /// What only jobs have that copy disks.
    #[serde(flatten)]
    pub(crate) block: Option<BlockJob>,
}

/// What is told only of jobs that copy disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BlockJob {
    /// Whether somebody holds it, also where its status does not say so yet.
    pub(crate) paused: bool,
    /// At most so many bytes a second, or 0 for no limit.
    pub(crate) speed_bytes: u64,
    /// What the last error made of it, if it is not `ok`.
    pub(crate) io_status: String,
}

impl Server {
    /// Connects to it.
    pub(crate) fn connect(at: &JobServer) -> Result<Self> {
        Monitor::connect(&at.socket)
            .map(Server)
            .map_err(|error| unreachable_server(&at.socket, error))
    }

    /// Asks for what no server refuses.
    pub(crate) fn ask(&mut self, command: &Command) -> Result<Value> {
        let answer = self.0.carry_out(command);
        answer.map_err(|error| unreachable_server(self.0.path(), error))
    }

    /// All jobs, in the server's order.
    pub(crate) fn jobs(&mut self) -> Result<Vec<Job>> {
        let blocks = self.ask(&Command::QueryBlockJobs(Nothing {}))?;
        let all = self.ask(&Command::QueryJobs(Nothing {}))?;
        let blocks = blocks.as_array().map(Vec::as_slice).unwrap_or_default();
        let all = all.as_array().into_iter().flatten();
        Ok(all.filter_map(|job| Job::read(job, blocks)).collect())
    }

    /// The job of this name, if there is one.
    fn find(&mut self, id: &str) -> Result<Option<Job>> {
        Ok(self.jobs()?.into_iter().find(|job| job.id == id))
    }

    /// Whether it has a command that only ours have.
    pub(crate) fn knows(&mut self, name: &str) -> Result<bool> {
        let commands = self.ask(&Command::QueryCommands(Nothing {}))?;
        let mut commands = commands.as_array().into_iter().flatten();
        Ok(commands.any(|command| command["name"] == name))
    }

    /// The command that ends a job early and has it settle by its policy: `job-cancel` with a word of ours, or
    /// `block-job-cancel`, which QEMU has only for its block jobs.
    pub(crate) fn soft_cancel(&mut self, id: String) -> Result<Command> {
        Ok(if self.knows("x-cohort-job-why")? {
            let force = Some(false);
            Command::JobCancel(JobCancel { id, force })
        } else {
            let (device, force) = (id, None);
            Command::BlockJobCancel(BlockJobCancel { device, force })
        })
    }
}

impl Job {
    /// Reads what a server says; a newer QEMU may say more. Nothing if it is no job.
    fn read(told: &Value, blocks: &[Value]) -> Option<Job> {
        let id = told["id"].as_str()?;
        let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
        let block = blocks.iter().find(|block| block["device"] == id);
        Some(Job {
            id: id.to_owned(),
            kind: text(told, "type"),
            status: text(told, "status"),
            done: told["current-progress"].as_u64().unwrap_or(0),
            total: told["total-progress"].as_u64().unwrap_or(0),
            error: told["error"].as_str().map(str::to_owned),
            block: block.map(|block| BlockJob {
                paused: block["paused"] == true,
                speed_bytes: block["speed"].as_u64().unwrap_or(0),
                io_status: text(block, "io-status"),
            }),
        })
    }
}

/// The server is not there, or is none, or went away.
fn unreachable_server(socket: &Path, error: MonitorError) -> Failure {
    if let MonitorError::Refused { command, text, .. } = error {
        let socket = socket.display();
        return Failure::say(
            Exit::Other,
            format_args!("{socket}: {command} is refused: {text}"),
        );
    }
    let hint = "no server of jobs answers; one is `cohort serve --qmp SOCKET`";
    Failure {
        exit: Exit::NoServer,
        error: anyhow::Error::new(error).context(hint),
    }
}

fn no_such_job(id: &str, jobs: &[Job]) -> Failure {
    let others: Vec<_> = jobs.iter().map(|job| job.id.as_str()).collect();
    let there = match others.as_slice() {
        [] => "there are none".to_owned(),
        [.., _] if others.len() <= 8 => format!("there are {}", others.join(", ")),
        _ => format!("there are {} others", others.len()),
    };
    Failure::say(
        Exit::NoSuchJob,
        format_args!("there is no job '{id}'; {there}"),
    )
}
