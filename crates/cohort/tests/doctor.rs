//! `cohort doctor` on directories that kills, failures and other programs left as they are.

mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Stdio;

use cohort_backup::catalogue::{self, Catalogue};
use cohort_job::{
    Cause, Disposition, Entry, GroupName, Journal, Kind, MemberName, Record, Verdict,
};
use cohort_journal::FileJournal;
use lab::{Lab, Ran};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn doctor(lab: &Lab, args: &[&str]) -> Ran {
    lab.cohort(["doctor"].iter().chain(args))
}

fn found(lab: &Lab, dir: &str) -> Vec<Value> {
    let told = doctor(lab, &[dir, "--json"]).exits(0).json();
    assert_eq!(told["event"], "doctor");
    told["findings"].as_array().expect("findings").clone()
}

/// The names of all findings.
fn ids(lab: &Lab, dir: &str) -> Vec<String> {
    let all = found(lab, dir);
    let names = all
        .iter()
        .map(|one| one["id"].as_str().expect("a name").to_owned());
    names.collect()
}

/// Every file with a digest of its bytes; locks carry nothing.
fn bytes(dir: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    let lasting = named.filter(|(name, _)| !name.ends_with(".lock") && !name.ends_with(".gate"));
    let digest = |(name, path)| {
        let mut hasher = DefaultHasher::new();
        fs::read(path).unwrap().hash(&mut hasher);
        (name, hasher.finish())
    };
    lasting.map(digest).collect()
}

/// Starts a slow backup of `a.raw`, and sends it a signal once its image is there and holds something.
fn interrupted(lab: &Lab, dir: &str, args: &[&str], signal: &str) {
    let images = || match lab.path(dir).exists() {
        true => lab.images(dir),
        false => Vec::new(),
    };
    let old = images();
    let mut command = lab.program();
    command
        .args(["backup", "a.raw", "--to", dir, "--speed", "2M"])
        .args(args);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let written = || {
        let mut fresh = images().into_iter().filter(|image| !old.contains(image));
        fresh.any(|image| fs::metadata(image).is_ok_and(|found| found.len() > MIB))
    };
    while !written() {
        std::thread::yield_now();
    }
    lab::signal(&child, signal);
    child.wait().unwrap();
}

fn a_disk(lab: &Lab) {
    lab.noise("a.raw", 3, 16 * MIB as usize);
}

fn abort() -> Verdict {
    Verdict::Abort {
        cause: Cause::Failed(0),
        disposition: Disposition::Keep,
    }
}

#[test]
fn a_directory_in_order_has_nothing_to_answer() {
    let lab = Lab::new();
    a_disk(&lab);
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    fs::write(lab.path("R/notes.txt"), "mine").unwrap();
    let said = doctor(&lab, &["R"]).exits(0).stdout;
    assert_eq!(said, "R: nothing is in doubt, and nothing is left over\n");
    doctor(&lab, &["R", "--resolve", "group:x=done"])
        .exits(2)
        .says(&["nothing was found here"]);
    doctor(&lab, &["nowhere"]).exits(43);
}

