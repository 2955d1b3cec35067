//! Restores: the same bytes, holes where they were, and never half of anything.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use cohort_backup::{
    Backing, CreateOptions, Qcow2Builder, RestoreError, RestoreOptions, Restored, restore,
};
use cohort_block::{
    Device, DeviceError, Extent, ExtentKind, Format, MemoryDevice, OpenOptions, Operation, OsFile,
    open,
};
use proptest::prelude::*;

/// A restore that nobody watches or cancels.
fn run(
    source: &dyn Device,
    out: &Path,
    options: &RestoreOptions,
) -> Result<Restored, RestoreError> {
    restore(source, out, options, &|_, _| {}, &AtomicBool::new(false))
}

/// Everything in a directory, by name.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A disk with data in some of its 4 KiB pages.
fn disk(size: usize, pages: &[usize]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for page in pages {
        let end = (page * 4096 + 4096).min(size);
        for (at, byte) in bytes[page * 4096..end].iter_mut().enumerate() {
            *byte = (at % 251) as u8 ^ *page as u8 | 1;
        }
    }
    bytes
}

fn read_disk(path: &Path) -> Vec<u8> {
    let device = open(path, OpenOptions::read_only()).unwrap();
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn holes_stay_holes_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    let size = (40 << 20) + 777;
    let pages = [0, 1, 300, 301, 5000, size / 4096];
    let bytes = disk(size, &pages);
    let sparse = File::create_new(dir.path().join("source")).unwrap();
    for page in pages {
        let end = (page * 4096 + 4096).min(size);
        let data = &bytes[page * 4096..end];
        sparse.write_all_at(data, page as u64 * 4096).unwrap();
    }
    let source = open(
        dir.path().join("source"),
        OpenOptions::read_only().format(Format::Raw),
    );
    let source = source.unwrap();
    for (format, name, room) in [
        (Format::Raw, "raw", 100_000),
        (Format::Qcow2, "qcow2", 700_000),
    ] {
        let out = dir.path().join(name);
        let restored = run(&*source, &out, &RestoreOptions::new(format)).unwrap();
        assert_eq!(restored.size_bytes, size as u64);
        assert!(restored.data_bytes < 6 << 16, "{restored:?}");
        let used = fs::metadata(&out).unwrap().blocks() * 512;
        assert!(used < room, "{name} takes {used} bytes");
        let back = match format {
            Format::Raw => fs::read(&out).unwrap(),
            Format::Qcow2 => read_disk(&out),
        };
        assert_eq!(
            back.len(),
            match format {
                Format::Raw => size,
                Format::Qcow2 => size.next_multiple_of(512),
            }
        );
        assert!(back[..size] == bytes && back[size..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(names(dir.path()), ["qcow2", "raw", "source"]);
}

#[test]
fn a_chain_is_restored_without_its_backing_file_and_at_the_size_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let size = 700_001;
    let mut bytes = disk(size, &(0..171).collect::<Vec<_>>());
    let build = |name: &str, options: &CreateOptions| {
        let file = OsFile::create_new(dir.path().join(name)).unwrap();
        Qcow2Builder::create(file, options).unwrap()
    };
    let options = CreateOptions::new(size as u64);
    let base = build("base", &options);
    base.write_clusters(0, &bytes).unwrap();
    base.finish().unwrap();
    let backing = Backing {
        file: "base".into(),
        format: "qcow2".into(),
    };
    let layer = build("layer", &options.backing(backing));
    bytes[65536..131_072].fill(0);
    layer.write_zero_cluster(1).unwrap();
    bytes[655_360..].fill(9);
    layer.write_cluster(10, &bytes[655_360..]).unwrap();
    layer.finish().unwrap();

    let chain = open(dir.path().join("layer"), OpenOptions::read_only()).unwrap();
    for (format, name) in [(Format::Raw, "raw"), (Format::Qcow2, "standalone")] {
        let options = RestoreOptions::new(format).length_bytes(size as u64);
        run(&*chain, &dir.path().join(name), &options).unwrap();
    }
    drop(chain);
    fs::remove_file(dir.path().join("base")).unwrap();
    assert!(fs::read(dir.path().join("raw")).unwrap() == bytes);
    assert!(read_disk(&dir.path().join("standalone"))[..size] == bytes);
}

#[test]
fn what_exists_is_left_alone_unless_it_may_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::with_bytes("memory", &disk(20_000, &[1]));
    let out = dir.path().join("out");
    fs::write(&out, "precious").unwrap();
    let options = RestoreOptions::new(Format::Raw);
    let refused = run(&source, &out, &options);
    assert!(matches!(refused, Err(RestoreError::Exists { path }) if path == out));
    assert_eq!(fs::read(&out).unwrap(), b"precious");

    let options = options.overwrite(true);
    let cancelled = restore(&source, &out, &options, &|_, _| {}, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(RestoreError::Cancelled)));
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    assert_eq!(names(dir.path()), ["out"]);

    // Through a link, what it points at is replaced, and the link stays.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("out", &link).unwrap();
    run(&source, &link, &options).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&out).unwrap(), disk(20_000, &[1]));
    assert_eq!(names(dir.path()), ["link", "out"]);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::with_bytes("memory", &disk(20_000, &[1]));
    let out = dir.path().join("out");
    let intrude = |_, _| fs::write(&out, "appeared").unwrap();
    let options = RestoreOptions::new(Format::Raw);
    let refused = restore(&source, &out, &options, &intrude, &AtomicBool::new(false));
    assert!(matches!(refused, Err(RestoreError::Exists { .. })));
    assert_eq!(fs::read(&out).unwrap(), b"appeared");
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn impossible_places_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::with_bytes("memory", &[7; 5000]);
    let fails = |out: &Path, overwrite: bool| {
        let options = RestoreOptions::new(Format::Raw).overwrite(overwrite);
        run(&source, out, &options).unwrap_err()
    };
    let missing = dir.path().join("missing");
    let error = fails(&missing.join("out"), false);
    assert!(
        matches!(&error, RestoreError::Directory { path, .. } if *path == missing),
        "{error}"
    );
    assert!(matches!(
        fails(dir.path(), false),
        RestoreError::Exists { .. }
    ));
    assert!(matches!(
        fails(dir.path(), true),
        RestoreError::NotAFile { .. }
    ));
    assert!(matches!(
        fails(Path::new("/dev/null"), true),
        RestoreError::NotAFile { .. }
    ));
    assert!(matches!(
        fails(Path::new(""), true),
        RestoreError::NoName { .. }
    ));
    fs::write(dir.path().join("file"), "").unwrap();
    let error = fails(&dir.path().join("file/out"), false);
    assert!(matches!(error, RestoreError::Directory { .. }), "{error}");
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    assert!(matches!(
        fails(&dir.path().join("dangling"), true),
        RestoreError::NotAFile { .. }
    ));
    // What stands in the place of a killed restore's file, and is none.
    std::os::unix::fs::symlink("elsewhere", dir.path().join(".out.cohort-partial")).unwrap();
    let error = fails(&dir.path().join("out"), false);
    let RestoreError::NotAFile { path } = &error else {
        panic!("{error}");
    };
    assert!(path.ends_with(".out.cohort-partial"), "{error}");
    let left = [".out.cohort-partial", "dangling", "file"];
    assert_eq!(names(dir.path()), left);
}

