//! A directory with disks and a backup directory, and ways to look at both.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cohort_backup::catalogue::{self, Contents, DiskName, FileRole, RunId};
use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskReport, DiskSpec, Options, OptionsBuilder, RunReport,
    Selection, Verify, VerifyReport, verify,
};
use cohort_block::{Device, Fault, Faulty, File, OpenOptions, Operation, open};

pub(crate) const CLUSTER: u64 = 64 << 10;

pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        World {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The backup directory.
    pub(crate) fn repository(&self) -> PathBuf {
        self.path("R")
    }

    pub(crate) fn backup(&self) -> Backup {
        Backup::to(self.repository())
    }

    /// Backs these disks up, to the end.
    pub(crate) fn run<const N: usize>(&self, disks: [DiskSpec; N]) -> RunReport {
        let backup = disks.into_iter().fold(self.backup(), Backup::disk);
        backup.start().unwrap().wait()
    }

    /// As [`run`](Self::run), and all of them must have a new point.
    #[track_caller]
    pub(crate) fn commit<const N: usize>(&self, disks: [DiskSpec; N]) -> RunReport {
        committed(self.run(disks))
    }

    /// A raw disk of so many clusters, each filled with a byte of its own, but for every fourth, which is a hole.
    pub(crate) fn raw(&self, name: &str, clusters: u64) -> PathBuf {
        let path = self.path(name);
        let file = fs::File::create(&path).unwrap();
        file.set_len(clusters * CLUSTER).unwrap();
        for cluster in (0..clusters).filter(|cluster| cluster % 4 != 3) {
            file.write_all_at(
                &vec![cluster as u8 + 1; CLUSTER as usize],
                cluster * CLUSTER,
            )
            .unwrap();
        }
        path
    }

    pub(crate) fn contents(&self) -> Contents {
        catalogue::read(self.repository()).unwrap()
    }

    /// The runs that took a point of a disk.
    pub(crate) fn points(&self, disk: &str) -> Vec<u64> {
        self.contents()
            .points_of(&name(disk))
            .map(|(run, _)| run.0)
            .collect()
    }

    /// A disk as it was in a run.
    pub(crate) fn restored(&self, disk: &str, run: u64) -> Vec<u8> {
        let contents = self.contents();
        let point = contents
            .point(&name(disk), RunId(run))
            .unwrap_or_else(|| panic!("no point {disk}@{run}"));
        let mut bytes = read_image(&self.repository().join(point.file.to_string()));
        // An image is rounded up to sectors; the catalogue knows the disk's own size.
        assert!((point.size..point.size + 512).contains(&(bytes.len() as u64)));
        bytes.truncate(point.size as usize);
        bytes
    }

    /// Asserts that the points of the runs from the first on restore to these.
    #[track_caller]
    pub(crate) fn restores(&self, disk: &str, points: &[Vec<u8>]) {
        for (run, bytes) in (1..).zip(points) {
            assert!(self.restored(disk, run) == *bytes, "{disk}@{run}");
        }
    }

    pub(crate) fn verified(&self, what: Verify) -> VerifyReport {
        verify(
            &self.repository(),
            &what,
            &|_, _| {},
            &AtomicBool::new(false),
        )
        .unwrap()
    }

    /// Nothing in the backup directory is without a meaning, nothing is missing, and QEMU finds all of it sound.
    pub(crate) fn check(&self) {
        let contents = self.contents();
        contents.check().unwrap();
        let listing = catalogue::list_files(&self.repository()).unwrap();
        assert_eq!(contents.missing(listing.iter().map(AsRef::as_ref)).len(), 0);
        for file in &listing {
            let role = contents.role_of(file);
            let known = !matches!(role, FileRole::Unfinished { .. } | FileRole::Stray { .. });
            assert!(known, "{} is {role}", file.display());
        }
        for image in contents.images() {
            qemu_img_check(&self.repository().join(image.to_string()));
        }
        let report = self.verified(Verify::new(Selection::All));
        assert_eq!(report.damage, []);
    }
}

pub(crate) fn name(disk: &str) -> DiskName {
    DiskName::new(disk).unwrap()
}

pub(crate) fn options(change: impl FnOnce(OptionsBuilder) -> OptionsBuilder) -> Options {
    change(Options::builder()).build().unwrap()
}

pub(crate) fn policy(policy: BitmapPolicy) -> Options {
    options(|o| o.policy(policy))
}

pub(crate) fn write(path: &Path, offset: u64, byte: u8, length: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![byte; length as usize], offset)
        .unwrap();
}

pub(crate) fn read_image(path: &Path) -> Vec<u8> {
    let device = open(path, OpenOptions::read_only()).unwrap();
    read_all(&*device)
}

pub(crate) fn read_all(device: &dyn Device) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

pub(crate) fn disk<'a>(report: &'a RunReport, name: &str) -> &'a DiskReport {
    report
        .disks
        .iter()
        .find(|disk| disk.name.as_str() == name)
        .unwrap()
}

#[track_caller]
pub(crate) fn committed(report: RunReport) -> RunReport {
    for disk in &report.disks {
        assert!(
            matches!(disk.outcome, DiskOutcome::Committed(_)),
            "{}: {:?}",
            disk.name,
            disk.outcome
        );
    }
    report
}

/// A disk through which one cluster cannot be read.
pub(crate) fn bad_cluster(
    cluster: u64,
) -> impl Fn(Arc<dyn Device>) -> Arc<dyn Device> + Send + Sync {
    move |device| {
        let faulty = Faulty::new(device);
        let start = cluster * CLUSTER;
        let _ = faulty.inject(Fault::error(Operation::Read).within(start + 512..start + 1024));
        Arc::new(faulty)
    }
}

/// Whether qemu-img can be used. Without it its checks are skipped, loudly; where tests count (CI), they fail.
pub(crate) fn have_qemu_img() -> bool {
    let found = Command::new("qemu-img")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-img is not there, and CI is set"
        );
        eprintln!("SKIPPED: qemu-img is not there");
    }
    found
}

pub(crate) fn qemu_img(arguments: &[&std::ffi::OsStr]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "qemu-img {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn qemu_img_check(path: &Path) {
    if have_qemu_img() {
        qemu_img(&["check".as_ref(), "-q".as_ref(), path.as_os_str()]);
    }
}

/// A file that fails on command, the way a full or a broken file system does.
#[derive(Debug)]
pub(crate) struct BrokenFile {
    pub(crate) inner: Arc<dyn File>,
    /// Bytes that fit.
    pub(crate) room: u64,
    /// Whether syncing fails.
    pub(crate) sync_fails: bool,
}

impl BrokenFile {
    pub(crate) fn new(inner: Arc<dyn File>) -> Self {
        BrokenFile {
            inner,
            room: u64::MAX,
            sync_fails: false,
        }
    }
}

impl File for BrokenFile {
    cohort_block::forward_file!(inner: read_at, len, set_len);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if offset + buf.len() as u64 > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.sync_fails {
            return Err(io::Error::other("the cache is gone"));
        }
        self.inner.sync_data()
    }
}
