//! Opening images: which options there are, and what an open image is.
//!
//! Its files: `file.rs`; what lies beneath it: `chain.rs`; the bitmaps in it: `bitmaps.rs`.

mod bitmaps;
mod chain;
mod file;

use std::io;
use std::path::Path;
use std::sync::Arc;

use cohort_bitmap::store::qcow2::count_tables;

pub use self::bitmaps::LayerBitmaps;
use self::bitmaps::keep_bitmaps;
use self::chain::open_chain;
pub use self::file::ImageFile;
use self::file::{Holding, open_file};
use crate::device::Device;
use crate::file::File;
use crate::header;
use crate::kept::Kept;
use crate::lock::release;
use crate::open_error::OpenError;
use crate::qcow2::{Layer, Qcow2Device};
use crate::raw::RawDevice;
use crate::stamp::Stamp;

/// How the bytes of a disk lie in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One to one; also a block device.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// To read; its lock keeps writers out.
    ReadOnly,
    /// To read and write the top layer; its lock keeps everybody out who minds.
    ReadWrite,
}

/// How to open an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    access: Access,
    format: Option<Format>,
    lock: bool,
}

impl OpenOptions {
    /// To read: any format, locked against writers.
    pub fn read_only() -> Self {
        Self {
            access: Access::ReadOnly,
            format: None,
            lock: true,
        }
    }

    /// To read and write: any format, locked.
    pub fn read_write() -> Self {
        Self {
            access: Access::ReadWrite,
            format: None,
            lock: true,
        }
    }

    /// Takes the file for this format instead of looking at its first bytes.
    ///
    /// To be used for raw disks that a guest writes to: it may put there what looks like an image that
    /// refers to other files of this host.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        Self {
            format: Some(format),
            ..self
        }
    }

    /// Takes and honours no locks, for files that are locked by who asks.
    #[must_use]
    pub fn without_lock(self) -> Self {
        Self {
            lock: false,
            ..self
        }
    }
}

/// Opens an image for its bytes alone: [`Image::open`] without the rest.
///
/// # Errors
/// As [`Image::open`].
pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Arc<dyn Device>, OpenError> {
    Image::open(path, options).map(|image| image.device)
}

/// An open image: the disk in it, and the files that hold it.
#[derive(Debug)]
pub struct Image {
    device: Arc<dyn Device>,
    format: Format,
    /// Top layer first.
    files: Vec<ImageFile>,
    /// The bitmaps of one that is open to be written to and can have some.
    kept: Option<Arc<Kept>>,
    cluster: Option<u64>,
}

/// What lies beneath an image.
#[derive(Clone, Debug, Default)]
pub enum Beneath {
    /// What its header names.
    #[default]
    AsNamed,
    /// Nothing, whatever its header names.
    Nothing,
    /// This, whatever its header names.
    Device(Arc<dyn Device>),
}

