//! A backup directory as a whole: making it, opening it, looking at it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cohort_journal::database;
use cohort_journal::lock::{self, Found, Gate, LockError, LockFiles, WriterLock};

use super::contents::Contents;
use super::error::OpenError;
use super::name::{DirectoryId, ImageName, RunId};
use super::now_unix_ms;
use super::store::{self, CATALOGUE_FILE, Fault, NAME, NEW_FILE, Store, Through, at, in_file};

/// Each further try means that another writer died, or started, in between.
const READ_TRIES: usize = 64;

/// What the writer works with.
pub(super) type Opened = (PathBuf, Contents, Store, WriterLock);

/// Reads the whole catalogue of a directory, as of one moment.
///
/// Works beside a writer, right after one was killed, and without the right to write. Changes
/// nothing.
///
/// # Errors
/// Any [`OpenError`] but [`OpenError::Busy`].
pub fn read(directory: impl AsRef<Path>) -> Result<Contents, OpenError> {
    let directory = directory.as_ref();
    let path = directory.join(CATALOGUE_FILE);
    for _ in 0..READ_TRIES {
        must_be_a_directory(directory)?;
        let found = lock::look(&locks(directory)).map_err(|error| held(directory, error))?;
        if !exists(&path)? {
            return Err(OpenError::NoCatalogue(directory.to_owned()));
        }
        let examined = match found {
            Found::Writer => database::read_beside(&path, store::read_all),
            Found::Nobody(gate) => examine(&path, gate)?,
            Found::NoLocks => {
                let bytes = database::copy(&path).map_err(in_file)?;
                let LockFiles { lock, gate } = locks(directory);
                if exists(&lock)? && exists(&gate)? {
                    continue;
                }
                store::examine(&bytes)
            }
        };
        match examined {
            Err(Fault::Unclean | Fault::Held) => {}
            other => return other.map_err(at(&path)),
        }
    }
    Err(OpenError::Restless(path))
}

/// The names of everything in a directory, sorted.
///
/// # Errors
/// [`OpenError::Io`].
pub fn list_files(directory: &Path) -> Result<Vec<OsString>, OpenError> {
    let entries = fs::read_dir(directory).map_err(OpenError::io(directory, "list"))?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names.map_err(OpenError::io(directory, "list"))?;
    names.sort();
    Ok(names)
}

/// Opens a directory for writing; with `create`, makes what is not there.
pub(super) fn open(
    directory: &Path,
    create: bool,
    through: Option<Through<'_>>,
) -> Result<Opened, OpenError> {
    if create {
        make_directory(directory)?;
    }
    must_be_a_directory(directory)?;
    let path = directory.join(CATALOGUE_FILE);
    if exists(&path)? {
        must_be_examined_before_locking(directory)?;
    } else if create {
        must_be_free(directory)?;
    } else {
        return Err(OpenError::NoCatalogue(directory.to_owned()));
    }
    let (lock, gate) = take(directory)?;
    // The lock may have been waited for, so what is there is asked again.
    if !exists(&path)? {
        if !create {
            return Err(OpenError::NoCatalogue(directory.to_owned()));
        }
        must_be_free(directory)?;
        create_catalogue(
            directory,
            &Contents::new(DirectoryId::random(), now_unix_ms()),
        )?;
    }
    open_locked(directory, lock, gate, through)
}

/// Makes the catalogue of a directory that has none, with this content.
pub(super) fn load(directory: &Path, mut contents: Contents) -> Result<Opened, OpenError> {
    make_directory(directory)?;
    must_be_a_directory(directory)?;
    let path = directory.join(CATALOGUE_FILE);
    contents.check().map_err(|broken| OpenError::Broken {
        path: path.clone(),
        broken,
    })?;
    if exists(&path)? {
        return Err(OpenError::HasCatalogue(directory.to_owned()));
    }
    locks_must_be_ours(directory)?;
    let (lock, gate) = take(directory)?;
    if exists(&path)? {
        return Err(OpenError::HasCatalogue(directory.to_owned()));
    }
    // What became of runs after the dump is not known: their numbers are not given out again, and no
    // file of a run before the load is ever taken for garbage.
    let listing = list_files(directory)?;
    let images = listing
        .iter()
        .filter_map(|name| name.to_str()?.parse::<ImageName>().ok());
    let last = images.map(|image| image.run()).max().unwrap_or(RunId(0));
    let meta = &mut contents.meta;
    meta.next_run = meta.next_run.max(RunId(last.0.saturating_add(1)));
    meta.sweep_from = meta.next_run;
    create_catalogue(directory, &contents)?;
    open_locked(directory, lock, gate, None)
}

