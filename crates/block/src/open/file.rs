//! One file of an image: what it is, may we, and is it still as it was. What is in it is none of this file's business.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{Access, Format, OpenOptions};
use crate::file::OsFile;
use crate::lock::{Claim, LockError, lock};
use crate::open_error::OpenError;
use crate::stamp::{FileId, Stamp};

/// One file of an open image's chain.
#[derive(Clone, Debug)]
pub struct ImageFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<OsFile>,
    pub(super) id: FileId,
    found: Option<Stamp>,
    pub(super) format: Format,
}

impl ImageFile {
    /// Opens one file, under the lock that the access needs, without a look at what is in it or beneath.
    ///
    /// # Errors
    /// As [`Image::open`](crate::Image::open), for what may be wrong with a path, its file or its lock.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, OpenError> {
        open_file(path.as_ref(), options, Holding::Alone)
    }

    /// The file; locked as long as it is open.
    pub fn file(&self) -> &Arc<OsFile> {
        &self.file
    }

    /// Its stamp; nothing for a block device, of which none can be had.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn stamp(&self) -> io::Result<Option<Stamp>> {
        Stamp::of_file(self.file.as_file())
    }

    /// Its stamp when it was locked, before anything was written to it by whoever opened it: opening an image that carries
    /// bitmaps writes to it. Nothing for a block device.
    pub fn found(&self) -> Option<Stamp> {
        self.found
    }

    /// The path under which it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is, whatever its path.
    pub fn id(&self) -> FileId {
        self.id
    }
}

/// Whether a block device may be opened by others meanwhile. Files have locks for that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Of block devices, nobody may mount it or open it like this.
    Alone,
    /// Many overlays may share a layer beneath.
    Shared,
}

pub(super) fn open_file(
    path: &Path,
    options: OpenOptions,
    holding: Holding,
) -> Result<ImageFile, OpenError> {
    let failed = |e| OpenError::of_opening(path, options.access, e);
    let is_block_device = check_kind(path, &fs::metadata(path).map_err(failed)?)?;
    let mut how = fs::OpenOptions::new();
    how.read(true).write(options.access == Access::ReadWrite);
    if is_block_device && options.lock && holding == Holding::Alone {
        how.custom_flags(OFlags::EXCL.bits() as i32);
    }
    let file = how.open(path).map_err(failed)?;
    let id = FileId::of_file(&file).map_err(failed)?;
    if options.lock {
        let claim = match options.access {
            Access::ReadOnly => Claim::Read,
            Access::ReadWrite => Claim::Write,
        };
        lock(&file, claim).map_err(|e| match e {
            LockError::Held(why) => OpenError::Locked {
                path: path.into(),
                why,
            },
            LockError::Io(e) => OpenError::io(path, e),
        })?;
    }
    let file = if options.lock {
        OsFile::locked(file)
    } else {
        OsFile::new(file)
    };
    let file = Arc::new(file.map_err(failed)?);
    Ok(ImageFile {
        found: Stamp::of_file(file.as_file()).map_err(failed)?,
        path: path.into(),
        file,
        id,
        // Until its first bytes are looked at.
        format: Format::Raw,
    })
}

/// Refuses what holds no disk, before opening it: to open a pipe would wait for its other end.
fn check_kind(path: &Path, metadata: &fs::Metadata) -> Result<bool, OpenError> {
    let kind = metadata.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(false),
        _ if kind.is_block_device() => return Ok(true),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() => "a character device",
        _ => "something unknown",
    };
    Err(OpenError::NotAFile {
        path: path.into(),
        what,
    })
}
