//! The sockets at which metrics are fetched: a few clients at a time, each under one deadline.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
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
    accepting: JoinHandle<()>,
}

impl Metrics {
    /// Begins to tell at this socket what the source counts, as long as there is one.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(listener: Listener, source: Weak<dyn Source>) -> io::Result<Self> {
        let listener = Arc::new(listener);
        let (at, clients) = (listener.clone(), Arc::new(AtomicUsize::new(0)));
        let began = SystemTime::now();
        let accepting = thread::Builder::new()
            .name("metrics-accept".into())
            .spawn(move || {
                while let Some(socket) = at.accept() {
                    welcome(&clients, socket, &source, began);
                }
            })?;
        Ok(Self {
            listener,
            accepting,
        })
    }

    /// Lets nobody in any more.
    pub(crate) fn stop(self) {
        self.listener.close();
        let _ = self.accepting.join();
    }
}

/// Attends to a client on a thread of its own, unless there are too many.
fn welcome(
    clients: &Arc<AtomicUsize>,
    socket: Socket,
    source: &Weak<dyn Source>,
    began: SystemTime,
) {
    // Nobody but this thread counts up.
    if clients.load(Ordering::Acquire) >= MOST_CLIENTS {
        return;
    }
    clients.fetch_add(1, Ordering::AcqRel);
    let (inside, source) = (clients.clone(), source.clone());
    let socket = socket.with_write_limit(PATIENCE);
    let attend = move || {
        // A client that is too slow, or leaves, gets nothing: it comes again.
        let _ = attend(&socket, &source, began);
        inside.fetch_sub(1, Ordering::AcqRel);
    };
    let attending = thread::Builder::new().name("metrics".into()).spawn(attend);
    if attending.is_err() {
        clients.fetch_sub(1, Ordering::AcqRel);
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
