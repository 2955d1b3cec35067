//! Served disks with tracking stores: what changed is known in the next process, too, whatever ended this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_backup::catalogue::{Proof, View};
use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskReport, DiskSpec, OnUndecided, Options, RunReport,
    Tracked, Unproven,
};
use cohort_bitmap::store::{Label, Mode};
use cohort_block::{Device, Gated, OsFile, RawDevice, TrackingError, TrackingStore};
use cohort_job::Disposition;

use crate::world::{CLUSTER, World, bad_cluster, committed, disk, name, options, policy, read_all};

pub(crate) const CLUSTERS: u64 = 40;

/// Serves a raw disk over the tracking store beside it; makes that one if there is none.
pub(crate) fn serve(path: &Path, unproven: Unproven) -> Arc<Tracked> {
    try_serve(path, unproven).unwrap()
}

fn try_serve(path: &Path, unproven: Unproven) -> Result<Arc<Tracked>, TrackingError> {
    let file = OsFile::open(path, true).unwrap();
    let raw = RawDevice::new("disk", Arc::new(file), true).unwrap();
    let gated = Arc::new(Gated::new(Arc::new(raw)));
    let disk = name(path.file_stem().unwrap().to_str().unwrap());
    let (beside, size) = (TrackingStore::path_beside(path), gated.size());
    if !beside.exists() {
        let store = TrackingStore::create(&beside, path, size, Mode::KilledProcess)?;
        return Ok(Tracked::stored(disk, gated, &beside, store).unwrap());
    }
    let (store, found) = TrackingStore::open(&beside, path, size, Mode::KilledProcess)?;
    Ok(Tracked::resume(disk, gated, &beside, store, &found, unproven).unwrap())
}

/// The same disk in the next process, after a clean close.
fn restarted(disk: Arc<Tracked>, path: &Path, unproven: Unproven) -> Arc<Tracked> {
    close(disk);
    serve(path, unproven)
}

/// Ends the process that serves the disk, in order.
pub(crate) fn close(disk: Arc<Tracked>) {
    disk.close().unwrap();
}

/// Writes what is there already: a comparison finds nothing of it, and who tracks knows. Not for every fourth cluster,
/// which is a hole: of that nothing is copied.
pub(crate) fn touch(disk: &Tracked, cluster: u64) {
    assert_ne!(cluster % 4, 3);
    let mut bytes = vec![0; CLUSTER as usize];
    let device = disk.gated();
    device.read_at(&mut bytes, cluster * CLUSTER).unwrap();
    device.write_at(&bytes, cluster * CLUSTER).unwrap();
}

pub(crate) fn fill(disk: &Tracked, cluster: u64, byte: u8) {
    let bytes = vec![byte; CLUSTER as usize];
    disk.gated().write_at(&bytes, cluster * CLUSTER).unwrap();
}

/// Backs the disks up, and gives copies of them that were made inside the fence.
pub(crate) fn back_up(
    repository: &Path,
    disks: &[(&Arc<Tracked>, Options)],
) -> (RunReport, Vec<Vec<u8>>) {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (result, devices) = (
        copies.clone(),
        disks.iter().map(|(disk, _)| disk.gated().device().clone()),
    );
    let devices: Vec<_> = devices.collect();
    let mut run = Backup::to(repository).inside_fence(move || {
        *result.lock().unwrap() = devices.iter().map(|device| read_all(&**device)).collect();
    });
    for (disk, options) in disks {
        run = run.disk(DiskSpec::served(Arc::clone(disk)).options(options.clone()));
    }
    let report = run.start().unwrap().wait();
    let copies = copies.lock().unwrap().clone();
    (report, copies)
}

/// One disk, one committed run.
pub(crate) fn point_of(world: &World, disk: &Arc<Tracked>) -> DiskReport {
    let (report, copies) = back_up(&world.repository(), &[(disk, Options::default())]);
    let report = committed(report);
    let run = report.run.unwrap().0;
    assert!(
        world.restored(disk.name().as_str(), run) == copies[0],
        "run {run}"
    );
    world.check();
    report.disks[0].clone()
}

