//! Opening images: what is it, may we, is it sound, and what lies beneath.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_bitmap::Granularity;
use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};
use rustix::fs::OFlags;

use crate::device::Device;
use crate::file::{File, OsFile};
use crate::header::{self, Backing, Header};
use crate::kept::{BitmapOwner, FoundBitmap, Kept, LiveBitmap, Veiled};
use crate::lock::{Claim, LockError, lock, release};
use crate::open_error::OpenError;
use crate::qcow2::{Layer, LayerKind, Qcow2Device};
use crate::raw::RawDevice;
use crate::stamp::{FileId, Stamp};

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

/// One file of an open image's chain.
#[derive(Clone, Debug)]
pub struct ImageFile {
    path: PathBuf,
    file: Arc<OsFile>,
    id: FileId,
    found: Option<Stamp>,
    format: Format,
}

/// QEMU's dirty bitmaps of one layer of an image: see [`Image::bitmaps`].
#[derive(Debug)]
pub struct LayerBitmaps {
    /// The layer's file.
    pub path: PathBuf,
    /// Its bitmaps, or why it has none that could be listed.
    pub bitmaps: Result<Bitmaps<Arc<dyn File>>, Qcow2Error>,
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

    /// QEMU's dirty bitmaps as they are in the files now, one item for each qcow2 layer, top layer first.
    /// Those that this image keeps while it is open to be written to show as in use. The answer holds the
    /// files, and so their locks, as the image does.
    pub fn bitmaps(&self) -> Vec<LayerBitmaps> {
        let layers = self
            .files
            .iter()
            .filter(|file| file.format == Format::Qcow2);
        layers
            .map(|layer| LayerBitmaps {
                path: layer.path.clone(),
                bitmaps: Bitmaps::open(layer.file.clone()),
            })
            .collect()
    }

    /// The enabled ones among the top layer's bitmaps, of an image that is open to be written to: as they are while the
    /// device is written to.
    pub fn live_bitmaps(&self) -> &[LiveBitmap] {
        self.kept.as_ref().map_or(&[], |kept| kept.live())
    }

    /// Gives the top layer's bitmaps to `owner`, in the order of the image. To be called once, before anything is written.
    ///
    /// Of an image that is open to be written to, all that are true are in use from here on. The owner marks what is
    /// written, may change them, and is asked in the end what the image is to hold. Of one that is open to be read they are
    /// told, and nothing is asked; those that cannot be read are left out.
    ///
    /// # Errors
    /// As [`Bitmaps::hold`]; the bitmaps are as they were.
    pub fn hand_over_bitmaps(
        &self,
        owner: Arc<dyn BitmapOwner>,
    ) -> Result<Vec<FoundBitmap>, Qcow2Error> {
        match &self.kept {
            Some(kept) => kept.hand_over(owner),
            None => Ok(self.found_bitmaps()),
        }
    }

    /// The top layer's bitmaps of an image that is not written to.
    fn found_bitmaps(&self) -> Vec<FoundBitmap> {
        let Some(Ok(bitmaps)) = self.bitmaps().into_iter().next().map(|top| top.bitmaps) else {
            return Vec::new();
        };
        let entries = bitmaps.list().iter().filter(|_| !bitmaps.is_stale());
        let found = entries.filter_map(|entry| match entry.condition() {
            Condition::Consistent => FoundBitmap::of(entry, Some(bitmaps.read(entry.name()).ok()?)),
            Condition::InUse => FoundBitmap::of(entry, None),
            Condition::Unusable(_) => None,
        });
        found.collect()
    }

    /// Whether the image could be given another bitmap in the end, beside `others`. Touches nothing but memory where it can.
    ///
    /// # Errors
    /// As [`Bitmaps::open`] and [`Bitmaps::check_new`].
    pub fn check_new_bitmap<'a>(
        &self,
        name: &str,
        granularity: Granularity,
        others: impl Iterator<Item = &'a str>,
    ) -> Result<(), Qcow2Error> {
        match &self.kept {
            Some(kept) => kept.check_new(name, granularity, others),
            None => Bitmaps::open(self.files[0].file.clone())?.check_new(name, granularity, others),
        }
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
        self.files
            .iter()
            .map(|file| Stamp::of_file(file.file.as_file()))
            .collect()
    }
}

impl ImageFile {
    /// Opens one file, under the lock that the access needs, without a look at what is in it or beneath.
    ///
    /// # Errors
    /// As [`Image::open`], for what may be wrong with a path, its file or its lock.
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

    /// Whether it is a block device.
    pub fn is_block_device(&self) -> bool {
        self.file.is_block_device()
    }
}

