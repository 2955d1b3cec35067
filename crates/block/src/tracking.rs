//! A tracking store beside a disk: the file, its lock, the thread that keeps the log short.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use cohort_bitmap::store::{self, DiskState, Inspection, Mode, Store, StoreError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{File, FileId, ImageFile, OsFile, Stamp};

/// The tracking store of a disk, open to record into.
///
/// It lies in a file of its own, by default [beside](Self::path_beside) the disk, which only its owner can
/// read, and which one process at a time can open. A thread writes checkpoints so that writers need not.
///
/// ```
/// use std::{sync::Arc, time::{Duration, Instant}};
/// use cohort_bitmap::store::{Label, Mode};
/// use cohort_block::{Device, Gated, OsFile, RawDevice, TrackingStore};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.raw");
/// std::fs::write(&path, vec![0; 1 << 20])?;
/// let raw = RawDevice::new("disk", Arc::new(OsFile::open(&path, true)?), true)?;
/// let disk = Gated::new(Arc::new(raw));
///
/// let beside = TrackingStore::path_beside(&path);
/// let store = TrackingStore::create(&beside, &path, disk.size(), Mode::PowerLoss)?;
/// let since = store.store().begin(Label::default(), Default::default())?;
/// let mut closed = disk.close("tracking", Instant::now() + Duration::from_secs(1))?;
/// closed.install_recording(since.clone());
/// drop(closed); // Open again: whatever is written now is recorded first.
/// disk.write_at(b"hello", 70_000)?;
///
/// // Killed now, the store knows of the write.
/// let looked = TrackingStore::inspect(&beside, Some((&path, disk.size())))?;
/// assert!(looked.inspection.sets[0].dirty.get(70_000));
/// assert_eq!(looked.holder, Some(std::process::id()));
///
/// disk.flush()?;
/// store.close()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TrackingStore {
    store: Arc<Store>,
    keeper: Option<JoinHandle<()>>,
    disk: Disk,
}

/// How a store learns what its disk looks like when it is closed.
#[derive(Debug)]
enum Disk {
    /// By looking at the file or device there; and its size.
    At(PathBuf, u64),
    /// As it was told.
    Told(DiskState),
}

/// What a store beside a disk says, and who is using it.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Everything that the file says.
    pub inspection: Inspection,
    /// The process that has it open, if one has.
    pub holder: Option<u32>,
}

