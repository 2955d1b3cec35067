//! One disk fails midway: what it and its peers are left with, under each policy, alone and grouped.

use std::fs;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cohort_backup::catalogue::{Decision, Instant};
use cohort_backup::{
    BitmapPolicy, Budget, DiskError, DiskOutcome, DiskSpec, ErrorPolicy, OnUndecided,
};
use cohort_block::{Device, Fault, Faulty, File, Operation};
use cohort_job::Cause;

use crate::world::{BrokenFile, CLUSTER, World, bad_cluster, committed, disk, options, write};

const POLICIES: [BitmapPolicy; 4] = [
    BitmapPolicy::OnSuccess,
    BitmapPolicy::Always,
    BitmapPolicy::Ask,
    BitmapPolicy::Never,
];

#[test]
fn failing_disk_takes_its_group_along_and_names_disk_and_byte() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 20), world.raw("b.raw", 5));
    let bad = DiskSpec::file(&a).through(bad_cluster(17));
    let report = world.run([bad, DiskSpec::file(&b)]);
    let DiskOutcome::Failed(error) = &disk(&report, "a").outcome else {
        panic!("{report:?}")
    };
    let DiskError::Read(read) = error else {
        panic!("{error:?}")
    };
    assert_eq!(read.offset(), 17 * CLUSTER + 512);
    let message = error.to_string();
    assert!(
        message.contains("a.raw") && message.contains(&(17 * CLUSTER + 512).to_string()),
        "{message}"
    );
    assert!(matches!(
        disk(&report, "b").outcome,
        DiskOutcome::Aborted {
            cause: Cause::Failed(_),
            ..
        }
    ));
    assert!(world.points("a").is_empty() && world.points("b").is_empty());
    world.check();
    world.commit([DiskSpec::file(&a), DiskSpec::file(&b)]);
    assert!(world.restored("a", 2) == fs::read(&a).unwrap());
    world.check();
}

/// After a full point: everything changes, cluster 9 cannot be read; then all is well again.
fn fails_midway_then_succeeds(policy: BitmapPolicy, grouped: bool) {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 12), world.raw("b.raw", 4));
    let options = options(|o| o.policy(policy).workers(1).cluster(CLUSTER));
    let spec = |path| DiskSpec::file(path).options(options.clone());
    world.commit([spec(&a), spec(&b)]);
    write(&a, 0, 0x55, 12 * CLUSTER);
    write(&b, 0, 0x66, 4 * CLUSTER);
    let run = world.backup().disk(spec(&a).through(bad_cluster(9)));
    let run = if grouped { run.disk(spec(&b)) } else { run };
    let report = run.start().unwrap().wait();
    let left = disk(&report, "a").left.clone();
    let expected = match policy {
        BitmapPolicy::Always => Some(Decision::Keep),
        BitmapPolicy::Ask => Some(Decision::Undecided),
        BitmapPolicy::OnSuccess | BitmapPolicy::Never => None,
    };
    assert_eq!(left.as_ref().map(|partial| partial.decision), expected);
    assert_eq!(
        world.contents().partials.get(&crate::world::name("a")),
        left.as_ref()
    );
    assert_eq!(world.points("a"), [1]);
    world.check();

    let again = crate::world::options(|o| o.undecided(OnUndecided::Keep).policy(policy));
    let report = world
        .backup()
        .disk(DiskSpec::file(&a).options(again))
        .disk(spec(&b));
    // A peer under ask is refused until somebody answers; this disk goes on without it.
    let report = report.start().unwrap().wait();
    let copied = disk(&report, "a").copied_bytes;
    // What the partial holds is not copied again: at least the clusters before the chunk that failed.
    match left {
        Some(left) => assert_eq!(copied, 12 * CLUSTER - left.durable_bytes, "{policy}"),
        None => assert_eq!(copied, 12 * CLUSTER, "{policy}"),
    }
    assert!(world.restored("a", 3) == fs::read(&a).unwrap());
    assert!(world.restored("a", 1).iter().all(|&byte| byte != 0x55));
    world.check();
}

#[test]
fn each_policy_alone_keeps_or_drops_the_partial_of_a_failed_disk() {
    POLICIES
        .into_iter()
        .for_each(|policy| fails_midway_then_succeeds(policy, false));
}

#[test]
fn each_policy_grouped_keeps_or_drops_the_partial_of_a_failed_disk() {
    POLICIES
        .into_iter()
        .for_each(|policy| fails_midway_then_succeeds(policy, true));
}

