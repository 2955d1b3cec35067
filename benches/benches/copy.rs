//! Full copies and increments beside their peers.
//!
//! *Full*: a 2 and a 4 GiB image, all allocated and a quarter, to raw and to qcow2, each with the target synced inside the
//! time. *Increment*: 1 % of a 4 GiB disk, 656 clusters of 64 KiB, beside a daemon that goes by its bitmap.
//!
//! Sources are resident in the page cache and lie on the same file system as the targets. Every round writes a new target
//! and removes it untimed, so its pages are those that the round before gave back; a round that does not count comes
//! first. `COHORT_BENCH_DIR` is where all of it lies (a file system of its own speed), `COHORT_BENCH_MIB` sets other
//! sizes, and `COHORT_BENCH_ONLY` runs only what has all of these words in its title: `4096 all raw`, `increment`.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use benches::peers::StorageDaemon;
use benches::{Contender, forget_peak, machine, processor_time, rounds, status_bytes, timed};
use cohort_backup::catalogue::DiskName;
use cohort_backup::{Backup, DiskSpec, FullCopy, Options, Outlet, Tracked};
use cohort_block::{Device, Format, Gated, OsFile, RawDevice};

const ROUNDS: usize = 3;
const CLUSTER: u64 = 64 << 10;
/// 41 MiB, 1 % of 4 GiB.
const DIRTY: u64 = 656;

fn main() {
    let sizes = std::env::var("COHORT_BENCH_MIB").unwrap_or_else(|_| "2048 4096".to_owned());
    let sizes: Vec<u64> = sizes
        .split_whitespace()
        .filter_map(|text| text.parse().ok())
        .collect();
    let place = std::env::var_os("COHORT_BENCH_DIR").map_or_else(|| ".".into(), PathBuf::from);
    println!(
        "{}; medians of {ROUNDS} rounds, targets synced, in {}",
        machine(),
        place.display()
    );
    for mib in sizes {
        for (share, allocated) in [(4, "all"), (1, "quarter")] {
            for format in ["raw", "qcow2"] {
                let title = format!("full {mib} {allocated} {format}");
                if wanted(&title) {
                    let lab = tempfile::tempdir_in(&place).expect("a directory");
                    make_image(&lab.path().join("disk.img"), mib, share);
                    full(lab.path(), mib, format, &title);
                }
            }
        }
    }
    if wanted("increment") {
        let lab = tempfile::tempdir_in(&place).expect("a directory");
        increments(lab.path());
    }
}

fn wanted(title: &str) -> bool {
    let only = std::env::var("COHORT_BENCH_ONLY").unwrap_or_default();
    only.split_whitespace()
        .all(|word| title.split_whitespace().any(|own| own == word))
}

/// An image of which `share` quarters of every 16 MiB hold data that repeats nowhere.
fn make_image(path: &Path, mib: u64, share: u64) {
    let file = File::create(path).expect("an image");
    file.set_len(mib << 20).expect("its size");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for number in (0..mib).filter(|number| number % 16 < 4 * share) {
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let block: Vec<u8> = words.take(1 << 17).flatten().collect();
        file.write_all_at(&block, number << 20).expect("its data");
    }
    file.sync_all().expect("it is on disk");
}

/// What one way of copying took, besides time, as far as it can be seen.
#[derive(Clone, Copy, Default)]
struct Cost {
    processor: Duration,
    /// The most memory that its process had; of programs that end nobody says.
    resident: Option<usize>,
    allocated: u64,
}

/// Bytes that a file, or all in a directory, take on disk.
fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = fs::metadata(path) else {
        return 0;
    };
    if !found.is_dir() {
        return found.blocks() * 512;
    }
    let entries = fs::read_dir(path).expect("a directory");
    entries
        .flatten()
        .map(|entry| allocated(&entry.path()))
        .sum()
}

fn sync(target: &Path) {
    let file = File::open(target).expect("the target");
    file.sync_all().expect("synced");
}

