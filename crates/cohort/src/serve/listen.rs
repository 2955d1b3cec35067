//! Sockets that clients connect to.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use cohort_block::Socket;

use super::connection::lock;

/// How long accepting rests when the system has no room for another client.
const REST: Duration = Duration::from_millis(100);

/// A socket that clients connect to. A unix socket's file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    way: Way,
    closed: Mutex<bool>,
    told: Condvar,
}

#[derive(Debug)]
enum Way {
    /// In the file system, for its owner alone.
    Unix {
        /// The socket.
        socket: UnixListener,
        /// Where.
        path: PathBuf,
        /// The file's number, to be sure that it is still ours when it is removed.
        inode: u64,
    },
    /// At a network address.
    Tcp(TcpListener),
}

impl From<Way> for Listener {
    fn from(way: Way) -> Self {
        Self {
            way,
            closed: Mutex::new(false),
            told: Condvar::new(),
        }
    }
}

impl Listener {
    /// Listens at a path. What a dead process left there is removed.
    ///
    /// # Errors
    /// A living process listens there, something else than a socket is there, or the system says no.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        // Made where nobody else gets in, and put in its place with the right mode: between bind and chmod another user
        // could connect.
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let private = tempfile::Builder::new()
            .prefix(".c")
            .tempdir_in(parent.unwrap_or(Path::new(".")))?;
        let early = private.path().join("s");
        let socket = UnixListener::bind(&early)?;
        fs::set_permissions(&early, fs::Permissions::from_mode(0o600))?;
        fs::hard_link(&early, path)?;
        let inode = fs::symlink_metadata(&early)?.ino();
        private.close()?;
        let path = path.to_owned();
        Ok(Way::Unix {
            socket,
            path,
            inode,
        }
        .into())
    }

    /// Listens at an address.
    ///
    /// # Errors
    /// The system says no.
    pub(crate) fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(|socket| Way::Tcp(socket).into())
    }

    /// The next client; none once this is closed. Where the system has no room for another, those that are there go on, and
    /// one of them may leave.
    pub(crate) fn accept(&self) -> Option<Socket> {
        loop {
            let accepted = match &self.way {
                Way::Unix { socket, .. } => socket.accept().map(|(stream, _)| stream.into()),
                Way::Tcp(socket) => socket.accept().map(|(stream, _)| stream.into()),
            };
            if let Ok(socket) = accepted {
                return Some(socket);
            }
            let rest = |closed: &mut bool| !*closed;
            let rested = self.told.wait_timeout_while(lock(&self.closed), REST, rest);
            if *rested.unwrap_or_else(PoisonError::into_inner).0 {
                return None;
            }
        }
    }

    /// Has [`accept`](Self::accept) give nobody any more, also one that waits.
    pub(crate) fn close(&self) {
        *lock(&self.closed) = true;
        self.told.notify_all();
        let _ = match &self.way {
            Way::Unix { socket, .. } => rustix::net::shutdown(socket, rustix::net::Shutdown::Both),
            Way::Tcp(socket) => rustix::net::shutdown(socket, rustix::net::Shutdown::Both),
        };
    }

    /// The address of the network at which it is, if it is at one.
    pub(crate) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match &self.way {
            Way::Unix { .. } => Ok(None),
            Way::Tcp(socket) => socket.local_addr().map(Some),
        }
    }

    /// What clients are told to connect to.
    pub(crate) fn server(&self) -> io::Result<cohort_nbd::Server> {
        Ok(match &self.way {
            Way::Unix { path, .. } => cohort_nbd::Server::Unix(std::path::absolute(path)?),
            Way::Tcp(socket) => {
                let address = socket.local_addr()?;
                cohort_nbd::Server::Tcp {
                    host: address.ip().to_string(),
                    port: address.port(),
                }
            }
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Way::Unix { path, inode, .. } = &self.way {
            // Somebody may have taken our file for stale; then what is there now is theirs.
            if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Removes the socket of a dead process.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return taken("there is something else than a socket");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => taken("another process listens there"),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind as by a dead process");
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let refused = Listener::unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(&path, "precious").unwrap();
        assert!(Listener::unix(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
