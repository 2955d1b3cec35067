//! Disks and places that turn bad, in the middle of a copy or before: no room, a file system that takes nothing more, syncs
//! that fail, a source cut short, a layer changed beneath it; and the same file by the name of a loop device. What needs root is
//! skipped, loudly, without it.

mod lab;

use std::fs;
use std::process::Command;

use lab::slow::Slow;
use lab::{Lab, have, noise};

// Exit codes.
const CHANGED: i32 = 7;
const TARGET_FULL: i32 = 40;
const TARGET_FAILED: i32 = 41;
const DIRECTORY_UNUSABLE: i32 = 43;
const SOURCE_TWICE: i32 = 24;
const SOURCE_IS_TARGET: i32 = 25;

/// A backup that copies slowly enough to be met in the middle.
fn slow_backup(lab: &Lab, args: &[&str]) -> Slow {
    let mut command = lab.program();
    command.args(["backup", "--to", "R", "--speed", "2M", "--json"]);
    Slow::copying(command.args(args), 0)
}

/// Runs a tool that needs root; what it prints, or nothing if this is not allowed here, which is said.
fn allowed(program: &str, args: &[&str]) -> Option<String> {
    if !have(&[program]) {
        return None;
    }
    let output = Command::new(program).args(args).output().ok()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        eprintln!("SKIPPED: {program} is not allowed here: {why}");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_source_cut_short_midway_fails_and_names_the_place() {
    let lab = Lab::new();
    lab.noise("a.img", 1, 8 << 20);
    let slow = slow_backup(&lab, &["a.img"]);
    let file = fs::File::options().write(true).open(lab.path("a.img"));
    file.expect("the disk").set_len(1 << 20).expect("cut");
    let ran = slow.end().exits(3);
    ran.says(&["a.img", "at byte ", "shorter"]);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "a.img");
}

#[test]
fn a_layer_changed_underneath_is_named() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    lab.noise("base.img", 1, 8 << 20);
    let over = [
        "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "a.qcow2",
    ];
    lab.tool("qemu-img", &over);
    let slow = slow_backup(&lab, &["a.qcow2"]);
    lab.overwrite("base.img", b"new", 7 << 20);
    slow.end().exits(CHANGED).says(&["base.img"]);
    lab.cohort(["backup", "a.qcow2", "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "base.img");
}

#[test]
fn a_full_file_system_fails_the_run_or_waits_for_room() {
    let lab = Lab::new();
    lab.noise("a.img", 1, 8 << 20);
    let Some(place) = Mounted::tmpfs(&lab, "R", "4m") else {
        return;
    };
    lab.cohort(["backup", "a.img", "--to", "R"])
        .exits(TARGET_FULL);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");
    let mut slow = slow_backup(&lab, &["a.img", "--on-target-error", "enospc"]);
    let told = slow.until(|event| event["event"] == "stopped");
    place.remount("size=64m");
    let resume = told["resume"].as_str().expect("a command");
    lab.tool("sh", &["-c", resume]);
    slow.end().exits(0);
    lab.restores_to("R", "a", "a.img");
}

#[test]
fn a_restore_without_room_says_so_and_leaves_nothing() {
    let lab = Lab::new();
    lab.noise("a.img", 1, 8 << 20);
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let Some(place) = Mounted::tmpfs(&lab, "T", "2m") else {
        return;
    };
    for out in ["T/a.raw", "T/a.qcow2"] {
        let ran = lab.cohort(["restore", "a", out, "--from", "R", "--json"]);
        let ran = ran.exits(TARGET_FULL);
        let told = ran.says(&[out, "No space left on device"]).json();
        assert_eq!(told["exit"], "target-full", "{told}");
        let left = fs::read_dir(lab.path("T")).expect("the place").count();
        assert_eq!(left, 0, "something was left");
    }
    place.remount("size=64m");
    lab.cohort(["restore", "a", "T/a.raw", "--from", "R"])
        .exits(0);
    assert!(fs::read(lab.path("T/a.raw")).expect("the disk") == noise(1, 8 << 20));
}

#[test]
fn a_prune_without_room_keeps_every_point_and_goes_on_when_there_is_some() {
    let lab = Lab::new();
    let Some(_place) = Mounted::tmpfs(&lab, "R", "32m") else {
        return;
    };
    let mut disk = noise(1, 8 << 20);
    for run in 0..3 {
        disk[run << 20..][..1 << 20].copy_from_slice(&noise(run as u64 + 2, 1 << 20));
        fs::write(lab.path("a.img"), &disk).expect("a disk");
        lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    }
    let mut filler = fs::File::create(lab.path("R/filler")).expect("a file");
    let full = std::io::copy(&mut std::io::repeat(1), &mut filler).expect_err("it is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let prune = ["prune", "R", "--keep-last", "1"];
    let ran = lab.cohort(prune).exits(TARGET_FULL);
    let ran = ran.says(&["R/", "No space left on device"]);
    // Who is to make room is not kept out by the lock.
    assert!(!ran.stderr.contains("catalogue.lock"), "{}", ran.stderr);
    lab.restores_to("R", "a", "a.img");
    drop(filler);
    fs::remove_file(lab.path("R/filler")).expect("removed");
    lab.cohort(prune).exits(0);
    lab.cohort(["verify", "R"]).exits(0);
    lab.restores_to("R", "a", "a.img");
}

#[test]
fn a_read_only_file_system_is_told_and_can_be_read() {
    let lab = Lab::new();
    lab.noise("a.img", 1, 1 << 20);
    let Some(place) = Mounted::tmpfs(&lab, "R", "32m") else {
        return;
    };
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    fs::create_dir(lab.path("R/sub")).expect("a folder");
    place.remount("ro");
    let why = "Read-only file system";
    for args in [
        &["backup", "a.img", "--to", "R"][..],
        &["prune", "R", "--keep-last", "1"],
    ] {
        lab.cohort(args).exits(DIRECTORY_UNUSABLE).says(&["R", why]);
    }
    lab.restores_to("R", "a", "a.img");
    lab.cohort(["verify", "R"]).exits(0);
    lab.cohort(["restore", "a", "R/sub/a.raw", "--from", "R"])
        .exits(TARGET_FAILED)
        .says(&["R/sub", why]);
    place.remount("rw");
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "a.img");
}

#[test]
fn syncs_that_fail_for_real_are_told_and_nothing_counts_that_they_lost() {
    let lab = Lab::new();
    let disk = noise(1, 8 << 20);
    fs::write(lab.path("a.img"), &disk).expect("a disk");
    // A file system that believes in 64 MiB, in a file that can have four of them.
    let Some(beneath) = Mounted::tmpfs(&lab, "T", "4m") else {
        return;
    };
    let image = fs::File::create(lab.path("T/image")).expect("a file");
    image.set_len(64 << 20).expect("it is sparse");
    lab.run("mkfs.ext4 -q -O ^has_journal T/image");
    let Some(_mounted) = Mounted::image(&lab, "R", "T/image") else {
        return;
    };
    // Writes go well; the sync says what became of them, each kernel in its way.
    let ran = lab.cohort(["backup", "a.img", "--to", "R", "--json"]);
    let exits = [
        (TARGET_FULL, "target-full", "No space left on device"),
        (TARGET_FAILED, "target-failed", "Input/output error"),
    ];
    let (code, word, why) = exits[usize::from(ran.stderr.contains("Input/output error"))];
    let ran = ran.exits(code).says(&["R/a.1-", "flush", why]);
    assert_eq!(ran.json()["exit"], word);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");
    beneath.remount("size=80m");
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "a.img");
}

