//! The catalogue's file: a redb database of seven tables, text keys and JSON values.
//!
//! The writer keeps the content in memory and writes what changed in one durable transaction. Everybody
//! else works on a copy of the file in memory, which is checked to the last byte and repaired there if a
//! writer was killed, or, beside a living writer, through redb's own sharing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{
    Builder, ConcurrencyMode, Database, ReadTransaction, ReadableDatabase, ReadableTable,
    StorageBackend, TableDefinition, TableHandle, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::contents::Contents;
use super::error::OpenError;
use super::model::{CATALOGUE_VERSION, Meta};
use super::name::{DiskName, RunId};

/// The catalogue's file name.
pub(super) const CATALOGUE_FILE: &str = "catalogue.redb";
/// The name under which a new catalogue is prepared.
pub(super) const NEW_FILE: &str = "catalogue.redb.new";

/// More than a million points take; what is larger is something else.
const LENGTH_MAX: u64 = 1 << 30;
/// What every redb database begins with.
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Plenty for rows of some hundred bytes.
const CACHE_BYTES: usize = 16 << 20;
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
#[derive(Debug)]
pub(super) enum Fault {
    /// Not a redb database, or one with other tables.
    Foreign(String),
    /// Too new.
    Newer(u32),
    /// Rows or pages that do not fit.
    Damaged(String),
    /// Rows that contradict each other.
    Broken(super::contents::Broken),
    /// A writer died; somebody has to repair it.
    Unclean,
    /// Another program has it open.
    Held,
    /// The operating system said no.
    Io(std::io::Error),
}

