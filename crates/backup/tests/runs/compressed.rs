//! Compressed images: what everything else does with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use cohort_backup::catalogue::Catalogue;
use cohort_backup::{BitmapPolicy, Compression, DiskSpec, Keep, Options, plan_prune, prune};

use crate::world::*;

fn zlib() -> Options {
    options(|o| o.compress(Compression::Zlib))
}

/// Bytes that shrink by about a third, another row for every seed; every fifth cluster does not shrink at all.
fn half_noise(seed: u64, clusters: u64) -> Vec<u8> {
    let mut state = seed;
    let length = (clusters * CLUSTER) as usize;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect();
    for (cluster, bytes) in bytes.chunks_mut(CLUSTER as usize).enumerate() {
        if cluster % 5 != 4 {
            let half = bytes.len() / 2;
            bytes[..half].fill(seed as u8 + 1);
        }
    }
    bytes
}

fn back_up(world: &World, disk: &Path, options: &Options) -> cohort_backup::RunReport {
    let spec = DiskSpec::file(disk).options(options.clone());
    world.commit([spec])
}

fn image_length(world: &World, run: u64) -> u64 {
    let contents = world.contents();
    let point = contents.point(&name("a"), cohort_backup::catalogue::RunId(run));
    let path = world.repository().join(point.unwrap().file.to_string());
    fs::metadata(path).unwrap().len()
}

#[test]
fn compressed_points_are_smaller_and_restore_verify_and_check() {
    for cluster in [4 << 10, 64 << 10, 2 << 20] {
        let world = World::new();
        let a = world.path("a.raw");
        let mut bytes = half_noise(7, 70);
        bytes.truncate(bytes.len() - 777);
        fs::write(&a, &bytes).unwrap();
        let options = zlib().to_builder().cluster(cluster).build().unwrap();
        back_up(&world, &a, &options);
        assert!(world.restored("a", 1) == bytes);
        let (length, plain) = (image_length(&world, 1), bytes.len() as u64);
        // Beside the data there are tables, and the end of a pack.
        let more = 6 * cluster + (1 << 20);
        assert!(length < plain * 4 / 5 + more, "{length} of {plain}");
        world.check();
        write(&a, 3 * CLUSTER, 0x55, 10 * CLUSTER);
        back_up(&world, &a, &options);
        assert!(world.restored("a", 2) == fs::read(&a).unwrap());
        assert!(world.restored("a", 1) == bytes);
        world.check();
    }
}

#[test]
fn chains_of_both_kinds_prune_to_what_they_were() {
    for kinds in [[true, true], [true, false], [false, true]] {
        let world = World::new();
        let a = world.path("a.raw");
        fs::write(&a, half_noise(1, 40)).unwrap();
        let mut copies = BTreeMap::new();
        for run in 1..=6u64 {
            let compress = kinds[(run % 2) as usize];
            let options = if compress { zlib() } else { Options::default() };
            back_up(&world, &a, &options);
            copies.insert(run, fs::read(&a).unwrap());
            let fresh = half_noise(run * 3, 8);
            let mut bytes = fs::read(&a).unwrap();
            let at = (run * 5 % 30 * CLUSTER) as usize;
            bytes[at..at + fresh.len()].copy_from_slice(&fresh);
            fs::write(&a, bytes).unwrap();
        }
        let catalogue = Catalogue::open(world.repository()).unwrap();
        let keep = Keep { last: 2, daily: 0 };
        let plan = plan_prune(&catalogue.snapshot().unwrap(), &keep, &|_| 0);
        prune(&catalogue, &plan, &|_, _| {}, &AtomicBool::new(false)).unwrap();
        drop(catalogue);
        for run in [5, 6] {
            assert!(world.restored("a", run) == copies[&run], "{kinds:?} {run}");
        }
        world.check();
    }
}

#[test]
fn compressed_partial_is_continued() {
    let world = World::new();
    let a = world.path("a.raw");
    fs::write(&a, half_noise(5, 60)).unwrap();
    let always = zlib()
        .to_builder()
        .policy(BitmapPolicy::Always)
        .workers(1)
        .build()
        .unwrap();
    let spec = DiskSpec::file(&a)
        .options(always.clone())
        .through(bad_cluster(50));
    let report = world.run([spec]);
    assert!(disk(&report, "a").left.is_some(), "{report:?}");
    world.check();
    // Some of what it holds changes.
    let mut bytes = fs::read(&a).unwrap();
    let fresh = half_noise(9, 6);
    bytes[..fresh.len()].copy_from_slice(&fresh);
    fs::write(&a, &bytes).unwrap();
    let report = back_up(&world, &a, &always);
    assert!(disk(&report, "a").continued.is_some());
    assert!(disk(&report, "a").copied_bytes < 40 * CLUSTER);
    assert!(world.restored("a", 2) == bytes);
    world.check();
}
