//! Power is lost at every moment of some backups of a tracked disk: source, tracking store, targets and catalogue share
//! one log, of which everything synced is there afterwards, and of the rest any subset, torn between sectors.
//!
//! The claims: every point that was reported is there and is the disk at its fence; whatever else the catalogue calls a
//! point is one, too; a partial can be continued; and the views that store and catalogue say lack no write that reached the
//! disk: the next run, which goes by them, makes a point that is the disk.
//!
//! Twelve sessions with one loss at each moment; `COHORT_TORTURE_BACKUPS=N` has N sessions and every loss at each moment.

use std::collections::BTreeMap;
use std::io;
use std::iter;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use cohort_backup::catalogue::{self, Catalogue, DiskName, RunId};
use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskSpec, OnUndecided, Options, RunReport, SyncMode,
    Tracked, Unproven,
};
use cohort_bitmap::store::{DiskState, Mode};
use cohort_block::{
    Device, Fault, Faulty, File, Gated, MemoryDevice, OpenOptions, Operation, RawDevice,
    TrackingStore, open,
};
use cohort_job::Disposition;
use cohort_tests::power_loss::{Chance, Event, Fate, Recorded, Remnant};

const GRANULE: u64 = 64 << 10;
const CLUSTER: u64 = 16 << 10;
/// Not a whole number of anything.
const SIZE: u64 = 8 * GRANULE - 3000;
const DISK: &str = "disk";
const STORE: &str = "store";
const CATALOGUE: &str = "catalogue.redb";

/// What becomes of what no sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    AllDone,
    AllLost,
    Some,
}

const EVERY_LOSS: [Loss; 3] = [Loss::AllDone, Loss::AllLost, Loss::Some];
/// Sessions of the suite, with one loss at each moment.
const SESSIONS: u64 = 12;

fn state(session: u8) -> DiskState {
    DiskState {
        identity: [1; 24],
        session: [session; 16],
        size: SIZE,
        stamp: None,
    }
}

/// Bytes in memory.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<u8>>);

impl File for Memory {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let from = offset as usize;
        let found = bytes.get(from..from + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(length as usize, 0);
        Ok(())
    }
}

fn in_memory(bytes: Vec<u8>) -> Arc<Memory> {
    Arc::new(Memory(Mutex::new(bytes)))
}

fn all(device: &dyn Device) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn name() -> DiskName {
    DiskName::new("a").unwrap()
}

/// What was done before the power is lost.
struct Session {
    dir: tempfile::TempDir,
    recorded: Recorded,
    tracked: Arc<Tracked>,
    /// Events before it was all there.
    begun: usize,
    /// What the disk held at the fence of each run.
    truth: BTreeMap<u64, Vec<u8>>,
    chance: Chance,
}

impl Session {
    fn directory(&self) -> PathBuf {
        self.dir.path().join("R")
    }

