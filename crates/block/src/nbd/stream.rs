//! The socket to an NBD server, and the way through it into an export.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cohort_nbd::{
    Client, ConnectError, ConnectStep, Connecting, Context, Server, Uri, UriTls, Wish,
};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::tls::{Secured, Socket, TlsClient};

/// A socket, and what encrypts what goes through it.
#[derive(Debug)]
pub(super) struct Stream {
    plain: Plain,
    secured: OnceLock<Secured>,
}

#[derive(Debug)]
enum Plain {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Connects, until the deadline.
    pub(super) fn connect(server: &Server, deadline: Instant) -> io::Result<Self> {
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

    /// Enters the export, until the deadline, to ask of ranges what these contexts say.
    pub(super) fn enter(
        &self,
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
            self.plain.set_read_timeout(Some(left(deadline)?))?;
            bytes.resize(client.wants(), 0);
            self.read_exact(&mut bytes)?;
            let step = client
                .receive(&bytes, &mut out)
                .map_err(|error| match error {
                    ConnectError::Refused { .. } => io::Error::new(io::ErrorKind::NotFound, error),
                    ConnectError::NoServer | ConnectError::Nonsense(_) | _ => {
                        io::Error::other(error)
                    }
                })?;
            if let (ConnectStep::StartTls, Some(tls)) = (&step, &uri.tls) {
                self.secure(&uri.server, tls, deadline)?;
                client.encrypted(&mut out);
            }
            self.write_all(&out)?;
            out.clear();
            if let ConnectStep::Ready(client) = step {
                self.plain.set_read_timeout(None)?;
                return Ok(client);
            }
        }
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

    pub(super) fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
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

    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self.secured.get() {
            Some(secured) => secured.write_all(&self.plain, &[bytes]),
            None => self.plain.write_all(bytes),
        }
    }

    /// Says that nothing follows, where that is to be said.
    pub(super) fn goodbye(&self) {
        if let Some(secured) = self.secured.get() {
            secured.goodbye(&self.plain);
        }
    }

    /// Nothing goes through it any more, either way.
    pub(super) fn shutdown(&self) {
        self.plain.shutdown();
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
