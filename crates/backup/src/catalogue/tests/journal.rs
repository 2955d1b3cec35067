//! The catalogue as a journal: verdicts, what they change, what is owed.

use std::io;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cohort_job::{Cause, Disposition, GroupName, Journal, Kind, MemberName, Owed, Record, Verdict};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::samples::{disk, kept, record, small};
use cohort_journal::lock::{LockFiles, WriterLock};

use crate::catalogue::store::Store;
use crate::catalogue::*;

type Entry = (MemberName, Kind, Record);

fn two_disks() -> (tempfile::TempDir, Catalogue, [DiskName; 2], RunId) {
    let directory = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open_or_create(directory.path()).unwrap();
    let disks = [disk("root"), disk("data")];
    let named: Vec<_> = disks
        .iter()
        .map(|disk| (disk.clone(), String::new()))
        .collect();
    let run = catalogue.begin_run(&named).unwrap();
    (directory, catalogue, disks, run)
}

fn entry(catalogue: &Catalogue, disk: &DiskName, run: RunId) -> Entry {
    let record = record(&catalogue.snapshot().unwrap(), disk, run);
    (
        MemberName::new(disk),
        Kind::new(PointRecord::KIND),
        Record(record.encode()),
    )
}

fn keep(catalogue: &Catalogue, disk: &DiskName, run: RunId) {
    let kept = kept(&catalogue.snapshot().unwrap(), disk, run, Decision::Keep);
    catalogue.keep_partial(kept).unwrap();
}

fn abort(disposition: Disposition) -> Verdict {
    Verdict::Abort {
        cause: Cause::Failed(1),
        disposition,
    }
}

#[test]
fn commit_makes_points_of_all_members_at_once() {
    let (directory, catalogue, [root, data], run) = two_disks();
    keep(&catalogue, &root, run);
    keep(&catalogue, &data, run);
    let continued = catalogue.snapshot().unwrap().partials[&root].file.clone();
    let records = [entry(&catalogue, &root, run), entry(&catalogue, &data, run)];
    catalogue
        .decide(&"g".into(), &Verdict::Commit, &records)
        .unwrap();

    let contents = read(directory.path()).unwrap();
    assert_eq!(contents.point(&root, run).unwrap().file, continued);
    assert!(contents.point(&data, run).is_some());
    assert!(contents.partials.is_empty());
    let views = &contents.views[&root];
    assert_eq!(views.point.as_ref().unwrap().anchor, Anchor::Point(run));
    assert_eq!(views.partial, None);
}

#[test]
fn verdicts_are_owed_until_done_and_remembered_after() {
    let (directory, catalogue, [root, _], run) = two_disks();
    let (one, two) = (GroupName::new("one"), GroupName::new("two"));
    let record = entry(&catalogue, &root, run);
    let verdict = abort(Disposition::Keep);
    catalogue
        .decide(&one, &Verdict::Commit, slice::from_ref(&record))
        .unwrap();
    catalogue.decide(&two, &verdict, &[]).unwrap();
    drop(catalogue);

    let catalogue = Catalogue::open(directory.path()).unwrap();
    let owed = catalogue.owed().unwrap();
    let first = Owed {
        group: one.clone(),
        verdict: Verdict::Commit,
        records: vec![record],
    };
    assert_eq!(
        owed,
        [
            first,
            Owed {
                group: two.clone(),
                verdict,
                records: vec![]
            }
        ]
    );
    owed.iter().for_each(|owed| catalogue.done(owed).unwrap());
    assert_eq!(catalogue.owed().unwrap(), []);
    let contents = read(directory.path()).unwrap();
    assert_eq!(contents.verdicts.len(), 2);
    assert_eq!(contents.verdicts[&1].outcome, Outcome::Commit);
    assert_eq!(contents.verdicts[&1].members[0].record, None);
}

