//! Who may write into a backup directory, and when it may be looked at.
//!
//! Two small files are locked with `flock`, which the kernel takes back from a process that dies:
//!
//! - `catalogue.lock` is held by the one writer for as long as it lives; it contains its process id.
//! - `catalogue.gate` is held, exclusively, while a writer takes the first lock and opens the
//!   catalogue, and, shared, while a reader finds out whether there is a writer and, if not, copies
//!   the catalogue. So no writer starts under a reader's copy, and no reader's question makes a
//!   writer believe that the directory is busy. Both are over in milliseconds, so both wait.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::error::OpenError;

/// The file that the writer holds.
pub(super) const LOCK_FILE: &str = "catalogue.lock";
/// The file that is held while somebody starts.
pub(super) const GATE_FILE: &str = "catalogue.gate";

/// The right to write into a directory; given back when dropped, or when the process ends.
#[derive(Debug)]
pub(super) struct WriterLock(File);

/// Nobody else starts while this is held.
#[derive(Debug)]
pub(super) struct Gate(File);

impl WriterLock {
    /// Takes the lock, or says at once who has it. The gate keeps readers out until it is dropped.
    pub(super) fn take(directory: &Path) -> Result<(Self, Gate), OpenError> {
        let gate_path = directory.join(GATE_FILE);
        let gate = open_or_create(&gate_path)?;
        through_signals(|| gate.lock()).map_err(OpenError::io(&gate_path, "lock"))?;

        let path = directory.join(LOCK_FILE);
        let mut file = open_or_create(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = holder(&mut file);
                return Err(OpenError::Busy {
                    directory: directory.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(error)) => return Err(OpenError::io(&path, "lock")(error)),
        }
        sign(&mut file).map_err(OpenError::io(&path, "write"))?;
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
pub(super) enum Found {
    /// A writer holds the directory.
    Writer,
    /// Nobody does, and nobody will until the gate is dropped.
    Nobody(Gate),
    /// There are no lock files, as in a copy of a directory: a writer would make them first.
    NoLocks,
}

/// Asks whether somebody writes. Changes nothing, so that reading needs no right to write.
pub(super) fn look(directory: &Path) -> Result<Found, OpenError> {
    let gate_path = directory.join(GATE_FILE);
    let path = directory.join(LOCK_FILE);
    let (Some(gate), Some(file)) = (open_existing(&gate_path)?, open_existing(&path)?) else {
        return Ok(Found::NoLocks);
    };
    through_signals(|| gate.lock_shared()).map_err(OpenError::io(&gate_path, "lock"))?;
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            Ok(Found::Nobody(Gate(gate)))
        }
        Err(TryLockError::WouldBlock) => Ok(Found::Writer),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&path, "lock")(error)),
    }
}

/// Whether a file of one of the two names may be ours: in a directory without a catalogue nothing
/// else vouches for it.
pub(super) fn looks_like_ours(path: &Path) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() < 32);
    let text = fs::read_to_string(path);
    regular && text.is_ok_and(|text| text.trim_end().bytes().all(|byte| byte.is_ascii_digit()))
}

fn open_or_create(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(OpenError::io(path, "open"))
}

fn open_existing(path: &Path) -> Result<Option<File>, OpenError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(path, "open")(error)),
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
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

    #[test]
    fn second_writer_is_told_who_holds_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = WriterLock::take(directory.path()).unwrap();
        drop(held.1);
        match WriterLock::take(directory.path()) {
            Err(OpenError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held.0);
        WriterLock::take(directory.path()).unwrap();
    }

    #[test]
    fn readers_do_not_keep_a_writer_out() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(look(directory.path()).unwrap(), Found::NoLocks));
        drop(WriterLock::take(directory.path()).unwrap());
        let found = look(directory.path()).unwrap();
        let Found::Nobody(gate) = found else {
            panic!("{found:?}")
        };
        drop(gate);
        let writer = WriterLock::take(directory.path()).unwrap();
        drop(writer.1);
        assert!(matches!(look(directory.path()).unwrap(), Found::Writer));
    }

    #[test]
    fn other_peoples_files_are_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK_FILE);
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
