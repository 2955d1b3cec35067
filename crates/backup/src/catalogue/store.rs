//! The catalogue's rows in its file: seven tables, text keys and JSON values.
//!
//! The writer keeps the content in memory and writes what changed in one durable transaction. How one file serves a writer
//! and many readers is [`cohort_journal::database`]'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cohort_block::{File as Port, OsFile};
use cohort_journal::database::{self, FileError, Writer};
use cohort_journal::fault;
use redb::{
    ReadTransaction, ReadableTable, StorageBackend, TableDefinition, TableHandle, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::contents::Contents;
use super::error::OpenError;
use super::model::{CATALOGUE_VERSION, Meta};
use super::name::{DiskName, RunId};
use super::rules::Broken;

/// The catalogue's name, before the endings of its files.
pub(super) const NAME: &str = "catalogue";
/// The catalogue's file name.
pub(super) const CATALOGUE_FILE: &str = "catalogue.redb";
/// The name under which a new catalogue is prepared.
pub(super) const NEW_FILE: &str = "catalogue.redb.new";

/// All files of a catalogue: itself, and what its writer and readers lock.
pub(super) const CATALOGUE_FILES: [&str; 4] =
    [CATALOGUE_FILE, NEW_FILE, "catalogue.lock", "catalogue.gate"];

/// The one key of the table `meta`.
const META_KEY: &str = "catalogue";

type Rows<'a> = TableDefinition<'a, &'static str, &'static [u8]>;

const META: Rows<'_> = TableDefinition::new("meta");
const DISKS: Rows<'_> = TableDefinition::new("disks");
const RUNS: Rows<'_> = TableDefinition::new("runs");
const POINTS: Rows<'_> = TableDefinition::new("points");
const PARTIALS: Rows<'_> = TableDefinition::new("partials");
const VIEWS: Rows<'_> = TableDefinition::new("views");
const VERDICTS: Rows<'_> = TableDefinition::new("verdicts");

/// What is wrong with a catalogue's file, before it is known where that file is.
pub(super) type Fault = fault::Fault<Broken>;

/// The fault as an error about that file.
pub(super) fn at(path: &Path) -> impl FnOnce(Fault) -> OpenError {
    let path = path.to_owned();
    move |fault| match fault {
        Fault::Foreign(detail) => OpenError::Foreign { path, detail },
        Fault::Newer(found) => OpenError::NewerVersion { path, found },
        Fault::Damaged(detail) => OpenError::Damaged { path, detail },
        Fault::Broken(broken) => OpenError::Broken { path, broken },
        Fault::Unclean => OpenError::Restless(path),
        Fault::Held => OpenError::Busy {
            directory: path,
            pid: None,
        },
        // Opening may repair, so it may be a write that failed.
        Fault::Io(source) => OpenError::io(&path, "access")(source),
    }
}

/// The same of what went wrong around the database.
pub(super) fn in_file(error: FileError<Broken>) -> OpenError {
    match error {
        FileError::Io(path, operation, source) => OpenError::io(&path, operation)(source),
        FileError::NotAFile(path) => OpenError::Foreign {
            path,
            detail: "it is not a regular file".to_owned(),
        },
        FileError::TooLarge(path, length_bytes) => OpenError::TooLarge { path, length_bytes },
        FileError::Fault(path, fault) => at(&path)(fault),
    }
}

/// What the caller puts between a catalogue and its file.
pub(super) type Through<'a> = &'a dyn Fn(Arc<dyn Port>) -> Arc<dyn Port>;

/// A database's file that is reached through something else.
#[derive(Debug)]
struct Reached(Arc<dyn Port>);

impl StorageBackend for Reached {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_at(data, offset)
    }
}

/// The open database of a writer.
#[derive(Debug)]
pub(super) struct Store(Writer);

impl Store {
    /// Makes a database with these rows in `backend`, which is empty.
    #[cfg(test)]
    pub(super) fn create(backend: impl StorageBackend, contents: &Contents) -> Result<Self, Fault> {
        Writer::create(backend, |txn| fill(txn, contents)).map(Self)
    }

    /// Opens a database that was [examined](examine) just now; with `through` nobody can read it meanwhile.
    pub(super) fn open(path: &Path, through: Option<Through<'_>>) -> Result<Self, Fault> {
        let Some(through) = through else {
            return Writer::open(path).map(Self);
        };
        let file = OsFile::open(path, true).map_err(Fault::Io)?;
        Self::open_backend(Reached(through(Arc::new(file))))
    }

    /// Opens whatever is in `backend`, repairing it if need be.
    pub(super) fn open_backend(backend: impl StorageBackend) -> Result<Self, Fault> {
        Writer::open_backend(backend).map(Self)
    }

    /// Makes the rows those of `new`, knowing that they are those of `old`: one durable transaction.
    /// After an error nobody knows whether it happened.
    pub(super) fn write(&self, old: &Contents, new: &Contents) -> Result<(), Fault> {
        self.0.change(|txn| write_difference(txn, old, new))
    }

    /// Reads every row.
    pub(super) fn read(&self) -> Result<Contents, Fault> {
        self.0.read(read_all)
    }

    /// Closes the file, so that it was shut down cleanly.
    pub(super) fn close(self) -> Result<(), Fault> {
        self.0.close()
    }
}

/// Reads a copy of a catalogue: every page against its checksum, every row, every rule between rows.
pub(super) fn examine(bytes: &[u8]) -> Result<Contents, Fault> {
    database::examine(bytes, read_all)
}

/// Writes all rows into a new database.
pub(super) fn fill(txn: &WriteTransaction, contents: &Contents) -> Result<(), Fault> {
    let nothing = Contents::new(contents.meta.directory, contents.meta.created_unix_ms);
    write_difference(txn, &nothing, contents)
}