/// Something mounted, given back in the end.
struct Mounted<'a> {
    lab: &'a Lab,
    place: &'static str,
}

impl<'a> Mounted<'a> {
    fn tmpfs(lab: &'a Lab, place: &'static str, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        Self::mount(lab, place, &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    fn image(lab: &'a Lab, place: &'static str, image: &str) -> Option<Self> {
        let image = lab.path(image);
        Self::mount(lab, place, &["-o", "loop", &image.to_string_lossy()])
    }

    fn mount(lab: &'a Lab, place: &'static str, args: &[&str]) -> Option<Self> {
        let path = lab.path(place);
        fs::create_dir(&path).expect("a directory");
        allowed("mount", &[args, &[&path.to_string_lossy()]].concat())?;
        Some(Self { lab, place })
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        let path = self.lab.path(self.place);
        self.lab
            .tool("mount", &["-o", &option, &path.to_string_lossy()]);
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.lab.tool("umount", &["-l", self.place]);
    }
}

#[test]
fn a_loop_device_is_the_file_behind_it() {
    let lab = Lab::new();
    lab.noise("a.img", 1, 1 << 20);
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.noise("R/own.img", 2, 1 << 20);
    let attach = |file: &str| {
        let file = lab.path(file);
        allowed("losetup", &["-f", "--show", &file.to_string_lossy()])
    };
    let Some(twin) = attach("a.img") else { return };
    let inside = attach("R/own.img").expect("a second one");
    let twice = lab.cohort(["backup", "a.img", &format!("b={twin}"), "--to", "R"]);
    let target = lab.cohort(["backup", &format!("c={inside}"), "--to", "R"]);
    let onto = lab.cohort(["copy", &twin, "a.img", "--force"]);
    for device in [&twin, &inside] {
        lab.tool("losetup", &["-d", device]);
    }
    twice.exits(SOURCE_TWICE);
    target.exits(SOURCE_IS_TARGET);
    onto.exits(SOURCE_IS_TARGET);
    assert!(fs::read(lab.path("a.img")).expect("the disk") == noise(1, 1 << 20));
}
