//! What is no sound image is refused, each with an error of its own, and never panics.

mod common;
#[path = "common/image.rs"]
mod image;

use std::fs;
use std::path::{Path, PathBuf};

use cohort_block::{Format, Image, OpenError, OpenOptions, open};
use common::{content, have_qemu, run};
use image::{CLUSTER, SIZE, image, with, with_backing, with_extension};
use proptest::prelude::*;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// What opening these bytes to read says.
    fn refusal(&self, bytes: &[u8]) -> OpenError {
        open(self.put("disk", bytes), OpenOptions::read_only()).unwrap_err()
    }
}

fn feature(error: &OpenError) -> &str {
    let OpenError::Unsupported { feature, .. } = error else {
        panic!("not unsupported: {error}")
    };
    feature
}

#[test]
fn the_sound_image_is_sound() {
    let scratch = Scratch::new();
    let path = scratch.put("disk", &image());
    let mut expected = vec![7; 2 * CLUSTER];
    expected.resize(SIZE as usize, 0);
    let device = open(&path, OpenOptions::read_write()).unwrap();
    assert_eq!(content(&*device), expected);
    device.write_at(&[1; 600], 1500).unwrap();
    drop(device);
    expected[1500..2100].fill(1);
    assert_eq!(
        content(&*open(&path, OpenOptions::read_only()).unwrap()),
        expected
    );
    if have_qemu() {
        let check = run(scratch.0.path(), "qemu-img check -f qcow2 disk");
        assert!(check.contains("No errors were found"), "{check}");
    }
}

#[test]
fn paths_without_a_disk_are_told_apart() {
    let scratch = Scratch::new();
    let refusal = |path: &Path| open(path, OpenOptions::read_only()).unwrap_err();
    assert!(matches!(
        refusal(&scratch.path("none")),
        OpenError::Missing { .. }
    ));
    let file = scratch.put("file", b"x");
    assert!(matches!(
        refusal(&file.join("none")),
        OpenError::Missing { .. }
    ));
    let directory = refusal(scratch.0.path());
    assert!(matches!(directory, OpenError::NotAFile { .. }));
    assert!(directory.to_string().contains("a directory"), "{directory}");
    let zero = refusal(Path::new("/dev/null"));
    assert!(zero.to_string().contains("a character device"), "{zero}");
    let listener = scratch.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&listener).unwrap();
    assert!(refusal(&listener).to_string().contains("a socket"));
    assert!(matches!(
        refusal(&scratch.put("empty", b"")),
        OpenError::Empty { .. }
    ));
}

