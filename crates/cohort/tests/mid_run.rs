//! What happens in the middle of a run: Ctrl-C, once and twice, and with `--discard-on-interrupt`; a source that changes;
//! another run; a look at the directory.

mod lab;

use std::fs;

use lab::Lab;
use lab::slow::Slow;

/// A slow backup of `a.img`, once it has told that it is copying.
fn slow_backup(lab: &Lab, more: &[&str]) -> Slow {
    let mut command = lab.program();
    command.args(["backup", "a.img", "--to", "R", "--speed", "8M", "--json"]);
    Slow::copying(command.args(more), 1 << 20)
}

fn lab_with_a_disk() -> Lab {
    let lab = Lab::new();
    lab.noise("a.img", 1, 24 << 20);
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
    let slow = slow_backup(&lab, &["--policy", "always"]);
    slow.signal("INT");
    let result = slow.end().exits(5).json();
    let kept = result["disks"][0]["partial"]["durable_bytes"].as_u64();
    assert!(kept >= Some(1 << 20), "{result}");
    finishes_afterwards(&lab);
}

#[test]
fn an_interrupt_may_leave_no_trace() {
    let lab = lab_with_a_disk();
    let slow = slow_backup(&lab, &["--policy", "always", "--discard-on-interrupt"]);
    slow.signal("INT");
    slow.end().exits(6);
    assert_eq!(lab.images("R"), Vec::<std::path::PathBuf>::new());
    finishes_afterwards(&lab);
}

/// A forced cancel takes what an earlier run had kept along, so nothing is said to have been kept.
#[test]
fn what_is_discarded_is_not_said_to_be_kept() {
    let lab = lab_with_a_disk();
    let slow = slow_backup(&lab, &["--policy", "always"]);
    slow.signal("INT");
    slow.end().exits(5).says(&["the next run continues it"]);
    let more = ["--policy", "always", "--discard-on-interrupt"];
    let slow = slow_backup(&lab, &more);
    slow.signal("INT");
    let ran = slow.end().exits(6);
    assert!(!ran.stderr.contains("kept"), "{}", ran.stderr);
    finishes_afterwards(&lab);
}

#[test]
fn a_second_interrupt_does_not_hurt() {
    let lab = lab_with_a_disk();
    let slow = slow_backup(&lab, &["--policy", "always"]);
    slow.signal("INT");
    slow.signal("INT");
    slow.end().exits(5);
    finishes_afterwards(&lab);
}

#[test]
fn a_source_that_changes_while_it_is_read_fails() {
    let lab = lab_with_a_disk();
    let slow = slow_backup(&lab, &[]);
    lab.overwrite("a.img", b"changed", 20 << 20);
    let result = slow.end().exits(7).json();
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
    let slow = slow_backup(&lab, &["--accept-changed"]);
    lab.overwrite("a.img", b"changed", 20 << 20);
    slow.end().exits(0);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"][0]["instant"], "no-instant", "{list}");
}

#[test]
fn others_may_look_but_not_write_meanwhile() {
    let lab = lab_with_a_disk();
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let before = fs::read(lab.path("a.img")).expect("the disk");
    lab.noise("a.img", 9, 24 << 20);
    let slow = slow_backup(&lab, &[]);
    lab.cohort(["backup", "a.img", "--to", "R"])
        .exits(44)
        .says(&["another run", "R"]);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(1), "{list}");
    lab.cohort(["explain", "a.img", "--to", "R"]).exits(0);
    lab.cohort(["restore", "--from", "R", "a", "old"]).exits(0);
    assert!(fs::read(lab.path("old")).expect("restored") == before);
    slow.signal("INT");
    slow.end();
    finishes_afterwards(&lab);
}
