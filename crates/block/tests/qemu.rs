//! Images that QEMU's tools made read as QEMU reads them, and what we write QEMU finds sound.

mod common;

use std::fs;
use std::path::Path;

use cohort_block::{Device, ExtentKind, Image, OpenOptions, open};
use common::{Numbers, attempt, content, have_qemu, qemu_io, run};

/// Makes an image called `disk` in a folder.
struct Recipe {
    name: &'static str,
    make: fn(&Path),
}

/// Odd on purpose: no multiple of any cluster, but of a sector, as qcow2 wants it.
const SIZE: u64 = 9 * 1024 * 1024 + 7 * 512;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "clusters of 512",
        make: |d| plain(d, "cluster_size=512"),
    },
    Recipe {
        name: "clusters of 4 KiB",
        make: |d| plain(d, "cluster_size=4096"),
    },
    Recipe {
        name: "clusters of 64 KiB",
        make: |d| plain(d, "cluster_size=65536"),
    },
    Recipe {
        name: "clusters of 2 MiB",
        make: |d| plain(d, "cluster_size=2M"),
    },
    Recipe {
        name: "version 2",
        make: |d| plain(d, "compat=0.10"),
    },
    Recipe {
        name: "refcounts of one bit",
        make: |d| plain(d, "refcount_bits=1"),
    },
    Recipe {
        name: "refcounts of 64 bits",
        make: |d| plain(d, "refcount_bits=64"),
    },
    Recipe {
        name: "metadata preallocated",
        make: |d| plain(d, "preallocation=metadata"),
    },
    Recipe {
        name: "all preallocated",
        make: |d| plain(d, "preallocation=falloc"),
    },
    Recipe {
        name: "lazy refcounts",
        make: |d| plain(d, "lazy_refcounts=on"),
    },
    Recipe {
        name: "nothing written",
        make: |d| create(d, "disk", ""),
    },
    Recipe {
        name: "compressed",
        make: |d| compressed(d, "65536"),
    },
    Recipe {
        name: "compressed, clusters of 512",
        make: |d| compressed(d, "512"),
    },
    Recipe {
        name: "compressed, clusters of 2 MiB",
        make: |d| compressed(d, "2M"),
    },
    Recipe {
        name: "over raw",
        make: over_raw,
    },
    Recipe {
        name: "over a shorter raw",
        make: over_shorter_raw,
    },
    Recipe {
        name: "chain of three",
        make: chain_of_three,
    },
    Recipe {
        name: "over compressed",
        make: over_compressed,
    },
    Recipe {
        name: "with a snapshot",
        make: with_snapshot,
    },
    Recipe {
        name: "with bitmaps",
        make: with_bitmap,
    },
];

fn create(dir: &Path, name: &str, options: &str) {
    let options = if options.is_empty() {
        String::new()
    } else {
        format!("-o {options}")
    };
    run(
        dir,
        &format!("qemu-img create -f qcow2 {options} {name} {SIZE}"),
    );
}

/// Writes, zeroes and discards all over an image.
fn scribble(dir: &Path, name: &str, format: &str, size: u64, seed: u64) {
    let mut numbers = Numbers(seed);
    let mut commands = Vec::new();
    for _ in 0..24 {
        let offset = numbers.below(size / 512) * 512;
        let length = (numbers.below(400) + 1) * 512;
        let length = length.min(size - offset);
        let byte = numbers.below(255) + 1;
        commands.push(match numbers.below(6) {
            0 => format!("write -z {offset} {length}"),
            1 => format!("write -z -u {offset} {length}"),
            2 => format!("discard {offset} {length}"),
            _ => format!("write -P {byte} {offset} {length}"),
        });
    }
    // The last sector, where the last cluster is cut.
    commands.push(format!("write -P 77 {} 512", size - 512));
    qemu_io(dir, name, format, &commands);
}

fn plain(dir: &Path, options: &str) {
    create(dir, "disk", options);
    scribble(dir, "disk", "qcow2", SIZE, options.len() as u64);
}

fn compressed(dir: &Path, cluster: &str) {
    plain(dir, "");
    fs::rename(dir.join("disk"), dir.join("loose")).unwrap();
    run(
        dir,
        &format!("qemu-img convert -t unsafe -c -O qcow2 -o cluster_size={cluster} loose disk"),
    );
    // Some of it is plain again.
    qemu_io(
        dir,
        "disk",
        "qcow2",
        &["write -P 9 1M 70000".into(), "write -z 3M 1M".into()],
    );
}

