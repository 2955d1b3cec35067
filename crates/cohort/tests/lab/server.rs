//! `cohort serve` as a child of the test, and a client that speaks the protocol byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::Lab;

/// A server at the socket `s` of a lab. Killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
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
        let ready = lines.any(|line| line.expect("text") == "ready");
        assert!(ready, "it ended instead");
        Server {
            child,
            socket: lab.path("s"),
        }
    }

    /// The address of an export.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("kill -s {name} {id}")])
            .status();
        assert!(status.expect("a shell").success());
    }

    /// Asks it to stop, and gives its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("it ends").code()
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
        let mut raw = Raw(self.connect());
        raw.get(18);
        raw.put(&3u32.to_be_bytes());
        raw.put(b"IHAVEOPT\0\0\0\x01");
        raw.put(&(name.len() as u32).to_be_bytes());
        raw.put(name.as_bytes());
        raw.get(10);
        raw
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
        let mut header = 0x2560_9513u32.to_be_bytes().to_vec();
        header.extend_from_slice(&flags.to_be_bytes());
        header.extend_from_slice(&kind.to_be_bytes());
        header.extend_from_slice(&cookie.to_be_bytes());
        header.extend_from_slice(&offset.to_be_bytes());
        header.extend_from_slice(&length.to_be_bytes());
        self.put(&header);
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
        self.0.read_to_end(&mut rest).map_or_else(
            |e| e.kind() == std::io::ErrorKind::ConnectionReset,
            |_| true,
        )
    }
}
