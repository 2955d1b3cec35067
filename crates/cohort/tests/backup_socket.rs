//! `cohort backup --socket`: the daemon that serves disks backs them up, while they are written to.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use lab::machine::{Machine, ask};
use lab::server::{Raw, Server};
use lab::{Lab, Ran, have, noise, signal};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;
const BLOCK: u64 = 4096;
const GRANULE: u64 = 64 << 10;

/// Two disks, served and commanded.
fn serve(lab: &Lab, more: &[&str]) -> Server {
    for (seed, name) in [(3, "a.raw"), (4, "b.raw")] {
        if !lab.path(name).exists() {
            lab.noise(name, seed, SIZE as usize);
        }
    }
    let disks = ["a.raw", "b.raw", "--qmp", "qmp.sock"];
    Server::start(lab, &[&disks[..], more].concat())
}

fn back_up(lab: &Lab, args: &[&str]) -> Ran {
    let common = ["backup", "--socket", "qmp.sock", "--to", "R"];
    lab.cohort(common.iter().chain(args))
}

fn write(client: &mut Raw, cookie: u64, offset: u64, data: &[u8]) {
    client.ask(0, 1, cookie, offset, data.len() as u32);
    client.put(data);
    assert_eq!(client.reply(), (0, cookie));
}

fn disk<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut disks = report["disks"].as_array().expect("disks").iter();
    disks.find(|disk| disk["name"] == name).expect("the disk")
}

/// A backup in the background, once the job of `a` has copied something.
fn begin(lab: &Lab, args: &[&str]) -> Child {
    let mut command = lab.program();
    command.args(["backup", "--socket", "qmp.sock", "--to", "R", "--json"]);
    let child = command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.unwrap();
    let copies = || {
        let jobs = ask(&lab.path("qmp.sock"), "query-jobs", json!({})).unwrap();
        let jobs = jobs.as_array().unwrap().clone();
        let copying = |job: &Value| job["current-progress"].as_u64() > Some(0);
        jobs.iter()
            .any(|job| job["id"].as_str().unwrap().ends_with(".a") && copying(job))
    };
    while !copies() {
        thread::yield_now();
    }
    child
}

