//! What we do not know is kept and named; what cannot be right is an error, and never a panic.

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};

use crate::kit::{Fill, Memory, Numbers, filled, image};

const SIZE: u64 = (8 << 20) + 512;

/// An image with two bitmaps, and where its directory is.
fn sample() -> (Vec<u8>, usize) {
    let memory = Memory::new(image(12, 4, SIZE));
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    bitmaps
        .add("one", &filled(SIZE, 512, Fill::Mixed(1)), true)
        .unwrap();
    bitmaps
        .add("two", &filled(SIZE, 65536, Fill::Ends), false)
        .unwrap();
    let bytes = memory.bytes();
    let at = u64::from_be_bytes(bytes[128..136].try_into().unwrap());
    (bytes, at as usize)
}

fn condition(bitmaps: &Bitmaps<Memory>, name: &str) -> Condition {
    bitmaps.entry(name).unwrap().condition().clone()
}

/// Byte 12: flags. 16: type. 17: granularity. 20: length of extra data.
#[test]
fn unknown_kinds_are_named_and_survive_changes_byte_for_byte() {
    let cases: &[(usize, u8, &str)] = &[
        (15, 1 << 3, "it has unknown flags (0x8)"),
        (12, 0x80, "it has unknown flags (0x80000000)"),
        (16, 2, "it is of the unknown type 2"),
        (17, 8, "it has granules of 2^8 bytes"),
        (17, 32, "it has granules of 2^32 bytes"),
        (7, 0x10, "its table is at byte"),
        (11, 0, "its table has 0 entries"),
        (24, 0xff, "its name is no UTF-8"),
    ];
    for (at, value, reason) in cases {
        let (mut bytes, directory) = sample();
        bytes[directory + at] = *value;
        let entry = bytes[directory..directory + 32].to_vec();
        let memory = Memory::new(bytes);
        let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
        let name = bitmaps.list()[0].name().to_owned();
        let Condition::Unusable(told) = condition(&bitmaps, &name) else {
            panic!("{reason}: {:?}", bitmaps.list()[0]);
        };
        assert!(told.contains(reason), "{told}");
        assert!(matches!(
            bitmaps.read(&name),
            Err(Qcow2Error::Unusable { .. })
        ));
        assert!(matches!(
            bitmaps.remove(&name),
            Err(Qcow2Error::Unusable { .. })
        ));
        assert!(matches!(bitmaps.hold(), Err(Qcow2Error::Unusable { .. })));
        assert!(bitmaps.read("two").is_ok(), "the other one stands");
        bitmaps
            .add("new", &filled(SIZE, 512, Fill::Ends), true)
            .unwrap();
        bitmaps.remove("two").unwrap();
        let bytes = memory.bytes();
        let at = u64::from_be_bytes(bytes[128..136].try_into().unwrap()) as usize;
        assert_eq!(bytes[at..at + 32], entry, "{reason}");
    }
}

/// An entry with extra data, which may or may not be needed to understand it.
#[test]
fn extra_data_is_kept_and_trusted_only_if_it_says_so() {
    for (flags, usable) in [(0u8, false), (4, true)] {
        let (bytes, directory) = sample();
        let one = &bytes[directory..directory + 32];
        let mut entry = one[..24].to_vec();
        entry[15] = flags;
        entry[23] = 5;
        entry.extend(b"extraone");
        let mut bytes = bytes.clone();
        bytes[directory..directory + 32].copy_from_slice(&entry);
        // The second entry follows at the same place: 24 + 5 + 3 bytes are as many as 24 + 3, padded.
        let memory = Memory::new(bytes);
        let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
        assert_eq!(bitmaps.read("one").is_ok(), usable);
        bitmaps.remove("two").unwrap();
        let bytes = memory.bytes();
        let at = u64::from_be_bytes(bytes[128..136].try_into().unwrap()) as usize;
        assert_eq!(bytes[at..at + 32], entry);
    }
}

