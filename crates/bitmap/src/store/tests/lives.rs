//! Sets through closes, kills and reopenings.

use proptest::prelude::*;

use super::*;
use crate::{DirtyBitmap, Recorder};

#[test]
fn a_killed_store_holds_every_recorded_write() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = begun(&store);
    for granule in [7, 2000, 900, 4799] {
        since.record(granule * GRANULE + 5, 1);
    }
    drop(store);
    let (_, found) = opened(&file);
    assert_eq!(granules(&found.sets[0]), [7, 900, 2000, 4799]);
    assert_eq!(found.sets[0].excess().to_string(), "exact");
    assert_eq!(
        found.ended,
        Ended::Open {
            pid: std::process::id()
        }
    );
    assert!(matches!(found.away, Away::Unknown(_)));
}

#[test]
fn what_was_prepared_for_is_an_excess_after_a_kill_and_none_after_a_close() {
    for close in [false, true] {
        let file = Arc::new(Memory::default());
        let store = created(&file);
        let since = begun(&store);
        let written = 100 * GRANULE;
        for at in (0..written).step_by(4096) {
            since.record(at, 4096);
        }
        if close {
            store.close(disk()).unwrap();
        }
        let found = inspect(&*file, Some(&disk())).unwrap();
        let report = &found.sets[0];
        let excess = report.excess_bytes;
        let dirty = report.dirty.dirty_bytes();
        assert!(dirty >= written && dirty <= written + excess);
        assert_eq!(dirty == written, close);
        assert_eq!(excess == 0, close);
        assert!(excess <= 64 << 20, "{}", report.excess());
        assert_eq!(report.lost, None);
        assert_eq!(found.away == Away::Unrefuted, close);
    }
}

#[test]
fn an_excess_is_told_until_its_set_is_gone() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = begun(&store);
    since.record(0, 20 * GRANULE);
    since.record(20 * GRANULE, 1);
    drop((store, since));
    let first = opened(&file);
    let excess = first.1.sets[0].excess_bytes;
    assert!(excess >= 19 * GRANULE, "{excess}");
    first.0.close(disk()).unwrap();
    let (_, second) = opened(&file);
    assert_eq!(second.sets[0].excess_bytes, excess);
    assert_eq!(second.sets[0].dirty, first.1.sets[0].dirty);
}

#[test]
fn recording_resumes_and_what_is_dirty_already_needs_no_intent() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = begun(&store);
    since.record(0, 10 * GRANULE);
    store.close(disk()).unwrap();
    let (store, _) = opened(&file);
    let since = store.resume(since.set()).unwrap();
    let before = file.operations();
    since.record(3 * GRANULE, 2 * GRANULE);
    assert_eq!(file.operations(), before);
    since.record(4000 * GRANULE, 1);
    assert!(file.operations() > before);
    assert!(matches!(
        store.resume(since.set()),
        Err(StoreError::Use { .. })
    ));
    drop((store, since));
    let (_, found) = opened(&file);
    let expected: Vec<_> = (0..10).chain([4000]).collect();
    assert_eq!(granules(&found.sets[0]), expected);
}

#[test]
fn sets_have_owners_and_numbers_that_never_come_back() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let bits = DirtyBitmap::from_row("0110", Granularity::DEFAULT).unwrap();
    let mut all = DirtyBitmap::new(SIZE, Granularity::DEFAULT).unwrap();
    all.set(5 << 20, 1).unwrap();
    let [one, two] = ["one", "two"].map(|n| store.write_fixed(label(n), &all).unwrap());
    let other = Label {
        owner: Owner {
            id: [1; 16],
            path: "/elsewhere".into(),
        },
        ..label("theirs")
    };
    let theirs = store.write_fixed(other.clone(), &all).unwrap();
    store.drop_sets(&[two]).unwrap();
    let three = store.write_fixed(label("three"), &all).unwrap();
    assert!(three > two && three > theirs);
    store.relabel(one, label("first")).unwrap();
    drop(store);
    let (store, found) = opened(&file);
    let names: Vec<_> = found.sets.iter().map(|s| &*s.label.name).collect();
    assert_eq!(names, ["first", "theirs", "three"]);
    assert_eq!(found.garbage(&[9; 16], &[three]), [one]);
    assert_eq!(found.set(theirs).unwrap().label, other);
    assert_eq!(found.set(one).unwrap().dirty, all);
    assert_eq!(store.bits(three).unwrap(), all);
    assert!(matches!(store.bits(two), Err(StoreError::NoSuchSet { .. })));
    assert_eq!(bits.dirty_granules(), 2);
}

