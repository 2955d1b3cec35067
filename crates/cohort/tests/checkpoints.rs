//! `kill -9` in the middle of a slow backup under `always` and `ask`: the next run keeps what a checkpoint named.

mod lab;

use std::collections::BTreeSet;
use std::fs;

use lab::slow::Slow;
use lab::{Lab, noise};
use serde_json::Value;

const DISK: usize = 16 << 20;

/// The exit code of a point that is not there, nor a partial.
const NO_SUCH_POINT: i32 = 47;

/// A raw disk and a qcow2 image with the same size and other content.
fn lab_with_disks() -> Lab {
    let lab = Lab::new();
    lab.noise("a.img", 1, DISK);
    lab.noise("b.raw", 2, DISK);
    lab.run("qemu-img convert -O qcow2 b.raw b.qcow2");
    lab
}

/// Backs both disks up at that speed, and kills that once 70 % of what one of them lacks is copied.
fn killed(lab: &Lab, policy: &str, speed: &str) {
    let args = [
        "backup", "a.img", "b.qcow2", "--to", "R", "--policy", policy,
    ];
    let mut command = lab.program();
    command.args(args).args(["--speed", speed, "--json"]);
    let mut slow = Slow::start(&mut command);
    slow.until(|event| {
        let of = |key: &str| event[key].as_u64().unwrap_or_default();
        event["phase"] == "copying" && of("done_bytes") * 10 > of("total_bytes") * 7
    });
    slow.kill();
}

/// Both disks are backed up, what is said of them is true, and each file is sound.
fn finishes(lab: &Lab) -> Value {
    let done = lab
        .cohort(["backup", "a.img", "b.qcow2", "--to", "R", "--json"])
        .exits(0)
        .says(&["kept", "of 16.0 MiB from the partial of run"]);
    for (point, disk) in [("a", "a.img"), ("b", "b.raw")] {
        lab.cohort(["restore", "--from", "R", point, "out"])
            .exits(0);
        let same = fs::read(lab.path("out")).expect("restored")
            == fs::read(lab.path(disk)).expect("the disk");
        assert!(same, "{point}");
        fs::remove_file(lab.path("out")).expect("removed");
    }
    for image in lab.images("R") {
        lab.tool("qemu-img", &["check", "-q", &image.to_string_lossy()]);
    }
    lab.cohort(["verify", "R"]).exits(0);
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    assert_eq!(list["partials"].as_array().map(Vec::len), Some(0), "{list}");
    done.json()
}

fn partials(lab: &Lab) -> Vec<Value> {
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    list["partials"].as_array().expect("partials").clone()
}

#[test]
fn a_killed_backup_is_continued() {
    let lab = lab_with_disks();
    killed(&lab, "always", "6M");
    for partial in partials(&lab) {
        let durable = partial["durable_bytes"].as_u64().expect("bytes");
        // Not more than three twentieths behind: one is being written, one is due, and one is copied.
        assert!(durable >= DISK as u64 / 2, "{partial}");
        let remaining = partial["remaining_bytes"].as_u64().expect("bytes");
        assert_eq!(durable + remaining, DISK as u64, "{partial}");
    }
    let text = lab.cohort(["list", "R"]).exits(0).stdout;
    for part in [
        "not a point",
        "of a full copy",
        "keep saves",
        "discard returns to nothing",
    ] {
        assert!(text.contains(part), "'{part}' is missing in {text}");
    }
    let done = finishes(&lab);
    for disk in done["disks"].as_array().expect("disks") {
        let kept = disk["continued"]["kept_bytes"].as_u64();
        assert!(kept >= Some(DISK as u64 / 2), "{disk}");
        let copied = disk["copied_bytes"].as_u64().expect("bytes");
        assert_eq!(kept.map(|kept| kept + copied), Some(DISK as u64), "{disk}");
    }
}

