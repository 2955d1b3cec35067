//! `cohort copy`: to files, to pipes, past bad sectors, and never onto its own source.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Stdio;

use lab::{Lab, have, noise};
use serde_json::json;

/// The exit code for a target that is the source.
const SOURCE_IS_TARGET: i32 = 25;

/// A disk of 5 MiB and an odd end, with a hole from its first to its third MiB.
fn with_disk() -> Lab {
    let lab = Lab::new();
    let file = fs::File::create(lab.path("a.img")).expect("a disk");
    file.set_len((5 << 20) + 777).expect("its size");
    file.write_all_at(&noise(1, 1 << 20), 0).expect("data");
    file.write_all_at(&noise(2, (2 << 20) + 777), 3 << 20)
        .expect("data");
    // And pages alone in the hole.
    for page in 0..10 {
        file.write_all_at(&noise(3, 4096), (1 << 20) + 4096 * 17 * (page + 1))
            .expect("data");
    }
    lab
}

#[test]
fn raw_copies_are_the_same_and_as_sparse() {
    let lab = with_disk();
    let copied = lab.cohort(["copy", "a.img", "b.img", "--json"]).exits(0);
    assert_eq!(copied.json()["size_bytes"], json!((5 << 20) + 777));
    assert!(fs::read(lab.path("a.img")).unwrap() == fs::read(lab.path("b.img")).unwrap());
    let blocks = |name: &str| fs::metadata(lab.path(name)).unwrap().blocks();
    assert!(blocks("b.img") <= blocks("a.img") + 16);
    lab.cohort(["copy", "a.img", "b.img"]).exits(42);
    lab.cohort(["copy", "a.img", "b.img", "--force"]).exits(0);
}

#[test]
fn qcow2_copies_compare_equal_compressed_or_not() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = with_disk();
    for (name, more) in [
        ("b.qcow2", &[][..]),
        ("c.qcow2", &["--compress", "zlib"]),
        ("d.qcow2", &["--cluster-size", "2M"]),
        ("e.qcow2", &["--cluster-size", "4K", "--compress", "zlib"]),
    ] {
        let mut args = vec!["copy", "a.img", name];
        args.extend(more);
        lab.cohort(args).exits(0);
        lab.tool("qemu-img", &["check", "-q", name]);
        lab.same(("raw", "a.img"), ("qcow2", name));
        // And back again, out of what was made.
        let back = format!("{name}.raw");
        lab.cohort(["copy", name, &back]).exits(0);
        let whole = fs::read(lab.path("a.img")).unwrap();
        assert!(fs::read(lab.path(&back)).unwrap()[..whole.len()] == whole);
    }
    lab.cohort(["copy", "a.img", "x.img", "--compress", "zlib"])
        .exits(2)
        .says(&["a raw copy cannot be compressed"]);
    lab.cohort(["copy", "a.img", "x.qcow2", "--compress", "zstd"])
        .exits(2);
    lab.cohort(["copy", "a.img", "x.img", "--cluster-size", "64K"])
        .exits(2)
        .says(&["a raw copy has no clusters"]);
    lab.cohort(["copy", "a.img", "x.qcow2", "--cluster-size", "8G"])
        .exits(2)
        .says(&["cluster size 8589934592: it must be a power of two from 4 KiB to 2 MiB"]);
    lab.cohort(["copy", "a.img", "x.img", "--on-error", "enospc"])
        .exits(2)
        .says(&["whose target fails can only report that"]);
    assert!(!lab.path("x.img").exists() && !lab.path("x.qcow2").exists());
}

