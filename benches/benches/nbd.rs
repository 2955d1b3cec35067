//! `cohort serve` beside `qemu-nbd`, an export of `qemu-storage-daemon`, and `nbdkit`'s file plugin: one raw file in the page
//! cache behind a unix socket, read and written by `nbdcopy` and by `fio`'s nbd engine.
//!
//! Give words to measure only rows that contain one: `cargo bench -p benches --bench nbd -- randread`. `COHORT_BENCH_MIB`
//! sets the size of the file, `COHORT_BENCH_ROUNDS` the number of rounds. The server measured is this program itself,
//! started again.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use benches::{machine, number, rest, timed};
use serde_json::Value;

/// Has this program be `cohort`.
const SERVES: &str = "COHORT_BENCH_SERVES";

/// The servers, ours first.
const SERVERS: [&str; 4] = ["cohort", "qemu-nbd", "storage-daemon", "nbdkit"];

fn main() -> ExitCode {
    if std::env::var_os(SERVES).is_some() {
        return cohort::main();
    }
    let (mib, rounds) = (
        number("COHORT_BENCH_MIB", 512),
        number("COHORT_BENCH_ROUNDS", 3),
    );
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    println!("{}", machine());
    println!("{mib} MiB in the page cache, unix sockets, median of {rounds} rounds\n");
    let header = SERVERS.map(|name| format!("{name:>16}")).concat();
    println!("{:<28}{header}{:>12}", "", "ours/best");
    let lab = tempfile::tempdir_in(std::env::current_dir().expect("a directory")).expect("a lab");
    let lab = lab.path();
    for name in ["disk.raw", "data.raw"] {
        fill(&lab.join(name), mib);
    }
    for row in rows() {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|word| row.name.contains(word));
        if is_wanted {
            measure(&row, rounds, lab, mib);
        }
    }
    ExitCode::SUCCESS
}

/// What is measured.
struct Row {
    name: String,
    unit: &'static str,
    work: Work,
}

enum Work {
    /// `nbdcopy` in either direction.
    Copy { to_server: bool },
    /// `fio` with 4 KiB at random places.
    Random {
        way: &'static str,
        depth: u32,
        connections: u32,
    },
}

fn rows() -> Vec<Row> {
    let copy = |name: &str, to_server| Row {
        name: name.to_owned(),
        unit: "MiB/s",
        work: Work::Copy { to_server },
    };
    let mut rows = vec![
        copy("seqread nbdcopy", false),
        copy("seqwrite nbdcopy", true),
    ];
    for way in ["randread", "randwrite"] {
        for connections in [1, 4] {
            for depth in [1, 16, 64] {
                rows.push(Row {
                    name: format!("{way} depth {depth} × {connections}"),
                    unit: "IOPS",
                    work: Work::Random {
                        way,
                        depth,
                        connections,
                    },
                });
            }
        }
    }
    rows
}

/// One row: the servers take turns, round after round, and another one begins each time.
fn measure(row: &Row, rounds: u64, lab: &Path, mib: u64) {
    let mut figures = [const { Vec::new() }; 4];
    for round in 0..=rounds as usize {
        for turn in 0..4 {
            let which = (round + turn) % 4;
            let server = Served::start(lab, SERVERS[which]);
            let figure = match row.work {
                Work::Copy { to_server } => copy(&server, to_server, lab, mib),
                Work::Random {
                    way,
                    depth,
                    connections,
                } => random(&server, way, depth, connections),
            };
            if round > 0 {
                figures[which].push(figure);
            }
        }
    }
    let medians = figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    });
    let best = medians[1..].iter().copied().fold(0.0, f64::max);
    let cells = medians.map(|median| format!("{median:>16.0}")).concat();
    println!(
        "{:<22}{:>6}{cells}{:>11.2}×",
        row.name,
        row.unit,
        medians[0] / best
    );
}

fn copy(server: &Served, to_server: bool, lab: &Path, mib: u64) -> f64 {
    let data = lab.join("data.raw").display().to_string();
    let args = if to_server {
        [data.as_str(), server.uri.as_str()]
    } else {
        [server.uri.as_str(), "null:"]
    };
    let mut command = Command::new("nbdcopy");
    command.args(args);
    let time = timed(|| assert!(command.status().expect("nbdcopy").success()));
    mib as f64 / time.as_secs_f64()
}

fn random(server: &Served, way: &str, depth: u32, connections: u32) -> f64 {
    let output = Command::new("fio")
        .args([
            "--name=x",
            "--ioengine=nbd",
            "--bs=4k",
            "--thread",
            "--time_based",
            "--runtime=1",
        ])
        .args([
            "--group_reporting",
            "--output-format=json",
            "--randrepeat=1",
        ])
        .args([format!("--uri={}", server.uri), format!("--rw={way}")])
        .args([
            format!("--iodepth={depth}"),
            format!("--numjobs={connections}"),
        ])
        .output()
        .expect("fio");
    let text = String::from_utf8_lossy(&output.stdout);
    // Its engine greets before the report.
    let text = &text[text.find('{').expect("a report")..];
    let report: Value = serde_json::from_str(text).expect("a report");
    let part = if way == "randread" { "read" } else { "write" };
    report["jobs"][0][part]["iops"].as_f64().expect("a figure")
}

/// A file of that size with bytes that repeat nowhere, in the page cache.
fn fill(path: &Path, mib: u64) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let block: Vec<u8> = words.take(1 << 17).flatten().collect();
    let mut file = File::create(path).expect("a file");
    for _ in 0..mib {
        std::io::Write::write_all(&mut file, &block).expect("its data");
    }
    file.sync_all().expect("it is on disk");
}

/// A server over the one file, alone with it: how large the pieces are that the page cache holds of a file differs between
/// copies of it, and makes more of a difference than servers do. Killed when dropped.
struct Served {
    child: Child,
    uri: String,
}

impl Served {
    fn start(lab: &Path, name: &str) -> Self {
        let (disk, socket) = (lab.join("disk.raw"), lab.join(name));
        let _ = fs::remove_file(&socket);
        let mut command = Self::command(name, &disk, &socket);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        while UnixStream::connect(&socket).is_err() {
            rest(std::time::Duration::from_millis(10));
        }
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        Self { child, uri }
    }

    fn command(name: &str, disk: &Path, socket: &PathBuf) -> Command {
        let (file, at) = (disk.display(), socket.display());
        match name {
            "cohort" => {
                let mut command = Command::new(std::env::current_exe().expect("our own path"));
                // None of the others keeps a record of changes.
                command.env(SERVES, "1").args(["serve", "--track", "off"]);
                command.arg(disk).arg("--socket").arg(socket);
                command
            }
            "qemu-nbd" => {
                let mut command = Command::new("qemu-nbd");
                command
                    .args(["-f", "raw", "--shared=16", "--persistent", "-x", ""])
                    .arg(disk);
                command.arg("-k").arg(socket);
                command
            }
            "storage-daemon" => {
                let mut command = Command::new("qemu-storage-daemon");
                command.args([
                    "--blockdev",
                    &format!("driver=file,node-name=d,filename={file}"),
                ]);
                command.args([
                    "--nbd-server",
                    &format!("addr.type=unix,addr.path={at},max-connections=0"),
                ]);
                command.args(["--export", "nbd,id=e,node-name=d,name=,writable=on"]);
                command
            }
            _ => {
                let mut command = Command::new("nbdkit");
                command.args(["--foreground", "--unix"]).arg(socket);
                command.args(["file", &format!("file={file}")]);
                command
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
