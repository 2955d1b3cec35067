//! What a client's socket is set to, and how long what comes from it is waited for.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use cohort_block::Socket;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, set_socket_send_buffer_size, set_tcp_nodelay};
use rustix::net::{RecvFlags, recv};

/// How long a client may stop in the middle of something before it is given up. Between requests it may wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take for the whole of one piece of a reply: who takes a byte now and then is given up, too.
const PIECE_PATIENCE: Duration = Duration::from_secs(120);

/// How long bytes on their way are looked for before sleep: about what being woken costs.
const MOMENT: Duration = Duration::from_micros(50);

/// How much the system holds for a client of a unix socket. Its default is less than one request of `nbdcopy`.
const UNIX_BUFFER_BYTES: usize = 512 << 10;

/// Sets what a connection needs: no delays, keep-alives for clients that vanish, and a limit to every wait.
pub(super) fn prepare(socket: Socket) -> io::Result<Socket> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    if socket.is_local() {
        // Merely faster with it: a system that refuses does no harm.
        let _ = set_socket_send_buffer_size(&socket, UNIX_BUFFER_BYTES);
    } else {
        set_tcp_nodelay(&socket, true)?;
        set_socket_keepalive(&socket, true)?;
    }
    Ok(socket.with_write_limit(PIECE_PATIENCE))
}

/// Reads what is there, 0 at the end; nothing if there is nothing now. Not of a socket that is encrypted.
pub(super) fn read_now(socket: &Socket, buf: &mut [u8]) -> io::Result<Option<usize>> {
    match recv(socket, buf, RecvFlags::DONTWAIT) {
        Ok((read, _)) => Ok(Some(read)),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads what comes within a moment, and says what is left to read. Who announced these bytes is sending them: they are
/// here before a thread could sleep and be woken.
pub(super) fn read_soon<'a>(socket: &Socket, mut buf: &'a mut [u8]) -> io::Result<&'a mut [u8]> {
    if socket.is_encrypted() {
        return Ok(buf);
    }
    let begin = Instant::now();
    while !buf.is_empty() && begin.elapsed() < MOMENT {
        match read_now(socket, buf)? {
            None => thread::yield_now(),
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(read) => buf = &mut buf[read..],
        }
    }
    Ok(buf)
}