#[test]
fn streams_are_the_raw_disk_and_its_reader_may_go_away() {
    let lab = with_disk();
    let whole = fs::read(lab.path("a.img")).unwrap();
    let output = lab.program().args(["copy", "a.img", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == whole);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("a copied to standard output: 5.00 MiB"),
        "{told}"
    );

    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        lab.path("pipe"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let mut child = lab
        .program()
        .args(["copy", "a.img", "pipe"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut read = Vec::new();
    fs::File::open(lab.path("pipe"))
        .unwrap()
        .read_to_end(&mut read)
        .unwrap();
    assert!(read == whole && child.wait().unwrap().success());

    let child = lab
        .program()
        .args(["copy", "a.img", "pipe"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    fs::File::open(lab.path("pipe"))
        .unwrap()
        .read_exact(&mut some)
        .unwrap();
    let ran: lab::Ran = child.wait_with_output().unwrap().into();
    ran.exits(41).says(&["cannot write to pipe at byte"]);
    lab.cohort(["copy", "a.img", "-", "--format", "qcow2"])
        .exits(2)
        .says(&["takes bytes in order"]);
}

/// A write that waits for ever cannot be called off, so the second wish ends the process.
#[test]
fn a_copy_that_nobody_reads_ends_by_a_second_interrupt() {
    let lab = with_disk();
    let mut child = lab
        .program()
        .args(["copy", "a.img", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun, and more is to come than a pipe holds.
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut [0; 100]).unwrap();
    lab::signal(&child, "INT");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("Stopping. Once more")));
    lab::signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_copy_onto_its_source_is_refused_by_every_name() {
    let lab = with_disk();
    std::os::unix::fs::symlink("a.img", lab.path("soft")).unwrap();
    fs::hard_link(lab.path("a.img"), lab.path("hard")).unwrap();
    for name in ["a.img", "soft", "hard"] {
        lab.cohort(["copy", "a.img", name, "--force"])
            .exits(SOURCE_IS_TARGET)
            .says(&["the source lies in that file"]);
    }
    assert_eq!(
        fs::metadata(lab.path("a.img")).unwrap().len(),
        (5 << 20) + 777
    );
    // What a killed copy left, to be saved under the name that it was to have.
    fs::hard_link(lab.path("a.img"), lab.path(".b.img.cohort-partial")).unwrap();
    lab.cohort(["copy", ".b.img.cohort-partial", "b.img"])
        .exits(SOURCE_IS_TARGET)
        .says(&["the source lies in that file"]);
    assert_eq!(
        fs::metadata(lab.path(".b.img.cohort-partial"))
            .unwrap()
            .len(),
        (5 << 20) + 777
    );
}

#[test]
fn an_image_cut_off_is_copied_as_far_as_was_allowed() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    lab.noise("a.img", 1, 4 << 20);
    lab.run("qemu-img convert -O qcow2 a.img a.qcow2");
    let whole = fs::read(lab.path("a.qcow2")).unwrap();
    fs::write(lab.path("a.qcow2"), &whole[..whole.len() - (1 << 20)]).unwrap();
    lab.cohort(["copy", "a.qcow2", "b.img"])
        .exits(3)
        .says(&["a.qcow2", "at byte "]);
    assert!(!lab.path("b.img").exists());
    lab.cohort([
        "copy",
        "a.qcow2",
        "b.img",
        "--on-error",
        "skip:1,attempts=1",
    ])
    .exits(3);
    let copied = lab
        .cohort([
            "copy",
            "a.qcow2",
            "b.img",
            "--on-error",
            "skip:99,attempts=1",
            "--json",
        ])
        .exits(0);
    let skipped = copied.json()["skipped"].as_array().unwrap().len();
    assert!((1..=17).contains(&skipped), "{skipped}");
    let (copy, original) = (
        fs::read(lab.path("b.img")).unwrap(),
        fs::read(lab.path("a.img")).unwrap(),
    );
    assert!(copy[..2 << 20] == original[..2 << 20] && copy != original);
}

#[test]
fn a_backup_that_stops_goes_on_when_it_is_told() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    lab.noise("a.img", 1, 4 << 20);
    lab.run("qemu-img convert -O qcow2 a.img a.qcow2");
    let whole = fs::read(lab.path("a.qcow2")).unwrap();
    let cut = fs::File::options()
        .write(true)
        .open(lab.path("a.qcow2"))
        .unwrap();
    cut.set_len(whole.len() as u64 - (1 << 20)).unwrap();
    let mut child = lab
        .program()
        .args([
            "backup",
            "a.qcow2",
            "--to",
            "R",
            "--on-error",
            "stop",
            "--accept-changed",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = lines.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("have it try again"))
    });
    let told = told.unwrap().unwrap();
    assert!(
        told.ends_with(&format!("kill -CONT {}", child.id())),
        "{told}"
    );
    cut.write_all_at(&whole, 0).unwrap();
    lab::signal(&child, "CONT");
    assert!(child.wait().unwrap().success());
    lab.restores_to("R", "a", "a.img");
}

#[test]
fn options_are_for_all_disks_or_for_one_and_refused_in_our_words() {
    let lab = with_disk();
    lab.noise("b.img", 9, 3 << 20);
    let base = ["backup", "a.img", "b.img", "--to", "R"];
    let with = |more: &[&'static str]| lab.cohort(base.iter().chain(more));
    for (more, told) in [
        (
            &["--mode", "incremental", "--policy", "always"][..],
            "means policy on-success, not always",
        ),
        (
            &["--mode", "a=full", "--policy", "a=never"],
            "a: policy never leaves the bitmap as it is",
        ),
        (
            &["--mode", "some"],
            "'some' is not a sync mode: use one of full, top, incremental, bitmap, none",
        ),
        (
            &["--mode", "c=full"],
            "no disk of this run is called c; there are a, b",
        ),
        (
            &["--cluster-size", "100000"],
            "cluster size 100000: it must be a power of two",
        ),
        (
            &["--min-cluster-size", "32M"],
            "minimum cluster size 33554432",
        ),
        (
            &["--on-target-error", "skip:3"],
            "skip is for reading the source",
        ),
        (
            &["--on-source-error", "ignore,attempts=0"],
            "attempts is at least 1",
        ),
        (
            &["--compress", "zstd"],
            "'zstd' is not a compression: use one of none, zlib",
        ),
        (&["--speed", "-1"], ""),
    ] {
        with(more).exits(2).says(&[told]);
        assert!(!lab.path("R").exists());
    }
    with(&["--mode", "none"]).says(&["saves what writers overwrite"]);
    with(&[
        "--mode",
        "full",
        "--compress",
        "b=zlib",
        "--cluster-size",
        "a=4K",
        "--min-cluster-size",
        "1M",
        "--speed",
        "b=1G",
    ])
    .exits(0);
    lab.restores_to("R", "a", "a.img");
    lab.restores_to("R", "b", "b.img");
    fs::write(lab.path("p.toml"), "to = \"R\"\nmode = \"bitmap\"\n[disks.a]\nsource = \"a.img\"\ncompress = \"zlib\"\non-error = \"ignore,attempts=2\"\n[disks.b]\nsource = \"b.img\"\npolicy = \"always\"\ncluster-size = \"128K\"\n").unwrap();
    fs::File::options()
        .write(true)
        .open(lab.path("b.img"))
        .unwrap()
        .write_all_at(b"new", 70_000)
        .unwrap();
    lab.cohort(["backup", "--plan", "p.toml", "--policy", "b=ask"])
        .exits(0);
    lab.restores_to("R", "b@2", "b.img");
    lab.cohort(["verify", "R"]).exits(0);
}
