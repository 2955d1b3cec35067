//! Runs of devices whose instant somebody else keeps: he knows what changed, and may fail to keep it.

use std::sync::Arc;

use cohort_backup::catalogue::{self, Instant, RunId};
use cohort_backup::{
    Backup, BitmapPolicy, Budget, DiskError, DiskOutcome, DiskReport, DiskSpec, ErrorPolicy, Keeper,
};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{Device, Fault, Faulty, MemoryDevice, Operation};

use crate::world::{CLUSTER, World, options};

const CLUSTERS: u64 = 32;

/// Says these clusters changed since that run, and whether it kept its word.
#[derive(Debug)]
struct Says {
    size: u64,
    since: Result<u64, &'static str>,
    clusters: &'static [u64],
    kept: Result<(), &'static str>,
}

impl Keeper for Says {
    fn changes(&self, anchor: RunId) -> Result<DirtyBitmap, String> {
        assert_eq!(self.since.map_err(str::to_owned)?, anchor.0);
        let mut dirty = DirtyBitmap::new(self.size, Granularity::DEFAULT).unwrap();
        for cluster in self.clusters {
            dirty.set(cluster * CLUSTER, CLUSTER).unwrap();
        }
        Ok(dirty)
    }

    fn kept(&self) -> Result<(), String> {
        self.kept.map_err(str::to_owned)
    }
}

fn says(since: u64, clusters: &'static [u64]) -> Says {
    Says {
        size: CLUSTERS * CLUSTER,
        since: Ok(since),
        clusters,
        kept: Ok(()),
    }
}

fn run(world: &World, device: Arc<dyn Device>, keeper: Says) -> DiskReport {
    let spec = DiskSpec::instant(device, Arc::new(keeper)).name("vda");
    let skip = ErrorPolicy::Skip {
        budget: Budget::NONE,
        limit: 1,
    };
    let options = options(|o| o.on_source_error(skip).policy(BitmapPolicy::OnSuccess));
    let backup = Backup::to(world.path("R")).disk(spec.options(options));
    let report = backup.start().unwrap().wait();
    report.disks.into_iter().next().unwrap()
}

/// Every cluster full of the same byte: of the run and the cluster.
fn write(device: &MemoryDevice, cluster: u64, byte: u8) {
    device
        .write_at(&vec![byte; CLUSTER as usize], cluster * CLUSTER)
        .unwrap();
}

#[test]
fn what_the_keeper_says_is_copied_and_nothing_else() {
    let world = World::new();
    let disk = Arc::new(MemoryDevice::new("m", CLUSTERS * CLUSTER));
    (0..8).for_each(|cluster| write(&disk, cluster, 1));
    let first = run(&world, disk.clone(), says(0, &[]));
    assert_eq!(
        first.copied_bytes,
        8 * CLUSTER,
        "there is no point to compare with"
    );
    assert!(first.notes.is_empty(), "{:?}", first.notes);
    (0..3).for_each(|cluster| write(&disk, cluster, 2));
    let second = run(&world, disk.clone(), says(1, &[0, 2]));
    assert_eq!(second.copied_bytes, 2 * CLUSTER, "his word is taken");
    let DiskOutcome::Committed(point) = &second.outcome else {
        panic!("{second:?}")
    };
    assert_eq!(point.instant, Instant::Proven);
    let unknown = Says {
        since: Err("it was restarted"),
        ..says(2, &[])
    };
    let third = run(&world, disk.clone(), unknown);
    assert_eq!(
        third.copied_bytes, CLUSTER,
        "compared: he had kept one from us"
    );
    assert!(
        third.notes[0].contains("it was restarted"),
        "{:?}",
        third.notes
    );
    let other = Says {
        size: CLUSTER,
        ..says(3, &[])
    };
    let fourth = run(&world, disk, other);
    assert!(
        fourth.notes[0].contains("speaks of 65536 bytes"),
        "{:?}",
        fourth.notes
    );
}

#[test]
fn an_instant_that_was_not_kept_makes_no_point() {
    let world = World::new();
    let disk = Arc::new(MemoryDevice::new("m", CLUSTERS * CLUSTER));
    write(&disk, 0, 1);
    let lost = Says {
        kept: Err("its job ended"),
        ..says(0, &[])
    };
    let report = run(&world, disk, lost);
    let DiskOutcome::Failed(error @ DiskError::InstantLost { .. }) = &report.outcome else {
        panic!("{report:?}")
    };
    assert!(error.to_string().contains("its job ended"), "{error}");
    assert!(catalogue::read(world.path("R")).unwrap().points.is_empty());
}

#[test]
fn what_the_point_lacks_is_copied_though_the_keeper_never_heard_of_it() {
    let world = World::new();
    let disk = Arc::new(MemoryDevice::new("m", CLUSTERS * CLUSTER));
    (0..8).for_each(|cluster| write(&disk, cluster, 1));
    let faulty = Arc::new(Faulty::new(disk.clone()));
    faulty.inject(Fault::error(Operation::Read).within(5 * CLUSTER..6 * CLUSTER));
    let first = run(&world, faulty, says(0, &[]));
    assert_eq!(first.skipped.len(), 1, "{first:?}");
    let second = run(&world, disk.clone(), says(1, &[]));
    assert_eq!(second.copied_bytes, CLUSTER, "the hole");
    // So is what a disk grew by.
    let grown = Arc::new(MemoryDevice::new("m", (CLUSTERS + 2) * CLUSTER));
    let mut bytes = vec![0; (CLUSTERS * CLUSTER) as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    grown.write_at(&bytes, 0).unwrap();
    write(&grown, CLUSTERS + 1, 9);
    let larger = Says {
        size: (CLUSTERS + 2) * CLUSTER,
        ..says(2, &[])
    };
    let third = run(&world, grown, larger);
    assert_eq!(third.copied_bytes, CLUSTER, "{third:?}");
}
