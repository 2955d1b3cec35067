//! `cohort top` in a terminal, against our daemon with a job that does not come to its end, and against QEMU's.

use std::io::Read;
use std::time::{Duration, Instant};

#[path = "../lab/mod.rs"]
mod lab;
mod terminal;

use lab::machine::{Machine, ask};
use lab::server::Server;
use lab::{Lab, have, noise};
use pty_process::Size;
use pty_process::blocking::{Command, open};
use serde_json::{Value, json};
use terminal::Terminal;

const MIB: u64 = 1 << 20;

const PATIENCE: Duration = Duration::from_secs(60);

/// A disk `vda` that is served, and a group of two slow backups of it and of another one.
fn busy(lab: &Lab) -> Server {
    lab.noise("vda.raw", 7, 8 * MIB as usize);
    let server = Server::start(lab, &["vda.raw", "--qmp", "qmp.sock"]);
    let command = |name: &str, arguments: Value| {
        ask(&lab.path("qmp.sock"), name, arguments).unwrap();
    };
    for name in ["t0", "t1", "vdb"] {
        let null =
            json!({ "driver": "null-co", "node-name": name, "size": 8 * MIB, "read-zeroes": true });
        command("blockdev-add", null);
    }
    command(
        "block-dirty-bitmap-add",
        json!({ "node": "vda", "name": "nightly" }),
    );
    let backup = |id: &str, device: &str, target: &str| {
        json!({ "type": "blockdev-backup", "data": { "job-id": id, "device": device, "target": target,
            "sync": "full", "speed": 65536, "x-perf": { "max-workers": 1, "max-chunk": 65536 } } })
    };
    let actions = [backup("first", "vda", "t0"), backup("second", "vdb", "t1")];
    let grouped = json!({ "actions": actions, "properties": { "completion-mode": "grouped" } });
    command("transaction", grouped);
    server
}

fn command(lab: &Lab) -> Command {
    Command::new(env!("CARGO_BIN_EXE_cohort"))
        .args(["top", "--socket", "qmp.sock", "--interval", "100ms"])
        .env("TERM", "xterm-256color")
        .current_dir(lab.path(""))
}

fn top(lab: &Lab, rows: u16, columns: u16) -> Terminal {
    Terminal::run(command(lab), rows, columns)
}

/// Prints a picture if somebody wants to look at it.
fn show(picture: &str) {
    if std::env::var_os("COHORT_SHOW").is_some() {
        println!("{picture}");
    }
}

/// Has it end by its key: well, and with the terminal as it was.
#[track_caller]
fn quits(top: Terminal) {
    top.press("q");
    let (status, screen, is_restored) = top.end();
    assert!(status.success() && is_restored, "{status} {screen}");
}

fn status_of(lab: &Lab, id: &str) -> Option<String> {
    let jobs = ask(&lab.path("qmp.sock"), "query-jobs", json!({})).unwrap();
    let mut jobs = jobs.as_array().unwrap().iter();
    let job = jobs.find(|job| job["id"] == id)?;
    Some(job["status"].as_str().unwrap().to_owned())
}

