//! Running machines, backed up through their own monitor and NBD server: QEMU's storage daemon, and an emulator where
//! there is one.

mod lab;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use lab::machine::Machine;
use lab::server::Raw;
use lab::{Lab, have, noise};
use serde_json::{Value, json};

const TOOLS: [&str; 3] = ["qemu-img", "qemu-io", "qemu-storage-daemon"];

/// Bytes of the disks that writers write to.
const SIZE: u64 = 8 << 20;

/// What a writer writes at once.
const BLOCK: u64 = 4096;

/// A qcow2 image and a raw one.
fn two_disks(lab: &Lab) {
    lab.tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "a.qcow2", &SIZE.to_string()],
    );
    fs::write(lab.path("b.raw"), vec![0; SIZE as usize]).expect("a disk");
}

const A: [&str; 4] = [
    "--blockdev",
    "driver=file,node-name=a-file,filename=a.qcow2",
    "--blockdev",
    "driver=qcow2,node-name=a,file=a-file",
];

const B: [&str; 2] = ["--blockdev", "driver=file,node-name=b,filename=b.raw"];

/// An NBD server of the user's, with both disks to be written to.
const EXPORTS: [&str; 6] = [
    "--nbd-server",
    "addr.type=unix,addr.path=w.sock,max-connections=0",
    "--export",
    "nbd,id=wa,node-name=a,writable=on,name=a",
    "--export",
    "nbd,id=wb,node-name=b,writable=on,name=b",
];

fn daemon(lab: &Lab) -> Machine {
    Machine::daemon(lab, &[&A[..], &B[..], &EXPORTS[..]].concat())
}

fn uri(lab: &Lab, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", lab.path("w.sock").display())
}

fn write(lab: &Lab, name: &str, command: &str) {
    let uri = uri(lab, name);
    let said = lab.tool("qemu-io", &["-f", "raw", "-c", command, &uri]);
    assert!(!said.contains("failed"), "{said}");
}

/// Runs a backup of the machine; it must succeed. Gives its report.
#[track_caller]
fn backup(lab: &Lab, source: &str) -> Value {
    lab.cohort(["backup", source, "--to", "R", "--json"])
        .exits(0)
        .json()
}

fn disk<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut disks = report["disks"].as_array().expect("disks").iter();
    disks.find(|disk| disk["name"] == name).expect("the disk")
}

fn notes(report: &Value, name: &str) -> String {
    disk(report, name)["notes"].to_string()
}

/// What is at the export now is what the last point of the disk restores to.
#[track_caller]
fn restores_to_what_is_there(lab: &Lab, name: &str) {
    let _ = fs::remove_file(lab.path("now"));
    lab.tool(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri(lab, name), "now"],
    );
    lab.restores_to("R", name, "now");
}

/// Where in the disks the writer's write of that number goes.
fn place(number: u64) -> u64 {
    (number * 7919 % (SIZE / BLOCK)) * BLOCK
}

/// What it writes there.
fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK as usize / 8)
}

/// Writes one block after the other to both disks, the same to `a` and then to `b`, until told to stop; `written` counts.
fn write_on(lab: &Lab, written: &AtomicU64, stop: &AtomicBool) {
    let mut disks = ["a", "b"].map(|name| Raw::enter_at(&lab.path("w.sock"), name));
    while !stop.load(Ordering::Relaxed) {
        let number = written.load(Ordering::Relaxed) + 1;
        for disk in &mut disks {
            disk.ask(0, 1, number, place(number), BLOCK as u32);
            disk.put(&block(number));
            assert_eq!(disk.reply(), (0, number));
        }
        written.store(number, Ordering::Relaxed);
    }
}

/// Asserts that both points of a run are of one instant: what the writer had written up to a moment, and no more.
#[track_caller]
fn are_of_one_instant(lab: &Lab, run: u64) {
    let numbers = ["a", "b"].map(|name| {
        let _ = fs::remove_file(lab.path("point"));
        let point = format!("{name}@{run}");
        lab.cohort(["restore", "--from", "R", &point, "point"])
            .exits(0);
        let bytes = fs::read(lab.path("point")).expect("a disk");
        let blocks = bytes.chunks(BLOCK as usize).map(|block| {
            let number = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
            assert!(
                block.chunks(8).all(|part| part == number.to_le_bytes()),
                "torn"
            );
            number
        });
        let found: Vec<_> = blocks.collect();
        let last = found.iter().copied().max().expect("blocks");
        let mut expected = HashMap::new();
        for number in 1..=last {
            expected.insert(place(number), number);
        }
        for (at, number) in found.into_iter().enumerate() {
            let expected = expected.get(&(at as u64 * BLOCK)).copied().unwrap_or(0);
            assert_eq!(number, expected, "block {at} of {point}, of {last} writes");
        }
        last
    });
    assert!(
        numbers[0] == numbers[1] || numbers[0] == numbers[1] + 1,
        "{numbers:?}"
    );
    assert!(numbers[1] > 0, "the writer had begun");
}

