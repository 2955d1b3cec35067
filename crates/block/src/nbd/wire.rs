//! One connection to an NBD server: any number of threads ask, one thread reads the answers and hands them out.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cohort_nbd::{
    Client, Command, ConnectError, ConnectStep, Connecting, Content, Context, Request, Server,
    Status, Uri, UriTls, Wish,
};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::tls::{Secured, Socket, TlsClient};

/// A connection inside an export.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    pub(super) client: Client,
    /// Held while a request is sent, so that its header and its bytes stay together.
    sending: Mutex<()>,
    waiting: Mutex<Waiting>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    next_cookie: u64,
    questions: HashMap<u64, Question>,
    /// Why nothing will be answered any more.
    broken: Option<String>,
}

/// A request, and what has come of its answer.
#[derive(Debug)]
struct Question {
    command: Command,
    answer: Answer,
    /// Bytes of a read that have come, holes among them.
    filled: u64,
    failure: Option<io::Error>,
    done: bool,
}

/// The answer to a request that went well.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Of a read.
    pub(super) bytes: Vec<u8>,
    /// Of a block status request.
    pub(super) runs: Vec<Status>,
}

/// Why a request was not answered well.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The connection is lost; nobody knows what became of the request.
    Lost(String),
    /// The server said no.
    Refused(io::Error),
}

/// A socket, and what encrypts what goes through it.
#[derive(Debug)]
struct Stream {
    plain: Plain,
    secured: OnceLock<Secured>,
}

#[derive(Debug)]
enum Plain {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Wire {
    /// Connects and enters the export, until the deadline, to ask of ranges what these contexts say.
    pub(super) fn open(
        uri: &Uri,
        contexts: Vec<Context>,
        deadline: Instant,
    ) -> io::Result<Arc<Self>> {
        let stream = Stream::connect(&uri.server, deadline)?;
        let client = enter(&stream, uri, contexts, deadline)?;
        stream.plain.set_read_timeout(None)?;
        let wire = Arc::new(Self {
            stream,
            client,
            sending: Mutex::default(),
            waiting: Mutex::default(),
            answered: Condvar::new(),
        });
        let reader = wire.clone();
        thread::Builder::new()
            .name("nbd-client".into())
            .spawn(move || reader.read_answers())?;
        Ok(wire)
    }

    /// Asks, and waits for the answer. A server that has not answered by the deadline is given up.
    pub(super) fn ask(
        &self,
        command: Command,
        data: &[u8],
        deadline: Instant,
    ) -> Result<Answer, Unanswered> {
        let cookie = self.note(command)?;
        let mut head = Vec::with_capacity(32);
        let sent = match self.client.request(&Request { cookie, command }, &mut head) {
            Ok(()) => {
                let _turn = lock(&self.sending);
                self.stream
                    .write_all(&head)
                    .and_then(|()| self.stream.write_all(data))
            }
            Err(error) => {
                lock(&self.waiting).questions.remove(&cookie);
                return Err(Unanswered::Refused(io::Error::other(error)));
            }
        };
        if let Err(error) = sent {
            self.give_up(&format!("cannot send: {error}"));
        }
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting
                .questions
                .get(&cookie)
                .is_some_and(|question| question.done)
            {
                break;
            }
            if let Some(why) = waiting.broken.clone() {
                waiting.questions.remove(&cookie);
                return Err(Unanswered::Lost(why));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(waiting);
                self.give_up("it did not answer in time");
                waiting = lock(&self.waiting);
                continue;
            }
            let wait = self.answered.wait_timeout(waiting, left);
            waiting = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        match waiting.questions.remove(&cookie) {
            Some(Question {
                failure: Some(error),
                ..
            }) => Err(Unanswered::Refused(error)),
            Some(question) => Ok(question.answer),
            None => Err(Unanswered::Lost("the answer was lost".into())),
        }
    }

    /// Says goodbye, and closes.
    pub(super) fn close(&self) {
        let mut goodbye = Vec::new();
        self.client.disconnect(&mut goodbye);
        let _ = self.stream.write_all(&goodbye);
        if let Some(secured) = self.stream.secured.get() {
            secured.goodbye(&self.stream.plain);
        }
        self.give_up("it was closed");
    }

