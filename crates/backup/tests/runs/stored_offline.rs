//! Disks that nobody serves now, backed up by the stores that were kept while they were served.

use std::fs;
use std::path::Path;

use cohort_backup::catalogue::Catalogue;
use cohort_backup::{BitmapPolicy, DiskOutcome, DiskReport, DiskSpec, Unproven};
use cohort_block::TrackingStore;

use crate::stored::{
    CLUSTERS, backed_up, close, fill, point_of, says, serve, sets_in, touch, view_of,
};
use crate::world::{CLUSTER, World, bad_cluster, name, policy};

/// Backs the disk up while nobody serves it, by its store.
fn offline(world: &World, path: &Path, change: impl FnOnce(DiskSpec) -> DiskSpec) -> DiskReport {
    let spec = DiskSpec::file(path).tracking_store(TrackingStore::path_beside(path));
    let report = world.run([change(spec)]);
    report.disks[0].clone()
}

#[test]
fn a_disk_that_nobody_serves_now_is_backed_up_by_its_store() {
    let (world, path, a) = backed_up();
    touch(&a, 5);
    fill(&a, 6, 0x66);
    close(a);
    // It need not be named, and the view stays if the run fails.
    let told = DiskSpec::file(&path)
        .options(policy(BitmapPolicy::Always))
        .through(bad_cluster(6));
    let report = world.run([told]);
    says(&report.disks[0], "is known from tracking store");
    assert!(!report.succeeded());
    assert_eq!(view_of(&world, "a").tracking.sets.len(), 1);
    let catalogue = Catalogue::open(world.repository()).unwrap();
    catalogue.drop_partial(&name("a")).unwrap();
    drop(catalogue);
    let failed = offline(&world, &path, |spec| {
        spec.options(policy(BitmapPolicy::OnSuccess))
            .through(bad_cluster(6))
    });
    assert!(
        matches!(failed.outcome, DiskOutcome::Failed(_)),
        "{:?}",
        failed.outcome
    );
    let report = offline(&world, &path, |spec| spec);
    assert!(
        matches!(report.outcome, DiskOutcome::Committed(_)),
        "{:?}",
        report.outcome
    );
    says(&report, ": exact");
    assert_eq!(report.copied_bytes, 2 * CLUSTER);
    let run = *world.points("a").last().unwrap();
    assert!(world.restored("a", run) == fs::read(&path).unwrap());
    assert_eq!(offline(&world, &path, |spec| spec).copied_bytes, 0);
    // And the next to serve it goes on from there.
    let a = serve(&path, Unproven::Compare);
    touch(&a, 8);
    close(a);
    let report = offline(&world, &path, |spec| spec);
    assert_eq!(report.copied_bytes, CLUSTER, "{:?}", report.notes);
    let a = serve(&path, Unproven::Compare);
    let report = point_of(&world, &a);
    says(&report, ": exact");
    assert_eq!(report.copied_bytes, 0);
    assert_eq!(sets_in(&path).len(), 1);
}

#[test]
fn a_store_that_was_refuted_or_is_another_disk_s_is_not_gone_by_offline() {
    let (world, path, a) = backed_up();
    close(a);
    crate::world::write(&path, 9 * CLUSTER, 0xee, CLUSTER);
    let report = offline(&world, &path, |spec| spec);
    says(&report, "is not gone by yet");
    assert_eq!(report.copied_bytes, CLUSTER);
    let other = world.raw("other.raw", CLUSTERS);
    let spec = DiskSpec::file(&other).tracking_store(TrackingStore::path_beside(&path));
    let error = world.backup().disk(spec).start().unwrap_err().to_string();
    assert!(
        error.contains("other.raw") && error.contains("another disk"),
        "{error}"
    );
    // While somebody serves the disk its store is taken.
    let a = serve(&path, Unproven::Compare);
    let spec = DiskSpec::file(&path).tracking_store(TrackingStore::path_beside(&path));
    let error = world.backup().disk(spec).start().unwrap_err().to_string();
    assert!(
        error.contains("in use") || error.contains("lock"),
        "{error}"
    );
    drop(a);
}
