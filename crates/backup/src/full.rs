//! A full copy of one disk into one file or pipe, outside of any backup directory: raw and sparse, qcow2, or a raw stream.
//!
//! The source is opened as for a backup, under QEMU's locks, and found to have changed or not when it was read. A file
//! appears whole or not at all, as a restored one does. Nothing is remembered: it is no point, and no increment lies on it.

mod patient;
mod stream;

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cohort_block::{Device, FileId, Format, Limits, Throttle, Throttled};

use crate::error::DiskError;
use crate::options::{Compression, ErrorPolicy, Options};
use crate::restore::{Made, RestoreError, hidden_place, write_image};
use crate::source::{DiskSpec, Source};

pub use patient::Operator;

use patient::Patient;

/// A copy to be made.
#[derive(Debug)]
#[must_use = "nothing happens until it is run"]
pub struct FullCopy {
    spec: DiskSpec,
    options: Options,
    operator: Operator,
}

/// Where a copy goes.
pub enum Outlet {
    /// A file, new or replaced.
    File {
        /// Its path.
        path: PathBuf,
        /// What it is to be.
        format: Format,
        /// Whether a regular file that is there may be replaced; it stays until the copy is whole.
        overwrite: bool,
    },
    /// A pipe, a socket, or whatever takes bytes in order; gets those of the disk and nothing else.
    Stream {
        /// What messages call it.
        name: String,
        /// Takes them.
        write: Box<dyn Write + Send>,
    },
}

/// What a copy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullyCopied {
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes that were written as data; the rest is holes, or zeroes in a stream.
    pub data_bytes: u64,
    /// What could not be read and was left out with permission: zeroes, in order.
    pub skipped: Vec<Range<u64>>,
    /// Whether the source changed while it was read, and that was accepted.
    pub changed: bool,
}

/// Why a copy was not made. Nothing is left of a file then; a stream has what it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FullCopyError {
    /// The source cannot be used, or did not hold still.
    #[error(transparent)]
    Source(DiskError),
    /// The file could not be made.
    #[error(transparent)]
    File(RestoreError),
    /// The stream could not be written, perhaps because nobody reads it any more.
    #[error("cannot write to {name} at byte {offset}: {error}")]
    Stream {
        /// What messages call it.
        name: String,
        /// How far it came.
        offset: u64,
        /// What the system said.
        error: std::io::Error,
    },
    /// The copy was called off.
    #[error("the copy was cancelled")]
    Cancelled,
    /// The file is one that the source lies in, by whatever name.
    #[error("{}: the source lies in that file; choose another place for the copy", path.display())]
    OntoSource {
        /// Where the copy was to go.
        path: PathBuf,
    },
    /// A copy has no use for it.
    #[error("{0}")]
    Unfit(&'static str),
}

impl FullCopy {
    /// Of this disk, which nobody serves.
    pub fn of(spec: DiskSpec) -> Self {
        FullCopy {
            spec,
            options: Options::default(),
            operator: Operator::default(),
        }
    }

    /// With these options, as far as they mean something here: errors of the source, clusters and their compression,
    /// speed, and whether a source may change.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Has the copy wait for this operator, under an error policy that stops.
    pub fn operator(mut self, operator: Operator) -> Self {
        self.operator = operator;
        self
    }

