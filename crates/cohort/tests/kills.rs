//! `kill -9` at random moments of a backup: the next run completes, every point restores, and every file is explained.

mod lab;

use std::fs;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, noise};

/// Rounds in the suite.
const KILLS: u64 = 20;

/// Lets `child` run for `span`, unless it ends by itself, and kills it.
fn kill_after(mut child: Child, span: Duration) {
    let (ended, wait) = mpsc::channel::<()>();
    let mut stdout = child.stdout.take().expect("its output");
    // The output closes when the process is gone, so this tells an early end from a kill.
    let watcher = thread::spawn(move || {
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = wait.recv_timeout(span);
    let _ = child.kill();
    child.wait().expect("it is gone");
    watcher.join().expect("the watcher ends");
}

/// Writes some new clusters into the disk.
fn change(lab: &Lab, disk: &str, seed: u64) {
    let mut content = fs::read(lab.path(disk)).expect("the disk");
    for cluster in 0..(seed % 40 + 5) {
        let at = ((seed * 7919 + cluster * 104_729) as usize * 4096) % (content.len() - 70_000);
        content[at..at + 70_000].copy_from_slice(&noise(seed * 1000 + cluster, 70_000));
    }
    fs::write(lab.path(disk), content).expect("the disk");
}

/// Every file of the backup directory is one that `list` explains.
fn every_file_is_explained(lab: &Lab) {
    let list = lab.cohort(["list", "R", "--json"]).exits(0).json();
    let explained: Vec<&str> = list["files"]
        .as_array()
        .expect("files")
        .iter()
        .filter_map(|file| file["name"].as_str())
        .collect();
    for entry in fs::read_dir(lab.path("R")).expect("the directory") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name");
        assert!(
            explained.contains(&name.as_str()),
            "{name} is not explained by {list}"
        );
    }
}

#[test]
fn a_killed_backup_costs_nothing_but_its_own_work() {
    let lab = Lab::new();
    for (disk, seed) in [("a.img", 1), ("b.img", 2)] {
        lab.noise(disk, seed, 12 << 20);
    }
    let args = [
        "backup", "a.img", "b.img", "--to", "R", "--policy", "b=always", "--json",
    ];
    let start = Instant::now();
    lab.cohort(args).exits(0);
    let whole = start.elapsed();
    for round in 0..KILLS {
        change(&lab, "a.img", round + 1);
        change(&lab, "b.img", round + 100);
        let child = lab
            .program()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // Golden-ratio steps spread the moments over the whole run, whatever its length here.
        let part = (round as f64 * 0.618_034).fract() * 1.1;
        kill_after(child, whole.mul_f64(part));
        let done = lab.cohort(args).exits(0).json();
        for disk in ["a", "b"] {
            let point = done["disks"]
                .as_array()
                .expect("disks")
                .iter()
                .find(|d| d["name"] == disk)
                .expect("the disk");
            let point = format!("{disk}@{}", point["point"].as_u64().expect("a point"));
            lab.cohort(["restore", "--from", "R", &point, "out"])
                .exits(0);
            let same = fs::read(lab.path("out")).expect("restored")
                == fs::read(lab.path(&format!("{disk}.img"))).expect("the disk");
            assert!(same, "round {round}: {point}");
            fs::remove_file(lab.path("out")).expect("removed");
        }
        every_file_is_explained(&lab);
    }
}
