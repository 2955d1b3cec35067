//! A chain of thirty points through prune, killed at any moment, with `qemu-img` as the judge.

mod lab;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lab::{Lab, Ran, have, noise};
use serde_json::{Value, json};

const POINTS: u64 = 30;
const SIZE: usize = 2 << 20;

/// Thirty points of a raw disk; copies of what it was are kept aside as `copy.N`.
fn thirty() -> Lab {
    let lab = Lab::new();
    let mut disk = noise(1, SIZE);
    disk[SIZE / 2..SIZE * 3 / 4].fill(0);
    for run in 1..=POINTS {
        let at = noise(run, 8)[0] as usize * (SIZE / 256);
        disk[at..][..3000].copy_from_slice(&noise(run + 100, 3000));
        if run % 5 == 0 {
            disk[SIZE / 8..][..128 << 10].fill(0);
        }
        fs::write(lab.path("vda.img"), &disk).expect("the disk");
        fs::write(lab.path(&format!("copy.{run}")), &disk).expect("a copy");
        lab.cohort(["backup", "vda.img", "--to", "R"]).exits(0);
    }
    lab
}

fn points(lab: &Lab, dir: &str) -> Vec<u64> {
    let list = lab.cohort(["list", dir, "--json"]).exits(0).json();
    let points = list["points"].as_array().expect("points").clone();
    points
        .iter()
        .map(|point| point["point"].as_u64().expect("a number"))
        .collect()
}

fn copy_directory(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("the directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// Every point of the directory is what the disk was, for our reader and for QEMU's.
fn all_true(lab: &Lab, dir: &str) {
    lab.cohort(["verify", dir]).exits(0);
    let list = lab.cohort(["list", dir, "--json"]).exits(0).json();
    for point in list["points"].as_array().expect("points") {
        let (run, file) = (&point["point"], point["file"].as_str().expect("a name"));
        let (image, copy) = (format!("{dir}/{file}"), format!("copy.{run}"));
        lab.same(("qcow2", &image), ("raw", &copy));
    }
    for file in list["files"].as_array().expect("files") {
        let what = file["what"].as_str().expect("a word");
        assert!(
            !what.contains("knows nothing") && what != "not of this backup",
            "{file}"
        );
    }
}

#[test]
fn thirty_points_are_pruned_to_seven_and_verified() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = thirty();
    let before: Vec<Value> = vec![lab.cohort(["list", "R", "--json"]).exits(0).json()];
    let dry = lab
        .cohort(["prune", "R", "--keep-last", "7", "--dry-run", "--json"])
        .exits(0)
        .json();
    assert_eq!(dry["dry_run"], json!(true));
    assert_eq!(dry["removed"].as_array().expect("points").len(), 23);
    assert_eq!(
        before,
        [lab.cohort(["list", "R", "--json"]).exits(0).json()],
        "a dry run changes nothing"
    );
    let done = lab
        .cohort(["prune", "R", "--keep-last", "7", "--json"])
        .exits(0)
        .json();
    assert_eq!(
        (&done["removed"], &done["kept"]),
        (&dry["removed"], &dry["kept"])
    );
    assert_eq!(points(&lab, "R"), (24..=30).collect::<Vec<_>>());
    all_true(&lab, "R");
    lab.images_are_clean("R");
    assert_eq!(lab.images("R").len(), 7);
    fs::create_dir(lab.path("scratch")).expect("a directory");
    let tested = lab
        .cohort([
            "verify",
            "R",
            "--restore-test",
            "--scratch",
            "scratch",
            "--json",
        ])
        .exits(0)
        .json();
    assert!(
        tested["points"]
            .as_array()
            .expect("points")
            .iter()
            .all(|point| point["rebuilt"] == true)
    );
    lab.restores_to("R", "vda@24", "copy.24");
    // All were taken today.
    lab.cohort(["prune", "R", "--keep-daily", "3", "--keep-last", "2"])
        .exits(0);
    assert_eq!(points(&lab, "R"), [29, 30]);
    all_true(&lab, "R");
    lab.cohort(["prune", "R", "--keep-daily", "3"]).exits(0);
    assert_eq!(points(&lab, "R"), [30]);
    assert_eq!(lab.images("R").len(), 1);
    all_true(&lab, "R");
    lab.images_are_clean("R");
}

#[test]
fn kept_points_survive_kills_at_any_moment() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = thirty();
    let whole = Instant::now();
    copy_directory(&lab.path("R"), &lab.path("K"));
    lab.cohort(["prune", "K", "--keep-last", "5"]).exits(0);
    let whole = whole.elapsed();
    let rounds = 6;
    for round in 0..rounds {
        copy_directory(&lab.path("R"), &lab.path("K"));
        let mut child = lab
            .program()
            .args(["prune", "K", "--keep-last", "5"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Where in its work it dies is up to the machine; over the rounds, everywhere.
        std::thread::park_timeout(whole * round / rounds + Duration::from_millis(1));
        let _ = child.kill();
        child.wait().expect("it ends");
        let left = points(&lab, "K");
        assert!(left.ends_with(&[26, 27, 28, 29, 30]), "{left:?}");
        all_true(&lab, "K");
        lab.cohort(["prune", "K", "--keep-last", "5"]).exits(0);
        assert_eq!(points(&lab, "K"), [26, 27, 28, 29, 30]);
        all_true(&lab, "K");
        assert_eq!(lab.images("K").len(), 5, "nothing is left over");
    }
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let lab = Lab::new();
    lab.noise("a.img", 1, 4096);
    lab.cohort(["backup", "a.img", "--to", "R"]).exits(0);
    let refused = |args: &[&str]| -> Ran { lab.cohort(args).exits(2) };
    refused(&["prune", "R"]);
    refused(&["prune", "R", "--keep-last", "0"]);
    refused(&["prune", "R", "--keep-daily", "many"]);
    lab.cohort(["prune", "nowhere", "--keep-last", "1"])
        .exits(43);
    assert_eq!(points(&lab, "R"), [1]);
}
