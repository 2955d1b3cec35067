//! `cohort serve` as a child of the test, and a client that speaks the protocol byte by byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::Lab;

/// A server at the socket `s` of a lab. Killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
    /// What it said at its start.
    said: Vec<String>,
}

impl Server {
    /// Starts it, and waits until it is ready.
    pub fn start(lab: &Lab, args: &[&str]) -> Server {
        let mut command = lab.program();
        command.arg("serve").args(args).args(["--socket", "s"]);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.as_mut().expect("its output")).lines();
        let mut said = Vec::new();
        loop {
            let line = lines.next().expect("it ended instead").expect("text");
            if line == "ready" {
                break;
            }
            said.push(line);
        }
        Server {
            child,
            socket: lab.path("s"),
            said,
        }
    }

    /// The port of 127.0.0.1 at which it listens.
    pub fn port(&self) -> u16 {
        let mut said = self.said.iter();
        let port = said.find_map(|line| line.split_once("127.0.0.1:")?.1.split_once('/'));
        port.expect("it listens").0.parse().expect("a port")
    }

    /// The address of an export.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        super::signal(&self.child, name);
    }

    /// Asks it to stop, and gives its exit code.
    pub fn stop(self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until it ends by itself, and gives its exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }

    /// What it said before it was ready.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// Resident memory now, and the number of open files.
    pub fn holds(&self) -> (u64, usize) {
        let of = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(of.join("status")).expect("its status");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a size");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number");
        (
            kib << 10,
            std::fs::read_dir(of.join("fd")).expect("its files").count(),
        )
    }

    /// A connection without a word said.
    pub fn connect(&self) -> UnixStream {
        connect(&self.socket)
    }

    /// A connection inside an export, with simple replies.
    pub fn enter(&self, name: &str) -> Raw {
        Raw::enter_at(&self.socket, name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    stream
}

/// A client that writes what it is told.
pub struct Raw(pub UnixStream);

impl Raw {
    /// A connection inside the export of a server at that socket, with simple replies.
    pub fn enter_at(socket: &Path, name: &str) -> Raw {
        Raw::try_enter_at(socket, name).expect("the server answers")
    }

    /// The same, unless the server is gone before it is inside.
    pub fn try_enter_at(socket: &Path, name: &str) -> io::Result<Raw> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&3u32.to_be_bytes())?;
        stream.write_all(b"IHAVEOPT\0\0\0\x01")?;
        stream.write_all(&(name.len() as u32).to_be_bytes())?;
        stream.write_all(name.as_bytes())?;
        stream.read_exact(&mut [0; 10])?;
        Ok(Raw(stream))
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server listens");
    }

    pub fn get(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// A request's header.
    pub fn ask(&mut self, flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) {
        self.put(&header(flags, kind, cookie, offset, length));
    }

    /// Asks with data, unless the server is gone.
    pub fn try_ask(
        &mut self,
        kind: u16,
        cookie: u64,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> bool {
        let header = header(0, kind, cookie, offset, length);
        self.0.write_all(&[&header, data].concat()).is_ok()
    }

    /// A simple reply without data, unless the server is gone.
    pub fn try_reply(&mut self) -> Option<(u32, u64)> {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).ok()?;
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        Some((
            error,
            u64::from_be_bytes(head[8..].try_into().expect("eight bytes")),
        ))
    }

    /// The head of a simple reply: its error and its cookie.
    pub fn reply(&mut self) -> (u32, u64) {
        let head = self.get(16);
        assert_eq!(head[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        (
            error,
            u64::from_be_bytes(head[8..].try_into().expect("eight bytes")),
        )
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0
            .read_to_end(&mut rest)
            .map_or_else(|e| e.kind() == io::ErrorKind::ConnectionReset, |_| true)
    }
}

fn header(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut header = 0x2560_9513u32.to_be_bytes().to_vec();
    header.extend_from_slice(&flags.to_be_bytes());
    header.extend_from_slice(&kind.to_be_bytes());
    header.extend_from_slice(&cookie.to_be_bytes());
    header.extend_from_slice(&offset.to_be_bytes());
    header.extend_from_slice(&length.to_be_bytes());
    header
}
