//! The copy driver is put through what an engine may do to it, by the engine's own kit: paused, cancelled, taken
//! along by a peer, never launched, its hooks repeated; with one file, and with a disk that is served and fenced.

use std::sync::{MutexGuard, PoisonError};

use cohort_block::{Device, Gated, MemoryDevice};
use cohort_job::testing::Check;

use super::*;
use crate::catalogue::{DiskName, ImageName, Partial, list_files};
use crate::{BitmapPolicy, DiskSpec, Options, Tracked};

const CLUSTER: u64 = 64 << 10;
const CLUSTERS: u64 = 3;

/// A directory, and a disk that is on its way into it.
struct World {
    dir: tempfile::TempDir,
    disk: Arc<Disk>,
    served: Option<Served>,
}

/// A served disk, and what was dirty before the run took its bitmap.
struct Served {
    tracked: Arc<Tracked>,
    before: Vec<u64>,
}

/// What a driver leaves behind: files, the partial that the catalogue names, and the disk's dirty granules.
type Traces = (
    Vec<std::ffi::OsString>,
    Option<(ImageName, Decision)>,
    Vec<u64>,
);

impl World {
    /// A fresh one, and the driver of its disk, as a run makes both.
    fn with_driver(served: bool, policy: BitmapPolicy) -> (Self, BackupDriver) {
        let dir = tempfile::tempdir().unwrap();
        let device = MemoryDevice::new("vda", CLUSTERS * CLUSTER);
        device.write_at(&[7; CLUSTER as usize], CLUSTER).unwrap();
        let name = DiskName::new("vda").unwrap();
        let gated = || Arc::new(Gated::new(Arc::new(device)));
        let (spec, tracked) = if served {
            let tracked = Tracked::new(name.clone(), gated()).unwrap();
            (DiskSpec::served(Arc::clone(&tracked)), Some(tracked))
        } else {
            (DiskSpec::device(gated()), None)
        };
        let options = Options::builder()
            .policy(policy)
            .workers(2)
            .build()
            .unwrap();
        let plan = Backup::to(dir.path()).disk(spec).options(options);

        let catalogue = Arc::new(Catalogue::open_or_create(dir.path()).unwrap());
        let opened = plan.open_all(std::slice::from_ref(&name)).unwrap();
        let (mut surveys, _) = plan.survey_all(&[name], opened, &catalogue).unwrap();
        let run = catalogue.begin_run(&[]).unwrap();
        let launch = Launch {
            journal: Lent::new(Arc::clone(&catalogue)),
            catalogue: Arc::clone(&catalogue),
            engine: Engine::builder().threads(1).build().unwrap(),
            run,
            hurry: Arc::default(),
            governor: crate::governor::Governor::new(true),
            plan,
        };
        let Ok(disk) = launch.prepare(surveys.remove(0)) else {
            panic!("a fresh disk can be prepared")
        };
        let served = tracked.map(|tracked| {
            let everything = tracked.all_dirty();
            let mut closed = tracked
                .gated()
                .close("test", std::time::Instant::now() + LONG)
                .unwrap();
            served::start(&disk, &mut closed);
            drop(closed);
            let before = everything.dirty_offsets().collect();
            Served { tracked, before }
        });
        launch.journal.take_back();
        let driver = BackupDriver::new(Arc::clone(&disk));
        (Self { dir, disk, served }, driver)
    }

    fn traces(&self) -> Traces {
        let contents = self.disk.catalogue.snapshot().unwrap();
        let told = |partial: &Partial| (partial.file.clone(), partial.decision);
        let dirty = self
            .served
            .as_ref()
            .map(|served| match served.tracked.dirty() {
                Some(dirty) => dirty.dirty_offsets().collect(),
                // A run has the bitmap: what it was.
                None => served.before.clone(),
            });
        // A target of which it is not clear yet what becomes of it is no trace.
        let open = self
            .disk
            .state()
            .target
            .as_ref()
            .map(|target| target.name().to_string());
        let mut files = list_files(self.dir.path()).unwrap();
        files.retain(|file| open.as_deref().is_none_or(|open| file != open));
        (
            files,
            contents.partials.values().next().map(told),
            dirty.unwrap_or_default(),
        )
    }
}

/// Longer than a flush takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Checks the driver over a fresh world for each run.
fn check(served: bool, policy: BitmapPolicy) {
    type Slot = Arc<Mutex<Option<World>>>;
    fn lock(slot: &Slot) -> MutexGuard<'_, Option<World>> {
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
    let here = Slot::default();
    let fresh = Arc::clone(&here);
    let passed = Check::new(move || {
        let (world, driver) = World::with_driver(served, policy);
        *lock(&fresh) = Some(world);
        driver
    })
    .observe(move || lock(&here).as_ref().map(World::traces))
    .moments(4)
    .orders(2)
    .patience(LONG)
    .run();
    match passed {
        Ok(passed) => println!("served: {served}, {policy}: {passed}"),
        Err(broken) => panic!("served: {served}, {policy}: {broken}"),
    }
}

#[test]
fn the_copy_driver_of_a_file_bears_all_that_an_engine_may_do() {
    check(false, BitmapPolicy::Always);
}

#[test]
fn the_copy_driver_of_a_served_disk_bears_all_that_an_engine_may_do() {
    check(true, BitmapPolicy::Always);
    check(true, BitmapPolicy::OnSuccess);
}
