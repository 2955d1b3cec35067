//! Random runs: modes, policies, faults, answers and cancels in every order, with writers on the served disks.
//! Whatever commits restores to what the disk was, and no round leaves anything unexplained.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};

use cohort_backup::{
    BitmapPolicy, Budget, DiskOutcome, DiskSpec, ErrorPolicy, OnUndecided, Options, SyncMode,
    Tracked,
};
use cohort_block::{Device, Fault, Faulty, Operation};
use cohort_job::Disposition;

use crate::served::{Writers, served};
use crate::world::{BrokenFile, CLUSTER, World, options, read_all, write};

/// A seeded source of choices: xorshift64.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn random_options(choices: &mut Choices) -> Options {
    use BitmapPolicy::{Always, Ask, Never, OnSuccess};
    let policy = choices.of(&[OnSuccess, Always, Always, Ask, Never]);
    let mode = match policy {
        Never => SyncMode::Bitmap,
        OnSuccess | Always | Ask => choices.of(&[
            SyncMode::Bitmap,
            SyncMode::Bitmap,
            SyncMode::Full,
            SyncMode::Top,
        ]),
    };
    let undecided = choices.of(&[
        OnUndecided::Refuse,
        OnUndecided::Keep,
        OnUndecided::Keep,
        OnUndecided::Discard,
    ]);
    let (workers, cluster) = (
        choices.of(&[1, 3, 8]),
        choices.of(&[16 << 10, 64 << 10, 128 << 10]),
    );
    let skip = ErrorPolicy::Skip {
        budget: Budget::NONE,
        limit: 2,
    };
    let on_error = choices.of(&[ErrorPolicy::Report, ErrorPolicy::Report, skip]);
    options(|o| {
        o.policy(policy)
            .mode(mode)
            .undecided(undecided)
            .workers(workers)
            .cluster(cluster)
            .on_source_error(on_error)
    })
}

/// Perhaps a bad sector.
fn random_fault(choices: &mut Choices, spec: DiskSpec) -> DiskSpec {
    if choices.below(3) != 0 {
        return spec;
    }
    let (cluster, nth) = (choices.below(40), choices.below(3) + 1);
    spec.through(move |device: Arc<dyn Device>| {
        let faulty = Faulty::new(device);
        let at = cluster * CLUSTER + 700;
        let _ = faulty.inject(Fault::error(Operation::Read).within(at..at + 1).nth(nth));
        Arc::new(faulty)
    })
}

fn random_rounds(seed: u64, rounds: u64) {
    let mut choices = Choices(seed);
    let world = World::new();
    let file = world.raw("c.raw", 40);
    let (a, b) = (served("a"), served("b"));
    let writers = [Writers::start(&a, seed), Writers::start(&b, seed + 1)];
    let mut truth: HashMap<(String, u64), Vec<u8>> = HashMap::new();
    for round in 0..rounds {
        write(
            &file,
            choices.below(40 * CLUSTER - 5000),
            round as u8,
            choices.below(5000) + 1,
        );
        let of = |tracked: &Arc<Tracked>| DiskSpec::served(tracked.clone());
        let mut run = world.backup().individual(choices.below(4) == 0);
        for spec in [of(&a), of(&b), DiskSpec::file(&file)] {
            let options = random_options(&mut choices);
            run = run.disk(random_fault(&mut choices, spec.options(options)));
        }
        let copies = Arc::new(Mutex::new(Vec::new()));
        let (inside, devices) = (
            copies.clone(),
            [a.gated().device().clone(), b.gated().device().clone()],
        );
        run = run.inside_fence(move || {
            *inside.lock().unwrap() = devices.iter().map(|device| read_all(&**device)).collect();
        });
        if choices.below(6) == 0 {
            let (room, sync_fails) = (choices.below(30) * CLUSTER, choices.below(2) == 0);
            run = run.target_files(move |_, inner| {
                Arc::new(BrokenFile {
                    inner,
                    room,
                    sync_fails,
                })
            });
        }
        let Ok(running) = run.start() else { continue };
        match choices.below(8) {
            0 => running.cancel(Disposition::Keep),
            1 => running.cancel(Disposition::Discard),
            2 => running.hurry(),
            _ => {}
        }
        let report = running.wait();
        let copies = copies.lock().unwrap();
        for disk in &report.disks {
            let DiskOutcome::Committed(point) = &disk.outcome else {
                continue;
            };
            let mut bytes = match disk.name.as_str() {
                "a" => copies[0].clone(),
                "b" => copies[1].clone(),
                _ => fs::read(&file).unwrap(),
            };
            let restored = world.restored(disk.name.as_str(), report.run.unwrap().0);
            for hole in &point.skipped {
                let hole = hole.offset as usize..(hole.offset + hole.length) as usize;
                bytes[hole.clone()].copy_from_slice(&restored[hole]);
            }
            assert!(restored == bytes, "seed {seed}, round {round}: {disk:?}");
            truth.insert((disk.name.to_string(), report.run.unwrap().0), bytes);
        }
    }
    world.check();
    writers
        .into_iter()
        .for_each(|writers| assert!(writers.stop() > 0));
    assert!(!truth.is_empty());
    for ((disk, run), bytes) in truth {
        assert!(
            world.restored(&disk, run) == bytes,
            "seed {seed}: {disk}@{run} changed later"
        );
    }
}

#[test]
fn random_runs_commit_the_truth_and_leave_nothing_unexplained() {
    for seed in [100, 101, 117] {
        random_rounds(seed, 8);
    }
}
