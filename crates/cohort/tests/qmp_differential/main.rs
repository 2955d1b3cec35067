//! The same QMP script against QEMU's storage daemon and against ours: what they answer, tell and leave is the same, but
//! for the differences that `docs/qemu-differences.md` lists.
//!
//! Scenarios are data: `scenarios/*.qmp`, see `script.rs`. The peer is the program that `COHORT_QSD` names, or
//! `qemu-storage-daemon`; it must be of version 10. `COHORT_SHOW=PART` prints both sides of the scenarios whose names
//! contain PART.

mod compare;
mod script;
mod side;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use compare::Verdict;
use script::Scenario;
use side::Side;

#[test]
fn both_daemons_say_and_do_the_same() {
    let Some(peer) = peer() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "this may not be skipped in CI"
        );
        eprintln!("SKIPPED: no qemu-storage-daemon 10; name one in COHORT_QSD");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qmp_differential/scenarios");
    let scenarios = script::read_all(&folder);
    let listed = listed_differences();
    let show = std::env::var("COHORT_SHOW").ok();
    let (mut equal, mut on_purpose, mut wrong) = (0, 0, Vec::new());
    let mut used = BTreeSet::new();
    let (mut answers, mut events) = (0, 0);
    for scenario in &scenarios {
        let (theirs, ours) = run_both(&peer, scenario);
        answers += theirs.answers();
        events += theirs.events();
        if show
            .as_ref()
            .is_some_and(|part| scenario.name.contains(part.as_str()))
        {
            println!("== {}\n-- QEMU\n{theirs}-- Cohort\n{ours}", scenario.name);
        }
        let verdict = compare::compare(scenario, &theirs, &ours);
        used.extend(verdict.used);
        for reason in &scenario.reasons {
            assert!(
                listed.contains(reason),
                "'{reason}' is not in docs/qemu-differences.md"
            );
        }
        match verdict.found {
            Verdict::Equal => equal += 1,
            Verdict::OnPurpose => on_purpose += 1,
            Verdict::Wrong(why) => wrong.push(format!("{}\n{why}", scenario.name)),
        }
    }
    println!(
        "{} scenarios, {answers} answers, {events} events: {equal} equal, {on_purpose} different on purpose, {} otherwise",
        scenarios.len(),
        wrong.len()
    );
    let unused: Vec<_> = listed.difference(&used).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(
        unused.is_empty(),
        "listed, and not seen in any scenario: {unused:?}"
    );
}

fn run_both(peer: &Path, scenario: &Scenario) -> (script::Transcript, script::Transcript) {
    let run = |start: &dyn Fn(&Path) -> Side| {
        let folder = tempfile::tempdir().unwrap();
        let mut side = start(folder.path());
        script::play(scenario, &mut side, folder.path())
    };
    (run(&|folder| Side::qemu(peer, folder)), run(&Side::cohort))
}

/// The reasons that the page of differences gives, one a heading.
fn listed_differences() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/qemu-differences.md");
    let text = std::fs::read_to_string(page).unwrap();
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    headings.map(str::to_owned).collect()
}

/// QEMU's storage daemon, if there is one of version 10.
fn peer() -> Option<PathBuf> {
    let named = std::env::var_os("COHORT_QSD").unwrap_or_else(|| "qemu-storage-daemon".into());
    let said = Command::new(&named).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout);
    said.contains("version 10.").then(|| named.into())
}
