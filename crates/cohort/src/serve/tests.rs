//! Clients of a server in this process: who is let go when, and what becomes of the disks.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use cohort_block::{Device, DeviceError, MemoryDevice};

use super::traffic::Traffic;
use super::*;

/// Tells when it is let go.
#[derive(Debug)]
struct Tells(Sender<()>);

impl Dirt for Tells {
    fn status(&self, _: u64, _: u64) -> Option<cohort_bitmap::Stretch> {
        None
    }

    fn dirty_bytes(&self) -> u64 {
        0
    }
}

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn disk(name: &str, gone: Sender<()>) -> Served {
    Served {
        name: Name::new(name).unwrap(),
        device: Arc::new(MemoryDevice::new(name, 4096)),
        meter: None,
        traffic: Traffic::default(),
        tracking: None,
        size: 4096,
        read_only: false,
        bitmaps: vec![(
            cohort_nbd::BitmapName::new("b").unwrap(),
            Arc::new(Tells(gone)),
        )],
    }
}

/// A server without disks, and where it listens.
fn started(folder: &Path) -> (Server, PathBuf) {
    let socket = folder.join("s");
    let limits = Limits {
        connections: 9,
        memory_bytes: 1 << 20,
    };
    let listeners = vec![Listener::unix(&socket).unwrap()];
    let server = Server::start(Catalogue::default(), listeners, None, limits);
    (server.unwrap(), socket)
}

/// Inside the export, by the oldest way in; nothing if there is none.
fn enter(socket: &Path, name: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    let mut hello = [&3u32.to_be_bytes()[..], b"IHAVEOPT\0\0\0\x01"].concat();
    hello.extend((name.len() as u32).to_be_bytes());
    hello.extend(name.bytes());
    stream.write_all(&hello).unwrap();
    stream.read_exact(&mut [0; 10]).ok().map(|()| stream)
}

#[test]
fn a_client_that_says_goodbye_is_let_go_whoever_still_looks_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = started(folder.path());
    server.catalogue().add(disk("a", channel().0)).unwrap();
    let mut client = enter(&socket, "a").unwrap();
    let request = |command: u16| {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &[0; 2]].concat();
        [head, command.to_be_bytes().to_vec(), vec![0; 20]].concat()
    };
    // A flush, so that it has its place when that is answered.
    client.write_all(&request(3)).unwrap();
    client.read_exact(&mut [0; 16]).unwrap();
    let looked_after = lock(&server.house.guests).inside.clone();
    assert_eq!(looked_after.len(), 1);
    client.write_all(&request(2)).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "it hears the end");
    drop(looked_after);
    server.stop(Duration::from_secs(9));
}

/// A disk with a bug.
#[derive(Debug)]
struct Panics(MemoryDevice);

impl Device for Panics {
    cohort_block::forward!(0: name, size, read_at, write_at, write_zeroes, flush, extent);

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        panic!("a bug")
    }
}

#[test]
fn a_client_whose_request_panics_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = started(folder.path());
    let (said, gone) = channel();
    let device = Arc::new(Panics(MemoryDevice::new("a", 4096)));
    let served = Served {
        device,
        ..disk("a", said)
    };
    server.catalogue().add(served).unwrap();
    let mut client = enter(&socket, "a").unwrap();
    let trim = [
        &0x2560_9513u32.to_be_bytes()[..],
        &[0, 0, 0, 4],
        &[0; 18],
        &[2, 0],
    ];
    client.write_all(&trim.concat()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "it hears the end");
    server.stop(Duration::from_secs(9));
    gone.recv_timeout(Duration::from_secs(60)).unwrap();
}

#[test]
fn disks_come_and_go_while_it_serves_and_are_let_go_with_their_last_client() {
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = started(folder.path());
    let (said, gone) = channel();
    assert!(enter(&socket, "a").is_none());
    server.catalogue().add(disk("a", said.clone())).unwrap();
    assert!(server.catalogue().add(disk("a", channel().0)).is_err());
    let mut client = enter(&socket, "a").unwrap();
    // Its place is taken when its first request is answered.
    client
        .write_all(&[&0x2560_9513u32.to_be_bytes()[..], &[0; 23], &[0]].concat())
        .unwrap();
    client.read_exact(&mut [0; 16]).unwrap();
    let a = Name::new("a").unwrap();
    let unnamed = Name::new("").unwrap();
    assert_eq!(
        server.remove(&unnamed, true),
        Err(NotRemoved::Unknown(unnamed))
    );
    assert_eq!(server.remove(&a, false), Err(NotRemoved::InUse(a.clone())));
    assert!(gone.try_recv().is_err());
    server.remove(&a, true).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "cut off");
    gone.recv().unwrap();
    assert!(enter(&socket, "a").is_none());
    server.catalogue().add(disk("a", said)).unwrap();
    server.remove(&a, false).unwrap();
    gone.recv().unwrap();
    server.stop(Duration::from_secs(9));
}
