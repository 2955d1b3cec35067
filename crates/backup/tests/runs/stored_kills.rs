//! Served disks with tracking stores whose process is killed, or whose power goes: what the next one finds.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cohort_backup::catalogue::Catalogue;
use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskSpec, OnUndecided, Options, Tracked, Unproven,
};
use cohort_bitmap::store::Mode;
use cohort_block::{Fault, Faulty, File, Gated, Operation, OsFile, RawDevice, TrackingStore};

use crate::served::Writers;
use crate::stored::{CLUSTERS, back_up, fill, noted, serve};
use crate::world::{
    CLUSTER, World, bad_cluster, committed, have_qemu_img, name, options, policy, qemu_img,
};

/// What was written to the disk before the fence may still be in a cache. If a point were durable first, a loss of power
/// could take the disk back to before those writes, and no view would say that the point is another disk.
#[test]
fn a_disk_is_durable_before_its_point_if_its_views_outlive_power() {
    for (mode, makes_a_point) in [(Mode::PowerLoss, false), (Mode::KilledProcess, true)] {
        let world = World::new();
        let path = world.raw("a.raw", CLUSTERS);
        let raw = RawDevice::new("disk", Arc::new(OsFile::open(&path, true).unwrap()), true);
        let faulty = Arc::new(Faulty::new(Arc::new(raw.unwrap())));
        let gated = Arc::new(Gated::new(faulty.clone()));
        let beside = TrackingStore::path_beside(&path);
        let size = CLUSTERS * CLUSTER;
        let store = TrackingStore::create(&beside, &path, size, mode).unwrap();
        let disk = Tracked::stored(name("a"), gated, &beside, store).unwrap();
        faulty.inject(Fault::error(Operation::Flush).times(1));
        let report = back_up(&world.repository(), &[(&disk, Options::default())]).0;
        assert_eq!(report.succeeded(), makes_a_point, "{mode:?}: {report:?}");
        if !makes_a_point {
            let DiskOutcome::Failed(error) = &report.disks[0].outcome else {
                panic!("{report:?}");
            };
            let said = error.to_string();
            assert!(said.contains("the disk must be durable first"), "{said}");
            // Once it can be flushed, all is copied that the failed run had to.
            fill(&disk, 2, 0x42);
            let (report, copies) = back_up(&world.repository(), &[(&disk, Options::default())]);
            let run = committed(report).run.unwrap().0;
            assert!(world.restored("a", run) == copies[0]);
        }
    }
}

#[test]
fn a_kill_costs_qemu_its_bitmap_and_us_a_bounded_excess() {
    let world = World::new();
    if !have_qemu_img() {
        return;
    }
    let path = world.raw("a.raw", CLUSTERS);
    world.raw("b.raw", CLUSTERS);
    // The first of the backups has made its sets by then.
    run_and_kill(&world, 2, 0);
    let beside = TrackingStore::inspect(&TrackingStore::path_beside(&path), None).unwrap();
    let sets = &beside.inspection.sets;
    assert!(
        !sets.is_empty() && sets.iter().all(|set| set.lost.is_none()),
        "{sets:?}"
    );
    for set in sets {
        println!(
            "ours, killed mid-storm: set {} of {}: {}",
            set.set,
            set.label.name,
            set.excess()
        );
        assert!(set.excess_bytes <= CLUSTERS * CLUSTER);
    }

    let image = world.path("q.qcow2");
    let image = image.as_os_str();
    let (create, size) = (
        ["create", "-q", "-f", "qcow2"].map(OsStr::new),
        OsStr::new("8M"),
    );
    qemu_img(&[&create[..], &[image, size]].concat());
    qemu_img(&["bitmap".as_ref(), "--add".as_ref(), image, "b".as_ref()]);
    let node = format!(
        "driver=qcow2,node-name=q,file.driver=file,file.filename={}",
        image.to_str().unwrap()
    );
    let socket = world.path("nbd");
    let server = format!("addr.type=unix,addr.path={}", socket.to_str().unwrap());
    let pid = world.path("pid");
    let daemon = Command::new("qemu-storage-daemon")
        .args(["--blockdev", &node, "--nbd-server", &server])
        .args([
            "--export",
            "type=nbd,id=e,node-name=q,writable=on",
            "--pidfile",
        ])
        .arg(&pid)
        .spawn()
        .unwrap();
    let mut daemon = Killed(daemon);
    // The file of its number is written once it listens.
    while fs::read_to_string(&pid).unwrap_or_default().is_empty() {
        assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended");
        std::thread::yield_now();
    }
    let url = format!("nbd+unix:///q?socket={}", socket.to_str().unwrap());
    let written = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 1M 64k", "-c", "flush", &url])
        .output()
        .unwrap();
    assert!(written.status.success(), "{written:?}");
    drop(daemon);
    let info = Command::new("qemu-img")
        .args(["info"])
        .arg(image)
        .output()
        .unwrap();
    let info = String::from_utf8_lossy(&info.stdout);
    let bitmap: Vec<_> = info
        .lines()
        .skip_while(|line| !line.contains("bitmaps:"))
        .take(6)
        .collect();
    println!("QEMU's, killed after one write:\n{}", bitmap.join("\n"));
    assert!(info.contains("in-use"), "{info}");
}

