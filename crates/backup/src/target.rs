//! A target file: created under its final name, written by the builder, sealed under a deadline.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{Device, DeviceError, File, Ledger, OsFile, Sink};

use crate::catalogue::ImageName;
use crate::digests::{Recording, Sidecar, SidecarError};
use crate::offload::offload;
use crate::options::Compression;
use crate::qcow2_builder::{Backing, BuildError, CreateOptions, Held, Qcow2Builder};
use crate::scan::is_zero;
use crate::write_back::WriteBack;

/// Puts something of the caller's between a target and its file.
pub(crate) type Through = Arc<dyn Fn(&ImageName, Arc<dyn File>) -> Arc<dyn File> + Send + Sync>;

/// A target under construction.
#[derive(Debug)]
pub(crate) struct Target {
    name: ImageName,
    path: PathBuf,
    builder: Qcow2Builder<Arc<dyn File>>,
    /// Whether the file was there before this run, as a partial.
    continued: bool,
    /// How its clusters are compressed.
    compress: Compression,
    /// What is copied at once: a cluster of the file, or several.
    unit: Granularity,
    write_back: WriteBack,
    /// Bytes of data written in this run, by the copier and by copy-before-write.
    written: AtomicU64,
    /// What a partial held when this run took it up; set before anything is written.
    before: OnceLock<DirtyBitmap>,
    /// The digests of what it holds, if they are wanted; set before anything is written.
    digests: OnceLock<Recording>,
    /// What must be durable before this is: a disk whose views outlive a loss of power. Nothing once it was flushed.
    flush_first: Mutex<Option<Arc<dyn Device>>>,
}

/// Why a target cannot be had.
#[derive(Clone, Debug)]
pub(crate) enum TargetError {
    /// Its file cannot be made or opened.
    File(PathBuf, Arc<io::Error>),
    /// The builder refuses it.
    Build(PathBuf, BuildError),
}

impl Target {
    /// Makes a new, empty target; nothing of it counts before a catalogue names it.
    pub(crate) fn create(
        directory: &Path,
        name: ImageName,
        options: &CreateOptions,
        how: (Granularity, Compression),
        through: Option<&Through>,
    ) -> Result<Self, TargetError> {
        let path = directory.join(name.to_string());
        let failed = |error| TargetError::File(path.clone(), Arc::new(error));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let file = file.and_then(OsFile::new).map_err(failed)?;
        match Qcow2Builder::create(wrap(file, &name, through), options) {
            Ok(builder) => Ok(Self::new(name, path, builder, how, false)),
            Err(error) => {
                remove(&path);
                Err(TargetError::Build(path, error))
            }
        }
    }

    /// Takes up a partial where its last seal left it, in units of at least `min_cluster` bytes.
    pub(crate) fn continue_partial(
        directory: &Path,
        name: ImageName,
        (min_cluster, compress): (u64, Compression),
        through: Option<&Through>,
    ) -> Result<Self, TargetError> {
        let path = directory.join(name.to_string());
        let failed = |error| TargetError::File(path.clone(), Arc::new(error));
        let file = OsFile::open(&path, true).map_err(failed)?;
        match Qcow2Builder::open(wrap(file, &name, through)) {
            Ok(builder) => {
                let unit = builder.cluster_size().max(min_cluster);
                let unit = Granularity::new(unit).unwrap_or_default();
                Ok(Self::new(name, path, builder, (unit, compress), true))
            }
            Err(error) => Err(TargetError::Build(path, error)),
        }
    }

