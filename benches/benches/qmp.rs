//! `cohort serve` beside `qemu-storage-daemon`, both commanded over QMP on a unix socket: a grouped transaction of null
//! backups, `query-jobs` while many jobs live, and what an idle server holds in memory with 64 exports.
//!
//! `COHORT_BENCH_JOBS` sets the number of jobs that live while they are asked for (the peer is asked with a tenth),
//! `COHORT_BENCH_ROUNDS` the number of rounds. The server measured is this program itself, started again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use benches::{machine, number, rest, status_bytes, timed};
use serde_json::{Value, json};

/// Has this program be `cohort`.
const SERVES: &str = "COHORT_BENCH_SERVES";

/// Members of the grouped transaction.
const MEMBERS: usize = 1024;

/// Exports of the idle server.
const EXPORTS: usize = 64;

fn main() -> ExitCode {
    if std::env::var_os(SERVES).is_some() {
        return cohort::main();
    }
    let (jobs, rounds) = (
        number("COHORT_BENCH_JOBS", 10_000),
        number("COHORT_BENCH_ROUNDS", 5),
    );
    let lab = tempfile::tempdir().expect("a lab");
    println!("{}", machine());
    println!("median of {rounds} rounds, a socket each\n");
    println!(
        "{:<44}{:>14}{:>16}{:>10}",
        "", "cohort", "storage-daemon", ""
    );
    let [mut ours, mut theirs] = Kind::BOTH.map(|kind| Server::start(kind, lab.path()));
    let [a, b] = median_of(rounds, [&mut ours, &mut theirs], Server::group);
    row(
        &format!("grouped transaction of {MEMBERS} null backups"),
        a,
        b,
    );
    let (few, many) = (jobs / 10, jobs);
    for (server, jobs) in [(&mut ours, few), (&mut theirs, few)] {
        server.keep_alive(0..jobs);
    }
    let [a, b] = median_of(rounds, [&mut ours, &mut theirs], Server::query_jobs);
    row(&format!("query-jobs, {few} jobs"), a, b);
    drop(theirs);
    ours.keep_alive(few..many);
    let [a] = median_of(rounds, [&mut ours], Server::query_jobs);
    println!(
        "{:<44}{:>11.2} ms",
        format!("query-jobs, {many} jobs"),
        millis(a)
    );
    drop(ours);
    let [ours, theirs] = Kind::BOTH.map(|kind| idle(kind, lab.path()));
    let name = format!("resident when idle, {EXPORTS} exports");
    println!("{name:<44}{:>10.1} MiB{:>12.1} MiB", mib(ours), mib(theirs));
    ExitCode::SUCCESS
}

fn row(name: &str, ours: Duration, theirs: Duration) {
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!(
        "{name:<44}{:>11.2} ms{:>13.2} ms{ratio:>9.1}×",
        millis(ours),
        millis(theirs)
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The servers take turns, after one round that does not count.
fn median_of<const N: usize>(
    rounds: usize,
    mut servers: [&mut Server; N],
    work: impl Fn(&mut Server) -> Duration,
) -> [Duration; N] {
    let mut times = [const { Vec::new() }; N];
    for round in 0..=rounds {
        for (server, times) in servers.iter_mut().zip(&mut times) {
            let time = work(server);
            if round > 0 {
                times.push(time);
            }
        }
    }
    times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    })
}

/// What a server holds that has so many exports, and no client but the one that made them.
fn idle(kind: Kind, lab: &Path) -> usize {
    let mut server = Server::start(kind, lab);
    let at = lab.join("nbd");
    let address = json!({ "type": "unix", "data": { "path": at } });
    server.call("nbd-server-start", json!({ "addr": address }));
    for number in 0..EXPORTS {
        let (disk, name) = (lab.join(format!("{number}.raw")), format!("d{number}"));
        File::create(&disk)
            .and_then(|file| file.set_len(1 << 30))
            .expect("a disk");
        let node = json!({ "driver": "file", "filename": disk, "node-name": name });
        server.call("blockdev-add", node);
        let export = json!({ "type": "nbd", "id": name, "node-name": name, "writable": true });
        server.call("block-export-add", export);
    }
    rest(Duration::from_millis(500));
    status_bytes(&server.child.id().to_string(), "VmRSS").expect("its account")
}

