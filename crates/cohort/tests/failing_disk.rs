//! One disk of a group fails in the middle of its copy: nothing new counts, the message says where, and what each disk
//! keeps is what its policy says.

mod lab;

use std::fs;

use lab::{Lab, have};

/// Two good raw disks and a qcow2 image whose later half is cut off: its tables are whole, its data is not. Nothing if
/// QEMU's tool is not here.
fn broken_lab() -> Option<Lab> {
    if !have(&["qemu-img"]) {
        return None;
    }
    let lab = Lab::new();
    for (disk, seed) in [("a.img", 1), ("b.img", 2), ("c.img", 3)] {
        lab.noise(disk, seed, 6 << 20);
    }
    lab.run("qemu-img convert -O qcow2 c.img c.qcow2");
    let whole = fs::read(lab.path("c.qcow2")).expect("the image");
    fs::write(lab.path("c.whole"), &whole).expect("a copy");
    fs::write(lab.path("c.qcow2"), &whole[..whole.len() / 2]).expect("the image");
    Some(lab)
}

fn mend(lab: &Lab) {
    fs::copy(lab.path("c.whole"), lab.path("c.qcow2")).expect("mended");
}

fn restores_all(lab: &Lab) {
    for disk in ["a", "b", "c"] {
        lab.restores_to("R", disk, &format!("{disk}.img"));
    }
    lab.images_are_clean("R");
}

#[test]
fn a_group_fails_whole_and_the_next_run_succeeds() {
    let Some(lab) = broken_lab() else { return };
    let args = ["backup", "a.img", "b.img", "c.qcow2", "--to", "R"];
    lab.cohort(args).exits(3).says(&["c.qcow2", "at byte "]);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");
    mend(&lab);
    lab.cohort(args).exits(0);
    restores_all(&lab);
}

#[test]
fn individual_disks_go_on_without_the_one_that_fails() {
    let Some(lab) = broken_lab() else { return };
    let args = [
        "backup",
        "a.img",
        "b.img",
        "c.qcow2",
        "--to",
        "R",
        "--individual",
    ];
    lab.cohort(args).exits(3);
    for disk in ["a", "b"] {
        lab.restores_to("R", disk, &format!("{disk}.img"));
    }
    mend(&lab);
    lab.cohort(args).exits(0);
    restores_all(&lab);
}

#[test]
fn always_keeps_a_partial_and_the_next_run_continues_it() {
    let Some(lab) = broken_lab() else { return };
    let args = [
        "backup", "c.qcow2", "--to", "R", "--policy", "always", "--json",
    ];
    let failed = lab.cohort(args).exits(3).json();
    let partial = &failed["disks"][0]["partial"];
    assert_eq!(partial["decision"], "keep", "{failed}");
    let kept = partial["durable_bytes"].as_u64().expect("bytes");
    assert!(kept > 0, "{failed}");
    mend(&lab);
    let done = lab.cohort(args).exits(0).json();
    let copied = done["disks"][0]["copied_bytes"].as_u64().expect("bytes");
    assert_eq!(
        copied + kept,
        6 << 20,
        "only what was missing is copied: {done}"
    );
    assert_eq!(
        lab.images_of("R", "c").len(),
        1,
        "the partial became the point"
    );
    lab.restores_to("R", "c", "c.img");
    lab.images_are_clean("R");
}

#[test]
fn ask_refuses_that_disk_until_it_is_answered() {
    for answer in ["keep", "discard"] {
        let Some(lab) = broken_lab() else { return };
        let args = [
            "backup", "a.img", "c.qcow2", "--to", "R", "--policy", "c=ask",
        ];
        lab.cohort(args).exits(3);
        mend(&lab);
        // Only that disk is left out, and both answers are in the message.
        lab.cohort(args)
            .exits(8)
            .says(&["bitmap decide keep", "bitmap decide discard"]);
        lab.restores_to("R", "a", "a.img");
        lab.cohort(["restore", "--from", "R", "c", "none"])
            .exits(47);
        lab.cohort(["bitmap", "decide", answer, "--from", "R", "c"])
            .exits(0);
        lab.cohort(args).exits(0);
        lab.restores_to("R", "c", "c.img");
        lab.images_are_clean("R");
    }
}

#[test]
fn what_cannot_be_read_may_be_skipped_within_bounds_and_is_named() {
    let Some(lab) = broken_lab() else { return };
    lab.cohort(["backup", "c.qcow2", "--to", "R", "--on-error", "skip:3"])
        .exits(4)
        .says(&["could not be read"]);
    let done = lab
        .cohort([
            "backup",
            "c.qcow2",
            "--to",
            "R",
            "--on-error",
            "skip:1000",
            "--json",
        ])
        .exits(0)
        .json();
    let skipped = done["disks"][0]["skipped"]
        .as_array()
        .expect("ranges")
        .clone();
    assert!(!skipped.is_empty(), "{done}");
    lab.cohort(["restore", "--from", "R", "c", "out"])
        .exits(0)
        .says(&["incomplete"]);
    let (restored, whole) = (
        fs::read(lab.path("out")).expect("restored"),
        fs::read(lab.path("c.img")).expect("the disk"),
    );
    let hole = |offset: usize| {
        skipped.iter().any(|range| {
            let at = |field: &str| range[field].as_u64().expect("a number") as usize;
            (at("offset")..at("offset") + at("length")).contains(&offset)
        })
    };
    assert!(
        restored
            .iter()
            .zip(&whole)
            .enumerate()
            .all(|(offset, (r, w))| r == w || hole(offset))
    );
    // The next run copies the holes first thing: the point after it is whole.
    mend(&lab);
    lab.cohort(["backup", "c.qcow2", "--to", "R"]).exits(0);
    lab.restores_to("R", "c", "c.img");
}