fn finish(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

#[test]
fn served_disks_are_backed_up_together_and_by_what_their_stores_say() {
    let lab = Lab::new();
    let server = serve(&lab, &[]);
    let first = back_up(&lab, &["--json"]).exits(0).json();
    assert_eq!(disk(&first, "b")["copied_bytes"], SIZE);
    write(&mut server.enter("a"), 1, 5 * MIB, &noise(9, 100));
    let second = back_up(&lab, &["--json"]).exits(0).json();
    assert_eq!(
        (&second["event"], &second["run"]),
        (&json!("result"), &json!(2))
    );
    assert_eq!(disk(&second, "a")["copied_bytes"], GRANULE, "{second}");
    assert_eq!(disk(&second, "b")["copied_bytes"], 0, "{second}");
    assert!(
        second["fence"]["closed_us"].is_u64(),
        "one instant for both: {second}"
    );
    // One alone, and what the daemon recorded outlives it.
    write(&mut server.enter("b"), 1, MIB, &noise(10, 100));
    let third = back_up(&lab, &["b"]).exits(0);
    assert_eq!(third.stdout, "b@3: 64.0 KiB copied of 8.00 MiB\n");
    write(&mut server.enter("a"), 2, MIB, &noise(11, 100));
    assert_eq!(server.stop(), Some(0));
    for name in ["a", "b"] {
        let source = format!("{name}={name}.raw");
        let ran = lab
            .cohort(["backup", &source, "--to", "R", "--json"])
            .exits(0)
            .json();
        let changed = if name == "a" { GRANULE } else { 0 };
        assert_eq!(disk(&ran, name)["copied_bytes"], changed, "{ran}");
        lab.restores_to("R", name, &format!("{name}.raw"));
    }
    lab.cohort(["verify", "R"]).exits(0);
}

#[test]
fn the_report_is_the_one_of_a_run_without_a_daemon() {
    let (lab, other) = (Lab::new(), Lab::new());
    let server = serve(&lab, &[]);
    for name in ["a.raw", "b.raw"] {
        fs::copy(lab.path(name), other.path(name)).unwrap();
    }
    let alone = |json: &[&str]| {
        let args = [
            "backup", "a.raw", "b.raw", "--to", "R", "--policy", "always",
        ];
        other.cohort(args.iter().chain(json)).exits(0)
    };
    let with = |json: &[&str]| back_up(&lab, &[&["--policy", "always"], json].concat()).exits(0);
    assert_eq!(with(&[]).stdout, alone(&[]).stdout);
    let (with, alone) = (with(&["--json"]).json(), alone(&["--json"]).json());
    for name in ["a", "b"] {
        let (mut with, alone) = (disk(&with, name).clone(), disk(&alone, name).clone());
        let of_served = with.as_object_mut().unwrap();
        assert!(of_served.remove("writers").is_some());
        for differs in ["source", "notes"] {
            of_served.insert(differs.into(), alone[differs].clone());
        }
        assert_eq!(with, alone);
    }
    drop(server);
}

#[test]
fn writers_go_on_and_both_points_are_of_one_instant() {
    let lab = Lab::new();
    for name in ["a.raw", "b.raw"] {
        fs::write(lab.path(name), vec![0; SIZE as usize]).unwrap();
    }
    let server = serve(&lab, &[]);
    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut disks = ["a", "b"].map(|name| server.enter(name));
            while !stop.load(Ordering::Relaxed) && written.load(Ordering::Relaxed) < SIZE / BLOCK {
                let number = written.fetch_add(1, Ordering::Relaxed) + 1;
                let block = number.to_le_bytes().repeat(BLOCK as usize / 8);
                for disk in &mut disks {
                    write(
                        disk,
                        number,
                        (number - 1) * 7919 % (SIZE / BLOCK) * BLOCK,
                        &block,
                    );
                }
            }
        });
        while written.load(Ordering::Relaxed) < 50 {
            thread::yield_now();
        }
        back_up(&lab, &["--speed", "64M"]).exits(0);
        stop.store(true, Ordering::Relaxed);
    });
    let [a, b] = ["a", "b"].map(|name| {
        let _ = fs::remove_file(lab.path("point"));
        lab.cohort(["restore", "--from", "R", name, "point"])
            .exits(0);
        let bytes = fs::read(lab.path("point")).unwrap();
        let number = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
        let mut found: Vec<_> = bytes.chunks(BLOCK as usize).map(number).collect();
        found.retain(|number| *number > 0);
        found.sort_unstable();
        let count = found.len() as u64;
        assert_eq!(
            found,
            (1..=count).collect::<Vec<_>>(),
            "{name} is of one instant"
        );
        count
    });
    assert!(a >= 50 && (a == b || a == b + 1), "{a} and {b}");
}

#[test]
fn ctrl_c_stops_softly_and_the_policy_settles() {
    let lab = Lab::new();
    let server = serve(&lab, &[]);
    let run = begin(&lab, &["--policy", "always", "--speed", "2M"]);
    let socket = lab.path("qmp.sock").display().to_string();
    let list = lab
        .cohort(["job", "list", "--socket", &socket])
        .exits(0)
        .stdout;
    assert!(
        list.contains("run-1.a") && list.contains("run-1.b"),
        "{list}"
    );
    lab.cohort(["job", "pause", "run-1.a", "--socket", &socket])
        .exits(0);
    signal(&run, "INT");
    let stopped = finish(run)
        .exits(5)
        .says(&["Stopping: each disk keeps what its policy says."]);
    let report = stopped.json();
    assert_eq!(disk(&report, "a")["outcome"], "aborted");
    assert!(
        disk(&report, "a")["partial"]["durable_bytes"].as_u64() > Some(0),
        "{report}"
    );
    assert_eq!(
        ask(&lab.path("qmp.sock"), "query-jobs", json!({})),
        Ok(json!([]))
    );
    let next = back_up(&lab, &[])
        .exits(0)
        .says(&["from the partial of run 1"]);
    assert!(next.stdout.contains("a@2:"), "{}", next.stdout);
    lab.restores_to("R", "a", "a.raw");
    let run = begin_again(&lab, &server);
    signal(&run, "INT");
    let left = finish(run).exits(6).json();
    assert_eq!(disk(&left, "a")["partial"], Value::Null, "{left}");
    assert_eq!(server.stop(), Some(0));
}

