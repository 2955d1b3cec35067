//! Bad input: each its own message and exit code, nothing half-written counts, and the next run just works.

mod lab;

use std::fs;
use std::process::{Command, Stdio};

use lab::{Lab, have};

/// A lab with one good raw disk `a.img`.
fn lab_with_a_disk() -> Lab {
    let lab = Lab::new();
    lab.noise("a.img", 1, 2 << 20);
    lab
}

/// After whatever failed, a backup of the good disk works and restores.
#[track_caller]
fn next_run_works(lab: &Lab) {
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.cohort(["restore", "--from", "R", "a", "out"]).exits(0);
    assert!(
        fs::read(lab.path("out")).expect("restored")
            == fs::read(lab.path("a.img")).expect("the disk")
    );
    fs::remove_file(lab.path("out")).expect("removed");
}

#[test]
fn a_missing_source_is_named() {
    let lab = lab_with_a_disk();
    lab.cohort(["backup", "a.img", "nowhere.img", "--to", "R"])
        .exits(20)
        .says(&["nowhere.img"]);
    next_run_works(&lab);
}

#[test]
fn an_empty_source_is_named() {
    let lab = lab_with_a_disk();
    fs::write(lab.path("empty.img"), b"").expect("a file");
    lab.cohort(["backup", "a.img", "empty.img", "--to", "R"])
        .exits(22)
        .says(&["empty.img"]);
    next_run_works(&lab);
}

#[test]
fn a_directory_is_no_disk() {
    let lab = lab_with_a_disk();
    fs::create_dir(lab.path("d")).expect("a directory");
    lab.cohort(["backup", "d", "--to", "R"])
        .exits(21)
        .says(&["d"]);
    next_run_works(&lab);
}

#[test]
fn the_same_disk_twice_is_refused_also_by_another_name() {
    let lab = lab_with_a_disk();
    fs::hard_link(lab.path("a.img"), lab.path("b.img")).expect("a link");
    std::os::unix::fs::symlink("a.img", lab.path("c.img")).expect("a link");
    for other in ["a.img", "x=a.img", "b.img", "c.img"] {
        lab.cohort(["backup", "a.img", other, "--to", "R"])
            .exits(24)
            .says(&["a.img"]);
    }
    next_run_works(&lab);
}

#[test]
fn two_disks_of_one_name_need_names_of_their_own() {
    let lab = lab_with_a_disk();
    fs::create_dir(lab.path("other")).expect("a directory");
    lab.noise("other/a.img", 2, 1 << 20);
    lab.cohort(["backup", "a.img", "other/a.img", "--to", "R"])
        .exits(24)
        .says(&["NAME="]);
    lab.cohort(["backup", "a.img", "b=other/a.img", "--to", "R"])
        .exits(0);
    next_run_works(&lab);
}

#[test]
fn a_source_in_the_backup_directory_is_refused() {
    let lab = lab_with_a_disk();
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let image = lab.images("R").pop().expect("an image");
    lab.cohort([
        "backup".as_ref(),
        image.as_os_str(),
        "--to".as_ref(),
        "R".as_ref(),
    ])
    .exits(25);
    next_run_works(&lab);
}

#[test]
fn a_full_directory_fails_the_disk_and_counts_nothing() {
    let lab = lab_with_a_disk();
    let program = env!("CARGO_BIN_EXE_cohort");
    // 2048 blocks of 512 bytes: one MiB, half of what the disk needs.
    let script = format!("ulimit -f 2048; exec {program} backup a.img --to R");
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(lab.path(""))
        .output()
        .expect("a shell");
    lab::Ran::from(output).exits(40).says(&["a"]);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");
    next_run_works(&lab);
}

#[test]
fn a_corrupt_or_foreign_catalogue_is_left_alone() {
    let lab = lab_with_a_disk();
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let good = fs::read(lab.path("R/catalogue.redb")).expect("the catalogue");
    for (bad, codes) in [
        (b"not a catalogue".to_vec(), [45, 46]),
        (vec![0; 8192], [45, 46]),
        (good[..good.len() / 2].to_vec(), [45, 46]),
    ] {
        fs::write(lab.path("R/catalogue.redb"), &bad).expect("written");
        for command in [
            vec!["backup", "a.img", "--to", "R"],
            vec!["list", "R"],
            vec!["restore", "--from", "R", "a", "out"],
        ] {
            let ran = lab.cohort(&command);
            assert!(
                ran.code.is_some_and(|code| codes.contains(&code)),
                "{command:?}: {ran:?}"
            );
            assert!(ran.stderr.contains("catalogue"), "{ran:?}");
        }
        assert!(
            fs::read(lab.path("R/catalogue.redb")).expect("still there") == bad,
            "nothing was overwritten"
        );
    }
    fs::write(lab.path("R/catalogue.redb"), &good).expect("written");
    next_run_works(&lab);
}

