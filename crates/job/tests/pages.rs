//! The tables in the project's pages are those of the code.

use std::path::Path;

use cohort_job::{Status, Verb};

/// A table with a column for each status: a head, a rule, and one row for each name.
fn table(corner: &str, rows: impl Iterator<Item = (&'static str, &'static [Status])>) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut table = line(
        [corner]
            .into_iter()
            .chain(Status::ALL.map(Status::as_str))
            .collect(),
    );
    table += &format!("|{}\n", "---|".repeat(1 + Status::ALL.len()));
    for (name, marked) in rows {
        let cell = |status: &Status| if marked.contains(status) { "x" } else { "" };
        table += &line(
            [name]
                .into_iter()
                .chain(Status::ALL.iter().map(cell))
                .collect(),
        );
    }
    table
}

/// Compares what stands between `<!-- name: … -->` and `<!-- end -->` with `expected`.
fn assert_printed(page: &str, name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(page);
    let text = std::fs::read_to_string(&path).expect("the page is in the tree");
    let (_, rest) = text
        .split_once(&format!("<!-- {name}: printed from the code -->\n"))
        .expect("a mark");
    let (printed, _) = rest.split_once("<!-- end -->").expect("an end mark");
    assert!(
        printed == expected,
        "docs/{page}, {name}: the code says\n{expected}"
    );
}

#[test]
fn the_page_tells_which_status_may_follow_which() {
    let rows = Status::ALL
        .into_iter()
        .map(|status| (status.as_str(), status.leads_to()));
    assert_printed("states.md", "leads-to", &table("from \\ to", rows));
}

#[test]
fn the_page_tells_which_verb_is_accepted_where() {
    let rows = Verb::ALL
        .into_iter()
        .map(|verb| (verb.as_str(), verb.accepted_in()));
    assert_printed("states.md", "accepted-in", &table("verb", rows));
}
