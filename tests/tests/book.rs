//! The pages of `docs/` as a book: no link leads nowhere, and no page is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cohort_tests::mutants::root;

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let root = root();
    let mut pages = pages(&root.join("docs"));
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name)));
    let mut lost = Vec::new();
    for page in &pages {
        let text = read(page);
        for link in links(&text) {
            if let Err(why) = follow(page, link) {
                lost.push(format!("{}: {link}: {why}", page.display()));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn the_pages_of_the_book_link_to_nothing_outside_it() {
    let docs = root().join("docs");
    for page in pages(&docs) {
        let text = read(&page);
        let outside: Vec<&str> = links(&text).filter(|link| link.starts_with("..")).collect();
        assert!(outside.is_empty(), "{}: {outside:?}", page.display());
    }
}

#[test]
fn every_page_has_one_place_in_the_summary() {
    let docs = root().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    let mut listed = BTreeMap::<PathBuf, usize>::new();
    for link in links(&summary) {
        *listed.entry(docs.join(link)).or_default() += 1;
    }
    let there: BTreeMap<PathBuf, usize> = pages(&docs)
        .into_iter()
        .filter(|page| !page.ends_with("SUMMARY.md"))
        .map(|page| (page, 1))
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn anchors_are_made_as_the_book_makes_them() {
    let text = "# What `--track` costs, and *why*\n```\n# no heading\n```\n## Twice\n## Twice\n";
    let expected = ["what---track-costs-and-why", "twice", "twice-1"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
}

/// The pages of a folder.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is in the tree");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect()
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// Where a page links to, pictures included; what stands in code is no link.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(link, _)| link)
}

/// The lines of a page that are not in a fenced block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Whether `link` of `page` leads to a file of the tree, and to a heading of it if it names one.
fn follow(page: &Path, link: &str) -> Result<(), String> {
    if link.starts_with("https://") {
        return Ok(());
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_owned(),
        file => page.parent().expect("a page is in a folder").join(file),
    };
    if !target.exists() {
        return Err("there is no such file".into());
    }
    if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
        return Err("there is no such heading".into());
    }
    Ok(())
}

/// The anchors of a page's headings, as mdBook and the forges make them: a second heading of a name is numbered.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut times = BTreeMap::<String, usize>::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let slug = slug(line.trim_start_matches('#').trim());
            let before = times.entry(slug.clone()).or_default();
            *before += 1;
            match *before {
                1 => slug,
                nth => format!("{slug}-{}", nth - 1),
            }
        })
        .collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|sign| match sign {
        ' ' => Some('-'),
        '-' | '_' => Some(sign),
        _ => sign.is_alphanumeric().then_some(sign),
    });
    kept.flat_map(char::to_lowercase).collect()
}
