//! Writers, a fence over two disks, copiers, savers and failing targets, all at once and at random:
//! whatever happens, what counts on a target is what its disk held at the fence, and what was written
//! since is marked.
#![cfg(not(loom))]

use std::error::Error;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use cohort_block::{
    BeforeWrite, Device, Fault, Faulty, Gated, Ledger, MemoryDevice, Next, OnMiss, Operation,
    OsFile, Patience, Savers, Sink, Staging, close_all,
};

const CLUSTER: u64 = 4096;
/// Finer than a cluster.
const GRANULE: u64 = 1024;
const SIZE: u64 = 50 * CLUSTER - 700;
const WRITERS: u64 = 3;
const WRITES: u64 = 100;
const ROUNDS: u64 = 5;
const SEEDS: u64 = 60;
/// Never reached by a test that passes.
const LONG: Duration = Duration::from_secs(60);
/// Each writer's own counter is at the start of both disks.
const COUNTERS: u64 = WRITERS * 8;

/// How a round is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    /// Settled while copies are in flight, waiting for them or not.
    Sealed,
    SealedAtOnce,
    /// A target that fails once.
    TargetFails,
    /// Writers that cannot wait.
    WritersDoNotWait,
}

/// K47 with every way to end: rounds that keep what they copied, until one finishes.
#[test]
fn target_shows_the_fence_and_the_recorder_the_rest() {
    let ends = [
        End::Finished,
        End::Sealed,
        End::SealedAtOnce,
        End::TargetFails,
        End::WritersDoNotWait,
    ];
    let (mut whole, mut broken, mut in_part) = (0, 0, 0);
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut disks = [Disk::new("vda"), Disk::new("vdb")];
        for round in 0..ROUNDS {
            let last = round + 1 == ROUNDS;
            let any = ends[random.below(5) as usize];
            let end = if last { End::Finished } else { any };
            for backup in run(&mut disks, end, round, &mut random) {
                let remaining = backup.ledger.remaining();
                whole += u64::from(remaining.is_empty());
                broken += u64::from(backup.ledger.broken().is_some());
                in_part += u64::from(!remaining.is_empty() && backup.ledger.counts().durable > 0);
            }
        }
    }
    println!("{whole} whole, {broken} broken, {in_part} kept in part");
    assert!(whole > 0 && broken > 0 && in_part > 0, "all kinds were met");
}

/// One backup of both disks, amid writes.
fn run(disks: &mut [Disk; 2], end: End, round: u64, random: &mut Random) -> [Backup; 2] {
    // A write is told only when somebody listens, so writers and copiers keep in step.
    let (tell, told) = sync_channel(0);
    let told = Mutex::new(told);
    let backups = thread::scope(|scope| {
        let disks = &*disks;
        for writer in 0..WRITERS {
            let (random, tell) = (random.fork(), tell.clone());
            scope.spawn(move || write(disks, writer, round, random, &tell));
        }
        drop(tell);
        for _ in 0..random.below(WRITERS * WRITES / 2) {
            told.lock().unwrap().recv().unwrap();
        }
        let backups = fence(disks, end, random);
        thread::scope(|scope| {
            for (disk, backup) in disks.iter().zip(&backups) {
                let seal_after = random.below(12);
                for copier in 0..2 {
                    let random = random.fork();
                    let seals = copier == 0 && matches!(end, End::Sealed | End::SealedAtOnce);
                    let seal_after = seals.then_some(seal_after);
                    let told = &told;
                    scope.spawn(move || backup.copy(disk, end, seal_after, random, told));
                }
            }
        });
        told.lock().unwrap().iter().for_each(drop);
        backups
    });
    check_one_instant(&backups);
    for (disk, backup) in disks.iter_mut().zip(&backups) {
        backup.settle(disk);
    }
    backups
}