/// The disk `a`, served over a new store, of which there is a point already.
pub(crate) fn backed_up() -> (World, PathBuf, Arc<Tracked>) {
    let world = World::new();
    let path = world.raw("a.raw", CLUSTERS);
    let a = serve(&path, Unproven::Compare);
    point_of(&world, &a);
    (world, path, a)
}

#[track_caller]
pub(crate) fn says(report: &DiskReport, what: &str) {
    assert!(noted(report, what), "{what}: {:?}", report.notes);
}

pub(crate) fn noted(report: &DiskReport, what: &str) -> bool {
    report.notes.iter().any(|note| note.contains(what))
}

pub(crate) fn view_of(world: &World, disk: &str) -> View {
    world.contents().views[&name(disk)].point.clone().unwrap()
}

/// The sets that the store of a disk has.
pub(crate) fn sets_in(path: &Path) -> Vec<u64> {
    let beside = TrackingStore::inspect(&TrackingStore::path_beside(path), None).unwrap();
    beside
        .inspection
        .sets
        .iter()
        .map(|report| report.set.0)
        .collect()
}

#[test]
fn after_a_clean_close_the_next_process_knows_exactly() {
    let (world, path, a) = backed_up();
    touch(&a, 5);
    close(a);
    for round in 0..3 {
        let a = serve(&path, Unproven::Compare);
        let report = point_of(&world, &a);
        says(&report, "is known from tracking store");
        says(&report, ": exact");
        assert_eq!(report.copied_bytes, CLUSTER, "round {round}");
        touch(&a, 8 + round);
        a.close().unwrap();
        // One set, and the catalogue names it.
        let named: Vec<_> = view_of(&world, "a")
            .tracking
            .sets
            .iter()
            .map(|set| set.number)
            .collect();
        assert_eq!((named.len(), named), (1, sets_in(&path)));
    }
}

#[test]
fn after_a_kill_the_user_says_whether_the_superset_is_gone_by() {
    let (world, path, a) = backed_up();
    for cluster in [4, 5, 6, 8, 9] {
        touch(&a, cluster);
    }
    // As a kill: nothing is written any more.
    drop(a);
    let beside = TrackingStore::inspect(&TrackingStore::path_beside(&path), None).unwrap();
    let excess: u64 = beside
        .inspection
        .sets
        .iter()
        .map(|set| set.excess_bytes)
        .sum();
    let a = serve(&path, Unproven::Compare);
    // Closed cleanly in between: what was not known of the time before is not known now.
    let a = restarted(a, &path, Unproven::Use);
    let report = point_of(&world, &a);
    says(&report, "exact plus at most");
    let copied = report.copied_bytes;
    assert!(
        (5 * CLUSTER..=5 * CLUSTER + excess).contains(&copied),
        "{copied}, excess {excess}"
    );
    touch(&a, 6);
    drop(a);
    let a = serve(&path, Unproven::Compare);
    let report = point_of(&world, &a);
    says(&report, "nobody can show that it has every write");
    assert_eq!(report.copied_bytes, 0);
}

#[test]
fn a_write_past_the_store_refutes_it() {
    let (world, path, a) = backed_up();
    close(a);
    crate::world::write(&path, 9 * CLUSTER, 0xee, CLUSTER);
    let a = serve(&path, Unproven::Use);
    let report = point_of(&world, &a);
    says(&report, "does not say what changed");
    assert_eq!(report.copied_bytes, CLUSTER);
    let a = restarted(a, &path, Unproven::Compare);
    assert!(noted(&point_of(&world, &a), ": exact"));
}