    /// A directory with one point of a disk full of data, and a store that knows what was written since.
    fn new(seed: u64) -> Self {
        let fast = Path::new("/dev/shm");
        let dir = if fast.is_dir() {
            tempfile::tempdir_in(fast)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        let repository = dir.path().join("R");
        let other = MemoryDevice::new("other", 4096);
        let first = Backup::to(&repository).disk(DiskSpec::device(Arc::new(other)));
        assert!(first.start().unwrap().wait().succeeded());
        let recorded = Recorded::new(&repository).unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at / 4096) as u8 | 1).collect();
        let disk = recorded.file(DISK, in_memory(bytes)).unwrap();
        let raw = RawDevice::new(DISK, disk, true).unwrap();
        let gated = Arc::new(Gated::new(Arc::new(raw)));
        let store = recorded.file(STORE, in_memory(Vec::new())).unwrap();
        let store = TrackingStore::create_in_file(store, [7; 16], state(1), Mode::PowerLoss);
        let path = dir.path().join(STORE);
        let tracked = Tracked::stored(name(), gated, &path, store.unwrap()).unwrap();
        Session {
            dir,
            begun: recorded.log().len(),
            recorded,
            tracked,
            truth: BTreeMap::new(),
            chance: Chance::new(seed),
        }
    }

    fn write(&mut self, most: u64) {
        for _ in 0..self.chance.below(most) {
            let at = self.chance.below(SIZE - 2000);
            let length = 1 + self.chance.below(2000);
            let byte = self.chance.below(255) as u8;
            self.tracked
                .gated()
                .write_at(&vec![byte; length as usize], at)
                .unwrap();
        }
        if self.chance.below(3) == 0 {
            self.tracked.gated().flush().unwrap();
        }
    }

    /// A run that may fail or be cancelled, with writes while it copies.
    fn run(&mut self, first: bool) {
        use BitmapPolicy::{Always, Ask, OnSuccess};
        let policy = [Always, Always, Ask, OnSuccess][self.chance.below(4) as usize];
        let policy = if first { Always } else { policy };
        let mode =
            [SyncMode::Bitmap, SyncMode::Bitmap, SyncMode::Full][self.chance.below(3) as usize];
        let options = Options::builder()
            .policy(policy)
            .mode(mode)
            .undecided(OnUndecided::Keep)
            .cluster(CLUSTER)
            .workers(2);
        let mut spec = DiskSpec::served(self.tracked.clone()).options(options.build().unwrap());
        let bad = self.chance.below(SIZE);
        let fails = self.chance.below(3) == 0;
        if fails {
            spec = spec.through(move |device| {
                let faulty = Faulty::new(device);
                let _ = faulty.inject(Fault::error(Operation::Read).within(bad..bad + 1));
                Arc::new(faulty)
            });
        }
        let at_fence = Arc::new(Mutex::new(Vec::new()));
        let (look, device) = (at_fence.clone(), self.tracked.gated().device().clone());
        let (catalogue, targets) = (self.recorded.clone(), self.recorded.clone());
        let catalogue = Catalogue::open_through(self.directory(), move |file| {
            catalogue.file(CATALOGUE, file).unwrap()
        });
        let running = Backup::into_open(catalogue.unwrap())
            .disk(spec)
            .yields(false)
            .inside_fence(move || *look.lock().unwrap() = all(&*device))
            .target_files(move |image, file| targets.file(&image.to_string(), file).unwrap())
            .start()
            .unwrap();
        let run = running.run().unwrap().0;
        // Known before it may be lost.
        self.truth.insert(run, at_fence.lock().unwrap().clone());
        self.write(8);
        match self.chance.below(6) {
            0 => running.cancel(Disposition::Keep),
            1 => running.cancel(Disposition::Discard),
            _ => {}
        }
        let report = running.wait();
        if matches!(report.disks[0].outcome, DiskOutcome::Committed(_)) {
            self.recorded.note(run).unwrap();
        }
    }
}

fn session(seed: u64) -> Session {
    let mut session = Session::new(seed);
    session.write(6);
    for round in 0..3 {
        session.run(round == 0);
        session.write(6);
    }
    session
}

/// What was counted.
#[derive(Debug, Default)]
struct Sum {
    losses: u64,
    continued: u64,
    kept_bytes: u64,
    whole_bytes: u64,
    went_by_the_store: u64,
    files: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.losses += other.losses;
        self.continued += other.continued;
        self.kept_bytes += other.kept_bytes;
        self.whole_bytes += other.whole_bytes;
        self.went_by_the_store += other.went_by_the_store;
        for (file, count) in other.files {
            *self.files.entry(file).or_insert(0) += count;
        }
    }
}

/// The next process, after the power came back.
fn recover(
    session: &Session,
    remnant: &Remnant,
    log: &[Event],
    sum: &mut Sum,
) -> Result<(), String> {
    let directory = session.directory();
    remnant
        .lay_out(&directory)
        .map_err(|error| error.to_string())?;
    let contents = catalogue::read(&directory).map_err(|error| error.to_string())?;
    contents.check().map_err(|broken| format!("{broken:?}"))?;
    for event in log {
        if let Event::Note(run) = event
            && contents.point(&name(), RunId(*run)).is_none()
        {
            return Err(format!("point {run} was reported and is gone"));
        }
    }
    for (run, point) in contents.points_of(&name()) {
        let image = open(
            directory.join(point.file.to_string()),
            OpenOptions::read_only(),
        );
        let mut held = all(&*image.map_err(|error| error.to_string())?);
        held.truncate(SIZE as usize);
        if session.truth.get(&run.0) != Some(&held) {
            return Err(format!("point {run} is not its disk"));
        }
    }
    let report = next_run(session, remnant, sum)?;
    let DiskOutcome::Committed(point) = &report.disks[0].outcome else {
        return Err(format!(
            "the next run ended as {:?}",
            report.disks[0].outcome
        ));
    };
    let image = open(
        directory.join(point.file.to_string()),
        OpenOptions::read_only(),
    );
    let mut held = all(&*image.map_err(|error| error.to_string())?);
    held.truncate(SIZE as usize);
    if held != remnant.beside[DISK] {
        return Err("the next point is not the disk".to_owned());
    }
    Ok(())
}