/// A target that tells at each of its flushes.
struct Told {
    inner: Arc<dyn File>,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl File for Told {
    cohort_block::forward_file!(inner: read_at, write_at, len, set_len);

    fn sync_data(&self) -> io::Result<()> {
        (self.tell)();
        self.inner.sync_data()
    }
}

/// Keeps what the backup directory and the store are as soon as a checkpoint named a partial, and puts both back when the
/// run is over: so a kill there leaves them.
#[test]
fn a_kill_after_a_checkpoint_is_continued_by_the_store() {
    let world = World::new();
    let path = world.raw("a.raw", 64);
    let a = serve(&path, Unproven::Use);
    let (repository, then) = (world.repository(), world.path("then"));
    let beside = TrackingStore::path_beside(&path);
    let tell: Arc<dyn Fn() + Send + Sync> = {
        let (repository, then, beside) = (repository.clone(), then.clone(), beside.clone());
        Arc::new(move || {
            let contents = cohort_backup::catalogue::read(&repository).unwrap();
            if then.exists() || contents.partials.is_empty() {
                return;
            }
            fs::create_dir(&then).unwrap();
            for entry in fs::read_dir(&repository).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), then.join(entry.file_name())).unwrap();
            }
            fs::copy(&beside, then.with_extension("store")).unwrap();
        })
    };
    let run = Backup::to(&repository)
        .disk(DiskSpec::served(a.clone()))
        .options(options(|o| o.policy(BitmapPolicy::Always).speed(8 << 20)))
        .target_files(move |_, inner| {
            Arc::new(Told {
                inner,
                tell: tell.clone(),
            })
        });
    committed(run.start().unwrap().wait());
    drop(a);
    assert!(then.exists(), "no checkpoint was made");
    fs::remove_dir_all(&repository).unwrap();
    fs::rename(&then, &repository).unwrap();
    fs::copy(then.with_extension("store"), &beside).unwrap();

    let before = world.contents();
    let view = before.views[&name("a")].partial.clone().unwrap();
    assert_eq!(view.tracking.sets.len(), 2, "remaining and since: {view:?}");
    let row = &before.partials[&name("a")];
    let a = serve(&path, Unproven::Use);
    fill(&a, 2, 0x77);
    let (report, copies) = back_up(&repository, &[(&a, Options::default())]);
    let report = committed(report);
    let disk = &report.disks[0];
    assert!(noted(disk, "is known from"), "{:?}", disk.notes);
    assert!(disk.continued.unwrap().kept_bytes > 0);
    // What the checkpoint lacked, the cluster that was written since, and nothing else.
    assert!(disk.copied_bytes <= row.remaining_bytes + CLUSTER);
    let restored = world.restored("a", report.run.unwrap().0);
    assert!(restored == copies[0] && restored == fs::read(&path).unwrap());
    world.check();
}

