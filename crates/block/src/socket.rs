//! A connected socket of either kind, and what encrypts what goes through it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::tls::{Secured, TlsClient, TlsServer};

/// A connected socket. One thread reads at a time; any number write, each whole pieces.
#[derive(Debug)]
pub struct Socket {
    plain: Plain,
    secured: OnceLock<Secured>,
}

/// The socket without what encrypts.
#[derive(Debug)]
pub(crate) struct Plain {
    way: Way,
    /// How long one write may take in all: who takes a byte now and then is given up, too.
    piece: Duration,
}

#[derive(Debug)]
enum Way {
    /// Of this host.
    Unix(UnixStream),
    /// Of a network.
    Tcp(TcpStream),
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Way::Unix(stream).into()
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Way::Tcp(stream).into()
    }
}

impl From<Way> for Socket {
    fn from(way: Way) -> Self {
        let piece = Duration::MAX;
        Self {
            plain: Plain { way, piece },
            secured: OnceLock::new(),
        }
    }
}

impl Socket {
    /// Gives up whoever takes longer for what one write sends.
    #[must_use]
    pub fn with_write_limit(mut self, limit: Duration) -> Self {
        self.plain.piece = limit;
        self
    }

    /// Encrypts what follows, if the client shows what is asked of it until the deadline.
    ///
    /// # Errors
    /// It is not one that is let in, or the connection failed.
    pub fn accept_tls(&self, server: &TlsServer, deadline: Instant) -> io::Result<()> {
        self.encrypt(Secured::accept(server, &self.plain, deadline)?);
        Ok(())
    }

    /// Encrypts what follows, if the server is `name`, until the deadline.
    pub(crate) fn start_tls(
        &self,
        client: &TlsClient,
        name: &str,
        deadline: Instant,
    ) -> io::Result<()> {
        self.encrypt(Secured::connect(client, name, &self.plain, deadline)?);
        Ok(())
    }

    fn encrypt(&self, secured: Secured) {
        // Nobody else is here yet.
        let _ = self.secured.set(secured);
    }

    /// Whether what goes through it is encrypted: some of it may have been taken from the system already.
    pub fn is_encrypted(&self) -> bool {
        self.secured.get().is_some()
    }

    /// Whether the peer is on this host.
    pub fn is_local(&self) -> bool {
        matches!(self.plain.way, Way::Unix(_))
    }

    /// Limits each wait for something to read; none waits for ever.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.plain.way {
            Way::Unix(stream) => stream.set_read_timeout(timeout),
            Way::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// Limits each wait for room to write; none waits for ever.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.plain.way {
            Way::Unix(stream) => stream.set_write_timeout(timeout),
            Way::Tcp(stream) => stream.set_write_timeout(timeout),
        }
    }

    /// Reads what is there, at least a byte; 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing came in time, and what the system says.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self.secured.get() {
            Some(secured) => secured.read(&self.plain, buf),
            None => self.plain.read(buf),
        }
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`io::ErrorKind::UnexpectedEof`].
    pub fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buf = &mut buf[read..],
            }
        }
        Ok(())
    }

    /// Reads what is there, at least a byte; 0 at the end. Waits no longer than until the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if nothing comes until then, and what the system says.
    pub fn read_until(&self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        self.set_read_timeout(Some(time_until(deadline)?))?;
        match self.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::TimedOut.into())
            }
            read => read,
        }
    }

    /// Writes both, one after the other.
    ///
    /// # Errors
    /// The peer did not take it, or the system says no.
    pub fn write_all(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        match self.secured.get() {
            Some(secured) => secured.write_all(&self.plain, &[head, body]),
            None => self.plain.write_all(head, body),
        }
    }

    /// Says that nothing more is sent, where that is to be said.
    pub fn goodbye(&self) {
        if let Some(secured) = self.secured.get() {
            secured.goodbye(&self.plain);
        }
    }

    /// Ends one or both directions; one that has ended already is no matter.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = match &self.plain.way {
            Way::Unix(stream) => stream.shutdown(how),
            Way::Tcp(stream) => stream.shutdown(how),
        };
    }
}

/// For what the system can be told of a socket, and for reading past [`Socket::read`] what is not encrypted.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.plain.way {
            Way::Unix(stream) => stream.as_fd(),
            Way::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Plain {
    /// Reads what is there, at least a byte; 0 at the end.
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &self.way {
                Way::Unix(stream) => (&*stream).read(buf),
                Way::Tcp(stream) => (&*stream).read(buf),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes both, one after the other.
    pub(crate) fn write_all(&self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        let mut began = None;
        while !head.is_empty() || !body.is_empty() {
            match self.write_some(head, body) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let of_head = written.min(head.len());
                    (head, body) = (&head[of_head..], &body[written - of_head..]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if began.get_or_insert_with(Instant::now).elapsed() > self.piece {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    fn write_some(&self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        match &self.way {
            Way::Unix(stream) => (&*stream).write_vectored(&parts),
            Way::Tcp(stream) => (&*stream).write_vectored(&parts),
        }
    }
}

/// The time until the deadline, of which there must be some.
pub(crate) fn time_until(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}
