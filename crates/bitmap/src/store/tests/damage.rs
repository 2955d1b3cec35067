//! Files that were changed by somebody else, and disks that were.

use proptest::prelude::*;

use super::*;
use crate::store::layout::{BODIES, HEADERS, LOG_SECTORS, LOGS, SECTOR, TABLES};

/// A store left by a kill: granules 3, 1000 and 2000 recorded, the first before a checkpoint.
fn killed() -> (Vec<u8>, SetId) {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = begun(&store);
    since.record(3 * GRANULE, 1);
    store.checkpoint().unwrap();
    since.record(1000 * GRANULE, 1);
    since.record(2000 * GRANULE, 1);
    (file.bytes(), since.set())
}

fn found(bytes: Vec<u8>) -> Result<Inspection, StoreError> {
    inspect(&Memory::holding(bytes), Some(&disk()))
}

/// The file holds every write, or says that it does not: whoever trusts it misses nothing.
fn claims_nothing_false(bytes: Vec<u8>, set: SetId) -> bool {
    let Ok(found) = found(bytes) else { return true };
    let Some(report) = found.set(set) else {
        return !found.findings.is_empty();
    };
    let all = [3, 1000, 2000].map(|granule| report.dirty.get(granule * GRANULE));
    all == [true; 3]
}

#[test]
fn undamaged_it_says_all() {
    let (bytes, set) = killed();
    let found = found(bytes).unwrap();
    assert_eq!(granules(found.set(set).unwrap()), [3, 1000, 2000]);
    assert_eq!(found.findings, [""; 0]);
    assert_eq!(found.set(set).unwrap().lost, None);
}