    /// Copies. `progress` is told (bytes done, bytes in all); setting `cancel` ends it soon.
    ///
    /// # Errors
    /// [`FullCopyError`].
    pub fn run(
        self,
        to: Outlet,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<FullyCopied, FullCopyError> {
        self.check(&to)?;
        let source = self.open(&to)?;
        let device: Arc<dyn Device> = match self.options.speed {
            0 => source.device.clone(),
            speed => {
                let throttle = Throttle::new(Limits::of_bytes(speed));
                Arc::new(Throttled::new(source.device.clone(), Arc::new(throttle)))
            }
        };
        let patient = Patient::new(device, self.options.on_source_error, &self.operator, cancel);
        let mut changed = false;
        let mut held_still = || {
            changed = self.has_changed(&source)?;
            Ok(())
        };
        let written = match to {
            Outlet::File {
                path,
                format,
                overwrite,
            } => {
                let made = self.made(format, overwrite);
                write_image(&patient, &path, &made, progress, cancel, &mut held_still)
            }
            Outlet::Stream { name, write } => {
                let written = stream::write(&patient, name, write, progress, cancel);
                written.and_then(|written| held_still().map(|()| written))
            }
        };
        let data_bytes = written.map_err(|error| match cancel.load(Ordering::Relaxed) {
            // Who waited for the operator was called off.
            true => FullCopyError::Cancelled,
            false => error,
        })?;
        Ok(FullyCopied {
            size_bytes: source.device.size(),
            data_bytes,
            skipped: patient.skipped(),
            changed,
        })
    }

    /// Refuses options that mean nothing here.
    fn check(&self, to: &Outlet) -> Result<(), FullCopyError> {
        let raw = match to {
            Outlet::Stream { .. } => true,
            Outlet::File { format, .. } => *format == Format::Raw,
        };
        if raw && self.options.compress != Compression::None {
            return Err(FullCopyError::Unfit(
                "a raw copy cannot be compressed: make a qcow2 copy, or compress the stream",
            ));
        }
        if self.options.on_target_error != ErrorPolicy::Report
            || self.options.on_source_error == ErrorPolicy::Enospc
        {
            return Err(FullCopyError::Unfit(
                "a copy whose target fails can only report that: say what to do when the source cannot be read",
            ));
        }
        Ok(())
    }

    /// Opens the source, of which no file may be the place of the copy, by whatever name.
    fn open(&self, to: &Outlet) -> Result<Source, FullCopyError> {
        let source = self.spec.open().map_err(FullCopyError::Source)?;
        if source.tracked().is_some() {
            return Err(FullCopyError::Unfit(
                "a disk that is being served is copied by a backup, which shows one instant of it",
            ));
        }
        let Outlet::File { path, .. } = to else {
            return Ok(source);
        };
        // The copy empties a hidden file first, as one that was killed has left it.
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        let taken = [Some(path.clone()), hidden_place(&place)];
        let source_lies_in = |path: &PathBuf| {
            FileId::of_path(path).is_ok_and(|there| source.lies_in(there.beneath()))
        };
        match taken.into_iter().flatten().find(source_lies_in) {
            Some(path) => Err(FullCopyError::OntoSource { path }),
            None => Ok(source),
        }
    }

    /// Whether the source changed while it was read, if that was accepted.
    fn has_changed(&self, source: &Source) -> Result<bool, FullCopyError> {
        match source.changed().map_err(FullCopyError::Source)? {
            Some(file) if !self.options.accept_changes => {
                Err(FullCopyError::Source(DiskError::ChangedWhileRead { file }))
            }
            found => Ok(found.is_some()),
        }
    }

    fn made(&self, format: Format, overwrite: bool) -> Made {
        Made {
            format,
            overwrite,
            cluster: self.options.cluster,
            compress: self.options.compress,
            offload: true,
            ..Made::default()
        }
    }
}

impl From<RestoreError> for FullCopyError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Cancelled => FullCopyError::Cancelled,
            RestoreError::Read(error) => FullCopyError::Source(DiskError::Read(error)),
            other @ (RestoreError::Exists { .. }
            | RestoreError::NotAFile { .. }
            | RestoreError::NoName { .. }
            | RestoreError::Directory { .. }
            | RestoreError::Busy { .. }
            | RestoreError::Range { .. }
            | RestoreError::NoSpace { .. }
            | RestoreError::Write { .. }
            | RestoreError::Build { .. }
            | RestoreError::NotDurable { .. }) => FullCopyError::File(other),
        }
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outlet::File { path, format, .. } => {
                f.debug_tuple("File").field(path).field(format).finish()
            }
            Outlet::Stream { name, .. } => f.debug_tuple("Stream").field(name).finish(),
        }
    }
}

impl Outlet {
    /// The pipe at this path: waits until somebody reads it.
    ///
    /// # Errors
    /// What the system says.
    pub fn pipe(path: &Path) -> std::io::Result<Outlet> {
        Ok(Outlet::Stream {
            name: path.display().to_string(),
            write: Box::new(File::options().write(true).open(path)?),
        })
    }
}
