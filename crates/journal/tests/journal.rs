//! A directory's journal: what it keeps, for whom, and what it says when it cannot.
#![cfg(not(loom))]

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use cohort_job::{
    Cause, Disposition, DriverExt, Engine, Entry, GroupName, JobSpec, Journal, Kind, MemberName,
    Owed, Record, Step, Verdict, from_fn,
};
use cohort_journal::{FileJournal, OpenError, read};
use redb::{Database, TableDefinition};

fn entry(name: &str, record: &[u8]) -> Entry {
    (
        MemberName::new(name),
        Kind::new("test"),
        Record(record.to_vec()),
    )
}

fn committed(group: GroupName, record: Entry) -> Owed {
    Owed {
        group,
        verdict: Verdict::Commit,
        records: vec![record],
    }
}

fn decide(journal: &FileJournal, owed: &Owed) {
    let decided = journal.decide(&owed.group, &owed.verdict, &owed.records);
    decided.expect("the verdict is written");
}

fn open(directory: &Path) -> FileJournal {
    FileJournal::open(directory).expect("the journal opens")
}

#[test]
fn what_was_decided_is_owed_to_the_next_process_until_it_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (GroupName::new("a"), GroupName::new("b"));
    let abort = Verdict::Abort {
        cause: Cause::Failed(1),
        disposition: Disposition::Discard,
    };
    let first = open(directory.path());
    first
        .decide(&a, &Verdict::Commit, &[entry("x", &[0, 255])])
        .unwrap();
    first.decide(&b, &abort, &[entry("y", b"")]).unwrap();
    let owed = first.owed().unwrap();
    drop(first);

    let second = open(directory.path());
    assert_eq!(second.owed().unwrap(), owed);
    assert_eq!(owed[1].verdict, abort);
    second.done(&owed[0]).unwrap();
    drop(second);
    assert_eq!(open(directory.path()).owed().unwrap(), owed[1..]);
}

/// A name may come back, even while it is owed: each is done for itself, in any order.
#[test]
fn a_name_used_twice_is_owed_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, group) = (open(directory.path()), GroupName::new("nightly"));
    journal
        .decide(&group, &Verdict::Commit, &[entry("x", b"1")])
        .unwrap();
    journal
        .decide(&group, &Verdict::Commit, &[entry("x", b"2")])
        .unwrap();
    let owed = journal.owed().unwrap();
    journal.done(&owed[1]).unwrap();
    assert_eq!(journal.owed().unwrap(), owed[..1]);
    assert_eq!(owed[0].records[0].2, Record(b"1".to_vec()));
}

/// Whoever asks the journal is told what the next process would find, whoever else wrote at the same time.
#[test]
fn what_is_known_is_what_is_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let write = |writer: u8| {
        let group = GroupName::new(format!("group {writer}"));
        for turn in 0..20 {
            // One key is everybody's, and one comes and goes.
            let own = (turn % 2 == 0).then(|| vec![writer]);
            let notes = vec![
                ("all".to_owned(), Some(vec![writer, turn])),
                (format!("own {writer}"), own),
            ];
            journal.note(notes).unwrap();
            let owed = committed(group.clone(), entry("x", &[turn]));
            decide(&journal, &owed);
            if turn % 3 == 0 {
                journal.done(&owed).unwrap();
            }
        }
    };
    thread::scope(|scope| {
        let write = &write;
        for writer in 0..4 {
            scope.spawn(move || write(writer));
        }
    });
    let known = journal.contents();
    assert_eq!(known.notes.keys().collect::<Vec<_>>(), ["all"]);
    assert_eq!(known.owed.len(), 4 * (20 - 7));
    assert_eq!(read(directory.path()).unwrap(), known);
}

#[test]
fn a_second_process_is_refused_and_told_who_writes_here() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let refused = FileJournal::open(directory.path()).unwrap_err();
    let own = std::process::id();
    assert!(matches!(refused, OpenError::Held { holder: Some(pid), .. } if pid == own));
    assert!(
        refused.to_string().contains(&format!("(process {own})")),
        "{refused}"
    );
    // Who only looks is let in.
    first.decide(&"g".into(), &Verdict::Commit, &[]).unwrap();
    assert_eq!(read(directory.path()).unwrap().owed.len(), 1);
    drop(first);
    open(directory.path());
}