/// All of `a` is other than it was, and is being copied, to be discarded.
fn begin_again(lab: &Lab, server: &Server) -> Child {
    write(&mut server.enter("a"), 9, 0, &noise(20, MIB as usize));
    begin(
        lab,
        &[
            "--policy",
            "always",
            "--speed",
            "256K",
            "--discard-on-interrupt",
        ],
    )
}

#[test]
fn a_run_goes_on_when_its_client_is_killed() {
    let lab = Lab::new();
    let server = serve(&lab, &[]);
    let mut run = begin(&lab, &["--speed", "4M"]);
    run.kill().unwrap();
    run.wait().unwrap();
    let socket = lab.path("qmp.sock").display().to_string();
    let watched = lab.cohort(["job", "watch", "--socket", &socket]).exits(0);
    assert!(
        watched
            .stdout
            .contains("run-1.a: done (8.00 MiB of 8.00 MiB)"),
        "{}",
        watched.stdout
    );
    lab.restores_to("R", "b", "b.raw");
    drop(server);
}

#[test]
fn a_daemon_that_ends_settles_the_run_and_its_client_is_told() {
    let lab = Lab::new();
    let server = serve(&lab, &[]);
    let run = begin(&lab, &["--policy", "always", "--speed", "2M"]);
    assert_eq!(server.stop(), Some(0));
    let report = finish(run).exits(5).json();
    assert!(
        disk(&report, "a")["partial"]["durable_bytes"].as_u64() > Some(0),
        "{report}"
    );
    let list = lab.cohort(["bitmap", "list", "a.raw"]).exits(0).stdout;
    assert!(
        list.contains("recording, exact"),
        "its store is closed: {list}"
    );
}

#[test]
fn a_run_that_a_killed_daemon_had_is_continued_by_the_next() {
    let lab = Lab::new();
    let server = serve(&lab, &[]);
    back_up(&lab, &[]).exits(0);
    write(&mut server.enter("a"), 1, 0, &noise(21, 2 * MIB as usize));
    let run = begin(&lab, &["--policy", "always", "--speed", "256K"]);
    drop(server);
    finish(run)
        .exits(54)
        .says(&["the daemon is gone", "cohort list"]);
    let server = serve(&lab, &[]);
    write(&mut server.enter("a"), 2, 4 * MIB, &noise(22, 100));
    let next = back_up(&lab, &["--json"]).exits(0).json();
    assert_eq!(disk(&next, "a")["outcome"], "committed");
    assert_eq!(server.stop(), Some(0));
    lab.restores_to("R", "a", "a.raw");
}

#[test]
fn what_is_wrong_is_told_as_without_a_daemon() {
    let lab = Lab::new();
    back_up(&lab, &[])
        .exits(54)
        .says(&["no daemon for this backup", "qmp.sock"]);
    let server = serve(&lab, &["--restrict", "."]);
    back_up(&lab, &["a", "c"])
        .exits(20)
        .says(&["the daemon has no disk 'c': its disks are a, b"]);
    let failed = back_up(&lab, &["c", "--json"]).exits(20);
    assert_eq!(failed.json()["exit"], "source-missing");
    back_up(&lab, &["--policy", "c=always"])
        .exits(2)
        .says(&["c"]);
    back_up(&lab, &["--bitmap", "a=b"]).exits(2);
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().display().to_string();
    let common = ["backup", "--socket", "qmp.sock", "--to", &outside];
    lab.cohort(common)
        .exits(1)
        .says(&["was told to open nothing else"]);
    // Somebody else writes into the directory.
    let run = begin(&lab, &["a", "--speed", "1M"]);
    back_up(&lab, &["b"]).exits(44);
    lab.cohort(["backup", "--socket", "qmp.sock", "--to", "R2", "a"])
        .exits(3)
        .says(&["a"]);
    signal(&run, "INT");
    finish(run).exits(5);
    drop(server);
    let empty = Lab::new();
    let none = Machine::ours(&empty, &[]);
    back_up(&empty, &["a"])
        .exits(20)
        .says(&["it was started without disks"]);
    back_up(&empty, &[]).exits(2);
    drop(none);
    if have(&["qemu-storage-daemon"]) {
        let lab = Lab::new();
        let _qemu = Machine::daemon(&lab, &[]);
        back_up(&lab, &[])
            .exits(54)
            .says(&["it is no `cohort serve`", "say qmp:SOCKET"]);
    }
}

