//! Files that are not, or no longer, a catalogue of ours: a clear error, no panic, nothing overwritten.

use std::fs;
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend, TableDefinition};

use super::samples::{fresh, small};
use crate::catalogue::store::{CATALOGUE_FILE, Store, examine};
use crate::catalogue::{Catalogue, Contents, OpenError, read};

/// A catalogue's file after two transactions, closed cleanly, and what it says.
fn file() -> (Vec<u8>, Contents) {
    let directory = tempfile::tempdir().unwrap();
    let contents = small();
    drop(Catalogue::load(directory.path(), contents).unwrap());
    let contents = read(directory.path()).unwrap();
    (
        fs::read(directory.path().join(CATALOGUE_FILE)).unwrap(),
        contents,
    )
}

/// Both ways of opening refuse with what `expected` says, and the directory stays as it was.
fn refused(bytes: &[u8], expected: impl Fn(&OpenError) -> bool) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(CATALOGUE_FILE), bytes).unwrap();
    let reading = read(directory.path()).unwrap_err();
    assert!(expected(&reading), "read: {reading:?}");
    for result in [
        Catalogue::open(directory.path()),
        Catalogue::open_or_create(directory.path()),
    ] {
        let error = result.unwrap_err();
        assert!(expected(&error), "open: {error:?}");
    }
    assert_eq!(names(directory.path()), [CATALOGUE_FILE]);
    assert_eq!(
        fs::read(directory.path().join(CATALOGUE_FILE)).unwrap(),
        bytes
    );
}

fn names(directory: &Path) -> Vec<String> {
    let names = super::super::list_files(directory).unwrap();
    names
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .collect()
}

#[test]
fn other_files_are_foreign() {
    let foreign = |error: &OpenError| matches!(error, OpenError::Foreign { .. });
    refused(b"", foreign);
    refused(b"SQLite format 3\0", foreign);
    refused(&[0; 4096], foreign);
    refused(b"redb", foreign);
}

#[test]
fn other_programs_redb_files_are_foreign() {
    let table: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let others: TableDefinition<'_, u64, u64> = TableDefinition::new("groceries");
    for own_meta in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let database = Database::create(&path).unwrap();
        let txn = database.begin_write().unwrap();
        if own_meta {
            txn.open_table(table)
                .unwrap()
                .insert("catalogue", 1)
                .unwrap();
        } else {
            txn.open_table(others).unwrap().insert(1, 1).unwrap();
        }
        txn.commit().unwrap();
        drop(database);
        let foreign = |error: &OpenError| matches!(error, OpenError::Foreign { .. });
        refused(&fs::read(&path).unwrap(), foreign);
    }
}

#[test]
fn newer_catalogues_are_left_to_newer_programs() {
    let mut contents = fresh();
    contents.meta.version = 7;
    let backend = SharedMemory::default();
    Store::create(backend.clone(), &contents)
        .unwrap()
        .close()
        .unwrap();
    let newer = |error: &OpenError| matches!(error, OpenError::NewerVersion { found: 7, .. });
    refused(&backend.bytes(), newer);
}

#[test]
fn rows_that_contradict_each_other_are_named() {
    let mut contents = small();
    let gone = contents.points.keys().next().cloned().unwrap();
    contents.points.remove(&gone);
    let backend = SharedMemory::default();
    Store::create(backend.clone(), &contents)
        .unwrap()
        .close()
        .unwrap();
    let broken = |error: &OpenError| matches!(error, OpenError::Broken { broken, .. } if broken.row.contains("disk-1.img@2"));
    refused(&backend.bytes(), broken);
}

#[test]
fn truncated_catalogues_are_damaged() {
    let (bytes, _) = file();
    let damaged = |error: &OpenError| matches!(error, OpenError::Damaged { .. });
    for length in [
        9,
        10,
        63,
        64,
        320,
        511,
        4095,
        4096,
        8192,
        bytes.len() / 2,
        bytes.len() - 4096,
    ] {
        refused(&bytes[..length], damaged);
    }
}

#[test]
fn flipped_bytes_never_pass_for_other_rows() {
    let (bytes, contents) = file();
    let mut noticed = 0;
    // Every byte of the header; then a stride that is coprime to the page size and to the words in it.
    let places = (0..512).chain((512..bytes.len()).step_by(1021));
    for place in places.clone() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x5a;
        match examine(&flipped) {
            Err(_) => noticed += 1,
            // A free byte, or the switch to the state before the last transaction.
            Ok(found) => assert!(
                found == contents || is_before(&found, &contents),
                "byte {place}"
            ),
        }
    }
    assert!(noticed > 20, "only {noticed} flips were noticed");
}

#[test]
fn every_flip_in_a_row_is_noticed() {
    let (bytes, _) = file();
    let needle = b"a peer failed";
    let places: Vec<usize> = (0..bytes.len() - needle.len())
        .filter(|at| bytes[*at..].starts_with(needle))
        .collect();
    let mut noticed = 0;
    for place in &places {
        let mut flipped = bytes.clone();
        flipped[*place] ^= 1;
        noticed += usize::from(examine(&flipped).is_err());
    }
    // Pages that no tree refers to any more may hold the words too.
    assert!(noticed >= 1, "{places:?}");
}

/// Whether `earlier` is the catalogue just after it was made: the one state before `later`.
fn is_before(earlier: &Contents, later: &Contents) -> bool {
    earlier.meta.directory == later.meta.directory && earlier.points.is_empty()
}

/// Memory that is still there when the database is closed.
#[derive(Clone, Debug, Default)]
struct SharedMemory(std::sync::Arc<InMemoryBackend>);

impl SharedMemory {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.0.len().unwrap()).unwrap()];
        self.0.read(0, &mut bytes).unwrap();
        bytes
    }
}

impl StorageBackend for SharedMemory {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}
