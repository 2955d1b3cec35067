//! One client: its handshake, and then its requests, by as many threads as its disk is slow.
//!
//! The thread that holds the input reads a request, gives the input free, and carries the request out. As long as that
//! is quick, it comes back for the next one itself, and nobody is woken for anything. Before a request that will
//! take its time, it calls another thread to the input; one that takes its time unexpectedly is noticed by the watch
//! ([`Connection::look`]), which calls somebody, too. Replies gather while more requests are at hand, and go out in
//! one call.

use std::io;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use cohort_block::Socket;
use cohort_nbd::{Command, Handshake, Incoming, Session, Step, Tls};

use super::export::Served;
use super::input::Input;
use super::lookout::Habit;
use super::{Encryption, House};

/// How long a client may take for its handshake.
const HANDSHAKE_BOUND: Duration = Duration::from_secs(30);

/// Most threads of one connection: requests of one client that wait for the disk at once.
const MOST_THREADS: usize = 16;

/// A thread that was not called for so long ends.
const IDLE: Duration = Duration::from_secs(5);

/// Requests that take longer than this on average are worth waking a thread.
const SLOW_NS: u64 = 100_000;

/// A request that takes longer than this is not waited for by those behind it.
pub(super) const STALLED: Duration = Duration::from_millis(20);

/// Replies that gather until they are sent together.
const GATHERED_BYTES: usize = 128 << 10;

/// A client inside an export.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) house: Arc<House>,
    pub(super) session: Session,
    pub(super) disk: Arc<Served>,
    pub(super) socket: Arc<Socket>,
    input: Mutex<Input>,
    /// Replies that were not sent yet; held by whoever sends.
    output: Mutex<Vec<u8>>,
    crew: Mutex<Crew>,
    /// Somebody is called to the input, or it is over.
    called: Condvar,
    /// One of the crew ended.
    left: Condvar,
    /// No more requests come: the client said goodbye, left, or was thrown out.
    over: AtomicBool,
    /// Whether the client's requests come soon after one another.
    habit: Habit,
    /// How long requests take, as a sliding mean.
    mean_ns: AtomicU64,
    /// When the request began that nobody was called for; in the house's milliseconds, and zero if there is none.
    began_ms: AtomicU64,
}

/// The threads of a connection besides its first.
#[derive(Debug, Default)]
struct Crew {
    size: usize,
    idle: usize,
    /// Calls that no idle thread has answered yet.
    calls: usize,
}

/// How long a thread of a connection stays that nobody calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    /// The first: the connection ends with it.
    ToTheEnd,
    /// The others, while they are [`IDLE`] for no longer.
    AWhile,
}

/// Talks to a client until it is gone. Returns when nothing of its requests is under way any more.
pub(super) fn attend(house: &Arc<House>, socket: &Arc<Socket>) -> io::Result<()> {
    let Some(session) = shake_hands(house, socket, Instant::now() + HANDSHAKE_BOUND)? else {
        return Ok(());
    };
    let disk = house.catalogue.disk(&session.export().name);
    let disk = disk.ok_or(io::ErrorKind::NotFound)?;
    let connection = Arc::new(Connection {
        house: house.clone(),
        session,
        disk,
        socket: socket.clone(),
        input: Mutex::new(Input::new()),
        output: Mutex::default(),
        crew: Mutex::default(),
        called: Condvar::new(),
        left: Condvar::new(),
        over: AtomicBool::new(false),
        habit: Habit::new(),
        mean_ns: AtomicU64::new(0),
        began_ms: AtomicU64::new(0),
    });
    let seat = house.seat(&connection);
    let result = connection.work(Stays::ToTheEnd);
    connection.wait_for_crew();
    connection.socket.goodbye();
    // Others may still look after it, and the client waits for this.
    connection.socket.shutdown(Shutdown::Both);
    drop(seat);
    result
}

/// The handshake, under one deadline.
fn shake_hands(house: &House, socket: &Socket, deadline: Instant) -> io::Result<Option<Session>> {
    let mut out = Vec::new();
    let tls = match &house.tls {
        None => Tls::Off,
        Some(Encryption {
            required: false, ..
        }) => Tls::Optional,
        Some(Encryption { required: true, .. }) => Tls::Required,
    };
    let mut handshake = Handshake::begin(tls, &mut out);
    let mut bytes = Vec::new();
    loop {
        socket.write_all(&out, &[])?;
        out.clear();
        bytes.resize(handshake.wants(), 0);
        let mut missing = &mut bytes[..];
        while !missing.is_empty() {
            // Who sends a byte now and then is given up, too.
            if Instant::now() > deadline || house.is_closing() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match socket.read(missing)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => missing = &mut missing[read..],
            }
        }
        let step = handshake.receive(&bytes, &house.catalogue, &mut out);
        match step.map_err(io::Error::other)? {
            Step::More => {}
            Step::Transmit(session) => {
                socket.write_all(&out, &[])?;
                return Ok(Some(session));
            }
            Step::End => {
                // The client may be gone already: it need not wait for this.
                let _ = socket.write_all(&out, &[]);
                return Ok(None);
            }
            Step::StartTls => {
                socket.write_all(&out, &[])?;
                out.clear();
                // Cannot be missing: it was offered.
                let Some(Encryption { server, .. }) = &house.tls else {
                    return Ok(None);
                };
                socket.accept_tls(server, deadline)?;
                handshake.encrypted();
            }
        }
    }
}

