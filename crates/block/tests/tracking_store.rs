//! A tracked disk and the store beside it: who may open it, what it survives, and what a store that fails does to writers.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use cohort_bitmap::Granularity;
use cohort_bitmap::store::{
    Away, Ended, Label, Mode, Recording, SetId, SetReport, Store, StoreError,
};
use cohort_block::{Device, File, Gated, OsFile, RawDevice, TrackingError, TrackingStore};
use nix::libc;

const SIZE: u64 = 64 << 20;
const GRANULE: u64 = 65536;
const MODES: [Mode; 2] = [Mode::KilledProcess, Mode::PowerLoss];

/// The disk that a child of this program tracks; see [`tracks_a_disk_until_it_is_killed`].
const CHILD: &str = "COHORT_TEST_TRACKED_DISK";

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        lab.make(&lab.disk());
        lab
    }

    fn make(&self, path: &Path) {
        fs::File::create_new(path).unwrap().set_len(SIZE).unwrap();
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn beside(&self) -> PathBuf {
        TrackingStore::path_beside(&self.disk())
    }

    fn create(&self, mode: Mode) -> TrackingStore {
        TrackingStore::create(&self.beside(), &self.disk(), SIZE, mode).unwrap()
    }

    fn open(&self) -> (TrackingStore, cohort_bitmap::store::Inspection) {
        TrackingStore::open(&self.beside(), &self.disk(), SIZE, Mode::PowerLoss).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn gated(&self) -> Gated {
        let file = OsFile::open(self.disk(), true).unwrap();
        Gated::new(Arc::new(
            RawDevice::new("disk", Arc::new(file), true).unwrap(),
        ))
    }
}

/// Begins to record into a new set behind a gate.
fn record(gated: &Gated, store: &Store) -> Recording {
    let since = store
        .begin(Label::default(), Granularity::new(GRANULE).unwrap())
        .unwrap();
    closed(gated).install_recording(since.clone());
    since
}

/// Ends what [`record`] began. The store's file stays in use as long as anybody could still record.
fn take_out(gated: &Gated, since: Recording) -> SetId {
    closed(gated).remove_recording(&since);
    gated.flush().unwrap();
    since.set()
}

fn closed(gated: &Gated) -> cohort_block::ClosedGate<'_> {
    let deadline = Instant::now() + Duration::from_secs(60);
    gated.close("test", deadline).unwrap()
}

fn granules(report: &SetReport) -> Vec<u64> {
    report
        .dirty
        .dirty_offsets()
        .map(|at| at / GRANULE)
        .collect()
}

fn all(size: u64) -> Vec<u64> {
    (0..size.div_ceil(GRANULE)).collect()
}

#[test]
fn a_store_in_use_names_the_process_and_a_dead_one_is_no_obstacle() {
    let lab = Lab::new();
    let mut child = tracking_child(&lab.disk());
    let pid = child.id();
    let refused = TrackingStore::open(&lab.beside(), &lab.disk(), SIZE, Mode::PowerLoss);
    let told = refused.unwrap_err();
    assert!(
        matches!(told, TrackingError::Held { holder: Some(holder), .. } if holder == pid),
        "{told:?}"
    );
    assert!(told.to_string().contains(&pid.to_string()), "{told}");
    let looked = TrackingStore::inspect(&lab.beside(), Some((&lab.disk(), SIZE))).unwrap();
    assert_eq!(looked.holder, Some(pid));
    assert_eq!(granules(&looked.inspection.sets[0]), [3]);

    child.kill().unwrap();
    child.wait().unwrap();
    let looked = TrackingStore::inspect(&lab.beside(), Some((&lab.disk(), SIZE))).unwrap();
    assert_eq!(looked.holder, None);
    let (_tracking, found) = lab.open();
    assert_eq!(found.ended, Ended::Open { pid });
    assert!(matches!(found.away, Away::Unknown(_)), "{:?}", found.away);
    assert_eq!(granules(&found.sets[0]), [3]);
    assert_eq!(found.sets[0].lost, None);
}

