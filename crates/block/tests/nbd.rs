//! The NBD client against `qemu-nbd`, and a server of our own that leaves when told to: bytes, deadlines, and what is owed
//! after a lost connection.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cohort_block::{Access, Device, ExtentKind, NbdDevice, OpenError, OpenOptions};

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u64 = (40 << 20) + 512;

/// `qemu-nbd` serving a file of a folder at the socket `s`. Killed when dropped.
struct Peer(Child);

impl Peer {
    fn start(folder: &Path, args: &[&str]) -> Peer {
        Self::serve(folder, "disk.raw", &[&["-f", "raw"], args].concat())
    }

    fn serve(folder: &Path, file: &str, args: &[&str]) -> Peer {
        let socket = folder.join("s");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("qemu-nbd");
        command
            .args(["-t", "-x", "d", "-e", "8", "-k"])
            .arg(&socket)
            .args(args)
            .arg(file);
        let child = command
            .current_dir(folder)
            .spawn()
            .expect("qemu-nbd starts");
        let begin = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begin.elapsed() < PATIENCE, "qemu-nbd does not listen");
            std::thread::yield_now();
        }
        Peer(child)
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.0.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .expect("a shell")
                .success()
        );
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with an empty disk, unless there is no `qemu-nbd` and that may be.
fn folder() -> Option<tempfile::TempDir> {
    if Command::new("qemu-nbd").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-nbd is missing where nothing may be skipped"
        );
        eprintln!("SKIPPED: qemu-nbd is not installed");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let disk = std::fs::File::create(folder.path().join("disk.raw")).expect("a disk");
    disk.set_len(SIZE).expect("room");
    Some(folder)
}

fn connect(folder: &Path, access: Access, patience: Duration) -> Result<NbdDevice, OpenError> {
    let uri = format!("nbd+unix:///d?socket={}", folder.join("s").display());
    NbdDevice::connect(&uri.parse().expect("an address"), access, patience)
}

#[test]
fn what_is_refused_as_an_image_is_read_through_qemu() {
    let Some(folder) = folder() else { return };
    let written = (0..SIZE).map(|at| (at % 249) as u8).collect::<Vec<_>>();
    std::fs::write(folder.path().join("disk.raw"), &written).unwrap();
    for (name, options) in [
        ("zstd", &["-c", "-o", "compression_type=zstd"][..]),
        ("subclusters", &["-o", "extended_l2=on"]),
        ("beside", &["-o", "data_file=beside.bin"]),
    ] {
        let convert = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(options)
            .args(["disk.raw", name])
            .current_dir(folder.path())
            .status();
        assert!(convert.expect("qemu-img runs").success(), "{name}");
        let refused = cohort_block::open(folder.path().join(name), OpenOptions::read_only());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("let QEMU read it"), "{refused}");
        let _peer = Peer::serve(folder.path(), name, &["-f", "qcow2", "-r"]);
        let disk = connect(folder.path(), Access::ReadOnly, PATIENCE).unwrap();
        let mut read = vec![0; disk.size() as usize];
        disk.read_at(&mut read, 0).unwrap();
        assert!(read == written, "{name}");
    }
}

#[test]
fn bytes_go_there_and_come_back() {
    let Some(folder) = folder() else { return };
    let _peer = Peer::start(folder.path(), &[]);
    let disk = connect(folder.path(), Access::ReadWrite, PATIENCE).unwrap();
    assert_eq!(disk.size(), SIZE);
    // Longer than one request may be, and not aligned to anything.
    let bytes: Vec<u8> = (0..(34 << 20) + 77)
        .map(|at: u32| (at % 251) as u8)
        .collect();
    disk.write_at(&bytes, 333).unwrap();
    let mut back = vec![1; bytes.len()];
    disk.read_at(&mut back, 333).unwrap();
    assert!(back == bytes);
    disk.write_zeroes(1 << 20, 1 << 20).unwrap();
    disk.discard(4 << 20, 1 << 20).unwrap();
    disk.flush().unwrap();
    disk.read_at(&mut back[..2 << 20], 512 << 10).unwrap();
    assert!(back[512 << 10..1536 << 10].iter().all(|byte| *byte == 0));
    let zero = disk.extent(1 << 20, SIZE - (1 << 20)).unwrap();
    assert_eq!((zero.kind, zero.length), (ExtentKind::Zero, 1 << 20));
    assert!(disk.write_at(&[0; 2], SIZE - 1).is_err());
    disk.write_at(&[9], SIZE - 1).unwrap();
    let many = std::thread::scope(|scope| {
        let disk = &disk;
        let read = move |at: u64| {
            let mut piece = vec![0; 70_000];
            (0..50).all(|_| {
                disk.read_at(&mut piece, (8 << 20) + at).is_ok()
                    && piece[0] == bytes_at((8 << 20) + at)
            })
        };
        let threads: Vec<_> = (0..8)
            .map(|at| scope.spawn(move || read(at * 1013)))
            .collect();
        threads.into_iter().all(|thread| thread.join().unwrap())
    });
    assert!(many, "eight threads on one connection");
}

