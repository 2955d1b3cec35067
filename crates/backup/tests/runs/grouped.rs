//! Grouped full and incremental backups over real files.

use std::fs;

use cohort_backup::{BitmapPolicy, DiskOutcome, DiskSpec, Rung, SyncMode};

use crate::world::{
    CLUSTER, World, committed, disk, have_qemu_img, options, policy, qemu_img, read_image, write,
};

#[test]
fn every_point_of_a_chain_restores_to_what_the_disks_were() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 20), world.raw("b.raw", 7));
    // An odd end: neither a cluster nor a sector.
    fs::File::options()
        .write(true)
        .open(&b)
        .unwrap()
        .set_len(6 * CLUSTER + 100)
        .unwrap();
    let (mut old_a, mut old_b) = (Vec::new(), Vec::new());
    for round in 1..=4u8 {
        let report = world.commit([DiskSpec::file(&a), DiskSpec::file(&b)]);
        assert_eq!(report.run.map(|run| run.0), Some(u64::from(round)));
        old_a.push(fs::read(&a).unwrap());
        old_b.push(fs::read(&b).unwrap());
        write(&a, u64::from(round) * 3 * CLUSTER + 5, 0xf0 + round, 10);
        write(&b, 6 * CLUSTER + 99, round, 1);
        // Data becomes zero: the point must not show what lies beneath.
        write(&a, u64::from(round) * CLUSTER, 0, CLUSTER);
    }
    world.restores("a", &old_a);
    world.restores("b", &old_b);
    world.check();
}

#[test]
fn increment_holds_only_the_clusters_that_differ() {
    let world = World::new();
    let a = world.raw("a.raw", 64);
    world.commit([DiskSpec::file(&a)]);
    write(&a, 10 * CLUSTER, 0xaa, 1);
    write(&a, 11 * CLUSTER - 1, 0xaa, 2);
    let report = world.commit([DiskSpec::file(&a)]);
    assert_eq!(disk(&report, "a").copied_bytes, 2 * CLUSTER);
    let report = world.commit([DiskSpec::file(&a)]);
    assert_eq!(disk(&report, "a").copied_bytes, 0);
    assert!(world.restored("a", 3) == fs::read(&a).unwrap());
    world.check();
}

#[test]
fn holes_and_zeroes_are_not_copied() {
    let world = World::new();
    let a = world.raw("a.raw", 16);
    write(&a, 2 * CLUSTER, 0, CLUSTER);
    let report = world.commit([DiskSpec::file(&a)]);
    assert_eq!(disk(&report, "a").copied_bytes, 11 * CLUSTER);
    assert!(world.restored("a", 1) == fs::read(&a).unwrap());
}

#[test]
fn disk_that_grew_or_shrank_is_restored_with_its_size_of_then() {
    let world = World::new();
    let a = world.raw("a.raw", 8);
    let mut kept = Vec::new();
    for size in [8 * CLUSTER, 12 * CLUSTER + 7, 3 * CLUSTER + 1, 9 * CLUSTER] {
        fs::File::options()
            .write(true)
            .open(&a)
            .unwrap()
            .set_len(size)
            .unwrap();
        write(&a, size - 1, 0xee, 1);
        world.commit([DiskSpec::file(&a)]);
        kept.push(fs::read(&a).unwrap());
    }
    world.restores("a", &kept);
    world.check();
}

#[test]
fn full_stands_alone_and_cluster_sizes_mix_in_a_chain() {
    let world = World::new();
    let a = world.raw("a.raw", 9);
    let mut kept = Vec::new();
    for (mode, cluster) in [
        (SyncMode::Bitmap, 64 << 10),
        (SyncMode::Bitmap, 4 << 10),
        (SyncMode::Top, 1 << 20),
        (SyncMode::Full, 64 << 10),
        (SyncMode::Incremental, 2 << 20),
    ] {
        let options = options(|o| o.mode(mode).cluster(cluster));
        world.commit([DiskSpec::file(&a).options(options)]);
        kept.push(fs::read(&a).unwrap());
        write(&a, 5 * CLUSTER + 4096 * kept.len() as u64, 0xd0, 300);
    }
    let contents = world.contents();
    let parents: Vec<_> = contents
        .points_of(&crate::world::name("a"))
        .map(|(_, p)| p.parent.map(|p| p.0))
        .collect();
    assert_eq!(parents, [None, Some(1), Some(2), None, Some(4)]);
    world.restores("a", &kept);
    world.check();
}

