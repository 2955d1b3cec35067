//! What happens in the middle of a run: Ctrl-C, once and twice, and with `--discard-on-interrupt`; a source that changes;
//! another run; a look at the directory.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use lab::{Lab, noise, signal};
use serde_json::Value;

/// A slow backup of `a.img`, once it has told that it is copying.
fn slow_backup(lab: &Lab, more: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = lab.program();
    command
        .args(["backup", "a.img", "--to", "R", "--speed", "8M", "--json"])
        .args(more);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output"));
    let copying =
        |event: Value| event["phase"] == "copying" && event["done_bytes"].as_u64() > Some(1 << 20);
    let mut line = String::new();
    while !serde_json::from_str(&line).is_ok_and(copying) {
        line.clear();
        assert!(
            lines.read_line(&mut line).expect("a line") > 0,
            "it ended before it copied anything"
        );
    }
    (child, lines)
}

/// The exit code and the last line of its output.
fn end(mut child: Child, lines: BufReader<ChildStdout>) -> (Option<i32>, Value) {
    let last = lines
        .lines()
        .map_while(Result::ok)
        .last()
        .expect("a result");
    (
        child.wait().expect("it ends").code(),
        serde_json::from_str(&last).expect("JSON"),
    )
}

fn lab_with_a_disk() -> Lab {
    let lab = Lab::new();
    fs::write(lab.path("a.img"), noise(1, 24 << 20)).expect("a disk");
    lab
}

fn finishes_afterwards(lab: &Lab) {
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.cohort(["restore", "--from", "R", "a", "out"]).exits(0);
    assert!(
        fs::read(lab.path("out")).expect("restored")
            == fs::read(lab.path("a.img")).expect("the disk")
    );
}

#[test]
fn one_interrupt_keeps_what_the_policy_says() {
    let lab = lab_with_a_disk();
    let (child, lines) = slow_backup(&lab, &["--policy", "always"]);
    signal(&child, "INT");
    let (code, result) = end(child, lines);
    assert_eq!(code, Some(5), "{result}");
    let kept = result["disks"][0]["partial"]["durable_bytes"].as_u64();
    assert!(kept >= Some(1 << 20), "{result}");
    finishes_afterwards(&lab);
}

#[test]
fn an_interrupt_may_leave_no_trace() {
    let lab = lab_with_a_disk();
    let (child, lines) = slow_backup(&lab, &["--policy", "always", "--discard-on-interrupt"]);
    signal(&child, "INT");
    let (code, result) = end(child, lines);
    assert_eq!(code, Some(6), "{result}");
    assert_eq!(lab.images("R"), Vec::<std::path::PathBuf>::new());
    finishes_afterwards(&lab);
}

#[test]
fn a_second_interrupt_does_not_hurt() {
    let lab = lab_with_a_disk();
    let (child, lines) = slow_backup(&lab, &["--policy", "always"]);
    signal(&child, "INT");
    signal(&child, "INT");
    let (code, result) = end(child, lines);
    assert_eq!(code, Some(5), "{result}");
    finishes_afterwards(&lab);
}

#[test]
fn a_source_that_changes_while_it_is_read_fails() {
    let lab = lab_with_a_disk();
    let (child, lines) = slow_backup(&lab, &[]);
    let disk = fs::OpenOptions::new()
        .write(true)
        .open(lab.path("a.img"))
        .expect("the disk");
    std::os::unix::fs::FileExt::write_all_at(&disk, b"changed", 20 << 20).expect("a write");
    let (code, result) = end(child, lines);
    assert_eq!(code, Some(7), "{result}");
    let message = result["disks"][0]["message"].as_str().expect("a message");
    assert!(
        message.contains("a.img") && message.contains("changed while read"),
        "{message}"
    );
    finishes_afterwards(&lab);
}

#[test]
fn a_change_may_be_accepted_and_the_point_says_so() {
    let lab = lab_with_a_disk();
    let (child, lines) = slow_backup(&lab, &["--accept-changed"]);
    let disk = fs::OpenOptions::new()
        .write(true)
        .open(lab.path("a.img"))
        .expect("the disk");
    std::os::unix::fs::FileExt::write_all_at(&disk, b"changed", 20 << 20).expect("a write");
    let (code, result) = end(child, lines);
    assert_eq!(code, Some(0), "{result}");
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"][0]["instant"], "no-instant", "{list}");
}

#[test]
fn others_may_look_but_not_write_meanwhile() {
    let lab = lab_with_a_disk();
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let before = fs::read(lab.path("a.img")).expect("the disk");
    fs::write(lab.path("a.img"), noise(9, 24 << 20)).expect("a change");
    let (child, lines) = slow_backup(&lab, &[]);
    lab.cohort(["backup", "a.img", "--to", "R"])
        .exits(44)
        .says(&["another run", "R"]);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(1), "{list}");
    lab.cohort(["explain", "a.img", "--to", "R"]).exits(0);
    lab.cohort(["restore", "--from", "R", "a", "old"]).exits(0);
    assert!(fs::read(lab.path("old")).expect("restored") == before);
    signal(&child, "INT");
    end(child, lines);
    finishes_afterwards(&lab);
}
