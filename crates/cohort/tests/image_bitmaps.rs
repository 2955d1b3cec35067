//! Backups that go by a bitmap which QEMU keeps in the image: used only by name and only if our own last verdict speaks of
//! it, and cleared only of what a point holds.

mod lab;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use lab::{Lab, have};
use serde_json::{Value, json};

const GRANULE: u64 = 65536;

/// A lab with the image `a.qcow2`, which has the enabled bitmap `b` and some data.
fn marked_lab() -> Option<Lab> {
    if !have(&["qemu-img", "qemu-io"]) {
        return None;
    }
    let lab = Lab::new();
    lab.run("qemu-img create -q -f qcow2 a.qcow2 8M");
    lab.run("qemu-img bitmap --add a.qcow2 b");
    write(&lab, "write -P 1 1M 512k");
    Some(lab)
}

/// A guest's write, through QEMU, which marks the bitmap.
fn write(lab: &Lab, command: &str) {
    lab.qemu_io("qcow2", "a.qcow2", &[command]);
}

/// Backs `a` up by its bitmap; gives the report.
#[track_caller]
fn run(lab: &Lab, more: &[&str]) -> Value {
    let args = [
        "backup",
        "a=a.qcow2",
        "--to",
        "R",
        "--bitmap",
        "a=b",
        "--json",
    ];
    lab.cohort([&args[..], more].concat()).exits(0).json()
}

/// Backs `a` up by its bitmap; gives how much was copied and what was said.
#[track_caller]
fn back_up(lab: &Lab) -> (u64, String) {
    let report = run(lab, &[]);
    let disk = &report["disks"][0];
    (
        disk["copied_bytes"].as_u64().expect("bytes"),
        disk["notes"].to_string(),
    )
}

/// The last point reads as the image does now, and `qemu-img check` finds nothing.
#[track_caller]
fn restores(lab: &Lab) {
    lab.keep("a.qcow2", "now");
    lab.restores_to("R", "a", "now");
    lab.run("qemu-img check -q -f qcow2 a.qcow2");
}

/// The dirty bytes of the bitmap, as QEMU merges them into a fresh one and we read it.
fn dirty(lab: &Lab) -> u64 {
    use cohort_bitmap::store::qcow2::Bitmaps;
    let file = cohort_block::OsFile::open(lab.path("a.qcow2"), false).expect("the image");
    let bitmaps = Bitmaps::open(file).expect("its bitmaps");
    bitmaps.read("b").expect("the bitmap").dirty_bytes()
}

#[test]
fn a_run_with_a_bitmap_copies_its_granules_and_the_next_one_goes_by_it_again() {
    let Some(lab) = marked_lab() else { return };
    let (_, said) = back_up(&lab);
    assert!(said.contains("the disk has no point yet"), "{said}");
    assert!(said.contains("was cleared of what run 1 holds"), "{said}");
    assert_eq!(dirty(&lab), 0);
    for round in 0..3 {
        write(&lab, &format!("write -P {} {}M 100k", round + 2, round + 3));
        // The same bytes again: a comparison would not copy them, the bitmap does.
        write(&lab, "write -P 1 1M 64k");
        let (copied, said) = back_up(&lab);
        assert_eq!(copied, 3 * GRANULE, "{said}");
        assert_eq!(dirty(&lab), 0);
        restores(&lab);
    }
}

