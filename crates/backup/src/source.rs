//! What is backed up: files and devices as the caller names them, and as a run holds them open.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_block::{Device, FileId, Format, Image, OpenOptions, Stamp, TrackingStore};

use crate::catalogue::{DiskName, Instant};
use crate::error::{DiskError, StartError};
use crate::image_bitmap::NamedBitmap;
use crate::keeper::Keeper;
use crate::name::name_from;
use crate::offline_store::OfflineStore;
use crate::options::Options;
use crate::tracked::Tracked;

/// One disk of a run: where its data is, what it is called, how it is to be backed up.
#[derive(Clone)]
pub struct DiskSpec {
    origin: Origin,
    name: Option<String>,
    options: Option<Options>,
    format: Option<Format>,
    through: Option<Through>,
    bitmap: Option<String>,
    store: Option<PathBuf>,
}

#[derive(Clone)]
enum Origin {
    File(PathBuf),
    Device(Arc<dyn Device>),
    Kept(Arc<dyn Device>, Arc<dyn Keeper>),
    Served(Arc<Tracked>),
}

type Through = Arc<dyn Fn(Arc<dyn Device>) -> Arc<dyn Device> + Send + Sync>;

impl DiskSpec {
    /// An image file or a block device that nobody serves. It is opened to read, under QEMU's locks, and
    /// found to have changed or not when it was read. Its name is made from the file's.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Origin::File(path.into()))
    }

    /// A device of the caller's that nobody fences and that has no stamp: its points show no proven instant.
    /// Its name is made from the device's.
    pub fn device(device: Arc<dyn Device>) -> Self {
        Self::new(Origin::Device(device))
    }

    /// A device that shows one instant for as long as its keeper says so, which is taken for proven. Changes since the
    /// disk's last point are the keeper's to know.
    pub fn instant(device: Arc<dyn Device>, keeper: Arc<dyn Keeper>) -> Self {
        Self::new(Origin::Kept(device, keeper))
    }

    /// A disk that this process serves: fenced, so that all such disks of a run show one instant.
    pub fn served(disk: Arc<Tracked>) -> Self {
        Self::new(Origin::Served(disk))
    }

    fn new(origin: Origin) -> Self {
        DiskSpec {
            origin,
            name: None,
            options: None,
            format: None,
            through: None,
            bitmap: None,
            store: None,
        }
    }

    /// Goes by the tracking store at this path, of an image that nobody serves now, instead of a comparison of the whole
    /// disk. It is gone by only if the last backup into the directory named its sets; this one will.
    ///
    /// That nobody wrote to the disk while the store was not open cannot be proved after a kill, nor ever for a block
    /// device: to name the store is to say so. What the disk's stamp refutes is not gone by. A store that lies
    /// [beside](cohort_block::TrackingStore::path_beside) the disk need not be named where its stamp suffices.
    #[must_use]
    pub fn tracking_store(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = Some(path.into());
        self
    }

    /// Goes by the dirty bitmap of this name that QEMU keeps in the qcow2 image, instead of a comparison of the
    /// whole disk, and takes from it what the new point holds.
    ///
    /// That nobody else cleared the bitmap cannot be proved: to name it is to say so. It is gone by only if the
    /// last backup into the directory took its content from it already; until then the disk is compared.
    #[must_use]
    pub fn bitmap(mut self, name: impl Into<String>) -> Self {
        self.bitmap = Some(name.into());
        self
    }

    /// Calls the disk so in the backup directory. A served disk has its name already; this changes it here only.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Backs up this disk with these options instead of the run's.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = Some(options);
        self
    }

    /// Takes the file for this format instead of looking at its first bytes: to be used for raw disks whose
    /// content is not trusted.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Reads the disk through what `wrap` makes of it: the place for a throttle, or for faults in tests.
    #[must_use]
    pub fn through(
        mut self,
        wrap: impl Fn(Arc<dyn Device>) -> Arc<dyn Device> + Send + Sync + 'static,
    ) -> Self {
        self.through = Some(Arc::new(wrap));
        self
    }

    /// What messages call the source.
    pub(crate) fn label(&self) -> String {
        match &self.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::Device(device) | Origin::Kept(device, _) => device.name().to_owned(),
            Origin::Served(disk) => disk.name().to_string(),
        }
    }

    pub(crate) fn own_options(&self) -> Option<&Options> {
        self.options.as_ref()
    }

    /// The name that was given, or one made from where the data is.
    ///
    /// # Errors
    /// [`StartError::BadName`]: what was given is no name, or none can be made.
    pub fn disk_name(&self) -> Result<DiskName, StartError> {
        let name = match (&self.name, &self.origin) {
            (Some(name), _) => name.clone(),
            (None, Origin::File(path)) => name_from(path).unwrap_or_default(),
            (None, Origin::Device(device) | Origin::Kept(device, _)) => {
                name_from(Path::new(device.name())).unwrap_or_default()
            }
            (None, Origin::Served(disk)) => return Ok(disk.name().clone()),
        };
        DiskName::new(name).map_err(|error| StartError::BadName {
            source_name: self.label(),
            error,
        })
    }

    /// Opens it, and looks at its stamps before anything is read.
    pub(crate) fn open(&self) -> Result<Source, DiskError> {
        let wrap = |device: Arc<dyn Device>| {
            self.through
                .as_ref()
                .map_or(device.clone(), |wrap| wrap(device))
        };
        let (device, held) = match &self.origin {
            Origin::File(path) => {
                let mut options = OpenOptions::read_only();
                if let Some(format) = self.format {
                    options = options.format(format);
                }
                let image = Image::open(path, options)?;
                let before = image.stamps().map_err(DiskError::system(self.label()))?;
                (
                    image.device().clone(),
                    Held::Image {
                        image: Arc::new(image),
                        before,
                    },
                )
            }
            Origin::Device(device) => (device.clone(), Held::Device),
            Origin::Kept(device, keeper) => (device.clone(), Held::Kept(keeper.clone())),
            Origin::Served(disk) => (disk.gated().device().clone(), Held::Served(disk.clone())),
        };
        let bitmap = self.bitmap.as_deref();
        let bitmap = bitmap
            .map(|name| self.read_bitmap(name, &held))
            .transpose()?;
        let (store, store_unfit) = match (&self.store, bitmap.is_some()) {
            (Some(path), _) => (Some(self.open_store(path, &held)?), None),
            (None, false) => store_beside(&held),
            // The user named another.
            (None, true) => (None, None),
        };
        Ok(Source {
            store,
            store_unfit,
            label: self.label(),
            device: wrap(device),
            bitmap,
            held,
        })
    }
}

