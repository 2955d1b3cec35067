//! Verify, list --file and restore --range over real disks, with damage done to real files.

mod lab;

use std::fs;

use lab::{Lab, have, noise};
use serde_json::json;

/// Two disks, two points each.
fn backed_up() -> Lab {
    let lab = Lab::new();
    let mut root = noise(1, 3 << 20);
    root.resize(8 << 20, 0);
    fs::write(lab.path("root.img"), &root).expect("a disk");
    lab.noise("data.img", 2, 1 << 20);
    lab.cohort(["backup", "root.img", "data.img", "--to", "R"])
        .exits(0);
    root[1 << 20..][..100].fill(7);
    fs::write(lab.path("root.img"), &root).expect("a disk");
    lab.cohort(["backup", "root.img", "data.img", "--to", "R"])
        .exits(0);
    lab
}

#[test]
fn damage_has_an_exit_code_and_names_file_disk_bytes_and_points() {
    let lab = backed_up();
    let sound = lab.cohort(["verify", "R", "--json"]).exits(0).json();
    assert_eq!(sound["damage"], json!([]));
    assert_eq!(sound["points"].as_array().expect("points").len(), 4);
    let full = &lab.images_of("R", "root")[0];
    let mut bytes = fs::read(full).expect("an image");
    bytes[1 << 20] ^= 1;
    fs::write(full, bytes).expect("an image");
    let name = full
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let ran = lab.cohort(["verify", "R", "--json"]).exits(49);
    let found = ran
        .says(&[&name, "65536 bytes at byte", "of root", "root@1, root@2"])
        .json();
    assert_eq!(found["exit"], "damaged");
    assert_eq!(found["damage"][0]["points"], json!(["root@1", "root@2"]));
    lab.cohort(["verify", "R", "data@2"]).exits(0);
    lab.cohort(["verify", "R", "2"]).exits(49);
    lab.cohort(["verify", "R", "root"]).exits(49);
    let told = lab
        .cohort(["list", "R", "--file", &name, "--json"])
        .exits(0)
        .json();
    assert_eq!(told["points"], json!(["root@1", "root@2"]));
    fs::remove_file(full).expect("the image");
    let lost = lab.cohort(["list", "R", "--file", &name]).exits(0);
    assert!(lost.stdout.starts_with(&format!(
        "MISSING: {name}: point root@1; with it die root@1, root@2"
    )));
    lab.cohort(["verify", "R"])
        .exits(49)
        .says(&["it is missing"]);
}

#[test]
fn what_is_asked_wrongly_is_refused_by_name() {
    let lab = backed_up();
    lab.cohort(["verify", "R", "3"])
        .exits(47)
        .says(&["run 3 has no point here"]);
    lab.cohort(["verify", "R", "nope@1"])
        .exits(47)
        .says(&["there are data, root"]);
    lab.cohort(["verify", "R", "0"]).exits(2);
    lab.cohort(["verify", "R", "--scratch", "."]).exits(2);
    lab.cohort(["verify", "R", "--restore-test", "--scratch", "nowhere"])
        .exits(41)
        .says(&["nowhere"]);
    lab.cohort(["list", "R", "--file", "nope.qcow2"])
        .exits(47)
        .says(&["nope.qcow2"]);
    for (range, code) in [("8M:1", 2), ("0:9M", 2), ("1", 2), ("1:0", 2)] {
        lab.cohort(["restore", "--from", "R", "root", "part", "--range", range])
            .exits(code);
        assert!(!lab.path("part").exists());
    }
}

#[test]
fn restore_test_leaves_its_scratch_place_empty() {
    let lab = backed_up();
    fs::create_dir(lab.path("scratch")).expect("a directory");
    let ran = lab
        .cohort([
            "verify",
            "R",
            "--restore-test",
            "--scratch",
            "scratch",
            "--json",
        ])
        .exits(0);
    let points = ran.json()["points"].clone();
    assert!(
        points
            .as_array()
            .expect("points")
            .iter()
            .all(|point| point["rebuilt"] == true)
    );
    assert_eq!(
        lab.path("scratch").read_dir().expect("the place").count(),
        0
    );
}

#[test]
fn ranges_are_cut_out_to_the_byte() {
    let lab = backed_up();
    let whole = fs::read(lab.path("root.img")).expect("the disk");
    let ranges = [
        (0, 1),
        ((1 << 20) - 3, 100),
        (65_535, 65_538),
        ((3 << 20) - 1, 70_000),
        ((8 << 20) - 1, 1),
    ];
    for (offset, length) in ranges {
        let range = format!("{offset}:{length}");
        lab.cohort(["restore", "--from", "R", "root", "part", "--range", &range])
            .exits(0);
        let part = fs::read(lab.path("part")).expect("the part");
        assert!(part == whole[offset..offset + length], "{range}");
        fs::remove_file(lab.path("part")).expect("the part");
    }
    if have(&["qemu-img"]) {
        let args = [
            "restore",
            "--from",
            "R",
            "root",
            "part.qcow2",
            "--range",
            "1M:64K",
        ];
        lab.cohort(args).exits(0);
        fs::write(lab.path("expected"), &whole[1 << 20..][..64 << 10]).expect("a file");
        lab.run("qemu-img compare -f qcow2 -F raw part.qcow2 expected");
    }
}
