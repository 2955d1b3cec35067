//! Writers of a served disk while it is backed up: alone, under copy-before-write alone, and during a full backup at
//! defaults, with the copy's own rate in the same row; then the fence of sixteen disks.
//!
//! 4 KiB writes at random places of a raw image in the page cache, by one thread and by sixteen. Disk, targets and whoever
//! else is busy share the machine. `COHORT_BENCH_MIB` sets the size of the disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benches::{machine, percentiles, rest};
use cohort_backup::catalogue::DiskName;
use cohort_backup::{Backup, DiskSpec, Options, RunReport, Running, SyncMode, Tracked};
use cohort_block::{Device, Gated, OsFile, RawDevice};
use cohort_job::Disposition;

const BLOCK: u64 = 4096;
const CLUSTER: u64 = 64 << 10;
const ROUNDS: usize = 3;
const MOMENT: Duration = Duration::from_millis(700);

fn main() {
    let mib = std::env::var("COHORT_BENCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    println!("{}", machine());
    println!("a disk of {mib} MiB, 4 KiB writes at random; medians of {ROUNDS} rounds\n");
    let lab = tempfile::tempdir_in(std::env::current_dir().expect("a directory")).expect("a lab");
    println!("depth  writer          writes/s   p99 µs  ratio  copy MiB/s  of alone");
    for depth in [1, 16] {
        writers(lab.path(), mib, depth);
    }
    fence(lab.path(), mib.min(64));
}

fn writers(lab: &Path, mib: u64, depth: usize) {
    let disk = disk(lab, "vda", mib);
    let mut rows: [Vec<Row>; 4] = Default::default();
    let mut copy_alone = Vec::new();
    for _ in 0..ROUNDS {
        let alone = Writers::start(&disk, depth);
        rest(MOMENT);
        rows[0].push(alone.stop());
        // A copier that may copy next to nothing: what is left is copy-before-write.
        let slow = Options::builder().mode(SyncMode::Full).speed(1);
        let running = start(lab, &[&disk], slow.build().expect("options"));
        rows[1].push(pass(&disk, depth));
        rows[2].push(pass(&disk, depth));
        running.cancel(Disposition::Discard);
        let _ = running.wait();
        copy_alone.push(backup(lab, &[&disk]).0);
        let meanwhile = Writers::start(&disk, depth);
        let (time, _) = backup(lab, &[&disk]);
        rows[3].push(Row {
            copy: Some(time),
            ..meanwhile.stop()
        });
    }
    copy_alone.sort();
    let copy_alone = copy_alone[ROUNDS / 2];
    let names = ["alone", "first pass", "second pass", "full backup"];
    let base = median(&rows[0]).rate();
    for (name, rows) in names.iter().zip(&rows) {
        let row = median(rows);
        let copy = row.copy.map_or_else(String::new, |time| {
            let rate = mib as f64 / time.as_secs_f64();
            let share = copy_alone.as_secs_f64() / time.as_secs_f64();
            format!("{rate:>10.0}  {share:>7.2}×")
        });
        println!(
            "{depth:>5}  {name:<12} {:>11.0} {:>8.0} {:>5.2}×  {copy}",
            row.rate(),
            row.p99.as_secs_f64() * 1e6,
            row.rate() / base
        );
    }
}

/// Sixteen disks in one group, each with a writer, beside one.
fn fence(lab: &Path, mib: u64) {
    println!("\ndisks  closed µs   waited: writes   p99 µs  worst µs   MiB/s");
    for count in [1, 16] {
        let disks: Vec<_> = (0..count)
            .map(|number| disk(lab, &format!("d{number}"), mib))
            .collect();
        let all: Vec<_> = disks.iter().collect();
        let writers: Vec<_> = all.iter().map(|disk| Writers::start(disk, 1)).collect();
        let (time, report) = backup(lab, &all);
        for writers in writers {
            writers.stop();
        }
        let fence = report.fence.expect("served disks are fenced");
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{count:>5}  {:>9.0}  {:>15}  {:>7.0}  {:>8.0}  {:>6.0}",
            micros(fence.closed_for),
            fence.delays.writes,
            micros(fence.delays.p99),
            micros(fence.delays.worst),
            (mib * count) as f64 / time.as_secs_f64()
        );
    }
}

