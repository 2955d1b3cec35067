//! Looking at a server, and telling it what to do, on a thread of its own: a server that takes its time keeps nobody from
//! leaving.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cohort_qmp::{Argument, Command, JobId, Nothing, Place, Statistics};

use crate::commands::{Job, Server};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::monitor::MonitorError;

/// What a server said at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// When, since the first look.
    pub(super) at: Duration,
    /// Oldest first.
    pub(super) jobs: Vec<Job>,
    /// What only ours tell.
    pub(super) statistics: Option<Statistics>,
}

/// What a user wants of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Pause(String),
    Resume(String),
    Cancel(String),
}

/// What comes of looking and asking.
pub(super) enum Told {
    Seen(Box<Sample>),
    /// How a wish was answered.
    Said(String),
    /// The server is there no more.
    Lost(Failure),
}

/// The thread that asks.
pub(super) struct Asker {
    wishes: Sender<Wish>,
    told: Receiver<Told>,
}

impl Asker {
    /// Looks at the server now, and again after every interval and every wish.
    pub(super) fn start(mut server: Server, interval: Duration) -> io::Result<Self> {
        let (wishes, wished) = channel();
        let (tell, told) = channel();
        let work = move || {
            let ended = ask(&mut server, interval, &wished, &tell);
            if let Err(failure) = ended {
                // Nobody hears it who has left.
                let _ = tell.send(Told::Lost(failure));
            }
        };
        thread::Builder::new().name("top-ask".into()).spawn(work)?;
        Ok(Self { wishes, told })
    }

    /// Has it asked for, in turn.
    pub(super) fn wish(&self, wish: Wish) {
        // If nobody hears it, what became of the server is told already.
        let _ = self.wishes.send(wish);
    }

    /// What was told since the last call.
    pub(super) fn told(&self) -> impl Iterator<Item = Told> {
        self.told.try_iter()
    }
}

/// Until nobody listens any more.
fn ask(
    server: &mut Server,
    interval: Duration,
    wished: &Receiver<Wish>,
    tell: &Sender<Told>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let seen = Told::Seen(Box::new(look(server, start.elapsed())?));
        if tell.send(seen).is_err() {
            return Ok(());
        }
        match wished.recv_timeout(interval) {
            Ok(wish) => {
                let said = Told::Said(carry_out(server, &wish)?);
                let _ = tell.send(said);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Looks once.
pub(super) fn look(server: &mut Server, at: Duration) -> Result<Sample> {
    let mut jobs = server.jobs()?;
    jobs.reverse();
    let statistics = match server.0.carry_out(&Command::QueryStatistics(Nothing {})) {
        // A server of another version may count other things: then its jobs are all that can be shown.
        Ok(told) => Statistics::read(told, &Place::WHOLE).ok(),
        Err(MonitorError::Refused { .. }) => None,
        Err(error) => return Err(gone(error)),
    };
    Ok(Sample {
        at,
        jobs,
        statistics,
    })
}

/// Asks for it, and says what the answer was.
fn carry_out(server: &mut Server, wish: &Wish) -> Result<String> {
    let (verb, id, command) = match wish {
        Wish::Pause(id) => ("pause", id, Command::JobPause(JobId { id: id.clone() })),
        Wish::Resume(id) => ("resume", id, Command::JobResume(JobId { id: id.clone() })),
        Wish::Cancel(id) => ("cancel", id, server.soft_cancel(id.clone())?),
    };
    match server.0.carry_out(&command) {
        Ok(_) => Ok(format!("{id}: {verb} accepted")),
        Err(MonitorError::Refused { text, .. }) => Ok(format!("{id}: {verb} refused: {text}")),
        Err(error) => Err(gone(error)),
    }
}

fn gone(error: MonitorError) -> Failure {
    Failure::new(Exit::NoServer, error)
}