/// What the test above wrote there.
fn bytes_at(offset: u64) -> u8 {
    ((offset - 333) % 251) as u8
}

#[test]
fn a_flush_after_a_lost_connection_fails_once() {
    let Some(folder) = folder() else { return };
    let peer = Peer::start(folder.path(), &[]);
    let disk = connect(folder.path(), Access::ReadWrite, PATIENCE).unwrap();
    disk.write_at(&[1; 4096], 0).unwrap();
    disk.flush().unwrap();
    drop(peer);
    let peer = Peer::start(folder.path(), &[]);
    disk.flush().expect("all that was written had been flushed");
    disk.write_at(&[2; 4096], 4096).unwrap();
    drop(peer);
    let _peer = Peer::start(folder.path(), &[]);
    disk.write_at(&[3; 4096], 8192).expect("it connects again");
    let owed = disk.flush().unwrap_err();
    assert!(owed.to_string().contains("connection was lost"), "{owed}");
    disk.flush().expect("it was told");
    let mut byte = [0];
    disk.read_at(&mut byte, 8192).unwrap();
    assert_eq!(byte, [3]);
}

/// Each of them was to make durable what may be lost now; that one was told helps nobody else.
#[test]
fn every_flush_under_way_when_a_connection_is_lost_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
    let server = std::thread::spawn(move || {
        serve_once(&listener, |kind, before| match (kind, before) {
            (FLUSH, 0) => Reaction::SayNothing,
            (FLUSH, _) => Reaction::Leave,
            _ => Reaction::Succeed,
        })?;
        serve_once(&listener, |_, _| Reaction::Succeed)
    });
    let disk = connect(folder.path(), Access::ReadWrite, PATIENCE).unwrap();
    disk.write_at(&[1; 512], 0).unwrap();
    let flushed = std::thread::scope(|scope| {
        let flushes = [(); 2].map(|()| scope.spawn(|| disk.flush()));
        flushes.map(|flush| flush.join().unwrap())
    });
    for one in flushed {
        let told = one.unwrap_err().to_string();
        assert!(told.contains("connection was lost"), "{told}");
    }
    disk.flush().expect("it was told");
    drop(disk);
    server.join().unwrap().expect_err("the client left");
}

#[test]
fn zeroes_for_a_server_that_knows_none_are_no_longer_than_it_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
    let server = std::thread::spawn(move || serve_once(&listener, |_, _| Reaction::Succeed));
    let disk = connect(folder.path(), Access::ReadWrite, PATIENCE).unwrap();
    disk.write_at(&[1; LONGEST as usize + 1], 0).unwrap();
    disk.write_zeroes(0, 1 << 20).unwrap();
    drop(disk);
    server.join().unwrap().expect_err("the client left");
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let Some(folder) = folder() else { return };
    let peer = Peer::start(folder.path(), &[]);
    let disk = connect(folder.path(), Access::ReadOnly, Duration::from_millis(500)).unwrap();
    assert!(disk.write_at(&[1], 0).is_err(), "it was opened to read");
    peer.signal("STOP");
    disk.read_at(&mut [0; 512], 0).unwrap_err();
    peer.signal("CONT");
    let begin = Instant::now();
    while disk.read_at(&mut [0; 512], 0).is_err() {
        assert!(begin.elapsed() < PATIENCE, "it does not come back");
    }
}