#[test]
fn jobs_are_shown_paused_and_cancelled() {
    let lab = Lab::new();
    let server = busy(&lab);
    let mut client = server.enter("vda");
    client.ask(0, 1, 1, 0, 4096);
    client.put(&noise(1, 4096));
    assert_eq!(client.reply(), (0, 1));
    let top = top(&lab, 24, 80);
    let picture = top.shows(&[
        "transaction",
        "first",
        "second",
        "running",
        "nightly 64.0 KiB",
    ]);
    show(&picture);
    // Its rate is known once it was looked at twice.
    top.shows(&["KiB/s"]);
    top.press("p");
    top.shows(&["paused", "first: pause accepted"]);
    top.press("p");
    top.wait_for(|screen| !screen.contents().contains("paused"));
    top.press("\u{1b}[B");
    top.press("c");
    top.shows(&["Cancel second, and its group with it?"]);
    top.press("n");
    top.wait_for(|screen| !screen.contents().contains("Cancel second"));
    assert_eq!(status_of(&lab, "second").as_deref(), Some("running"));
    top.press("?");
    top.shows(&["choose a job"]);
    top.press("\u{1b}");
    top.wait_for(|screen| !screen.contents().contains("choose a job"));
    top.press("c");
    top.shows(&["Cancel second"]);
    top.press("y");
    top.shows(&["no jobs", "0 committed, 1 aborted"]);
    assert_eq!(status_of(&lab, "first"), None, "its group went with it");
    quits(top);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_large_terminal_shows_more() {
    let lab = Lab::new();
    let _server = busy(&lab);
    let top = top(&lab, 50, 200);
    let picture = top.shows(&[
        "KiB/s",
        "CLIENTS",
        "REQ/S",
        "limit 64.0 KiB/s",
        "of 8.00 MiB",
    ]);
    show(&picture);
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    let lab = Lab::new();
    let server = busy(&lab);
    for (how, code) in [("q", 0), ("\u{3}", 0), ("TERM", 0), ("HUP", 0)] {
        let top = top(&lab, 24, 80);
        top.shows(&["first", "running"]);
        match how {
            "TERM" | "HUP" => lab::signal(top.child(), how),
            key => top.press(key),
        }
        let (status, screen, is_restored) = top.end();
        assert_eq!(status.code(), Some(code), "{how:?}: {screen}");
        assert!(is_restored, "{how:?}: {screen}");
    }
    let top = top(&lab, 24, 80);
    top.shows(&["first", "running"]);
    assert_eq!(server.stop(), Some(0));
    let (status, screen, is_restored) = top.end();
    assert_eq!(status.code(), Some(54), "{screen}");
    assert!(is_restored, "{screen}");
    assert!(screen.contains("qmp.sock"), "it says who is gone: {screen}");
}

/// As when its window is closed, or the connection to it is lost.
#[test]
fn it_ends_when_its_terminal_is_gone() {
    let lab = Lab::new();
    let _server = busy(&lab);
    let (mut pty, inside) = open().unwrap();
    pty.resize(Size::new(24, 80)).unwrap();
    let mut child = command(&lab).spawn(inside).unwrap();
    let (mut drawn, mut bytes) = (String::new(), [0; 4096]);
    while !drawn.contains("first") {
        let read = pty.read(&mut bytes).unwrap();
        drawn.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    drop(pty);
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it goes on without a terminal");
        }
        std::thread::yield_now();
    }
}

#[test]
fn without_a_terminal_there_is_one_snapshot() {
    let lab = Lab::new();
    let _server = busy(&lab);
    let plain = lab.cohort(["top", "--socket", "qmp.sock"]).exits(0).stdout;
    for part in [
        "2 jobs in 1 group",
        "transaction-1 (open)",
        "first",
        "second",
        "running",
        "nightly 0 B",
    ] {
        assert!(plain.contains(part), "{part}:\n{plain}");
    }
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let told = lab
        .cohort(["top", "--socket", "qmp.sock", "--json"])
        .exits(0)
        .json();
    assert_eq!(told["jobs"][0]["id"], "first");
    assert_eq!(
        told["statistics"]["groups"][0]["jobs"],
        json!(["first", "second"])
    );
    lab.cohort(["top", "--socket", "nobody"]).exits(54);
}

#[test]
fn of_qemu_s_daemon_the_jobs_are_shown() {
    if !have(&["qemu-storage-daemon"]) {
        return;
    }
    let lab = Lab::new();
    let machine = Machine::daemon(&lab, &[]);
    for name in ["d", "t"] {
        let null =
            json!({ "driver": "null-co", "node-name": name, "size": MIB, "read-zeroes": true });
        machine.does("blockdev-add", null);
    }
    let backup = json!({ "job-id": "slow", "device": "d", "target": "t", "sync": "full", "speed": 65536,
        "x-perf": { "max-workers": 1, "max-chunk": 65536 } });
    machine.does("blockdev-backup", backup);
    let top = top(&lab, 24, 80);
    top.shows(&["slow", "running", "tells no figures"]);
    top.press("p");
    top.shows(&["paused"]);
    top.press("c");
    top.shows(&["Cancel slow"]);
    top.press("y");
    top.shows(&["slow: cancel"]);
    quits(top);
}
