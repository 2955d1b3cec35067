//! A connection to a QMP server, a machine's or ours: one question at a time, each with a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cohort_qmp::{BadServer, Client, Command, ErrorClass, Received};
use rustix::net::sockopt::socket_peercred;
use serde_json::{Map, Value, json};

/// How long the greeting may take: a monitor that serves another client keeps the next one waiting without a word.
const GREETING: Duration = Duration::from_secs(10);

/// How long an answer may take. A transaction waits for all requests under way.
const ANSWER: Duration = Duration::from_secs(120);

/// How long a server that goes away may take to say its last.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a wait for the machine looks for events before it asks again.
const LOOK: Duration = Duration::from_millis(50);

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Monitor {
    path: PathBuf,
    stream: UnixStream,
    client: Client,
    /// What was received and not looked at.
    received: Vec<Received>,
    /// Events that nobody has taken; nothing if nobody will.
    heard: Option<Vec<Heard>>,
}

/// Something that a server told of by itself.
#[derive(Debug)]
pub(crate) struct Heard {
    /// What happened.
    pub(crate) name: String,
    /// To whom, and how.
    pub(crate) data: Map<String, Value>,
}

/// Why a server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    /// The socket failed.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Nobody spoke in time.
    #[error("{}: no answer to {command} within {} seconds{hint}", path.display(), wait.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        command: String,
        /// How long was waited.
        wait: Duration,
        /// What may be the reason.
        hint: &'static str,
    },
    /// Something else talks there.
    #[error("{}: {error}", path.display())]
    NoMonitor {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        error: BadServer,
    },
    /// The server said no.
    #[error("the machine refuses {command}: {text}")]
    Refused {
        /// What was asked.
        command: String,
        /// What kind of no.
        class: ErrorClass,
        /// Its words.
        text: String,
    },
}

impl Monitor {
    /// Connects, and waits until the monitor takes commands.
    pub(crate) fn connect(path: &Path) -> Result<Self, MonitorError> {
        let failed = |cause| MonitorError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut monitor = Monitor {
            path: path.to_owned(),
            stream: UnixStream::connect(path).map_err(failed)?,
            client: Client::new(),
            received: Vec::new(),
            heard: None,
        };
        let deadline = Instant::now() + GREETING;
        while !monitor.receive(deadline)? {
            if Instant::now() >= deadline {
                let hint = ": another program may have this monitor; give the machine one more";
                return Err(monitor.silent("the connection", GREETING, hint));
            }
        }
        monitor.received.clear();
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`MonitorError::Refused`] with the server's words, or the connection is of no use any more.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, MonitorError> {
        let (asked, bytes) = self.client.ask(command, arguments);
        let sent = self.stream.set_write_timeout(Some(ANSWER));
        let sent = sent.and_then(|()| self.stream.write_all(&bytes));
        sent.map_err(|cause| self.failed(cause))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.look_through(asked) {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => {
                    return Err(MonitorError::Refused {
                        command: command.to_owned(),
                        class: error.class,
                        text: error.text,
                    });
                }
                None if Instant::now() >= deadline => {
                    return Err(self.silent(command, ANSWER, ""));
                }
                None => drop(self.receive(deadline)?),
            }
        }
    }

    /// The same with a command of the table.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) fn carry_out(&mut self, command: &Command) -> Result<Value, MonitorError> {
        self.ask(command.name(), command.arguments())
    }

    /// Keeps events from now on, for [`heard`](Self::heard).
    pub(crate) fn listen(&mut self) {
        self.heard.get_or_insert_default();
    }

    /// The events that came since the last call, in their order, also while an answer was waited for.
    pub(crate) fn heard(&mut self) -> Vec<Heard> {
        self.look_through(0);
        self.heard.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Waits until the server says something, but no longer than that.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(crate) fn wait(&mut self, wait: Duration) -> Result<(), MonitorError> {
        self.receive(Instant::now() + wait).map(drop)
    }

    /// Takes what a server still sends that goes away.
    pub(crate) fn hear_out(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline && self.receive(deadline).is_ok() {}
    }

    /// Asks `is` again and again, whenever something happened, until it says yes or the time is over. Says whether it did.
    pub(crate) fn wait_until(
        &mut self,
        wait: Duration,
        mut is: impl FnMut(&mut Self) -> Result<bool, MonitorError>,
    ) -> Result<bool, MonitorError> {
        let deadline = Instant::now() + wait;
        while !is(self)? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.receive(deadline.min(Instant::now() + LOOK))?;
            self.look_through(0);
        }
        Ok(true)
    }

    /// The process behind the socket, and its user and group.
    pub(crate) fn peer(&self) -> Result<(u32, u32, u32), MonitorError> {
        let peer = socket_peercred(&self.stream).map_err(|error| self.failed(error.into()))?;
        let pid = peer.pid.as_raw_nonzero().get();
        Ok((pid.unsigned_abs(), peer.uid.as_raw(), peer.gid.as_raw()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes through what was received: keeps the events, and gives the answer to the request of that number.
    fn look_through(&mut self, asked: u64) -> Option<Result<Value, cohort_qmp::Error>> {
        let mut answer = None;
        for received in self.received.drain(..) {
            match received {
                Received::Reply { number, result } if number == asked => answer = Some(result),
                Received::Event { name, data } => {
                    if let Some(heard) = &mut self.heard {
                        heard.push(Heard { name, data });
                    }
                }
                Received::Greeting { .. } | Received::Reply { .. } | _ => {}
            }
        }
        answer
    }

    /// Receives something, or nothing until the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<bool, MonitorError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waits = self
            .stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))));
        waits.map_err(|cause| self.failed(cause))?;
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                let understood = self.client.receive(&bytes[..read], &mut self.received);
                understood.map_err(|error| MonitorError::NoMonitor {
                    path: self.path.clone(),
                    error,
                })?;
                Ok(!self.received.is_empty())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, cause: io::Error) -> MonitorError {
        MonitorError::Io {
            path: self.path.clone(),
            cause,
        }
    }

    fn silent(&self, command: &str, wait: Duration, hint: &'static str) -> MonitorError {
        MonitorError::Silent {
            path: self.path.clone(),
            command: command.to_owned(),
            wait,
            hint,
        }
    }
}