/// Whatever the patience was when the connection was made, or what was left of it.
#[test]
fn a_server_that_does_not_take_what_is_sent_is_given_up() {
    let Some(folder) = folder() else { return };
    let peer = Peer::start(folder.path(), &[]);
    let disk = connect(folder.path(), Access::ReadWrite, PATIENCE).unwrap();
    let disk = disk.patience(Duration::from_millis(200));
    peer.signal("STOP");
    let begin = Instant::now();
    // More than a socket holds.
    disk.write_at(&vec![1; 4 << 20], 0).unwrap_err();
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[test]
fn a_server_whose_queue_is_full_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s");
    let server = UnixListener::bind(&socket).expect("a socket");
    // Nobody accepts, and there is room for one to wait.
    rustix::net::listen(&server, 0).expect("a short queue");
    let _waits = UnixStream::connect(&socket).expect("room for one");
    let refused = connect(folder.path(), Access::ReadOnly, Duration::from_millis(100));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("timed out"), "{refused}");
}

#[test]
fn what_cannot_be_used_is_refused_at_once() {
    let Some(folder) = folder() else { return };
    let refused = connect(folder.path(), Access::ReadOnly, PATIENCE).unwrap_err();
    assert!(
        refused.to_string().starts_with("nbd+unix:///d?socket="),
        "{refused}"
    );
    let _peer = Peer::start(folder.path(), &["-r"]);
    let refused = connect(folder.path(), Access::ReadWrite, PATIENCE).unwrap_err();
    assert!(matches!(refused, OpenError::Permission { .. }));
    let uri = format!(
        "nbd+unix:///other?socket={}",
        folder.path().join("s").display()
    );
    let refused =
        NbdDevice::connect(&uri.parse().unwrap(), Access::ReadOnly, PATIENCE).unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
}

/// What the server below does about a request.
enum Reaction {
    Succeed,
    SayNothing,
    Leave,
}

const FLUSH: u16 = 3;

/// The longest request of the server below.
const LONGEST: u32 = 64 << 10;

/// A server of 1 MiB that cannot zero, for one client, which speaks as little of the protocol as possible. `react` is told the type of a
/// request, and how many of that type came before.
fn serve_once(listener: &UnixListener, react: impl Fn(u16, usize) -> Reaction) -> io::Result<()> {
    let mut stream = listener.accept()?.0;
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let head: [u8; 16] = read(&mut stream)?;
        let (option, length) = (be32(&head[8..]), be32(&head[12..]));
        stream.read_exact(&mut vec![0; length as usize])?;
        let mut say = |kind: u32, data: &[u8]| {
            let mut reply = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            for word in [option, kind, data.len() as u32] {
                reply.extend(word.to_be_bytes());
            }
            reply.extend(data);
            stream.write_all(&reply)
        };
        // Of all options it knows that which enters an export: with its size, and flags for "there are flags" and flush.
        if option != 7 {
            say(0x8000_0001, &[])?;
            continue;
        }
        let size: u64 = 1 << 20;
        let info = [&[0, 0][..], &size.to_be_bytes(), &[0, 0b101]].concat();
        say(3, &info)?;
        let blocks = [1, 4096, LONGEST].map(u32::to_be_bytes).concat();
        say(3, &[&[0, 3][..], &blocks].concat())?;
        say(1, &[])?;
        break;
    }
    let mut before = HashMap::<u16, usize>::new();
    loop {
        let head: [u8; 28] = read(&mut stream)?;
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let length = be32(&head[24..]);
        if kind == 1 {
            stream.read_exact(&mut vec![0; length as usize])?;
        }
        let invalid = if length > LONGEST { 22 } else { 0 };
        let count = before.entry(kind).or_default();
        match react(kind, *count) {
            Reaction::Succeed => {
                let reply = [
                    &[0x67, 0x44, 0x66, 0x98, 0, 0, 0, invalid][..],
                    &head[8..16],
                ]
                .concat();
                stream.write_all(&reply)?;
            }
            Reaction::SayNothing => {}
            Reaction::Leave => return Ok(()),
        }
        *count += 1;
    }
}

fn read<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
