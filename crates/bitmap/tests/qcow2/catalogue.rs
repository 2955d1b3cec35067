//! The field's cases B29 to B44 and B51 to B56 as far as they speak of named bitmaps, which lie in images here. Where ours
//! differ from QEMU's on purpose the test says "ours". `docs/bitmap-cases.md` lists all cases.

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};
use cohort_bitmap::{DirtyBitmap, Granularity};

use crate::kit::{Fill, Memory, filled, image};

const SIZE: u64 = 8 << 20;

/// An image with `a`, enabled, and `b`, disabled.
fn two() -> (Memory, Bitmaps<Memory>) {
    let memory = Memory::new(image(12, 4, SIZE));
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    bitmaps.add("a", &marked(1), true).unwrap();
    bitmaps.add("b", &marked(2), false).unwrap();
    (memory, bitmaps)
}

fn marked(seed: u64) -> DirtyBitmap {
    filled(SIZE, 4096, Fill::Random(seed))
}

fn names(bitmaps: &Bitmaps<Memory>) -> Vec<&str> {
    bitmaps.list().iter().map(|entry| entry.name()).collect()
}

#[test]
fn b31_a_name_that_is_taken_is_refused() {
    let (memory, mut bitmaps) = two();
    let before = memory.bytes();
    let error = bitmaps.add("a", &marked(3), true).unwrap_err();
    assert_eq!(error.to_string(), r#"the image has a bitmap "a" already"#);
    assert!(memory.bytes() == before);
}

#[test]
fn b32_names_have_up_to_1023_bytes() {
    let (_, mut bitmaps) = two();
    bitmaps.add(&"n".repeat(1023), &marked(3), true).unwrap();
    let error = bitmaps.add(&"n".repeat(1024), &marked(3), true);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("1024") && error.contains("1023"), "{error}");
}

#[test]
fn b33_what_is_no_qcow2_image_holds_no_bitmap() {
    let error = Bitmaps::open(Memory::new(vec![0; 1 << 16])).unwrap_err();
    assert!(error.to_string().contains("only qcow2 images hold bitmaps"));
}

/// Flags are all that changes.
#[test]
fn b39_what_is_disabled_can_be_disabled_again() {
    let (_, mut bitmaps) = two();
    for enabled in [false, false, true, true] {
        bitmaps.set_enabled("b", enabled).unwrap();
        assert_eq!(bitmaps.entry("b").unwrap().is_enabled(), enabled);
    }
    assert!(bitmaps.read("b").unwrap() == marked(2));
}

#[test]
fn b40_clearing_one_leaves_the_other() {
    let (_, mut bitmaps) = two();
    let all = filled(SIZE, 4096, Fill::Everything);
    assert!(bitmaps.subtract("a", &all).unwrap().is_empty());
    assert!(bitmaps.read("a").unwrap().is_empty());
    assert!(bitmaps.read("b").unwrap() == marked(2));
}

/// Ours: an export holds a copy of the bits, so it keeps nobody from their bitmap; who writes to the disk does, and
/// what he has in use cannot be read either. Disabled ones are in nobody's use.
#[test]
fn b41_what_is_in_use_is_kept_from_everybody_else() {
    let (memory, mut writer) = two();
    let held = writer.hold().unwrap();
    assert_eq!(held.len(), 1);
    let mut other = Bitmaps::open(memory.clone()).unwrap();
    let before = memory.bytes();
    let attempts: [Result<(), Qcow2Error>; 5] = [
        other.read("a").map(drop),
        other.replace("a", &marked(3)),
        other.subtract("a", &marked(3)).map(drop),
        other.set_enabled("a", false),
        other.add("a", &marked(3), true),
    ];
    for attempt in &attempts[..4] {
        assert!(
            matches!(attempt, Err(Qcow2Error::Inconsistent { name }) if name == "a"),
            "{attempt:?}"
        );
    }
    assert!(matches!(attempts[4], Err(Qcow2Error::Exists { .. })));
    assert!(other.hold().unwrap().is_empty(), "nobody holds it twice");
    assert!(memory.bytes() == before);
    assert!(other.read("b").unwrap() == marked(2));
}

#[test]
fn b42_what_was_released_is_everybodys_again() {
    let (memory, mut writer) = two();
    let held = writer.hold().unwrap();
    writer.release(&held).unwrap();
    let mut other = Bitmaps::open(memory).unwrap();
    let all = filled(SIZE, 4096, Fill::Everything);
    assert!(other.subtract("a", &all).unwrap().is_empty());
}