#[test]
fn every_end_of_a_group_is_known_to_the_next_process() {
    for (policy_of_all, disposition) in [
        (BitmapPolicy::OnSuccess, Disposition::Keep),
        (BitmapPolicy::Always, Disposition::Keep),
        (BitmapPolicy::Ask, Disposition::Keep),
        (BitmapPolicy::Never, Disposition::Keep),
        (BitmapPolicy::Always, Disposition::Discard),
    ] {
        let world = World::new();
        let paths = [world.raw("a.raw", CLUSTERS), world.raw("b.raw", CLUSTERS)];
        let options = options(|o| o.policy(policy_of_all).undecided(OnUndecided::Keep));
        let both = |a: &Arc<Tracked>, b: &Arc<Tracked>| {
            let (report, copies) = back_up(
                &world.repository(),
                &[(a, options.clone()), (b, options.clone())],
            );
            (committed(report), copies)
        };
        let [mut a, mut b] = [0, 1].map(|disk| serve(&paths[disk], Unproven::Compare));
        both(&a, &b);
        for round in 0..3 {
            for cluster in 0..6 {
                fill(&a, cluster * 4 + round, 0x80 + cluster as u8);
                touch(&b, cluster * 4 + round);
            }
            // a cannot be read to its end, so both end, as the disposition says.
            let spec =
                |disk: &Arc<Tracked>| DiskSpec::served(disk.clone()).options(options.clone());
            let broken = spec(&a).through(bad_cluster(12 + round));
            let running = world.backup().disk(broken).disk(spec(&b)).start().unwrap();
            if disposition == Disposition::Discard {
                running.cancel(disposition);
            }
            touch(&b, 28 + round);
            let report = running.wait();
            assert!(!report.succeeded());
            touch(&b, 32 + round);
            world.contents().check().unwrap();
            if round < 2 {
                a.close().unwrap();
                b.close().unwrap();
            }
            drop((a, b));
            [a, b] = [0, 1].map(|disk| serve(&paths[disk], Unproven::Use));
        }
        let (report, copies) = both(&a, &b);
        let run = report.run.unwrap().0;
        for (disk, copy) in report.disks.iter().zip(&copies) {
            assert!(
                noted(disk, "is known from"),
                "{policy_of_all} {disposition:?}: {:?}",
                disk.notes
            );
            assert!(
                world.restored(disk.name.as_str(), run) == *copy,
                "{policy_of_all} {}",
                disk.name
            );
        }
        // Six clusters in each of three rounds, and six more, of which one may be copied already.
        let copied = disk(&report, "b").copied_bytes / CLUSTER;
        let kept = matches!(policy_of_all, BitmapPolicy::Always | BitmapPolicy::Ask);
        assert!(
            copied
                >= if kept && disposition == Disposition::Keep {
                    2
                } else {
                    24
                },
            "{copied}"
        );
        world.check();
        for path in &paths {
            assert!(sets_in(path).len() <= 3, "{:?}", sets_in(path));
        }
    }
}

#[test]
fn undecided_views_wait_through_a_restart() {
    let (world, path, a) = backed_up();
    for cluster in 0..8 {
        fill(&a, cluster, 0x99);
    }
    let broken = DiskSpec::served(a.clone())
        .options(policy(BitmapPolicy::Ask))
        .through(bad_cluster(6));
    assert!(!world.run([broken]).succeeded());
    touch(&a, 20);
    let a = restarted(a, &path, Unproven::Compare);
    let (report, _) = back_up(&world.repository(), &[(&a, Options::default())]);
    assert!(matches!(report.disks[0].outcome, DiskOutcome::Refused(_)));
    let a = restarted(a, &path, Unproven::Compare);
    let keep = options(|o| o.undecided(OnUndecided::Keep));
    let (report, copies) = back_up(&world.repository(), &[(&a, keep)]);
    let report = committed(report);
    says(&report.disks[0], ": exact");
    // What remained, and 20.
    assert!((2 * CLUSTER..8 * CLUSTER).contains(&report.disks[0].copied_bytes));
    assert!(world.restored("a", report.run.unwrap().0) == copies[0]);
    world.check();
}