#[test]
fn three_grouped_backups_under_writers_are_each_of_one_instant_and_incremental() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    let written = AtomicU64::new(0);
    for run in 1..=3 {
        let stop = AtomicBool::new(false);
        let report = thread::scope(|scope| {
            let writer = scope.spawn(|| write_on(&lab, &written, &stop));
            let begun = written.load(Ordering::Relaxed) + 100;
            while written.load(Ordering::Relaxed) < begun && !writer.is_finished() {
                thread::yield_now();
            }
            let report = lab.cohort(["backup", "qmp:qmp.sock", "--to", "R", "--json"]);
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("the writer");
            report
        });
        let report = report.exits(0).json();
        assert_eq!(report["run"], run);
        are_of_one_instant(&lab, run);
        let checkpoints = machine.is_tidy(&["a", "b"]);
        assert!(
            checkpoints
                .iter()
                .all(|name| name.ends_with(&format!("-{run}"))),
            "{checkpoints:?}"
        );
        for name in ["a", "b"] {
            let copied = disk(&report, name)["copied_bytes"]
                .as_u64()
                .expect("a number");
            assert!(
                run == 1 || !notes(&report, name).contains("compared"),
                "{report}"
            );
            assert!(copied > 0, "{report}");
        }
    }
    // Nobody writes any more: little changes, little is copied, and it is all there.
    backup(&lab, "qmp:qmp.sock,a,b");
    write(&lab, "a", "write -P 9 1M 64k");
    write(&lab, "b", "write -P 9 3M 64k");
    let report = backup(&lab, "qmp:qmp.sock,a,b");
    for name in ["a", "b"] {
        assert_eq!(disk(&report, name)["copied_bytes"], 64 << 10, "{report}");
        restores_to_what_is_there(&lab, name);
    }
    let left = fs::read_dir(lab.path("R"))
        .expect("the directory")
        .flatten();
    let left: Vec<_> = left.map(|file| file.file_name()).collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with("cohort-")),
        "{left:?}"
    );
    lab.images_are_clean("R");
}

/// Starts a backup that takes long, and kills it once it copies.
#[track_caller]
fn killed(lab: &Lab, source: &str) {
    let args = ["backup", source, "--to", "R", "--speed", "64K", "--json"];
    let mut child = lab
        .program()
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let told = lines.map_while(Result::ok).find(|line| {
        let told: Value = serde_json::from_str(line).expect("JSON");
        told["phase"] == "copying" || told["event"] == "result"
    });
    assert!(
        told.is_some_and(|line| line.contains("copying")),
        "it ended before"
    );
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
}

#[test]
fn what_a_killed_run_left_is_resolved_by_the_next_one() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    write(&lab, "a", "write -P 1 0 4M");
    write(&lab, "b", "write -P 1 2M 4M");
    // Before there is a point at all, and after.
    for round in 0..3 {
        killed(&lab, "qmp:qmp.sock");
        let jobs = machine.ask("query-jobs", json!({})).unwrap();
        assert_eq!(
            jobs.as_array().expect("jobs").len(),
            2,
            "it was killed in the middle"
        );
        write(&lab, "a", &format!("write -P 7 {round}M 128k"));
        let report = backup(&lab, "qmp:qmp.sock");
        machine.is_tidy(&["a", "b"]);
        for name in ["a", "b"] {
            restores_to_what_is_there(&lab, name);
            assert!(!notes(&report, name).contains("compared"), "{report}");
        }
        if round > 0 {
            assert_eq!(
                disk(&report, "a")["copied_bytes"],
                (128 + 512) << 10,
                "{report}"
            );
        }
        write(&lab, "a", "write -P 5 5M 512k");
        write(&lab, "b", "write -P 5 5M 512k");
    }
}

