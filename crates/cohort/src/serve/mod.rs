//! The NBD server: sockets and threads around the protocol, disks behind it.
//!
//! A thread for every socket accepts clients, a thread for every client attends to it and calls others when the disk is
//! slow (`connection.rs`). What all of them share is the [`House`].

mod connection;
mod disk;
mod export;
mod input;
mod listen;
mod lookout;
mod memory;
mod patience;
mod ready;
mod requests;
mod stats;
mod tracking;
mod traffic;

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cohort_backup::UntrackError;
use cohort_block::{Socket, TlsServer};
use cohort_nbd::Name;

use connection::{Connection, lock};
use lookout::Lookout;
use memory::Budget;

pub(crate) use disk::Disk;
pub(crate) use export::{Catalogue, Dirt, Served};
pub(crate) use listen::Listener;
pub(crate) use ready::tell_manager;
pub(crate) use stats::{nanos, nothing as nothing_counted, writes as writes_through};
pub(crate) use tracking::{Ending, Tracking};

/// How long whoever still has a disk may take to let it go.
pub(crate) const LETTING_GO: Duration = Duration::from_secs(2);

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Clients at once.
    pub(crate) connections: usize,
    /// Bytes that large requests of all clients hold together.
    pub(crate) memory_bytes: u64,
}

/// How connections are encrypted.
#[derive(Clone, Debug)]
pub(crate) struct Encryption {
    /// What the server shows, and whom it lets in.
    pub(crate) server: TlsServer,
    /// Whether nothing is served without it.
    pub(crate) required: bool,
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
    tls: Option<Encryption>,
    lookout: Lookout,
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
    /// All that were ever accepted.
    accepted: u64,
    /// Those for which there was no room.
    turned_away: u64,
    /// Those of them that are not inside an export yet.
    at_the_door: Vec<Arc<Socket>>,
    /// Those of them that are inside an export.
    inside: Vec<Arc<Connection>>,
}

impl Guests {
    /// A client is at the door no more.
    fn leave_the_door(&mut self, socket: &Arc<Socket>) {
        self.at_the_door.retain(|other| !Arc::ptr_eq(other, socket));
    }
}

/// A disk that is still served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRemoved {
    /// None of that name.
    #[error("no disk is served as {0}")]
    Unknown(Name),
    /// It has clients.
    #[error("{0} has clients")]
    InUse(Name),
}

/// How a server stopped.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    /// Clients whose requests were not done in time.
    pub(crate) cut_off: usize,
    /// Disks that could not be flushed, and why.
    pub(crate) failures: Vec<String>,
    /// Disks whose tracking stores are left as after a kill, and why.
    pub(crate) unproven: Vec<String>,
}