/// It is not what the last backup left: our own word is missing, so the disk is compared once more.
#[test]
fn a_bitmap_that_the_last_backup_did_not_use_is_not_gone_by() {
    let Some(lab) = marked_lab() else { return };
    back_up(&lab);
    write(&lab, "write -P 2 3M 64k");
    let ran = lab.cohort(["backup", "a=a.qcow2", "--to", "R"]).exits(0);
    ran.says(&["go by it with --bitmap a=b"]);
    assert_eq!(dirty(&lab), GRANULE, "not named, so left alone");
    write(&lab, "write -P 2 3M 64k");
    let (copied, said) = back_up(&lab);
    assert_eq!(copied, 0, "{said}");
    assert!(said.contains("took nothing from a bitmap"), "{said}");
    restores(&lab);
    // Another file in its place is another image, whatever is in it.
    fs::copy(lab.path("a.qcow2"), lab.path("copy")).expect("a copy");
    fs::rename(lab.path("copy"), lab.path("a.qcow2")).expect("in its place");
    let (_, said) = back_up(&lab);
    assert!(said.contains("the image is another file"), "{said}");
}

#[test]
fn a_run_that_fails_takes_nothing_from_the_bitmap() {
    let Some(lab) = marked_lab() else { return };
    back_up(&lab);
    write(&lab, "write -P 2 3M 64k");
    // A second disk that cannot be backed up: none is.
    fs::write(lab.path("bad"), b"").expect("a file");
    let ran = lab.cohort(["backup", "a=a.qcow2", "bad", "--to", "R", "--bitmap", "a=b"]);
    ran.exits(22);
    assert_eq!(dirty(&lab), GRANULE);
    let (copied, said) = back_up(&lab);
    assert_eq!(copied, GRANULE, "{said}");
    restores(&lab);
}

#[test]
fn policy_never_leaves_the_bitmap_and_goes_by_it_again() {
    let Some(lab) = marked_lab() else { return };
    back_up(&lab);
    for round in 1..4 {
        write(&lab, &format!("write -P {round} {}M 64k", round + 2));
        let report = run(&lab, &["--policy", "never"]);
        assert_eq!(report["disks"][0]["copied_bytes"], round * GRANULE);
        assert_eq!(dirty(&lab), round * GRANULE);
        restores(&lab);
    }
}

#[test]
fn a_bitmap_that_cannot_be_gone_by_says_why() {
    let Some(lab) = marked_lab() else { return };
    lab.run("qemu-img bitmap --add --disable a.qcow2 off");
    lab.run("qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 1M");
    fs::write(lab.path("c.raw"), vec![1; 1 << 20]).expect("a disk");
    let refused = |source: &str, bitmap: &str, code: i32, parts: &[&str]| {
        let ran = lab.cohort(["backup", source, "--to", "R", "--bitmap", bitmap]);
        ran.exits(code).says(parts);
        assert!(!lab.path("R").exists(), "{bitmap}");
    };
    refused(
        "a=a.qcow2",
        "a=x",
        51,
        &["no bitmap \"x\"; it has \"b\", \"off\""],
    );
    refused(
        "a=a.qcow2",
        "a=off",
        27,
        &["\"off\" cannot be gone by", "disabled"],
    );
    refused("c=c.raw", "c=b", 27, &["only qcow2 images hold bitmaps"]);
    refused("o=old.qcow2", "o=b", 27, &["version 2", "compat=1.1"]);
    refused("a=a.qcow2", "b", 2, &["say DISK=NAME"]);
    refused(
        "a=a.qcow2",
        "z=b",
        2,
        &["no disk of this run is called z; there are a"],
    );
    // QEMU is killed while it has the image.
    let _ = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "abort"])
        .arg(lab.path("a.qcow2"))
        .output();
    refused("a=a.qcow2", "a=b", 52, &["bitmap \"b\" is inconsistent"]);
}