/// Why a disk's store could not be made, opened, looked at or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackingError {
    /// There is a file of that name already; it was not touched.
    #[error(
        "{path} exists already: open it, remove it, or choose another name for the tracking store"
    )]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// Another process tracks the disk.
    #[error("{path} is in use{}: only one process can track a disk", by(*.holder))]
    Held {
        /// The store's path.
        path: PathBuf,
        /// The process, if the file says.
        holder: Option<u32>,
    },
    /// The operating system failed.
    #[error("{path}: {source}")]
    Io {
        /// What it failed on.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The store itself.
    #[error("{path}: {source}")]
    Store {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
}

impl TrackingStore {
    /// Where the store of a disk lies by default: beside it, with `.cohort` appended to its name.
    #[must_use]
    pub fn path_beside(disk: &Path) -> PathBuf {
        let mut name = disk.as_os_str().to_owned();
        name.push(".cohort");
        PathBuf::from(name)
    }

    /// Makes a store at `path`, where nothing may be yet, for the disk whose file or device is at `disk` and
    /// which has `size` bytes (those of the disk, not of its image file). The file appears whole or not at all.
    ///
    /// # Errors
    /// [`TrackingError::Exists`], or the file system failed.
    pub fn create(path: &Path, disk: &Path, size: u64, mode: Mode) -> Result<Self, TrackingError> {
        let state = disk_state(disk, size).map_err(failed(disk))?;
        let id = random_id().map_err(failed(Path::new("/dev/urandom")))?;
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{:016x}.new", u128::from_le_bytes(id) as u64));
        let draft = PathBuf::from(draft);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .map_err(failed(&draft))?;
        let made = Self::create_in(file, path, &draft, id, state, mode);
        if made.is_err() {
            // Our own, of a random name.
            let _ = fs::remove_file(&draft);
        }
        Ok(Self::keep(made?, Disk::At(disk.into(), size)))
    }

    fn create_in(
        file: fs::File,
        path: &Path,
        draft: &Path,
        id: [u8; 16],
        disk: DiskState,
        mode: Mode,
    ) -> Result<Store, TrackingError> {
        lock(&file, path)?;
        let file = Arc::new(OsFile::locked(file).map_err(failed(draft))?);
        let store = Store::create(file, id, disk, mode).map_err(wrong(path))?;
        match renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                return Err(TrackingError::Exists { path: path.into() });
            }
            Err(error) => return Err(failed(path)(error.into())),
        }
        sync_directory(path).map_err(failed(path))?;
        Ok(store)
    }

    /// Opens the store at `path` for the same disk, and tells what its sets hold now: see [`Store::open`].
    ///
    /// # Errors
    /// [`TrackingError::Held`] by another process; a dead one is no obstacle. Or the file is no store, belongs to
    /// another disk, or cannot be read or written.
    pub fn open(
        path: &Path,
        disk: &Path,
        size: u64,
        mode: Mode,
    ) -> Result<(Self, Inspection), TrackingError> {
        let state = disk_state(disk, size).map_err(failed(disk))?;
        Self::open_as(path, disk, state, mode)
    }

    /// As [`open`](Self::open) for the disk in an image, which is judged by what it was when it was locked: opening the image
    /// may have written to it since.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for(
        path: &Path,
        image: &ImageFile,
        size: u64,
        mode: Mode,
    ) -> Result<(Self, Inspection), TrackingError> {
        let disk = image.path();
        let mut state = disk_state(disk, size).map_err(failed(disk))?;
        state.stamp = image.found().map(stamp);
        Self::open_as(path, disk, state, mode)
    }

    fn open_as(
        path: &Path,
        disk: &Path,
        state: DiskState,
        mode: Mode,
    ) -> Result<(Self, Inspection), TrackingError> {
        let size = state.size;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed(path))?;
        lock(&file, path)?;
        let file = Arc::new(OsFile::locked(file).map_err(failed(path))?);
        let (store, found) = Store::open(file, state, mode).map_err(wrong(path))?;
        Ok((Self::keep(store, Disk::At(disk.into(), size)), found))
    }

    /// As [`create`](Self::create) in a file of the caller's, which is empty and which nobody else opens, for a disk that
    /// looks so: for disks and stores that are no files of the system, and for what replays losses of power. `id` is the
    /// store's own, and no other store's.
    ///
    /// # Errors
    /// The store failed.
    pub fn create_in_file(
        file: Arc<dyn File>,
        id: [u8; 16],
        disk: DiskState,
        mode: Mode,
    ) -> Result<Self, StoreError> {
        let store = Store::create(file, id, disk, mode)?;
        Ok(Self::keep(store, Disk::Told(disk)))
    }

    /// As [`open`](Self::open), of such a file.
    ///
    /// # Errors
    /// The file is no store, belongs to another disk, or cannot be read or written.
    pub fn open_in_file(
        file: Arc<dyn File>,
        disk: DiskState,
        mode: Mode,
    ) -> Result<(Self, Inspection), StoreError> {
        let (store, found) = Store::open(file, disk, mode)?;
        Ok((Self::keep(store, Disk::Told(disk)), found))
    }

    /// Looks at the store at `path` and changes nothing, also while another process writes to it. With the disk
    /// (its path, and its size in bytes) it is also told whether somebody wrote to that one meanwhile.
    ///
    /// # Errors
    /// The file is no store, or cannot be read.
    pub fn inspect(path: &Path, disk: Option<(&Path, u64)>) -> Result<Beside, TrackingError> {
        let state = disk
            .map(|(disk, size)| disk_state(disk, size).map_err(failed(disk)))
            .transpose()?;
        let file = fs::File::open(path).map_err(failed(path))?;
        let held = is_held(&file).map_err(failed(path))?;
        let file = OsFile::new(file).map_err(failed(path))?;
        let inspection = store::inspect(&file, state.as_ref()).map_err(wrong(path))?;
        let holder = match inspection.ended {
            store::Ended::Open { pid } if held => Some(pid),
            store::Ended::Open { .. } | store::Ended::Clean => None,
        };
        Ok(Beside { inspection, holder })
    }

    /// The store, to begin, resume, write and drop sets.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes everything exactly, with the disk's stamp. No write to the disk is under way, the disk was flushed,
    /// and its recordings are out of its gate or the gate is never used again. Until the last clone of each of them is
    /// dropped the file stays in use, for this process could still write to it.
    ///
    /// # Errors
    /// The store failed, now or before.
    pub fn close(mut self) -> Result<(), TrackingError> {
        self.dismiss();
        match &self.disk {
            Disk::At(path, size) => {
                let state = disk_state(path, *size).map_err(failed(path))?;
                self.store.close(state).map_err(wrong(path))
            }
            Disk::Told(state) => {
                let closed = self.store.close(*state);
                closed.map_err(wrong(Path::new("tracking store")))
            }
        }
    }

    fn keep(store: Store, disk: Disk) -> Self {
        let store = Arc::new(store);
        let kept = Arc::clone(&store);
        // Without the thread writers checkpoint themselves, so it may fail to start.
        let keeper = thread::Builder::new()
            .name("cohort-tracking".into())
            .spawn(move || keep(&kept))
            .ok();
        Self {
            store,
            keeper,
            disk,
        }
    }

    fn dismiss(&mut self) {
        self.store.dismiss();
        if let Some(keeper) = self.keeper.take() {
            // It ends by itself; if it panicked, that was said.
            let _ = keeper.join();
        }
    }
}

