//! The disks and the backup directory, and how they outlive a process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_backup::catalogue::DiskName;
use cohort_backup::{DiskSpec, Tracked, Unproven};
use cohort_bitmap::Granularity;
use cohort_bitmap::store::Mode;
use cohort_block::{Device, Gated, MemoryDevice, OsFile, RawDevice, TrackingStore};

use super::book::{Book, Pages};
use super::script::{DiskScript, Kind, Script};
use super::stage::Stage;
use super::watched::WatchedDisk;

/// Where files cost no syncs, if there is such a place.
const FAST: &str = "/dev/shm";

/// What is there between two rounds.
pub(super) struct World {
    dir: tempfile::TempDir,
    pub(super) stage: Stage,
    pub(super) disks: Vec<LiveDisk>,
}

/// One disk.
pub(super) struct LiveDisk {
    pub(super) number: usize,
    pub(super) script: DiskScript,
    pub(super) name: DiskName,
    pub(super) book: Book,
    path: PathBuf,
    /// To be looked at without anybody noticing.
    pub(super) device: Arc<dyn Device>,
    /// If it is served.
    pub(super) tracked: Option<Arc<Tracked>>,
}

/// All that a killed process leaves: files as they were written, and the disks in memory as if they were files.
pub(super) struct Left {
    files: BTreeMap<PathBuf, Vec<u8>>,
    disks: Vec<(Vec<u8>, Pages)>,
}

impl World {
    pub(super) fn new(script: &Script) -> io::Result<Self> {
        let fast = Path::new(FAST);
        let dir = if fast.is_dir() {
            tempfile::tempdir_in(fast)?
        } else {
            tempfile::tempdir()?
        };
        let stage = Stage::default();
        let disks = script.disks.iter().enumerate();
        let disks = disks.map(|(number, disk)| LiveDisk::new(number, disk, dir.path(), &stage));
        let disks = disks.collect::<io::Result<_>>()?;
        Ok(Self { dir, stage, disks })
    }

    /// The backup directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.dir.path().join("R")
    }

    /// The same disks in the next process, after this one ended in order.
    pub(super) fn restart(&mut self, unproven: Unproven) -> Result<(), String> {
        for disk in &mut self.disks {
            if let Some(tracked) = disk.tracked.take() {
                let closed = tracked.close();
                closed.map_err(|error| format!("disk {}: {error}", disk.number))?;
            }
            disk.serve(&self.stage, unproven)?;
        }
        Ok(())
    }

    /// What is left if the process is killed now.
    pub(super) fn left(&self) -> io::Result<Left> {
        let mut files = BTreeMap::new();
        collect(self.dir.path(), &mut files)?;
        let disks = self
            .disks
            .iter()
            .map(|disk| (disk.bytes(), disk.book.pages().clone()));
        Ok(Left {
            files,
            disks: disks.collect(),
        })
    }

    /// The next process, where the last one was killed. That one is gone by now.
    pub(super) fn resurrect(&mut self, left: Left, unproven: Unproven) -> Result<(), String> {
        for disk in &mut self.disks {
            disk.tracked = None;
        }
        self.put_back(&left).map_err(|error| error.to_string())?;
        for (disk, (bytes, pages)) in self.disks.iter_mut().zip(left.disks) {
            if disk.script.kind == Kind::Served {
                disk.device
                    .write_at(&bytes, 0)
                    .map_err(|error| error.to_string())?;
            }
            *disk.book.pages() = pages;
            disk.serve(&self.stage, unproven)?;
        }
        Ok(())
    }

    /// Files keep their inodes: a store knows its disk by them.
    fn put_back(&self, left: &Left) -> io::Result<()> {
        let mut there = BTreeMap::new();
        collect(self.dir.path(), &mut there)?;
        for gone in there.keys().filter(|path| !left.files.contains_key(*path)) {
            fs::remove_file(gone)?;
        }
        for (path, bytes) in &left.files {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = fs::File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)?;
            file.set_len(bytes.len() as u64)?;
            file.write_all_at(bytes, 0)?;
        }
        Ok(())
    }
}

impl LiveDisk {
    fn new(number: usize, script: &DiskScript, dir: &Path, stage: &Stage) -> io::Result<Self> {
        let label = format!("d{number}");
        let path = dir.join(format!("{label}.raw"));
        let device: Arc<dyn Device> = match script.kind {
            Kind::Served => Arc::new(MemoryDevice::new(&label, script.size)),
            Kind::Stored | Kind::File => {
                fs::File::create(&path)?.set_len(script.size)?;
                let file = OsFile::open(&path, true)?;
                Arc::new(RawDevice::new(&label, Arc::new(file), true)?)
            }
        };
        let name = DiskName::new(&label).map_err(io::Error::other)?;
        let mut disk = Self {
            number,
            script: script.clone(),
            name,
            book: Book::new(script.granule),
            path,
            device,
            tracked: None,
        };
        disk.serve(stage, Unproven::Compare)
            .map_err(io::Error::other)?;
        Ok(disk)
    }

    /// Opens the gate in a new process.
    fn serve(&mut self, stage: &Stage, unproven: Unproven) -> Result<(), String> {
        if self.script.kind == Kind::File {
            return Ok(());
        }
        self.book.forget();
        let book = self.book.clone();
        let watched = WatchedDisk {
            inner: self.device.clone(),
            stage: stage.clone(),
            disk: self.number,
            mark: Arc::new(move |offset, length| book.mark(offset, length)),
        };
        let gated = Arc::new(Gated::new(Arc::new(watched)));
        let name = self.name.clone();
        let tracked = match self.script.kind {
            Kind::Stored => self.over_a_store(name, gated, unproven),
            Kind::Served | Kind::File => Granularity::new(self.script.granule)
                .map_err(|error| error.to_string())
                .and_then(|granularity| {
                    Tracked::with_granularity(name, gated, granularity)
                        .map_err(|error| error.to_string())
                }),
        };
        self.tracked = Some(tracked?);
        Ok(())
    }

    fn over_a_store(
        &self,
        name: DiskName,
        gated: Arc<Gated>,
        unproven: Unproven,
    ) -> Result<Arc<Tracked>, String> {
        let (path, mode) = (TrackingStore::path_beside(&self.path), Mode::KilledProcess);
        let size = self.script.size;
        let tracked = if path.exists() {
            let (store, found) = TrackingStore::open(&path, &self.path, size, mode)
                .map_err(|error| error.to_string())?;
            Tracked::resume(name, gated, &path, store, &found, unproven)
        } else {
            let store = TrackingStore::create(&path, &self.path, size, mode)
                .map_err(|error| error.to_string())?;
            Tracked::stored(name, gated, &path, store)
        };
        tracked.map_err(|error| error.to_string())
    }

    /// How it is named to a backup.
    pub(super) fn spec(&self, stage: &Stage) -> DiskSpec {
        let Some(tracked) = &self.tracked else {
            let (stage, disk) = (stage.clone(), self.number);
            return DiskSpec::file(&self.path).through(move |inner| {
                Arc::new(WatchedDisk {
                    inner,
                    stage: stage.clone(),
                    disk,
                    mark: Arc::new(|_, _| ()),
                })
            });
        };
        DiskSpec::served(tracked.clone())
    }

    /// All of it, as it is now.
    pub(super) fn bytes(&self) -> Vec<u8> {
        bytes_of(&*self.device)
    }
}

/// All bytes of a device; one that cannot be read is empty.
pub(super) fn bytes_of(device: &dyn Device) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    match device.read_at(&mut bytes, 0) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.insert(entry.path(), fs::read(entry.path())?);
        }
    }
    Ok(())
}
