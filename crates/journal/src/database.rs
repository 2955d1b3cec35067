//! A redb database in one file: one writer, and readers beside it, after its death, or without the right to write.
//!
//! The writer changes the file in durable transactions. Everybody else works on a copy of the file in memory, which is
//! checked to the last byte and repaired there if a writer was killed, or, beside a living writer, through redb's own
//! sharing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, ConcurrencyMode, Database, ReadTransaction, ReadableDatabase, StorageBackend,
    WriteTransaction,
};

use crate::fault::{Fault, guarded};

/// More than a million rows take; what is larger is something else.
const LENGTH_MAX: u64 = 1 << 30;
/// What every redb database begins with.
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Plenty for rows of some hundred bytes.
const CACHE_BYTES: usize = 16 << 20;

/// The open database of a writer.
#[derive(Debug)]
pub struct Writer(Database);

impl Writer {
    /// Makes a database in `backend`, which is empty, and fills it.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn create<B>(
        backend: impl StorageBackend,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), Fault<B>>,
    ) -> Result<Self, Fault<B>> {
        let writer = guarded(|| {
            let made = builder().create_with_backend(backend);
            Ok(Self(made.map_err(redb::Error::from)?))
        })?;
        writer.change(fill)?;
        Ok(writer)
    }

    /// Opens a database that was [examined](examine) just now.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn open<B>(path: &Path) -> Result<Self, Fault<B>> {
        let mut builder = builder();
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
        guarded(|| Ok(Self(builder.open(path).map_err(redb::Error::from)?)))
    }

    /// Opens whatever is in `backend`, repairing it if need be.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn open_backend<B>(backend: impl StorageBackend) -> Result<Self, Fault<B>> {
        guarded(|| {
            let opened = builder().create_with_backend(backend);
            Ok(Self(opened.map_err(redb::Error::from)?))
        })
    }

    /// Changes rows in one durable transaction. After an error nobody knows whether it happened.
    ///
    /// # Errors
    /// Those of `change`, and any [`Fault`].
    pub fn change<B>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Fault<B>>,
    ) -> Result<(), Fault<B>> {
        guarded(|| {
            let mut txn = self.0.begin_write().map_err(redb::Error::from)?;
            txn.set_two_phase_commit(true);
            change(&txn)?;
            Ok(txn.commit().map_err(redb::Error::from)?)
        })
    }

    /// Reads rows as of now.
    ///
    /// # Errors
    /// Those of `read`, and any [`Fault`].
    pub fn read<T, B>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Fault<B>>,
    ) -> Result<T, Fault<B>> {
        guarded(|| read(&self.0.begin_read().map_err(redb::Error::from)?))
    }

    /// Closes the file, so that it was shut down cleanly.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn close<B>(self) -> Result<(), Fault<B>> {
        guarded(|| Ok(self.0.close().map_err(redb::Error::from)?))
    }
}

/// What went wrong where, while a database's file was made or copied.
#[derive(Debug)]
pub enum FileError<B> {
    /// The operating system said no to what was tried on this file.
    Io(PathBuf, &'static str, io::Error),
    /// It is something else than a regular file.
    NotAFile(PathBuf),
    /// It is far too large, with so many bytes.
    TooLarge(PathBuf, u64),
    /// What the database's library says.
    Fault(PathBuf, Fault<B>),
}

impl<B> FileError<B> {
    fn io(path: &Path, tried: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io(path, tried, error)
    }
}

/// Makes a database in a file. It is prepared as `new`, so that it is there as `path` whole or not at all; the names are
/// durable afterwards.
///
/// # Errors
/// Any [`FileError`].
pub fn create<B>(
    new: &Path,
    path: &Path,
    fill: impl FnOnce(&WriteTransaction) -> Result<(), Fault<B>>,
) -> Result<(), FileError<B>> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.open(new).map_err(FileError::io(new, "create"))?;
    let at_new = |fault| FileError::Fault(new.to_owned(), fault);
    let backend =
        FileBackend::new(file).map_err(|error| at_new(redb::Error::from(error).into()))?;
    let writer = Writer::create(backend, fill).map_err(at_new)?;
    writer.close().map_err(at_new)?;
    let file = File::open(new).map_err(FileError::io(new, "open"))?;
    file.sync_all().map_err(FileError::io(new, "sync"))?;
    fs::rename(new, path).map_err(FileError::io(new, "rename"))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let opened = File::open(directory).map_err(FileError::io(directory, "open"))?;
    opened.sync_all().map_err(FileError::io(directory, "sync"))
}

/// Copies a database's file into memory. Nobody may write to it meanwhile.
///
/// # Errors
/// Any [`FileError`] but [`FileError::Fault`].
pub fn copy<B>(path: &Path) -> Result<Vec<u8>, FileError<B>> {
    let mut file = File::open(path).map_err(FileError::io(path, "open"))?;
    let found = file.metadata().map_err(FileError::io(path, "stat"))?;
    if !found.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    if found.len() > LENGTH_MAX {
        return Err(FileError::TooLarge(path.to_owned(), found.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)
        .map_err(FileError::io(path, "read"))?;
    Ok(bytes)
}

/// Reads a copy of a database's file, every page against its checksum. What a killed writer left half done is undone in
/// the copy, as the next writer will do in the file.
///
/// # Errors
/// Those of `read`; [`Fault::Foreign`] or [`Fault::Damaged`].
pub fn examine<T, B>(
    bytes: &[u8],
    read: impl FnOnce(&ReadTransaction) -> Result<T, Fault<B>>,
) -> Result<T, Fault<B>> {
    if !bytes.starts_with(MAGIC) {
        let detail = if bytes.is_empty() {
            "the file is empty"
        } else {
            "it is not a redb database"
        };
        return Err(Fault::Foreign(detail.to_owned()));
    }
    let found = guarded(|| {
        let backend = InMemoryBackend::new();
        backend.set_len(bytes.len() as u64).map_err(Fault::Io)?;
        backend.write(0, bytes).map_err(Fault::Io)?;
        let mut builder = builder();
        builder.set_check_integrity_on_open(true);
        let database = builder
            .create_with_backend(backend)
            .map_err(redb::Error::from)?;
        read(&database.begin_read().map_err(redb::Error::from)?)
    });
    // In memory no operation of the system can fail: such an error is redb's word for damage.
    found.map_err(|fault| match fault {
        Fault::Io(error) => Fault::Damaged(error.to_string()),
        Fault::Unclean => Fault::Damaged("it cannot be repaired".to_owned()),
        Fault::Foreign(_)
        | Fault::Newer(_)
        | Fault::Damaged(_)
        | Fault::Broken(_)
        | Fault::Held => fault,
    })
}

/// Reads a database while its writer has it open. [`Fault::Unclean`] if that writer is dead.
///
/// # Errors
/// Those of `read`, and any [`Fault`].
pub fn read_beside<T, B>(
    path: &Path,
    read: impl FnOnce(&ReadTransaction) -> Result<T, Fault<B>>,
) -> Result<T, Fault<B>> {
    let mut builder = builder();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    guarded(|| {
        let database = builder.open_read_only(path).map_err(redb::Error::from)?;
        read(&database.begin_read().map_err(redb::Error::from)?)
    })
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}