#[test]
fn a_directory_that_cannot_be_right_is_an_error_that_says_why() {
    // The extension: 112 count, 116 reserved, 120 length, 128 place.
    let cases: &[(usize, u8, &str)] = &[
        (115, 3, "the header tells of 3 bitmaps, the directory of 2"),
        (115, 0, "0 of them"),
        (112, 1, "of them"),
        (119, 1, "a reserved field is not zero"),
        (127, 0, "a directory of 0 bytes"),
        (120, 1, "a directory of"),
        (127, 60, "the directory breaks off at byte 32"),
        (135, 1, "between clusters"),
        (129, 1, "lies beyond the file's"),
        (111, 16, "in 16 bytes, not 24"),
    ];
    for (at, value, reason) in cases {
        let (mut bytes, _) = sample();
        bytes[*at] = *value;
        let error = Bitmaps::open(Memory::new(bytes)).unwrap_err().to_string();
        assert!(error.contains(reason), "{at}: {error}");
    }
    let (mut bytes, directory) = sample();
    bytes[directory + 32 + 24..directory + 32 + 27].copy_from_slice(b"one");
    let error = Bitmaps::open(Memory::new(bytes)).unwrap_err().to_string();
    assert!(error.contains(r#"two are called "one""#), "{error}");
}

#[test]
fn tables_that_cannot_be_right_are_errors_that_say_why() {
    let cases: &[(usize, u8, &str)] = &[
        (0, 1, "a table entry of"),
        (6, 1, "a table entry of"),
        (7, 2, "a table entry of"),
        (7, 1, "a table entry of"),
        (3, 1, "lies beyond the file's"),
    ];
    for (at, value, reason) in cases {
        let (mut bytes, directory) = sample();
        let table = u64::from_be_bytes(bytes[directory..directory + 8].try_into().unwrap());
        bytes[table as usize + at] |= *value;
        let mut bitmaps = Bitmaps::open(Memory::new(bytes)).unwrap();
        let error = bitmaps.read("one").unwrap_err().to_string();
        assert!(error.contains(reason), "{at}: {error}");
        assert!(
            bitmaps.remove("one").is_err(),
            "what it owns cannot be told"
        );
        assert!(bitmaps.read("two").is_ok());
    }
}

/// Giving it back would take it from its owner.
#[test]
fn what_is_somebody_elses_too_is_never_given_back() {
    let (whole, directory) = sample();
    let table = u64::from_be_bytes(whole[directory..directory + 8].try_into().unwrap()) as usize;
    let other = u64::from_be_bytes(whole[directory + 32..directory + 40].try_into().unwrap());
    // The refcount table, the counts, the level-one table, the directory, the other one's table.
    for place in [4096, 8192, 3 * 4096, directory as u64, other] {
        let mut bytes = whole.clone();
        bytes[table..table + 8].copy_from_slice(&place.to_be_bytes());
        let before = bytes.clone();
        let memory = Memory::new(bytes);
        let error = Bitmaps::open(memory.clone())
            .unwrap()
            .remove("one")
            .unwrap_err();
        assert!(error.to_string().contains("somebody else's too"), "{error}");
        assert_eq!(memory.bytes(), before);
    }
}

/// What is used and counted as free would be handed out a second time.
#[test]
fn wrong_counts_are_found_before_anything_is_written() {
    let (mut bytes, directory) = sample();
    let cluster = directory / 4096;
    bytes[8192 + cluster * 2..8192 + cluster * 2 + 2].fill(0);
    let before = bytes.clone();
    let memory = Memory::new(bytes);
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    for error in [
        bitmaps.remove("one").unwrap_err(),
        bitmaps.hold().unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("qemu-img check -r all"),
            "{error}"
        );
    }
    assert_eq!(memory.bytes(), before);
}

/// Whoever takes a free cluster would write over it.
#[test]
fn a_table_that_is_counted_as_free_is_not_taken() {
    let (whole, _) = sample();
    let bits = filled(SIZE, 4096, Fill::Ends);
    // The refcount table, the counts, the level-one table.
    for cluster in [1, 2, 3] {
        let mut bytes = whole.clone();
        bytes[8192 + cluster * 2..8192 + cluster * 2 + 2].fill(0);
        let before = bytes.clone();
        let memory = Memory::new(bytes);
        let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
        let error = bitmaps.add("three", &bits, true).unwrap_err().to_string();
        let place = format!("tables at byte {} are counted as free", cluster * 4096);
        assert!(error.contains(&place), "{error}");
        assert!(error.contains("qemu-img check -r all"), "{error}");
        assert_eq!(memory.bytes(), before);
    }
}

/// Any bytes at all where the format has numbers: an answer or an error.
#[test]
fn flipped_bits_are_errors_or_answers() {
    let (whole, directory) = sample();
    let mut numbers = Numbers(3);
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=numbers.below(3) {
            let places = [0, 96, directory as u64, 4096, 8192];
            let place = places[numbers.below(5) as usize] + numbers.below(64);
            bytes[place as usize] ^= 1 << numbers.below(8);
        }
        let memory = Memory::new(bytes);
        let Ok(mut bitmaps) = Bitmaps::open(memory.clone()) else {
            continue;
        };
        let size = bitmaps.disk_size();
        for name in ["one", "two"] {
            if size <= 1 << 30 {
                let _ = bitmaps.read(name);
            }
            let _ = bitmaps.remove(name);
        }
    }
}