/// What some writers did in some time.
#[derive(Clone, Copy)]
struct Row {
    writes: usize,
    time: Duration,
    p99: Duration,
    copy: Option<Duration>,
}

impl Row {
    fn rate(&self) -> f64 {
        self.writes as f64 / self.time.as_secs_f64()
    }
}

fn median(rows: &[Row]) -> Row {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    rows[rows.len() / 2]
}

struct Writers {
    stop: Arc<AtomicBool>,
    began: Instant,
    threads: Vec<JoinHandle<Vec<Duration>>>,
}

impl Writers {
    fn start(disk: &Arc<Tracked>, depth: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..depth).map(|seed| {
            let (disk, stop) = (disk.gated().clone(), stop.clone());
            std::thread::spawn(move || {
                let (mut random, mut times) = (seed as u64 + 1, Vec::new());
                let blocks = disk.size() / BLOCK;
                while !stop.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    times.push(write(&disk, random % blocks * BLOCK));
                }
                times
            })
        });
        Writers {
            threads: threads.collect(),
            began: Instant::now(),
            stop,
        }
    }

    fn stop(self) -> Row {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        let times: Vec<_> = threads.flat_map(|t| t.join().expect("a writer")).collect();
        row(times, self.began.elapsed())
    }
}

/// Writes once to every cluster, in an order of no pattern.
fn pass(disk: &Arc<Tracked>, depth: usize) -> Row {
    let clusters = disk.gated().size() / CLUSTER;
    let began = Instant::now();
    let threads: Vec<_> = (0..depth as u64)
        .map(|thread| {
            let disk = disk.gated().clone();
            // Odd, and so prime to any power of two: every cluster has its turn.
            let places = (thread..clusters).step_by(depth);
            let places = places.map(move |n| n.wrapping_mul(40_503) % clusters * CLUSTER);
            std::thread::spawn(move || places.map(|at| write(&disk, at)).collect::<Vec<_>>())
        })
        .collect();
    let times = threads.into_iter();
    let times = times.flat_map(|t| t.join().expect("a writer")).collect();
    row(times, began.elapsed())
}

fn row(times: Vec<Duration>, time: Duration) -> Row {
    Row {
        writes: times.len(),
        time,
        p99: percentiles(times).1,
        copy: None,
    }
}

fn write(disk: &Gated, at: u64) -> Duration {
    let began = Instant::now();
    disk.write_at(&[7; BLOCK as usize], at).expect("a write");
    began.elapsed()
}

fn start(lab: &Path, disks: &[&Arc<Tracked>], options: Options) -> Running {
    let mut backup = Backup::to(lab.join("R")).options(options);
    for disk in disks {
        backup = backup.disk(DiskSpec::served((*disk).clone()));
    }
    backup.start().expect("a run")
}

/// A full backup at defaults: from its fence to its commit, and what it reports.
fn backup(lab: &Path, disks: &[&Arc<Tracked>]) -> (Duration, RunReport) {
    let full = Options::builder().mode(SyncMode::Full).build();
    let began = Instant::now();
    let report = start(lab, disks, full.expect("options")).wait();
    assert!(report.succeeded(), "{report:?}");
    let time = began.elapsed();
    std::fs::remove_dir_all(lab.join("R")).expect("removed");
    (time, report)
}

/// A raw image full of data, served.
fn disk(lab: &Path, name: &str, mib: u64) -> Arc<Tracked> {
    use std::io::Write;
    let path = lab.join(format!("{name}.raw"));
    let mut file = File::create(&path).expect("an image");
    for number in 0..mib {
        file.write_all(&vec![number as u8 | 1; 1 << 20])
            .expect("its data");
    }
    file.sync_all().expect("it is on disk");
    let file = OsFile::open(&path, true).expect("the image");
    let device = RawDevice::new(name, Arc::new(file), true).expect("a device");
    let name = DiskName::new(name).expect("a name");
    Tracked::new(name, Arc::new(Gated::new(Arc::new(device)))).expect("a size")
}