fn over_raw(dir: &Path) {
    run(dir, &format!("qemu-img create -f raw base {SIZE}"));
    scribble(dir, "base", "raw", SIZE, 3);
    run(dir, "qemu-img create -f qcow2 -b base -F raw disk");
    scribble(dir, "disk", "qcow2", SIZE, 4);
}

fn over_shorter_raw(dir: &Path) {
    // Not even a multiple of a sector.
    fs::write(dir.join("base"), vec![5; 3_000_001]).unwrap();
    run(
        dir,
        &format!("qemu-img create -f qcow2 -b base -F raw disk {SIZE}"),
    );
    scribble(dir, "disk", "qcow2", SIZE, 5);
}

fn chain_of_three(dir: &Path) {
    fs::create_dir(dir.join("below")).unwrap();
    create(dir, "below/one", "cluster_size=4096");
    scribble(dir, "below/one", "qcow2", SIZE, 6);
    run(
        &dir.join("below"),
        "qemu-img create -f qcow2 -b one -F qcow2 two",
    );
    scribble(dir, "below/two", "qcow2", SIZE, 7);
    run(
        dir,
        "qemu-img create -f qcow2 -o cluster_size=128k -b below/two -F qcow2 disk",
    );
    scribble(dir, "disk", "qcow2", SIZE, 8);
}

fn over_compressed(dir: &Path) {
    compressed(dir, "65536");
    fs::rename(dir.join("disk"), dir.join("base")).unwrap();
    run(
        dir,
        "qemu-img create -f qcow2 -o cluster_size=4k -b base -F qcow2 disk",
    );
    scribble(dir, "disk", "qcow2", SIZE, 9);
}

fn with_snapshot(dir: &Path) {
    plain(dir, "");
    run(dir, "qemu-img snapshot -c first disk");
    scribble(dir, "disk", "qcow2", SIZE, 10);
}

fn with_bitmap(dir: &Path) {
    plain(dir, "");
    run(dir, "qemu-img bitmap --add disk changes");
    scribble(dir, "disk", "qcow2", SIZE, 11);
}

#[test]
fn images_read_and_map_as_qemu_says() {
    if !have_qemu() {
        return;
    }
    for Recipe { name, make } in RECIPES {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        run(
            dir.path(),
            "qemu-img convert -t unsafe -f qcow2 -O raw disk expected",
        );
        let expected = fs::read(dir.path().join("expected")).unwrap();
        let device = open(dir.path().join("disk"), OpenOptions::read_only()).unwrap();
        assert_eq!(device.size(), SIZE, "{name}");
        assert!(
            content(&*device) == expected,
            "{name}: other bytes than QEMU reads"
        );
        check_extents(name, dir.path(), &*device, &expected);
        check_walk(name, &*device, &expected);
    }
}

/// Our extents against QEMU's map: equally allocated; zero wherever QEMU says so, and where else we do
/// (in the holes of a file, which QEMU does not always look for) the bytes are zero indeed.
fn check_extents(name: &str, dir: &Path, device: &dyn Device, expected: &[u8]) {
    let map = run(dir, "qemu-img map -f qcow2 --output=json disk");
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    for piece in map.as_array().unwrap() {
        let number = |key: &str| piece[key].as_u64().unwrap();
        let is = |key: &str| piece[key].as_bool().unwrap();
        let (mut at, end) = (number("start"), number("start") + number("length"));
        while at < end {
            let extent = device.extent(at, end - at).unwrap();
            assert!(
                extent.length > 0 && extent.length <= end - at,
                "{name}: {extent:?} at {at}"
            );
            let allocated = number("depth") == 0 && is("present");
            assert_eq!(
                extent.allocated, allocated,
                "{name}: {extent:?} at {at}, not {piece}"
            );
            let range = at as usize..(at + extent.length) as usize;
            match extent.kind {
                ExtentKind::Data => assert!(!is("zero"), "{name}: {extent:?} at {at}, not {piece}"),
                ExtentKind::Zero => {
                    assert!(expected[range].iter().all(|byte| *byte == 0), "{name}")
                }
            }
            at += extent.length;
        }
    }
}

/// The same over the whole disk at once, where extents end by themselves.
fn check_walk(name: &str, device: &dyn Device, expected: &[u8]) {
    let mut at = 0;
    while at < SIZE {
        let extent = device.extent(at, SIZE - at).unwrap();
        let range = at as usize..(at + extent.length) as usize;
        let zero = expected[range].iter().all(|byte| *byte == 0);
        assert!(
            extent.kind == ExtentKind::Data || zero,
            "{name}: {extent:?} at {at} is not zero"
        );
        at += extent.length;
    }
    assert_eq!(at, SIZE, "{name}");
}

