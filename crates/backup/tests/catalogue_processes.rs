//! A catalogue and several processes: readers beside a writer, writers that are killed.
//!
//! The writer is this test program itself, started again for the one ignored test below.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use cohort_backup::catalogue::{
    Catalogue, CommittedView, Contents, DiskName, Instant, OpenError, Point, PointRecord, RunId,
    Tracking, read,
};
use cohort_job::{GroupName, Journal, Kind, MemberName, Record, Verdict};

/// Tells the writer which directory to write into.
const DIRECTORY: &str = "COHORT_TEST_CATALOGUE";
/// Every verdict commits a point of each of these disks.
const DISKS: [&str; 3] = ["boot", "data", "logs"];
/// A group's verdict is known by this name.
const GROUP: &str = "run-";

#[test]
fn readers_beside_a_writer_see_whole_verdicts_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(directory.path());
    let mut last = 0;
    for _ in 0..40 {
        let acknowledged = writer.next_commit();
        let contents = read(directory.path()).unwrap();
        let seen = whole_verdicts(&contents);
        assert!(
            seen >= acknowledged && seen >= last,
            "{last}, {acknowledged} -> {seen}"
        );
        last = seen;
    }
    match Catalogue::open(directory.path()) {
        Err(OpenError::Busy { pid, .. }) => assert_eq!(pid, Some(writer.process.id())),
        other => panic!("{other:?}"),
    }
    writer.kill();
}

#[test]
fn killed_writer_leaves_whole_verdicts_and_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..30u64 {
        let mut writer = Writer::start(directory.path());
        let mut acknowledged = 0;
        for _ in 0..1 + round % 4 {
            acknowledged = writer.next_commit();
        }
        // Some work that takes about as long as a transaction: the kill finds the writer in another
        // place each time.
        for _ in 0..round % 10 {
            read(directory.path()).unwrap();
        }
        writer.kill();
        // Reading is the first thing that is done, and repairs nothing on the disk.
        let file = directory.path().join("catalogue.redb");
        let left = std::fs::read(&file).unwrap();
        let contents = read(directory.path()).unwrap();
        assert_eq!(
            std::fs::read(&file).unwrap(),
            left,
            "reading changed the file"
        );
        assert!(
            whole_verdicts(&contents) >= acknowledged,
            "a verdict was lost"
        );
        let again = Catalogue::open(directory.path()).unwrap();
        assert_eq!(
            *again.snapshot().unwrap(),
            contents,
            "the next writer sees what the reader saw"
        );
    }
}

#[test]
#[ignore = "the writer of the other tests: it runs until it is killed"]
fn writer() {
    // Without a directory nobody asked for it.
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let catalogue = Catalogue::open_or_create(directory).unwrap();
    let disks = DISKS.map(|disk| (DiskName::new(disk).unwrap(), String::new()));
    loop {
        let run = catalogue.begin_run(&disks).unwrap();
        let contents = catalogue.snapshot().unwrap();
        let records = disks
            .each_ref()
            .map(|(disk, _)| record(&catalogue, &contents, disk, run));
        let group = GroupName::new(format!("{GROUP}{run}"));
        catalogue
            .decide(&group, &Verdict::Commit, &records)
            .unwrap();
        println!("committed {run}");
        let owed = catalogue.owed().unwrap();
        owed.iter().for_each(|owed| catalogue.done(owed).unwrap());
    }
}

/// How many verdicts there are; each has its points, all of them, and no point is without one.
fn whole_verdicts(contents: &Contents) -> u64 {
    for decided in contents.verdicts.values() {
        let run = RunId(decided.group.strip_prefix(GROUP).unwrap().parse().unwrap());
        for disk in DISKS {
            let disk = DiskName::new(disk).unwrap();
            assert!(
                contents.point(&disk, run).is_some(),
                "no point {disk}@{run}"
            );
        }
    }
    assert_eq!(contents.points.len(), contents.verdicts.len() * DISKS.len());
    contents.verdicts.len() as u64
}

fn record(
    catalogue: &Catalogue,
    contents: &Contents,
    disk: &DiskName,
    run: RunId,
) -> (MemberName, Kind, Record) {
    let point = Point {
        file: catalogue.new_image(disk, run).unwrap(),
        parent: contents.latest(disk).map(|(run, _)| run),
        size: 1 << 30,
        cluster_size: 65536,
        created_unix_ms: 0,
        instant: Instant::Proven,
        skipped: Vec::new(),
        bytes_copied: 0,
        digests: None,
        merging: Vec::new(),
    };
    let view = CommittedView {
        anchor: run,
        tracking: Tracking::none(),
    };
    let record = PointRecord {
        disk: disk.clone(),
        run,
        point,
        view,
    };
    (
        MemberName::new(disk),
        Kind::new(PointRecord::KIND),
        Record(record.encode()),
    )
}

/// A writer in a process of its own.
struct Writer {
    process: Child,
    says: BufReader<ChildStdout>,
    commits: u64,
}

impl Writer {
    fn start(directory: &Path) -> Self {
        let commits = read(directory).map_or(0, |contents| whole_verdicts(&contents));
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writer", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            says,
            commits,
        }
    }

    /// Waits until the writer acknowledges one more verdict; returns how many there are now at least.
    fn next_commit(&mut self) -> u64 {
        let mut line = String::new();
        while !line.contains("committed") {
            line.clear();
            assert!(
                self.says.read_line(&mut line).unwrap() > 0,
                "the writer ended"
            );
        }
        self.commits += 1;
        self.commits
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
