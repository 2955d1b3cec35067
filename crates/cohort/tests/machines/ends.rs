//! Runs and machines that end before their time: killed, failed, or with their instant lost.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use super::*;

#[test]
fn what_a_killed_run_left_is_resolved_by_the_next_one() {
    let Some(lab) = two_disks() else { return };
    let machine = daemon(&lab);
    write(&lab, "a", "write -P 1 0 4M");
    write(&lab, "b", "write -P 1 2M 4M");
    // Before there is a point at all, and after.
    for round in 0..3 {
        slow_backup(&lab, "qmp:qmp.sock", "64K").kill();
        let jobs = machine.does("query-jobs", json!({}));
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
    let Some(lab) = two_disks() else { return };
    let machine = daemon(&lab);
    write(&lab, "a", "write -P 1 0 1M");
    backup(&lab, "qmp:qmp.sock");
    // What ends in order keeps the bitmap that its image can keep, also of what is written meanwhile.
    machine.quit();
    lab.qemu_io("qcow2", "a.qcow2", &["write -P 3 2M 64k"]);
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
fn a_failed_run_leaves_the_checkpoint_that_the_last_point_goes_by() {
    let Some(lab) = two_disks() else { return };
    let machine = daemon(&lab);
    backup(&lab, "qmp:qmp.sock");
    let before = machine.is_tidy(&["a", "b"]);
    write(&lab, "a", "write -P 1 0 1M");
    // A hook that fails, a folder that the machine cannot write to.
    for failing in [["--hook", "false"], ["--scratch", "/proc"]] {
        let ran = lab.cohort([&["backup", "qmp:qmp.sock", "--to", "R"][..], &failing].concat());
        ran.exits(1);
        assert_eq!(machine.is_tidy(&["a", "b"]), before);
    }
    let report = backup(&lab, "qmp:qmp.sock");
    assert_eq!(disk(&report, "a")["copied_bytes"], 1 << 20, "{report}");
    restores_to_what_is_there(&lab, "a");
    assert_ne!(machine.is_tidy(&["a", "b"]), before);
}

#[test]
fn an_instant_that_is_lost_midway_makes_no_point() {
    let Some(lab) = two_disks() else { return };
    let machine = daemon(&lab);
    backup(&lab, "qmp:qmp.sock");
    let before = machine.is_tidy(&["a", "b"]);
    write(&lab, "a", "write -P 1 0 1M");
    let slow = slow_backup(&lab, "qmp:qmp.sock,a,b", "256K");
    // The second monitor of the same machine.
    machine
        .ask_at("more.sock", "job-cancel", json!({ "id": job_of(&machine) }))
        .unwrap();
    let report = slow.end().exits(7).json();
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
/// A machine of QEMU 10.1 that is told to break the snapshot would say nothing when it does, and the point would hold what
/// was written after its instant.
#[test]
fn no_machine_is_asked_to_break_an_instant_unsaid() {
    let Some(lab) = two_disks() else { return };
    // Its server is ours to start: it could not be found behind the spy.
    let _machine = Machine::daemon(&lab, &[&A[..], &B[..]].concat());
    let listener = UnixListener::bind(lab.path("spy.sock")).expect("a socket");
    let told = thread::scope(|scope| {
        let spy = scope.spawn(|| spy(&listener, &lab.path("qmp.sock")));
        backup(&lab, "qmp:spy.sock");
        spy.join().expect("the spy")
    });
    assert!(told.contains("blockdev-backup"), "{told}");
    assert!(!told.contains("on-cbw-error"), "{told}");
}

/// Passes on what one client and a machine say to each other; gives all that the client said.
fn spy(listener: &UnixListener, machine: &Path) -> String {
    let (client, _) = listener.accept().expect("a client");
    let machine = UnixStream::connect(machine).expect("a machine");
    thread::scope(|scope| {
        scope.spawn(|| io::copy(&mut &machine, &mut &client));
        let mut said = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match (&client).read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    said.extend(&bytes[..read]);
                    (&machine).write_all(&bytes[..read]).expect("it listens");
                }
            }
        }
        machine.shutdown(Shutdown::Both).expect("it ends");
        String::from_utf8(said).expect("text")
    })
}

fn job_of(machine: &Machine) -> String {
    let jobs = machine
        .ask_at("more.sock", "query-jobs", json!({}))
        .unwrap();
    let mut jobs = jobs.as_array().expect("jobs").iter();
    let ours = jobs.find_map(|job| job["id"].as_str().filter(|id| id.ends_with("j0")));
    ours.expect("our job").to_owned()
}