#[test]
fn a_truncated_compressed_image_never_reads_as_other_bytes() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Bytes that do not compress to nothing, so that cutting cuts them.
    let mut numbers = Numbers(1);
    let expected: Vec<u8> = (0..400_000).map(|_| numbers.below(40) as u8).collect();
    fs::write(dir.path().join("plain"), &expected).unwrap();
    run(
        dir.path(),
        "qemu-img convert -t unsafe -c -f raw -O qcow2 plain disk",
    );
    let file = fs::File::options()
        .write(true)
        .open(dir.path().join("disk"))
        .unwrap();
    let whole = file.metadata().unwrap().len();
    let mut failures = 0;
    for cut in (0..whole - 200_000).step_by(1777) {
        file.set_len(whole - cut).unwrap();
        let Ok(device) = open(dir.path().join("disk"), OpenOptions::read_only()) else {
            continue;
        };
        for (n, expected) in expected.chunks(65536).enumerate() {
            let mut bytes = vec![0xee; expected.len()];
            match device.read_at(&mut bytes, n as u64 * 65536) {
                Ok(()) => assert!(bytes == expected, "other bytes with {cut} cut off"),
                Err(error) => {
                    failures += 1;
                    assert!(
                        error.to_string().contains("truncated"),
                        "{cut} cut off: {error}"
                    );
                }
            }
        }
    }
    assert!(failures > 10, "cutting that much must show: {failures}");
}

#[test]
fn preallocated_clusters_that_nobody_wrote_are_zero() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "disk", "preallocation=metadata");
    qemu_io(dir.path(), "disk", "qcow2", &["write -P 1 1M 64k".into()]);
    let device = open(dir.path().join("disk"), OpenOptions::read_only()).unwrap();
    let extent = device.extent(2 << 20, 1 << 20).unwrap();
    assert_eq!((extent.kind, extent.allocated), (ExtentKind::Zero, true));
    assert_eq!(
        device.extent(1 << 20, 65536).unwrap().kind,
        ExtentKind::Data
    );
}

#[test]
fn what_we_write_is_there_after_reopening_and_sound_for_qemu() {
    if !have_qemu() {
        return;
    }
    for (seed, Recipe { name, make }) in (1..).zip(RECIPES) {
        if *name == "with bitmaps" {
            continue; // Refused, see `bitmaps_of_qemu_keep_us_from_writing`.
        }
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let path = dir.path().join("disk");
        let device = open(&path, OpenOptions::read_write()).unwrap();
        let mut oracle = content(&*device);
        scribble_ours(&*device, &mut oracle, seed);
        assert!(content(&*device) == oracle, "{name}: not what was written");
        device.flush().unwrap();
        drop(device);

        let check = run(dir.path(), "qemu-img check -f qcow2 disk");
        assert!(check.contains("No errors were found"), "{name}: {check}");
        run(
            dir.path(),
            "qemu-img convert -t unsafe -f qcow2 -O raw disk after",
        );
        assert!(
            fs::read(dir.path().join("after")).unwrap() == oracle,
            "{name}: QEMU reads others"
        );
        let again = open(&path, OpenOptions::read_only()).unwrap();
        assert!(
            content(&*again) == oracle,
            "{name}: other bytes after reopening"
        );
    }
}

/// Writes, zeroes and discards all over a device, at any byte.
fn scribble_ours(device: &dyn Device, oracle: &mut [u8], seed: u64) {
    let mut numbers = Numbers(seed);
    for _ in 0..40 {
        let offset = numbers.below(device.size());
        let length = (numbers.below(300_000) + 1).min(device.size() - offset);
        let range = offset as usize..(offset + length) as usize;
        let byte = numbers.below(256) as u8;
        match numbers.below(5) {
            0 => {
                device.write_zeroes(offset, length).unwrap();
                oracle[range].fill(0);
            }
            1 => {
                device.discard(offset, length).unwrap();
                let mut now = vec![1; length as usize];
                device.read_at(&mut now, offset).unwrap();
                for (now, was) in now.iter().zip(&mut oracle[range]) {
                    assert!(
                        *now == 0 || now == was,
                        "a discarded byte is neither old nor zero"
                    );
                    *was = *now;
                }
            }
            _ => {
                device
                    .write_at(&vec![byte; length as usize], offset)
                    .unwrap();
                oracle[range].fill(byte);
            }
        }
    }
}

