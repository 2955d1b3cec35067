//! Clients: their sockets and threads.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use cohort_block::Socket;
use cohort_qmp::{Command, Incoming, Outbox, Session, greeting, reply};
use serde_json::Value;

use super::{Daemon, lock, version};
use crate::serve::Listener;

/// Most clients at once.
const MOST_CLIENTS: usize = 64;

/// Bytes of events that a client may leave unread; of replies twice that.
const OUTBOX_BYTES: usize = 1 << 20;

/// What a client is sent, and how far that is.
#[derive(Debug)]
pub(super) struct Client {
    socket: Socket,
    outbox: Mutex<Outbox>,
    /// Whether bytes that left the outbox are not with the system yet; changed under the outbox's lock.
    writing: AtomicBool,
    /// Whether whoever writes waits for something; changed under the outbox's lock.
    resting: AtomicBool,
    changed: Condvar,
    /// Told of events only from then on.
    negotiated: AtomicBool,
    closing: AtomicBool,
}

/// A socket at which clients are served.
#[derive(Debug)]
pub(crate) struct Monitor {
    listener: Arc<Listener>,
    accepting: JoinHandle<()>,
}

impl Monitor {
    /// Begins to serve clients at this socket.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(daemon: &Arc<Daemon>, listener: Listener) -> io::Result<Self> {
        let listener = Arc::new(listener);
        let (daemon, at) = (daemon.clone(), listener.clone());
        let accept = move || {
            while let Some(socket) = at.accept() {
                welcome(&daemon, socket);
            }
        };
        let accepting = thread::Builder::new()
            .name("qmp-accept".into())
            .spawn(accept)?;
        Ok(Self {
            listener,
            accepting,
        })
    }

    /// Takes no more clients.
    pub(crate) fn stop(self) {
        self.listener.close();
        let _ = self.accepting.join();
    }
}

/// Attends to a client on threads of its own, unless there are too many.
fn welcome(daemon: &Arc<Daemon>, socket: Socket) {
    if daemon.events.clients() >= MOST_CLIENTS {
        return;
    }
    let client = Arc::new(Client {
        socket,
        outbox: Mutex::new(Outbox::new(OUTBOX_BYTES)),
        writing: AtomicBool::new(false),
        resting: AtomicBool::new(false),
        changed: Condvar::new(),
        negotiated: AtomicBool::new(false),
        closing: AtomicBool::new(false),
    });
    daemon.events.join(&client);
    let (daemon, reader, writer) = (daemon.clone(), client.clone(), client.clone());
    let writes = thread::Builder::new()
        .name("qmp-write".into())
        .spawn(move || writer.write_all());
    let reads = thread::Builder::new().name("qmp".into()).spawn(move || {
        reader.serve(&daemon);
        reader.close();
        daemon.events.leave(&reader);
    });
    if writes.is_err() || reads.is_err() {
        client.close();
    }
}

impl Client {
    /// Says hello, then carries out what comes, until the client is gone.
    fn serve(&self, daemon: &Arc<Daemon>) {
        let mut session = Session::new();
        self.answer(&greeting(&version()));
        let mut bytes = vec![0; 64 << 10];
        while !self.closing.load(Ordering::Acquire) {
            let read = match self.socket.read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if is_silence(&error) => continue,
                Err(_) => return,
            };
            let mut incoming = Vec::new();
            session.receive(&bytes[..read], &mut incoming);
            for next in incoming {
                match next {
                    Incoming::Answer(answer) => {
                        self.answer(&answer);
                        let negotiated = session.is_negotiated();
                        self.negotiated.store(negotiated, Ordering::Release);
                    }
                    Incoming::Do { command, id } => {
                        let quits = matches!(*command, Command::Quit(_));
                        let result = daemon.execute(*command);
                        self.answer(&reply(result, id));
                        if quits {
                            daemon.quit();
                        }
                    }
                }
            }
        }
    }

    fn answer(&self, message: &Value) {
        if lock(&self.outbox).reply(message).is_err() {
            // It does not read, so it is not waited for.
            self.close();
            self.socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Puts the line of an event down for the client, if it has said that it is ready.
    pub(super) fn put(&self, line: &[u8], now: SystemTime) {
        if self.negotiated.load(Ordering::Acquire) {
            lock(&self.outbox).event(line, now);
        }
    }

    /// Has what was put down sent, unless whoever writes is on the way to it.
    pub(super) fn send(&self) {
        let outbox = lock(&self.outbox);
        let rests = self.resting.load(Ordering::Acquire) && !outbox.is_empty();
        drop(outbox);
        if rests {
            self.changed.notify_all();
        }
    }

    /// Ends the connection once what waits is sent; also if the client does not read.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.socket.shutdown(Shutdown::Read);
        self.changed.notify_all();
    }

    /// Waits until all that waits is sent, but not for long.
    pub(super) fn drain(&self, patience: Duration) {
        let outbox = lock(&self.outbox);
        let waits =
            |outbox: &mut Outbox| !outbox.is_empty() || self.writing.load(Ordering::Acquire);
        let _ = self.changed.wait_timeout_while(outbox, patience, waits);
    }

    fn write_all(&self) {
        loop {
            let mut outbox = lock(&self.outbox);
            while outbox.is_empty() {
                if self.closing.load(Ordering::Acquire) {
                    self.socket.shutdown(Shutdown::Both);
                    return;
                }
                self.resting.store(true, Ordering::Release);
                let wait = self.changed.wait(outbox);
                outbox = wait.unwrap_or_else(PoisonError::into_inner);
                self.resting.store(false, Ordering::Release);
            }
            let bytes = outbox.take(SystemTime::now());
            self.writing.store(true, Ordering::Release);
            drop(outbox);
            let written = self.socket.write_all(&bytes, &[]);
            let outbox = lock(&self.outbox);
            self.writing.store(false, Ordering::Release);
            drop(outbox);
            if written.is_err() {
                self.close();
                self.socket.shutdown(Shutdown::Both);
                return;
            }
            self.changed.notify_all();
        }
    }
}

/// Between commands a client may be silent for ever.
fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