#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Theirs,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Ours, Self::Theirs];

    fn command(self, socket: &Path) -> Command {
        match self {
            Self::Ours => {
                let mut command = Command::new(std::env::current_exe().expect("our own path"));
                command
                    .env(SERVES, "1")
                    .args(["serve", "--qmp"])
                    .arg(socket);
                command
            }
            Self::Theirs => {
                let mut command = Command::new("qemu-storage-daemon");
                let chardev = format!("socket,path={},server=on,wait=off,id=c", socket.display());
                command.args(["--chardev", &chardev, "--monitor", "chardev=c"]);
                command
            }
        }
    }
}

/// A server and its one client. Killed when dropped.
struct Server {
    child: Child,
    to: UnixStream,
    from: BufReader<UnixStream>,
    /// Nodes were made for so many members.
    nodes: usize,
}

impl Server {
    fn start(kind: Kind, lab: &Path) -> Self {
        let socket: PathBuf = lab.join("qmp");
        let _ = fs::remove_file(&socket);
        let mut command = kind.command(&socket);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.process_group(0).spawn().expect("the server");
        let to = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) => rest(Duration::from_millis(10)),
            }
        };
        let from = BufReader::new(to.try_clone().expect("both ways"));
        let mut server = Self {
            child,
            to,
            from,
            nodes: 0,
        };
        server.call("qmp_capabilities", json!({}));
        server
    }

    fn send(&mut self, command: &str, arguments: Value) {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.to.write_all(line.as_bytes()).expect("it listens");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.from.read_line(&mut line).expect("it speaks");
        assert!(read > 0 && !line.starts_with(r#"{"error""#), "{line}");
        line
    }

    fn call(&mut self, command: &str, arguments: Value) -> String {
        self.send(command, arguments);
        loop {
            let line = self.line();
            if line.starts_with(r#"{"return""#) {
                return line;
            }
        }
    }

    /// A source and a target for each of so many members.
    fn need_nodes(&mut self, members: usize) {
        for number in self.nodes..members {
            for name in ["s", "t"] {
                let node = json!({ "driver": "null-co", "node-name": format!("{name}{number}"), "size": 65536,
                    "read-zeroes": true });
                self.call("blockdev-add", node);
            }
        }
        self.nodes = self.nodes.max(members);
    }

    /// A grouped transaction, until its last job is gone.
    fn group(&mut self) -> Duration {
        self.need_nodes(MEMBERS);
        let actions: Vec<_> = (0..MEMBERS).map(|number| backup(number, true)).collect();
        timed(|| {
            self.send(
                "transaction",
                json!({ "actions": actions, "properties": { "completion-mode": "grouped" } }),
            );
            self.answer_and(MEMBERS, "null");
        })
    }

    /// Has these jobs live: they wait to be finalized.
    fn keep_alive(&mut self, jobs: std::ops::Range<usize>) {
        self.need_nodes(jobs.end);
        for number in jobs {
            let job = backup(number, false);
            self.send("blockdev-backup", job["data"].clone());
            self.answer_and(1, "pending");
        }
    }

    /// Reads on until the command sent last is answered, before the events that come of it or after some of them, and so
    /// many jobs are in this status.
    fn answer_and(&mut self, jobs: usize, status: &str) {
        let (mut answered, mut there) = (false, 0);
        while !answered || there < jobs {
            let line = self.line();
            answered |= line.starts_with(r#"{"return""#);
            there += usize::from(is_now(&line, status));
        }
    }

    fn query_jobs(&mut self) -> Duration {
        timed(|| self.call("query-jobs", json!({})))
    }
}

fn backup(number: usize, ends: bool) -> Value {
    json!({ "type": "blockdev-backup", "data": { "job-id": format!("j{number}"), "device": format!("s{number}"),
        "target": format!("t{number}"), "sync": "full", "auto-finalize": ends } })
}

/// Whether the line tells that a job's status is this one; QEMU sets spaces where we do not.
fn is_now(line: &str, status: &str) -> bool {
    let told = format!(r#""status":"{status}""#);
    line.contains(r#""JOB_STATUS_CHANGE""#) && line.replace(' ', "").contains(&told)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
