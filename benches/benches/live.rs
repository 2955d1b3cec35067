//! Writers of a served disk while it is backed up: alone, tracked, under copy-before-write alone, and during a full backup
//! at defaults with the copy's own rate in the same row; beside qemu-storage-daemon. Then a target that stands still for ten
//! seconds, and the fence of sixteen disks.
//!
//! 4 KiB writes at random places, by one thread and by sixteen, through the disk's own gate, in this process. The disk is a raw
//! image that lies in the page cache, so a write costs no more than the system call: the hardest case, because nothing that a
//! backup costs hides behind a slow disk. Disk, targets and writers share the machine.
//!
//! Words after `--` choose sections: `writers`, `daemon`, `stall`, `fence`. `COHORT_BENCH_MIB` sets the size of the disk.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::daemon::LiveDaemon;
use benches::writers::{Writers, Written, pass};
use benches::{machine, number, rest};
use cohort_backup::catalogue::DiskName;
use cohort_backup::{
    Backup, DiskOutcome, DiskSpec, Options, OptionsBuilder, RunReport, Running, SyncMode, Tracked,
};
use cohort_bitmap::{Granularity, Recorder};
use cohort_block::{Device, Gated, OsFile, RawDevice};
use cohort_job::Disposition;

const CLUSTER: u64 = 64 << 10;
const ROUNDS: usize = 5;
const MOMENT: Duration = Duration::from_millis(500);

