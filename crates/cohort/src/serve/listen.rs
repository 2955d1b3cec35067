//! Sockets that clients connect to.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use cohort_block::Socket;

/// A socket that clients connect to. A unix socket's file goes when this is dropped.
#[derive(Debug)]
pub(crate) enum Listener {
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
        Ok(Self::Unix {
            socket,
            path,
            inode,
        })
    }

    /// Listens at an address.
    ///
    /// # Errors
    /// The system says no.
    pub(crate) fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(Self::Tcp)
    }

    /// The next client.
    pub(crate) fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Unix { socket, .. } => socket.accept().map(|(stream, _)| stream.into()),
            Self::Tcp(socket) => socket.accept().map(|(stream, _)| stream.into()),
        }
    }

    /// Has [`accept`](Self::accept) fail from now on, also one that waits.
    pub(crate) fn close(&self) {
        let _ = match self {
            Self::Unix { socket, .. } => rustix::net::shutdown(socket, rustix::net::Shutdown::Both),
            Self::Tcp(socket) => rustix::net::shutdown(socket, rustix::net::Shutdown::Both),
        };
    }

    /// The address of the network at which it is, if it is at one.
    pub(crate) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Unix { .. } => Ok(None),
            Self::Tcp(socket) => socket.local_addr().map(Some),
        }
    }

    /// What clients are told to connect to.
    pub(crate) fn server(&self) -> io::Result<cohort_nbd::Server> {
        Ok(match self {
            Self::Unix { path, .. } => cohort_nbd::Server::Unix(std::path::absolute(path)?),
            Self::Tcp(socket) => {
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
        if let Self::Unix { path, inode, .. } = self {
            // Somebody may have taken our file for stale; then what is there now is theirs.
            if fs::symlink_metadata(&*path).is_ok_and(|found| found.ino() == *inode) {
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