impl DiskSpec {
    fn read_bitmap(&self, name: &str, held: &Held) -> Result<NamedBitmap, DiskError> {
        match held {
            Held::Image { image, before } => NamedBitmap::read(&self.label(), name, image, before),
            Held::Device | Held::Kept(_) | Held::Served(_) => Err(DiskError::BitmapUnfit {
                source_name: self.label(),
                name: name.to_owned(),
                reason: "only images that nobody serves have one to go by",
            }),
        }
    }
}

impl DiskSpec {
    fn open_store(&self, path: &Path, held: &Held) -> Result<Arc<OfflineStore>, DiskError> {
        let source_name = self.label();
        match held {
            Held::Image { image, before } => OfflineStore::open(path, true, image, before)
                .map(Arc::new)
                .map_err(|error| DiskError::TrackingStore {
                    source_name,
                    error: Arc::new(error),
                }),
            Held::Device | Held::Kept(_) | Held::Served(_) => {
                Err(DiskError::NoTrackingStore { source_name })
            }
        }
    }
}

/// The store beside an image, if there is one; or why that one cannot be opened.
fn store_beside(held: &Held) -> (Option<Arc<OfflineStore>>, Option<String>) {
    let Held::Image { image, before } = held else {
        return (None, None);
    };
    let path = TrackingStore::path_beside(image.files()[0].path());
    if !path.exists() {
        return (None, None);
    }
    match OfflineStore::open(&path, false, image, before) {
        Ok(store) => (Some(Arc::new(store)), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

impl fmt::Debug for DiskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSpec")
            .field("source", &self.label())
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// An open source.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) label: String,
    /// What the copier reads: behind the gate, if there is one.
    pub(crate) device: Arc<dyn Device>,
    /// The bitmap in the image that the user named.
    pub(crate) bitmap: Option<NamedBitmap>,
    /// The tracking store that the user named, or that lies beside it.
    pub(crate) store: Option<Arc<OfflineStore>>,
    /// Why the store beside it could not be opened, if there is one.
    pub(crate) store_unfit: Option<String>,
    held: Held,
}

#[derive(Clone, Debug)]
enum Held {
    Image {
        image: Arc<Image>,
        before: Vec<Option<Stamp>>,
    },
    Device,
    Kept(Arc<dyn Keeper>),
    Served(Arc<Tracked>),
}

impl Source {
    /// Who keeps the instant that it shows, if somebody does.
    pub(crate) fn keeper(&self) -> Option<&dyn Keeper> {
        match &self.held {
            Held::Kept(keeper) => Some(&**keeper),
            Held::Image { .. } | Held::Device | Held::Served(_) => None,
        }
    }

    /// The served disk behind it, if it is one.
    pub(crate) fn tracked(&self) -> Option<&Arc<Tracked>> {
        match &self.held {
            Held::Served(disk) => Some(disk),
            Held::Image { .. } | Held::Device | Held::Kept(_) => None,
        }
    }

    /// Whether two sources are one disk, by whatever names.
    pub(crate) fn is_same(&self, other: &Source) -> bool {
        match (self.file(), other.file()) {
            (Some(a), Some(b)) => a == b,
            _ => Arc::ptr_eq(&self.device, &other.device),
        }
    }

    /// Whether it is one of the files in that directory, by whatever name.
    pub(crate) fn is_in(&self, directory: &Path) -> bool {
        let Some(own) = self.file() else { return false };
        let Ok(entries) = directory.read_dir() else {
            return false;
        };
        entries
            .flatten()
            .any(|entry| FileId::of_path(entry.path()).is_ok_and(|id| id == own))
    }

    /// Whether any of its bytes lie in that file.
    pub(crate) fn lies_in(&self, file: FileId) -> bool {
        match &self.held {
            Held::Image { image, .. } => {
                let mut files = image.files().iter();
                files.any(|own| own.id().beneath() == file)
            }
            Held::Device | Held::Kept(_) | Held::Served(_) => false,
        }
    }

    /// The file of its chain that was changed since it was opened, if one was.
    pub(crate) fn changed(&self) -> Result<Option<PathBuf>, DiskError> {
        let Held::Image { image, before } = &self.held else {
            return Ok(None);
        };
        let now = image
            .stamps()
            .map_err(DiskError::system(self.label.clone()))?;
        let files = image.files().iter().zip(before.iter().zip(&now));
        Ok(files
            .filter(|(_, (before, now))| before != now)
            .map(|(file, _)| file.path().to_owned())
            .next())
    }

    /// Lets others write to an image that was read for the last time.
    pub(crate) fn unlock(&self) -> std::io::Result<()> {
        match &self.held {
            Held::Image { image, .. } => image.unlock(),
            Held::Device | Held::Kept(_) | Held::Served(_) => Ok(()),
        }
    }

    /// What is known of the instant that it shows, if nothing was found to have changed.
    pub(crate) fn instant(&self) -> Instant {
        match &self.held {
            Held::Served(_) | Held::Kept(_) => Instant::Proven,
            Held::Image { before, .. } if before.iter().all(Option::is_some) => Instant::Proven,
            Held::Image { .. } | Held::Device => Instant::NoInstantProven,
        }
    }

    fn file(&self) -> Option<FileId> {
        match &self.held {
            Held::Image { image, .. } => image.files().first().map(|file| file.id().beneath()),
            Held::Device | Held::Kept(_) | Held::Served(_) => None,
        }
    }
}