type Section = (&'static str, fn(&Path, u64));
const SECTIONS: [Section; 4] = [
    ("writers", all_writers),
    ("daemon", beside_the_daemon),
    ("stall", stalled),
    ("fence", fence),
];

fn main() {
    let mib = number("COHORT_BENCH_MIB", 1024);
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    println!("{}", machine());
    println!("a disk of {mib} MiB, 4 KiB writes at random; medians of {ROUNDS} rounds");
    for (name, section) in SECTIONS {
        if words.is_empty() || words.iter().any(|word| *word == name) {
            let here = std::env::current_dir().expect("a directory");
            let lab = tempfile::tempdir_in(here).expect("a lab");
            section(lab.path(), mib);
        }
    }
}

fn all_writers(lab: &Path, mib: u64) {
    println!("\ndepth  writer          writes/s   p99 µs  worst µs  ratio  copy MiB/s  of alone");
    for depth in [1, 16] {
        writers(lab, mib, depth);
    }
}

/// The rows of one depth, all of them in every round.
#[derive(Default)]
struct Rows {
    no_gate: Vec<Row>,
    alone: Vec<Row>,
    tracked: Vec<Row>,
    first_pass: Vec<Row>,
    second_pass: Vec<Row>,
    backup: Vec<Row>,
    copy_alone: Vec<Duration>,
}

fn writers(lab: &Path, mib: u64, depth: usize) {
    let path = image(lab, "vda", mib);
    let (device, bare) = (device(&path, "vda"), Gated::new(device(&path, "vda")));
    let (bare, disk) = (Arc::new(bare), tracked(&path, "vda"));
    let length = disk.gated().size();
    let mut rows = Rows::default();
    for _ in 0..ROUNDS {
        rows.no_gate.push(for_a_moment(&device, length, depth));
        rows.alone.push(for_a_moment(&bare, length, depth));
        let recorder = Recorder::new(length, Granularity::DEFAULT).expect("a recorder");
        record(&bare, |gate| gate.install_recorder(recorder.clone()));
        rows.tracked.push(for_a_moment(&bare, length, depth));
        record(&bare, |gate| {
            gate.remove_recorder(&recorder);
        });

        // A copier that may copy next to nothing: what is left is copy-before-write. It would end with the last cluster, so
        // that one is left alone.
        let slow = Options::builder().mode(SyncMode::Full).speed(1);
        let running = start(lab, &[&disk], slow.build().expect("options"));
        let all_but_one = length / CLUSTER - 1;
        rows.first_pass
            .push(row(pass(disk.gated(), all_but_one, CLUSTER, depth)));
        until_saved(&running, all_but_one * CLUSTER);
        rows.second_pass
            .push(for_a_moment(disk.gated(), all_but_one * CLUSTER, depth));
        running.cancel(Disposition::Discard);
        let _ = running.wait();
        std::fs::remove_dir_all(lab.join("R")).expect("removed");

        rows.copy_alone.push(backup(lab, &[&disk]).0);
        let meanwhile = Writers::start(disk.gated(), length, depth);
        rest(MOMENT / 10);
        let (time, _) = backup(lab, &[&disk]);
        let copy = Some(time);
        rows.backup.push(Row {
            copy,
            written: meanwhile.stop(),
        });
    }
    rows.print(depth, mib);
}

impl Rows {
    fn print(mut self, depth: usize, mib: u64) {
        self.copy_alone.sort();
        let copy_alone = self.copy_alone[ROUNDS / 2];
        let base = median(&self.alone).written.rate();
        let table = [
            ("no gate", self.no_gate),
            ("alone", self.alone),
            ("tracked", self.tracked),
            ("first pass", self.first_pass),
            ("second pass", self.second_pass),
            ("full backup", self.backup),
        ];
        for (name, rows) in table {
            median(&rows).print(depth, name, base, mib, copy_alone);
        }
    }
}

/// The same beside qemu-storage-daemon: writer through its NBD server, backup at its defaults to a raw file.
fn beside_the_daemon(lab: &Path, mib: u64) {
    let path = image(lab, "vda", mib);
    let target = lab.join("target.raw");
    let Some(mut daemon) = LiveDaemon::serve(lab, &path).expect("the daemon answers") else {
        return println!("\nqemu-storage-daemon is not installed");
    };
    println!("\ndepth  qemu daemon     writes/s   p99 µs  worst µs  ratio  copy MiB/s  of alone");
    for depth in [1, 16] {
        let (mut alone, mut during, mut copy_alone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            alone.push(for_a_moment(&daemon.disk, daemon.disk.size(), depth));
            copy_alone.push(daemon.backup(&target, mib << 20).expect("a backup"));
            let meanwhile = Writers::start(&daemon.disk, daemon.disk.size(), depth);
            rest(MOMENT / 10);
            let copy = Some(daemon.backup(&target, mib << 20).expect("a backup"));
            let written = meanwhile.stop();
            during.push(Row { copy, written });
        }
        copy_alone.sort();
        let base = median(&alone).written.rate();
        median(&alone).print(depth, "alone", base, mib, copy_alone[1]);
        median(&during).print(depth, "full backup", base, mib, copy_alone[1]);
    }
}

/// A target that stands still for ten seconds in the middle of a full backup, with what may be staged by default and with room
/// for all of the disk.
fn stalled(lab: &Path, mib: u64) {
    const STALL: Duration = Duration::from_secs(10);
    let mib = mib.min(256);
    let disk = tracked(&image(lab, "vda", mib), "vda");
    println!(
        "\nstaging      writes/s   p99 µs  worst µs  bound µs  the backup, its target still for {STALL:?}"
    );
    let roomy = |o: OptionsBuilder| o.staging_file(lab, mib << 20);
    let plain = |o: OptionsBuilder| o;
    for (name, staging) in [("default", &plain as &dyn Fn(_) -> _), ("all", &roomy)] {
        let options = staging(Options::builder().mode(SyncMode::Full)).build();
        let until = Instant::now() + STALL;
        let writers = Writers::start(disk.gated(), disk.gated().size(), 1);
        let running = Backup::to(lab.join("R"))
            .options(options.expect("options"))
            .target_files(move |_, inner| Arc::new(Standing { inner, until }))
            .disk(DiskSpec::served(disk.clone()))
            .start();
        let report = running.expect("a run").wait();
        let written = writers.stop();
        let bound = report.fence.as_ref().expect("a fence").bound;
        println!(
            "{name:<8} {:>12.0} {:>8.0} {:>9.0} {:>9.0}  {}",
            written.rate(),
            written.p99.as_secs_f64() * 1e6,
            written.worst.as_secs_f64() * 1e6,
            bound.as_secs_f64() * 1e6,
            if let DiskOutcome::Failed(error) = &report.disks[0].outcome {
                error.to_string()
            } else {
                format!("succeeded: {}", report.succeeded())
            }
        );
        std::fs::remove_dir_all(lab.join("R")).expect("removed");
    }
}

/// A file that takes no data before a certain time.
#[derive(Debug)]
struct Standing {
    inner: Arc<dyn cohort_block::File>,
    until: Instant,
}

impl cohort_block::File for Standing {
    cohort_block::forward_file!(inner: read_at, sync_data, len, set_len);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        // What makes the file is let through.
        if offset > 0 {
            rest(self.until.saturating_duration_since(Instant::now()));
        }
        self.inner.write_at(buf, offset)
    }
}

