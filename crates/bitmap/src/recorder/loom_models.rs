//! Every interleaving of two setters and a reader, over two levels of words and over three.

use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

use loom::thread;

use crate::{DirtyBitmap, Granularity, Recorder};

/// Two leaf words under one summary word; granules of one byte.
const TWO_LEVELS: u64 = 128;

/// 65 leaf words under two summary words under one.
const THREE_LEVELS: u64 = 64 * 64 + 1;

fn recorder() -> Recorder {
    Recorder::new(TWO_LEVELS, Granularity::new(1).unwrap()).unwrap()
}

/// How often, in one walk, a thread may be stopped where it would go on. Whole walks take hours: a mark passes a
/// dozen atomic words.
const STOPS: usize = 2;

/// Runs a model and says how many interleavings were walked.
fn walk(name: &str, model: impl Fn() + Send + Sync + 'static) {
    static WALKED: Counter = Counter::new(0);
    let before = WALKED.load(Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(STOPS);
    builder.check(move || {
        WALKED.fetch_add(1, Relaxed);
        model();
    });
    println!(
        "{name}: {} interleavings, with at most {STOPS} forced stops each",
        WALKED.load(Relaxed) - before
    );
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
        let shared = recorder();
        let [first, second] = [70, 70].map(|granule| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, 1))
        });
        second.join().unwrap();
        assert_eq!(marked(&shared.snapshot()), [70]);
        first.join().unwrap();
    });
}

/// The same one level up: a setter that finds only the summary set.
#[test]
fn loom_finding_a_summary_set_is_enough() {
    walk("summary found set, handed on", || {
        let shared = recorder();
        let [first, second] = [70, 71].map(|granule| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, 1))
        });
        second.join().unwrap();
        assert!(marked(&shared.snapshot()).contains(&71));
        first.join().unwrap();
    });
}

#[test]
fn loom_three_levels_lose_nothing() {
    walk("three levels, and a reader", || {
        let shared = Recorder::new(THREE_LEVELS, Granularity::new(1).unwrap()).unwrap();
        let [first, second] = [4096, 4096].map(|granule| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, 1))
        });
        second.join().unwrap();
        assert_eq!(marked(&shared.snapshot()), [4096]);
        first.join().unwrap();
    });
}
