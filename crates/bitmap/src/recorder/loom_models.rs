//! The interleavings of setters, readers and a split. A chunk has four words here: leaf, summary, top and the summary of
//! the chunks are four levels, and a chunk is made by whoever needs it first.

use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

use loom::thread;

use crate::{DirtyBitmap, Granularity, Recorder, View, levels::CHUNK_BITS};

/// Granules of one byte, in two chunks: found by two loads.
const FLAT: u64 = 2 * CHUNK_BITS;

/// Five chunks: three pages of two.
const PAGED: u64 = 5 * CHUNK_BITS;

fn recorder() -> Recorder {
    of_size(FLAT)
}

fn of_size(size: u64) -> Recorder {
    Recorder::new(size, Granularity::new(1).unwrap()).unwrap()
}

/// Marks from a thread of its own.
fn marker(shared: &Recorder, offset: u64, length: u64) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || shared.mark(offset, length))
}

/// How often, in one walk, a thread may be stopped where it would go on. Whole walks take hours: a mark passes a
/// dozen atomic words.
const STOPS: usize = 2;

/// Runs a model and says how many interleavings were walked.
fn walk(name: &str, model: impl Fn() + Send + Sync + 'static) {
    walk_stopping(STOPS, name, model);
}

/// As [`walk`], with another bound.
fn walk_stopping(stops: usize, name: &str, model: impl Fn() + Send + Sync + 'static) {
    static WALKED: Counter = Counter::new(0);
    let before = WALKED.load(Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(stops);
    builder.check(move || {
        WALKED.fetch_add(1, Relaxed);
        model();
    });
    println!(
        "{name}: {} interleavings, with at most {stops} forced stops each",
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
fn loom_pages_lose_nothing() {
    walk("the second page, and a reader", || {
        let shared = of_size(PAGED);
        let [first, second] = [PAGED - 1, PAGED - 1].map(|granule| {
            let shared = shared.clone();
            thread::spawn(move || shared.mark(granule, 1))
        });
        second.join().unwrap();
        assert_eq!(marked(&shared.snapshot()), [PAGED - 1]);
        first.join().unwrap();
    });
}

/// Several make the same chunk: one is kept, with the marks of all.
#[test]
fn loom_makers_of_one_chunk_lose_nothing() {
    walk_stopping(1, "three makers of one chunk", || {
        let shared = recorder();
        let makers = [300, 400].map(|granule| marker(&shared, granule, 1));
        shared.mark(500, 1);
        makers.into_iter().for_each(|maker| maker.join().unwrap());
        assert_eq!(marked(&shared.snapshot()), [300, 400, 500]);
    });
}

/// Long marks take whole words, to which others add at the same time.
#[test]
fn loom_long_marks_lose_nothing_beneath_them() {
    walk("a bit under a long mark, and a reader", || {
        let shared = recorder();
        let setters = [marker(&shared, 70, 1), marker(&shared, 60, 140)];
        let (seen, found) = (shared.get(70), marked(&shared.snapshot()));
        assert!(!seen || found.contains(&70), "{found:?}");
        setters
            .into_iter()
            .for_each(|setter| setter.join().unwrap());
        assert_eq!(marked(&shared.snapshot()), (60..200).collect::<Vec<_>>());
    });
}

/// A chunk that is noted as full, while somebody makes it for one bit.
#[test]
fn loom_whole_chunks_hold_whatever_their_words_say() {
    walk("a bit in a chunk that becomes full, and a reader", || {
        let shared = recorder();
        let setters = [marker(&shared, 3, 1), marker(&shared, 0, CHUNK_BITS)];
        let (seen, found) = (shared.get(9), marked(&shared.snapshot()));
        assert!(!seen || found.contains(&9), "{found:?}");
        setters
            .into_iter()
            .for_each(|setter| setter.join().unwrap());
        assert_eq!(shared.marked_granules(), CHUNK_BITS);
        assert_eq!(marked(&shared.snapshot()).len() as u64, CHUNK_BITS);
    });
}

/// What was marked before the split is base; what two threads mark in the successor is since; both views see both.
#[test]
fn loom_split_keeps_base_and_since_apart() {
    walk("a split, two writers, and its end", || {
        let view = View::new(DirtyBitmap::new(FLAT, Granularity::new(1).unwrap()).unwrap());
        marker(view.recorder(), 5, 1).join().unwrap();
        let split = view.split();
        let writers = [5, 300].map(|granule| marker(split.successor(), granule, 1));
        assert_eq!(marked(split.base()), [5]);
        let (point, partial) =
            split.keep(&DirtyBitmap::new(FLAT, Granularity::new(1).unwrap()).unwrap());
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        assert_eq!(marked(&point.snapshot()), [5, 300]);
        assert_eq!(marked(&partial.snapshot()), [5, 300]);
    });
}