#[test]
fn images_are_served_to_many_threads_at_once() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    over_raw(dir.path());
    let device = open(dir.path().join("disk"), OpenOptions::read_write()).unwrap();
    let threads = 4;
    let part = SIZE / threads;
    let mut oracle = content(&*device);
    std::thread::scope(|scope| {
        for (n, mine) in (0..threads).zip(oracle.chunks_mut(part as usize)) {
            let device = &device;
            scope.spawn(move || {
                let mut numbers = Numbers(n);
                for round in 0..60 {
                    let offset = numbers.below(mine.len() as u64);
                    let length = (numbers.below(20_000) + 1).min(mine.len() as u64 - offset);
                    let range = offset as usize..(offset + length) as usize;
                    device
                        .write_at(&vec![round; length as usize], n * part + offset)
                        .unwrap();
                    mine[range].fill(round);
                    let mut back = vec![0; mine.len()];
                    device.read_at(&mut back, n * part).unwrap();
                    assert!(back == mine, "thread {n} reads other bytes than it wrote");
                    if round % 16 == 0 {
                        device.flush().unwrap();
                        device.discard(n * part + offset, length).unwrap();
                        device.read_at(&mut back, n * part).unwrap();
                        mine.copy_from_slice(&back);
                    }
                }
            });
        }
    });
    device.flush().unwrap();
    drop(device);
    assert!(run(dir.path(), "qemu-img check -f qcow2 disk").contains("No errors were found"));
    run(
        dir.path(),
        "qemu-img convert -t unsafe -f qcow2 -O raw disk after",
    );
    assert!(fs::read(dir.path().join("after")).unwrap() == oracle);
}

#[test]
fn raw_disks_read_as_they_are() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "qemu-img create -f raw disk 5000001");
    qemu_io(
        dir.path(),
        "disk",
        "raw",
        &["write -P 3 1M 200k".into(), "write -P 4 4999680 321".into()],
    );
    let image = Image::open(dir.path().join("disk"), OpenOptions::read_only()).unwrap();
    let expected = fs::read(dir.path().join("disk")).unwrap();
    assert!(content(&**image.device()) == expected);
    assert_eq!(image.files().len(), 1);
}

#[test]
fn a_chain_tells_all_its_files_and_stamps() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    chain_of_three(dir.path());
    let image = Image::open(dir.path().join("disk"), OpenOptions::read_only()).unwrap();
    let names: Vec<_> = image
        .files()
        .iter()
        .map(|file| file.path().file_name().unwrap())
        .collect();
    assert_eq!(names, ["disk", "two", "one"]);
    let before = image.stamps().unwrap();
    assert_eq!(image.stamps().unwrap(), before);
    let lowest = fs::File::options()
        .append(true)
        .open(dir.path().join("below/one"))
        .unwrap();
    lowest
        .set_len(lowest.metadata().unwrap().len() + 512)
        .unwrap();
    let after = image.stamps().unwrap();
    assert_eq!(after[..2], before[..2]);
    assert_ne!(after[2], before[2]);
}

/// Whoever maps clusters for us leads to a new table at once, and counts it when it flushes.
#[test]
fn what_a_killed_writer_left_uncounted_is_not_taken_for_free() {
    if !have_qemu() {
        return;
    }
    const GIB: u64 = 1 << 30;
    for options in [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512,refcount_bits=1",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let size = if options.starts_with("compat") {
            4 * GIB
        } else {
            64 << 20
        };
        let create = format!("qemu-img create -q -f qcow2 -o {options} disk {size}");
        run(dir.path(), &create);
        let killed = open(path("disk"), OpenOptions::read_write()).unwrap();
        killed.write_at(&[1; 70_000], size / 2).unwrap();
        // What it had in memory goes with it.
        fs::copy(path("disk"), path("left")).unwrap();
        drop(killed);
        assert!(
            !attempt(
                dir.path(),
                &["qemu-img", "check", "-q", "-f", "qcow2", "left"]
            )
            .status
            .success(),
            "{options}: it left nothing uncounted, so this tries nothing"
        );
        let next = open(path("left"), OpenOptions::read_write()).unwrap();
        let places = [0, 1, 2, 3].map(|place| place * size / 4);
        for (byte, at) in (2..).zip(places) {
            next.write_at(&[byte; 70_000], at).unwrap();
        }
        next.flush().unwrap();
        drop(next);
        run(dir.path(), "qemu-img check -q -f qcow2 left");
        let next = open(path("left"), OpenOptions::read_only()).unwrap();
        for (byte, at) in (2..).zip(places) {
            let mut read = vec![0; 70_000];
            next.read_at(&mut read, at).unwrap();
            assert!(read == [byte; 70_000], "{options}: at byte {at}");
        }
    }
}