impl Image {
    /// Opens the image at `path` with everything beneath it, which is opened to read.
    ///
    /// The locks that QEMU's tools honour are taken on every file of the chain, and held until both the
    /// image and its device are dropped.
    ///
    /// # Errors
    /// One variant each for what may be wrong with a path, its file, its locks or its contents.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, OpenError> {
        Self::open_through(path, options, |file| file)
    }

    /// As [`open`](Self::open), with every file of the chain reached through what `wrap` makes of it:
    /// the place to put faults under an image.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_through(
        path: impl AsRef<Path>,
        options: OpenOptions,
        wrap: impl Fn(Arc<dyn File>) -> Arc<dyn File>,
    ) -> Result<Self, OpenError> {
        let top = open_file(path.as_ref(), options, Holding::Alone)?;
        Self::over(top, options, Beneath::AsNamed, wrap)
    }

    /// As [`open_through`](Self::open_through), over a file that is open already, and under a lock of its own if it
    /// is to have one; and with something else beneath it than its header names, if that is asked for.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn over(
        mut top: ImageFile,
        options: OpenOptions,
        beneath: Beneath,
        wrap: impl Fn(Arc<dyn File>) -> Arc<dyn File>,
    ) -> Result<Self, OpenError> {
        let path = &*top.path.clone();
        if top.file.is_empty().map_err(|e| OpenError::io(path, e))? {
            return Err(OpenError::Empty { path: path.into() });
        }
        let wrapped = wrap(top.file.clone());
        let format = judge_format(&top.path, &*wrapped, options.format)?;
        top.format = format;
        let mut cluster = None;
        let (device, files, kept): (Arc<dyn Device>, _, _) = match format {
            Format::Raw => (
                Arc::new(raw_device(path, wrapped, options.access)?),
                vec![top],
                None,
            ),
            Format::Qcow2 => {
                let (mut layers, files) = open_chain(top, wrapped, options, &beneath, &wrap)?;
                cluster = layers.first().and_then(Layer::cluster_bytes);
                let writable = options.access == Access::ReadWrite;
                let kept = if writable {
                    count_tables_of(path, &layers)?;
                    keep_bitmaps(path, &mut layers)?
                } else {
                    None
                };
                let device = Qcow2Device::new(layers, writable, kept.clone());
                let device = device.map_err(|e| from_imago(path, e))?;
                (Arc::new(device), files, kept)
            }
        };
        Ok(Self {
            device,
            format,
            files,
            kept,
            cluster,
        })
    }

    /// The disk.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The format of the top layer.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The unit in which the top layer allocates, if its format has one.
    pub fn cluster_bytes(&self) -> Option<u64> {
        self.cluster
    }

    /// The files that hold the disk, top layer first; at least one.
    pub fn files(&self) -> &[ImageFile] {
        &self.files
    }

    /// Gives the locks on all files back before their time: for who has read everything, and has something
    /// else to do with the files. Whatever is read after this may change meanwhile.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn unlock(&self) -> io::Result<()> {
        self.files
            .iter()
            .try_for_each(|file| release(file.file.as_file()))
    }

    /// The stamps of all files, top layer first; nothing for a block device, of which none can be had.
    /// A later answer that differs proves that somebody wrote in between.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn stamps(&self) -> io::Result<Vec<Option<Stamp>>> {
        self.files.iter().map(ImageFile::stamp).collect()
    }
}

/// The format asked for, or else what the first bytes look like.
fn judge_format(path: &Path, file: &dyn File, asked: Option<Format>) -> Result<Format, OpenError> {
    if let Some(format) = asked {
        return Ok(format);
    }
    let mut magic = [0; 4];
    match file.read_at(&mut magic, 0) {
        Ok(()) if magic == header::MAGIC => Ok(Format::Qcow2),
        Ok(()) => Ok(Format::Raw),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Format::Raw),
        Err(e) => Err(OpenError::io(path, e)),
    }
}

/// Counts what a writer that was killed left in use and uncounted, before somebody takes it for free.
fn count_tables_of(path: &Path, layers: &[Layer]) -> Result<(), OpenError> {
    let Some(top) = layers.first() else {
        return Ok(());
    };
    let counted = count_tables(&top.file).map_err(|cause| OpenError::Uncounted {
        path: path.into(),
        cause,
    })?;
    if counted > 0 {
        tracing::warn!(
            "{}: whoever wrote to it last was killed; tables that it left uncounted: {counted}",
            path.display()
        );
    }
    Ok(())
}

fn raw_device(path: &Path, file: Arc<dyn File>, access: Access) -> Result<RawDevice, OpenError> {
    let name = path.display().to_string();
    let device = RawDevice::new(name, file, access == Access::ReadWrite);
    device.map_err(|e| OpenError::io(path, e))
}

/// What imago finds wrong with an image that our own checks let pass.
fn from_imago(path: &Path, error: io::Error) -> OpenError {
    let (kind, what) = (error.kind(), error.to_string());
    if kind == io::ErrorKind::UnexpectedEof {
        OpenError::Truncated {
            path: path.into(),
            what,
        }
    } else if kind == io::ErrorKind::InvalidData || kind == io::ErrorKind::Other {
        OpenError::Damaged {
            path: path.into(),
            what,
        }
    } else {
        OpenError::io(path, error)
    }
}