#[test]
fn an_unreadable_row_is_set_aside_and_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    for group in ["a", "b", "c"] {
        journal
            .decide(&group.into(), &Verdict::Commit, &[entry("x", b"")])
            .unwrap();
    }
    drop(journal);
    let file = Database::open(directory.path().join("journal.redb")).unwrap();
    let txn = file.begin_write().unwrap();
    let rows = TableDefinition::<u64, &[u8]>::new("owed");
    let row = br#"{"group":"b","colour":"red"}"#;
    txn.open_table(rows)
        .unwrap()
        .insert(2, row.as_slice())
        .unwrap();
    txn.commit().unwrap();
    drop(file);

    let journal = open(directory.path());
    let contents = journal.contents();
    assert_eq!(contents.owed.keys().collect::<Vec<_>>(), [&1, &3]);
    assert_eq!(contents.unreadable.len(), 1);
    assert_eq!(contents.unreadable[0].number, 2);
    assert!(contents.unreadable[0].why.contains("colour"));
    // A new verdict takes no row's place, the unreadable one's neither.
    journal.decide(&"d".into(), &Verdict::Commit, &[]).unwrap();
    assert_eq!(journal.contents().owed.keys().max(), Some(&4));
    assert!(journal.forget(2).unwrap());
    assert!(!journal.forget(2).unwrap());
    drop(journal);
    assert!(read(directory.path()).unwrap().unreadable.is_empty());
}

#[test]
fn what_is_no_journal_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let other = directory.path().join("other.redb");
    drop(open(directory.path()));
    let good = fs::read(&path).unwrap();
    drop(Database::create(&other).unwrap());
    let mut torn = good.clone();
    torn.truncate(good.len() / 2);
    let cases = [
        b"".to_vec(),
        b"my notes".to_vec(),
        fs::read(&other).unwrap(),
        torn,
    ];
    for bytes in cases {
        fs::write(&path, &bytes).unwrap();
        let error = FileJournal::open(directory.path()).unwrap_err();
        assert!(
            matches!(error, OpenError::Foreign { .. } | OpenError::Damaged { .. }),
            "{error:?}"
        );
        read(directory.path()).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    let missing = directory.path().join("no/such");
    assert!(matches!(
        FileJournal::open(missing),
        Err(OpenError::NoDirectory(_))
    ));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(read(empty.path()), Err(OpenError::NoJournal(_))));
}

#[test]
fn no_flipped_byte_makes_up_a_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal
        .decide(&"g".into(), &Verdict::Commit, &[entry("x", b"record")])
        .unwrap();
    drop(journal);
    let path = directory.path().join("journal.redb");
    let (good, said) = (fs::read(&path).unwrap(), read(directory.path()).unwrap());
    // Every byte of the header and a sample of the rest. A flip may cost what was written last, as a torn write would.
    let places = (0..512).chain((512..good.len()).step_by(97));
    for place in places {
        let mut bytes = good.clone();
        bytes[place] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        if let Ok(contents) = read(directory.path()) {
            assert!(contents == said || contents.owed.is_empty(), "byte {place}");
        }
    }
}

/// A million groups one after the other must not need a million rows' room.
#[test]
fn the_file_is_as_large_as_what_is_owed() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, path) = (
        open(directory.path()),
        directory.path().join("journal.redb"),
    );
    let length = || fs::metadata(&path).unwrap().len();
    let pass = |number: u32| {
        let group = GroupName::new(format!("group {number}"));
        let owed = committed(group, entry("x", &[7; 500]));
        decide(&journal, &owed);
        journal.done(&owed).unwrap();
    };
    (0..20).for_each(pass);
    let settled = length();
    (20..320).for_each(pass);
    assert!(length() <= settled, "{} bytes, {settled} before", length());
    assert!(journal.owed().unwrap().is_empty());
}

#[test]
fn hooks_owed_by_a_killed_process_run_again_and_only_those() {
    let directory = tempfile::tempdir().unwrap();
    // What a process that died between verdict and hooks has left.
    let journal = open(directory.path());
    journal
        .decide(
            &"g".into(),
            &Verdict::Commit,
            &[entry("x", b"one"), entry("y", b"two")],
        )
        .unwrap();
    journal
        .decide(
            &"odd".into(),
            &Verdict::Commit,
            &[(
                MemberName::new("z"),
                Kind::new("unknown"),
                Record::default(),
            )],
        )
        .unwrap();
    drop(journal);

    let journal = Arc::new(open(directory.path()));
    let engine = Engine::builder().journal(journal.clone()).build().unwrap();
    let (told, heard) = mpsc::channel();
    let told = Arc::new(Mutex::new(told));
    let recovered = engine
        .recover(|_, _, kind, record| {
            let (told, text) = (Arc::clone(&told), record.0.clone());
            let driver = from_fn(|_| Step::done()).on_commit(move |how| {
                assert!(how.replayed);
                told.lock().unwrap().send(text.clone()).unwrap();
            });
            (kind.as_str() == "test").then(|| Box::new(driver) as _)
        })
        .unwrap();
    recovered.groups.iter().for_each(|group| _ = group.wait());
    let mut ran: Vec<_> = heard.try_iter().collect();
    ran.sort();
    assert_eq!(ran, [b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(recovered.unknown.len(), 1);
    // The group that nobody could rebuild waits, and keeps nobody from working.
    assert_eq!(journal.owed().unwrap().len(), 1);
    let mut group = engine.group("next");
    group
        .add(JobSpec::new("x").kind("test"), from_fn(|_| Step::done()))
        .unwrap();
    assert_eq!(group.launch().wait(), Some(Verdict::Commit));
}