#[test]
fn after_an_unclean_end_each_disk_is_compared_and_says_why() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    write(&lab, "a", "write -P 1 0 1M");
    backup(&lab, "qmp:qmp.sock");
    // What ends in order keeps the bitmap that its image can keep, also of what is written meanwhile.
    machine.quit();
    lab.tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 3 2M 64k", "a.qcow2"],
    );
    let machine = daemon(&lab);
    let report = backup(&lab, "qmp:qmp.sock");
    assert_eq!(notes(&report, "a"), "[]", "{report}");
    assert!(notes(&report, "b").contains("started anew"), "{report}");
    assert_eq!(disk(&report, "a")["copied_bytes"], 64 << 10, "{report}");
    restores_to_what_is_there(&lab, "a");
    machine.is_tidy(&["a", "b"]);
    // Killed, once when the image has the bitmap, in use, and once when it was not stored yet.
    machine.quit();
    let machine = daemon(&lab);
    write(&lab, "a", "write -P 2 0 64k");
    write(&lab, "b", "write -P 2 64k 64k");
    drop(machine);
    for says in ["did not end cleanly", "started anew"] {
        let machine = daemon(&lab);
        let report = backup(&lab, "qmp:qmp.sock");
        assert!(notes(&report, "a").contains(says), "{report}");
        assert!(notes(&report, "b").contains("started anew"), "{report}");
        for name in ["a", "b"] {
            assert_eq!(disk(&report, name)["copied_bytes"], 64 << 10, "{report}");
            restores_to_what_is_there(&lab, name);
        }
        machine.is_tidy(&["a", "b"]);
        write(&lab, "a", "write -P 6 128k 64k");
        write(&lab, "b", "write -P 6 256k 64k");
        drop(machine);
    }
}

#[test]
fn disks_come_between_runs_and_have_names_of_their_own() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    backup(&lab, "qmp:qmp.sock,root=a");
    fs::write(lab.path("c.raw"), noise(3, 1 << 20)).expect("a disk");
    let c = json!({ "driver": "raw", "node-name": "c", "file": { "driver": "file", "filename": "c.raw" } });
    machine.ask("blockdev-add", c).unwrap();
    write(&lab, "a", "write -P 3 0 64k");
    let report = backup(&lab, "qmp:qmp.sock,root=a,c,second=b");
    assert_eq!(disk(&report, "root")["copied_bytes"], 64 << 10, "{report}");
    assert_eq!(disk(&report, "c")["copied_bytes"], 1 << 20, "{report}");
    lab.restores_to("R", "c", "c.raw");
    machine.is_tidy(&["a", "b", "c"]);
    let listed = lab
        .cohort(["bitmap", "list", "qmp:qmp.sock", "--json"])
        .exits(0)
        .json();
    let listed = listed["bitmaps"].as_array().expect("bitmaps").iter();
    let listed: Vec<_> = listed
        .map(|one| (one["node"].as_str(), one["run"].as_u64()))
        .collect();
    assert_eq!(
        listed,
        [
            (Some("a"), Some(2)),
            (Some("b"), Some(2)),
            (Some("c"), Some(2))
        ]
    );
    let table = lab
        .cohort(["bitmap", "list", "qmp:qmp.sock"])
        .exits(0)
        .stdout;
    assert_eq!(table.matches("run 2").count(), 3, "{table}");
    // A disk that is left out keeps its checkpoint.
    backup(&lab, "qmp:qmp.sock,second=b");
    write(&lab, "a", "write -P 4 64k 64k");
    let report = backup(&lab, "qmp:qmp.sock,root=a");
    assert_eq!(disk(&report, "root")["copied_bytes"], 64 << 10, "{report}");
    machine.is_tidy(&["a", "b", "c"]);
    for (source, says) in [
        ("qmp:qmp.sock,x", "\"x\""),
        ("qmp:none", "none"),
        ("qmp:", "SOCKET"),
    ] {
        let code = if source == "qmp:qmp.sock,x" {
            20
        } else if source == "qmp:" {
            2
        } else {
            21
        };
        lab.cohort(["backup", source, "--to", "fresh"])
            .exits(code)
            .says(&[says]);
        assert!(
            !lab.path("fresh").exists(),
            "a mistyped source leaves no directory"
        );
    }
    machine.is_tidy(&["a", "b", "c"]);
}

#[test]
fn a_failed_run_leaves_the_checkpoint_that_the_last_point_goes_by() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    backup(&lab, "qmp:qmp.sock");
    let before = machine.is_tidy(&["a", "b"]);
    write(&lab, "a", "write -P 1 0 1M");
    // A hook that fails, a folder that the machine cannot write to, a target that is full.
    let failing = ["--hook", "false"];
    lab.cohort([&["backup", "qmp:qmp.sock", "--to", "R"][..], &failing].concat())
        .exits(1);
    assert_eq!(machine.is_tidy(&["a", "b"]), before);
    let failing = ["--scratch", "/proc"];
    lab.cohort([&["backup", "qmp:qmp.sock", "--to", "R"][..], &failing].concat())
        .exits(1);
    assert_eq!(machine.is_tidy(&["a", "b"]), before);
    let report = backup(&lab, "qmp:qmp.sock");
    assert_eq!(disk(&report, "a")["copied_bytes"], 1 << 20, "{report}");
    restores_to_what_is_there(&lab, "a");
    assert_ne!(machine.is_tidy(&["a", "b"]), before);
}