#[test]
fn every_flipped_bit_of_what_is_used_is_noticed() {
    let (bytes, set) = killed();
    for place in (0..bytes.len()).filter(|at| bytes[*at] != 0) {
        for bit in [0, 5] {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << bit;
            assert!(claims_nothing_false(flipped, set), "byte {place}");
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let (bytes, set) = killed();
    let sectors = (0..=bytes.len()).step_by(SECTOR * 97);
    for length in sectors.chain([1, 511, 512, 4096, 4608, 8191, bytes.len() - 1]) {
        let mut cut = bytes.clone();
        cut.truncate(length);
        assert!(claims_nothing_false(cut, set), "{length} bytes");
    }
}

#[test]
fn swapped_parts_are_noticed() {
    let (bytes, set) = killed();
    let parts: [(u64, u64, usize); 4] = [
        (HEADERS[0], HEADERS[1], SECTOR),
        (TABLES[0], TABLES[1], SECTOR),
        (LOGS[0], LOGS[1], SECTOR * LOG_SECTORS as usize),
        (LOGS[0], LOGS[0] + 512, SECTOR),
    ];
    for (one, other, length) in parts {
        let (one, other) = (one as usize, other as usize);
        let mut swapped = bytes.clone();
        swapped[one..one + length].copy_from_slice(&bytes[other..other + length]);
        swapped[other..other + length].copy_from_slice(&bytes[one..one + length]);
        assert!(claims_nothing_false(swapped, set), "{one} and {other}");
    }
}

#[test]
fn parts_of_another_store_are_noticed() {
    let (bytes, set) = killed();
    let file = Arc::new(Memory::default());
    let other = Store::create(file.clone(), [8; 16], disk(), Mode::PowerLoss).unwrap();
    begun(&other).record(0, 1);
    let other = file.bytes();
    for (at, length) in [
        (HEADERS[0], SECTOR),
        (HEADERS[1], SECTOR),
        (TABLES[0], SECTOR * 2),
        (LOGS[0], 1 << 20),
        (LOGS[1], 1 << 20),
    ] {
        let at = at as usize;
        let mut mixed = bytes.clone();
        mixed[at..at + length].copy_from_slice(&other[at..at + length]);
        assert!(claims_nothing_false(mixed, set), "{at}");
    }
}

#[test]
fn damaged_bits_of_a_fixed_set_are_told() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let bits = crate::DirtyBitmap::new(SIZE, Granularity::DEFAULT).unwrap();
    let set = store.write_fixed(label("base"), &bits).unwrap();
    store.close(disk()).unwrap();
    file.change(|bytes| bytes[BODIES as usize + 20] ^= 1);
    let found = inspect(&*file, Some(&disk())).unwrap();
    let report = found.set(set).unwrap();
    assert!(report.lost.as_ref().unwrap().why.contains("damaged"));
    assert_eq!(report.dirty.dirty_bytes(), SIZE);
    assert!(!found.findings.is_empty());
}

#[test]
fn what_is_no_store_is_left_alone() {
    let foreign = Arc::new(Memory::holding(b"precious".repeat(2000)));
    let made = Store::create(foreign.clone(), [7; 16], disk(), Mode::PowerLoss);
    assert!(matches!(made, Err(StoreError::NotEmpty)));
    let opened = Store::open(foreign.clone(), disk(), Mode::PowerLoss);
    assert!(matches!(opened, Err(StoreError::NotAStore)));
    assert_eq!(foreign.bytes(), b"precious".repeat(2000));
    let mut later = killed().0;
    for at in HEADERS {
        let at = at as usize;
        let mut id = [0; 16];
        id.copy_from_slice(&later[at + 12..at + 28]);
        later[at + 8] = 2;
        let mut sum = crc32c::crc32c(&id);
        sum = crc32c::crc32c_append(sum, &(at as u64).to_le_bytes());
        sum = crc32c::crc32c_append(sum, &later[at..at + 508]);
        later[at + 508..at + 512].copy_from_slice(&sum.to_le_bytes());
    }
    assert!(matches!(
        found(later),
        Err(StoreError::Version { version: 2 })
    ));
}

/// What the recording set is worth when the store was left in this way and the disk is found so.
fn worth(mode: Mode, close: bool, now: DiskState) -> Option<String> {
    let file = Arc::new(Memory::default());
    let store = Store::create(file.clone(), [7; 16], disk(), mode).unwrap();
    let since = begun(&store);
    since.record(0, 1);
    if close {
        store.close(disk()).unwrap();
    }
    let found = inspect(&*file, Some(&now)).unwrap();
    let report = found.set(since.set()).unwrap();
    assert_eq!(report.lost.is_some(), report.dirty.dirty_bytes() == SIZE);
    report.lost.as_ref().map(|lost| lost.why.clone())
}

#[test]
fn a_disk_that_somebody_wrote_to_refutes_the_store() {
    let touched = DiskState {
        stamp: Some(Stamp {
            changed: (3, 5),
            ..disk().stamp.unwrap()
        }),
        ..disk()
    };
    let other = DiskState {
        identity: [0; 24],
        ..disk()
    };
    let restarted = DiskState {
        session: [0; 16],
        ..disk()
    };
    for mode in [Mode::KilledProcess, Mode::PowerLoss] {
        assert_eq!(worth(mode, true, disk()), None);
        assert_eq!(worth(mode, false, disk()), None);
        assert_eq!(worth(mode, true, restarted), None);
        let why = worth(mode, true, touched).unwrap();
        assert!(why.contains("changed after"), "{why}");
        assert_eq!(worth(mode, false, touched), None, "a kill knows no stamp");
        assert!(worth(mode, true, other).unwrap().contains("another disk"));
        assert!(worth(mode, false, other).unwrap().contains("another disk"));
    }
    assert_eq!(worth(Mode::PowerLoss, false, restarted), None);
    let why = worth(Mode::KilledProcess, false, restarted).unwrap();
    assert!(why.contains("machine went down"), "{why}");
}

#[test]
fn a_store_of_another_disk_is_not_opened() {
    let (bytes, _) = killed();
    let other = DiskState {
        identity: [0; 24],
        ..disk()
    };
    let file = Arc::new(Memory::holding(bytes.clone()));
    let opened = Store::open(file.clone(), other, Mode::PowerLoss);
    assert!(matches!(opened, Err(StoreError::OtherDisk)));
    assert_eq!(file.bytes(), bytes);
}

/// An old copy of a store, put back beside a disk that went on.
#[test]
fn a_store_older_than_its_disk_is_noticed() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = begun(&store);
    since.record(0, 1);
    store.close(disk()).unwrap();
    let old = file.bytes();
    let (store, _) = opened(&file);
    store.resume(since.set()).unwrap().record(GRANULE, 1);
    let later = DiskState {
        stamp: Some(Stamp {
            modified: (9, 9),
            changed: (9, 9),
            ..disk().stamp.unwrap()
        }),
        ..disk()
    };
    store.close(later).unwrap();
    let found = inspect(&Memory::holding(old), Some(&later)).unwrap();
    assert!(found.sets[0].lost.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a file holds, reading it is an answer, and opening it a store or a refusal.
    #[test]
    fn any_damage_is_an_answer(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 1_usize..600), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut bytes, set) = killed();
        // Most of the file is empty: aim where something is.
        let used: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for (at, value, length) in damage {
            let at = used[at.index(used.len())];
            let end = bytes.len().min(at + length);
            bytes[at..end].fill(value);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file = Arc::new(Memory::holding(bytes.clone()));
        let opened = Store::open(file.clone(), disk(), Mode::PowerLoss);
        if let Ok((store, found)) = opened {
            drop(store);
            let again = inspect(&*file, Some(&disk())).unwrap();
            for report in &found.sets {
                prop_assert_eq!(&again.set(report.set).unwrap().dirty, &report.dirty);
            }
        }
        prop_assert!(claims_nothing_false(bytes, set));
    }
}
