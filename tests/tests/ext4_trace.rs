//! A mounted ext4 is backed up while it writes: its recorded requests are replayed through our device, and the disk is
//! fenced between any two of them.
//!
//! What is restored is, byte for byte, the disk after the requests before the fence. Where the file system was frozen or
//! unmounted there, `e2fsck -fn` finds it clean; elsewhere it is what a loss of power at that moment would leave, which
//! `e2fsck -p` mends without a question.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cohort_backup::catalogue::{self, DiskName, RunId};
use cohort_backup::{
    Backup, DiskSpec, Options, RestoreOptions, Running, SyncMode, Tracked, restore,
};
use cohort_block::{Format, Gated, OpenOptions, open};
use cohort_tests::block_trace::{Request, Trace};

/// Smaller than what ext4 writes at once, so that most fences cut through something.
const CLUSTER: u64 = 4 << 10;

fn trace() -> Trace {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/ext4.trace");
    Trace::read(&path).unwrap()
}

/// Whether a tool is there. Where tests count (CI) it must be.
fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("-V").output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{tool} is not there, and CI is set"
    );
    if !found {
        eprintln!("SKIPPED: {tool} is not there");
    }
    found
}

/// It lives where not everybody looks.
fn e2fsck() -> &'static str {
    let there = Path::new("/usr/sbin/e2fsck");
    if there.exists() {
        "/usr/sbin/e2fsck"
    } else {
        "e2fsck"
    }
}

/// A disk of a qcow2 image, with the file system as mkfs left it, and the requests of the mounted one to come.
struct Disk {
    tracked: Arc<Tracked>,
    /// What it holds, told by ourselves.
    truth: Vec<u8>,
    next: usize,
}

impl Disk {
    fn new(folder: &Path, name: &str, trace: &Trace) -> Self {
        let path = folder.join(format!("{name}.qcow2"));
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&path)
            .arg(trace.size.to_string())
            .status();
        assert!(made.unwrap().success());
        let device = open(&path, OpenOptions::read_write()).unwrap();
        let gated = Arc::new(Gated::new(device));
        let name = DiskName::new(name).unwrap();
        let mut disk = Disk {
            tracked: Tracked::new(name, gated).unwrap(),
            truth: vec![0; trace.size as usize],
            next: 0,
        };
        while !matches!(trace.requests[disk.next], Request::Mark(_)) {
            disk.replay_one(trace);
        }
        disk.replay_one(trace);
        disk
    }

    fn replay_one(&mut self, trace: &Trace) {
        let request = &trace.requests[self.next];
        request.replay(&**self.tracked.gated()).unwrap();
        if let Request::Write { offset, data } = request {
            let at = *offset as usize;
            self.truth[at..at + data.len()].copy_from_slice(data);
        }
        self.next += 1;
    }

    fn is_over(&self, trace: &Trace) -> bool {
        self.next == trace.requests.len()
    }
}

/// A point that was taken: of which disk, in which run, what the disk held, whether the file system was clean.
struct Taken {
    disk: &'static str,
    run: RunId,
    truth: Vec<u8>,
    clean: bool,
}

struct Lab {
    folder: tempfile::TempDir,
    trace: Trace,
    disks: [Disk; 2],
    taken: Vec<Taken>,
}

const NAMES: [&str; 2] = ["root", "data"];

