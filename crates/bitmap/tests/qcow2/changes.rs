//! What may be done to an image's bitmaps, and what is refused by name.

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error, Saved};
use cohort_bitmap::{DirtyBitmap, Granularity};

use crate::kit::{Fill, Memory, filled, image};

const SIZE: u64 = (8 << 20) + 512;

fn sample() -> (Memory, Bitmaps<Memory>) {
    let memory = Memory::new(image(12, 4, SIZE));
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    bitmaps
        .add("kept", &filled(SIZE, 4096, Fill::Random(1)), true)
        .unwrap();
    bitmaps
        .add("idle", &filled(SIZE, 65536, Fill::Ends), false)
        .unwrap();
    (memory, bitmaps)
}

#[test]
fn what_was_added_is_there_for_who_opens_the_image() {
    let (memory, _) = sample();
    let found = Bitmaps::open(memory).unwrap();
    let names: Vec<_> = found
        .list()
        .iter()
        .map(|entry| (entry.name(), entry.is_enabled()))
        .collect();
    assert_eq!(names, [("kept", true), ("idle", false)]);
    assert!(found.read("kept").unwrap() == filled(SIZE, 4096, Fill::Random(1)));
    assert!(found.read("idle").unwrap() == filled(SIZE, 65536, Fill::Ends));
    assert_eq!((found.disk_size(), found.cluster_size()), (SIZE, 4096));
}

#[test]
fn names_granularities_and_sizes_are_checked() {
    let (_, mut bitmaps) = sample();
    let bits = filled(SIZE, 65536, Fill::Nothing);
    let mut refused = |name: &str, bits: &DirtyBitmap| bitmaps.add(name, bits, true).unwrap_err();
    assert!(matches!(refused("kept", &bits), Qcow2Error::Exists { .. }));
    assert!(matches!(
        refused("", &bits),
        Qcow2Error::BadName { bytes: 0 }
    ));
    assert!(matches!(
        refused(&"n".repeat(1024), &bits),
        Qcow2Error::BadName { bytes: 1024 }
    ));
    let fine = DirtyBitmap::new(SIZE, Granularity::new(256).unwrap()).unwrap();
    assert!(matches!(
        refused("new", &fine),
        Qcow2Error::Granularity { .. }
    ));
    let other = DirtyBitmap::new(SIZE + 512, Granularity::DEFAULT).unwrap();
    let error = refused("new", &other);
    assert!(matches!(error, Qcow2Error::Size(_)), "{error}");
    bitmaps.add(&"n".repeat(1023), &bits, true).unwrap();
    assert_eq!(bitmaps.list().len(), 3);
}

#[test]
fn images_that_cannot_hold_bitmaps_are_refused_by_name() {
    let open = |bytes: Vec<u8>| Bitmaps::open(Memory::new(bytes));
    let mut version_2 = image(12, 4, SIZE);
    version_2[7] = 2;
    let error = open(version_2).unwrap_err();
    assert!(
        matches!(error, Qcow2Error::Version { version: 2 }),
        "{error}"
    );
    assert!(
        error.to_string().contains("qemu-img amend -o compat=1.1"),
        "{error}"
    );
    assert!(matches!(
        open(vec![0; 4096]).unwrap_err(),
        Qcow2Error::NotQcow2
    ));
    assert!(matches!(
        open(Vec::new()).unwrap_err(),
        Qcow2Error::NotQcow2
    ));

    for (size, whole) in [(0, false), (1000, false), (512, true)] {
        let mut bitmaps = open(image(12, 4, size)).unwrap();
        let bits = DirtyBitmap::new(size, Granularity::DEFAULT).unwrap();
        let added = bitmaps.add("new", &bits, true);
        assert_eq!(added.is_ok(), whole, "{size}: {added:?}");
    }
    let mut unknown = image(12, 4, SIZE);
    unknown[79] = 1 << 6;
    let error = open(unknown).unwrap_err().to_string();
    assert_eq!(error, "the image has incompatible feature bit 6");
    for (mark, word) in [(1, "dirty mark"), (2, "corrupt mark")] {
        let mut marked = image(12, 4, SIZE);
        marked[79] = mark;
        let error = open(marked)
            .unwrap()
            .add("new", &filled(SIZE, 512, Fill::Ends), true);
        assert!(error.unwrap_err().to_string().contains(word));
    }
}