/// The image and the catalogue as they are after a kill between the verdict and the clearing of the bitmap.
fn killed_before_clearing(tamper: impl FnOnce(&Lab)) -> Option<Lab> {
    let lab = marked_lab()?;
    back_up(&lab);
    write(&lab, "write -P 2 3M 64k");
    let before = fs::read(lab.path("a.qcow2")).expect("the image");
    back_up(&lab);
    restores(&lab);
    // In place: it stays the same file.
    fs::write(lab.path("a.qcow2"), before).expect("the image as it was");
    tamper(&lab);
    let dump = lab.cohort(["catalogue", "dump", "R"]).exits(0).stdout;
    let mut dump: Value = serde_json::from_str(&dump).expect("a dump");
    let bitmap = &mut dump["views"][0]["row"]["point"]["tracking"]["image_bitmap"];
    assert_eq!(bitmap["clearing"], "done");
    bitmap["clearing"] = json!("owed");
    let now = fs::metadata(lab.path("a.qcow2")).expect("the image");
    bitmap["files"][0]["size"] = json!(now.len());
    bitmap["files"][0]["modified"] = json!([now.mtime(), now.mtime_nsec()]);
    bitmap["files"][0]["changed"] = json!([now.ctime(), now.ctime_nsec()]);
    load(&lab, &dump);
    Some(lab)
}

fn load(lab: &Lab, dump: &Value) {
    fs::remove_file(lab.path("R/catalogue.redb")).expect("the catalogue");
    let mut loading = lab.program();
    loading
        .args(["catalogue", "load", "R"])
        .stdin(Stdio::piped());
    let mut loading = loading.stdout(Stdio::null()).spawn().expect("it starts");
    let mut into = loading.stdin.take().expect("a pipe");
    into.write_all(dump.to_string().as_bytes())
        .expect("it reads");
    drop(into);
    assert!(loading.wait().expect("it ends").success());
}

#[test]
fn killed_between_verdict_and_clearing_the_next_run_clears_once() {
    let Some(lab) = killed_before_clearing(|_| {}) else {
        return;
    };
    assert_eq!(dirty(&lab), GRANULE);
    let (copied, said) = back_up(&lab);
    assert_eq!((copied, dirty(&lab)), (0, 0), "{said}");
    assert!(!said.contains("not gone by"), "{said}");
    write(&lab, "write -P 5 3M 64k");
    assert_eq!(back_up(&lab).0, GRANULE);
    restores(&lab);
}

/// What was marked since must not be cleared a second time.
#[test]
fn whoever_wrote_since_keeps_his_bits() {
    let Some(lab) = killed_before_clearing(|_| {}) else {
        return;
    };
    // The same granule: the bits are those that the run saw, and the data is not.
    write(&lab, "write -P 7 3M 64k");
    let other = lab.cohort(["backup", "c=c.raw", "--to", "R"]);
    other.exits(20);
    assert_eq!(dirty(&lab), GRANULE);
    let (copied, said) = back_up(&lab);
    assert_eq!(copied, GRANULE, "{said}");
    assert!(said.contains("took nothing from a bitmap"), "{said}");
    restores(&lab);
}

#[test]
fn a_bitmap_that_changed_behind_our_back_is_left_alone() {
    let changed = |lab: &Lab| {
        lab.run("qemu-img bitmap --clear a.qcow2 b");
        write(lab, "write -P 9 6M 64k");
    };
    let Some(lab) = killed_before_clearing(changed) else {
        return;
    };
    let (copied, said) = back_up(&lab);
    assert_eq!(copied, GRANULE, "{said}");
    assert!(said.contains("took nothing from a bitmap"), "{said}");
    restores(&lab);
}

/// An overlay's bitmap says nothing of what is beneath.
#[test]
fn a_file_beneath_that_changed_is_noticed() {
    let Some(lab) = marked_lab() else { return };
    fs::rename(lab.path("a.qcow2"), lab.path("base.qcow2")).expect("renamed");
    lab.run("qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 a.qcow2");
    lab.run("qemu-img bitmap --add a.qcow2 b");
    back_up(&lab);
    assert_eq!(back_up(&lab).0, 0);
    lab.qemu_io("qcow2", "base.qcow2", &["write -P 9 6M 64k"]);
    let (copied, said) = back_up(&lab);
    assert_eq!(copied, GRANULE, "{said}");
    assert!(said.contains("a file beneath the image changed"), "{said}");
    restores(&lab);
}