impl Lab {
    fn new() -> Self {
        let (folder, trace) = (tempfile::tempdir().unwrap(), trace());
        let mut disks = NAMES.map(|name| Disk::new(folder.path(), name, &trace));
        // Two file systems that are never at the same request.
        for _ in 0..20 {
            disks[1].replay_one(&trace);
        }
        Lab {
            folder,
            trace,
            disks,
            taken: Vec::new(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("R")
    }

    /// Raises a fence over both here, between two requests of each.
    fn begin(&mut self, mode: SyncMode) -> Running {
        let options = Options::builder().mode(mode).cluster(CLUSTER).workers(2);
        let options = options.build().unwrap();
        let mut backup = Backup::to(self.directory()).options(options);
        for disk in &self.disks {
            backup = backup.disk(DiskSpec::served(disk.tracked.clone()));
        }
        let running = backup.start().unwrap();
        for (disk, name) in self.disks.iter().zip(NAMES) {
            self.taken.push(Taken {
                disk: name,
                run: running.run().unwrap(),
                truth: disk.truth.clone(),
                clean: self.trace.is_clean_after(disk.next),
            });
        }
        running
    }

    /// Lets both write on.
    fn write_on(&mut self, requests: usize) {
        for disk in &mut self.disks {
            for _ in 0..requests {
                if !disk.is_over(&self.trace) {
                    disk.replay_one(&self.trace);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.disks.iter().all(|disk| disk.is_over(&self.trace))
    }

    /// Restores a point, and looks at it.
    fn examine(&self, taken: &Taken) {
        let contents = catalogue::read(self.directory()).unwrap();
        let (name, what) = (
            DiskName::new(taken.disk).unwrap(),
            format!("{}@{}", taken.disk, taken.run),
        );
        let point = contents.point(&name, taken.run).unwrap();
        let image = open(
            self.directory().join(point.file.to_string()),
            OpenOptions::read_only(),
        );
        let out = self.folder.path().join("restored.img");
        let options = RestoreOptions::new(Format::Raw).overwrite(true);
        restore(
            &*image.unwrap(),
            &out,
            &options,
            &|_, _| {},
            &AtomicBool::new(false),
        )
        .unwrap();
        assert!(
            fs::read(&out).unwrap() == taken.truth,
            "{what} is not the disk at its fence"
        );
        if taken.clean {
            fsck(&out, "-fn", &[0], &what);
        } else {
            // 1: mended. It has nothing to ask anybody.
            fsck(&out, "-p", &[0, 1], &what);
            fsck(&out, "-fn", &[0], &what);
        }
    }
}

fn fsck(image: &Path, how: &str, good: &[i32], what: &str) {
    let output = Command::new(e2fsck()).arg(how).arg(image).output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        good.contains(&code),
        "{what}: e2fsck {how} says {code}: {said}"
    );
}

/// How many requests between two fences: three, so that both disks meet every kind of moment within seconds;
/// `COHORT_TRACE_STRIDE=1` fences between any two.
fn stride() -> usize {
    let told = std::env::var("COHORT_TRACE_STRIDE").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn a_mounted_ext4_is_restored_as_it_was_at_every_fence() {
    if !have(e2fsck()) || !have("qemu-img") {
        return;
    }
    let mut lab = Lab::new();
    let modes = [
        SyncMode::Bitmap,
        SyncMode::Bitmap,
        SyncMode::Bitmap,
        SyncMode::Full,
    ];
    for mode in modes.into_iter().cycle() {
        let running = lab.begin(mode);
        lab.write_on(stride());
        let report = running.wait();
        assert!(report.succeeded(), "{report:?}");
        if lab.is_over() {
            break;
        }
    }
    drop(lab.begin(SyncMode::Bitmap).wait());
    let clean = lab.taken.iter().filter(|taken| taken.clean).count();
    for taken in &lab.taken {
        lab.examine(taken);
    }
    println!(
        "{} points, of which {clean} of a clean file system",
        lab.taken.len()
    );
    assert!(clean > 0 && clean < lab.taken.len());
}

#[test]
fn the_trace_is_what_its_script_says() {
    let trace = trace();
    let count = |wanted: fn(&Request) -> bool| trace.requests.iter().filter(|r| wanted(r)).count();
    assert!(count(|r| matches!(r, Request::Flush)) >= 10);
    assert!(count(|r| matches!(r, Request::Write { .. })) >= 100);
    // The disk at the end is an unmounted file system: the last mark.
    assert!(trace.is_clean_after(trace.requests.len()));
}
