//! The way to an NBD server, and from there into an export.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use cohort_nbd::{
    Client, ConnectError, ConnectStep, Connecting, Context, Server, Uri, UriTls, Wish,
};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::socket::{Socket, time_until};
use crate::tls::TlsClient;

/// Connects, until the deadline.
pub(super) fn reach(server: &Server, deadline: Instant) -> io::Result<Socket> {
    let patience = time_until(deadline)?;
    match server {
        Server::Unix(path) => connect_unix(path, patience).map(Socket::from),
        Server::Tcp { host, port } => {
            let stream = connect_tcp(host, *port, deadline)?;
            stream.set_write_timeout(Some(patience))?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        }
    }
}

/// Enters the export, until the deadline, to ask of ranges what these contexts say.
pub(super) fn enter(
    socket: &Socket,
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
        socket.set_read_timeout(Some(time_until(deadline)?))?;
        bytes.resize(client.wants(), 0);
        socket.read_exact(&mut bytes)?;
        let step = client
            .receive(&bytes, &mut out)
            .map_err(|error| match error {
                ConnectError::Refused { .. } => io::Error::new(io::ErrorKind::NotFound, error),
                ConnectError::NoServer | ConnectError::Nonsense(_) | _ => io::Error::other(error),
            })?;
        if let (ConnectStep::StartTls, Some(tls)) = (&step, &uri.tls) {
            encrypt(socket, &uri.server, tls, deadline)?;
            client.encrypted(&mut out);
        }
        socket.write_all(&out, &[])?;
        out.clear();
        if let ConnectStep::Ready(client) = step {
            socket.set_read_timeout(None)?;
            return Ok(client);
        }
    }
}

/// Encrypts what follows. The server must be the one that it was asked for.
fn encrypt(socket: &Socket, server: &Server, tls: &UriTls, deadline: Instant) -> io::Result<()> {
    let client = TlsClient::new(&tls.certificates).map_err(io::Error::other)?;
    let host = match server {
        Server::Tcp { host, .. } => host.as_str(),
        // As libnbd has it.
        Server::Unix(_) => "localhost",
    };
    let name = tls.hostname.as_deref().unwrap_or(host);
    socket.start_tls(&client, name, deadline)
}

/// Connects to the first address of the host that answers.
fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut addresses = (host, port).to_socket_addrs()?;
    let connected = addresses.find_map(|address| {
        TcpStream::connect_timeout(&address, time_until(deadline).ok()?)
            .map_err(|error| last = error)
            .ok()
    });
    connected.ok_or(last)
}

/// Connects to a unix socket, and is no longer held up by a server that accepts nobody.
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