#[test]
fn the_place_of_a_killed_restore_is_taken_over_and_that_of_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::with_bytes("memory", &disk(20_000, &[1]));
    let left = dir.path().join(".out.cohort-partial");
    fs::write(&left, [1; 100_000]).unwrap();
    let holder = File::open(&left).unwrap();
    holder.lock().unwrap();
    let out = dir.path().join("out");
    let options = RestoreOptions::new(Format::Raw);
    let busy = run(&source, &out, &options);
    assert!(matches!(busy, Err(RestoreError::Busy { .. })));
    assert_eq!(fs::metadata(&left).unwrap().len(), 100_000);
    drop(holder);
    run(&source, &out, &options).unwrap();
    assert_eq!(fs::read(&out).unwrap(), disk(20_000, &[1]));
    assert_eq!(names(dir.path()), ["out"]);
}

/// A device of any size, with a bad byte.
#[derive(Debug)]
struct Broken {
    size: u64,
    bad: u64,
    kind: ExtentKind,
}

impl Device for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        buf.fill(1);
        let length = buf.len() as u64;
        if (offset..offset + length).contains(&self.bad) {
            let cause = std::io::Error::other("bad sector");
            return Err(DeviceError::new(
                "broken",
                Operation::Read,
                offset,
                length,
                cause,
            ));
        }
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
        unreachable!("a restore writes nothing to its source")
    }

    fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        unreachable!("a restore writes nothing to its source")
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        unreachable!("a restore writes nothing to its source")
    }

    fn flush(&self) -> Result<(), DeviceError> {
        unreachable!("a restore flushes nothing of its source")
    }

    fn extent(&self, _: u64, length: u64) -> Result<Extent, DeviceError> {
        Ok(Extent {
            length,
            kind: self.kind,
            allocated: true,
        })
    }
}