    fn new(
        name: ImageName,
        path: PathBuf,
        builder: Qcow2Builder<Arc<dyn File>>,
        (unit, compress): (Granularity, Compression),
        continued: bool,
    ) -> Self {
        Target {
            name,
            path,
            builder,
            continued,
            compress,
            unit,
            write_back: WriteBack::default(),
            written: AtomicU64::new(0),
            before: OnceLock::new(),
            digests: OnceLock::new(),
            flush_first: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &ImageName {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn continued(&self) -> bool {
        self.continued
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        self.builder.cluster_size()
    }

    /// What is copied at once: a power of two, one cluster of the file at least.
    pub(crate) fn unit(&self) -> Granularity {
        self.unit
    }

    /// What the partial that is continued held before this run, in clusters of the file.
    pub(crate) fn held_before(&self) -> Option<&DirtyBitmap> {
        self.before.get()
    }

    /// Notes that, of a partial of a disk of so many bytes. Reads all its tables.
    pub(crate) fn note_held(&self, size: u64) -> Result<(), BuildError> {
        let nothing = DirtyBitmap::new(size, self.unit).expect("the size was checked before");
        let mut before = self.in_clusters(&nothing);
        for run in self.builder.held() {
            let (run, _) = run?;
            let bytes = run.start * self.cluster_size()..(run.end * self.cluster_size()).min(size);
            before
                .set(bytes.start, bytes.end - bytes.start)
                .expect("it is cut at the end of the disk");
        }
        // A target is made once in its life, so nothing is there yet.
        let _ = self.before.set(before);
        Ok(())
    }

    /// A set of what is copied at once, in clusters of the file.
    pub(crate) fn in_clusters(&self, units: &DirtyBitmap) -> DirtyBitmap {
        let cluster = Granularity::new(self.cluster_size()).unwrap_or(self.unit);
        units
            .at_granularity(cluster)
            .expect("no qcow2 file has more clusters than a bitmap has granules")
    }

    /// Bytes of data that this run wrote.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn digests(&self) -> Option<&Recording> {
        self.digests.get()
    }

    /// Starts to note digests: those stored of a partial that is continued, and those of what it holds besides, which
    /// is read from `image`.
    pub(crate) fn begin_digests(
        &self,
        size: u64,
        stored: Option<&Sidecar>,
        image: Option<&dyn Device>,
    ) -> Result<(), DigestsError> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let layered = self.builder.backing().is_some();
        let digests = Recording::create(directory, size, self.cluster_size(), layered)
            .map_err(|error| DigestsError::File(Arc::new(error)))?;
        if let Some(stored) = stored {
            digests.load(stored)?;
        }
        if let Some(image) = image {
            let held = self.builder.held();
            let held = held.map(|run| {
                Ok::<_, DigestsError>(run.map(|(run, held)| (run, held == Held::Zero))?)
            });
            digests.fit(image, held)?;
        }
        // A target is made once in its life, so nothing is there yet.
        let _ = self.digests.set(digests);
        Ok(())
    }

    /// Takes bytes of the disk from the start of a unit on: whole units, or up to the end of the disk.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<(), BuildError> {
        let first = offset / self.cluster_size();
        match self.compress {
            Compression::None => self.builder.write_clusters(first, data)?,
            Compression::Zlib => self.builder.write_compressed(first, data)?,
        }
        if let Some(digests) = self.digests.get() {
            digests.data(first, data);
        }
        self.has_written(data.len() as u64);
        Ok(())
    }

    /// Whether nobody needs to look at these bytes of the disk, and they are whole clusters.
    pub(crate) fn may_take_over(&self, bytes: &Range<u64>) -> bool {
        let cluster = self.cluster_size();
        let whole = bytes.start.is_multiple_of(cluster) && bytes.end.is_multiple_of(cluster);
        whole && self.digests.get().is_none() && self.compress == Compression::None
    }

    /// Has the operating system bring these bytes of the disk from where they lie. False if it was not done, for
    /// whatever reason.
    pub(crate) fn take_over(&self, bytes: Range<u64>, from: &dyn Device) -> bool {
        let cluster = self.cluster_size();
        let clusters = bytes.start / cluster..bytes.end / cluster;
        let copy = |file: &Arc<dyn File>, to| offload(from, bytes.clone(), file, to);
        let taken = self.builder.fill_clusters(clusters, copy);
        if taken.is_ok_and(|taken| taken) {
            self.has_written(bytes.end - bytes.start);
            return true;
        }
        false
    }

    /// Makes bytes of the disk read as zeroes: whole units, or up to the end of the disk.
    pub(crate) fn write_zeroes(&self, bytes: Range<u64>) -> Result<(), BuildError> {
        let cluster = self.cluster_size();
        let clusters = bytes.start / cluster..bytes.end.div_ceil(cluster);
        self.builder
            .write_zero_clusters(clusters.start, clusters.end - clusters.start)?;
        if let Some(digests) = self.digests.get() {
            digests.zeroes(clusters);
        }
        Ok(())
    }