#[test]
fn progress_is_told_as_it_goes() {
    let lab = Lab::new();
    let _server = serve(&lab, &[]);
    let mut run = begin(&lab, &["--speed", "2M"]);
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&first["event"], &first["phase"]),
        (&json!("progress"), &json!("copying"))
    );
    let last = lines.last().unwrap().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&last).unwrap()["event"],
        "result"
    );
    assert_eq!(run.wait().unwrap().code(), Some(0));
}

/// Whether the job of `a` runs.
fn runs(lab: &Lab) -> bool {
    let jobs = ask(&lab.path("qmp.sock"), "query-jobs", json!({})).unwrap();
    let jobs = jobs.as_array().unwrap();
    jobs.iter()
        .any(|job| job["id"].as_str().unwrap().ends_with(".a") && job["status"] == "running")
}

fn spawn(lab: &Lab, args: &[&str]) -> Child {
    let mut command = lab.program();
    command.args(["backup", "--socket", "qmp.sock", "--to", "R"]);
    let command = command.args(args).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn mode_none_saves_what_writers_overwrite_until_it_is_stopped() {
    let lab = Lab::new();
    let server = serve(&lab, &[]);
    let args = ["a", "--mode", "none", "--policy", "always", "--json"];
    let run = spawn(&lab, &args);
    while !runs(&lab) {
        thread::yield_now();
    }
    write(&mut server.enter("a"), 1, 3 * MIB, &noise(30, 100));
    signal(&run, "INT");
    let report = finish(run).exits(5).json();
    let partial = &disk(&report, "a")["partial"];
    assert_eq!(partial["durable_bytes"], json!(GRANULE), "{report}");
    let next = back_up(&lab, &["a", "--compress", "a=zlib", "--speed", "1G"]).exits(0);
    assert!(next.stdout.contains("a@2:"), "{}", next.stdout);
    assert_eq!(server.stop(), Some(0));
    lab.restores_to("R", "a", "a.raw");
}

#[test]
fn a_disk_that_stops_says_so_to_its_client_and_goes_on_when_that_is_told() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    lab.noise("a.raw", 3, SIZE as usize);
    lab.run("qemu-img convert -O qcow2 a.raw a.qcow2");
    let server = Server::start(&lab, &["a.qcow2", "--qmp", "qmp.sock"]);
    let whole = fs::read(lab.path("a.qcow2")).unwrap();
    let file = fs::File::options().write(true).open(lab.path("a.qcow2"));
    let file = file.unwrap();
    file.set_len(whole.len() as u64 - MIB).unwrap();
    let mut run = spawn(&lab, &["a", "--on-error", "stop"]);
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
    let told = lines.find_map(|line| line.ok().filter(|line| line.contains("have it try again")));
    let resume = format!("kill -CONT {}", run.id());
    assert!(told.unwrap().ends_with(&resume));
    std::os::unix::fs::FileExt::write_all_at(&file, &whole, 0).unwrap();
    signal(&run, "CONT");
    assert!(run.wait().unwrap().success());
    assert_eq!(server.stop(), Some(0));
    lab.restores_to("R", "a", "a.raw");
}