#[test]
fn every_verdict_reads_back() {
    let (_directory, catalogue, ..) = two_disks();
    let causes = [
        Cause::Failed(3),
        Cause::Cancelled(0),
        Cause::User,
        Cause::Rollback,
        Cause::Shutdown,
        Cause::ProcessEnded,
    ];
    let mut verdicts = vec![Verdict::Commit];
    for disposition in [Disposition::Keep, Disposition::Discard] {
        verdicts.extend(causes.map(|cause| Verdict::Abort { cause, disposition }));
    }
    for (number, verdict) in verdicts.iter().enumerate() {
        catalogue
            .decide(&format!("group-{number}").into(), verdict, &[])
            .unwrap();
    }
    let owed: Vec<Verdict> = catalogue
        .owed()
        .unwrap()
        .iter()
        .map(|owed| owed.verdict)
        .collect();
    assert_eq!(owed, verdicts);
}

#[test]
fn only_discard_drops_the_partials_that_were_enlisted() {
    for (disposition, left) in [(Disposition::Keep, 2), (Disposition::Discard, 1)] {
        let (_directory, catalogue, [root, data], run) = two_disks();
        keep(&catalogue, &root, run);
        keep(&catalogue, &data, run);
        catalogue.enlist("g", &root);
        catalogue.enlist("another group", &data);
        catalogue
            .decide(&"g".into(), &abort(disposition), &[])
            .unwrap();
        let contents = catalogue.snapshot().unwrap();
        assert_eq!(contents.partials.len(), left, "{disposition:?}");
        assert!(contents.partials.contains_key(&data));
        assert!(contents.points.is_empty());
    }
}

/// An abort seals what is kept after its verdict, and what is sealed must not contradict the digests that are named.
#[test]
fn a_partial_is_rewritten_after_the_verdict_too() {
    for (disposition, left) in [(Disposition::Keep, true), (Disposition::Discard, false)] {
        let (_directory, catalogue, [root, _], run) = two_disks();
        keep(&catalogue, &root, run);
        let now = || catalogue.snapshot().unwrap().partials.get(&root).cloned();
        let row = Partial {
            digests: Some(StoredDigests {
                file: catalogue.new_digests(&root, run).unwrap(),
                root: Root([7; 32]),
            }),
            ..now().unwrap()
        };
        catalogue.enlist("g", &root);
        catalogue
            .decide(&"g".into(), &abort(disposition), &[])
            .unwrap();
        catalogue.rewrite_partial(&root, row.clone()).unwrap();
        assert_eq!(now(), left.then(|| row.clone()));
        // One that is another file by now stays as it is.
        let file = catalogue.new_image(&root, run).unwrap();
        let other = Partial {
            file,
            ..row.clone()
        };
        catalogue.rewrite_partial(&root, other).unwrap();
        assert_eq!(now(), left.then_some(row));
    }
}

#[test]
fn aborts_make_no_points_of_what_members_prepared() {
    let (_directory, catalogue, [root, _], run) = two_disks();
    let record = entry(&catalogue, &root, run);
    catalogue
        .decide(&"g".into(), &abort(Disposition::Keep), &[record])
        .unwrap();
    assert!(catalogue.snapshot().unwrap().points.is_empty());
}

#[test]
fn members_of_other_kinds_and_without_a_point_are_only_remembered() {
    let (_directory, catalogue, [root, _], _) = two_disks();
    let other = (
        MemberName::new("mail"),
        Kind::new("mirror"),
        Record(vec![0, 255, 7]),
    );
    let empty = (
        MemberName::new(&root),
        Kind::new(PointRecord::KIND),
        Record::default(),
    );
    let records = [other, empty];
    catalogue
        .decide(&"g".into(), &Verdict::Commit, &records)
        .unwrap();
    assert!(catalogue.snapshot().unwrap().points.is_empty());
    assert_eq!(catalogue.owed().unwrap()[0].records, records);
}

