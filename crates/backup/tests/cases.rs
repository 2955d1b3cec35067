//! `docs/backup-cases.md` names a test for each of the field's cases: each of them exists, and no case is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where tests are.
const ROOMS: [&str; 3] = ["crates", "tests/tests", "tests/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of all functions that stand right below a `#[test]`.
fn tests_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut lines = text.lines().map(str::trim).peekable();
            while let Some(line) = lines.next() {
                if line == "#[test]"
                    && let Some(name) = lines.peek().and_then(|next| next.strip_prefix("fn "))
                {
                    found.extend(name.split('(').next().map(str::to_owned));
                }
            }
        }
    }
}

/// The numbers that the first cell of a row speaks of: `K1–K4`, `K24, K88`, `K41–K43`.
fn numbers(cell: &str) -> Vec<u32> {
    let cell = cell.split(':').next().unwrap_or(cell);
    let number = |text: &str| text.trim().trim_start_matches('K').parse::<u32>().unwrap();
    let parts = cell.split(',').flat_map(|part| match part.split_once('–') {
        Some((from, to)) => number(from)..=number(to),
        None => number(part)..=number(part),
    });
    parts.collect()
}

#[test]
fn every_case_has_its_row_and_every_test_of_a_row_exists() {
    let docs = fs::read_to_string(root().join("docs/backup-cases.md")).unwrap();
    let mut tests = BTreeSet::new();
    for room in ROOMS {
        tests_in(&root().join(room), &mut tests);
    }
    let mut cases = Vec::new();
    for row in docs.lines().filter(|line| line.starts_with("| K")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        cases.extend(numbers(cells[0]));
        for name in row.split('`').skip(1).step_by(2) {
            assert!(
                tests.contains(name),
                "{}: there is no test {name}",
                cells[0]
            );
        }
        let told = cells[1] == "—" && !cells[2].is_empty();
        assert!(
            told || cells[1].contains('`'),
            "{} has no test and no reason",
            cells[0]
        );
    }
    cases.sort_unstable();
    assert_eq!(cases, (1..=105).collect::<Vec<_>>());
}