/// Makes a directory's entries durable.
pub(super) fn sync(directory: &Path) -> Result<(), OpenError> {
    let opened = handle(directory)?;
    opened.sync_all().map_err(OpenError::io(directory, "sync"))
}

/// A directory to be synced.
pub(super) fn handle(directory: &Path) -> Result<File, OpenError> {
    File::open(directory).map_err(OpenError::io(directory, "open"))
}

fn examine(path: &Path, gate: Gate) -> Result<Result<Contents, Fault>, OpenError> {
    let bytes = database::copy(path).map_err(in_file)?;
    drop(gate);
    Ok(store::examine(&bytes))
}

fn open_locked(
    directory: &Path,
    lock: WriterLock,
    gate: Gate,
    through: Option<Through<'_>>,
) -> Result<Opened, OpenError> {
    let path = directory.join(CATALOGUE_FILE);
    // A copy is examined first: opening for writing would change a file that is not ours.
    let bytes = database::copy(&path).map_err(in_file)?;
    store::examine(&bytes).map_err(at(&path))?;
    let store = Store::open(&path, through).map_err(at(&path))?;
    let contents = store.read().map_err(at(&path))?;
    drop(gate);
    Ok((directory.to_owned(), contents, store, lock))
}

fn create_catalogue(directory: &Path, contents: &Contents) -> Result<(), OpenError> {
    let (new, path) = (directory.join(NEW_FILE), directory.join(CATALOGUE_FILE));
    database::create(&new, &path, |txn| store::fill(txn, contents)).map_err(in_file)
}

fn locks(directory: &Path) -> LockFiles {
    LockFiles::of(directory, NAME)
}

fn take(directory: &Path) -> Result<(WriterLock, Gate), OpenError> {
    WriterLock::take(&locks(directory)).map_err(|error| held(directory, error))
}

fn held(directory: &Path, error: LockError) -> OpenError {
    match error {
        LockError::Held { holder, .. } => OpenError::Busy {
            directory: directory.to_owned(),
            pid: holder,
        },
        LockError::Io {
            path,
            operation,
            source,
        } => OpenError::io(&path, operation)(source),
    }
}

fn make_directory(directory: &Path) -> Result<(), OpenError> {
    match fs::create_dir(directory) {
        Ok(()) => {
            let parent = directory
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            sync(parent.unwrap_or(Path::new(".")))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::io(directory, "make directory")(error)),
    }
}

fn must_be_a_directory(directory: &Path) -> Result<(), OpenError> {
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(OpenError::NotADirectory(directory.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::NoDirectory(directory.to_owned()))
        }
        Err(error) => Err(OpenError::io(directory, "stat")(error)),
    }
}

/// In a directory without our locks nobody writes: what it has is looked at before they are made,
/// so that a foreign directory is left exactly as it was.
fn must_be_examined_before_locking(directory: &Path) -> Result<(), OpenError> {
    let (path, lock) = (directory.join(CATALOGUE_FILE), locks(directory).lock);
    if exists(&lock)? {
        return Ok(());
    }
    match store::examine(&database::copy(&path).map_err(in_file)?) {
        // Somebody began to write while we looked; under the lock it is looked at again.
        Err(_) if exists(&lock)? => Ok(()),
        examined => examined.map(drop).map_err(at(&path)),
    }
}

/// No file of a directory without a catalogue may have a name that we would use.
fn must_be_free(directory: &Path) -> Result<(), OpenError> {
    locks_must_be_ours(directory)?;
    let taken = |name: &OsString| {
        name.to_str()
            .is_some_and(|name| name.parse::<ImageName>().is_ok())
    };
    match list_files(directory)?.into_iter().find(taken) {
        Some(name) => Err(OpenError::Clash(directory.join(name))),
        None => Ok(()),
    }
}

fn locks_must_be_ours(directory: &Path) -> Result<(), OpenError> {
    let LockFiles { lock, gate } = locks(directory);
    for path in [lock, gate] {
        if exists(&path)? && !lock::looks_like_ours(&path) {
            return Err(OpenError::Clash(path));
        }
    }
    Ok(())
}

fn exists(path: &Path) -> Result<bool, OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io(path, "stat")(error)),
    }
}
