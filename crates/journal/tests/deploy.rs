//! The example survives being killed at every step that matters: all files are the old ones, or all the new ones.
#![cfg(not(loom))]

#[path = "../examples/deploy/replace.rs"]
mod replace;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cohort_job::testing::Crashes;
use replace::{KIND, Replace, rebuild, sweep};

const FILES: [&str; 3] = ["a.txt", "b.txt", "c.txt"];

fn deploy(folder: &Path, text: &str, die_at: Option<usize>) -> Output {
    let mut command = Command::new(example("deploy"));
    command.arg(folder);
    command.args(FILES.map(|file| format!("{file}={text}")));
    if let Some(at) = die_at {
        command.env("DEPLOY_DIE_AT", at.to_string());
    }
    command.output().expect("the example runs")
}

/// Cargo builds examples beside the tests.
fn example(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let build = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    build.join("examples").join(name)
}

fn texts(folder: &Path) -> [String; 3] {
    FILES.map(|file| fs::read_to_string(folder.join(file)).expect("a file"))
}

#[test]
fn a_deployment_killed_at_any_step_is_whole_or_nothing_after_the_next_start() {
    let (mut died, mut new, mut old) = (0, 0, 0);
    for moment in 1.. {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(deploy(folder.path(), "old", None).status.success());
        let killed = deploy(folder.path(), "new", Some(moment));
        if killed.status.success() {
            assert_eq!(texts(folder.path()), ["new"; 3]);
            break;
        }
        died += 1;
        // A start without anything to deploy settles what is left.
        let settled = Command::new(example("deploy")).arg(folder.path()).output();
        assert!(settled.expect("the example runs").status.success());
        match texts(folder.path()) {
            all if all == ["old"; 3] => old += 1,
            all if all == ["new"; 3] => new += 1,
            mixed => panic!("killed at moment {moment}: {mixed:?}"),
        }
        let left = fs::read_dir(folder.path()).expect("the folder");
        let mut left: Vec<_> = left
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a.txt", "b.txt", "c.txt", "verdicts"]);
        // And the next deployment goes through.
        assert!(deploy(folder.path(), "newer", None).status.success());
        assert_eq!(texts(folder.path()), ["newer"; 3]);
    }
    println!("{died} moments: {old} times the old files, {new} times the new ones");
    assert!(old > 0 && new > 0, "both ends were met");
}

/// The same driver, and the same functions that the example's start has, killed between any two calls of the engine.
#[test]
fn its_driver_passes_the_kit_with_a_kill_at_every_boundary() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let [fresh, swept, seen] = [(); 3].map(|()| path.clone());
    let make = move || {
        sweep(&fresh).expect("the folder is swept");
        fs::write(fresh.join("a.txt"), "old").expect("a file");
        Replace::new(fresh.join("a.txt"), "new")
    };
    let look = move || -> BTreeMap<_, _> {
        let entries = fs::read_dir(&seen).expect("the folder");
        let text = |path| fs::read_to_string(path).expect("a file");
        entries
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name(), text(entry.path())))
            .collect()
    };
    let passed = Crashes::new(KIND, make, rebuild, look)
        .sweep(move || sweep(&swept).expect("the folder is swept"))
        .run()
        .unwrap();
    println!("{passed}");
    assert!(passed.is_exhaustive() && passed.kills() > 200, "{passed}");
}
