//! The machine's NBD server, of which it has one at most: ours, in a folder that nobody else enters; or one that somebody
//! started before, found among the sockets that the machine's process listens at.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use cohort_nbd::Server;
use serde_json::json;

use crate::monitor::{Monitor, MonitorError};

/// The NBD server that a machine's disks are read from.
#[derive(Debug)]
pub(super) enum NbdServer {
    /// We started it.
    Ours(Folder),
    /// It was there; it listens at one of these.
    Found(Vec<Server>),
}

/// A folder for the socket of our server.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Where the folder of that name is, beside the monitor's socket: there the machine can make sockets.
    pub(super) fn of(monitor: &Path, name: &str) -> io::Result<Self> {
        let path = std::path::absolute(monitor)?;
        Ok(Folder(path.with_file_name(format!(".{name}"))))
    }

    /// The same folder.
    pub(super) fn again(&self) -> Self {
        Folder(self.0.clone())
    }

    /// The socket in it.
    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("nbd")
    }

    /// Whether somebody made it and did not remove it.
    pub(super) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Makes it, for the machine and us alone.
    fn make(&self, (uid, gid): (u32, u32)) -> io::Result<()> {
        self.remove();
        fs::DirBuilder::new().mode(0o700).create(&self.0)?;
        if rustix::process::geteuid().as_raw() != uid {
            chown(&self.0, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Removes it with the socket in it.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_dir(&self.0);
    }
}

impl NbdServer {
    /// Has the machine serve, or finds where it does already.
    pub(super) fn start(monitor: &mut Monitor, folder: Folder) -> Result<Self, MonitorError> {
        let (pid, uid, gid) = monitor.peer()?;
        let made = folder.make((uid, gid));
        let path = folder.socket();
        let started = match made {
            Ok(()) => {
                let address = json!({ "type": "unix", "data": { "path": path.to_string_lossy() } });
                monitor.ask(
                    "nbd-server-start",
                    json!({ "addr": address, "max-connections": 0 }),
                )
            }
            Err(cause) => {
                return Err(MonitorError::Io {
                    path: path.clone(),
                    cause,
                });
            }
        };
        match started {
            Ok(_) => Ok(NbdServer::Ours(folder)),
            Err(MonitorError::Refused { text, .. }) if text.contains("already running") => {
                folder.remove();
                let mut found = listening(pid);
                // It serves us already, and makes everybody else wait who comes to it.
                found.retain(|at| !is_at(at, monitor.path()));
                Ok(NbdServer::Found(found))
            }
            Err(error) => {
                folder.remove();
                Err(error)
            }
        }
    }

    /// Where it may listen.
    pub(super) fn addresses(&self) -> Vec<Server> {
        match self {
            NbdServer::Ours(folder) => vec![Server::Unix(folder.socket())],
            NbdServer::Found(found) => found.clone(),
        }
    }
}

/// The sockets at which a process listens, as far as we may know: of the unix ones their paths, of the others their ports.
fn listening(pid: u32) -> Vec<Server> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let sockets = files.flatten().filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        inode.parse().ok()
    });
    let sockets: HashSet<u64> = sockets.collect();
    // Of the machine's own network and mounts.
    let table =
        |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let mut found = unix_listeners(&table("unix"), &sockets, &folder);
    for name in ["tcp", "tcp6"] {
        for port in tcp_listeners(&table(name), &sockets) {
            found.push(Server::Tcp {
                host: "localhost".to_owned(),
                port,
            });
        }
    }
    found
}

/// Whether a server listens at this very socket, by whatever name.
fn is_at(server: &Server, path: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let Server::Unix(socket) = server else {
        return false;
    };
    matches!((file(socket), file(path)), (Ok(one), Ok(other)) if one == other)
}

/// Lines of `/proc/net/unix`: number, references, protocol, flags, kind, state, inode, path.
fn unix_listeners(table: &str, sockets: &HashSet<u64>, folder: &Path) -> Vec<Server> {
    const ACCEPTS: &str = "00010000";
    let each = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let flags = fields.nth(3)?;
        let inode = fields.nth(2)?;
        // It may have spaces.
        let (_, path) = line.split_once(&format!(" {inode} "))?;
        let listens = flags == ACCEPTS && sockets.contains(&inode.parse().ok()?);
        (listens && !path.starts_with('@')).then(|| Server::Unix(folder.join(path)))
    });
    each.collect()
}

/// Lines of `/proc/net/tcp`: number, address and port in hexadecimal, those of the other side, state, and six more before
/// the inode.
fn tcp_listeners(table: &str, sockets: &HashSet<u64>) -> Vec<u16> {
    const LISTENS: &str = "0A";
    let each = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let port = fields.nth(1)?.rsplit(':').next()?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        (state == LISTENS && sockets.contains(&inode))
            .then(|| u16::from_str_radix(port, 16).ok())?
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_listens_where_the_system_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let network = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = network.local_addr().unwrap().port();
        let found = listening(std::process::id());
        let paths = found.iter().filter(|at| **at == Server::Unix(path.clone()));
        assert_eq!(paths.count(), 1, "a connection is no listener: {found:?}");
        let other_name = folder.path().join("other");
        std::os::unix::fs::symlink(&path, &other_name).unwrap();
        assert!(found.iter().any(|at| is_at(at, &other_name)));
        let host = "localhost".to_owned();
        assert!(found.contains(&Server::Tcp { host, port }), "{found:?}");
        drop((listener, client, network));
        assert!(!listening(std::process::id()).contains(&Server::Unix(path)));
    }
}