/// Where the process that is to be killed finds its world.
const FOLDER: &str = "COHORT_TEST_STORED_FOLDER";

/// Not a test by itself: the process that the next one kills. Writes to two disks and backs them up, for ever.
#[test]
#[ignore = "run by the test that kills it"]
fn a_process_that_writes_until_it_is_killed() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let disks = ["a.raw", "b.raw"].map(|disk| serve(&folder.join(disk), Unproven::Use));
    let _writers = [Writers::start(&disks[0], 11), Writers::start(&disks[1], 12)];
    println!("\nready");
    let policies = [
        BitmapPolicy::Always,
        BitmapPolicy::OnSuccess,
        BitmapPolicy::Never,
    ];
    for (round, policy_of_all) in policies.into_iter().cycle().enumerate() {
        let options = policy(policy_of_all);
        let spec = |disk: &Arc<Tracked>| DiskSpec::served(disk.clone()).options(options.clone());
        let mut last = spec(&disks[1]);
        if round % 2 == 1 {
            last = last.through(bad_cluster(30));
        }
        let run = Backup::to(folder.join("R"))
            .disk(spec(&disks[0]))
            .disk(last);
        run.start().unwrap().wait();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs that process, and kills it after so many of the backups it began.
fn run_and_kill(world: &World, runs: u64, spins: u64) {
    let child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "stored_kills::a_process_that_writes_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, world.path("."))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
    let runs_now = || {
        cohort_backup::catalogue::read(world.repository())
            .map_or(0, |contents| contents.runs.len() as u64)
    };
    let first = runs_now();
    while runs_now() < first + runs {
        std::thread::yield_now();
    }
    // Somewhere within a run: where, the machine's load decides.
    for _ in 0..spins {
        runs_now();
    }
}

/// Kills in one world: with each the directory grows, and with it what is restored after the next.
const KILLS: u64 = 24;

#[test]
fn whatever_a_kill_interrupts_the_next_run_restores_identically() {
    let kills = env::var("COHORT_TORTURE_RUN_KILLS").ok();
    let kills: u64 = kills.map_or(KILLS, |text| text.parse().unwrap());
    for done in (0..kills).step_by(KILLS as usize) {
        kill_in_one_world(KILLS.min(kills - done));
    }
    println!("{kills} kills, every restore identical");
}

fn kill_in_one_world(kills: u64) {
    let world = World::new();
    let paths = [world.raw("a.raw", CLUSTERS), world.raw("b.raw", CLUSTERS)];
    for kill in 0..kills {
        run_and_kill(&world, 1 + kill % 3, kill * 2);
        let before = world.contents();
        let disks = [0, 1].map(|disk| serve(&paths[disk], Unproven::Use));
        let keep = options(|o| o.undecided(OnUndecided::Keep));
        let all = [(&disks[0], keep.clone()), (&disks[1], keep)];
        let (report, copies) = back_up(&world.repository(), &all);
        let report = committed(report);
        let run = report.run.unwrap().0;
        for (disk, copy) in report.disks.iter().zip(&copies) {
            let known = before.views.contains_key(&disk.name);
            assert_eq!(noted(disk, "is known from"), known, "{:?}", disk.notes);
            assert!(
                world.restored(disk.name.as_str(), run) == *copy,
                "kill {kill}, {}",
                disk.name
            );
        }
        for disk in &disks {
            disk.close().unwrap();
        }
    }
    world.check();
    // The directory's lock went with the process that was killed.
    drop(Catalogue::open(world.repository()).unwrap());
}