/// Random writes of all kinds, and after each of them a count on the first disk, then on the second.
fn write(disks: &[Disk; 2], writer: u64, round: u64, mut random: Random, tell: &SyncSender<()>) {
    for count in 1..=WRITES {
        let disk = &disks[random.below(2) as usize].gated;
        let offset = COUNTERS + random.below(SIZE - COUNTERS);
        let length = (1 + random.below(3 * CLUSTER)).min(SIZE - offset);
        match random.below(8) {
            0 => disk.write_zeroes(offset, length).unwrap(),
            1 => disk.discard(offset, length).unwrap(),
            _ => {
                let data = vec![random.below(256) as u8; length as usize];
                disk.write_at(&data, offset).unwrap();
            }
        }
        let count = (round * WRITES + count).to_le_bytes();
        for disk in disks {
            disk.gated.write_at(&count, writer * 8).unwrap();
        }
        tell.send(()).unwrap();
    }
}

/// One instant over both disks: their counts differ by the write between them at most.
fn check_one_instant(backups: &[Backup; 2]) {
    for writer in 0..WRITERS as usize {
        let [first, second] = backups.each_ref().map(|backup| {
            let count = &backup.point[writer * 8..][..8];
            u64::from_le_bytes(count.try_into().unwrap())
        });
        assert!(first == second || first == second + 1, "{first} {second}");
    }
}

/// Closes both gates, notes what the disks hold, and starts a backup of what is owed.
fn fence(disks: &[Disk; 2], end: End, random: &mut Random) -> [Backup; 2] {
    let mut savers = disks.each_ref().map(|disk| {
        // The savers' own way to the target, which may fail while the copier's does not.
        let way = Faulty::new(Arc::clone(&disk.target) as Arc<dyn Device>);
        if end == End::TargetFails {
            let nth = 1 + random.below(6);
            way.inject(Fault::error(Operation::Write).nth(nth).once());
        }
        let sink = ToDevice(way);
        let staging = match random.below(3) {
            0 => Staging::none(),
            clusters => {
                let file = OsFile::new(tempfile::tempfile().unwrap()).unwrap();
                let memory = Staging::in_memory(clusters * CLUSTER);
                memory.then_in(Arc::new(file), 3 * CLUSTER, CLUSTER)
            }
        };
        Some(Savers::staging(Arc::new(sink), 2, staging))
    });
    let gates = disks.each_ref().map(|disk| &disk.gated);
    let mut closed = close_all(&gates, "test", Instant::now() + LONG).unwrap();
    let bound = match end {
        End::WritersDoNotWait => Duration::ZERO,
        End::Finished | End::Sealed | End::SealedAtOnce | End::TargetFails => LONG,
    };
    [0, 1].map(|at| {
        let disk = &disks[at];
        let mut manifest = disk.owed.clone();
        manifest.merge(&disk.recorder.snapshot()).unwrap();
        let ledger = Arc::new(Ledger::new(manifest));
        let source = Arc::clone(disk.gated.device());
        let point = content(&*source);
        let on_miss = OnMiss::BreakBackup;
        let patience = Patience { bound, on_miss };
        let savers = savers[at].take().unwrap();
        let filter = BeforeWrite::new(Arc::clone(&ledger), source, savers, patience);
        let filter = Arc::new(filter);
        let since = recorder();
        closed[at].install_filter(Arc::clone(&filter));
        closed[at].remove_recorder(&disk.recorder);
        closed[at].install_recorder(since.clone());
        let bell = Arc::new(Bell::default());
        let rung = Arc::clone(&bell);
        ledger.watch(move || rung.ring());
        Backup {
            point,
            ledger,
            filter,
            since,
            bell,
        }
    })
}

struct Disk {
    gated: Gated,
    target: Arc<MemoryDevice>,
    /// What the target lacks, but for what the recorder has seen.
    owed: DirtyBitmap,
    recorder: Recorder,
}

impl Disk {
    fn new(name: &str) -> Self {
        let gated = Gated::new(Arc::new(MemoryDevice::new(name, SIZE)));
        let recorder = recorder();
        let mut closed = gated.close("test", Instant::now() + LONG).unwrap();
        closed.install_recorder(recorder.clone());
        drop(closed);
        let target = MemoryDevice::with_bytes("target", &vec![0xee; SIZE as usize]);
        let cluster = Granularity::new(CLUSTER).unwrap();
        Self {
            gated,
            target: Arc::new(target),
            owed: DirtyBitmap::all_dirty(SIZE, cluster).unwrap(),
            recorder,
        }
    }
}

