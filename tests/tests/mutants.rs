//! Whether the patches of `tests/mutants` are still about this tree. Whether their checks notice is told by
//! `just mutants`, in minutes.

use std::fmt::Write;

use cohort_tests::mutants::{all, root};

#[test]
fn every_mutant_applies_and_names_a_check_that_is_there() {
    let root = root();
    let mutants = all(&root.join("tests/mutants")).unwrap();
    assert!(mutants.len() >= 40, "{}", mutants.len());
    let mut wrong = Vec::new();
    for (name, mutant) in mutants {
        let found = mutant.and_then(|mutant| {
            mutant.applied_to(&root)?;
            Ok(mutant.check)
        });
        match found {
            Ok(check) if check.exists(&root).unwrap() => {}
            Ok(check) => wrong.push(format!("{name}: there is no test {check}")),
            Err(unfit) => wrong.push(format!("{name}: {unfit}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "mend or drop these:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_readme_says_how_many_there_are() {
    let root = root();
    let count = all(&root.join("tests/mutants")).unwrap().len();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let line = format!("- {count} patches break one rule each");
    assert!(readme.contains(&line), "README.md: {line}");
}

#[test]
fn the_page_lists_every_mutant() {
    let root = root();
    let mut table = "| mutant | the rule it breaks | caught by |\n|---|---|---|\n".to_owned();
    for (name, mutant) in all(&root.join("tests/mutants")).unwrap() {
        let mutant = mutant.unwrap();
        writeln!(table, "| {name} | {} | `{}` |", mutant.rule, mutant.check).unwrap();
    }
    let page = std::fs::read_to_string(root.join("docs/mutants.md")).unwrap();
    let (_, rest) = page
        .split_once("<!-- mutants: printed from the patches -->\n")
        .expect("a mark");
    let (printed, _) = rest.split_once("<!-- end -->").expect("an end mark");
    assert!(
        printed == table,
        "docs/mutants.md: the patches say\n{table}"
    );
}