#[test]
fn a_failure_on_either_side_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bad_sector = Broken {
        size: 8 << 20,
        bad: 5 << 20,
        kind: ExtentKind::Data,
    };
    for format in [Format::Raw, Format::Qcow2] {
        let failed = run(
            &bad_sector,
            &dir.path().join("out"),
            &RestoreOptions::new(format),
        );
        assert!(matches!(failed, Err(RestoreError::Read(error)) if error.offset() == 5 << 20));
    }
    // No file is that long, and no qcow2 either.
    let endless = Broken {
        size: u64::MAX,
        bad: 0,
        kind: ExtentKind::Zero,
    };
    let failed = run(
        &endless,
        &dir.path().join("out"),
        &RestoreOptions::new(Format::Raw),
    );
    assert!(
        matches!(failed, Err(RestoreError::Write { .. })),
        "{failed:?}"
    );
    let failed = run(
        &endless,
        &dir.path().join("out"),
        &RestoreOptions::new(Format::Qcow2),
    );
    assert!(
        matches!(failed, Err(RestoreError::Build { .. })),
        "{failed:?}"
    );
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn progress_never_goes_back_and_ends_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let size = (9 << 20) + 5;
    let source = MemoryDevice::with_bytes("memory", &disk(size, &[3, 700, 701, 1500, 2300]));
    let told = Mutex::new(Vec::new());
    let progress = |done, total| told.lock().unwrap().push((done, total));
    let options = RestoreOptions::new(Format::Raw).threads(3);
    let cancel = AtomicBool::new(false);
    restore(
        &source,
        &dir.path().join("out"),
        &options,
        &progress,
        &cancel,
    )
    .unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&(size as u64, size as u64)));
}

#[test]
fn a_cancel_midway_is_answered_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let source = Broken {
        size: 64 << 20,
        bad: u64::MAX,
        kind: ExtentKind::Data,
    };
    let cancel = AtomicBool::new(false);
    let most = Mutex::new(0);
    let progress = |done, _| {
        cancel.store(done >= 8 << 20, Ordering::Relaxed);
        *most.lock().unwrap() = done;
    };
    let options = RestoreOptions::new(Format::Qcow2).threads(2);
    let outcome = restore(
        &source,
        &dir.path().join("out"),
        &options,
        &progress,
        &cancel,
    );
    assert!(matches!(outcome, Err(RestoreError::Cancelled)));
    assert!(*most.lock().unwrap() < 16 << 20);
    assert_eq!(names(dir.path()), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_disk_comes_back(
        size in prop_oneof![1 => 0_usize..5000, 3 => 0_usize..(3 << 20)],
        pages in prop::collection::vec(0_usize..768, 0..40),
        threads in 1_usize..5,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let pages: Vec<_> = pages.into_iter().filter(|page| page * 4096 < size).collect();
        let bytes = disk(size, &pages);
        let source = MemoryDevice::with_bytes("memory", &bytes);
        let raw = dir.path().join("raw");
        run(&source, &raw, &RestoreOptions::new(Format::Raw).threads(threads)).unwrap();
        prop_assert!(fs::read(&raw).unwrap() == bytes);
        let qcow2 = dir.path().join("qcow2");
        run(&source, &qcow2, &RestoreOptions::new(Format::Qcow2).threads(threads)).unwrap();
        prop_assert!(read_disk(&qcow2)[..size] == bytes);
    }
}
