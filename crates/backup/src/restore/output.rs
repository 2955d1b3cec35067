//! The file being restored: hidden until it is whole, then in its place at once.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

use super::error::RestoreError;
use crate::error::no_room;
use crate::qcow2_builder::BuildError;

/// An output under way. Dropping it removes what was written.
#[derive(Debug)]
pub(super) struct Output {
    /// Where it is to be.
    path: PathBuf,
    /// Where it is meanwhile: a hidden file in the same directory, locked by us.
    partial: PathBuf,
    directory: PathBuf,
    file: File,
    overwrite: bool,
}

impl Output {
    /// Checks the place and starts an empty file beside it.
    pub(super) fn create(out: &Path, overwrite: bool) -> Result<Self, RestoreError> {
        let path = final_place(out, overwrite)?;
        let no_name = || RestoreError::NoName { path: out.into() };
        let partial = hidden_place(&path).ok_or_else(no_name)?;
        let directory = directory_of(&path);
        check_directory(&directory)?;
        let file = take_over(&partial, &path)?;
        let output = Self {
            path,
            partial,
            directory,
            file,
            overwrite,
        };
        output.start().map_err(|error| output.write_failed(error))?;
        Ok(output)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file durable and gives it its name, whole.
    pub(super) fn put_in_place(self) -> Result<(), RestoreError> {
        let moved = self.file.sync_all().and_then(|()| {
            if self.overwrite {
                fs::rename(&self.partial, &self.path)
            } else {
                rename_to_nothing(&self.partial, &self.path)
            }
        });
        moved.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                let path = self.path.clone();
                return RestoreError::Exists { path };
            }
            self.write_failed(error)
        })?;
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.map_err(|source| RestoreError::NotDurable {
            path: self.path.clone(),
            source,
        })
    }

    /// The error of a write to the file.
    pub(super) fn write_failed(&self, source: io::Error) -> RestoreError {
        let path = self.path.clone();
        match no_room(&source) {
            true => RestoreError::NoSpace { path, source },
            false => RestoreError::Write { path, source },
        }
    }

    /// The error of the builder over the file.
    pub(super) fn build_failed(&self, source: BuildError) -> RestoreError {
        if let Some(error) = source.io() {
            // An `io::Error` cannot be cloned; its kind and text can.
            return self.write_failed(io::Error::new(error.kind(), source.to_string()));
        }
        RestoreError::Build {
            path: self.path.clone(),
            source,
        }
    }

    /// Empties the file; one that replaces another is as private as that was.
    fn start(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        if self.overwrite
            && let Ok(replaced) = fs::metadata(&self.path)
        {
            self.file.set_permissions(replaced.permissions())?;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Only while the name is still ours: once in place, another restore may have taken it.
        if is_at(&self.file, &self.partial).unwrap_or(false) {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Where an output is until it is whole: a hidden file beside its place. None if that has no name.
pub(crate) fn hidden_place(path: &Path) -> Option<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name()?);
    hidden.push(".cohort-partial");
    Some(directory_of(path).join(hidden))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Where the output goes: through symbolic links to the file that is to be replaced.
fn final_place(out: &Path, overwrite: bool) -> Result<PathBuf, RestoreError> {
    match fs::symlink_metadata(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(out.to_path_buf()),
        Err(source) => Err(RestoreError::Directory {
            path: out.parent().unwrap_or(out).into(),
            source,
        }),
        Ok(_) if !overwrite => Err(RestoreError::Exists { path: out.into() }),
        Ok(_) => match fs::canonicalize(out) {
            Ok(file) if file.is_file() => Ok(file),
            Ok(_) | Err(_) => Err(RestoreError::NotAFile { path: out.into() }),
        },
    }
}

fn check_directory(directory: &Path) -> Result<(), RestoreError> {
    let found = fs::metadata(directory).and_then(|found| match found.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    found.map_err(|source| RestoreError::Directory {
        path: directory.into(),
        source,
    })
}

/// Opens the hidden file, new or left by a restore that was killed, and locks it.
fn take_over(partial: &Path, path: &Path) -> Result<File, RestoreError> {
    let directory = |source| RestoreError::Directory {
        path: partial.parent().unwrap_or(partial).into(),
        source,
    };
    loop {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        // A link is nothing that a restore left: what it leads to is somebody's own.
        let file = options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let file = file.open(partial).map_err(|source| match &source {
            full if no_room(full) => RestoreError::NoSpace {
                path: path.into(),
                source,
            },
            link if link.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                let path = partial.into();
                RestoreError::NotAFile { path }
            }
            _ => directory(source),
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RestoreError::Busy { path: path.into() });
            }
            // A file system without locks: two restores at once to one place are the user's doing.
            Err(TryLockError::Error(_)) => return Ok(file),
        }
        // Whoever held it may have renamed or removed it between our open and our lock.
        if is_at(&file, partial).map_err(directory)? {
            return Ok(file);
        }
    }
}

/// Whether a path still names an open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renames, but never over a file that has appeared meanwhile.
fn rename_to_nothing(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Not every file system knows the flag; a second name never replaces either.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}
