//! Running machines, backed up through their own monitor and NBD server: QEMU's storage daemon, and an emulator where
//! there is one.

mod ends;
mod instant;
#[path = "../lab/mod.rs"]
mod lab;

use std::fs;

use lab::machine::Machine;
use lab::slow::Slow;
use lab::{Lab, have};
use serde_json::{Value, json};

/// Bytes of the disks that writers write to.
const SIZE: u64 = 8 << 20;

/// A lab with two disks, a qcow2 image and a raw one, if QEMU's tools are here.
fn two_disks() -> Option<Lab> {
    if !have(&["qemu-img", "qemu-io", "qemu-storage-daemon"]) {
        return None;
    }
    let lab = Lab::new();
    lab.run(&format!("qemu-img create -q -f qcow2 a.qcow2 {SIZE}"));
    fs::write(lab.path("b.raw"), vec![0; SIZE as usize]).expect("a disk");
    Some(lab)
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

/// A backup that takes long, once it copies.
#[track_caller]
fn slow_backup(lab: &Lab, source: &str, speed: &str) -> Slow {
    let mut command = lab.program();
    command.args(["backup", source, "--to", "R", "--speed", speed, "--json"]);
    Slow::copying(&mut command, 0)
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

/// Asserts that no file in that folder of the lab has a name that begins so.
#[track_caller]
fn has_none_called(lab: &Lab, folder: &str, prefix: &str) {
    let entries = fs::read_dir(lab.path(folder)).expect("the folder");
    let mut names = entries.map(|entry| entry.expect("an entry").file_name());
    let found = names.find(|name| name.to_string_lossy().starts_with(prefix));
    assert_eq!(found, None);
}

#[test]
fn disks_come_between_runs_and_have_names_of_their_own() {
    let Some(lab) = two_disks() else { return };
    let machine = daemon(&lab);
    backup(&lab, "qmp:qmp.sock,root=a");
    lab.noise("c.raw", 3, 1 << 20);
    let c = json!({ "driver": "raw", "node-name": "c", "file": { "driver": "file", "filename": "c.raw" } });
    machine.does("blockdev-add", c);
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
fn a_hook_freezes_around_the_instant() {
    let Some(lab) = two_disks() else { return };
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
    let Some(lab) = two_disks() else { return };
    lab.noise("b.raw", 1, SIZE as usize);
    let machine = Machine::daemon(&lab, &[&A[..], &B[..]].concat());
    slow_backup(&lab, "qmp:qmp.sock", "64K").kill();
    for _ in 0..2 {
        backup(&lab, "qmp:qmp.sock");
        lab.restores_to("R", "b", "b.raw");
        machine.is_tidy(&["a", "b"]);
        let stopped = machine.ask("nbd-server-stop", json!({})).unwrap_err();
        assert!(stopped.contains("not running"), "{stopped}");
    }
    has_none_called(&lab, "", ".cohort");
}

#[test]
fn an_emulators_devices_are_backed_up_by_their_names() {
    let Some(lab) = two_disks().filter(|_| have(&["qemu-system-x86_64"])) else {
        return;
    };
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
        machine.does("human-monitor-command", json!({ "command-line": line }));
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