#[test]
fn many_failed_rounds_under_always_end_in_a_true_point() {
    let world = World::new();
    let a = world.raw("a.raw", 24);
    let options = options(|o| o.policy(BitmapPolicy::Always).workers(2));
    for round in 0..5u64 {
        write(
            &a,
            (round * 7 % 24) * CLUSTER + round,
            round as u8 + 1,
            3 * CLUSTER / 2,
        );
        let bad = DiskSpec::file(&a)
            .options(options.clone())
            .through(bad_cluster(round * 5 % 24));
        let report = world.run([bad]);
        assert!(!report.succeeded());
        world.check();
    }
    world.commit([DiskSpec::file(&a).options(options)]);
    let last = *world.points("a").last().unwrap();
    assert!(world.restored("a", last) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn skipped_clusters_are_listed_and_copied_by_the_next_run() {
    let world = World::new();
    let a = world.raw("a.raw", 12);
    let skip = |limit| {
        options(|o| {
            o.on_source_error(ErrorPolicy::Skip {
                budget: Budget::NONE,
                limit,
            })
        })
    };
    let bad = || DiskSpec::file(&a).through(bad_cluster(5));
    let report = world.commit([bad().options(skip(1))]);
    let [hole] = disk(&report, "a").skipped[..] else {
        panic!("{report:?}")
    };
    assert_eq!((hole.offset, hole.length), (5 * CLUSTER, CLUSTER));
    let DiskOutcome::Committed(point) = &disk(&report, "a").outcome else {
        unreachable!()
    };
    assert!(point.incomplete());
    let mut expected = fs::read(&a).unwrap();
    expected[5 * CLUSTER as usize..6 * CLUSTER as usize].fill(0);
    assert!(world.restored("a", 1) == expected);

    let report = world.commit([DiskSpec::file(&a)]);
    assert_eq!(disk(&report, "a").copied_bytes, CLUSTER);
    assert!(world.restored("a", 2) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn more_skipped_than_allowed_fails_as_incomplete_with_the_list() {
    let world = World::new();
    let a = world.raw("a.raw", 12);
    let options = options(|o| {
        o.workers(1).on_source_error(ErrorPolicy::Skip {
            budget: Budget::NONE,
            limit: 1,
        })
    });
    let spec = DiskSpec::file(&a)
        .options(options)
        .through(|device| bad_cluster(8)(bad_cluster(2)(device)));
    let report = world.run([spec]);
    let DiskOutcome::Failed(DiskError::Incomplete {
        skipped, limit: 1, ..
    }) = &disk(&report, "a").outcome
    else {
        panic!("{report:?}")
    };
    let offsets: Vec<_> = skipped.iter().map(|range| range.offset / CLUSTER).collect();
    assert_eq!(offsets, [2, 8]);
    assert!(world.points("a").is_empty());
    world.check();
}

#[test]
fn errors_that_pass_are_survived_within_the_budget_and_no_longer() {
    let budget = Budget {
        attempts: 6,
        back_off: Duration::from_millis(1),
        total: Duration::from_secs(10),
    };
    for (times, well) in [(12, true), (1000, false)] {
        let world = World::new();
        let a = world.raw("a.raw", 12);
        let flaky = move |device: Arc<dyn Device>| -> Arc<dyn Device> {
            let faulty = Faulty::new(device);
            let _ = faulty.inject(
                Fault::error(Operation::Read)
                    .within(6 * CLUSTER..7 * CLUSTER)
                    .times(times),
            );
            Arc::new(faulty)
        };
        let options = options(|o| o.on_source_error(ErrorPolicy::Ignore(budget)));
        let report = world.run([DiskSpec::file(&a).options(options).through(flaky)]);
        assert_eq!(report.succeeded(), well, "{report:?}");
        if well {
            assert!(world.restored("a", 1) == fs::read(&a).unwrap());
        }
        world.check();
    }
}

#[test]
fn full_directory_fails_the_group_and_the_next_run_just_works() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 12), world.raw("b.raw", 4));
    let run = || {
        world
            .backup()
            .disk(DiskSpec::file(&a))
            .disk(DiskSpec::file(&b))
    };
    let full = run().target_files(|name, file| {
        let room = if name.disk().as_str() == "a" {
            5 * CLUSTER
        } else {
            u64::MAX
        };
        Arc::new(BrokenFile {
            room,
            ..BrokenFile::new(file)
        })
    });
    let report = full.start().unwrap().wait();
    let DiskOutcome::Failed(DiskError::TargetFull { .. }) = &disk(&report, "a").outcome else {
        panic!("{report:?}")
    };
    assert!(world.points("a").is_empty() && world.points("b").is_empty());
    world.check();
    committed(run().start().unwrap().wait());
    assert!(world.restored("a", 2) == fs::read(&a).unwrap());
}

/// The run that continues it finds no room for data, nor for the tables of a seal.
#[test]
fn full_directory_takes_nothing_from_what_an_earlier_run_kept() {
    for (policy, answer) in [
        (BitmapPolicy::Always, OnUndecided::Refuse),
        (BitmapPolicy::Ask, OnUndecided::Keep),
    ] {
        let world = World::new();
        let a = world.raw("a.raw", 24);
        write(&a, 0, 0x55, 24 * CLUSTER);
        let options = options(|o| o.policy(policy).workers(1).undecided(answer));
        let spec = || DiskSpec::file(&a).options(options.clone());
        let report = world.run([spec().through(bad_cluster(9))]);
        let before = disk(&report, "a").left.clone().expect("a partial");
        assert!(before.durable_bytes > 0, "{before:?}");

        let full = world.backup().disk(spec()).target_files(|_, file| {
            Arc::new(BrokenFile {
                room: file.len().unwrap() + CLUSTER,
                ..BrokenFile::new(file)
            })
        });
        let report = full.start().unwrap().wait();
        let DiskOutcome::Failed(DiskError::TargetFull { .. }) = &disk(&report, "a").outcome else {
            panic!("{report:?}")
        };
        let left = disk(&report, "a").left.clone().expect("still a partial");
        assert_eq!(left.durable_bytes, before.durable_bytes, "{report:?}");
        world.check();

        let report = world.commit([spec()]);
        let copied = disk(&report, "a").copied_bytes;
        assert_eq!(copied, 24 * CLUSTER - left.durable_bytes);
        assert!(world.restored("a", 3) == fs::read(&a).unwrap());
        world.check();
    }
}

/// A target whose first checkpoint finds no room. Copies wait for that, so that there is one.
#[derive(Debug)]
struct NoRoomOnce {
    inner: Arc<dyn File>,
    met: Arc<(Mutex<bool>, Condvar)>,
}

impl File for NoRoomOnce {
    cohort_block::forward_file!(inner: read_at, len, set_len, sync_data);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (met, changed) = &*self.met;
        let mut met = met.lock().unwrap();
        if std::thread::current().name() == Some("cohort-checkpoint") {
            if !*met {
                *met = true;
                changed.notify_all();
                return Err(io::ErrorKind::StorageFull.into());
            }
        } else if offset > 30 * CLUSTER {
            let wait = Duration::from_secs(60);
            drop(changed.wait_timeout_while(met, wait, |met| !*met));
            return self.inner.write_at(buf, offset);
        }
        drop(met);
        self.inner.write_at(buf, offset)
    }
}