#[test]
fn a_finished_set_stays_as_it_was() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let (old, prepared) = (
        begun(&store),
        store.prepare(label("next"), Granularity::DEFAULT).unwrap(),
    );
    old.record(GRANULE, 1);
    let recorder = Recorder::new(SIZE, Granularity::DEFAULT).unwrap();
    let before = file.operations();
    let new = prepared.begin(&recorder);
    assert_eq!(file.operations(), before, "in memory only");
    new.record(GRANULE, 1);
    new.record(3000 * GRANULE, 1);
    store.finish(old.set()).unwrap();
    drop(store);
    let (_, found) = opened(&file);
    assert_eq!(granules(found.set(old.set()).unwrap()), [1]);
    assert_eq!(granules(found.set(new.set()).unwrap()), [1, 3000]);
    assert_eq!(found.set(old.set()).unwrap().used, SetUse::Fixed);
}

#[test]
fn who_records_after_the_end_makes_the_store_lost() {
    for close in [false, true] {
        let file = Arc::new(Memory::default());
        let store = created(&file);
        let since = begun(&store);
        since.record(0, 1);
        if close {
            store.close(disk()).unwrap();
            since.record(0, 1);
        } else {
            store.checkpoint().unwrap();
            store.finish(since.set()).unwrap();
            since.record(0, 1);
        }
        let lost = store.lost().unwrap();
        assert!(lost.why.contains("after"), "{}", lost.why);
        let found = inspect(&*file, Some(&disk())).unwrap();
        assert_eq!(
            found.ended,
            Ended::Open {
                pid: std::process::id()
            }
        );
        if close {
            assert!(found.sets[0].lost.is_some());
        }
    }
}

#[test]
fn the_log_makes_room_for_itself() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = store
        .begin(label("fine"), Granularity::new(512).unwrap())
        .unwrap();
    let mut expected = Vec::new();
    let before = file.operations();
    for n in 0..60_000 {
        let at = n * 7919 * 512 % SIZE;
        since.record(at, 1);
        expected.push(at);
    }
    let operations = file.operations() - before;
    assert!(operations > 2 * 2048, "the log was filled: {operations}");
    drop((store, since));
    let (_, found) = opened(&file);
    let report = &found.sets[0];
    assert!(expected.iter().all(|at| report.dirty.get(*at)));
    assert!(report.dirty.dirty_bytes() <= 512 * 60_000 + report.excess_bytes);
}

#[test]
fn growth_is_dirty_in_every_set() {
    let file = Arc::new(Memory::default());
    let store = created(&file);
    let since = begun(&store);
    since.record(0, 1);
    let empty = DirtyBitmap::new(SIZE, Granularity::DEFAULT).unwrap();
    let fixed = store.write_fixed(label("base"), &empty).unwrap();
    drop(store);
    let larger = DiskState {
        size: SIZE + 3 * GRANULE,
        stamp: None,
        ..disk()
    };
    let (_, found) = Store::open(file.clone(), larger, Mode::PowerLoss).unwrap();
    assert_eq!(
        granules(found.set(since.set()).unwrap()),
        [0, 4800, 4801, 4802]
    );
    assert_eq!(granules(found.set(fixed).unwrap()), [4800, 4801, 4802]);
    let smaller = Store::open(file, disk(), Mode::PowerLoss).unwrap().1;
    assert!(smaller.set(since.set()).unwrap().lost.is_some());
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Record(u64, u64),
    Checkpoint,
    Kill,
    Close,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done, what was recorded is found, and no more than is said beyond it.
    #[test]
    fn no_recorded_write_is_ever_missing(acts in prop::collection::vec(prop_oneof![
        12 => (0..SIZE, prop_oneof![1_u64..9000, 1_u64..(8 << 20)]).prop_map(|(at, n)| Act::Record(at, n)),
        6 => (0..40_u64, 1_u64..70_000).prop_map(|(at, n)| Act::Record(at * GRANULE, n)),
        1 => Just(Act::Checkpoint),
        2 => Just(Act::Kill),
        1 => Just(Act::Close),
    ], 1..60)) {
        let file = Arc::new(Memory::default());
        let mut store = created(&file);
        let mut since = begun(&store);
        let set = since.set();
        let mut written = DirtyBitmap::new(SIZE, Granularity::DEFAULT).unwrap();
        for act in acts.into_iter().chain([Act::Kill]) {
            match act {
                Act::Record(at, length) => {
                    since.record(at, length);
                    written.set(at, length.min(SIZE - at)).unwrap();
                }
                Act::Checkpoint => store.checkpoint().unwrap(),
                Act::Kill | Act::Close => {
                    if let Act::Close = act {
                        store.close(disk()).unwrap();
                    }
                    let report = inspect(&*file, Some(&disk())).unwrap().set(set).unwrap().clone();
                    prop_assert_eq!(&report.lost, &None);
                    let mut missing = written.clone();
                    missing.subtract(&report.dirty).unwrap();
                    prop_assert!(missing.is_empty(), "{:?}", missing.to_row());
                    prop_assert!(report.dirty.dirty_bytes() <= written.dirty_bytes() + report.excess_bytes);
                    let (next, found) = opened(&file);
                    prop_assert_eq!(found.set(set).unwrap(), &report);
                    written = report.dirty;
                    store = next;
                    since = store.resume(set).unwrap();
                }
            }
        }
    }
}