#[test]
fn an_instant_that_is_lost_midway_makes_no_point() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    backup(&lab, "qmp:qmp.sock");
    let before = machine.is_tidy(&["a", "b"]);
    write(&lab, "a", "write -P 1 0 1M");
    // A hook has the monitor no more than we have; but it knows when there is an instant.
    let args = [
        "backup",
        "qmp:qmp.sock,a,b",
        "--to",
        "R",
        "--speed",
        "256K",
        "--json",
    ];
    let mut child = lab
        .program()
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let copies = |line: &String| line.contains("copying");
    assert!(
        lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| copies(&line))
    );
    // The second monitor of the same machine.
    machine
        .ask_at("more.sock", "job-cancel", json!({ "id": job_of(&machine) }))
        .unwrap();
    let last = lines.map_while(Result::ok).last().expect("a result");
    let report: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(child.wait().expect("it ends").code(), Some(7), "{report}");
    assert!(
        disk(&report, "a")["message"]
            .to_string()
            .contains("instant"),
        "{report}"
    );
    assert_eq!(machine.is_tidy(&["a", "b"]), before);
    let report = backup(&lab, "qmp:qmp.sock");
    assert_eq!(disk(&report, "a")["copied_bytes"], 1 << 20, "{report}");
    restores_to_what_is_there(&lab, "a");
}

/// The job that keeps the instant of `a`.
fn job_of(machine: &Machine) -> String {
    let jobs = machine
        .ask_at("more.sock", "query-jobs", json!({}))
        .unwrap();
    let mut jobs = jobs.as_array().expect("jobs").iter();
    let ours = jobs.find_map(|job| job["id"].as_str().filter(|id| id.ends_with("j0")));
    ours.expect("our job").to_owned()
}

#[test]
fn a_hook_freezes_around_the_instant() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = daemon(&lab);
    fs::write(lab.path("hook"), "#!/bin/sh\necho \"$1\" >>said\n").expect("a hook");
    let args = ["backup", "qmp:qmp.sock", "--to", "R", "--hook", "sh hook"];
    lab.cohort(args).exits(0);
    assert_eq!(
        fs::read_to_string(lab.path("said")).expect("it ran"),
        "freeze\nthaw\n"
    );
    machine.is_tidy(&["a", "b"]);
}

#[test]
fn a_machine_without_an_nbd_server_gets_one_for_as_long_as_it_takes() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    fs::write(lab.path("b.raw"), noise(1, SIZE as usize)).expect("a disk");
    let machine = Machine::daemon(&lab, &[&A[..], &B[..]].concat());
    killed(&lab, "qmp:qmp.sock");
    for _ in 0..2 {
        backup(&lab, "qmp:qmp.sock");
        lab.restores_to("R", "b", "b.raw");
        machine.is_tidy(&["a", "b"]);
        let stopped = machine.ask("nbd-server-stop", json!({})).unwrap_err();
        assert!(stopped.contains("not running"), "{stopped}");
    }
    let hidden = fs::read_dir(lab.path("")).expect("the lab").flatten();
    let hidden: Vec<_> = hidden.map(|file| file.file_name()).collect();
    assert!(
        !hidden
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".cohort")),
        "{hidden:?}"
    );
}

#[test]
fn an_emulators_devices_are_backed_up_by_their_names() {
    if !have(&TOOLS) || !have(&["qemu-system-x86_64"]) {
        return;
    }
    let lab = Lab::new();
    two_disks(&lab);
    let machine = Machine::emulator(
        &lab,
        &[
            "-drive",
            "if=none,id=vda,file=a.qcow2,format=qcow2",
            "-device",
            "virtio-blk-pci,drive=vda",
            "-blockdev",
            "driver=raw,node-name=bb,file.driver=file,file.filename=b.raw",
            "-device",
            "virtio-blk-pci,drive=bb,id=data",
        ],
    );
    let io = |device: &str, command: &str| {
        let line = format!("qemu-io {device} \"{command}\"");
        machine
            .ask("human-monitor-command", json!({ "command-line": line }))
            .unwrap();
    };
    io("vda", "write -P 1 0 1M");
    let report = backup(&lab, "qmp:qmp.sock");
    assert_eq!(disk(&report, "vda")["copied_bytes"], 1 << 20, "{report}");
    io("vda", "write -P 2 1M 64k");
    io(
        "-d /machine/peripheral/data/virtio-backend",
        "write -P 3 0 64k",
    );
    let report = backup(&lab, "qmp:qmp.sock");
    for name in ["vda", "data"] {
        assert_eq!(disk(&report, name)["copied_bytes"], 64 << 10, "{report}");
    }
    machine.is_tidy(&["bb"]);
    machine.quit();
    lab.keep("a.qcow2", "a.now");
    lab.restores_to("R", "vda", "a.now");
    lab.restores_to("R", "data", "b.raw");
}
