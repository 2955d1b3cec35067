//! A client's socket, of whatever kind, with the patience we have for it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use cohort_block::{Secured, Socket, TlsServer};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// How long a client may stop in the middle of something before it is given up. Between requests it may wait for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take for the whole of one piece of a reply: who takes a byte now and then is given up, too.
const PIECE_PATIENCE: Duration = Duration::from_secs(120);

/// How long bytes on their way are looked for before sleep: about what being woken costs.
const MOMENT: Duration = Duration::from_micros(50);

/// How much the system holds for a client of a unix socket. Its default is less than one request of `nbdcopy`.
const UNIX_BUFFER_BYTES: usize = 512 << 10;

/// A client's socket, and what encrypts what goes through it.
#[derive(Debug)]
pub(crate) struct Stream {
    plain: Plain,
    secured: OnceLock<Secured>,
}

#[derive(Debug)]
enum Plain {
    /// Of this host.
    Unix(UnixStream),
    /// Of a network.
    Tcp(TcpStream),
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Plain::Unix(stream).into()
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Plain::Tcp(stream).into()
    }
}

impl From<Plain> for Stream {
    fn from(plain: Plain) -> Self {
        let secured = OnceLock::new();
        Self { plain, secured }
    }
}

impl Stream {
    /// Sets what a connection needs: no delays, keep-alives for clients that vanish, and a limit to every wait.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match &self.plain {
            Plain::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                // Merely faster with it: a system that refuses does no harm.
                let _ =
                    rustix::net::sockopt::set_socket_send_buffer_size(stream, UNIX_BUFFER_BYTES);
            }
            Plain::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                rustix::net::sockopt::set_socket_keepalive(stream, true)?;
            }
        }
        Ok(())
    }

    /// Encrypts what follows, if the client shows what is asked of it until the deadline.
    pub(super) fn secure(&self, tls: &TlsServer, deadline: Instant) -> io::Result<()> {
        let secured = Secured::accept(tls, &self.plain, deadline)?;
        // Nobody else is here yet.
        let _ = self.secured.set(secured);
        Ok(())
    }

    /// Reads what is there, at least a byte; 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] after [`PATIENCE`], and what the system says.
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self.secured.get() {
            Some(secured) => secured.read(&self.plain, buf),
            None => self.plain.read(buf),
        }
    }

    /// Whether [`read_now`](Self::read_now) can be asked: what is encrypted may have been taken from the socket already.
    pub(super) fn can_look(&self) -> bool {
        self.secured.get().is_none()
    }

    /// Reads what is there, 0 at the end; nothing if there is nothing now.
    pub(super) fn read_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let flags = RecvFlags::DONTWAIT;
        let read = match &self.plain {
            Plain::Unix(stream) => recv(stream, buf, flags),
            Plain::Tcp(stream) => recv(stream, buf, flags),
        };
        match read {
            Ok((read, _)) => Ok(Some(read)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what comes within a moment, and says what is left to read. Who announced these bytes is sending them: they
    /// are here before a thread could sleep and be woken.
    pub(super) fn read_soon<'a>(&self, mut buf: &'a mut [u8]) -> io::Result<&'a mut [u8]> {
        if !self.can_look() {
            return Ok(buf);
        }
        let begin = Instant::now();
        while !buf.is_empty() && begin.elapsed() < MOMENT {
            match self.read_now(buf)? {
                None => thread::yield_now(),
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(read) => buf = &mut buf[read..],
            }
        }
        Ok(buf)
    }

    /// Reads all of `buf`. Who stops in the middle for [`PATIENCE`] has failed.
    pub(super) fn read_all(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buf = &mut buf[read..],
            }
        }
        Ok(())
    }

    /// Writes both, one after the other.
    pub(crate) fn write_all(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        match self.secured.get() {
            Some(secured) => secured.write_all(&self.plain, &[head, body]),
            None => self.plain.write_both(head, body),
        }
    }

    /// Reads what is there, at least a byte, and 0 at the end; of what is not encrypted.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if nothing comes until then, and what the system says.
    pub(crate) fn read_until(&self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        self.plain.set_patience(deadline)?;
        match self.plain.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::TimedOut.into())
            }
            read => read,
        }
    }

    /// Writes all of it, not encrypted. Who has not taken it by then is given up.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], and what the system says.
    pub(crate) fn write_until(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.plain.set_patience(deadline)?;
            match self.plain.write_some(bytes, &[]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more is sent, where that is said.
    pub(super) fn goodbye(&self) {
        if let Some(secured) = self.secured.get() {
            secured.goodbye(&self.plain);
        }
    }

    /// Ends one or both directions; one that has ended already is no matter.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = match &self.plain {
            Plain::Unix(stream) => stream.shutdown(how),
            Plain::Tcp(stream) => stream.shutdown(how),
        };
    }
}

impl Plain {
    /// Limits the next wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if it is too late already, and what the system says.
    fn set_patience(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.set_write_timeout(Some(left))
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.set_write_timeout(Some(left))
            }
        }
    }

    fn write_some(&self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        match self {
            Self::Unix(stream) => (&*stream).write_vectored(&parts),
            Self::Tcp(stream) => (&*stream).write_vectored(&parts),
        }
    }

    fn write_both(&self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
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
            if began.get_or_insert_with(Instant::now).elapsed() > PIECE_PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl Socket for Plain {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Unix(stream) => (&*stream).read(buf),
                Self::Tcp(stream) => (&*stream).read(buf),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_both(bytes, &[])
    }
}