#[test]
fn an_undecided_partial_is_told_with_both_ends_and_answered() {
    for (word, next) in [
        ("keep", "from the partial of run 2"),
        ("discard", "is dropped"),
    ] {
        let lab = Lab::new();
        a_disk(&lab);
        lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
        lab.noise("a.raw", 4, 16 * MIB as usize);
        interrupted(&lab, "R", &["--policy", "ask"], "INT");
        let before = bytes(&lab.path("R"));
        let [finding] = &found(&lab, "R")[..] else {
            panic!("one finding")
        };
        assert_eq!(finding["id"], "partial:a");
        let words: Vec<_> = finding["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| &a["answer"])
            .collect();
        assert_eq!(words, ["leave", "keep", "discard"]);
        let said = doctor(&lab, &["R"]).exits(0).stdout;
        for part in [
            "are not copied again",
            "returns to a@1 of",
            "Nothing was changed.",
        ] {
            assert!(said.contains(part), "'{part}' is missing in:\n{said}");
        }
        doctor(&lab, &["R", "--resolve", "partial:a=leave"]).exits(0);
        assert_eq!(bytes(&lab.path("R")), before, "looking changes nothing");
        lab.cohort(["backup", "a.raw", "--to", "R"]).exits(8);
        doctor(&lab, &["R", "--resolve", &format!("partial:a={word}")]).exits(0);
        assert_eq!(ids(&lab, "R"), [""; 0]);
        let ran = lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
        assert_eq!(
            ran.stderr.contains("from the partial of run 2"),
            word == "keep",
            "{next}: {}",
            ran.stderr
        );
        lab.restores_to("R", "a", "a.raw");
    }
}

#[test]
fn what_a_killed_run_left_is_removed_when_that_is_said_and_only_that() {
    let lab = Lab::new();
    a_disk(&lab);
    interrupted(&lab, "R", &[], "KILL");
    interrupted(&lab, "Other", &[], "KILL");
    let name = |dir: &str| {
        let images = lab.images(dir);
        images[0].file_name().unwrap().to_str().unwrap().to_owned()
    };
    let (unfinished, stray) = (name("R"), name("Other"));
    fs::copy(lab.path("Other").join(&stray), lab.path("R").join(&stray)).unwrap();
    let scratch = {
        let contents = catalogue::read(lab.path("R")).unwrap();
        format!(
            "cohort-{}-1-o0.qcow2",
            &contents.meta.directory.to_string()[..8]
        )
    };
    fs::write(lab.path("R").join(&scratch), "saved").unwrap();
    fs::write(lab.path("R/mine.qcow2"), "not ours").unwrap();
    let (unfinished, stray, scratch) = (
        format!("file:{unfinished}"),
        format!("file:{stray}"),
        format!("file:{scratch}"),
    );
    let mut all = ids(&lab, "R");
    all.retain(|id| id.ends_with(".qcow2"));
    let mut expected = [&unfinished, &stray, &scratch];
    expected.sort();
    all.sort();
    assert_eq!(all.iter().collect::<Vec<_>>(), expected);
    let said = doctor(&lab, &["R"]).exits(0).stdout;
    for part in [
        "the next run removes it",
        "of another backup directory",
        "a running machine's disk",
    ] {
        assert!(said.contains(part), "'{part}' is missing in:\n{said}");
    }
    let before = bytes(&lab.path("R"));
    // One wrong word, and nothing is done.
    let wrong = [&format!("{stray}=remove"), &format!("{scratch}=keep")];
    doctor(&lab, &["R", "--resolve", wrong[0], "--resolve", wrong[1]])
        .exits(2)
        .says(&["are leave, remove"]);
    assert_eq!(bytes(&lab.path("R")), before);
    for id in [&stray, &scratch] {
        let ran = doctor(&lab, &["R", "--resolve", &format!("{id}=remove"), "--json"]).exits(0);
        assert_eq!(ran.json()["event"], "resolved");
        let after = bytes(&lab.path("R"));
        assert_eq!(after.len() + 1, before.len() - usize::from(id == &scratch));
        assert!(!after.contains_key(id.strip_prefix("file:").unwrap()));
    }
    doctor(&lab, &["R", "--resolve", &format!("{unfinished}=remove")]).exits(0);
    assert!(!ids(&lab, "R").contains(&unfinished));
    assert!(lab.path("R/mine.qcow2").exists());
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
}

#[test]
fn a_group_of_a_backup_that_was_decided_and_not_finished_is_told() {
    let lab = Lab::new();
    a_disk(&lab);
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    let catalogue = Catalogue::open(lab.path("R")).unwrap();
    for (name, verdict) in [("run-8", Verdict::Commit), ("run-9", abort())] {
        catalogue
            .decide(&GroupName::new(name), &verdict, &[])
            .unwrap();
    }
    // Beside its writer, who is named when something is to be changed.
    let told = doctor(&lab, &["R", "--json"]).exits(0).json();
    assert_eq!(told["writer"], true);
    let busy = doctor(&lab, &["R", "--resolve", "group:run-8=done"]).exits(44);
    assert!(
        busy.stderr.contains(&std::process::id().to_string()),
        "{}",
        busy.stderr
    );
    drop(catalogue);
    assert_eq!(ids(&lab, "R"), ["group:run-8", "group:run-9"]);
    let said = doctor(&lab, &["R"]).exits(0).stdout;
    assert!(
        said.contains("decided (commit)") && said.contains("decided (abort, keep)"),
        "{said}"
    );
    doctor(&lab, &["R", "--resolve", "group:run-8=done"]).exits(0);
    assert_eq!(ids(&lab, "R"), ["group:run-9"]);
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    assert_eq!(
        ids(&lab, "R"),
        [""; 0],
        "as it says, the next run does that"
    );
}

#[test]
fn rows_of_a_journal_are_told_and_forgotten_readable_or_not() {
    let lab = Lab::new();
    let journal = FileJournal::open(lab.path("S")).unwrap();
    let entry: Entry = (MemberName::new("web"), Kind::new("deploy"), Record(vec![1]));
    for (name, verdict) in [("deploy 7", Verdict::Commit), ("deploy 8", abort())] {
        journal
            .decide(
                &GroupName::new(name),
                &verdict,
                std::slice::from_ref(&entry),
            )
            .unwrap();
    }
    drop(journal);
    let database = redb::Database::create(lab.path("S/journal.redb")).unwrap();
    let rows: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("owed");
    let change = database.begin_write().unwrap();
    change
        .open_table(rows)
        .unwrap()
        .insert(5, &b"{}"[..])
        .unwrap();
    change.commit().unwrap();
    drop(database);
    let before = bytes(&lab.path("S"));
    assert_eq!(ids(&lab, "S"), ["row:1", "row:2", "row:5"]);
    let said = doctor(&lab, &["S"]).exits(0).stdout;
    for part in [
        "group 'deploy 7' was decided (commit)",
        "web (deploy)",
        "next start runs their abort hooks",
        "never run again",
        "row:5  cannot be read",
        "holds up no other group",
    ] {
        assert!(said.contains(part), "'{part}' is missing in:\n{said}");
    }
    assert_eq!(bytes(&lab.path("S")), before, "looking changes nothing");
    doctor(
        &lab,
        &[
            "S",
            "--resolve",
            "row:5=forget",
            "--resolve",
            "row:1=forget",
        ],
    )
    .exits(0);
    assert_eq!(ids(&lab, "S"), ["row:2"]);
    let holder = FileJournal::open(lab.path("S")).unwrap();
    assert_eq!(holder.owed().unwrap().len(), 1);
    let told = doctor(&lab, &["S", "--json"]).exits(0).json();
    assert_eq!(
        (&told["writer"], &told["findings"][0]["id"]),
        (&json!(true), &json!("row:2"))
    );
    let busy = doctor(&lab, &["S", "--resolve", "row:2=forget"]).exits(44);
    assert!(
        busy.stderr.contains(&std::process::id().to_string()),
        "{}",
        busy.stderr
    );
}