/// Sixteen disks in one group, each with a writer, beside one.
fn fence(lab: &Path, mib: u64) {
    let mib = mib.min(64);
    println!(
        "\ndisks of {mib} MiB  closed µs   waited: writes   p99 µs  worst µs   MiB/s, with writers and without"
    );
    for count in [1, 16] {
        let disks: Vec<_> = (0..count)
            .map(|number| {
                let name = format!("d{number}");
                tracked(&image(lab, &name, mib), &name)
            })
            .collect();
        let all: Vec<_> = disks.iter().collect();
        let mut reports: Vec<(Duration, RunReport, Duration)> = (0..ROUNDS)
            .map(|_| {
                let alone = backup(lab, &all).0;
                let writers = all
                    .iter()
                    .map(|disk| Writers::start(disk.gated(), disk.gated().size(), 1));
                let writers: Vec<_> = writers.collect();
                let (time, report) = backup(lab, &all);
                writers.into_iter().for_each(|writers| {
                    writers.stop();
                });
                (time, report, alone)
            })
            .collect();
        let closed = |report: &RunReport| report.fence.as_ref().expect("a fence").closed_for;
        reports.sort_by_key(|(_, report, _)| closed(report));
        for (time, report, alone) in reports {
            let fence = report.fence.expect("served disks are fenced");
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            let rate = |time: Duration| (mib * count) as f64 / time.as_secs_f64();
            println!(
                "{count:>15}  {:>9.0}  {:>15}  {:>7.0}  {:>8.0}  {:>6.0}  {:>6.0}",
                micros(fence.closed_for),
                fence.delays.writes,
                micros(fence.delays.p99),
                micros(fence.delays.worst),
                rate(time),
                rate(alone),
            );
        }
    }
}

/// What writers did, and how long a backup took meanwhile, if there was one.
#[derive(Clone, Copy)]
struct Row {
    written: Written,
    copy: Option<Duration>,
}

impl Row {
    fn print(&self, depth: usize, name: &str, base: f64, mib: u64, copy_alone: Duration) {
        let copy = self.copy.map_or_else(String::new, |time| {
            let rate = mib as f64 / time.as_secs_f64();
            let share = copy_alone.as_secs_f64() / time.as_secs_f64();
            format!("{rate:>10.0}  {share:>7.2}×")
        });
        println!(
            "{depth:>5}  {name:<12} {:>11.0} {:>8.0} {:>9.0} {:>5.2}×  {copy}",
            self.written.rate(),
            self.written.p99.as_secs_f64() * 1e6,
            self.written.worst.as_secs_f64() * 1e6,
            self.written.rate() / base
        );
    }
}

fn row(written: Written) -> Row {
    Row {
        written,
        copy: None,
    }
}

fn median(rows: &[Row]) -> Row {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| a.written.rate().total_cmp(&b.written.rate()));
    rows[rows.len() / 2]
}

fn for_a_moment<D: Device + 'static>(disk: &Arc<D>, length: u64, depth: usize) -> Row {
    let writers = Writers::start(disk, length, depth);
    rest(MOMENT);
    row(writers.stop())
}

/// Waits until so many bytes have reached the target.
fn until_saved(running: &Running, bytes: u64) {
    while running.disks()[0].progress().done < bytes {
        rest(Duration::from_millis(1));
    }
}

fn record(disk: &Gated, change: impl FnOnce(&mut cohort_block::ClosedGate<'_>)) {
    let deadline = Instant::now() + Duration::from_secs(10);
    change(&mut disk.close("bench", deadline).expect("it closes"));
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

/// A raw image full of data.
fn image(lab: &Path, name: &str, mib: u64) -> PathBuf {
    let path = lab.join(format!("{name}.raw"));
    let mut file = File::create(&path).expect("an image");
    for number in 0..mib {
        file.write_all(&vec![number as u8 | 1; 1 << 20])
            .expect("its data");
    }
    file.sync_all().expect("it is on disk");
    path
}

fn device(path: &Path, name: &str) -> Arc<RawDevice> {
    let file = OsFile::open(path, true).expect("the image");
    Arc::new(RawDevice::new(name, Arc::new(file), true).expect("a device"))
}

fn tracked(path: &Path, name: &str) -> Arc<Tracked> {
    let disk = Arc::new(Gated::new(device(path, name)));
    Tracked::new(DiskName::new(name).expect("a name"), disk).expect("a size")
}
