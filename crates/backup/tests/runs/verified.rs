//! Digests and verifying: whatever becomes of a backup directory's files, it is found, named, and blamed on the right
//! points.

use std::fs;
use std::path::PathBuf;

use cohort_backup::catalogue::{ByteRange, RunId};
use cohort_backup::{BitmapPolicy, DiskSpec, PointState, Selection, Verify};

use crate::world::*;

/// Three points: clusters 0..16 full, then 1 and 5 changed, then 5 and 9.
fn chain() -> (World, PathBuf) {
    let world = World::new();
    let disk = world.raw("vda.raw", 16);
    let run = || world.commit([DiskSpec::file(&disk)]);
    run();
    write(&disk, CLUSTER, 0x51, CLUSTER);
    write(&disk, 5 * CLUSTER, 0x55, CLUSTER);
    run();
    write(&disk, 5 * CLUSTER, 0x65, CLUSTER);
    write(&disk, 9 * CLUSTER, 0x69, 100);
    run();
    (world, disk)
}

fn image(world: &World, run: u64) -> PathBuf {
    let contents = world.contents();
    let point = contents.point(&name("vda"), RunId(run)).unwrap();
    world.repository().join(point.file.to_string())
}

/// Flips a bit of the first place in the file where `pattern` fills a cluster.
fn rot(file: &PathBuf, pattern: u8) {
    let mut bytes = fs::read(file).unwrap();
    let filled = vec![pattern; 100];
    let at = bytes
        .chunks(CLUSTER as usize)
        .position(|cluster| cluster.starts_with(&filled));
    bytes[at.unwrap() * CLUSTER as usize + 50] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn states(world: &World) -> Vec<PointState> {
    let report = world.verified(Verify::new(Selection::All));
    report.points.iter().map(|point| point.state).collect()
}

#[test]
fn sound_directory_is_sound_and_every_point_can_be_rebuilt() {
    let (world, _) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let report = world.verified(Verify::new(Selection::All).restore_test(scratch.path()));
    assert!(report.sound(), "{:?}", report.damage);
    assert!(
        report
            .points
            .iter()
            .all(|point| point.rebuilt && point.state == PointState::Sound)
    );
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
    // Each image once, not once a point: 12 clusters, 2 and 2; then three disks of 16.
    assert_eq!(report.read_bytes, (12 + 2 + 2 + 3 * 16) * CLUSTER);
}

#[test]
fn rotten_bit_is_blamed_on_the_points_that_show_it_and_no_other() {
    use PointState::{Damaged, Sound};
    // Cluster 5 of the full copy is hidden from the second point on; cluster 2 never is.
    for (run, pattern, cluster, dead) in [
        (1, 6, 5, vec![1]),
        (1, 3, 2, vec![1, 2, 3]),
        (2, 0x55, 5, vec![2]),
        (2, 0x51, 1, vec![2, 3]),
        (3, 0x65, 5, vec![3]),
    ] {
        let (world, _) = chain();
        let file = image(&world, run);
        rot(&file, pattern);
        let report = world.verified(Verify::new(Selection::All));
        let [damage] = &report.damage[..] else {
            panic!("{:?}", report.damage);
        };
        assert_eq!(world.repository().join(&damage.file), file);
        assert_eq!(damage.disk, name("vda"));
        let range = ByteRange {
            offset: cluster * CLUSTER,
            length: CLUSTER,
        };
        assert_eq!(damage.ranges, [range]);
        let runs: Vec<u64> = damage.points.iter().map(|run| run.0).collect();
        assert_eq!(runs, dead, "cluster {cluster} of point {run}");
        let expected: Vec<_> = (1..4)
            .map(|run| if dead.contains(&run) { Damaged } else { Sound })
            .collect();
        assert_eq!(states(&world), expected);
        // A rebuilt point is compared with the same digests.
        let scratch = tempfile::tempdir().unwrap();
        let rebuilt = world.verified(Verify::new(Selection::All).restore_test(scratch.path()));
        assert_eq!(
            rebuilt.damage.len(),
            1,
            "the damaged are not rebuilt, the others are sound"
        );
    }
}

#[test]
fn lost_cut_and_foreign_files_kill_what_lies_on_them() {
    use PointState::{Damaged, Sound};
    let lose: fn(&PathBuf) = |file| fs::remove_file(file).unwrap();
    let cut: fn(&PathBuf) = |file| {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    let overwrite: fn(&PathBuf) = |file| fs::write(file, [7; 4096]).unwrap();
    for spoil in [lose, cut, overwrite] {
        let (world, _) = chain();
        spoil(&image(&world, 2));
        assert_eq!(states(&world), [Sound, Damaged, Damaged]);
    }
    // One increment in place of the other: sound as a file, and not what the catalogue says.
    let (world, _) = chain();
    fs::copy(image(&world, 2), image(&world, 3)).unwrap();
    assert_eq!(states(&world), [Sound, Sound, Damaged]);
}

#[test]
fn cluster_that_the_tables_forgot_is_missed() {
    let (world, _) = chain();
    let (file, other) = (image(&world, 3), world.path("other.qcow2"));
    // The same image without its data, as a lost table would leave it.
    let target = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&other)
        .unwrap();
    let backing = image(&world, 2)
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let format = "qcow2".to_owned();
    let options = cohort_backup::CreateOptions::new(16 * CLUSTER).backing(cohort_backup::Backing {
        file: backing,
        format,
    });
    let target = cohort_block::OsFile::new(target).unwrap();
    let builder = cohort_backup::Qcow2Builder::create(target, &options).unwrap();
    builder.write_clusters(9, &[1; CLUSTER as usize]).unwrap();
    builder.write_clusters(11, &[1; CLUSTER as usize]).unwrap();
    builder.finish().unwrap();
    fs::rename(&other, &file).unwrap();
    let report = world.verified(Verify::new(Selection::All));
    let told: Vec<_> = report
        .damage
        .iter()
        .map(|damage| (damage.ranges[0].offset / CLUSTER, damage.what.as_str()))
        .collect();
    assert!(
        told.contains(&(5, "its tables have lost what was stored")),
        "{told:?}"
    );
    assert!(
        told.contains(&(11, "its tables lead to what was never stored")),
        "{told:?}"
    );
}

#[test]
fn damaged_digests_are_told_and_kill_nothing() {
    let (world, _) = chain();
    let contents = world.contents();
    let point = contents.point(&name("vda"), RunId(2)).unwrap();
    let digests = world
        .repository()
        .join(point.digests.as_ref().unwrap().file.to_string());
    let mut bytes = fs::read(&digests).unwrap();
    bytes[3] ^= 0x10;
    fs::write(&digests, bytes).unwrap();
    let report = world.verified(Verify::new(Selection::All));
    let [damage] = &report.damage[..] else {
        panic!("{:?}", report.damage);
    };
    assert!(damage.file.ends_with(".digests") && damage.points.is_empty());
    assert_eq!(
        states(&world),
        [
            PointState::Sound,
            PointState::NoDigests,
            PointState::NoDigests
        ]
    );
}

#[test]
fn points_without_digests_say_so_and_can_be_rebuilt() {
    let world = World::new();
    let disk = world.raw("vda.raw", 8);
    let run = |digests| {
        let backup = world
            .backup()
            .disk(DiskSpec::file(&disk))
            .options(options(|o| o.digests(digests)));
        committed(backup.start().unwrap().wait())
    };
    run(true);
    write(&disk, 0, 9, 2 * CLUSTER);
    run(false);
    write(&disk, CLUSTER, 8, CLUSTER);
    run(true);
    assert_eq!(
        states(&world),
        [
            PointState::Sound,
            PointState::NoDigests,
            PointState::NoDigests
        ]
    );
    let scratch = tempfile::tempdir().unwrap();
    let report = world.verified(Verify::new("3".parse().unwrap()).restore_test(scratch.path()));
    assert!(report.sound() && report.points.len() == 1 && report.points[0].rebuilt);
}

#[test]
fn continued_partials_have_right_digests() {
    for lose_digests in [false, true] {
        let world = World::new();
        let disk = world.raw("vda.raw", 16);
        // One copy at a time, in order: what comes before the bad cluster is kept, whoever else uses the machine.
        let options = options(|o| o.policy(BitmapPolicy::Always).workers(1));
        let bad = |cluster| {
            DiskSpec::file(&disk)
                .options(options.clone())
                .through(bad_cluster(cluster))
        };
        for (round, cluster) in [(1u8, 13), (2, 14), (3, 9)] {
            assert!(!world.run([bad(cluster)]).succeeded());
            let contents = world.contents();
            let stored = contents.partials[&name("vda")].digests.clone().unwrap();
            // What the partial holds already changes again.
            write(&disk, u64::from(round) * CLUSTER, 0x90 | round, CLUSTER);
            if lose_digests {
                fs::remove_file(world.repository().join(stored.file.to_string())).unwrap();
            } else {
                world.check();
            }
        }
        let whole = DiskSpec::file(&disk).options(options.clone());
        world.commit([whole]);
        world.check();
        assert_eq!(states(&world), [PointState::Sound]);
        assert_eq!(world.restored("vda", 4), fs::read(&disk).unwrap());
    }
}

#[test]
fn digests_speak_for_disks_that_change_size_and_clusters_that_do() {
    let world = World::new();
    let disk = world.raw("vda.raw", 8);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let sizes = [
        8 * CLUSTER,
        7 * CLUSTER + 1000,
        12 * CLUSTER + 700,
        3 * CLUSTER + 5,
        3 * CLUSTER + 9000,
    ];
    for (round, size) in (1u8..).zip(sizes) {
        file.set_len(size).unwrap();
        write(
            &disk,
            u64::from(round) % 3 * CLUSTER + 5000,
            0xa0 | round,
            9000,
        );
        let cluster = if round % 2 == 0 { 16 << 10 } else { 64 << 10 };
        let backup = world.backup().options(options(|o| o.cluster(cluster)));
        committed(backup.disk(DiskSpec::file(&disk)).start().unwrap().wait());
    }
    world.check();
    let scratch = tempfile::tempdir().unwrap();
    let report = world.verified(Verify::new(Selection::All).restore_test(scratch.path()));
    assert!(report.sound(), "{:?}", report.damage);
    assert!(
        report
            .points
            .iter()
            .all(|point| point.rebuilt && point.state == PointState::Sound)
    );
}
