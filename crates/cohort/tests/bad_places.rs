//! Disks and places that turn bad in the middle of a copy: no room, a source cut short, a layer changed beneath it; and the
//! same file by the name of a loop device. What needs root is skipped, loudly, without it.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use lab::{Lab, Ran, have, noise};
use serde_json::Value;

// Exit codes.
const CHANGED: i32 = 7;
const TARGET_FULL: i32 = 40;
const SOURCE_TWICE: i32 = 24;
const SOURCE_IS_TARGET: i32 = 25;

/// A backup that copies slowly enough to be met in the middle.
struct Slow {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Slow {
    fn start(lab: &Lab, args: &[&str]) -> Slow {
        let mut child = lab
            .program()
            .args(["backup", "--to", "R", "--speed", "2M", "--json"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let mut slow = Slow { child, out };
        slow.until(|event| event["phase"] == "copying" && event["done_bytes"].as_u64() > Some(0));
        slow
    }

    /// Reads what it tells until something is told that is awaited.
    fn until(&mut self, awaited: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            let length = self.out.read_line(&mut line).expect("a line");
            assert!(length > 0, "it ended before");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if awaited(&event) {
                return event;
            }
        }
    }

    fn end(mut self) -> Ran {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.out.read_to_string(&mut stdout).expect("text");
        let mut errors = self.child.stderr.take().expect("its errors");
        errors.read_to_string(&mut stderr).expect("text");
        let code = self.child.wait().expect("it ends").code();
        Ran {
            code,
            stdout,
            stderr,
        }
    }
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
    fs::write(lab.path("a.img"), noise(1, 8 << 20)).expect("a disk");
    let slow = Slow::start(&lab, &["a.img"]);
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
    fs::write(lab.path("base.img"), noise(1, 8 << 20)).expect("a layer");
    let over = [
        "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "a.qcow2",
    ];
    lab.tool("qemu-img", &over);
    let slow = Slow::start(&lab, &["a.qcow2"]);
    use std::os::unix::fs::FileExt;
    let base = fs::File::options().write(true).open(lab.path("base.img"));
    base.expect("the layer")
        .write_all_at(b"new", 7 << 20)
        .expect("written");
    slow.end().exits(CHANGED).says(&["base.img"]);
    lab.cohort(["backup", "a.qcow2", "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "base.img");
}

#[test]
fn a_full_file_system_fails_the_run_or_waits_for_room() {
    let lab = Lab::new();
    fs::write(lab.path("a.img"), noise(1, 8 << 20)).expect("a disk");
    fs::create_dir(lab.path("R")).expect("a directory");
    let (place, small) = (lab.path("R"), "size=4m");
    let place = place.to_string_lossy();
    if allowed("mount", &["-t", "tmpfs", "-o", small, "tmpfs", &place]).is_none() {
        return;
    }
    let mounted = Mounted(&lab);
    lab.cohort(["backup", "a.img", "--to", "R"])
        .exits(TARGET_FULL);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");
    let mut slow = Slow::start(&lab, &["a.img", "--on-target-error", "enospc"]);
    let told = slow.until(|event| event["event"] == "stopped");
    lab.tool("mount", &["-o", "remount,size=64m", &place]);
    let resume = told["resume"].as_str().expect("a command");
    lab.tool("sh", &["-c", resume]);
    slow.end().exits(0);
    lab.restores_to("R", "a", "a.img");
    drop(mounted);
}

/// Gives the mount back.
struct Mounted<'a>(&'a Lab);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.0.tool("umount", &["-l", "R"]);
    }
}

#[test]
fn a_loop_device_is_the_file_behind_it() {
    let lab = Lab::new();
    fs::write(lab.path("a.img"), noise(1, 1 << 20)).expect("a disk");
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    fs::write(lab.path("R/own.img"), noise(2, 1 << 20)).expect("a file");
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