/// A way to copy the disk whole.
#[derive(Clone, Copy)]
enum Way {
    Copy,
    Backup {
        digests: bool,
    },
    /// `qemu-img convert` with these options.
    Convert(&'static [&'static str]),
    Program(&'static str, &'static [&'static str]),
    Daemon {
        knobs: &'static str,
    },
}

/// What the daemon copies fastest with.
const BEST: &str = r#","x-perf":{"use-copy-range":true,"max-workers":64}"#;

/// All ways to a format, by the names in the table.
fn ways(format: &str) -> Vec<(&'static str, Way)> {
    let both = [
        ("cohort copy", Way::Copy),
        ("qemu-img convert", Way::Convert(&[])),
        ("  -W -m 16", Way::Convert(&["-W", "-m", "16"])),
        ("daemon", Way::Daemon { knobs: "" }),
        ("  best knobs", Way::Daemon { knobs: BEST }),
    ];
    let one = match format {
        "raw" => [
            (
                "cp --sparse=always",
                Way::Program("cp", &["--sparse=always"]),
            ),
            ("nbdcopy", Way::Program("nbdcopy", &[])),
        ],
        _ => [
            ("cohort, no digests", Way::Backup { digests: false }),
            ("cohort", Way::Backup { digests: true }),
        ],
    };
    let here =
        |(_, way): &(&str, Way)| !matches!(way, Way::Program(program, _) if !installed(program));
    both.into_iter().chain(one).filter(here).collect()
}

fn installed(program: &str) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdout(Stdio::null());
    version.status().is_ok()
}

/// A full copy of `source` to `target`, which is measured.
struct Full<'a> {
    source: &'a Path,
    target: &'a Path,
    mib: u64,
    format: &'static str,
}