#[test]
fn a_store_that_fails_costs_a_comparison_and_no_write() {
    let world = World::new();
    let path = world.raw("a.raw", CLUSTERS);
    let file = OsFile::open(&path, true).unwrap();
    let raw = RawDevice::new("disk", Arc::new(file), true).unwrap();
    let gated = Arc::new(Gated::new(Arc::new(raw)));
    let beside = TrackingStore::path_beside(&path);
    let store = TrackingStore::create(&beside, &path, gated.size(), Mode::PowerLoss).unwrap();
    // Recording into a finished set is what makes a store fail without a broken disk beneath.
    let late = store
        .store()
        .begin(Label::default(), Default::default())
        .unwrap();
    store.store().finish(late.set()).unwrap();
    let a = Tracked::stored(name("a"), gated, &beside, store).unwrap();
    point_of(&world, &a);
    touch(&a, 5);
    late.record(0, 1);
    drop(late);
    touch(&a, 6);
    // This process knows all the same.
    let report = point_of(&world, &a);
    assert_eq!(report.copied_bytes, 2 * CLUSTER);
    says(&report, "is of no use now");
    assert!(matches!(
        view_of(&world, "a").tracking.proof,
        Proof::Lost { .. }
    ));
    touch(&a, 9);
    a.close().unwrap_err();
    drop(a);
    let a = serve(&path, Unproven::Use);
    let report = point_of(&world, &a);
    says(&report, "its tracking store failed");
    assert_eq!(report.copied_bytes, 0);
    touch(&a, 8);
    close(a);
    // And from here on the store is as good as ever.
    let a = serve(&path, Unproven::Compare);
    assert_eq!(point_of(&world, &a).copied_bytes, CLUSTER);
}

#[test]
fn without_its_store_a_disk_is_compared_and_with_another_one_refused() {
    let world = World::new();
    let path = world.raw("a.raw", CLUSTERS);
    let other = world.raw("other.raw", CLUSTERS);
    let a = serve(&path, Unproven::Compare);
    point_of(&world, &a);
    close(a);
    fs::remove_file(TrackingStore::path_beside(&path)).unwrap();
    serve(&other, Unproven::Compare).close().unwrap();
    fs::copy(
        TrackingStore::path_beside(&other),
        TrackingStore::path_beside(&path),
    )
    .unwrap();
    let error = try_serve(&path, Unproven::Use).unwrap_err().to_string();
    assert!(
        error.contains("a.raw.cohort") && error.contains("another disk"),
        "{error}"
    );
    fs::remove_file(TrackingStore::path_beside(&path)).unwrap();
    let a = serve(&path, Unproven::Use);
    touch(&a, 6);
    fill(&a, 4, 0x44);
    let report = point_of(&world, &a);
    says(&report, "another tracking store");
    assert_eq!(report.copied_bytes, CLUSTER);
}

#[test]
fn two_directories_share_a_store_and_keep_apart() {
    let (world, second) = (World::new(), World::new());
    let path = world.raw("a.raw", CLUSTERS);
    let mut a = serve(&path, Unproven::Compare);
    for round in 0..3 {
        point_of(&world, &a);
        touch(&a, 4 + round);
        let report = point_of(&second, &a);
        if round > 0 {
            // Since its own last run, and not since the other's.
            assert_eq!(report.copied_bytes, 2 * CLUSTER);
        }
        touch(&a, 12 + round);
        let report = point_of(&world, &a);
        assert_eq!(report.copied_bytes, 2 * CLUSTER, "{:?}", report.notes);
        close(a);
        a = serve(&path, Unproven::Compare);
    }
}

#[test]
fn a_missed_fence_leaves_the_views_as_they_were() {
    let (world, path, a) = backed_up();
    touch(&a, 5);
    let before = (view_of(&world, "a"), sets_in(&path));
    let refuse = cohort_backup::Hook::new(
        "refuses",
        Duration::from_secs(5),
        || Err("no".to_owned().into()),
        || Ok(()),
    );
    let run = world
        .backup()
        .disk(DiskSpec::served(a.clone()))
        .hook(refuse);
    run.start().unwrap_err();
    assert_eq!((view_of(&world, "a"), sets_in(&path)), before);
    let a = restarted(a, &path, Unproven::Compare);
    assert_eq!(point_of(&world, &a).copied_bytes, CLUSTER);
}