    fn note(&self, command: Command) -> Result<u64, Unanswered> {
        let mut waiting = lock(&self.waiting);
        if let Some(why) = &waiting.broken {
            return Err(Unanswered::Lost(why.clone()));
        }
        let cookie = waiting.next_cookie;
        waiting.next_cookie += 1;
        let wanted = if let Command::Read { length, .. } = command {
            length
        } else {
            0
        };
        let bytes = vec![0; wanted as usize];
        let answer = Answer {
            bytes,
            runs: Vec::new(),
        };
        let question = Question {
            command,
            answer,
            filled: 0,
            failure: None,
            done: false,
        };
        waiting.questions.insert(cookie, question);
        Ok(cookie)
    }

    /// Nothing will be answered any more. The first reason stands.
    fn give_up(&self, why: &str) {
        self.stream.plain.shutdown();
        lock(&self.waiting)
            .broken
            .get_or_insert_with(|| why.to_owned());
        self.answered.notify_all();
    }

    fn read_answers(&self) {
        let mut payload = Vec::new();
        loop {
            if let Err(error) = self.read_answer(&mut payload) {
                let ended = error.kind() == io::ErrorKind::UnexpectedEof;
                let why = error.to_string();
                return self.give_up(if ended {
                    "the server closed the connection"
                } else {
                    &why
                });
            }
        }
    }

    fn read_answer(&self, payload: &mut Vec<u8>) -> io::Result<()> {
        let mut head = [0; 32];
        self.stream.read_exact(&mut head[..4])?;
        let first = [head[0], head[1], head[2], head[3]];
        let length = self.client.head_length(first).map_err(io::Error::other)?;
        self.stream.read_exact(&mut head[4..length])?;
        let head = self
            .client
            .head(&head[..length])
            .map_err(io::Error::other)?;
        payload.resize(head.payload as usize, 0);
        self.stream.read_exact(payload)?;
        let content = head.content(payload).map_err(io::Error::other)?;
        let mut waiting = lock(&self.waiting);
        let unasked = || io::Error::other("the server answered what was not asked");
        let question = waiting
            .questions
            .get_mut(&head.cookie)
            .ok_or_else(unasked)?;
        if let (Content::Done, Command::Read { .. }, false) =
            (&content, question.command, self.in_pieces())
        {
            // The bytes follow a simple reply. Nobody else reads from the stream meanwhile.
            let mut bytes = std::mem::take(&mut question.answer.bytes);
            drop(waiting);
            self.stream.read_exact(&mut bytes)?;
            waiting = lock(&self.waiting);
            let question = waiting
                .questions
                .get_mut(&head.cookie)
                .ok_or_else(unasked)?;
            question.filled = bytes.len() as u64;
            question.answer.bytes = bytes;
            question.done = true;
        } else {
            question.take(content).map_err(io::Error::other)?;
            if head.last {
                question.end().map_err(io::Error::other)?;
            }
        }
        drop(waiting);
        self.answered.notify_all();
        Ok(())
    }

    fn in_pieces(&self) -> bool {
        self.client.mode() > cohort_nbd::Mode::Simple
    }
}

impl Question {
    fn take(&mut self, content: Content<'_>) -> Result<(), Nonsense> {
        match content {
            Content::Done => {}
            Content::Error { code, why } => {
                let why = if why.is_empty() {
                    code.to_string()
                } else {
                    why.replace(char::is_control, " ")
                };
                self.failure.get_or_insert(io::Error::new(
                    code.kind(),
                    format!("the server says: {why}"),
                ));
            }
            // The bytes are zero from the beginning.
            Content::Hole { offset, length } => {
                self.place(offset, length.into())?;
            }
            Content::Data { offset, bytes } => {
                let at = self.place(offset, bytes.len() as u64)?;
                self.answer.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            }
            // One context was asked for.
            Content::Status { runs, .. } => self.answer.runs = runs,
        }
        Ok(())
    }

    /// Where in the answer a piece of a read belongs.
    fn place(&mut self, offset: u64, length: u64) -> Result<usize, Nonsense> {
        let Command::Read {
            offset: from,
            length: asked,
            ..
        } = self.command
        else {
            return Err(Nonsense("bytes that were not asked for"));
        };
        let at = offset.checked_sub(from);
        let inside = at.filter(|at| {
            at.checked_add(length)
                .is_some_and(|end| end <= asked.into())
        });
        let at = inside.ok_or(Nonsense("bytes from another place"))?;
        self.filled += length;
        usize::try_from(at).map_err(|_| Nonsense("bytes from another place"))
    }

