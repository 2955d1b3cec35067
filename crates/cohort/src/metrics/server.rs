//! The sockets at which metrics are fetched: a few clients at a time, each under one deadline.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use cohort_block::Socket;

use super::collect::{Process, page};
use super::page::Page;
use super::{Source, http};
use crate::process::open_files;
use crate::serve::Listener;

/// Clients at a time: one or two scrapers, and a user who looks. Others are sent away.
const MOST_CLIENTS: usize = 8;

/// How long a client may take for all of it. A scraper waits ten seconds by default.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long accepting rests when the system has no room for another client.
const REST: Duration = Duration::from_millis(100);

/// Where metrics are to be fetched: an address and a port, or else the path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A unix socket that only its owner may use.
    Unix(PathBuf),
    /// Whoever reaches it.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if text.is_empty() || (text.contains(':') && !text.contains('/')) {
            return Err(format!(
                "'{text}' is no place for metrics: give a path, with a '/', or an address with its port, such as 127.0.0.1:9470"
            ));
        }
        Ok(Self::Unix(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}{}", http::PATH),
        }
    }
}

/// A server of metrics at work.
#[derive(Debug)]
pub(crate) struct Metrics {
    listener: Arc<Listener>,
    door: Arc<Door>,
    accepting: JoinHandle<()>,
}

/// Who is inside, and whether anybody is let in.
#[derive(Debug, Default)]
struct Door {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    clients: usize,
    closing: bool,
}

impl Metrics {
    /// Begins to tell at this socket what the source counts, as long as there is one.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(listener: Listener, source: Weak<dyn Source>) -> io::Result<Self> {
        let (listener, door) = (Arc::new(listener), Arc::new(Door::default()));
        let (at, inside) = (listener.clone(), door.clone());
        let began = SystemTime::now();
        let accepting = thread::Builder::new()
            .name("metrics-accept".into())
            .spawn(move || {
                while !inside.lock().closing {
                    match at.accept() {
                        Ok(socket) => inside.welcome(socket, &source, began),
                        Err(_) => inside.rest(),
                    }
                }
            })?;
        Ok(Self {
            listener,
            door,
            accepting,
        })
    }

    /// Lets nobody in any more.
    pub(crate) fn stop(self) {
        self.door.lock().closing = true;
        self.listener.close();
        self.door.changed.notify_all();
        let _ = self.accepting.join();
    }
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The system has no room, or it is the end.
    fn rest(&self) {
        let open = |state: &mut State| !state.closing;
        drop(self.changed.wait_timeout_while(self.lock(), REST, open));
    }

    /// Attends to a client on a thread of its own, unless there are too many.
    fn welcome(self: &Arc<Self>, socket: Socket, source: &Weak<dyn Source>, began: SystemTime) {
        {
            let mut state = self.lock();
            if state.clients >= MOST_CLIENTS {
                return;
            }
            state.clients += 1;
        }
        let (door, source) = (self.clone(), source.clone());
        let socket = socket.with_write_limit(PATIENCE);
        let attend = move || {
            // A client that is too slow, or leaves, gets nothing: it comes again.
            let _ = attend(&socket, &source, began);
            door.lock().clients -= 1;
        };
        let attending = thread::Builder::new().name("metrics".into()).spawn(attend);
        if attending.is_err() {
            self.lock().clients -= 1;
        }
    }
}

/// One request and its answer.
fn attend(socket: &Socket, source: &Weak<dyn Source>, began: SystemTime) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = [0; http::MOST_BYTES];
    let mut filled = 0;
    let asked = loop {
        let read = socket.read_until(&mut bytes[filled..], deadline)?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if let Some(asked) = http::asked(&bytes[..filled]) {
            break asked;
        }
    };
    let page = asked.and_then(|()| told(source, began).ok_or(http::Refusal::NotFound));
    let answer = http::answer(page.as_deref().map_err(|e| *e), Page::CONTENT_TYPE);
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(&answer, &[])?;
    socket.shutdown(Shutdown::Write);
    // A socket that is closed with bytes unread takes back what was sent: the rest of a request that is refused is read,
    // but not for long.
    while socket.read_until(&mut bytes, deadline)? > 0 {}
    Ok(())
}

/// The page; nothing once what it is about has ended.
fn told(source: &Weak<dyn Source>, began: SystemTime) -> Option<String> {
    let source = source.upgrade()?;
    let (statistics, jobs) = (source.statistics(), source.jobs());
    drop(source);
    let process = Process {
        began,
        open_files: open_files(),
    };
    Some(page(&statistics, &jobs, &process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_with_its_port_or_a_path() {
        for (text, shown) in [
            ("127.0.0.1:9100", Some("http://127.0.0.1:9100/metrics")),
            ("[::1]:9100", Some("http://[::1]:9100/metrics")),
            ("/run/m.sock", Some("/run/m.sock")),
            ("m.sock", Some("m.sock")),
            ("./a:1", Some("./a:1")),
            ("localhost:9100", None),
            (":9100", None),
            ("", None),
        ] {
            let address = text.parse::<Address>().ok();
            let told = address.map(|address| address.to_string());
            assert_eq!(told.as_deref(), shown, "{text}");
        }
    }
}