#[test]
fn a_file_that_we_may_not_read_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let path = scratch.put("disk", &image());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        eprintln!("SKIPPED: root may read everything");
        return;
    }
    let refused = open(&path, OpenOptions::read_only()).unwrap_err();
    assert!(matches!(refused, OpenError::Permission { .. }), "{refused}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    open(&path, OpenOptions::read_only()).unwrap();
    let refused = open(&path, OpenOptions::read_write()).unwrap_err();
    assert!(matches!(refused, OpenError::Permission { .. }), "{refused}");
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_other_end() {
    let scratch = Scratch::new();
    let path = scratch.path("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refused = open(&path, OpenOptions::read_only()).unwrap_err();
    assert!(refused.to_string().contains("a pipe"), "{refused}");
}

#[test]
fn features_we_cannot_read_are_named() {
    let scratch = Scratch::new();
    let bit = |bit: u32| with(72, &(1u64 << bit).to_be_bytes());
    for (bytes, word) in [
        (bit(0), "dirty"),
        (bit(1), "corrupt"),
        (bit(2), "external data file"),
        (with(72, &[0, 0, 0, 0, 0, 0, 0, 8]), "compression type 0"),
        (bit(4), "extended L2"),
        (bit(5), "feature bit 5"),
        (bit(63), "feature bit 63"),
        (with(32, &1u32.to_be_bytes()), "AES"),
        (with(32, &2u32.to_be_bytes()), "LUKS"),
        (with(4, &4u32.to_be_bytes()), "version 4"),
        (with(4, &1u32.to_be_bytes()), "version 1"),
    ] {
        let refused = scratch.refusal(&bytes);
        assert!(feature(&refused).contains(word), "{refused}");
    }
    let mut zstd = bit(3);
    zstd[104] = 1;
    let refused = scratch.refusal(&zstd);
    assert!(
        feature(&refused).starts_with("zstd compression; let QEMU read it: `qemu-nbd "),
        "{refused}"
    );
}

#[test]
fn an_unknown_feature_is_called_what_the_image_calls_it() {
    let mut record = vec![0; 48];
    record[1] = 9;
    record[2..10].copy_from_slice(b"wormhole");
    let mut bytes = with_extension(0x6803_f857, &record);
    bytes[72..80].copy_from_slice(&(1u64 << 9).to_be_bytes());
    let refused = Scratch::new().refusal(&bytes);
    assert_eq!(
        feature(&refused),
        "incompatible feature bit 9, \"wormhole\""
    );
}

#[test]
fn every_truncation_is_refused_or_reads_as_an_error() {
    let scratch = Scratch::new();
    let path = scratch.put("disk", &image());
    let file = fs::File::options().write(true).open(&path).unwrap();
    for length in (4..7 * CLUSTER as u64).rev() {
        file.set_len(length).unwrap();
        match open(&path, OpenOptions::read_only()) {
            // Its first bytes make it qcow2, so it is never taken for a raw disk.
            Err(OpenError::Truncated { .. }) => assert!(length < 5 * CLUSTER as u64, "{length}"),
            Err(other) => panic!("{length} bytes: {other}"),
            Ok(device) => {
                let mut bytes = vec![0; 2 * CLUSTER];
                let error = device.read_at(&mut bytes, 0).unwrap_err();
                assert!(
                    error.to_string().contains("truncated"),
                    "{length} bytes: {error}"
                );
            }
        }
    }
}

#[test]
fn metadata_that_cannot_be_right_is_damage() {
    let scratch = Scratch::new();
    for (what, bytes) in [
        ("cluster size", with(20, &8u32.to_be_bytes())),
        ("cluster size", with(20, &22u32.to_be_bytes())),
        ("cluster size", with(20, &u32::MAX.to_be_bytes())),
        ("header length", with(100, &96u32.to_be_bytes())),
        ("header length", with(100, &1024u32.to_be_bytes())),
        ("refcount width", with(96, &7u32.to_be_bytes())),
        ("L1 too short", with(36, &0u32.to_be_bytes())),
        ("L1 too long", with(36, &u32::MAX.to_be_bytes())),
        ("L1 unaligned", with(40, &1537u64.to_be_bytes())),
        ("disk too large", with(24, &u64::MAX.to_be_bytes())),
        (
            "L1 entry reserved",
            with(3 * CLUSTER, &((4 * CLUSTER) as u64 | 2).to_be_bytes()),
        ),
        ("refcounts unaligned", with(48, &513u64.to_be_bytes())),
        ("extension too long", with(112, &[1, 1, 1, 1, 0, 0, 4, 0])),
        (
            "backing name outside",
            with(8, &510u64.to_be_bytes()).tap(|b| b[19] = 100),
        ),
    ] {
        let refused = scratch.refusal(&bytes);
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{what}: {refused}"
        );
    }
    for (what, bytes) in [
        ("L1 beyond the end", with(40, &(1u64 << 40).to_be_bytes())),
        (
            "L2 beyond the end",
            with(3 * CLUSTER, &(1u64 << 40).to_be_bytes()),
        ),
    ] {
        let refused = scratch.refusal(&bytes);
        assert!(
            matches!(refused, OpenError::Truncated { .. }),
            "{what}: {refused}"
        );
    }
    let beyond = with(4 * CLUSTER, &(1u64 << 40).to_be_bytes());
    let device = open(scratch.put("disk", &beyond), OpenOptions::read_only()).unwrap();
    assert!(
        device
            .read_at(&mut [0; 1], 0)
            .unwrap_err()
            .to_string()
            .contains("truncated")
    );
}

/// Changes a value in passing.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Vec<u8> {}

#[test]
fn a_format_that_was_asked_for_is_held_to() {
    let scratch = Scratch::new();
    let raw = scratch.put("raw", &[5; 1000]);
    let asked = OpenOptions::read_only().format(Format::Qcow2);
    assert!(matches!(
        open(&raw, asked),
        Err(OpenError::WrongFormat { .. })
    ));
    assert!(matches!(
        open(scratch.put("s", b"x"), asked),
        Err(OpenError::Truncated { .. })
    ));
    // The bytes of an image, taken as a disk.
    let bytes = image();
    let asked = OpenOptions::read_only().format(Format::Raw);
    let device = open(scratch.put("disk", &bytes), asked).unwrap();
    assert_eq!(content(&*device), bytes);
}

#[test]
fn a_missing_backing_file_is_named() {
    let scratch = Scratch::new();
    let refused = scratch.refusal(&with_backing(image(), "below/base"));
    let OpenError::MissingBacking { image, backing } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(*image, scratch.path("disk"));
    assert_eq!(*backing, scratch.path("below/base"));
}

#[test]
fn backing_files_that_are_no_plain_files_are_named() {
    let scratch = Scratch::new();
    for (name, word) in [
        ("nbd://host/x", "nbd"),
        ("json:{}", "json"),
        ("ssh:x", "ssh"),
    ] {
        let refused = scratch.refusal(&with_backing(image(), name));
        assert!(feature(&refused).contains(word), "{refused}");
    }
    let refused = scratch.refusal(&with_backing(with_extension(0xe279_2aca, b"vmdk"), "base"));
    assert!(feature(&refused).contains("vmdk"), "{refused}");
}

#[test]
fn a_chain_that_comes_back_to_itself_is_refused() {
    let scratch = Scratch::new();
    let refused = scratch.refusal(&with_backing(image(), "disk"));
    assert!(
        matches!(refused, OpenError::BackingLoop { .. }),
        "{refused}"
    );
    scratch.put("one", &with_backing(image(), "two"));
    scratch.put("two", &with_backing(image(), "./one"));
    for options in [OpenOptions::read_only(), OpenOptions::read_write()] {
        let refused = open(scratch.path("one"), options).unwrap_err();
        assert!(
            matches!(refused, OpenError::BackingLoop { .. }),
            "{refused}"
        );
    }
}

#[test]
fn bitmaps_that_nobody_promises_do_not_keep_us_from_writing() {
    let scratch = Scratch::new();
    let path = scratch.put("disk", &with_extension(0x2385_2875, &[0; 24]));
    open(&path, OpenOptions::read_only()).unwrap();
    open(&path, OpenOptions::read_write()).unwrap();
}

#[test]
fn bitmaps_that_cannot_be_kept_keep_us_from_writing_not_from_reading() {
    let scratch = Scratch::new();
    let mut image = with_extension(0x2385_2875, &[0; 24]);
    image[95] |= 1;
    let path = scratch.put("disk", &image);
    open(&path, OpenOptions::read_only()).unwrap();
    let refused = open(&path, OpenOptions::read_write()).unwrap_err();
    assert!(matches!(refused, OpenError::Bitmaps { .. }), "{refused}");
    let told = refused.to_string();
    assert!(
        told.contains("the image's bitmaps are damaged: 0 of them"),
        "{told}"
    );
    assert!(told.contains("qemu-img bitmap --remove"), "{told}");
    assert!(fs::read(&path).unwrap() == image);
}

#[test]
fn disks_of_no_bytes_in_an_image_are_disks() {
    if !have_qemu() {
        return;
    }
    let scratch = Scratch::new();
    run(scratch.0.path(), "qemu-img create -f qcow2 disk 0");
    let image = Image::open(scratch.path("disk"), OpenOptions::read_write()).unwrap();
    assert_eq!(image.device().size(), 0);
    image.device().read_at(&mut [], 0).unwrap();
}

#[test]
fn parts_of_a_disk_shorter_than_a_cluster_are_zeroed_and_discarded() {
    let scratch = Scratch::new();
    let path = scratch.put("disk", &with(24, &100u64.to_be_bytes()));
    let device = open(&path, OpenOptions::read_write()).unwrap();
    let mut expected = vec![7; 100];
    device.write_zeroes(10, 20).unwrap();
    expected[10..30].fill(0);
    assert_eq!(content(&*device), expected);
    // Whether they read as zero is the device's choice.
    device.discard(40, 20).unwrap();
    let now = content(&*device);
    assert_eq!((&now[..40], &now[60..]), (&expected[..40], &expected[60..]));
    device.write_zeroes(50, 50).unwrap();
    device.discard(0, 100).unwrap();
    assert_eq!(content(&*device), [0; 100]);
}

/// Uses an image in every way; only a panic is wrong.
fn use_it(path: &Path, options: OpenOptions) {
    let Ok(device) = open(path, options) else {
        return;
    };
    let size = device.size().min(1 << 20);
    let mut at = 0;
    while at < size {
        let Ok(extent) = device.extent(at, size - at) else {
            break;
        };
        let mut bytes = vec![0; extent.length as usize];
        let _ = device.read_at(&mut bytes, at);
        at += extent.length;
    }
    let mut end = [0; 1];
    let _ = device.read_at(&mut end, device.size().saturating_sub(1));
    if options == OpenOptions::read_write() && size > 0 {
        let _ = device.write_at(&vec![3; size as usize / 2], size / 3);
        let _ = device.write_zeroes(0, size);
        let _ = device.write_zeroes(size / 5, size / 5);
        let _ = device.discard(0, size / 2);
        let _ = device.write_at(&[4; 1], size - 1);
        // Dropping it writes its tables back, without waiting for the disk a thousand times.
    }
}

#[test]
fn an_image_without_its_first_refcount_block_is_read_and_never_written() {
    let mut bytes = image();
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    bytes[table..table + 8].fill(0);
    let scratch = Scratch::new();
    let path = scratch.put("disk", &bytes);
    open(&path, OpenOptions::read_only()).unwrap();
    let refused = open(&path, OpenOptions::read_write());
    assert!(
        matches!(&refused, Err(OpenError::Damaged { .. })),
        "{refused:?}"
    );
}

/// Where the bytes are that mean something: header, refcount table and block, L1 and L2 table.
const TELLING: [std::ops::Range<usize>; 5] = [
    4..140,
    CLUSTER..CLUSTER + 8,
    2 * CLUSTER..2 * CLUSTER + 16,
    3 * CLUSTER..3 * CLUSTER + 8,
    4 * CLUSTER..4 * CLUSTER + 40,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_us_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        place in 0..=TELLING.len(),
        length in prop::option::weighted(0.2, 0usize..7 * CLUSTER + 1),
    ) {
        let mut bytes = image();
        let places: Vec<usize> = match TELLING.get(place) {
            Some(range) => range.clone().collect(),
            None => TELLING.into_iter().flatten().collect(),
        };
        for (at, byte) in changes {
            bytes[*at.get(&places)] = byte;
        }
        bytes.truncate(length.unwrap_or(bytes.len()));
        let scratch = Scratch::new();
        let path = scratch.put("disk", &bytes);
        use_it(&path, OpenOptions::read_only());
        use_it(&path, OpenOptions::read_write());
    }
}