/// Walks down from the top layer of a qcow2 image to where nothing lies beneath.
fn open_chain(
    top: ImageFile,
    wrapped: Arc<dyn File>,
    options: OpenOptions,
    lies: &Beneath,
    wrap: &impl Fn(Arc<dyn File>) -> Arc<dyn File>,
) -> Result<(Vec<Layer>, Vec<ImageFile>), OpenError> {
    let beneath = OpenOptions {
        access: Access::ReadOnly,
        ..options
    };
    let (mut layers, mut files) = (Vec::new(), vec![top]);
    let (mut file, mut format, mut access) = (wrapped, Format::Qcow2, options.access);
    loop {
        let path = &files[files.len() - 1].path;
        let name = path.display().to_string();
        if format == Format::Raw {
            layers.push(Layer {
                name,
                file,
                kind: LayerKind::Raw,
            });
            return Ok((layers, files));
        }
        let header = header::read(path, &*file, access)?;
        let Header {
            version,
            cluster_bits,
            promises_bitmaps,
            backing,
        } = header;
        layers.push(Layer {
            name,
            file,
            kind: LayerKind::Qcow2 {
                version,
                cluster_bits,
                promises_bitmaps,
            },
        });
        let backing = match (lies, backing) {
            (Beneath::AsNamed, Some(backing)) => backing,
            (Beneath::AsNamed, None) | (Beneath::Nothing, _) => return Ok((layers, files)),
            (Beneath::Device(device), _) => {
                layers.push(Layer::of_device(device.clone()));
                return Ok((layers, files));
            }
        };
        let told = backing_format(path, &backing)?;
        let mut next = open_backing(path, &backing, &files, beneath)?;
        file = wrap(next.file.clone());
        format = judge_format(&next.path, &*file, told)?;
        access = Access::ReadOnly;
        next.format = format;
        files.push(next);
    }
}

/// Takes QEMU's bitmaps of the top layer into our keeping, and out of imago's sight. Those that nobody
/// promises to be true stay as they are: nobody believes them. Nothing for an image that has none and can be given none.
fn keep_bitmaps(path: &Path, layers: &mut [Layer]) -> Result<Option<Arc<Kept>>, OpenError> {
    let Some(top) = layers.first_mut() else {
        return Ok(None);
    };
    let LayerKind::Qcow2 {
        version,
        promises_bitmaps,
        ..
    } = top.kind
    else {
        return Ok(None);
    };
    let kept = match Kept::begin(path, top.file.clone()) {
        Ok(kept) => kept,
        Err(_) if version < 3 || !promises_bitmaps => return Ok(None),
        Err(cause) => {
            return Err(OpenError::Bitmaps {
                path: path.into(),
                cause,
            });
        }
    };
    if kept.has_bitmaps() {
        top.file = Arc::new(Veiled::new(top.file.clone()));
    }
    Ok(Some(Arc::new(kept)))
}

fn open_backing(
    image: &Path,
    backing: &Backing,
    chain: &[ImageFile],
    options: OpenOptions,
) -> Result<ImageFile, OpenError> {
    let path = backing_path(image, &backing.name)?;
    let id = FileId::of_path(&path).map_err(|cause| {
        let error = OpenError::of_opening(&path, options.access, cause);
        if matches!(error, OpenError::Missing { .. }) {
            OpenError::MissingBacking {
                image: image.into(),
                backing: path.clone(),
            }
        } else {
            error
        }
    })?;
    // Before it is opened: our own lock on the top layer would be in the way.
    if chain.iter().any(|file| file.id == id) {
        return Err(OpenError::BackingLoop {
            image: image.into(),
            backing: path,
        });
    }
    open_file(&path, options, Holding::Shared)
}

/// Where a backing file is: relative names start at the image that holds them.
fn backing_path(image: &Path, name: &str) -> Result<PathBuf, OpenError> {
    let unsupported = |feature| {
        Err(OpenError::Unsupported {
            path: image.into(),
            feature,
        })
    };
    let name = name.strip_prefix("file:").unwrap_or(name);
    let first = name.split('/').next().unwrap_or(name);
    if let Some((protocol, _)) = first.split_once(':') {
        let protocol = protocol.escape_debug();
        return unsupported(format!(
            "a backing file that is no plain path (\"{protocol}:\")"
        ));
    }
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}

fn backing_format(image: &Path, backing: &Backing) -> Result<Option<Format>, OpenError> {
    match backing.format.as_deref() {
        None => Ok(None),
        Some("raw" | "file" | "host_device") => Ok(Some(Format::Raw)),
        Some("qcow2") => Ok(Some(Format::Qcow2)),
        Some(other) => Err(OpenError::Unsupported {
            path: image.into(),
            feature: format!("a backing file of format \"{}\"", other.escape_debug()),
        }),
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

fn raw_device(path: &Path, file: Arc<dyn File>, access: Access) -> Result<RawDevice, OpenError> {
    let name = path.display().to_string();
    let device = RawDevice::new(name, file, access == Access::ReadWrite);
    device.map_err(|e| OpenError::io(path, e))
}

/// Whether a block device may be opened by others meanwhile. Files have locks for that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holding {
    /// Of block devices, nobody may mount it or open it like this.
    Alone,
    /// Many overlays may share a layer beneath.
    Shared,
}

fn open_file(path: &Path, options: OpenOptions, holding: Holding) -> Result<ImageFile, OpenError> {
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