#[test]
fn checkpoint_that_finds_no_room_breaks_nothing() {
    let world = World::new();
    let a = world.raw("a.raw", 64);
    let met = Arc::new((Mutex::new(false), Condvar::new()));
    let options = options(|o| o.policy(BitmapPolicy::Always).workers(1));
    let run = world.backup().disk(DiskSpec::file(&a).options(options));
    let told = Arc::clone(&met);
    let run = run.target_files(move |_, inner| {
        let met = Arc::clone(&told);
        Arc::new(NoRoomOnce { inner, met })
    });
    committed(run.start().unwrap().wait());
    assert!(*met.0.lock().unwrap(), "no checkpoint was tried");
    assert!(world.restored("a", 1) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn target_whose_flush_failed_is_not_trusted_and_not_kept() {
    let world = World::new();
    let a = world.raw("a.raw", 8);
    let options = options(|o| o.policy(BitmapPolicy::Always));
    let run = world.backup().disk(DiskSpec::file(&a).options(options));
    let run = run.target_files(|_, file| {
        Arc::new(BrokenFile {
            sync_fails: true,
            ..BrokenFile::new(file)
        })
    });
    let report = run.start().unwrap().wait();
    assert!(
        matches!(
            disk(&report, "a").outcome,
            // The flush of the end, or of a checkpoint before it.
            DiskOutcome::Failed(DiskError::Flush { .. } | DiskError::Broken(_))
        ),
        "{report:?}"
    );
    assert!(disk(&report, "a").left.is_none());
    world.check();
}

#[test]
fn source_that_changes_while_read_fails_unless_that_is_accepted() {
    for accept in [false, true] {
        let world = World::new();
        let a = world.raw("a.raw", 8);
        let file = fs::File::options().write(true).open(&a).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1))
            .unwrap();
        let path = a.clone();
        let options = options(|o| o.accept_changes(accept));
        // Called once the source is open and its stamps are taken.
        let spec = DiskSpec::file(&a).options(options).through(move |device| {
            write(&path, 100, 0x99, 1);
            device
        });
        let report = world.run([spec]);
        let outcome = &disk(&report, "a").outcome;
        let expected = if accept {
            matches!(outcome, DiskOutcome::Committed(point) if point.instant == Instant::NoInstant)
        } else {
            matches!(outcome, DiskOutcome::Failed(DiskError::ChangedWhileRead { file }) if *file == a)
        };
        assert!(expected, "{report:?}");
        world.check();
    }
}
