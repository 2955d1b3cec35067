//! Pruning: what stays reads as before at every moment, whatever the shape of the chains.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use cohort_backup::catalogue::{Catalogue, RunId};
use cohort_backup::{
    BitmapPolicy, CreateOptions, DiskSpec, Keep, KeepReason, Options, PointFate, PruneError,
    PruneReport, Qcow2Builder, Selection, Verify, plan_prune, prune,
};
use cohort_block::{OpenOptions, OsFile};

use crate::world::*;

/// All is one day.
fn day(_: u64) -> i64 {
    0
}

fn keep_last(world: &World, last: usize) -> Result<PruneReport, PruneError> {
    pruned(
        &world.repository(),
        Keep { last, daily: 0 },
        &AtomicBool::new(false),
    )
}

fn pruned(directory: &Path, keep: Keep, cancel: &AtomicBool) -> Result<PruneReport, PruneError> {
    let catalogue = Catalogue::open(directory).unwrap();
    let plan = plan_prune(&catalogue.snapshot().unwrap(), &keep, &day);
    prune(&catalogue, &plan, &|_, _| {}, cancel)
}

fn back_up(world: &World, disk: &Path, options: &Options) {
    let backup = world
        .backup()
        .disk(DiskSpec::file(disk))
        .options(options.clone());
    committed(backup.start().unwrap().wait());
}

/// A chain over a disk that changes here and there; what it was at each point.
fn chain(world: &World, runs: u64, options: &Options) -> BTreeMap<u64, Vec<u8>> {
    let disk = world.raw("vda.raw", 24);
    let mut copies = BTreeMap::new();
    for run in 1..=runs {
        write(&disk, run * 7 % 24 * CLUSTER, 0x40 + run as u8, CLUSTER);
        write(
            &disk,
            run * 5 % 23 * CLUSTER + 100,
            if run % 3 == 0 { 0 } else { run as u8 },
            CLUSTER,
        );
        if run % 4 == 0 {
            write(&disk, run % 24 * CLUSTER, 0, CLUSTER);
        }
        back_up(world, &disk, options);
        copies.insert(run, fs::read(&disk).unwrap());
    }
    copies
}

fn check(world: &World, copies: &BTreeMap<u64, Vec<u8>>) {
    world.check();
    for run in world.points("vda") {
        assert!(world.restored("vda", run) == copies[&run], "point {run}");
    }
    let scratch = tempfile::tempdir().unwrap();
    let report = world.verified(Verify::new(Selection::All).restore_test(scratch.path()));
    assert_eq!(report.damage, []);
}

#[test]
fn kept_points_read_as_before_and_the_chain_goes_on() {
    for digests in [true, false] {
        let options = options(|o| o.digests(digests));
        let world = World::new();
        let mut copies = chain(&world, 9, &options);
        let before: Vec<_> = fs::read_dir(world.repository()).unwrap().collect();
        let report = keep_last(&world, 3).unwrap();
        assert_eq!(report.removed.len(), 6);
        assert_eq!(report.merged.len(), 1);
        assert!(
            report.merged[0].copied_bytes < 20 * CLUSTER,
            "increments move, not the full copy below"
        );
        assert!(
            report.bytes.1 < report.bytes.0
                && fs::read_dir(world.repository()).unwrap().count() < before.len()
        );
        assert_eq!(world.points("vda"), [7, 8, 9]);
        check(&world, &copies);
        let disk = world.path("vda.raw");
        write(&disk, 3 * CLUSTER, 0xee, CLUSTER);
        back_up(&world, &disk, &options);
        copies.insert(10, fs::read(&disk).unwrap());
        assert_eq!(keep_last(&world, 1).unwrap().removed.len(), 3);
        assert_eq!(world.points("vda"), [10]);
        check(&world, &copies);
        let nothing = keep_last(&world, 1).unwrap();
        assert!(nothing.removed.is_empty() && nothing.merged.is_empty());
    }
}