#[test]
fn never_makes_differential_points_on_one_anchor() {
    let world = World::new();
    let a = world.raw("a.raw", 16);
    let never = || policy(BitmapPolicy::Never);
    world.commit([DiskSpec::file(&a)]);
    for round in 2..=3u64 {
        write(&a, round * CLUSTER, 0xcc, 9);
        let spec = DiskSpec::file(&a).options(never());
        let report = world.commit([spec]);
        assert_eq!(disk(&report, "a").copied_bytes, (round - 1) * CLUSTER);
        let DiskOutcome::Committed(point) = &disk(&report, "a").outcome else {
            unreachable!()
        };
        assert_eq!(point.parent.map(|run| run.0), Some(1));
        assert!(world.restored("a", round) == fs::read(&a).unwrap());
    }
    world.check();
}

#[test]
fn damaged_chain_steps_down_to_everything_with_a_reason() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 6), world.raw("b.raw", 6));
    let run = || {
        world
            .backup()
            .disk(DiskSpec::file(&a))
            .disk(DiskSpec::file(&b))
    };
    committed(run().start().unwrap().wait());
    let file = world
        .contents()
        .latest(&crate::world::name("a"))
        .unwrap()
        .1
        .file
        .to_string();
    fs::remove_file(world.repository().join(&file)).unwrap();
    let strict = options(|o| o.strict(true));
    let refused = world
        .backup()
        .disk(DiskSpec::file(&a).options(strict))
        .start()
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(&file) && refused.contains("strict"),
        "{refused}"
    );
    let report = committed(run().start().unwrap().wait());
    let step = disk(&report, "a").stepped_down.clone().unwrap();
    assert_eq!(step.to, Rung::Everything);
    assert!(step.reason.contains(&file), "{step}");
    assert_eq!(disk(&report, "b").stepped_down, None);
    assert!(world.restored("a", report.run.unwrap().0) == fs::read(&a).unwrap());
}

#[test]
fn images_made_by_qemu_are_backed_up_and_compare_equal() {
    if !have_qemu_img() {
        return;
    }
    let world = World::new();
    let (raw, base, top) = (
        world.raw("seed.raw", 12),
        world.path("base.qcow2"),
        world.path("top.qcow2"),
    );
    let convert = |from: &std::path::Path, to: &std::path::Path| {
        qemu_img(&[
            "convert".as_ref(),
            "-O".as_ref(),
            "qcow2".as_ref(),
            from.as_os_str(),
            to.as_os_str(),
        ]);
    };
    convert(&raw, &base);
    let backing = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "base.qcow2",
    ]
    .map(std::ffi::OsStr::new);
    let mut arguments = backing.to_vec();
    arguments.push(top.as_os_str());
    qemu_img(&arguments);
    for round in 0..3u64 {
        let io = format!("write -P {} {}k 3k", 0x70 + round, round * 130);
        let status = std::process::Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", &io])
            .arg(&top)
            .output();
        assert!(status.unwrap().status.success());
        let kept = world.path(&format!("kept{round}.qcow2"));
        convert(&top, &kept);
        let (one, two) = (DiskSpec::file(&top), DiskSpec::file(&base));
        let report = world.commit([one, two]);
        let DiskOutcome::Committed(point) = &disk(&report, "top").outcome else {
            unreachable!()
        };
        let image = world.repository().join(point.file.to_string());
        qemu_img(&[
            "compare".as_ref(),
            "-q".as_ref(),
            kept.as_os_str(),
            image.as_os_str(),
        ]);
        assert!(read_image(&image) == read_image(&top));
    }
    world.check();
}

#[test]
fn individual_disks_end_on_their_own() {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 6), world.raw("b.raw", 6));
    let missing = DiskSpec::file(world.path("none.raw"));
    let bad = DiskSpec::file(&b).through(crate::world::bad_cluster(4));
    let run = world
        .backup()
        .disk(DiskSpec::file(&a))
        .disk(missing)
        .disk(bad)
        .individual(true);
    let report = run.start().unwrap().wait();
    assert!(matches!(
        disk(&report, "a").outcome,
        DiskOutcome::Committed(_)
    ));
    assert!(matches!(
        disk(&report, "none").outcome,
        DiskOutcome::NotStarted(_)
    ));
    assert!(matches!(disk(&report, "b").outcome, DiskOutcome::Failed(_)));
    assert_eq!((world.points("a"), world.points("b")), (vec![1], vec![]));
    world.check();
}