/// Backs up what is left of the disk, going by what is left of its store.
fn next_run(session: &Session, remnant: &Remnant, sum: &mut Sum) -> Result<RunReport, String> {
    let raw = RawDevice::new(DISK, in_memory(remnant.beside[DISK].clone()), true);
    let gated = Arc::new(Gated::new(Arc::new(
        raw.map_err(|error| error.to_string())?,
    )));
    let path = session.dir.path().join(STORE);
    let (mode, store) = (Mode::PowerLoss, in_memory(remnant.beside[STORE].clone()));
    let opened = TrackingStore::open_in_file(store, state(9), mode);
    let (store, found) = opened.map_err(|error| format!("the store: {error}"))?;
    let tracked = Tracked::resume(name(), gated, &path, store, &found, Unproven::Use)
        .map_err(|error| error.to_string())?;
    let options = Options::builder()
        .undecided(OnUndecided::Keep)
        .cluster(CLUSTER);
    let spec = DiskSpec::served(tracked).options(options.build().unwrap());
    let report = Backup::to(session.directory()).disk(spec).start();
    let report = report.map_err(|error| error.to_string())?.wait();
    let disk = &report.disks[0];
    if let Some(continued) = &disk.continued {
        sum.continued += 1;
        sum.kept_bytes += continued.kept_bytes;
        sum.whole_bytes += continued.whole_bytes;
    }
    let by_store = |note: &String| note.contains("is known from tracking store");
    sum.went_by_the_store += u64::from(disk.notes.iter().any(by_store));
    Ok(report)
}

fn fate(loss: Loss, chance: &mut Chance) -> Fate {
    match loss {
        Loss::AllDone => Fate::Done,
        Loss::AllLost => Fate::Lost,
        Loss::Some => match chance.below(3) {
            0 => Fate::Done,
            1 => Fate::Lost,
            _ => Fate::Torn(chance.word()),
        },
    }
}

/// Loses power at every moment of one session.
fn lose(seed: u64, losses: impl Fn(usize) -> &'static [Loss]) -> Result<Sum, String> {
    let session = session(seed);
    let log = session.recorded.log();
    let mut sum = Sum::default();
    let mut before: BTreeMap<Loss, (Remnant, usize)> = BTreeMap::new();
    // The rest of this process writes nothing any more.
    for count in session.begun..=log.len() {
        let reported = log[..count]
            .iter()
            .filter(|event| matches!(event, Event::Note(_)));
        let reported = reported.count();
        for &loss in losses(count) {
            let mut chance = Chance::new(seed << 32 | count as u64);
            let remnant = session
                .recorded
                .after(count, |_, _| fate(loss, &mut chance));
            let left = (remnant, reported);
            // What was written since is lost, too: the same is left as a moment before.
            if before.get(&loss) == Some(&left) {
                continue;
            }
            recover(&session, &left.0, &log[..count], &mut sum).map_err(|wrong| {
                let events = log.len();
                format!("seed {seed}, {loss:?} after {count} of {events} events: {wrong}")
            })?;
            sum.losses += 1;
            before.insert(loss, left);
        }
        if let Some(Event::Write { file, .. } | Event::Synced { file, .. }) = log.get(count) {
            let name = session.recorded.name_of(*file);
            let kind = if name.contains(".qcow2") {
                "target".to_owned()
            } else {
                name
            };
            *sum.files.entry(kind).or_insert(0) += 1;
        }
    }
    Ok(sum)
}

#[test]
fn no_loss_of_power_costs_a_point_or_a_write() {
    let torture: Option<u64> = std::env::var("COHORT_TORTURE_BACKUPS")
        .ok()
        .and_then(|text| text.parse().ok());
    let losses = |count: usize| match torture {
        Some(_) => &EVERY_LOSS[..],
        None => &EVERY_LOSS[count % 3..=count % 3],
    };
    let next = AtomicU64::new(0);
    let seeds = || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (seed < torture.unwrap_or(SESSIONS)).then_some(seed)
    };
    let lose_all = || {
        iter::from_fn(seeds)
            .map(|seed| lose(seed, losses))
            .collect()
    };
    // More than processors: each waits for its own threads, and for syncs.
    let workers = 3 * thread::available_parallelism().map_or(1, NonZero::get);
    let sums: Vec<Result<Vec<Sum>, String>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(lose_all)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap());
        ended.collect()
    });
    let mut sum = Sum::default();
    for one in sums {
        one.unwrap().into_iter().for_each(|one| sum.add(one));
    }
    println!("{} losses: {sum:?}", sum.losses);
    assert!(sum.losses > 2000 && sum.continued > 500 && sum.went_by_the_store > 1000);
    for file in [DISK, STORE, CATALOGUE, "target"] {
        assert!(
            sum.files.contains_key(file),
            "nothing was lost while {file} was written"
        );
    }
}