    /// What is copied from that disk becomes durable there before it does here. Else power might be lost between the
    /// two: the disk would hold what was there before, this what was there at the fence, and no view would say that they
    /// differ.
    pub(crate) fn flush_first(&self, disk: Arc<dyn Device>) {
        *self.to_flush() = Some(disk);
    }

    fn to_flush(&self) -> MutexGuard<'_, Option<Arc<dyn Device>>> {
        self.flush_first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) -> Result<(), SealError> {
        let mut first = self.to_flush();
        if let Some(disk) = &*first {
            disk.flush().map_err(SealError::Source)?;
            *first = None;
        }
        self.builder.seal().map_err(SealError::Failed)
    }

    fn has_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.write_back.wrote(bytes);
    }

    /// Sends what was written on its way to the storage, once that is much. To be called while no claim is held.
    pub(crate) fn push_out(&self) {
        if self.write_back.is_due() {
            self.builder.push_out();
        }
    }

    /// Makes durable what is written, and tells the ledger. A flush that fails, or is not over in time,
    /// costs the target all trust; what a late one still writes is a seal like any other, and nobody looks. A seal that had no
    /// room for its tables has flushed nothing: what was sealed before counts as before.
    pub(crate) fn seal(
        self: &Arc<Self>,
        ledger: &Arc<Ledger>,
        wait: Duration,
    ) -> Result<(), SealError> {
        let seal = || {
            let (tell, told) = mpsc::channel();
            let target = Arc::clone(self);
            let flusher = std::thread::Builder::new()
                .name("cohort-flush".to_owned())
                .spawn(move || {
                    let _ = tell.send(target.flush());
                });
            flusher.map_err(|error| SealError::NoThread(Arc::new(error)))?;
            let flushed = told.recv_timeout(wait);
            flushed.map_err(|_| SealError::TooLate(wait))?
        };
        ledger.flush(seal, SealError::costs_trust)
    }

    /// As [`seal`](Self::seal), on this thread, however long it takes.
    pub(crate) fn seal_without_limit(&self, ledger: &Arc<Ledger>) -> Result<(), SealError> {
        ledger.flush(|| self.flush(), SealError::costs_trust)
    }

    /// Cuts what nothing refers to; nothing is written afterwards. The target is sealed already.
    pub(crate) fn finish(&self) -> Result<(), BuildError> {
        self.builder.finish()
    }
}

impl Sink for Target {
    fn save(
        &self,
        cluster: u64,
        data: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let offset = cluster * self.unit.bytes();
        if is_zero(data) {
            self.write_zeroes(offset..offset + data.len() as u64)
        } else {
            self.write(offset, data)
        }?;
        Ok(())
    }
}

/// Why digests cannot be begun.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DigestsError {
    #[error("{0}")]
    File(Arc<io::Error>),
    #[error(transparent)]
    Stored(#[from] SidecarError),
    #[error(transparent)]
    Image(#[from] DeviceError),
    #[error(transparent)]
    Tables(#[from] BuildError),
}

/// Why a target could not be sealed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error(transparent)]
    Failed(BuildError),
    #[error("the disk must be durable first, and cannot be flushed: {0}")]
    Source(DeviceError),
    #[error("a flush was not over within {0:?}")]
    TooLate(Duration),
    #[error("no thread to flush with: {0}")]
    NoThread(Arc<io::Error>),
}

impl SealError {
    /// Whether the target may hold less than was sealed before. Not if nothing was flushed yet.
    pub(crate) fn costs_trust(&self) -> bool {
        match self {
            SealError::Failed(error) => matches!(error, BuildError::Distrusted { .. }),
            SealError::Source(_) | SealError::TooLate(_) => true,
            SealError::NoThread(_) => false,
        }
    }
}

/// Deletes a file that no catalogue names any more; if that fails, the next run sweeps it.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not delete what is not needed any more");
    }
}

pub(crate) fn create_options(
    size: u64,
    cluster: u64,
    backing: Option<&ImageName>,
) -> CreateOptions {
    let options = CreateOptions::new(size).cluster_size(cluster);
    match backing {
        Some(name) => options.backing(Backing {
            file: name.to_string(),
            format: "qcow2".to_owned(),
        }),
        None => options,
    }
}

fn wrap(file: OsFile, name: &ImageName, through: Option<&Through>) -> Arc<dyn File> {
    let file: Arc<dyn File> = Arc::new(file);
    match through {
        Some(through) => through(name, file),
        None => file,
    }
}