/// What both disks hold.
fn disks(lab: &Lab) -> [(&'static str, Vec<u8>); 2] {
    [("a", "a.img"), ("b", "b.raw")].map(|(name, file)| {
        let bytes = fs::read(lab.path(file)).expect("the disk");
        (name, bytes)
    })
}

/// Changes every third cluster of both disks.
fn change(lab: &Lab) {
    for (seed, file) in [(5, "a.img"), (6, "b.raw")] {
        let mut bytes = fs::read(lab.path(file)).expect("the disk");
        for cluster in bytes.chunks_mut(64 << 10).step_by(3) {
            cluster.copy_from_slice(&noise(seed, cluster.len()));
        }
        fs::write(lab.path(file), bytes).expect("a change");
    }
    lab.run("qemu-img convert -O qcow2 b.raw b.qcow2");
}

/// Each extent of a partial is of the instant that its map gives it; gives the runs whose instants these are.
fn mapped(lab: &Lab, disk: &str, then: &[&[u8]]) -> BTreeSet<u64> {
    let list = ["list", "R", "--map", disk];
    let map = lab.cohort(list.iter().chain(&["--json"])).exits(0).json();
    let file = format!("R/{}", map["file"].as_str().expect("its file"));
    lab.tool("qemu-img", &["convert", "-O", "raw", &file, "partial.raw"]);
    let held = fs::read(lab.path("partial.raw")).expect("what it holds");
    let (mut lines, mut bytes, mut runs) = (Vec::new(), 0, BTreeSet::new());
    for extent in map["extents"].as_array().expect("extents") {
        let [offset, length, run] =
            ["offset", "length", "run"].map(|key| extent[key].as_u64().expect("a number"));
        let range = offset as usize..(offset + length) as usize;
        let same = held[range.clone()] == then[run as usize - 1][range];
        assert!(
            same,
            "{disk}: {length} bytes at {offset} are not of run {run}"
        );
        lines.push(format!("{offset} {length} {run}"));
        bytes += length;
        runs.insert(run);
    }
    assert_eq!(map["durable_bytes"], bytes, "{map}");
    let text = lab.cohort(list).exits(0).stdout;
    let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(told, lines);
    runs
}

#[test]
fn the_map_of_a_killed_backup_says_which_extents_are_of_which_instant() {
    let lab = lab_with_disks();
    let first = disks(&lab);
    killed(&lab, "always", "6M");
    for (disk, bytes) in &first {
        assert_eq!(mapped(&lab, disk, &[bytes]), BTreeSet::from([1]));
    }
    change(&lab);
    let second = disks(&lab);
    // There is less to copy, and as long to see it.
    killed(&lab, "always", "3M");
    for ((disk, before), (_, after)) in first.iter().zip(&second) {
        assert_eq!(mapped(&lab, disk, &[before, after]), BTreeSet::from([1, 2]));
    }
    let text = lab.cohort(["list", "R"]).exits(0).stdout;
    let told = "It is of 2 instants: --map a says which parts.";
    assert!(text.contains(told), "{text}");
    finishes(&lab);
    for disk in ["a", "b"] {
        lab.cohort(["list", "R", "--map", disk])
            .exits(NO_SUCH_POINT)
            .says(&["it has no partial", "of one instant"]);
    }
    lab.cohort(["list", "R", "--map", "c"]).exits(NO_SUCH_POINT);
}

#[test]
fn a_killed_backup_that_was_to_ask_asks() {
    for answer in ["keep", "discard"] {
        let lab = lab_with_disks();
        lab.cohort(["backup", "a.img", "b.qcow2", "--to", "R"])
            .exits(0);
        lab.noise("a.img", 3, DISK);
        lab.noise("b.raw", 4, DISK);
        lab.run("qemu-img convert -O qcow2 b.raw b.qcow2");
        killed(&lab, "ask", "6M");
        assert_eq!(partials(&lab).len(), 2);
        let text = lab.cohort(["list", "R"]).exits(0).stdout;
        for part in [
            "against a@1",
            "It waits for an answer",
            "discard returns to a@1 of 20",
        ] {
            assert!(text.contains(part), "'{part}' is missing in {text}");
        }
        let refused = lab.cohort(["backup", "a.img", "b.qcow2", "--to", "R"]);
        assert_ne!(refused.code, Some(0), "{refused:?}");
        for disk in ["a", "b"] {
            lab.cohort(["bitmap", "decide", answer, "--from", "R", disk])
                .exits(0);
        }
        if answer == "keep" {
            finishes(&lab);
        } else {
            assert_eq!(partials(&lab), Vec::<Value>::new());
            lab.cohort(["backup", "a.img", "b.qcow2", "--to", "R"])
                .exits(0);
            lab.cohort(["verify", "R"]).exits(0);
        }
    }
}