#[test]
fn a_table_too_large_for_the_format_is_refused() {
    let mut bitmaps = Bitmaps::open(Memory::new(image(16, 4, 1 << 42))).unwrap();
    // 4 TiB at 512 bytes: a gibibyte of bits, as QEMU refuses it.
    let fine = DirtyBitmap::new(1 << 42, Granularity::new(512).unwrap());
    if let Ok(fine) = fine {
        assert!(matches!(
            bitmaps.add("b", &fine, true),
            Err(Qcow2Error::TooLarge { .. })
        ));
    }
    let coarse = DirtyBitmap::new(1 << 42, Granularity::DEFAULT).unwrap();
    bitmaps.add("b", &coarse, true).unwrap();
}

#[test]
fn a_full_header_says_so() {
    // The header is 104 bytes long, and an extension of 368 leaves less than 40 of the 512.
    let mut bytes = image(9, 4, 1 << 20);
    bytes[104..112].copy_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 0, 1, 0x70]);
    let mut bitmaps = Bitmaps::open(Memory::new(bytes)).unwrap();
    let error = bitmaps
        .add("b", &filled(1 << 20, 512, Fill::Ends), true)
        .unwrap_err();
    assert!(matches!(error, Qcow2Error::NoRoom), "{error}");
}

#[test]
fn what_is_held_is_believed_by_nobody_until_released() {
    let (memory, mut bitmaps) = sample();
    let mut held = bitmaps.hold().unwrap();
    assert_eq!(
        held.iter().map(|held| held.name()).collect::<Vec<_>>(),
        ["kept"]
    );
    let other = Bitmaps::open(memory.clone()).unwrap();
    let error = other.read("kept").unwrap_err();
    assert!(matches!(error, Qcow2Error::Inconsistent { .. }), "{error}");
    assert!(other.read("idle").is_ok(), "a disabled one stays true");

    let written = filled(SIZE, 512, Fill::Random(5));
    held[0].add(&written).unwrap();
    bitmaps.release(&held).unwrap();
    let mut expected = filled(SIZE, 4096, Fill::Random(1));
    expected.merge(&written).unwrap();
    let found = Bitmaps::open(memory).unwrap();
    assert!(found.read("kept").unwrap() == expected);
    assert!(found.read("idle").unwrap() == filled(SIZE, 65536, Fill::Ends));
}

#[test]
fn what_was_inconsistent_before_stays_so() {
    let (memory, mut bitmaps) = sample();
    drop(bitmaps.hold().unwrap());
    // A new process: nothing to hold any more.
    let mut again = Bitmaps::open(memory.clone()).unwrap();
    let held = again.hold().unwrap();
    assert!(held.is_empty());
    again.release(&held).unwrap();
    again
        .add("new", &filled(SIZE, 512, Fill::Ends), true)
        .unwrap();
    let found = Bitmaps::open(memory).unwrap();
    assert_eq!(*found.entry("kept").unwrap().condition(), Condition::InUse);
    assert!(found.read("new").is_ok());
}