impl Server {
    /// Begins to serve at these sockets, and says so to the service manager.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub(crate) fn start(
        catalogue: Catalogue,
        listeners: Vec<Listener>,
        tls: Option<Encryption>,
        limits: Limits,
    ) -> io::Result<Self> {
        let house = Arc::new(House {
            catalogue,
            tls,
            lookout: Lookout::new(),
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
        Ok(Self {
            house,
            listeners,
            threads,
        })
    }

    /// What is served. More may be added at any time.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.house.catalogue
    }

    /// Serves the disk of that name no more. Clients inside are cut off if `force` says so, and their disk is let go when
    /// what they asked for is done: whoever wants to know that puts something into it that tells when it is dropped.
    ///
    /// # Errors
    /// [`NotRemoved`]: it is served as before.
    pub(crate) fn remove(&self, name: &Name, force: bool) -> Result<(), NotRemoved> {
        let disk = self.house.catalogue.disk(name);
        let disk = disk.filter(|disk| disk.name == *name);
        let disk = disk.ok_or_else(|| NotRemoved::Unknown(name.clone()))?;
        let guests = lock(&self.house.guests);
        let inside = guests.inside.iter();
        let inside: Vec<_> = inside
            .filter(|guest| Arc::ptr_eq(&guest.disk, &disk))
            .cloned()
            .collect();
        if !inside.is_empty() && !force {
            return Err(NotRemoved::InUse(name.clone()));
        }
        // Under the lock: a client that is on its way in finds itself cut off when it takes its seat.
        self.house.catalogue.remove(name);
        drop(guests);
        for guest in inside {
            guest.socket.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// Takes no more clients and requests, answers those that have come, and makes all disks durable. Clients whose
    /// requests are not done after `patience` are cut off.
    pub(crate) fn stop(self, patience: Duration) -> Stopped {
        let deadline = Instant::now() + patience;
        self.house.closing.store(true, Ordering::Release);
        for listener in &self.listeners {
            listener.close();
        }
        drop(self.listeners);
        {
            let guests = lock(&self.house.guests);
            // Who is not inside has asked for nothing that could be waited for.
            for socket in &guests.at_the_door {
                socket.shutdown(Shutdown::Both);
            }
            for connection in &guests.inside {
                connection.socket.shutdown(Shutdown::Read);
            }
        }
        self.house.changed.notify_all();
        let cut_off = self.house.wait_for_guests(deadline);
        for thread in self.threads {
            let _ = thread.join();
        }
        let (mut failures, mut unproven, mut stores) = (Vec::new(), Vec::new(), Vec::new());
        for disk in self.house.catalogue.all() {
            match disk.end() {
                Ok(store) => stores.extend(store),
                Err(UntrackError::Flush(error)) => failures.push(error.to_string()),
                Err(error) => unproven.push(error.to_string()),
            }
        }
        // Threads that have said farewell, or were just cut off, are about to let the disks go, which end properly only then.
        let deadline = deadline.max(Instant::now() + LETTING_GO);
        while Arc::strong_count(&self.house) > 1 && Instant::now() < deadline {
            thread::yield_now();
        }
        drop(self.house);
        let closed = stores.into_iter().map(Ending::close);
        unproven.extend(closed.filter_map(Result::err));
        Stopped {
            cut_off,
            failures,
            unproven,
        }
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
        while let Some(socket) = listener.accept() {
            self.welcome(socket);
        }
    }

    /// Attends to a client on a thread of its own, unless there are too many.
    fn welcome(self: &Arc<Self>, socket: Socket) {
        // Who is gone already is nobody's client.
        let Ok(socket) = patience::prepare(socket).map(Arc::new) else {
            return;
        };
        {
            let mut guests = lock(&self.guests);
            if guests.count >= self.limits.connections {
                guests.turned_away += 1;
                return;
            }
            guests.count += 1;
            guests.accepted += 1;
            guests.at_the_door.push(socket.clone());
            if self.is_closing() {
                socket.shutdown(Shutdown::Both);
            }
        }
        let (house, client) = (self.clone(), socket.clone());
        let attend = move || {
            // A client that breaks the protocol or leaves in the middle is its own business.
            let _ = connection::attend(&house, &client);
            house.farewell(&client);
        };
        if thread::Builder::new()
            .name("nbd".into())
            .spawn(attend)
            .is_err()
        {
            self.farewell(&socket);
        }
    }

    fn farewell(&self, socket: &Arc<Socket>) {
        let mut guests = lock(&self.guests);
        guests.count -= 1;
        guests.leave_the_door(socket);
        drop(guests);
        self.changed.notify_all();
    }

    /// Lists a connection among those inside until the answer is dropped.
    fn seat(self: &Arc<Self>, connection: &Arc<Connection>) -> Seat {
        let mut guests = lock(&self.guests);
        guests.leave_the_door(&connection.socket);
        guests.inside.push(connection.clone());
        if self.is_closing() {
            connection.socket.shutdown(Shutdown::Read);
        }
        // It may have been removed while the client was on its way in.
        let served = self.catalogue.disk(&connection.disk.name);
        if !served.is_some_and(|disk| Arc::ptr_eq(&disk, &connection.disk)) {
            connection.socket.shutdown(Shutdown::Both);
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
            // Nobody is kept from leaving while this waits.
            drop(connections);
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
                    connection.socket.shutdown(Shutdown::Both);
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

#[cfg(test)]
mod tests;
