//! Getting a disk back: a device, usually the chain of a point, copied into a file of the user's.
//!
//! The output appears whole or not at all. It is written beside its final place, in
//! `.NAME.cohort-partial`, made durable, and renamed. Whatever goes wrong removes that file; one that a
//! killed restore left behind is taken over by the next restore to the same place.

mod copy;
mod error;
mod output;
mod window;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use cohort_block::{Device, Format, OsFile};

use crate::options::Compression;
use crate::qcow2_builder::{CreateOptions, Qcow2Builder};

pub use error::RestoreError;
pub(crate) use output::hidden_place;

use copy::{Copy, Qcow2Writer, RawWriter};
use output::Output;
use window::Window;

/// How a disk is to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOptions {
    format: Format,
    overwrite: bool,
    length_bytes: Option<u64>,
    range: Option<Range<u64>>,
    threads: usize,
}

impl RestoreOptions {
    /// To a file that must not exist yet, all of the device.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            overwrite: false,
            length_bytes: None,
            range: None,
            threads: std::thread::available_parallelism().map_or(2, |n| n.get().min(4)),
        }
    }

    /// Whether an existing regular file may be replaced. It stays what it is until the new one is whole.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Only the first so many bytes: a disk's own size, where the image counts whole sectors.
    #[must_use]
    pub fn length_bytes(mut self, length_bytes: u64) -> Self {
        self.length_bytes = Some(length_bytes);
        self
    }

    /// Only these bytes of the disk; the first of them becomes the first of the output.
    #[must_use]
    pub fn range(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// How many threads read and write, each with one mebibyte in hand; at least one.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Bytes of the disk, or of the range. A qcow2 file counts whole sectors, so there it may be up to 511 more.
    pub size_bytes: u64,
    /// Bytes that were written; the rest is holes.
    pub data_bytes: u64,
}

/// Restores `source` to a new file at `out`, raw and sparse, or a standalone qcow2.
///
/// `progress` is told (bytes done, bytes in all), never fewer than before, by whichever thread got
/// there; it should return soon. Setting `cancel` ends the restore at its next mebibyte.
///
/// # Errors
/// [`RestoreError`]. Nothing is left of the output then, and what was at `out` before is still there;
/// only after [`RestoreError::NotDurable`] the output stands.
pub fn restore(
    source: &dyn Device,
    out: &Path,
    options: &RestoreOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Restored, RestoreError> {
    let size_bytes = options
        .length_bytes
        .unwrap_or(source.size())
        .min(source.size());
    let range = match options.range.clone() {
        None => 0..size_bytes,
        Some(range) if range.start < range.end && range.end <= size_bytes => range,
        Some(range) => return Err(RestoreError::Range { range, size_bytes }),
    };
    let window = Window::new(source, range);
    let size_bytes = window.size();
    let made = Made {
        format: options.format,
        overwrite: options.overwrite,
        threads: options.threads,
        ..Made::default()
    };
    let data_bytes = write_image(&window, out, &made, progress, cancel, || {
        Ok::<_, RestoreError>(())
    })?;
    Ok(Restored {
        size_bytes,
        data_bytes,
    })
}

/// How an image is made of a device.
pub(crate) struct Made {
    pub(crate) format: Format,
    /// Whether a regular file that is there may be replaced.
    pub(crate) overwrite: bool,
    pub(crate) threads: usize,
    /// Bytes of a cluster of a qcow2 image.
    pub(crate) cluster: u64,
    pub(crate) compress: Compression,
    /// Whether the kernel may copy: fast, and what is zero is found only where the device says so.
    pub(crate) offload: bool,
}

impl Default for Made {
    fn default() -> Self {
        Made {
            format: Format::Raw,
            overwrite: false,
            threads: std::thread::available_parallelism().map_or(2, |n| n.get().min(4)),
            cluster: 64 << 10,
            compress: Compression::None,
            offload: false,
        }
    }
}

/// Writes all of a device to a new file at `out`, which appears once all is durable and `well` has said so; gives how
/// many bytes were written as data.
pub(crate) fn write_image<E: From<RestoreError>>(
    source: &dyn Device,
    out: &Path,
    made: &Made,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
    well: impl FnOnce() -> Result<(), E>,
) -> Result<u64, E> {
    let output = Output::create(out, made.overwrite)?;
    let copy = Copy {
        source,
        length_bytes: source.size(),
        threads: made.threads,
        offload: made.offload && made.compress == Compression::None,
        progress,
        cancel,
    };
    let data_bytes = match made.format {
        Format::Raw => restore_raw(&copy, &output),
        Format::Qcow2 => restore_qcow2(&copy, &output, made),
    }?;
    well()?;
    output.put_in_place()?;
    Ok(data_bytes)
}

fn restore_raw(copy: &Copy<'_>, output: &Output) -> Result<u64, RestoreError> {
    let file = open(output)?;
    let failed = |error| output.write_failed(error);
    cohort_block::File::set_len(&file, copy.length_bytes).map_err(failed)?;
    copy.run(&RawWriter(&file), &failed)
}

fn restore_qcow2(copy: &Copy<'_>, output: &Output, made: &Made) -> Result<u64, RestoreError> {
    let failed = |error| output.build_failed(error);
    let options = CreateOptions::new(copy.length_bytes).cluster_size(made.cluster);
    let builder = Qcow2Builder::create(open(output)?, &options).map_err(failed)?;
    let writer = Qcow2Writer {
        builder: &builder,
        compress: made.compress,
    };
    let data_bytes = copy.run(&writer, &failed)?;
    builder.finish().map_err(failed)?;
    Ok(data_bytes)
}

fn open(output: &Output) -> Result<OsFile, RestoreError> {
    let file = output.file().try_clone().and_then(OsFile::new);
    file.map_err(|error| output.write_failed(error))
}
