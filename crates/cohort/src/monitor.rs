//! A machine's monitor: one question at a time over its QMP socket, each with a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cohort_qmp::{BadServer, Client, Received};
use rustix::net::sockopt::socket_peercred;
use serde_json::{Value, json};

/// How long the greeting may take: a monitor that serves another client keeps the next one waiting without a word.
const GREETING: Duration = Duration::from_secs(10);

/// How long an answer may take. A transaction waits for all requests under way.
const ANSWER: Duration = Duration::from_secs(120);

/// How long a wait for the machine looks for events before it asks again.
const LOOK: Duration = Duration::from_millis(50);

/// A connection to a machine's monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    path: PathBuf,
    stream: UnixStream,
    client: Client,
    /// What was received behind the answer that was waited for.
    received: Vec<Received>,
}

/// Why a machine did not do what it was asked for.
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
    /// The machine said no.
    #[error("the machine refuses {command}: {text}")]
    Refused {
        /// What was asked.
        command: String,
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
    /// [`MonitorError::Refused`] with the machine's words, or the connection is of no use any more.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, MonitorError> {
        let (asked, bytes) = self.client.ask(command, arguments);
        let sent = self.stream.set_write_timeout(Some(ANSWER));
        let sent = sent.and_then(|()| self.stream.write_all(&bytes));
        sent.map_err(|cause| self.failed(cause))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let mut received = self.received.drain(..);
            let answer = received.find_map(|received| match received {
                Received::Reply { number, result } if number == asked => Some(result),
                Received::Greeting { .. } | Received::Reply { .. } | Received::Event { .. } | _ => {
                    None
                }
            });
            drop(received);
            match answer {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => {
                    return Err(MonitorError::Refused {
                        command: command.to_owned(),
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
            self.received.clear();
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
