//! Any geometry: disks of any length, granules larger and smaller than clusters, disks that grow and shrink between runs,
//! runs that fail at any place and are continued.

use std::fs;
use std::sync::Arc;

use cohort_backup::{BitmapPolicy, DiskOutcome, DiskSpec, OnUndecided, Options, Tracked};
use cohort_bitmap::Granularity;
use cohort_block::{Device, Fault, Faulty, Gated, MemoryDevice, Operation};
use proptest::prelude::*;

use crate::served::run;
use crate::world::{World, committed, name, options, read_all};

/// A run: how long the disk is by then, what is written to it before, and where reading fails first, if anywhere.
#[derive(Clone, Debug)]
struct Round {
    size: u64,
    writes: Vec<(u64, u64, u8)>,
    fails_at: Option<u64>,
    cluster: u64,
    workers: usize,
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        1..=2000_u64,
        1..=900_000_u64,
        // Around the ends of sectors, granules and clusters.
        (
            1..=14_u64,
            -1..=1_i64,
            prop_oneof![Just(512_u64), Just(4096), Just(65536)]
        )
            .prop_map(|(count, off, unit)| (count * unit).saturating_add_signed(off)),
    ]
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let writes = prop::collection::vec((any::<u64>(), 1..=70_000_u64, any::<u8>()), 0..6);
    let cluster = (12..=21_u32).prop_map(|shift| 1_u64 << shift);
    let round = (
        sizes(),
        writes,
        prop::option::of(any::<u64>()),
        cluster,
        1..=3_usize,
    );
    let round = round.prop_map(|(size, writes, fails_at, cluster, workers)| Round {
        size,
        writes,
        fails_at,
        cluster,
        workers,
    });
    // Half of the time it keeps its size.
    (prop::collection::vec(round, 2..=4), any::<bool>()).prop_map(|(mut rounds, same)| {
        let size = rounds[0].size;
        if same {
            rounds.iter_mut().for_each(|round| round.size = size);
        }
        rounds
    })
}

fn options_of(round: &Round) -> Options {
    options(|o| {
        o.policy(BitmapPolicy::Always)
            .undecided(OnUndecided::Keep)
            .cluster(round.cluster)
            .workers(round.workers)
    })
}

fn failing(spec: DiskSpec, round: &Round) -> DiskSpec {
    let Some(at) = round.fails_at.map(|at| at % round.size) else {
        return spec;
    };
    spec.through(move |device: Arc<dyn Device>| {
        let faulty = Faulty::new(device);
        let _ = faulty.inject(Fault::error(Operation::Read).within(at..at + 1));
        Arc::new(faulty)
    })
}

fn write_all(device: &dyn Device, round: &Round) {
    for (at, length, byte) in &round.writes {
        let at = at % round.size;
        let length = (*length).min(round.size - at);
        device.write_at(&vec![*byte; length as usize], at).unwrap();
    }
}

/// What a longer or shorter disk holds of what was there.
fn resized(bytes: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(size as usize, 0);
    bytes
}

fn served_rounds(granule: u32, rounds: &[Round]) {
    let world = World::new();
    let granule = Granularity::new(1 << granule).unwrap();
    let mut held: Option<Arc<Tracked>> = None;
    let mut bytes = Vec::new();
    for round in rounds {
        let fits = held
            .as_ref()
            .is_some_and(|disk| disk.gated().size() == round.size);
        let disk = held.filter(|_| fits).unwrap_or_else(|| {
            let device = MemoryDevice::with_bytes("a", &resized(&bytes, round.size));
            let gated = Arc::new(Gated::new(Arc::new(device)));
            Tracked::with_granularity(name("a"), gated, granule).unwrap()
        });
        write_all(&**disk.gated(), round);
        bytes = read_all(&**disk.gated());
        let spec = DiskSpec::served(disk.clone()).options(options_of(round));
        let (report, copies) = run(&world, &[(&disk, failing(spec, round))]);
        let committed = matches!(report.disks[0].outcome, DiskOutcome::Committed(_));
        assert!(committed || round.fails_at.is_some(), "{report:?}");
        if committed {
            assert!(world.restored("a", report.run.unwrap().0) == copies[0]);
        }
        held = Some(disk);
    }
    let disk = held.unwrap();
    let spec = DiskSpec::served(disk.clone()).options(options_of(&rounds[0]));
    let (report, copies) = run(&world, &[(&disk, spec)]);
    let last = committed(report).run.unwrap().0;
    assert!(world.restored("a", last) == copies[0]);
    world.check();
}

fn file_rounds(rounds: &[Round]) {
    let world = World::new();
    let path = world.path("a.raw");
    fs::write(&path, b"").unwrap();
    for round in rounds.iter().chain([&Round {
        fails_at: None,
        ..rounds[0].clone()
    }]) {
        let device = MemoryDevice::with_bytes("a", &resized(&fs::read(&path).unwrap(), round.size));
        write_all(&device, round);
        fs::write(&path, read_all(&device)).unwrap();
        let spec = DiskSpec::file(&path).format(cohort_block::Format::Raw);
        let spec = failing(spec.options(options_of(round)), round);
        let report = world.run([spec]);
        let committed = matches!(report.disks[0].outcome, DiskOutcome::Committed(_));
        assert!(committed || round.fails_at.is_some(), "{report:?}");
        if committed {
            let restored = world.restored("a", report.run.unwrap().0);
            assert!(restored == fs::read(&path).unwrap());
        }
    }
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn served_disks_of_any_geometry_restore_identically(granule in 9..=20_u32, rounds in rounds()) {
        served_rounds(granule, &rounds);
    }

    #[test]
    fn files_of_any_geometry_restore_identically(rounds in rounds()) {
        file_rounds(&rounds);
    }
}
