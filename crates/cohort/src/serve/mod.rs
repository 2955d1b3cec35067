//! The NBD server: sockets and threads around the protocol, disks behind it.
//!
//! A thread for every socket accepts clients, a thread for every client attends to it and calls others when the disk is
//! slow (`connection.rs`). What all of them share is the [`House`].

mod connection;
mod export;
mod input;
mod listen;
mod memory;
mod ready;
mod requests;
mod stream;

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cohort_block::Device;

use connection::{Connection, lock};
use memory::Budget;

pub(crate) use export::{Catalogue, Served};
pub(crate) use listen::Listener;

/// How long accepting rests when the system has no room for another client.
const REST: Duration = Duration::from_millis(100);

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Clients at once.
    pub(crate) connections: usize,
    /// Bytes that large requests of all clients hold together.
    pub(crate) memory_bytes: u64,
}

/// A server at work. Stop it with [`stop`](Self::stop); dropped, it goes on.
#[derive(Debug)]
pub(crate) struct Server {
    house: Arc<House>,
    listeners: Vec<Arc<Listener>>,
    threads: Vec<JoinHandle<()>>,
}

/// What all threads of a server share.
#[derive(Debug)]
struct House {
    catalogue: Catalogue,
    budget: Budget,
    limits: Limits,
    born: Instant,
    closing: AtomicBool,
    guests: Mutex<Guests>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Guests {
    /// Clients that were accepted and are not gone.
    count: usize,
    /// Those of them that are inside an export.
    inside: Vec<Arc<Connection>>,
}

/// How a server stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// Clients whose requests were not done in time.
    pub(crate) cut_off: usize,
    /// Disks that could not be flushed, and why.
    pub(crate) failures: Vec<String>,
}

impl Server {
    /// Begins to serve at these sockets, and says so to the service manager.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub(crate) fn start(
        catalogue: Catalogue,
        listeners: Vec<Listener>,
        limits: Limits,
    ) -> io::Result<Self> {
        let house = Arc::new(House {
            catalogue,
            budget: Budget::new(limits.memory_bytes),
            limits,
            born: Instant::now(),
            closing: AtomicBool::new(false),
            guests: Mutex::default(),
            changed: Condvar::new(),
        });
        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
        let mut threads = Vec::new();
        for listener in &listeners {
            let (house, listener) = (house.clone(), Arc::clone(listener));
            let work = move || house.accept_from(&listener);
            threads.push(
                thread::Builder::new()
                    .name("nbd-accept".into())
                    .spawn(work)?,
            );
        }
        let watch = house.clone();
        let name = "nbd-watch".to_owned();
        threads.push(
            thread::Builder::new()
                .name(name)
                .spawn(move || watch.watch())?,
        );
        ready::tell_manager("READY=1");
        Ok(Self {
            house,
            listeners,
            threads,
        })
    }

    /// Takes no more clients and requests, answers those that have come, and makes all disks durable. Clients whose
    /// requests are not done after `patience` are cut off.
    pub(crate) fn stop(self, patience: Duration) -> Stopped {
        let deadline = Instant::now() + patience;
        ready::tell_manager("STOPPING=1");
        self.house.closing.store(true, Ordering::Release);
        for listener in &self.listeners {
            listener.close();
        }
        drop(self.listeners);
        for connection in lock(&self.house.guests).inside.iter() {
            connection.stream.shutdown(Shutdown::Read);
        }
        self.house.changed.notify_all();
        let cut_off = self.house.wait_for_guests(deadline);
        for thread in self.threads {
            let _ = thread.join();
        }
        let flush = |disk: &Arc<Served>| disk.disk.flush().err().map(|error| error.to_string());
        let failures = self.house.catalogue.0.iter().filter_map(flush).collect();
        // Threads that have said farewell are about to let the disks go, which end properly only then.
        while Arc::strong_count(&self.house) > 1 && Instant::now() < deadline {
            thread::yield_now();
        }
        Stopped { cut_off, failures }
    }
}

impl House {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Milliseconds since a second before the server began: never zero.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1000)
    }

    fn accept_from(self: &Arc<Self>, listener: &Listener) {
        while !self.is_closing() {
            match listener.accept() {
                Ok(stream) => self.welcome(stream),
                Err(_) if self.is_closing() => return,
                // No room for another socket: those that are there go on, and one of them may leave.
                Err(_) => drop(self.changed.wait_timeout(lock(&self.guests), REST)),
            }
        }
    }

    /// Attends to a client on a thread of its own, unless there are too many.
    fn welcome(self: &Arc<Self>, stream: stream::Stream) {
        {
            let mut guests = lock(&self.guests);
            if guests.count >= self.limits.connections {
                return;
            }
            guests.count += 1;
        }
        let house = self.clone();
        let attend = move || {
            // A client that breaks the protocol or leaves in the middle is its own business.
            let _ = connection::attend(&house, stream);
            house.farewell();
        };
        if thread::Builder::new()
            .name("nbd".into())
            .spawn(attend)
            .is_err()
        {
            self.farewell();
        }
    }

    fn farewell(&self) {
        lock(&self.guests).count -= 1;
        self.changed.notify_all();
    }

    /// Lists a connection among those inside until the answer is dropped.
    fn seat(self: &Arc<Self>, connection: &Arc<Connection>) -> Seat {
        let mut guests = lock(&self.guests);
        guests.inside.push(connection.clone());
        if self.is_closing() {
            connection.stream.shutdown(Shutdown::Read);
        }
        if guests.inside.len() == 1 {
            self.changed.notify_all();
        }
        Seat {
            connection: connection.clone(),
        }
    }

    /// Looks after clients whose disks stall, as long as there are clients.
    fn watch(&self) {
        let mut guests = lock(&self.guests);
        while !self.is_closing() {
            let connections = guests.inside.clone();
            drop(guests);
            for connection in &connections {
                connection.look();
            }
            guests = lock(&self.guests);
            guests = if guests.inside.is_empty() {
                self.changed
                    .wait(guests)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                let wait = self.changed.wait_timeout(guests, connection::STALLED);
                wait.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Waits until all clients are gone, and sends away those that are still there at the deadline. Says how many.
    fn wait_for_guests(&self, deadline: Instant) -> usize {
        let mut guests = lock(&self.guests);
        while guests.count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for connection in &guests.inside {
                    connection.stream.shutdown(Shutdown::Both);
                }
                return guests.inside.len();
            }
            let wait = self.changed.wait_timeout(guests, left);
            guests = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }
}

/// A connection's place among those inside.
struct Seat {
    connection: Arc<Connection>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guests = lock(&self.connection.house.guests);
        guests
            .inside
            .retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}
