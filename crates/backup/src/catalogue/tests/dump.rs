//! Dump and load: nothing is lost, nothing wrong is taken.

use proptest::prelude::*;
use redb::backends::InMemoryBackend;

use super::samples::{after_runs, go_on, runs, small};
use crate::catalogue::store::Store;
use crate::catalogue::{Catalogue, Contents, DumpError, OpenError, RunId, read};

proptest! {
    #[test]
    fn dumps_read_back(runs in runs()) {
        let contents = after_runs(&runs);
        prop_assert_eq!(Contents::undump(&contents.dump()).unwrap(), contents);
    }

    #[test]
    fn every_change_is_stored_as_it_is(before in runs(), more in runs()) {
        let old = after_runs(&before);
        let new = go_on(old.clone(), &more);
        let store = Store::create(InMemoryBackend::new(), &old).unwrap();
        prop_assert_eq!(&store.read().unwrap(), &old);
        store.write(&old, &new).unwrap();
        prop_assert_eq!(&store.read().unwrap(), &new);
        // Backwards, so that rows of every kind are taken away too.
        store.write(&new, &old).unwrap();
        prop_assert_eq!(&store.read().unwrap(), &old);
    }
}

#[test]
fn loaded_catalogue_is_the_dumped_one() {
    let directory = tempfile::tempdir().unwrap();
    let contents = small();
    drop(
        Catalogue::load(
            directory.path(),
            Contents::undump(&contents.dump()).unwrap(),
        )
        .unwrap(),
    );
    let loaded = read(directory.path()).unwrap();
    assert_eq!(loaded.meta.sweep_from, contents.meta.next_run);
    let meta = contents.meta.clone();
    assert_eq!(Contents { meta, ..loaded }, contents);
}

#[test]
fn loading_over_a_catalogue_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Catalogue::open_or_create(directory.path()).unwrap());
    let before = read(directory.path()).unwrap();
    let refused = Catalogue::load(directory.path(), small());
    assert!(
        matches!(refused, Err(OpenError::HasCatalogue(_))),
        "{refused:?}"
    );
    assert_eq!(read(directory.path()).unwrap(), before);
}

#[test]
fn files_of_runs_before_a_load_are_never_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let contents = small();
    // A run that was under way when the dump was made became a point, and so did a later one.
    let under_way = format!(
        "disk-2.img.3-{:08x}00000000.qcow2",
        contents.meta.directory.mark()
    );
    std::fs::write(directory.path().join(&under_way), b"somebody's only copy").unwrap();
    let forgotten = format!(
        "disk-1.img.9-{:08x}00000000.qcow2",
        contents.meta.directory.mark()
    );
    std::fs::write(directory.path().join(&forgotten), b"somebody's only copy").unwrap();
    let catalogue = Catalogue::load(directory.path(), contents).unwrap();
    assert_eq!(catalogue.begin_run(&[]).unwrap(), RunId(10));
    assert_eq!(catalogue.sweep().unwrap(), []);
    assert!(directory.path().join(&forgotten).exists());
    assert!(directory.path().join(&under_way).exists());
}

#[test]
fn wrong_dumps_are_told_apart() {
    let text = small().dump();
    let other = text.replacen("cohort-catalogue-dump", "grocery-list", 1);
    assert!(matches!(
        Contents::undump(&other),
        Err(DumpError::OtherFormat(_))
    ));
    let newer = text.replacen("\"version\": 6", "\"version\": 7", 1);
    assert!(matches!(
        Contents::undump(&newer),
        Err(DumpError::Version(7))
    ));
    assert!(matches!(
        Contents::undump(&text[..text.len() / 2]),
        Err(DumpError::Unreadable(_))
    ));
    assert!(matches!(
        Contents::undump(""),
        Err(DumpError::Unreadable(_))
    ));
    let extra = text.replacen("\"meta\": {", "\"meta\": {\n    \"colour\": \"red\",", 1);
    assert!(matches!(
        Contents::undump(&extra),
        Err(DumpError::Unreadable(_))
    ));
    let mut orphan = small();
    let first = orphan.points.keys().next().cloned().unwrap();
    orphan.points.remove(&first);
    assert!(matches!(
        Contents::undump(&orphan.dump()),
        Err(DumpError::Broken(_))
    ));
}

/// Version 1 is this version without digests and maps, and sweeps from the first run on.
#[test]
fn older_dumps_are_read() {
    let mut contents = small();
    contents
        .points
        .values_mut()
        .for_each(|point| point.digests = None);
    contents
        .partials
        .values_mut()
        .for_each(|partial| partial.map.clear());
    let older = contents.dump().replace("\"version\": 6", "\"version\": 1");
    let older = older.replace("    \"sweep_from\": 1,\n", "");
    assert!(!older.contains("sweep_from"));
    assert_eq!(Contents::undump(&older).unwrap(), contents);
}
