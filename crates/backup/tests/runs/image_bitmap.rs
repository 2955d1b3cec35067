//! Runs that go by a bitmap in the image: no granule leaves it but for a point that holds it.

use std::path::Path;

use cohort_backup::{BitmapPolicy, Budget, DiskOutcome, DiskSpec, ErrorPolicy};
use cohort_bitmap::store::qcow2::Bitmaps;
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{OpenOptions, OsFile, open};

use crate::world::{CLUSTER, World, bad_cluster, disk, options, read_image};

const CLUSTERS: u64 = 32;

/// An image with data in its first eight clusters, of which the bitmap `b` knows nothing.
fn image(world: &World) -> std::path::PathBuf {
    use cohort_backup::{CreateOptions, Qcow2Builder};
    let path = world.path("a.qcow2");
    let file = OsFile::create_new(&path).unwrap();
    let builder = Qcow2Builder::create(file, &CreateOptions::new(CLUSTERS * CLUSTER)).unwrap();
    builder
        .write_clusters(0, &vec![7; 8 * CLUSTER as usize])
        .unwrap();
    builder.seal().unwrap();
    drop(builder);
    let bits = DirtyBitmap::new(CLUSTERS * CLUSTER, Granularity::DEFAULT).unwrap();
    bitmaps(&path).add("b", &bits, true).unwrap();
    path
}

fn bitmaps(path: &Path) -> Bitmaps<OsFile> {
    Bitmaps::open(OsFile::open(path, true).unwrap()).unwrap()
}

/// The dirty clusters.
fn dirty(path: &Path) -> Vec<u64> {
    let bits = bitmaps(path).read("b").unwrap();
    bits.dirty_offsets()
        .map(|offset| offset / CLUSTER)
        .collect()
}

/// A guest's write, which the bitmap hears of.
fn write(path: &Path, cluster: u64, byte: u8) {
    let device = open(path, OpenOptions::read_write()).unwrap();
    device.write_at(&[byte; 512], cluster * CLUSTER).unwrap();
}

#[test]
fn what_a_point_lacks_is_copied_also_if_the_bitmap_never_had_it() {
    let world = World::new();
    let a = image(&world);
    write(&a, 20, 1);
    write(&a, 21, 1);
    let skip = options(|o| {
        o.on_source_error(ErrorPolicy::Skip {
            budget: Budget::NONE,
            limit: 2,
        })
    });
    let spec = || DiskSpec::file(&a).bitmap("b");
    let bad = spec()
        .options(skip)
        .through(|device| bad_cluster(3)(bad_cluster(20)(device)));
    let report = world.commit([bad]);
    assert_eq!(disk(&report, "a").skipped.len(), 2);
    assert_eq!(dirty(&a), [20], "the point does not hold it");

    write(&a, 9, 2);
    let report = world.commit([spec()]);
    assert_eq!(disk(&report, "a").copied_bytes, 3 * CLUSTER, "{report:?}");
    assert_eq!(dirty(&a), [0; 0]);
    assert!(world.restored("a", 2) == read_image(&a));
    world.check();
}

#[test]
fn an_aborted_run_takes_nothing_and_its_partial_is_no_harm() {
    for policy in [BitmapPolicy::OnSuccess, BitmapPolicy::Always] {
        let world = World::new();
        let a = image(&world);
        let spec = || DiskSpec::file(&a).bitmap("b");
        world.commit([spec()]);
        write(&a, 20, 1);
        write(&a, 21, 1);
        let bad = spec()
            .options(options(|o| o.policy(policy).workers(1)))
            .through(bad_cluster(21));
        let report = world.run([bad]);
        assert!(matches!(disk(&report, "a").outcome, DiskOutcome::Failed(_)));
        assert_eq!(dirty(&a), [20, 21]);

        write(&a, 9, 2);
        let report = world.commit([spec()]);
        let notes = format!("{:?}", disk(&report, "a").notes);
        assert!(!notes.contains("not gone by"), "{policy}: {notes}");
        assert_eq!(dirty(&a), [0; 0]);
        let last = *world.points("a").last().unwrap();
        assert!(world.restored("a", last) == read_image(&a), "{policy}");
        write(&a, 9, 3);
        let report = world.commit([spec()]);
        assert_eq!(disk(&report, "a").copied_bytes, CLUSTER);
        let last = *world.points("a").last().unwrap();
        assert!(world.restored("a", last) == read_image(&a), "{policy}");
        world.check();
    }
}

#[test]
fn a_source_that_changed_while_it_was_read_keeps_its_bits() {
    let world = World::new();
    let a = image(&world);
    world.commit([DiskSpec::file(&a).bitmap("b")]);
    write(&a, 20, 1);
    let path = a.clone();
    let spec = DiskSpec::file(&a)
        .bitmap("b")
        .options(options(|o| o.accept_changes(true)))
        .through(move |device| {
            // Somebody who honours no locks.
            let file = std::fs::File::options().append(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len() + CLUSTER)
                .unwrap();
            device
        });
    world.commit([spec]);
    assert_eq!(dirty(&a), [20]);
}
