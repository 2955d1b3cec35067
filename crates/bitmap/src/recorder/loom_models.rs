//! Every interleaving of two setters and a reader, over two levels of words.

use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

use loom::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{DirtyBitmap, Granularity, Recorder};

/// Two leaf words under one summary word; granules of one byte.
const SIZE: u64 = 128;

fn recorder() -> Recorder {
    Recorder::new(SIZE, Granularity::new(1).unwrap()).unwrap()
}

/// Runs a model and says how many interleavings it has.
fn walk(name: &str, model: impl Fn() + Send + Sync + 'static) {
    static WALKED: Counter = Counter::new(0);
    let before = WALKED.load(Relaxed);
    loom::model(move || {
        WALKED.fetch_add(1, Relaxed);
        model();
    });
    println!("{name}: {} interleavings", WALKED.load(Relaxed) - before);
}

fn marked(snapshot: &DirtyBitmap) -> Vec<u64> {
    assert_eq!(snapshot.self_check(), Ok(()));
    snapshot.dirty_offsets().collect()
}

#[test]
fn loom_setters_of_one_word_lose_nothing() {
    walk("setters of one word, and a reader", || {
        let shared = recorder();
        let setters = [3, 5].map(|granule| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, 1))
        });
        let seen = marked(&shared.snapshot());
        assert!(
            [vec![], vec![3], vec![5], vec![3, 5]].contains(&seen),
            "{seen:?}"
        );
        setters
            .into_iter()
            .for_each(|setter| setter.join().unwrap());
        assert_eq!(marked(&shared.snapshot()), [3, 5]);
    });
}

#[test]
fn loom_setters_of_two_words_lose_nothing() {
    walk("setters across two words, and a reader", || {
        let shared = recorder();
        let setters = [(62, 4), (64, 1)].map(|(granule, length)| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, length))
        });
        let seen = marked(&shared.snapshot());
        assert!(
            seen.iter().all(|granule| (62..66).contains(granule)),
            "{seen:?}"
        );
        setters
            .into_iter()
            .for_each(|setter| setter.join().unwrap());
        assert_eq!(marked(&shared.snapshot()), [62, 63, 64, 65]);
    });
}

/// Whoever sees a leaf bit finds it through the summaries, too: setters go top-down.
#[test]
fn loom_set_leaf_implies_set_summaries() {
    walk("leaf seen, then through the summaries", || {
        let shared = recorder();
        let setters = [70, 71].map(|granule| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, 1))
        });
        let seen: Vec<_> = [70, 71]
            .into_iter()
            .filter(|&granule| shared.get(granule))
            .collect();
        let found = marked(&shared.snapshot());
        assert!(
            seen.iter().all(|granule| found.contains(granule)),
            "{seen:?} but {found:?}"
        );
        setters
            .into_iter()
            .for_each(|setter| setter.join().unwrap());
    });
}

/// A setter that finds its bit set writes nothing, and yet its own reader finds the bit: the
/// summaries were stored by somebody that this reader never met.
#[test]
fn loom_finding_a_bit_set_passes_its_summaries_on() {
    walk("bit found set, handed on", || {
        let (shared, told) = (recorder(), loom::sync::Arc::new(AtomicBool::new(false)));
        let first = thread::spawn({
            let shared = shared.clone();
            move || shared.mark(70, 1)
        });
        let second = thread::spawn({
            let (shared, told) = (shared.clone(), told.clone());
            move || {
                shared.mark(70, 1);
                told.store(true, Ordering::Release);
            }
        });
        if told.load(Ordering::Acquire) {
            assert_eq!(marked(&shared.snapshot()), [70]);
        }
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(marked(&shared.snapshot()), [70]);
    });
}