/// Sources are read before the target is written.
#[test]
fn b43_a_source_that_is_missing_leaves_the_target() {
    let (memory, mut bitmaps) = two();
    let before = memory.bytes();
    let merge = |bitmaps: &mut Bitmaps<Memory>, sources: &[&str]| {
        let mut sum = bitmaps.read("b")?;
        for source in sources {
            sum.merge(&bitmaps.read(source)?)?;
        }
        bitmaps.replace("b", &sum)
    };
    let error = merge(&mut bitmaps, &["a", "missing"]).unwrap_err();
    assert!(matches!(error, Qcow2Error::Unknown { .. }), "{error}");
    assert!(memory.bytes() == before);
    // B44: no source at all, which QEMU does not survive.
    merge(&mut bitmaps, &[]).unwrap();
    assert!(bitmaps.read("b").unwrap() == marked(2));
    merge(&mut bitmaps, &["a", "b"]).unwrap();
    let mut sum = marked(1);
    sum.merge(&marked(2)).unwrap();
    assert!(bitmaps.read("b").unwrap() == sum);
}

#[test]
fn b51_a_new_bitmap_is_the_sum_of_others_that_stay() {
    let (memory, mut bitmaps) = two();
    let mut sum = bitmaps.read("a").unwrap();
    sum.merge(&bitmaps.read("b").unwrap()).unwrap();
    bitmaps.add("d", &sum, false).unwrap();
    let found = Bitmaps::open(memory).unwrap();
    assert!(found.read("a").unwrap() == marked(1) && found.read("b").unwrap() == marked(2));
    let mut expected = filled(SIZE, 4096, Fill::Nothing);
    expected.merge(&marked(1)).unwrap();
    expected.merge(&marked(2)).unwrap();
    assert!(found.read("d").unwrap() == expected);
}

/// Ours: what is removed is gone at once, in one step on the disk, so its name is free.
#[test]
fn b53_a_name_is_free_once_its_bitmap_is_removed() {
    let (memory, mut bitmaps) = two();
    bitmaps.remove("b").unwrap();
    bitmaps.add("b", &marked(3), true).unwrap();
    let found = Bitmaps::open(memory).unwrap();
    assert_eq!(names(&found), ["a", "b"]);
    assert!(found.read("b").unwrap() == marked(3));
}

/// Ours: it is unknown then, where QEMU calls it busy until the transaction ends.
#[test]
fn b54_what_is_removed_can_be_used_no_more() {
    let (_, mut bitmaps) = two();
    bitmaps.remove("b").unwrap();
    let error = bitmaps.subtract("b", &marked(2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"the image has no bitmap "b"; it has "a""#
    );
    assert!(bitmaps.read("a").unwrap() == marked(1));
}

#[test]
fn b56_a_bitmap_moves_to_another_image() {
    let (_, mut from) = two();
    let target = Memory::new(image(16, 4, SIZE));
    let mut to = Bitmaps::open(target.clone()).unwrap();
    let coarse = Granularity::DEFAULT;
    let mut moved = DirtyBitmap::new(SIZE, coarse).unwrap();
    moved.merge(&from.read("b").unwrap()).unwrap();
    to.add("x", &moved, true).unwrap();
    from.remove("b").unwrap();
    assert_eq!(names(&from), ["a"]);
    let found = Bitmaps::open(target).unwrap();
    assert_eq!(
        *found.entry("x").unwrap().condition(),
        Condition::Consistent
    );
    assert!(found.read("x").unwrap() == marked(2).at_granularity(coarse).unwrap());
}

/// With 65,535 of them, of which no two share a name; what their tables are does not matter here.
#[test]
fn b71_more_bitmaps_than_the_format_has_are_refused() {
    const MOST: u32 = 65_535;
    let (memory, _) = two();
    let mut bytes = memory.bytes();
    let at = bytes.len();
    for number in 0..MOST {
        bytes.extend(4096_u64.to_be_bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 1, 16, 0, 5, 0, 0, 0, 0]);
        bytes.extend(format!("{number:05}").bytes());
        bytes.extend([0; 3]);
    }
    let length = (bytes.len() - at) as u64;
    bytes[112..116].copy_from_slice(&MOST.to_be_bytes());
    bytes[120..128].copy_from_slice(&length.to_be_bytes());
    bytes[128..136].copy_from_slice(&(at as u64).to_be_bytes());
    let full = Memory::new(bytes);
    let mut bitmaps = Bitmaps::open(full.clone()).unwrap();
    assert_eq!(bitmaps.list().len(), 65_535);
    let before = full.bytes();
    let error = bitmaps.add("one more", &marked(3), true).unwrap_err();
    assert!(matches!(error, Qcow2Error::TooMany), "{error}");
    assert!(full.bytes() == before);
}