/// Run by the test above as a process of its own; without a disk to track it has nothing to do.
#[test]
fn tracks_a_disk_until_it_is_killed() {
    let Some(disk) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let beside = TrackingStore::path_beside(&disk);
    let tracking = TrackingStore::create(&beside, &disk, SIZE, Mode::KilledProcess).unwrap();
    let raw = RawDevice::new("disk", Arc::new(OsFile::open(&disk, true).unwrap()), true).unwrap();
    let gated = Gated::new(Arc::new(raw));
    record(&gated, tracking.store());
    gated.write_at(&[1; 512], 3 * GRANULE).unwrap();
    println!("\ntracking");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Returns once the child tracks the disk.
fn tracking_child(disk: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tracks_a_disk_until_it_is_killed", "--nocapture"])
        .env(CHILD, disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let tracks = |line: io::Result<String>| line.unwrap() == "tracking";
    assert!(output.lines().any(tracks), "the child tracks the disk");
    child
}

#[test]
fn a_store_is_in_use_within_one_process_too() {
    let lab = Lab::new();
    let tracking = lab.create(Mode::PowerLoss);
    let refused = TrackingStore::open(&lab.beside(), &lab.disk(), SIZE, Mode::PowerLoss);
    assert!(matches!(refused, Err(TrackingError::Held { .. })));
    drop(tracking);
    lab.open();
}

#[test]
fn only_its_owner_can_read_it() {
    let lab = Lab::new();
    let _tracking = lab.create(Mode::PowerLoss);
    let mode = fs::metadata(lab.beside()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let lab = Lab::new();
    fs::write(lab.beside(), "mine").unwrap();
    let refused = TrackingStore::create(&lab.beside(), &lab.disk(), SIZE, Mode::PowerLoss);
    assert!(matches!(refused, Err(TrackingError::Exists { .. })));
    assert_eq!(fs::read(lab.beside()).unwrap(), b"mine");
    assert_eq!(lab.names(), ["disk.raw", "disk.raw.cohort"]);
    let opened = TrackingStore::open(&lab.beside(), &lab.disk(), SIZE, Mode::PowerLoss);
    assert!(matches!(opened, Err(TrackingError::Store { .. })));
    assert_eq!(fs::read(lab.beside()).unwrap(), b"mine");

    fs::remove_file(lab.beside()).unwrap();
    std::os::unix::fs::symlink("nowhere", lab.beside()).unwrap();
    let refused = TrackingStore::create(&lab.beside(), &lab.disk(), SIZE, Mode::PowerLoss);
    assert!(matches!(refused, Err(TrackingError::Exists { .. })));
    assert_eq!(lab.names(), ["disk.raw", "disk.raw.cohort"]);
}

#[test]
fn the_store_of_another_disk_is_refused_and_left_alone() {
    let lab = Lab::new();
    lab.create(Mode::PowerLoss).close().unwrap();
    let before = fs::read(lab.beside()).unwrap();
    let other = lab.dir.path().join("other.raw");
    lab.make(&other);
    let refused = TrackingStore::open(&lab.beside(), &other, SIZE, Mode::PowerLoss).unwrap_err();
    assert!(
        matches!(
            refused,
            TrackingError::Store {
                source: StoreError::OtherDisk,
                ..
            }
        ),
        "{refused}"
    );
    assert!(fs::read(lab.beside()).unwrap() == before);
    // A file of the same name that took the disk's place is another disk, too.
    fs::rename(&other, lab.disk()).unwrap();
    assert!(TrackingStore::open(&lab.beside(), &lab.disk(), SIZE, Mode::PowerLoss).is_err());
}

#[test]
fn a_clean_close_is_exact() {
    for mode in MODES {
        let lab = Lab::new();
        let tracking = lab.create(mode);
        let gated = lab.gated();
        let since = record(&gated, tracking.store());
        // Enough in a row that more is prepared for than is written.
        for granule in [2, 3, 4, 5, 6, 7, 900] {
            gated.write_at(&[1; 700], granule * GRANULE + 5).unwrap();
        }
        let looked = TrackingStore::inspect(&lab.beside(), None).unwrap();
        assert!(looked.inspection.sets[0].excess_bytes > 0);
        let set = take_out(&gated, since);
        tracking.close().unwrap();

        let (tracking, found) = lab.open();
        assert_eq!(found.ended, Ended::Clean);
        assert_eq!(found.away, Away::Unrefuted);
        assert_eq!(granules(&found.sets[0]), [2, 3, 4, 5, 6, 7, 900]);
        assert_eq!(found.sets[0].excess().to_string(), "exact");
        assert_eq!(found.sets[0].set, set);
        tracking.close().unwrap();
    }
}

#[test]
fn a_write_while_the_store_was_closed_is_told_by_the_stamp() {
    let lab = Lab::new();
    let tracking = lab.create(Mode::PowerLoss);
    let gated = lab.gated();
    let since = record(&gated, tracking.store());
    gated.write_at(&[1; 512], 0).unwrap();
    let fixed = tracking
        .store()
        .write_fixed(Label::default(), &since.recorder().snapshot())
        .unwrap();
    let set = take_out(&gated, since);
    tracking.close().unwrap();

    let disk = fs::OpenOptions::new().write(true).open(lab.disk()).unwrap();
    // The clock of a file's times may stand still for some milliseconds: another time is set, whatever it is.
    disk.write_at(&[2; 512], 9 * GRANULE).unwrap();
    disk.set_modified(std::time::UNIX_EPOCH).unwrap();
    let (_tracking, found) = lab.open();
    assert!(matches!(found.away, Away::Refuted(_)), "{:?}", found.away);
    let report = found.set(set).unwrap();
    assert_eq!(granules(report), all(SIZE));
    assert!(
        report.lost.as_ref().unwrap().why.contains("changed"),
        "{report:?}"
    );
    assert_eq!(granules(found.set(fixed).unwrap()), [0]);
}

#[test]
fn a_disk_that_grew_is_dirty_where_it_is_new() {
    const LARGER: u64 = SIZE + 3 * GRANULE + 1;
    let lab = Lab::new();
    let tracking = lab.create(Mode::PowerLoss);
    let gated = lab.gated();
    let since = record(&gated, tracking.store());
    gated.write_at(&[1; 512], 8 * GRANULE).unwrap();
    let set = take_out(&gated, since);
    drop(tracking);
    let disk = fs::OpenOptions::new().write(true).open(lab.disk()).unwrap();
    disk.set_len(LARGER).unwrap();

    let (tracking, found) =
        TrackingStore::open(&lab.beside(), &lab.disk(), LARGER, Mode::PowerLoss).unwrap();
    let report = found.set(set).unwrap();
    let first = SIZE / GRANULE;
    assert_eq!(
        granules(report),
        [8, first, first + 1, first + 2, first + 3]
    );
    assert_eq!(report.lost, None);
    let resumed = tracking.store().resume(set).unwrap();
    resumed.record(LARGER - 1, 1);
    assert_eq!(tracking.store().lost(), None);
}

/// A disk's file that looks into the store whenever data is about to be written to it.
#[derive(Debug)]
struct Witness {
    file: OsFile,
    beside: PathBuf,
}

impl File for Witness {
    cohort_block::forward_file!(file: read_at, sync_data, len, set_len);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let looked = TrackingStore::inspect(&self.beside, None).unwrap();
        let dirty = &looked.inspection.sets[0].dirty;
        for at in [offset, offset + buf.len() as u64 - 1] {
            assert!(dirty.get(at), "{at} is not known");
        }
        self.file.write_at(buf, offset)
    }
}

#[test]
fn whoever_kills_between_intent_and_data_finds_the_intent() {
    for mode in MODES {
        let lab = Lab::new();
        let tracking = lab.create(mode);
        let file = Witness {
            file: OsFile::open(lab.disk(), true).unwrap(),
            beside: lab.beside(),
        };
        let raw = RawDevice::new("disk", Arc::new(file), true).unwrap();
        let gated = Gated::new(Arc::new(raw));
        record(&gated, tracking.store());
        for granule in [5, 6, 7, 8, 700, 3, 701, 900] {
            gated.write_at(&[1; 600], granule * GRANULE - 300).unwrap();
            if granule == 700 {
                tracking.store().checkpoint().unwrap();
            }
        }
    }
}

/// The store's file, which fails its writes or its syncs with an error of the operating system once it is told to.
#[derive(Debug)]
struct Failing {
    file: OsFile,
    writes: AtomicI32,
    syncs: AtomicI32,
}

fn fails(with: &AtomicI32) -> io::Result<()> {
    match with.load(Ordering::SeqCst) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl File for Failing {
    cohort_block::forward_file!(file: read_at, len, set_len);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        // Its header is there already, and stays writable on a disk that is full.
        if offset >= 8192 || self.writes.load(Ordering::SeqCst) != libc::ENOSPC {
            fails(&self.writes)?;
        }
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fails(&self.syncs)?;
        self.file.sync_data()
    }
}

/// What of a store's file fails, and how.
type Break = fn(&Failing);

const BREAKS: [(&str, Break, Mode); 4] = [
    (
        "full",
        |file| file.writes.store(libc::ENOSPC, Ordering::SeqCst),
        Mode::KilledProcess,
    ),
    (
        "full, power",
        |file| file.writes.store(libc::ENOSPC, Ordering::SeqCst),
        Mode::PowerLoss,
    ),
    (
        "writes",
        |file| file.writes.store(libc::EIO, Ordering::SeqCst),
        Mode::PowerLoss,
    ),
    (
        "syncs",
        |file| file.syncs.store(libc::EIO, Ordering::SeqCst),
        Mode::PowerLoss,
    ),
];

#[test]
fn a_store_that_fails_never_stops_writers_and_is_lost_since_then() {
    for (what, broken, mode) in BREAKS {
        let lab = Lab::new();
        drop(lab.create(mode));
        let state = TrackingStore::inspect(&lab.beside(), Some((&lab.disk(), SIZE))).unwrap();
        let file = Arc::new(Failing {
            file: OsFile::open(lab.beside(), true).unwrap(),
            writes: AtomicI32::new(0),
            syncs: AtomicI32::new(0),
        });
        let (store, _) = Store::open(file.clone(), state.inspection.disk, mode).unwrap();
        let gated = lab.gated();
        let since = record(&gated, &store);
        gated.write_at(&[1; 512], 0).unwrap();
        assert_eq!(store.lost(), None, "{what}");

        broken(&file);
        let before = now_unix_ms();
        gated.write_at(&[2; 512], 500 * GRANULE).unwrap();
        let lost = store.lost().expect(what);
        assert!(
            (before..=now_unix_ms()).contains(&lost.since_unix_ms),
            "{what}"
        );
        assert!(lost.why.contains("os error"), "{what}: {}", lost.why);
        for granule in 501..510 {
            gated.write_at(&[3; 512], granule * GRANULE).unwrap();
        }
        let mut read = [0; 512];
        gated.read_at(&mut read, 509 * GRANULE).unwrap();
        assert_eq!(read, [3; 512], "{what}");
        assert!(
            matches!(store.checkpoint(), Err(StoreError::Lost(_))),
            "{what}"
        );
        drop(store);

        // The next to open it is told: by a mark, or because an empty file is no store.
        match TrackingStore::open(&lab.beside(), &lab.disk(), SIZE, mode) {
            Ok((_tracking, found)) => {
                let report = found.set(since.set()).unwrap();
                assert_eq!(granules(report), all(SIZE), "{what}");
                assert_eq!(report.lost.as_ref(), Some(&lost), "{what}");
            }
            Err(refused) => {
                assert!(what != "full" && what != "full, power", "{what}: {refused}");
                assert_eq!(fs::metadata(lab.beside()).unwrap().len(), 0, "{what}");
            }
        }
    }
}

fn now_unix_ms() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}