#[test]
fn images_that_are_not_sound_are_named() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = lab_with_a_disk();
    lab.run("qemu-img convert -O qcow2 a.img good.qcow2");
    let good = fs::read(lab.path("good.qcow2")).expect("an image");
    fs::write(lab.path("cut.qcow2"), &good[..60]).expect("an image");
    lab.cohort(["backup", "cut.qcow2", "--to", "R"])
        .exits(26)
        .says(&["cut.qcow2"]);
    let mut garbage = good.clone();
    garbage[40..48].copy_from_slice(&[0xFF; 8]);
    fs::write(lab.path("garbage.qcow2"), &garbage).expect("an image");
    lab.cohort(["backup", "garbage.qcow2", "--to", "R"])
        .exits(26)
        .says(&["garbage.qcow2"]);
    lab.run("qemu-img create -q -f qcow2 -o data_file=data.raw ext.qcow2 1M");
    lab.cohort(["backup", "ext.qcow2", "--to", "R"])
        .exits(27)
        .says(&["ext.qcow2", "external data"]);
    lab.run("qemu-img create -q -f qcow2 -b good.qcow2 -F qcow2 top.qcow2");
    fs::remove_file(lab.path("good.qcow2")).expect("removed");
    lab.cohort(["backup", "top.qcow2", "--to", "R"])
        .exits(28)
        .says(&["good.qcow2"]);
    next_run_works(&lab);
}

#[test]
fn a_disk_that_qemu_writes_to_is_refused() {
    if !have(&["qemu-io"]) {
        return;
    }
    let lab = lab_with_a_disk();
    let mut holder = Command::new("qemu-io")
        .args(["-f", "raw", "a.img"])
        .current_dir(lab.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io");
    let mut first = [0; 7];
    std::io::Read::read_exact(holder.stdout.as_mut().expect("its output"), &mut first)
        .expect("its prompt");
    lab.cohort(["backup", "a.img", "--to", "R"])
        .exits(23)
        .says(&["a.img"]);
    drop(holder.stdin.take());
    holder.wait().expect("qemu-io ends");
    next_run_works(&lab);
}

#[test]
fn arguments_that_cannot_be_read_are_told_in_json_as_well() {
    let lab = lab_with_a_disk();
    for (args, part) in [
        (&["backup", "a.img", "--json"][..], "--to <DIR>"),
        (
            &["backup", "a.img", "--to", "R", "--policy", "none", "--json"],
            "is not a bitmap policy",
        ),
        (&["list", "R", "--all", "--json"], "--all"),
        (&["lost", "--json"], "lost"),
    ] {
        let told = lab.cohort(args).exits(2).says(&[part]).json();
        assert_eq!(
            (&told["event"], &told["exit"], &told["code"]),
            (&"error".into(), &"usage".into(), &2.into())
        );
        let message = told["message"].as_str().expect("a message");
        assert!(message.contains(part), "{told}");
    }
}

#[test]
fn a_restore_into_the_backup_directory_is_refused_by_every_name() {
    let lab = lab_with_a_disk();
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let mut files = fs::read_dir(lab.path("R")).expect("listed").flatten();
    let image = files.find(|file| file.path().extension().is_some_and(|end| end == "qcow2"));
    let image = image.expect("the point's image").path();
    std::os::unix::fs::symlink(image, lab.path("soft")).expect("a link");
    for out in ["R/out", "soft"] {
        lab.cohort(["restore", "--from", "R", "a", out, "--force"])
            .exits(2)
            .says(&["lies in the backup directory"]);
    }
    next_run_works(&lab);
}

#[test]
fn asking_for_what_is_not_there_says_what_is() {
    let lab = lab_with_a_disk();
    lab.cohort(["list", "R"]).exits(43).says(&["R"]);
    lab.cohort(["restore", "--from", "R", "a", "out"]).exits(43);
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.cohort(["restore", "--from", "R", "b", "out"])
        .exits(47)
        .says(&["b"]);
    lab.cohort(["restore", "--from", "R", "a@9", "out"])
        .exits(47)
        .says(&["a@9"]);
    fs::write(lab.path("out"), b"mine").expect("a file");
    lab.cohort(["restore", "--from", "R", "a", "out"])
        .exits(42)
        .says(&["out"]);
    assert_eq!(fs::read(lab.path("out")).expect("still there"), b"mine");
    fs::remove_file(lab.path("out")).expect("removed");
    next_run_works(&lab);
}
