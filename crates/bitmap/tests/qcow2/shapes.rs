//! Images of any shape and changes in any order, against a list in memory; and what `qemu-img check` says.

use std::collections::BTreeMap;
use std::fs;

use cohort_bitmap::DirtyBitmap;
use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};
use proptest::prelude::*;

use crate::kit::{Fill, Memory, as_qemu_lists, assert_clean, filled, have_qemu, image};

/// Names are numbers, so that changes meet.
#[derive(Clone, Debug)]
enum Change {
    Add {
        name: u8,
        granularity_bits: u32,
        fill: Fill,
        enabled: bool,
    },
    Replace {
        name: u8,
        granularity_bits: u32,
        fill: Fill,
    },
    Subtract {
        name: u8,
        fill: Fill,
    },
    Remove {
        name: u8,
    },
    Enable {
        name: u8,
        enabled: bool,
    },
    /// Writes while the bitmaps are held; then a clean end, or none.
    Hold {
        fill: Fill,
        released: bool,
    },
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        Just(Fill::Nothing),
        Just(Fill::Everything),
        Just(Fill::Ends),
        (0..99u64).prop_map(Fill::Random),
        (0..99u64).prop_map(Fill::Mixed),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let name = 0..4u8;
    // Coarser ones are tried beside QEMU, which takes no 2^31 granules of this disk anyway.
    let granularity_bits = 9..22u32;
    prop_oneof![
        4 => (name.clone(), granularity_bits.clone(), fill(), any::<bool>()).prop_map(
            |(name, granularity_bits, fill, enabled)| Change::Add { name, granularity_bits, fill, enabled }
        ),
        1 => (name.clone(), granularity_bits, fill()).prop_map(
            |(name, granularity_bits, fill)| Change::Replace { name, granularity_bits, fill }
        ),
        2 => (name.clone(), fill()).prop_map(|(name, fill)| Change::Subtract { name, fill }),
        1 => name.clone().prop_map(|name| Change::Remove { name }),
        1 => (name, any::<bool>()).prop_map(|(name, enabled)| Change::Enable { name, enabled }),
        2 => (fill(), prop::bool::weighted(0.8)).prop_map(|(fill, released)| Change::Hold { fill, released }),
    ]
}

#[derive(Clone)]
struct Known {
    bits: DirtyBitmap,
    enabled: bool,
    lost: bool,
}

type Oracle = BTreeMap<String, Known>;

/// Carries out a change on both. The image may refuse where the list knows why.
fn apply(change: &Change, size: u64, image: &Memory, oracle: &mut Oracle) {
    let mut bitmaps = Bitmaps::open(image.clone()).unwrap();
    let bits = |granularity_bits: &u32, fill: &Fill| filled(size, 1 << granularity_bits, *fill);
    let (name, done) = match change {
        Change::Add {
            name,
            granularity_bits,
            fill,
            enabled,
        } => {
            let (name, bits) = (name.to_string(), bits(granularity_bits, fill));
            let done = bitmaps.add(&name, &bits, *enabled);
            if let Err(Qcow2Error::Exists { .. }) = done {
                assert!(oracle.contains_key(&name));
                return;
            }
            oracle.insert(
                name.clone(),
                Known {
                    bits,
                    enabled: *enabled,
                    lost: false,
                },
            );
            done.unwrap();
            return;
        }
        Change::Replace {
            name,
            granularity_bits,
            fill,
        } => {
            let (name, bits) = (name.to_string(), bits(granularity_bits, fill));
            let done = bitmaps.replace(&name, &bits);
            if done.is_ok() {
                oracle.get_mut(&name).unwrap().bits = bits;
            }
            (name, done)
        }
        Change::Subtract { name, fill } => {
            let (name, copied) = (name.to_string(), filled(size, 4096, *fill));
            let done = bitmaps.subtract(&name, &copied);
            if let Ok(left) = &done {
                let known = oracle.get_mut(&name).unwrap();
                known.bits.subtract(&copied).unwrap();
                assert!(known.bits == *left);
            }
            (name, done.map(drop))
        }
        Change::Remove { name } => {
            let name = name.to_string();
            let removed = bitmaps.remove(&name).is_ok();
            assert_eq!(removed, oracle.remove(&name).is_some());
            return;
        }
        Change::Enable { name, enabled } => {
            let name = name.to_string();
            let done = bitmaps.set_enabled(&name, *enabled);
            if done.is_ok() {
                oracle.get_mut(&name).unwrap().enabled = *enabled;
            }
            (name, done)
        }
        Change::Hold { fill, released } => {
            return hold(&mut bitmaps, &filled(size, 512, *fill), *released, oracle);
        }
    };
    match (oracle.get(&name), done) {
        (None, Err(Qcow2Error::Unknown { .. })) => {}
        (Some(known), Err(Qcow2Error::Inconsistent { .. })) => assert!(known.lost),
        (Some(known), Ok(())) => assert!(!known.lost),
        (_, other) => panic!("{change:?}: {other:?}"),
    }
}

fn hold(bitmaps: &mut Bitmaps<Memory>, written: &DirtyBitmap, released: bool, oracle: &mut Oracle) {
    let mut held = bitmaps.hold().unwrap();
    for one in &mut held {
        one.add(written).unwrap();
    }
    if released {
        bitmaps.release(&held).unwrap();
    }
    for known in oracle
        .values_mut()
        .filter(|known| known.enabled && !known.lost)
    {
        known.bits.merge(written).unwrap();
        known.lost = !released;
    }
}

fn assert_agrees(image: &Memory, oracle: &Oracle) {
    let bitmaps = Bitmaps::open(image.clone()).unwrap();
    assert_eq!(bitmaps.list().len(), oracle.len());
    for (name, known) in oracle {
        let entry = bitmaps.entry(name).unwrap();
        assert_eq!(entry.is_enabled(), known.enabled);
        assert_eq!(*entry.condition() == Condition::InUse, known.lost);
        match bitmaps.read(name) {
            Ok(bits) => assert!(!known.lost && bits == known.bits, "{name}"),
            Err(error) => assert!(known.lost, "{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_leave_what_the_list_says(
        cluster_bits in prop_oneof![4 => 9..14u32, 1 => 14..17u32],
        refcount_order in 0..=6u32,
        sectors in prop_oneof![1..100u64, 1..40_000u64],
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let size = sectors * 512;
        let memory = Memory::new(image(cluster_bits, refcount_order, size));
        let mut oracle = Oracle::new();
        for change in &changes {
            apply(change, size, &memory, &mut oracle);
            assert_agrees(&memory, &oracle);
        }
        if have_qemu() {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("disk"), memory.bytes()).unwrap();
            assert_clean(folder.path(), "disk");
            prop_assert_eq!(as_qemu_lists(folder.path(), "disk").len(), oracle.len());
        }
    }
}