impl Full<'_> {
    /// Copies once; what was written is gone after it.
    fn run(&self, way: Way, cost: &Cell<Cost>) -> Duration {
        let time = match way {
            Way::Copy => self.copy(cost),
            Way::Backup { digests } => self.back_up(digests, cost),
            Way::Convert(options) => {
                let formats = ["-f", "raw", "-O", self.format];
                let args = [&["convert"], options, &formats].concat();
                self.run_program("qemu-img", &args, cost)
            }
            Way::Program(program, args) => self.run_program(program, args, cost),
            Way::Daemon { knobs } => self.run_daemon(knobs, cost),
        };
        let removed = match self.target.is_dir() {
            true => fs::remove_dir_all(self.target),
            false => fs::remove_file(self.target),
        };
        removed.expect("removed");
        time
    }

    /// Does `work` in this process, or in one that it waits for, and notes what it took.
    fn cost(&self, cost: &Cell<Cost>, own: bool, work: impl FnOnce()) -> Duration {
        forget_peak();
        let before = processor_time("self");
        let time = timed(work);
        cost.set(Cost {
            processor: processor_time("self") - before,
            resident: status_bytes("self", "VmHWM").filter(|_| own),
            allocated: allocated(self.target),
        });
        time
    }

    fn copy(&self, cost: &Cell<Cost>) -> Duration {
        let outlet = Outlet::File {
            path: self.target.into(),
            format: match self.format {
                "raw" => Format::Raw,
                _ => Format::Qcow2,
            },
            overwrite: false,
        };
        let copy = FullCopy::of(DiskSpec::file(self.source));
        self.cost(cost, true, || {
            let copied = copy.run(outlet, &|_, _| {}, &AtomicBool::new(false));
            copied.expect("a copy");
        })
    }

    fn back_up(&self, digests: bool, cost: &Cell<Cost>) -> Duration {
        let options = Options::builder().digests(digests).build();
        let disk = DiskSpec::file(self.source).options(options.expect("options"));
        self.cost(cost, true, || {
            let run = Backup::to(self.target).disk(disk).start().expect("a run");
            assert!(run.wait().succeeded());
        })
    }

    fn run_program(&self, program: &str, args: &[&str], cost: &Cell<Cost>) -> Duration {
        let mut command = Command::new(program);
        command.args(args).arg(self.source).arg(self.target);
        command.stdout(Stdio::null());
        self.cost(cost, false, || {
            assert!(command.status().expect("the peer is installed").success());
            sync(self.target);
        })
    }

    fn run_daemon(&self, knobs: &str, cost: &Cell<Cost>) -> Duration {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", self.format]);
        create.arg(self.target).arg(format!("{}M", self.mib));
        assert!(create.status().expect("qemu-img").success());
        let mut daemon = daemon();
        let added = daemon.add_node("s", "raw", self.source, true);
        added.expect("a source");
        let added = daemon.add_node("t", self.format, self.target, false);
        added.expect("a target");
        let process = daemon.process();
        let before = processor_time(&process);
        let time = timed(|| {
            let done = daemon.back_up(&format!(r#""sync":"full"{knobs}"#));
            done.expect("it succeeds");
            sync(self.target);
        });
        cost.set(Cost {
            processor: processor_time(&process) - before,
            resident: daemon.resident_bytes(),
            allocated: allocated(self.target),
        });
        time
    }
}

fn daemon() -> StorageDaemon {
    let daemon = StorageDaemon::empty().expect("it answers");
    daemon.expect("it is installed")
}

fn full(lab: &Path, mib: u64, format: &'static str, title: &str) {
    let full = Full {
        source: &lab.join("disk.img"),
        target: &lab.join("target"),
        mib,
        format,
    };
    let ways = ways(format);
    let costs = vec![Cell::<Cost>::default(); ways.len()];
    let measured = ways.iter().zip(&costs);
    let mut contenders: Vec<_> = measured
        .map(|((name, way), cost)| Contender::new(name, || full.run(*way, cost)))
        .collect();
    rounds(ROUNDS, &mut contenders);
    print(title, mib, &contenders, &costs);
}

fn print(title: &str, mib: u64, contenders: &[Contender<'_>], costs: &[Cell<Cost>]) {
    let peers = contenders
        .iter()
        .filter(|contender| !contender.name().starts_with("cohort"));
    let fastest = peers.map(Contender::median).min().unwrap_or_default();
    println!(
        "\n{title}\n{:<20} {:>8} {:>8} {:>9} {:>6} {:>9} {:>10}",
        "", "s", "MiB/s", "×fastest", "CPU s", "MiB mem.", "MiB alloc."
    );
    for (contender, cost) in contenders.iter().zip(costs) {
        let (time, cost) = (contender.median().as_secs_f64(), cost.get());
        let resident = cost
            .resident
            .map_or("-".to_owned(), |bytes| (bytes >> 20).to_string());
        println!(
            "{:<20} {time:>8.2} {:>8.0} {:>9.2} {:>6.2} {resident:>9} {:>10}",
            contender.name(),
            mib as f64 / time,
            time / fastest.as_secs_f64(),
            cost.processor.as_secs_f64(),
            cost.allocated >> 20
        );
    }
}

/// Places of the dirty clusters, spread over a disk of so many.
fn dirty(clusters: u64) -> impl Iterator<Item = u64> {
    (0..DIRTY).map(move |number| number * (clusters / DIRTY) + number % 3)
}

fn increments(lab: &Path) {
    println!(
        "\nincrement: {DIRTY} dirty clusters of 64 KiB; ms, all of it: catalogue, target, syncs"
    );
    println!("{:<34} {:>8}", "", "ms");
    let four = 4096 << 20;
    make_image(&lab.join("disk.img"), 4096, 4);
    for (title, format) in [("daemon to raw", "raw"), ("daemon to qcow2", "qcow2")] {
        for synced in [false, true] {
            let time = daemon_increment(lab, format, four, synced);
            let how = if synced { ", synced" } else { ", not synced" };
            println!("{title:<16}{how:<18} {:>8.1}", time.as_secs_f64() * 1e3);
        }
    }
    for digests in [false, true] {
        let time = our_increment(lab, "disk.img", digests);
        let how = if digests { "" } else { ", no digests" };
        println!("cohort{how:<28} {:>8.1}", time.as_secs_f64() * 1e3);
    }
    for tib in [1_u64, 4, 16] {
        let name = format!("sparse-{tib}");
        // The file systems here end a page before 16 TiB.
        let length = (tib << 40) - 4096;
        let file = File::create(lab.join(&name)).expect("an image");
        if file.set_len(length).is_err() {
            println!("cohort, {tib} TiB sparse: the file system holds no such file");
            continue;
        }
        let time = our_increment(lab, &name, true);
        println!(
            "cohort, {tib:>2} TiB sparse            {:>8.1}",
            time.as_secs_f64() * 1e3
        );
    }
}

/// An increment of a served disk that goes by its view.
fn our_increment(lab: &Path, disk: &str, digests: bool) -> Duration {
    let (source, directory) = (lab.join(disk), lab.join("R"));
    let file = Arc::new(OsFile::open(&source, true).expect("a disk"));
    let device: Arc<dyn Device> = Arc::new(RawDevice::new("vda", file, true).expect("a disk"));
    let name = DiskName::new("vda").expect("a name");
    let tracked = Tracked::new(name, Arc::new(Gated::new(device))).expect("a gate");
    let options = Options::builder()
        .digests(digests)
        .build()
        .expect("options");
    let run = || {
        let disk = DiskSpec::served(tracked.clone()).options(options.clone());
        let run = Backup::to(&directory).disk(disk).start().expect("a run");
        assert!(run.wait().succeeded());
    };
    run();
    let clusters = tracked.gated().size() / CLUSTER;
    let mut contender = [Contender::new("ours", || {
        for cluster in dirty(clusters) {
            let data = vec![cluster as u8 | 1; CLUSTER as usize];
            tracked
                .gated()
                .write_at(&data, cluster * CLUSTER)
                .expect("written");
        }
        timed(run)
    })];
    rounds(2 * ROUNDS, &mut contender);
    let median = contender[0].median();
    fs::remove_dir_all(&directory).expect("removed");
    median
}

/// A backup of the same clusters by the daemon, which goes by a bitmap that it keeps.
fn daemon_increment(lab: &Path, format: &str, size: u64, synced: bool) -> Duration {
    let (source, target, socket) = (lab.join("disk.img"), lab.join("t"), lab.join("nbd"));
    let mut daemon = daemon();
    daemon
        .add_node("s", "raw", &source, false)
        .expect("a source");
    let socket = socket.display();
    for command in [
        r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"s","name":"b","granularity":65536}}"#.to_owned(),
        format!(r#"{{"execute":"nbd-server-start","arguments":{{"addr":{{"type":"unix","data":{{"path":"{socket}"}}}}}}}}"#),
        r#"{"execute":"block-export-add","arguments":{"type":"nbd","id":"e","node-name":"s","name":"s","writable":true}}"#.to_owned(),
    ] {
        daemon.call(&command).expect("it does");
    }
    let mut writes = Command::new("qemu-io");
    writes.args(["-f", "raw"]);
    for cluster in dirty(size / CLUSTER) {
        writes.args([
            "-c",
            &format!(
                "write -q -P {} {} 64k",
                cluster as u8 | 1,
                cluster * CLUSTER
            ),
        ]);
    }
    writes
        .arg(format!("nbd+unix:///s?socket={socket}"))
        .stdout(Stdio::null());
    assert!(writes.status().expect("qemu-io").success());
    let mut contender = [Contender::new("daemon", || {
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", format])
            .arg(&target)
            .arg(size.to_string())
            .status();
        assert!(made.expect("qemu-img").success());
        daemon
            .add_node("t", format, &target, false)
            .expect("a target");
        let time = timed(|| {
            daemon
                .back_up(r#""sync":"bitmap","bitmap":"b","bitmap-mode":"never""#)
                .expect("it succeeds");
            if synced {
                sync(&target);
            }
        });
        fs::remove_file(&target).expect("removed");
        time
    })];
    rounds(2 * ROUNDS, &mut contender);
    let median = contender[0].median();
    drop(contender);
    let _ = fs::remove_file(lab.join("nbd"));
    median
}