#[test]
fn after_a_verdict_that_failed_no_other_is_taken() {
    let (directory, catalogue, [root, data], run) = two_disks();
    let before = catalogue.snapshot().unwrap();
    let good = entry(&catalogue, &root, run);
    let bad = (
        MemberName::new(&data),
        Kind::new(PointRecord::KIND),
        Record(b"{}".to_vec()),
    );
    let error = catalogue
        .decide(&"g".into(), &Verdict::Commit, &[good.clone(), bad])
        .unwrap_err();
    assert!(error.to_string().contains("member data"), "{error}");
    let second = catalogue.decide(&"h".into(), &Verdict::Commit, slice::from_ref(&good));
    assert!(
        second
            .unwrap_err()
            .to_string()
            .contains("until the next start")
    );
    // Nothing of either verdict is there: the next start takes both groups for aborted.
    assert_eq!(read(directory.path()).unwrap(), *before);
    drop(catalogue);
    let catalogue = Catalogue::open(directory.path()).unwrap();
    assert_eq!(catalogue.owed().unwrap(), []);
    catalogue
        .decide(&"h".into(), &Verdict::Commit, &[good])
        .unwrap();
}

fn committed(group: &str) -> Owed {
    Owed {
        group: group.into(),
        verdict: Verdict::Commit,
        records: Vec::new(),
    }
}

#[test]
fn group_that_is_owed_cannot_be_decided_again() {
    let (_directory, catalogue, ..) = two_disks();
    catalogue
        .decide(&"g".into(), &Verdict::Commit, &[])
        .unwrap();
    catalogue.done(&committed("g")).unwrap();
    catalogue
        .decide(&"g".into(), &Verdict::Commit, &[])
        .unwrap();
    assert!(
        catalogue
            .decide(&"g".into(), &Verdict::Commit, &[])
            .is_err()
    );
}

#[test]
fn groups_that_were_never_decided_cannot_be_done() {
    let (_directory, catalogue, ..) = two_disks();
    assert!(catalogue.done(&committed("g")).is_err());
}

#[test]
fn records_of_other_versions_are_refused() {
    let (_directory, catalogue, [root, _], run) = two_disks();
    let record = record(&catalogue.snapshot().unwrap(), &root, run);
    let bytes = record.encode();
    assert_eq!(PointRecord::decode(&bytes).unwrap(), record);
    let newer = String::from_utf8(bytes)
        .unwrap()
        .replacen("\"version\":1", "\"version\":2", 1);
    assert!(matches!(
        PointRecord::decode(newer.as_bytes()),
        Err(BadRecord::Version(2))
    ));
    assert!(matches!(
        PointRecord::decode(b""),
        Err(BadRecord::Unreadable(_))
    ));
}

#[test]
fn write_that_fails_leaves_everything_in_doubt_until_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let memory = Failing::default();
    let contents = small();
    let store = Store::create(memory.clone(), &contents).unwrap();
    let (lock, _gate) = WriterLock::take(&LockFiles::of(directory.path(), "catalogue")).unwrap();
    let catalogue = Catalogue::new(directory.path().to_owned(), contents.clone(), store, lock);

    memory.fails.store(true, Ordering::SeqCst);
    assert!(
        catalogue
            .decide(&"g".into(), &Verdict::Commit, &[])
            .is_err()
    );
    memory.fails.store(false, Ordering::SeqCst);

    assert!(
        catalogue
            .decide(&"h".into(), &Verdict::Commit, &[])
            .is_err()
    );
    assert!(catalogue.owed().is_err());
    assert!(matches!(catalogue.snapshot(), Err(ChangeError::InDoubt(_))));
    assert!(matches!(
        catalogue.begin_run(&[]),
        Err(ChangeError::InDoubt(_))
    ));
    assert_eq!(catalogue.sweep().unwrap(), []);
    drop(catalogue);
    assert_eq!(
        Store::open_backend(memory).unwrap().read().unwrap(),
        contents
    );
}

/// Memory that can be made to refuse every write.
#[derive(Clone, Debug, Default)]
struct Failing {
    memory: Arc<InMemoryBackend>,
    fails: Arc<AtomicBool>,
}

impl Failing {
    fn check(&self) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.memory.write(offset, data)
    }
}