#[test]
fn interrupted_prune_leaves_every_point_whole_and_the_next_one_finishes_it() {
    let world = World::new();
    let copies = chain(&world, 8, &Options::default());
    let cancel = AtomicBool::new(true);
    let stopped = pruned(&world.repository(), Keep { last: 2, daily: 0 }, &cancel);
    assert!(matches!(stopped, Err(PruneError::Cancelled)));
    assert_eq!(world.points("vda"), [7, 8]);
    check(&world, &copies);
    // Somebody backs up in between.
    let disk = world.path("vda.raw");
    write(&disk, CLUSTER, 0xcc, CLUSTER);
    back_up(&world, &disk, &Options::default());
    let mut copies = copies;
    copies.insert(9, fs::read(&disk).unwrap());
    check(&world, &copies);
    let report = keep_last(&world, 3).unwrap();
    assert_eq!((report.removed.len(), report.merged.len()), (0, 1));
    check(&world, &copies);
    assert_eq!(world.contents().images().count(), 3);
}

#[test]
fn kill_between_the_rename_and_the_catalogue_is_mended() {
    for digests in [true, false] {
        kill_after_the_rename(&options(|o| o.digests(digests)));
    }
}

fn kill_after_the_rename(options: &Options) {
    let world = World::new();
    let copies = chain(&world, 6, options);
    let stopped = pruned(
        &world.repository(),
        Keep { last: 2, daily: 0 },
        &AtomicBool::new(true),
    );
    assert!(matches!(stopped, Err(PruneError::Cancelled)));
    // Another directory gets to the end; its merged image in this one is what a kill leaves after the rename.
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(world.repository()).unwrap().flatten() {
        fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let contents = world.contents();
    let point = contents.point(&name("vda"), RunId(5)).unwrap();
    pruned(&other, Keep { last: 2, daily: 0 }, &AtomicBool::new(false)).unwrap();
    let merged = point.file.to_string();
    fs::copy(other.join(&merged), world.repository().join(&merged)).unwrap();
    let lowest = point.merging.last().unwrap().file.to_string();
    fs::remove_file(world.repository().join(lowest)).unwrap();
    let report = world.verified(Verify::new(Selection::All));
    assert_eq!(report.damage, []);
    assert_eq!(keep_last(&world, 2).unwrap().merged[0].copied_bytes, 0);
    check(&world, &copies);
}

#[test]
fn disks_that_changed_size_and_mixed_clusters_merge_too() {
    let world = World::new();
    let disk = world.raw("vda.raw", 8);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let mut copies = BTreeMap::new();
    let sizes = [
        8 * CLUSTER,
        7 * CLUSTER + 1000,
        12 * CLUSTER + 700,
        3 * CLUSTER + 5,
        5 * CLUSTER + 9000,
        5 * CLUSTER + 9000,
    ];
    for (run, size) in (1u64..).zip(sizes) {
        file.set_len(size).unwrap();
        write(&disk, run % 3 * CLUSTER + 5000, 0xa0 | run as u8, 9000);
        let cluster = if run % 2 == 0 { 16 << 10 } else { 64 << 10 };
        back_up(&world, &disk, &options(|o| o.cluster(cluster)));
        copies.insert(run, fs::read(&disk).unwrap());
    }
    for last in [5, 3, 1] {
        keep_last(&world, last).unwrap();
        assert_eq!(world.points("vda").len(), last);
        check(&world, &copies);
    }
}

#[test]
fn what_a_finer_point_below_holds_where_a_smaller_disk_ended_stays() {
    let world = World::new();
    let disk = world.raw("vda.raw", 9);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let mut copies = BTreeMap::new();
    // Nothing is written to the cluster in which the disk ended before it grew.
    let end = 8 * CLUSTER + 8192;
    let runs = [(4 << 10, end), (64 << 10, end), (64 << 10, 16 * CLUSTER)];
    for (run, (cluster, size)) in (1u64..).zip(runs) {
        file.set_len(size).unwrap();
        write(&disk, run * CLUSTER, 0xa0 | run as u8, CLUSTER);
        back_up(&world, &disk, &options(|o| o.cluster(cluster)));
        copies.insert(run, fs::read(&disk).unwrap());
    }
    let first = world.contents().points[&(name("vda"), RunId(1))].created_unix_ms;
    let catalogue = Catalogue::open(world.repository()).unwrap();
    let days = |time: u64| i64::from(time > first);
    let keep = Keep { last: 0, daily: 2 };
    let plan = plan_prune(&catalogue.snapshot().unwrap(), &keep, &days);
    prune(&catalogue, &plan, &|_, _| {}, &AtomicBool::new(false)).unwrap();
    drop(catalogue);
    assert_eq!(world.points("vda"), [1, 3]);
    check(&world, &copies);
}

#[test]
fn what_a_disk_lost_when_it_shrank_is_not_expected_of_the_merged_image() {
    let world = World::new();
    let disk = world.raw("vda.raw", 8);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let mut copies = BTreeMap::new();
    // It ends within a cluster that nobody writes to.
    let sizes = [8 * CLUSTER, 6 * CLUSTER + 1024, 8 * CLUSTER, 8 * CLUSTER];
    for (run, size) in (1u64..).zip(sizes) {
        file.set_len(size).unwrap();
        write(&disk, run * CLUSTER, 0xa0 | run as u8, 1000);
        back_up(&world, &disk, &Options::default());
        copies.insert(run, fs::read(&disk).unwrap());
    }
    for last in [2, 1] {
        keep_last(&world, last).unwrap();
        assert_eq!(world.points("vda").len(), last);
        check(&world, &copies);
    }
}

#[test]
fn whoever_reads_a_point_since_before_finds_it_as_it_was() {
    let world = World::new();
    let disk = world.raw("vda.raw", 24);
    // The second merge wants more room than what the first one superseded.
    for (run, changed) in (1..).zip([1, 1, 9, 1, 1]) {
        (0..changed).for_each(|cluster| write(&disk, cluster * CLUSTER, 0x80 | run, 100));
        back_up(&world, &disk, &Options::default());
    }
    let contents = world.contents();
    let (_, point) = contents.latest(&name("vda")).unwrap();
    let image = world.repository().join(point.file.to_string());
    let reader = cohort_block::open(image, OpenOptions::read_only()).unwrap();
    for last in [4, 3] {
        assert_eq!(keep_last(&world, last).unwrap().merged.len(), 1);
    }
    assert!(read_all(&*reader) == fs::read(&disk).unwrap());
    drop(reader);
    // What was left lying about is used again.
    let before = keep_last(&world, 3).unwrap().bytes.1;
    assert!(keep_last(&world, 2).unwrap().bytes.1 < before);
}

#[test]
fn what_the_next_run_needs_stays() {
    // Differential: every increment is against the first point.
    let world = World::new();
    let copies = chain(&world, 4, &policy(BitmapPolicy::Never));
    let plan = plan_prune(&world.contents(), &Keep { last: 1, daily: 0 }, &day);
    let fates: Vec<_> = plan.iter().map(|point| point.fate.clone()).collect();
    assert_eq!(fates[0], PointFate::Keep(vec![KeepReason::Anchor]));
    assert_eq!(fates[1..3], [PointFate::Remove, PointFate::Remove]);
    keep_last(&world, 1).unwrap();
    check(&world, &copies);
    // Several kept increments on one point that is not wanted.
    let world = World::new();
    let copies = chain(&world, 3, &policy(BitmapPolicy::Never));
    let disk = world.path("vda.raw");
    write(&disk, 0, 0xdd, CLUSTER);
    back_up(&world, &disk, &Options::default());
    let mut copies = copies;
    copies.insert(4, fs::read(&disk).unwrap());
    let plan = plan_prune(&world.contents(), &Keep { last: 2, daily: 0 }, &day);
    assert_eq!(plan[0].fate, PointFate::Keep(vec![KeepReason::Shared]));
    keep_last(&world, 2).unwrap();
    assert_eq!(world.points("vda"), [1, 3, 4]);
    check(&world, &copies);
    keep_last(&world, 1).unwrap();
    assert_eq!(world.points("vda"), [4]);
    check(&world, &copies);
}

#[test]
fn partials_survive_and_their_point_stays() {
    let world = World::new();
    let copies = chain(&world, 3, &policy(BitmapPolicy::Always));
    let disk = world.path("vda.raw");
    (0..20).for_each(|cluster| write(&disk, cluster * CLUSTER, 0x77, CLUSTER));
    let bad = DiskSpec::file(&disk)
        .options(policy(BitmapPolicy::Always))
        .through(bad_cluster(18));
    assert!(!world.run([bad]).succeeded());
    let plan = plan_prune(&world.contents(), &Keep { last: 1, daily: 0 }, &day);
    let PointFate::Keep(why) = &plan[2].fate else {
        panic!("{plan:?}")
    };
    assert!(why.contains(&KeepReason::Partial));
    keep_last(&world, 1).unwrap();
    assert!(world.contents().partials.contains_key(&name("vda")));
    check(&world, &copies);
    back_up(&world, &disk, &policy(BitmapPolicy::Always));
    let mut copies = copies;
    copies.insert(5, fs::read(&disk).unwrap());
    check(&world, &copies);
}

#[test]
fn damage_is_not_merged() {
    let world = World::new();
    let _ = chain(&world, 3, &Options::default());
    let contents = world.contents();
    let file = world.repository().join(
        contents
            .point(&name("vda"), RunId(2))
            .unwrap()
            .file
            .to_string(),
    );
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes
        .chunks(CLUSTER as usize)
        .position(|cluster| cluster.starts_with(&[0x42; 64]))
        .unwrap();
    bytes[at * CLUSTER as usize + 9] ^= 1;
    fs::write(&file, bytes).unwrap();
    let refused = keep_last(&world, 1).unwrap_err();
    assert!(
        matches!(
            refused,
            PruneError::Damaged {
                length: CLUSTER,
                ..
            }
        ),
        "{refused}"
    );
    let report = world.verified(Verify::new(Selection::All));
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
}

#[test]
fn image_that_is_another_one_by_now_is_refused() {
    let world = World::new();
    let _ = chain(&world, 2, &options(|o| o.digests(false)));
    let contents = world.contents();
    let file = &contents.point(&name("vda"), RunId(1)).unwrap().file;
    let file = world.repository().join(file.to_string());
    fs::remove_file(&file).unwrap();
    let finer = CreateOptions::new(24 * CLUSTER).cluster_size(4 << 10);
    let other = Qcow2Builder::create(OsFile::create_new(&file).unwrap(), &finer).unwrap();
    other.write_cluster(1, &[1; 4 << 10]).unwrap();
    other.finish().unwrap();
    let refused = keep_last(&world, 1).unwrap_err();
    assert!(
        matches!(refused, PruneError::Unreadable { .. }),
        "{refused}"
    );
}

#[test]
fn days_are_kept_by_their_newest_point() {
    let world = World::new();
    let _ = chain(&world, 6, &Options::default());
    let times: Vec<u64> = world
        .contents()
        .points_of(&name("vda"))
        .map(|(_, point)| point.created_unix_ms)
        .collect();
    let by_two = |time: u64| times.iter().position(|other| *other >= time).unwrap() as i64 / 2;
    let plan = plan_prune(&world.contents(), &Keep { last: 0, daily: 2 }, &by_two);
    let kept: Vec<u64> = plan
        .iter()
        .filter(|point| point.fate != PointFate::Remove)
        .map(|point| point.run.0)
        .collect();
    assert_eq!(kept, [4, 6]);
}