impl Fault {
    /// The fault as an error about that file.
    pub(super) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Foreign(detail) => OpenError::Foreign { path, detail },
            Self::Newer(found) => OpenError::NewerVersion { path, found },
            Self::Damaged(detail) => OpenError::Damaged { path, detail },
            Self::Broken(broken) => OpenError::Broken { path, broken },
            Self::Unclean => OpenError::Restless(path),
            Self::Held => OpenError::Busy {
                directory: path,
                pid: None,
            },
            Self::Io(source) => OpenError::io(&path, "read")(source),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign(detail) | Self::Damaged(detail) => f.write_str(detail),
            Self::Newer(found) => write!(f, "it has version {found}"),
            Self::Broken(broken) => broken.fmt(f),
            Self::Unclean => f.write_str("its writer died"),
            Self::Held => f.write_str("another program has it open"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// The open database of a writer.
#[derive(Debug)]
pub(super) struct Store(Database);

impl Store {
    /// Makes a database with these rows in `backend`, which is empty.
    pub(super) fn create(backend: impl StorageBackend, contents: &Contents) -> Result<Self, Fault> {
        guarded(|| {
            let store = Self(
                builder()
                    .create_with_backend(backend)
                    .map_err(redb::Error::from)?,
            );
            let nothing = Contents::new(contents.meta.directory, contents.meta.created_unix_ms);
            store.write_difference(&nothing, contents)?;
            Ok(store)
        })
    }

    /// Opens a database that was [examined](examine) just now.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let mut builder = builder();
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
        guarded(|| Ok(Self(builder.open(path).map_err(redb::Error::from)?)))
    }

    /// Opens whatever is in `backend`, repairing it if need be.
    #[cfg(test)]
    pub(super) fn open_backend(backend: impl StorageBackend) -> Result<Self, Fault> {
        guarded(|| {
            Ok(Self(
                builder()
                    .create_with_backend(backend)
                    .map_err(redb::Error::from)?,
            ))
        })
    }

    /// Makes the rows those of `new`, knowing that they are those of `old`: one durable transaction.
    /// After an error nobody knows whether it happened.
    pub(super) fn write(&self, old: &Contents, new: &Contents) -> Result<(), Fault> {
        guarded(|| self.write_difference(old, new))
    }

    /// Reads every row.
    pub(super) fn read(&self) -> Result<Contents, Fault> {
        guarded(|| read_all(&self.0.begin_read().map_err(redb::Error::from)?))
    }

    /// Closes the file, so that it was shut down cleanly.
    pub(super) fn close(self) -> Result<(), Fault> {
        guarded(|| Ok(self.0.close().map_err(redb::Error::from)?))
    }

    fn write_difference(&self, old: &Contents, new: &Contents) -> Result<(), Fault> {
        let mut txn = self.0.begin_write().map_err(redb::Error::from)?;
        txn.set_two_phase_commit(true);
        // One row, written every time; it changes with almost every transaction anyway.
        put(
            &txn,
            META,
            |()| META_KEY.to_owned(),
            &BTreeMap::new(),
            &[((), &new.meta)].into(),
        )?;
        put(&txn, DISKS, DiskName::to_string, &old.disks, &new.disks)?;
        put(&txn, RUNS, |run| number_key(run.0), &old.runs, &new.runs)?;
        put(
            &txn,
            POINTS,
            |(disk, run)| point_key(disk, *run),
            &old.points,
            &new.points,
        )?;
        put(
            &txn,
            PARTIALS,
            DiskName::to_string,
            &old.partials,
            &new.partials,
        )?;
        put(&txn, VIEWS, DiskName::to_string, &old.views, &new.views)?;
        put(
            &txn,
            VERDICTS,
            |number| number_key(*number),
            &old.verdicts,
            &new.verdicts,
        )?;
        txn.commit().map_err(redb::Error::from)?;
        Ok(())
    }
}

/// Copies a catalogue's file into memory. Nobody may write to it meanwhile.
pub(super) fn copy(path: &Path) -> Result<Vec<u8>, OpenError> {
    let mut file = File::open(path).map_err(OpenError::io(path, "open"))?;
    let found = file.metadata().map_err(OpenError::io(path, "stat"))?;
    if !found.is_file() {
        let detail = "it is not a regular file".to_owned();
        return Err(OpenError::Foreign {
            path: path.to_owned(),
            detail,
        });
    }
    if found.len() > LENGTH_MAX {
        return Err(OpenError::TooLarge {
            path: path.to_owned(),
            length_bytes: found.len(),
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)
        .map_err(OpenError::io(path, "read"))?;
    Ok(bytes)
}

/// Reads a copy of a catalogue: every page against its checksum, every row, every rule between rows.
/// What a killed writer left half done is undone in the copy, as the next writer will do in the file.
pub(super) fn examine(bytes: &[u8]) -> Result<Contents, Fault> {
    if !bytes.starts_with(MAGIC) {
        let detail = if bytes.is_empty() {
            "the file is empty"
        } else {
            "it is not a redb database"
        };
        return Err(Fault::Foreign(detail.to_owned()));
    }
    let contents = guarded(|| {
        let backend = InMemoryBackend::new();
        backend.set_len(bytes.len() as u64).map_err(Fault::Io)?;
        backend.write(0, bytes).map_err(Fault::Io)?;
        let mut builder = builder();
        builder.set_check_integrity_on_open(true);
        let database = builder
            .create_with_backend(backend)
            .map_err(redb::Error::from)?;
        let txn = database.begin_read().map_err(redb::Error::from)?;
        read_all(&txn)
    });
    // In memory no operation of the system can fail: such an error is redb's word for damage.
    contents.map_err(|fault| match fault {
        Fault::Io(error) => Fault::Damaged(error.to_string()),
        Fault::Unclean => Fault::Damaged("it cannot be repaired".to_owned()),
        Fault::Foreign(_)
        | Fault::Newer(_)
        | Fault::Damaged(_)
        | Fault::Broken(_)
        | Fault::Held => fault,
    })
}

/// Reads a catalogue while its writer has it open. [`Fault::Unclean`] if that writer is dead.
pub(super) fn read_beside(path: &Path) -> Result<Contents, Fault> {
    let mut builder = builder();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    guarded(|| {
        let database = builder.open_read_only(path).map_err(redb::Error::from)?;
        let txn = database.begin_read().map_err(redb::Error::from)?;
        read_all(&txn)
    })
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// redb may panic over a file whose bytes were changed behind its back; to us that is damage.
fn guarded<T>(action: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // Whatever the action used is thrown away, or, in a writer, not used again after a fault.
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "no reason given".to_owned());
        Err(Fault::Damaged(format!(
            "the database library gave up: {text}"
        )))
    })
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

fn read_all(txn: &ReadTransaction) -> Result<Contents, Fault> {
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

impl From<redb::Error> for Fault {
    #[allow(clippy::wildcard_enum_match_arm)] // `redb::Error` is not exhaustive.
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error),
            redb::Error::RepairAborted => Self::Unclean,
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Held,
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// What opening a backend says.
pub(super) fn fault(error: redb::DatabaseError) -> Fault {
    redb::Error::from(error).into()
}
