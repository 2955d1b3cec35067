//! Audits of real disks: a sound claim gets its confidence, a lie its place and the step down.

mod lab;

use std::fs;

use lab::{Lab, have, noise};
use serde_json::json;

fn backed_up() -> (Lab, Vec<u8>) {
    let lab = Lab::new();
    let mut disk = noise(3, 6 << 20);
    disk[1 << 20..2 << 20].fill(0);
    fs::write(lab.path("vda.img"), &disk).expect("a disk");
    for round in 0..2u8 {
        lab.cohort(["backup", "vda.img", "--to", "R"]).exits(0);
        disk[2 << 20..][..100].fill(round);
        fs::write(lab.path("vda.img"), &disk).expect("the disk");
    }
    lab.cohort(["backup", "vda.img", "--to", "R"]).exits(0);
    (lab, disk)
}

#[test]
fn sound_claims_get_a_confidence_and_a_full_sample_certainty() {
    let (lab, _) = backed_up();
    let some = lab
        .cohort(["audit", "vda.img", "--against", "R", "--budget", "1M"])
        .exits(0);
    assert_eq!(
        some.stdout,
        "vda@3: 0 of 16 sampled granules differ: with 95 % confidence fewer than 18 % of the 96 claimed not to have changed are wrong\n"
    );
    let all = lab
        .cohort(["audit", "vda.img", "--against", "R", "--json"])
        .exits(0)
        .json();
    assert_eq!(
        (&all["sampled"], &all["claimed"], &all["wrong_at_most"]),
        (&json!(96), &json!(96), &json!(0.0))
    );
}

#[test]
fn lie_is_told_with_its_place_and_the_next_run_compares_everything() {
    let (lab, mut disk) = backed_up();
    // One bit in a hole, one in data: two granules.
    disk[(1 << 20) + 70_000] ^= 1;
    disk[5 << 20] ^= 1;
    fs::write(lab.path("vda.img"), &disk).expect("the disk");
    let ran = lab
        .cohort(["audit", "vda.img", "--against", "R", "--json"])
        .exits(50);
    let ran = ran.says(&[
        "65536 bytes at byte 1114112, 65536 bytes at byte 5242880",
        "the next run compares everything",
    ]);
    assert_eq!(
        ran.json()["differing"],
        json!([{"offset": 1114112, "length": 65536}, {"offset": 5242880, "length": 65536}])
    );
    let dump = lab.cohort(["catalogue", "dump", "R"]).exits(0);
    assert!(dump.stdout.contains("\"refuted\""));
    lab.cohort(["backup", "vda.img", "--to", "R"]).exits(0);
    lab.cohort(["audit", "vda.img", "--against", "R"]).exits(0);
    assert!(
        !lab.cohort(["catalogue", "dump", "R"])
            .exits(0)
            .stdout
            .contains("\"refuted\"")
    );
    lab.restores_to("R", "vda@4", "vda.img");
}

#[test]
fn bitmap_of_the_image_says_what_is_not_claimed() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let lab = Lab::new();
    let audit = || lab.cohort("audit d.qcow2 --against R --bitmap b0 --json".split(' '));
    lab.run("qemu-img create -q -f qcow2 d.qcow2 8M");
    lab.qemu_io("qcow2", "d.qcow2", &["write -P 5 0 8M"]);
    lab.cohort(["backup", "d.qcow2", "--to", "R"]).exits(0);
    lab.run("qemu-img bitmap --add d.qcow2 b0");
    lab.qemu_io("qcow2", "d.qcow2", &["write -P 6 1M 64k"]);
    let honest = audit().exits(0).json();
    assert_eq!(honest["claimed"], json!(127));
    // Behind the bitmap's back.
    lab.run("qemu-img bitmap --disable d.qcow2 b0");
    lab.qemu_io("qcow2", "d.qcow2", &["write -P 7 3M 64k"]);
    let lied = audit().exits(50).json();
    assert_eq!(
        lied["differing"],
        json!([{"offset": 3145728, "length": 65536}])
    );
    lab.cohort(["audit", "d.qcow2", "--against", "R", "--bitmap", "nope"])
        .exits(51)
        .says(&["nope"]);
    lab.cohort(["audit", "other=d.qcow2", "--against", "R"])
        .exits(47);
    lab.cohort(["audit", "missing.img", "--against", "R"])
        .exits(20);
}
