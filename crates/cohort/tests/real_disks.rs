//! The main job on real disks: ext4 with files in it, raw, qcow2, and qcow2 with a backing file; judged by QEMU's tools.

mod lab;

use std::fs;

use lab::{Lab, have, length, noise};

const TOOLS: [&str; 3] = ["qemu-img", "mkfs.ext4", "debugfs"];

/// Three disks: `a.raw`, `b.qcow2`, and `c.qcow2` over `base.qcow2`; `b.raw` and `c.raw` are where they are edited.
fn three_disks(lab: &Lab) {
    for (disk, seed) in [("a.raw", 1), ("b.raw", 2), ("c.raw", 3)] {
        lab.ext4(
            disk,
            48,
            &[
                ("first", &noise(seed, 9 << 20)),
                ("second", &noise(seed + 10, 300_000)),
            ],
        );
    }
    lab.run("qemu-img convert -O qcow2 b.raw b.qcow2");
    lab.run("qemu-img convert -O qcow2 c.raw base.qcow2");
    lab.run("qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 c.qcow2");
}

/// Changes files inside all three, and keeps copies aside as `a.N` and so on.
fn change(lab: &Lab, round: u64) {
    for (disk, seed) in [("a.raw", 100), ("b.raw", 200), ("c.raw", 300)] {
        lab.put(
            disk,
            "second",
            &noise(seed + round, 200_000 + round as usize * 77),
        );
    }
    lab.run("qemu-img convert -O qcow2 b.raw b.qcow2");
    lab.run("qemu-img convert -O qcow2 -B base.qcow2 -F qcow2 c.raw c.qcow2");
}

fn keep_all(lab: &Lab, round: u64) {
    for (disk, name) in [("a.raw", "a"), ("b.qcow2", "b"), ("c.qcow2", "c")] {
        lab.keep(disk, &format!("{name}.{round}"));
    }
}

/// How many 64 KiB clusters of two raw disks differ.
fn clusters_that_differ(lab: &Lab, one: &str, other: &str) -> u64 {
    let (one, other) = (
        fs::read(lab.path(one)).expect("a copy"),
        fs::read(lab.path(other)).expect("a copy"),
    );
    assert_eq!(one.len(), other.len());
    one.chunks(65_536)
        .zip(other.chunks(65_536))
        .filter(|(a, b)| a != b)
        .count() as u64
}

#[test]
fn a_chain_of_grouped_increments_restores_every_point_of_every_disk() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    three_disks(&lab);
    for round in 1..=3 {
        if round > 1 {
            change(&lab, round);
        }
        keep_all(&lab, round);
        lab.cohort(["backup", "a.raw", "b.qcow2", "c.qcow2", "--to", "R"])
            .exits(0);
        lab.images_are_clean("R");
    }
    for disk in ["a", "b", "c"] {
        let chain = lab.images_of("R", disk);
        assert_eq!(chain.len(), 3, "{chain:?}");
        for round in 1..=3 {
            lab.restores_to("R", &format!("{disk}@{round}"), &format!("{disk}.{round}"));
        }
        for round in 2..=3 {
            let changed = clusters_that_differ(
                &lab,
                &format!("{disk}.{}", round - 1),
                &format!("{disk}.{round}"),
            );
            let increment = length(&chain[round - 1]);
            assert!(
                changed > 0 && increment <= changed * 65_536 + (1 << 20),
                "{disk}@{round}: {changed} clusters, {increment} bytes"
            );
        }
        assert_eq!(lab.depth(&chain[2]), 3);
    }
}

#[test]
fn a_disk_that_changed_nowhere_costs_nothing() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    lab.ext4("a.raw", 32, &[("file", &noise(7, 1 << 20))]);
    lab.keep("a.raw", "copy");
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    let chain = lab.images_of("R", "a");
    assert!(length(&chain[1]) <= 1 << 20, "{} bytes", length(&chain[1]));
    lab.images_are_clean("R");
    lab.restores_to("R", "a", "copy");
}

#[test]
fn odd_sizes_grow_and_shrink_between_runs() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    let mut disk = noise(5, 5_000_001);
    for (round, size) in [5_000_001, 7_340_033, 1_000_003].into_iter().enumerate() {
        disk.resize(size, 0x5A);
        fs::write(lab.path("odd.img"), &disk).expect("a disk");
        fs::copy(lab.path("odd.img"), lab.path(&format!("copy.{round}"))).expect("a copy");
        lab.cohort(["backup", "odd.img", "--to", "R"]).exits(0);
        lab.images_are_clean("R");
    }
    for round in 0..3 {
        lab.cohort([
            "restore",
            "--from",
            "R",
            &format!("odd@{}", round + 1),
            "out",
        ])
        .exits(0);
        let (restored, copy) = (
            fs::read(lab.path("out")),
            fs::read(lab.path(&format!("copy.{round}"))),
        );
        assert!(
            restored.expect("restored") == copy.expect("copy"),
            "round {round}"
        );
        fs::remove_file(lab.path("out")).expect("removed");
    }
}

#[test]
fn a_point_restores_to_qcow2_as_well() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    lab.noise("a.img", 3, 3 << 20);
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    lab.cohort(["restore", "--from", "R", "a", "out.qcow2"])
        .exits(0);
    lab.run("qemu-img check -q -f qcow2 out.qcow2");
    lab.run("qemu-img compare -q -F raw -f qcow2 out.qcow2 a.img");
}