/// What is saved is all that the image holds; what was inconsistent stays so if it is named.
#[test]
fn what_is_saved_takes_the_place_of_all_that_was_held() {
    let (memory, mut bitmaps) = sample();
    drop(bitmaps.hold().unwrap());
    bitmaps
        .add("gone", &filled(SIZE, 512, Fill::Ends), true)
        .unwrap();
    let mut held = bitmaps.hold().unwrap();
    held.extend(bitmaps.hold_disabled().unwrap());
    let names: Vec<_> = held.iter().map(|held| held.name()).collect();
    assert_eq!(names, ["gone", "idle"]);
    let other = Bitmaps::open(memory.clone()).unwrap();
    assert!(
        other
            .list()
            .iter()
            .all(|entry| *entry.condition() == Condition::InUse)
    );

    let saved = |name: &str, enabled: bool, bits: Option<DirtyBitmap>| Saved {
        name: name.to_owned(),
        enabled,
        bits,
    };
    let (idle, new) = (
        filled(SIZE, 4096, Fill::Random(9)),
        filled(SIZE, 512, Fill::Random(8)),
    );
    let all = [
        saved("new", false, Some(new.clone())),
        saved("kept", true, None),
        saved("idle", true, Some(idle.clone())),
    ];
    bitmaps.save(&all).unwrap();
    let found = Bitmaps::open(memory).unwrap();
    let names: Vec<_> = found
        .list()
        .iter()
        .map(|entry| (entry.name(), entry.is_enabled()))
        .collect();
    assert_eq!(names, [("kept", true), ("idle", true), ("new", false)]);
    assert_eq!(*found.entry("kept").unwrap().condition(), Condition::InUse);
    assert!(found.read("idle").unwrap() == idle && found.read("new").unwrap() == new);
}

#[test]
fn what_could_not_be_added_is_known_before() {
    let (_, bitmaps) = sample();
    let default = Granularity::DEFAULT;
    let others = ["kept", "idle"];
    let check = |name: &str, granularity| bitmaps.check_new(name, granularity, others.into_iter());
    check("new", default).unwrap();
    assert!(matches!(
        check("", default),
        Err(Qcow2Error::BadName { .. })
    ));
    let fine = Granularity::new(256).unwrap();
    assert!(matches!(
        check("new", fine),
        Err(Qcow2Error::Granularity { .. })
    ));
    let many = vec!["n"; 65_535];
    let full = bitmaps.check_new("new", default, many.into_iter());
    assert!(matches!(full, Err(Qcow2Error::TooMany)));
    let large = Memory::new(image(16, 4, 4 << 40));
    let large = Bitmaps::open(large).unwrap();
    let fine = Granularity::new(512).unwrap();
    let refused = large.check_new("new", fine, others.into_iter());
    assert!(matches!(refused, Err(Qcow2Error::TooLarge { .. })));
}

#[test]
fn bitmaps_that_nobody_kept_are_named_and_not_read() {
    let (memory, _) = sample();
    let mut bytes = memory.bytes();
    // What a program that knows no bitmaps does.
    bytes[88..96].fill(0);
    let memory = Memory::new(bytes);
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    assert!(bitmaps.is_stale());
    assert_eq!(bitmaps.list().len(), 2);
    let bits = filled(SIZE, 512, Fill::Ends);
    assert!(matches!(bitmaps.read("kept"), Err(Qcow2Error::Stale)));
    assert!(matches!(bitmaps.hold(), Err(Qcow2Error::Stale)));
    assert!(matches!(
        bitmaps.add("new", &bits, true),
        Err(Qcow2Error::Stale)
    ));
    assert!(matches!(bitmaps.remove("kept"), Err(Qcow2Error::Stale)));
    bitmaps.remove_stale().unwrap();
    assert!(!bitmaps.is_stale() && bitmaps.list().is_empty());
    bitmaps.add("new", &bits, true).unwrap();
    assert!(Bitmaps::open(memory).unwrap().read("new").unwrap() == bits);
}

#[test]
fn whoever_writes_ends_the_promises_that_he_does_not_know() {
    let (memory, _) = sample();
    let mut bytes = memory.bytes();
    bytes[95] |= 1 << 5 | 1 << 1;
    let memory = Memory::new(bytes);
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    bitmaps.set_enabled("idle", true).unwrap();
    assert_eq!(memory.bytes()[95], 0b11);
}
