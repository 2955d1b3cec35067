//! Bad input: each with its own error, and nothing half-written.

use std::fs;

use cohort_backup::catalogue::{self, OpenError};
use cohort_backup::{DiskError, DiskOutcome, DiskSpec, StartError};

use crate::world::{World, disk};

fn refusal(world: &World, disks: impl IntoIterator<Item = DiskSpec>) -> StartError {
    let run = disks
        .into_iter()
        .fold(world.backup(), |run, disk| run.disk(disk));
    let error = run.start().unwrap_err();
    if world.repository().exists() {
        assert!(
            world.contents().runs.len() <= 1,
            "a refused run leaves no trace"
        );
        world.check();
    }
    error
}

/// What is wrong with the disk for which the run was refused.
fn refused_disk(error: StartError) -> DiskError {
    let StartError::Disk { error, .. } = error else {
        panic!("{error}")
    };
    *error
}

#[test]
fn no_disk_at_all_is_refused() {
    let world = World::new();
    assert!(matches!(refusal(&world, []), StartError::NoDisks));
    assert!(!world.repository().exists());
}

#[test]
fn two_disks_of_one_name_are_refused_with_a_way_out() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 1), world.raw("a.img", 1));
    let error = refusal(&world, [DiskSpec::file(&a), DiskSpec::file(&b)]).to_string();
    assert!(error.contains(&format!("NAME={}", b.display())), "{error}");
    world.commit([DiskSpec::file(&a), DiskSpec::file(&b).name("other")]);
}

#[test]
fn names_that_cannot_be_are_refused_with_a_way_out() {
    let world = World::new();
    let odd = world.raw("ä.raw", 1);
    let error = refusal(&world, [DiskSpec::file(&odd)]);
    assert!(
        matches!(error, StartError::BadName { .. }) && error.to_string().contains("NAME="),
        "{error}"
    );
}

#[test]
fn same_disk_twice_is_refused_under_every_name() {
    let world = World::new();
    let a = world.raw("a.raw", 1);
    let (soft, hard) = (world.path("soft.raw"), world.path("hard.raw"));
    std::os::unix::fs::symlink(&a, &soft).unwrap();
    fs::hard_link(&a, &hard).unwrap();
    for other in [&soft, &hard] {
        let error = refused_disk(refusal(&world, [DiskSpec::file(&a), DiskSpec::file(other)]));
        assert!(matches!(error, DiskError::SameDisk { .. }), "{error}");
    }
}

#[test]
fn file_of_the_backup_directory_is_no_source() {
    let world = World::new();
    let a = world.raw("a.raw", 2);
    world.commit([DiskSpec::file(&a)]);
    let point = world
        .contents()
        .latest(&crate::world::name("a"))
        .unwrap()
        .1
        .file
        .to_string();
    let link = world.path("link.qcow2");
    fs::hard_link(world.repository().join(point), &link).unwrap();
    let error = refused_disk(refusal(&world, [DiskSpec::file(&link)]));
    assert!(matches!(error, DiskError::InsideTarget { .. }), "{error}");
}

#[test]
fn sources_that_hold_no_disk_are_refused_before_anything_is_written() {
    let world = World::new();
    let good = world.raw("good.raw", 2);
    refusal(&world, [DiskSpec::file(world.path("none.raw"))]);
    assert!(
        !world.repository().exists(),
        "a mistyped source leaves no directory behind"
    );
    fs::write(world.path("empty.raw"), "").unwrap();
    fs::write(
        world.path("garbage.qcow2"),
        [b"QFI\xfb".as_slice(), &[0xff; 2000]].concat(),
    )
    .unwrap();
    fs::create_dir(world.path("folder")).unwrap();
    for bad in ["none.raw", "empty.raw", "garbage.qcow2", "folder"] {
        let error = refusal(
            &world,
            [DiskSpec::file(&good), DiskSpec::file(world.path(bad))],
        );
        assert!(error.to_string().contains(bad), "{error}");
        let error = refused_disk(error);
        assert!(matches!(error, DiskError::Open(_)), "{error}");
        let report = world
            .backup()
            .disk(DiskSpec::file(world.path(bad)))
            .individual(true)
            .start()
            .unwrap()
            .wait();
        assert!(matches!(
            report.disks[0].outcome,
            DiskOutcome::NotStarted(DiskError::Open(_))
        ));
        assert_eq!(report.run, None);
    }
    assert!(world.contents().runs.is_empty());
}

#[test]
fn directory_that_another_run_writes_to_is_busy_and_then_free() {
    let world = World::new();
    let a = world.raw("a.raw", 2);
    let other = catalogue::Catalogue::open_or_create(world.repository()).unwrap();
    let error = world.backup().disk(DiskSpec::file(&a)).start().unwrap_err();
    assert!(
        matches!(error, StartError::Directory(OpenError::Busy { .. })),
        "{error}"
    );
    drop(other);
    for _ in 0..3 {
        let report = world.commit([DiskSpec::file(&a)]);
        assert_eq!(disk(&report, "a").source, a.display().to_string());
    }
}

#[test]
fn what_a_killed_run_left_is_swept_by_the_next() {
    let world = World::new();
    let a = world.raw("a.raw", 2);
    world.commit([DiskSpec::file(&a)]);
    let killed = catalogue::Catalogue::open(world.repository()).unwrap();
    let run = killed
        .begin_run(&[(crate::world::name("a"), "a.raw".to_owned())])
        .unwrap();
    let image = killed.new_image(&crate::world::name("a"), run).unwrap();
    fs::write(world.repository().join(image.to_string()), "half").unwrap();
    let foreign = world.repository().join("notes.txt");
    fs::write(&foreign, "mine").unwrap();
    drop(killed);
    world.commit([DiskSpec::file(&a)]);
    assert!(!world.repository().join(image.to_string()).exists());
    assert!(foreign.exists(), "what is not ours stays");
    world.check();
}