struct Backup {
    /// What the disk held at the fence.
    point: Vec<u8>,
    ledger: Arc<Ledger>,
    filter: Arc<BeforeWrite>,
    since: Recorder,
    bell: Arc<Bell>,
}

impl Backup {
    /// Copies until nothing is left to copy, or somebody sealed: this thread after so many claims.
    fn copy(
        &self,
        disk: &Disk,
        end: End,
        seal_after: Option<u64>,
        mut random: Random,
        told: &Mutex<Receiver<()>>,
    ) {
        for turn in 0.. {
            // Goes on alone once the writers are gone.
            for _ in 0..random.below(5) {
                let _ = told.lock().unwrap().recv();
            }
            if Some(turn) == seal_after {
                let patience = if end == End::Sealed {
                    LONG
                } else {
                    Duration::ZERO
                };
                let _ = self.filter.seal(Instant::now() + patience);
            }
            let heard = self.bell.heard();
            match self
                .ledger
                .claim_next(random.below(50), 1 + random.below(4))
            {
                Next::Claimed(claim) if random.below(8) == 0 => drop(claim),
                Next::Claimed(claim) => {
                    if end == End::WritersDoNotWait {
                        // Lets one of them break the backup between claim and read.
                        let _ = told.lock().unwrap().recv();
                    }
                    let bytes = claim.bytes();
                    let mut data = vec![0; (bytes.end - bytes.start) as usize];
                    disk.gated.read_at(&mut data, bytes.start).unwrap();
                    disk.target.write_at(&data, bytes.start).unwrap();
                    claim.complete();
                }
                Next::Wait => self.bell.wait(heard),
                Next::Finished | Next::Closed => return,
            }
        }
    }

    /// What a job does at its end, in its order; then checks everything, and leaves what is still owed.
    fn settle(&self, disk: &mut Disk) {
        let sealed = self.filter.seal(Instant::now() + LONG);
        assert_eq!(sealed.late_saves, 0);
        let flush = self.ledger.begin_flush();
        disk.target.flush().unwrap();
        flush.succeeded();
        let remaining = self.ledger.remaining();
        self.check_target(disk, &remaining);
        self.check_recorder(disk);
        disk.owed = remaining;
        disk.recorder = self.since.clone();
    }

    fn check_target(&self, disk: &Disk, remaining: &DirtyBitmap) {
        let target = content(&*disk.target);
        for at in (0..SIZE).step_by(CLUSTER as usize) {
            let bytes = at as usize..SIZE.min(at + CLUSTER) as usize;
            let same = target[bytes.clone()] == self.point[bytes];
            assert!(
                same || remaining.get(at),
                "cluster at {at} is not of the point"
            );
        }
    }

    fn check_recorder(&self, disk: &Disk) {
        let now = content(&disk.gated);
        for at in (0..SIZE).step_by(GRANULE as usize) {
            let bytes = at as usize..SIZE.min(at + GRANULE) as usize;
            let same = now[bytes.clone()] == self.point[bytes];
            assert!(same || self.since.get(at), "granule at {at} is not marked");
        }
    }
}

/// Rung by the ledger's watcher, heard by two copiers.
#[derive(Default)]
struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.rung.notify_all();
    }

    fn heard(&self) -> u64 {
        *self.rings.lock().unwrap()
    }

    fn wait(&self, heard: u64) {
        let rings = self.rings.lock().unwrap();
        let unchanged = |rings: &mut u64| *rings == heard;
        drop(self.rung.wait_while(rings, unchanged).unwrap());
    }
}

struct ToDevice(Faulty);

impl Sink for ToDevice {
    fn save(&self, cluster: u64, data: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.0.write_at(data, cluster * CLUSTER)?)
    }
}

/// SplitMix64, of Steele, Lea and Flood.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

fn recorder() -> Recorder {
    Recorder::new(SIZE, Granularity::new(GRANULE).unwrap()).unwrap()
}

fn content(device: &dyn Device) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}
