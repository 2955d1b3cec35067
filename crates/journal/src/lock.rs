//! Who may write into a directory, and when its database may be looked at.
//!
//! Two small files beside the database, here called `NAME`, are locked with `flock`, which the kernel takes back from a
//! process that dies:
//!
//! - `NAME.lock` is held by the one writer for as long as it lives; it contains its process id.
//! - `NAME.gate` is held, exclusively, while a writer takes the first lock and opens the database, and, shared, while
//!   a reader finds out whether there is a writer and, if not, copies the database. So no writer starts under a
//!   reader's copy, and no reader's question makes a writer believe that the directory is busy. Both are over in
//!   milliseconds, so both wait.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The two files of a database called `name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFiles {
    /// The file that the writer holds.
    pub lock: PathBuf,
    /// The file that is held while somebody starts.
    pub gate: PathBuf,
}

impl LockFiles {
    /// Those of the database `name` in `directory`.
    #[must_use]
    pub fn of(directory: &Path, name: &str) -> Self {
        Self {
            lock: directory.join(format!("{name}.lock")),
            gate: directory.join(format!("{name}.gate")),
        }
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another handle in this one, has it.
    #[error("{}: held by another process{}", .path.display(), .holder.map_or_else(String::new, |pid| format!(" ({pid})")))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The process that says it has it.
        holder: Option<u32>,
    },
    /// The operating system said no.
    #[error("{}: {operation} failed: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as in `open`.
        operation: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl LockError {
    fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            operation,
            source,
        }
    }
}

/// The right to write into a directory; given back when dropped, or when the process ends.
#[derive(Debug)]
pub struct WriterLock(File);

/// Nobody else starts while this is held.
#[derive(Debug)]
pub struct Gate(File);

impl WriterLock {
    /// Takes the lock, or says at once who has it. The gate keeps readers out until it is dropped.
    ///
    /// # Errors
    /// Any [`LockError`].
    pub fn take(files: &LockFiles) -> Result<(Self, Gate), LockError> {
        let gate = open_or_create(&files.gate)?;
        through_signals(|| gate.lock()).map_err(LockError::io(&files.gate, "lock"))?;

        let path = &files.lock;
        let mut file = open_or_create(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    path: path.clone(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(LockError::io(path, "lock")(error)),
        }
        sign(&mut file).map_err(LockError::io(path, "write"))?;
        Ok((Self(file), Gate(gate)))
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Only a courtesy to people who look.
        let _ = self.0.set_len(0);
        // Closing would do only if no other thread is just starting a program: until that has begun,
        // it holds a copy of every open file, and the lock with it.
        let _ = self.0.unlock();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// What a reader finds.
#[derive(Debug)]
pub enum Found {
    /// A writer holds the directory.
    Writer,
    /// Nobody does, and nobody will until the gate is dropped.
    Nobody(Gate),
    /// There are no lock files, as in a copy of a directory: a writer would make them first.
    NoLocks,
}

/// Asks whether somebody writes. Changes nothing, so that reading needs no right to write.
///
/// # Errors
/// [`LockError::Io`].
pub fn look(files: &LockFiles) -> Result<Found, LockError> {
    let (Some(gate), Some(file)) = (open_existing(&files.gate)?, open_existing(&files.lock)?)
    else {
        return Ok(Found::NoLocks);
    };
    through_signals(|| gate.lock_shared()).map_err(LockError::io(&files.gate, "lock"))?;
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            Ok(Found::Nobody(Gate(gate)))
        }
        Err(TryLockError::WouldBlock) => Ok(Found::Writer),
        Err(TryLockError::Error(error)) => Err(LockError::io(&files.lock, "lock")(error)),
    }
}

/// Whether a file of one of the two names may be ours: in a directory without the database nothing else vouches for it.
#[must_use]
pub fn looks_like_ours(path: &Path) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() < 32);
    let text = fs::read_to_string(path);
    regular && text.is_ok_and(|text| text.trim_end().bytes().all(|byte| byte.is_ascii_digit()))
}

fn open_or_create(path: &Path) -> Result<File, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(LockError::io(path, "open"))
}

fn open_existing(path: &Path) -> Result<Option<File>, LockError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LockError::io(path, "open")(error)),
    }
}

/// Says who holds it, if there is room for that: a full disk must not keep out whoever would make some.
fn sign(file: &mut File) -> io::Result<()> {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let emptied = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
    let signed = emptied.and_then(|_| writeln!(file, "{}", std::process::id()));
    match signed {
        Err(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => Ok(()),
        other => other,
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

fn through_signals(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &tempfile::TempDir) -> LockFiles {
        LockFiles::of(directory.path(), "verdicts")
    }

    #[test]
    fn second_writer_is_told_who_holds_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (lock, gate) = WriterLock::take(&files(&directory)).unwrap();
        drop(gate);
        match WriterLock::take(&files(&directory)) {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(lock);
        WriterLock::take(&files(&directory)).unwrap();
    }

    #[test]
    fn readers_do_not_keep_a_writer_out() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(&directory);
        assert!(matches!(look(&files).unwrap(), Found::NoLocks));
        drop(WriterLock::take(&files).unwrap());
        let found = look(&files).unwrap();
        let Found::Nobody(gate) = found else {
            panic!("{found:?}")
        };
        drop(gate);
        let writer = WriterLock::take(&files).unwrap();
        drop(writer.1);
        assert!(matches!(look(&files).unwrap(), Found::Writer));
    }

    #[test]
    fn other_peoples_files_are_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = files(&directory).lock;
        for (text, ours) in [
            ("", true),
            ("123\n", true),
            ("my notes", false),
            ("12a", false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(looks_like_ours(&path), ours, "{text:?}");
        }
    }
}