    fn end(&mut self) -> Result<(), Nonsense> {
        let asked = self.answer.bytes.len() as u64;
        let status = matches!(self.command, Command::BlockStatus { .. });
        let complete = self.filled == asked && !(status && self.answer.runs.is_empty());
        if !complete && self.failure.is_none() {
            return Err(Nonsense("less than was asked for"));
        }
        self.done = true;
        Ok(())
    }
}

/// An answer that does not fit to its question.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
struct Nonsense(&'static str);

fn enter(
    stream: &Stream,
    uri: &Uri,
    contexts: Vec<Context>,
    deadline: Instant,
) -> io::Result<Client> {
    let mut client = Connecting::begin(Wish {
        name: uri.name.clone(),
        contexts,
    });
    if uri.tls.is_some() {
        client = client.with_tls();
    }
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    loop {
        stream.plain.set_read_timeout(Some(left(deadline)?))?;
        bytes.resize(client.wants(), 0);
        stream.read_exact(&mut bytes)?;
        let step = client
            .receive(&bytes, &mut out)
            .map_err(|error| match error {
                ConnectError::Refused { .. } => io::Error::new(io::ErrorKind::NotFound, error),
                ConnectError::NoServer | ConnectError::Nonsense(_) | _ => io::Error::other(error),
            })?;
        if let (ConnectStep::StartTls, Some(tls)) = (&step, &uri.tls) {
            stream.secure(&uri.server, tls, deadline)?;
            client.encrypted(&mut out);
        }
        stream.write_all(&out)?;
        out.clear();
        if let ConnectStep::Ready(client) = step {
            return Ok(client);
        }
    }
}

/// The time until the deadline, of which there must be some.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

/// Connects to a unix socket, and is no longer held up by a server that accepts nobody, nor by its sends later.
fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The kernel's connect waits for room in the server's queue as long as a send may wait.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?).map_err(|error| match error {
        Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        error => io::Error::from(error),
    })?;
    Ok(UnixStream::from(socket))
}

impl Stream {
    fn connect(server: &Server, deadline: Instant) -> io::Result<Self> {
        let patience = left(deadline)?;
        let plain = match server {
            Server::Unix(path) => Plain::Unix(connect_unix(path, patience)?),
            Server::Tcp { host, port } => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                let mut addresses = (host.as_str(), *port).to_socket_addrs()?;
                let connected = addresses.find_map(|address| {
                    TcpStream::connect_timeout(&address, left(deadline).ok()?)
                        .map_err(|error| last = error)
                        .ok()
                });
                let stream = connected.ok_or(last)?;
                stream.set_write_timeout(Some(patience))?;
                stream.set_nodelay(true)?;
                Plain::Tcp(stream)
            }
        };
        let secured = OnceLock::new();
        Ok(Self { plain, secured })
    }

    /// Encrypts what follows. The server must be the one that it was asked for.
    fn secure(&self, server: &Server, tls: &UriTls, deadline: Instant) -> io::Result<()> {
        let client = TlsClient::new(&tls.certificates).map_err(io::Error::other)?;
        let host = match server {
            Server::Tcp { host, .. } => host.as_str(),
            // As libnbd has it.
            Server::Unix(_) => "localhost",
        };
        let name = tls.hostname.as_deref().unwrap_or(host);
        let secured = Secured::connect(&client, name, &self.plain, deadline)?;
        // Nobody else is here yet.
        let _ = self.secured.set(secured);
        Ok(())
    }

    fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let read = match self.secured.get() {
                Some(secured) => secured.read(&self.plain, buf),
                None => self.plain.read(buf),
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => buf = &mut buf[read..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self.secured.get() {
            Some(secured) => secured.write_all(&self.plain, &[bytes]),
            None => self.plain.write_all(bytes),
        }
    }
}

impl Plain {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn shutdown(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Socket for Plain {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => (&*stream).read(buf),
            Self::Tcp(stream) => (&*stream).read(buf),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => (&*stream).write_all(bytes),
            Self::Tcp(stream) => (&*stream).write_all(bytes),
        }
    }
}

/// What is guarded here is sound after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