/// As a crash: nothing is written.
impl Drop for TrackingStore {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// Checkpoints whenever that is of use.
fn keep(store: &Store) {
    while store.wait_for_work() {
        if store.checkpoint().is_err() {
            break;
        }
    }
    if let Some(lost) = store.lost() {
        tracing::error!(why = lost.why, "the tracking of a disk is lost from now on");
    }
}

/// What a disk looks like now to its store.
fn disk_state(disk: &Path, size: u64) -> io::Result<DiskState> {
    let file = fs::File::open(disk)?;
    let mut identity = [0; 24];
    let (kind, one, other) = match FileId::of_file(&file)? {
        FileId::File { filesystem, inode } => (1_u64, filesystem, inode),
        FileId::BlockDevice { number } => (2, number, 0),
    };
    for (part, value) in identity.chunks_mut(8).zip([kind, one, other]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    Ok(DiskState {
        identity,
        session: boot_id()?,
        size,
        stamp: Stamp::of_file(&file)?.map(stamp),
    })
}

fn stamp(stamp: Stamp) -> store::Stamp {
    store::Stamp {
        size: stamp.size,
        modified: stamp.modified,
        changed: stamp.changed,
    }
}

/// Another one after each start of the machine; one of its own kind where the system does not tell, so that
/// nothing is taken for the same start.
fn boot_id() -> io::Result<[u8; 16]> {
    let Ok(text) = fs::read_to_string("/proc/sys/kernel/random/boot_id") else {
        return random_id();
    };
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or_else(|_| random_id(), |id| Ok(id.to_be_bytes()))
}

fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Takes the lock of the one writer; the kernel takes it back from a process that dies.
fn lock(file: &fs::File, path: &Path) -> Result<(), TrackingError> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_lock())) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let reader = fs::File::open(path).and_then(OsFile::new);
            let said = reader
                .ok()
                .and_then(|file| store::inspect(&file, None).ok());
            let holder = said.and_then(|inspection| match inspection.ended {
                store::Ended::Open { pid } => Some(pid),
                store::Ended::Clean => None,
            });
            Err(TrackingError::Held {
                path: path.into(),
                holder,
            })
        }
        Err(error) => Err(failed(path)(error.into())),
    }
}

fn is_held(file: &fs::File) -> io::Result<bool> {
    let mut lock = whole_lock();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// One byte stands for all.
fn whole_lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> TrackingError {
    move |source| TrackingError::Io {
        path: path.into(),
        source,
    }
}

fn wrong(path: &Path) -> impl Fn(StoreError) -> TrackingError {
    move |source| TrackingError::Store {
        path: path.into(),
        source,
    }
}

fn by(holder: Option<u32>) -> String {
    holder.map_or(String::new(), |pid| format!(" by process {pid}"))
}