impl Connection {
    /// What every thread of the connection does until it is over, or it was idle for long.
    fn work(self: &Arc<Self>, stays: Stays) -> io::Result<()> {
        let mut scratch = Vec::new();
        let result = loop {
            // Whoever waits for a thread that is gone would wait for ever.
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(&mut scratch, stays)));
            match turn.unwrap_or_else(|_| Err(io::Error::other("a request panicked"))) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if result.is_err() {
            self.end();
            self.socket.shutdown(Shutdown::Both);
        }
        result
    }

    /// One request, or a wait for being called. Says no if this thread is not needed any more.
    fn turn(self: &Arc<Self>, scratch: &mut Vec<u8>, stays: Stays) -> io::Result<bool> {
        let mut input = match self.input.try_lock() {
            Ok(input) => input,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Whoever reads now may have looked before our last reply was gathered, and wait for the client.
                self.send(&[], &[])?;
                return Ok(self.park(stays));
            }
        };
        let length = self.session.header_length();
        if !input.has(length) {
            self.send(&[], &[])?;
            if !self.socket.is_encrypted() {
                let came = || input.look(&self.socket);
                self.house.lookout.look(&self.habit, came)?;
            }
        }
        if self.is_over() || !input.wait(&self.socket, length)? {
            drop(input);
            self.end();
            return Ok(false);
        }
        let mut header = [0; 32];
        input.take(&mut header[..length]);
        match self
            .session
            .receive(&header[..length])
            .map_err(io::Error::other)?
        {
            Incoming::Disconnect => {
                drop(input);
                self.end();
                return Ok(false);
            }
            Incoming::Refuse {
                reply,
                code,
                why,
                skip,
            } => {
                self.skip(&mut input, skip)?;
                self.disk.traffic.refuse();
                let more = input.has(length);
                drop(input);
                let mut head = Vec::new();
                reply.error(code, why, &mut head);
                self.reply(&head, &[], more)?;
            }
            Incoming::Do(request) => self.perform(&request, input, scratch)?,
        }
        Ok(true)
    }

    /// Gives the input free, and sees to it that somebody reads on if what follows takes its time. Says whether it is
    /// expected to be quick and more requests are at hand, so that its reply may wait for theirs.
    pub(super) fn release(
        self: &Arc<Self>,
        input: MutexGuard<'_, Input>,
        command: &Command,
    ) -> io::Result<bool> {
        let more = input.has(self.session.header_length());
        drop(input);
        let durable = match *command {
            Command::Flush => true,
            Command::Write { fua, .. }
            | Command::Trim { fua, .. }
            | Command::WriteZeroes { fua, .. } => fua,
            Command::Read { .. } | Command::Cache { .. } | Command::BlockStatus { .. } => false,
        };
        if durable || self.mean_ns.load(Ordering::Relaxed) > SLOW_NS {
            self.send(&[], &[])?;
            self.call();
            return Ok(false);
        }
        self.began_ms.store(self.house.now_ms(), Ordering::Relaxed);
        Ok(more)
    }

    /// Remembers how long a request took. One that stalled is the watch's business: it counts as no more than a slow
    /// one, or a single wait for the kernel to write back would have twenty others wake a thread each.
    pub(super) fn took(&self, begin: Instant) {
        self.began_ms.store(0, Ordering::Relaxed);
        let took = u64::try_from(begin.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .min(2 * SLOW_NS);
        let mean = self.mean_ns.load(Ordering::Relaxed);
        self.mean_ns
            .store(mean - mean / 8 + took / 8, Ordering::Relaxed);
    }

    /// The watch: calls a thread to the input if the one that left it does not come back.
    pub(super) fn look(self: &Arc<Self>) {
        let began = self.began_ms.load(Ordering::Relaxed);
        let stalled = u64::try_from(STALLED.as_millis()).unwrap_or(u64::MAX);
        if began != 0 && self.house.now_ms().saturating_sub(began) >= stalled {
            self.began_ms.store(0, Ordering::Relaxed);
            self.call();
        }
    }

    /// Sends a reply, or with `later` lets it wait for those that follow at once.
    pub(super) fn reply(&self, head: &[u8], body: &[u8], later: bool) -> io::Result<()> {
        if !later {
            return self.send(head, body);
        }
        let mut output = lock(&self.output);
        output.extend_from_slice(head);
        output.extend_from_slice(body);
        if output.len() >= GATHERED_BYTES {
            self.send_all(&mut output, &[])?;
        }
        Ok(())
    }

    /// Sends what gathered, and then this.
    pub(super) fn send(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut output = lock(&self.output);
        self.send_in_turn(&mut output, head, body)
    }

    /// Keeps other replies out, for one that is sent in pieces that belong together.
    pub(super) fn begin_reply(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.output)
    }

    /// As [`send`](Self::send), between the pieces of a reply.
    pub(super) fn send_in_turn(
        &self,
        output: &mut Vec<u8>,
        head: &[u8],
        body: &[u8],
    ) -> io::Result<()> {
        if output.is_empty() {
            return self.socket.write_all(head, body);
        }
        output.extend_from_slice(head);
        self.send_all(output, body)
    }

    fn send_all(&self, output: &mut Vec<u8>, body: &[u8]) -> io::Result<()> {
        let sent = self.socket.write_all(output, body);
        output.clear();
        sent
    }

    /// Drops data of a request that is refused.
    fn skip(&self, input: &mut Input, mut rest: u32) -> io::Result<()> {
        let mut dropped = [0; 4096];
        while rest > 0 {
            let now = rest.min(4096);
            input.fill(&self.socket, &mut dropped[..now as usize])?;
            rest -= now;
        }
        Ok(())
    }

    /// Calls a thread to the input: an idle one, or a new one if there may be more.
    fn call(self: &Arc<Self>) {
        let mut crew = lock(&self.crew);
        if self.is_over() {
            return;
        }
        if crew.idle > crew.calls {
            crew.calls += 1;
            self.called.notify_one();
        } else if crew.size < MOST_THREADS - 1 {
            let connection = self.clone();
            let work = move || {
                // What went wrong is told by the connection's first thread, if by anybody.
                let _ = connection.work(Stays::AWhile);
                lock(&connection.crew).size -= 1;
                connection.left.notify_one();
            };
            // Without another thread it is as quick as this one is.
            if thread::Builder::new()
                .name("nbd".into())
                .spawn(work)
                .is_ok()
            {
                crew.size += 1;
            }
        }
    }

    /// Waits to be called to the input. Says no if this thread may end.
    fn park(&self, stays: Stays) -> bool {
        let mut crew = lock(&self.crew);
        crew.idle += 1;
        let deadline = Instant::now() + IDLE;
        let needed = loop {
            if self.is_over() {
                break false;
            }
            if crew.calls > 0 {
                crew.calls -= 1;
                break true;
            }
            // Whoever holds the input calls somebody before it stays away, and finds us; but it may have left it
            // between our look and now.
            if !matches!(self.input.try_lock(), Err(TryLockError::WouldBlock)) {
                break true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && stays == Stays::AWhile && crew.idle > 1 {
                break false;
            }
            let left = if left.is_zero() { IDLE } else { left };
            let wait = self.called.wait_timeout(crew, left);
            crew = wait.unwrap_or_else(PoisonError::into_inner).0;
        };
        crew.idle -= 1;
        needed
    }

    /// Lets no more requests in.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        let _crew = lock(&self.crew);
        self.called.notify_all();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits until the requests under way are answered.
    fn wait_for_crew(&self) {
        self.end();
        let mut crew = lock(&self.crew);
        while crew.size > 0 {
            crew = self.left.wait(crew).unwrap_or_else(PoisonError::into_inner);
        }
        drop(crew);
        let _ = self.send(&[], &[]);
    }
}

/// A lock of ours: what it guards is sound after every statement, so a panic elsewhere spoils nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::serve::{Budget, Catalogue, Limits, Lookout};

    #[test]
    fn a_client_that_sends_a_byte_now_and_then_has_no_longer_than_others() {
        let limits = Limits {
            connections: 1,
            memory_bytes: 0,
        };
        let house = House {
            catalogue: Catalogue::default(),
            tls: None,
            lookout: Lookout::new(),
            budget: Budget::new(0),
            limits,
            born: Instant::now(),
            closing: AtomicBool::new(false),
            guests: Mutex::default(),
            changed: Condvar::new(),
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let pace = Some(Duration::from_millis(10));
        theirs.set_read_timeout(pace).unwrap();
        let drips = thread::spawn(move || {
            theirs
                .write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x03\0\0\xff\xff")
                .unwrap();
            for _ in 0..400 {
                if theirs.write_all(&[0]).is_err() {
                    return;
                }
                let _ = theirs.read(&mut [0; 64]);
            }
        });
        let deadline = Instant::now() + Duration::from_millis(100);
        let given_up = shake_hands(&house, &ours.into(), deadline).unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
        drips.join().unwrap();
    }
}