fn write_difference(txn: &WriteTransaction, old: &Contents, new: &Contents) -> Result<(), Fault> {
    // One row, written every time; it changes with almost every transaction anyway.
    put(
        txn,
        META,
        |()| META_KEY.to_owned(),
        &BTreeMap::new(),
        &[((), &new.meta)].into(),
    )?;
    put(txn, DISKS, DiskName::to_string, &old.disks, &new.disks)?;
    put(txn, RUNS, |run| number_key(run.0), &old.runs, &new.runs)?;
    put(
        txn,
        POINTS,
        |(disk, run)| point_key(disk, *run),
        &old.points,
        &new.points,
    )?;
    put(
        txn,
        PARTIALS,
        DiskName::to_string,
        &old.partials,
        &new.partials,
    )?;
    put(txn, VIEWS, DiskName::to_string, &old.views, &new.views)?;
    put(
        txn,
        VERDICTS,
        |number| number_key(*number),
        &old.verdicts,
        &new.verdicts,
    )?;
    Ok(())
}

/// Makes a table's rows those of `new`, writing only what differs from `old`.
fn put<K: Ord, V: PartialEq + Serialize>(
    txn: &WriteTransaction,
    table: Rows<'_>,
    key: impl Fn(&K) -> String,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Result<(), Fault> {
    let mut table = txn.open_table(table).map_err(redb::Error::from)?;
    for gone in old.keys().filter(|id| !new.contains_key(*id)) {
        table
            .remove(key(gone).as_str())
            .map_err(redb::Error::from)?;
    }
    for (id, row) in new.iter().filter(|(id, row)| old.get(*id) != Some(*row)) {
        let value = serde_json::to_vec(row).map_err(|error| Fault::Damaged(error.to_string()))?;
        table
            .insert(key(id).as_str(), value.as_slice())
            .map_err(redb::Error::from)?;
    }
    Ok(())
}

/// Reads every row, and checks every rule between rows.
pub(super) fn read_all(txn: &ReadTransaction) -> Result<Contents, Fault> {
    let tables = txn.list_tables().map_err(redb::Error::from)?;
    if !tables.into_iter().any(|table| table.name() == META.name()) {
        return Err(Fault::Foreign(
            "it is another program's redb database".to_owned(),
        ));
    }
    check_version(txn)?;
    let rows = take(txn, META, |key| (key == META_KEY).then_some(()))?;
    let mut meta: Option<Meta> = rows.into_values().next();
    if let Some(meta) = &mut meta {
        // An older version is a part of this one; the next write says so.
        meta.version = CATALOGUE_VERSION;
    }
    let contents = Contents {
        meta: meta.ok_or_else(|| Fault::Damaged("its table meta is empty".to_owned()))?,
        disks: take(txn, DISKS, |key| key.parse().ok())?,
        runs: take(txn, RUNS, |key| number_of(key).map(RunId))?,
        points: take(txn, POINTS, point_of)?,
        partials: take(txn, PARTIALS, |key| key.parse().ok())?,
        views: take(txn, VIEWS, |key| key.parse().ok())?,
        verdicts: take(txn, VERDICTS, number_of)?,
    };
    contents.check().map_err(Fault::Broken)?;
    Ok(contents)
}

/// Looks at the version alone: rows of a newer one need not be readable.
fn check_version(txn: &ReadTransaction) -> Result<(), Fault> {
    let foreign = || Fault::Foreign("its table meta is another program's".to_owned());
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::Storage(error)) => return Err(redb::Error::from(error).into()),
        Err(_) => return Err(foreign()),
    };
    let row = table
        .get(META_KEY)
        .map_err(redb::Error::from)?
        .ok_or_else(foreign)?;
    let row: serde_json::Value = serde_json::from_slice(row.value()).map_err(|_| foreign())?;
    match row.get("version").and_then(serde_json::Value::as_u64) {
        Some(found) if (1..=u64::from(CATALOGUE_VERSION)).contains(&found) => Ok(()),
        Some(found) => Err(Fault::Newer(u32::try_from(found).unwrap_or(u32::MAX))),
        None => Err(foreign()),
    }
}

/// Reads one table.
fn take<K: Ord, V: DeserializeOwned>(
    txn: &ReadTransaction,
    table: Rows<'_>,
    key: impl Fn(&str) -> Option<K>,
) -> Result<BTreeMap<K, V>, Fault> {
    let name = table.name();
    let damaged =
        |row: &str, why: String| Fault::Damaged(format!("row {row:?} of table {name}: {why}"));
    let mut rows = BTreeMap::new();
    for row in txn
        .open_table(table)
        .map_err(redb::Error::from)?
        .iter()
        .map_err(redb::Error::from)?
    {
        let (id, value) = row.map_err(redb::Error::from)?;
        let id = id.value();
        let parsed = key(id).ok_or_else(|| damaged(id, "not a key of this table".to_owned()))?;
        let value = serde_json::from_slice(value.value());
        rows.insert(
            parsed,
            value.map_err(|error| damaged(id, error.to_string()))?,
        );
    }
    Ok(rows)
}

/// Numbers sort as text when they are all as long as the longest.
fn number_key(number: u64) -> String {
    format!("{number:020}")
}

fn number_of(key: &str) -> Option<u64> {
    let number = key.parse().ok()?;
    (number_key(number) == key).then_some(number)
}

/// No disk name holds an `@`.
fn point_key(disk: &DiskName, run: RunId) -> String {
    format!("{disk}@{}", number_key(run.0))
}

fn point_of(key: &str) -> Option<(DiskName, RunId)> {
    let (disk, run) = key.split_once('@')?;
    Some((disk.parse().ok()?, RunId(number_of(run)?)))
}
