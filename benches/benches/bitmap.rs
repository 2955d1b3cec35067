//! The bitmap beside plain words, fixedbitset and roaring: one run, contenders in turn, medians; HBitmap's figures are of this
//! machine, measured once inside QEMU 10's own unit, and stand for 2^28 bits; beside them what they would be now, if the machine is
//! slower for them by what it is slower for plain words, which were measured with them.
//!
//! Arguments choose: `2^24` and `2^28` sizes, every other one the rows and parts in whose names it is. So
//! `cargo bench -p benches --bench bitmap -- 2^28 get load` prints what takes seconds, and without arguments everything is run.

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use benches::choice::Choice;
use benches::fills::{Fill, Random};
use benches::sets::{Set, Words};
use benches::{Contender, machine, rounds, timed};
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use fixedbitset::FixedBitSet;
use roaring::RoaringBitmap;

const ROUNDS: usize = 5;

/// Single bits touched in one go: more than any cache of the first level knows.
const TOUCHED: usize = 1 << 20;

/// Bits of a range.
const RANGE: u64 = 1 << 20;

fn main() {
    let choice = Choice::from_arguments(std::env::args().skip(1));
    println!("{}; medians of {ROUNDS} rounds\n", machine());
    for shift in [24, 28].into_iter().filter(|&shift| choice.has_size(shift)) {
        let fills: Vec<_> = Fill::ALL
            .map(|fill| (fill, fill.words(1 << shift, 1)))
            .into();
        println!("2^{shift} BITS");
        header();
        singles(&choice, shift, &fills);
        ranges(&choice, shift, &fills);
        wholes(&choice, shift, &fills);
        if choice.has("serialised") {
            sizes(shift, &fills);
        }
        println!();
    }
    let parts: [(&str, fn()); 3] = [("hot", hot), ("threads", threads), ("memory", memory)];
    for (_, part) in parts.iter().filter(|(name, _)| choice.has(name)) {
        part();
    }
}

/// The fills with which a row is wanted.
fn chosen<'a>(
    choice: &Choice,
    name: &str,
    fills: &'a [(Fill, Vec<u64>)],
) -> impl Iterator<Item = &'a (Fill, Vec<u64>)> {
    fills
        .iter()
        .filter(move |(fill, _)| choice.has(&format!("{name} {}", fill.name())))
}

/// Bits set and asked for, one at a time, anywhere.
fn singles(choice: &Choice, shift: u32, fills: &[(Fill, Vec<u64>)]) {
    let bits = 1 << shift;
    let mut random = Random::new(7);
    let places: Vec<u64> = (0..TOUCHED).map(|_| random.next() % bits).collect();
    let places = &places;
    fn set<S: Set>(bits: u64, places: &[u64], set_before: bool) -> Contender<'_> {
        Contender::new(S::NAME, move || {
            let mut set = S::new(bits);
            if set_before {
                places.iter().for_each(|&bit| set.set(bit));
            }
            timed(|| places.iter().for_each(|&bit| set.set(bit)))
        })
    }
    fn get<'a, S: Set + 'a>(words: &[u64], places: &'a [u64]) -> Contender<'a> {
        let set = S::from_words(words);
        Contender::new(S::NAME, move || {
            timed(|| places.iter().filter(|&&bit| set.get(bit)).count())
        })
    }
    for (name, set_before, hbitmap) in [
        ("set a bit, into empty", false, Quoted::new(105.0, 6.9)),
        ("set a bit, on set bits", true, Quoted::new(85.0, 6.6)),
    ] {
        if !choice.has(name) {
            continue;
        }
        let recorder = Contender::new("recorder", move || {
            let recorder = Recorder::new(bits, Granularity::new(1).expect("one")).expect("a size");
            if set_before {
                places.iter().for_each(|&bit| recorder.mark(bit, 1));
            }
            timed(|| places.iter().for_each(|&bit| recorder.mark(bit, 1)))
        });
        let mut contenders = [
            set::<DirtyBitmap>(bits, places, set_before),
            set::<Words>(bits, places, set_before),
            set::<FixedBitSet>(bits, places, set_before),
            set::<RoaringBitmap>(bits, places, set_before),
            recorder,
        ];
        row(
            name,
            "",
            &mut contenders,
            Unit::PerBit,
            Some(hbitmap).filter(|_| shift == 28),
        );
    }
    for (fill, words) in chosen(choice, "get a bit", fills) {
        let hbitmap = match fill {
            Fill::Random(1000 | 5000) => Some(Quoted::new(13.0, 6.9)),
            Fill::Empty | Fill::Random(_) | Fill::Runs(_) => None,
        };
        let mut contenders = [
            get::<DirtyBitmap>(words, places),
            get::<Words>(words, places),
            get::<FixedBitSet>(words, places),
            get::<RoaringBitmap>(words, places),
        ];
        row(
            "get a bit",
            fill.name(),
            &mut contenders,
            Unit::PerBit,
            hbitmap.filter(|_| shift == 28),
        );
    }
}

/// A range of a mebi of bits, at any bit; each round begins anew.
fn ranges(choice: &Choice, shift: u32, fills: &[(Fill, Vec<u64>)]) {
    const AT_ONCE: usize = 8;
    let bits = 1 << shift;
    let mut random = Random::new(11);
    let places: Vec<u64> = (0..AT_ONCE)
        .map(|_| random.next() % (bits - RANGE))
        .collect();
    let places = places.as_slice();
    fn set<'a, S: Set + 'a>(words: &[u64], places: &'a [u64]) -> Contender<'a> {
        let set = S::from_words(words);
        Contender::new(S::NAME, move || {
            let mut set = set.clone();
            timed(|| {
                places
                    .iter()
                    .for_each(|&from| set.set_range(from, from + RANGE))
            }) / AT_ONCE as u32
        })
    }
    for (fill, words) in chosen(choice, "set a 1 Mi range", fills) {
        let filled = DirtyBitmap::from_words(words);
        let recorder = Contender::new("recorder", move || {
            let recorder = Recorder::like(&filled);
            filled
                .runs()
                .for_each(|run| recorder.mark(run.offset, run.length));
            timed(|| places.iter().for_each(|&from| recorder.mark(from, RANGE))) / AT_ONCE as u32
        });
        let mut contenders = [
            set::<DirtyBitmap>(words, places),
            set::<Words>(words, places),
            set::<FixedBitSet>(words, places),
            set::<RoaringBitmap>(words, places),
            recorder,
        ];
        row(
            "set a 1 Mi range",
            fill.name(),
            &mut contenders,
            Unit::Whole,
            Some(Quoted::new(14_000.0, 1900.0)).filter(|_| shift == 28),
        );
    }
}

/// The same work for each of the four.
macro_rules! four {
    ($work:ident, $($argument:expr),*) => {
        vec![
            $work::<DirtyBitmap>($($argument),*),
            $work::<Words>($($argument),*),
            $work::<FixedBitSet>($($argument),*),
            $work::<RoaringBitmap>($($argument),*),
        ]
    };
}

/// What looks at a whole set.
fn wholes(choice: &Choice, shift: u32, fills: &[(Fill, Vec<u64>)]) {
    type Work = for<'a> fn(&'a [u64], &'a [u64]) -> Vec<Contender<'a>>;
    let works: [(&str, Work); 6] = [
        ("all areas", |words, _| four!(areas, words)),
        ("merge", |words, other| four!(merge, words, other)),
        ("count, after a merge", |words, other| {
            four!(count_anew, words, other)
        }),
        ("count, again", |words, _| four!(count, words)),
        ("store", |words, _| four!(store, words)),
        ("load", |words, _| four!(load, words)),
    ];
    for (name, work) in works {
        for (fill, words) in chosen(choice, name, fills) {
            let other = fill.words(1 << shift, 2);
            let mut contenders = work(words, &other);
            let hbitmap = hbitmap(name, *fill).filter(|_| shift == 28);
            row(name, fill.name(), &mut contenders, Unit::Whole, hbitmap);
        }
    }
}

/// What HBitmap took at 2^28 bits when the machine was quiet, and what plain words took then, in ns.
#[derive(Clone, Copy)]
struct Quoted {
    hbitmap: f64,
    words: f64,
}

impl Quoted {
    const fn new(hbitmap: f64, words: f64) -> Quoted {
        Quoted { hbitmap, words }
    }

    /// What HBitmap would take while plain words take `words`.
    fn scaled(self, words: f64) -> f64 {
        self.hbitmap * words / self.words
    }
}

/// HBitmap at 2^28 bits.
fn hbitmap(name: &str, fill: Fill) -> Option<Quoted> {
    match (name, fill) {
        ("all areas", Fill::Random(10)) => Some(Quoted::new(12.7e6, 3.4e6)),
        ("all areas", Fill::Random(1000)) => Some(Quoted::new(360e6, 53e6)),
        ("all areas", Fill::Runs(1000)) => Some(Quoted::new(3.3e6, 1.5e6)),
        ("merge", Fill::Random(10)) => Some(Quoted::new(4.2e6, 1.8e6)),
        ("merge", Fill::Random(1000 | 5000)) => Some(Quoted::new(15e6, 1.8e6)),
        // 9 to 19 ms, by fill: the smaller, where that is not told.
        ("load", _) => Some(Quoted::new(9e6, 12e6)),
        _ => None,
    }
}

fn areas<'a, S: Set + 'a>(words: &[u64]) -> Contender<'a> {
    let set = S::from_words(words);
    Contender::new(S::NAME, move || timed(|| set.areas()))
}

fn merge<'a, S: Set + 'a>(words: &[u64], other: &[u64]) -> Contender<'a> {
    let (set, other) = (S::from_words(words), S::from_words(other));
    Contender::new(S::NAME, move || {
        let mut set = set.clone();
        timed(|| set.merge(&other))
    })
}

fn count_anew<'a, S: Set + 'a>(words: &[u64], other: &[u64]) -> Contender<'a> {
    let (set, other) = (S::from_words(words), S::from_words(other));
    Contender::new(S::NAME, move || {
        let mut set = set.clone();
        set.merge(&other);
        timed(|| set.count())
    })
}

fn count<'a, S: Set + 'a>(words: &[u64]) -> Contender<'a> {
    let set = S::from_words(words);
    Contender::new(S::NAME, move || timed(|| set.count()))
}

fn store<'a, S: Set + 'a>(words: &[u64]) -> Contender<'a> {
    let set = S::from_words(words);
    Contender::new(S::NAME, move || timed(|| set.store()))
}

fn load<'a, S: Set + 'a>(words: &[u64]) -> Contender<'a> {
    let bytes = S::from_words(words).store();
    let bits = 64 * words.len() as u64;
    Contender::new(S::NAME, move || timed(|| S::load(&bytes, bits)))
}

/// Bytes of the serialised forms.
fn sizes(shift: u32, fills: &[(Fill, Vec<u64>)]) {
    println!("\nSERIALISED, in bytes, 2^{shift} bits");
    println!(
        "{:<16} {:>12} {:>12} {:>12} {:>9} {:>9}",
        "", "ours", "roaring", "raw", "/roaring", "/raw"
    );
    for (fill, words) in fills {
        let ours = DirtyBitmap::from_words(words).store().len();
        let roaring = RoaringBitmap::from_words(words).store().len();
        let raw = 8 * words.len();
        println!(
            "{:<16} {ours:>12} {roaring:>12} {raw:>12} {:>8.2}× {:>8.4}×",
            fill.name(),
            ours as f64 / roaring as f64,
            ours as f64 / raw as f64
        );
    }
}

/// Setting what is set, with everything in the first cache.
fn hot() {
    /// Short enough that some rounds are not interrupted.
    const TIMES: u64 = 1 << 15;
    const HOT_ROUNDS: usize = 1000;
    let granularity = Granularity::new(4096).expect("a power of two");
    let recorder = Recorder::new(1 << 40, granularity).expect("a size");
    let places: Vec<u64> = (0..64).map(|place| place * 40_960).collect();
    places.iter().for_each(|&place| recorder.mark(place, 4096));
    let mut bitmap = recorder.snapshot();
    fn each(places: &[u64], mut work: impl FnMut(u64)) -> f64 {
        let time = timed(|| {
            for _ in 0..TIMES / places.len() as u64 {
                places.iter().for_each(|&place| work(place));
            }
        });
        time.as_secs_f64() * 1e9 / TIMES as f64
    }
    let mut best = [f64::MAX; 2];
    for _ in 0..HOT_ROUNDS {
        let marks = each(&places, |place| black_box(&recorder).mark(place, 4096));
        let sets = each(&places, |place| {
            black_box(&mut bitmap).set(place, 4096).expect("inside");
        });
        best = [best[0].min(marks), best[1].min(sets)];
    }
    println!(
        "SETTING A SET BIT, in cache, least of {HOT_ROUNDS} rounds, with the loop: recorder {:.2} ns, owner {:.2} ns\n",
        best[0], best[1]
    );
}

/// Two threads that mark different halves of one recorder, and one that marks as much by itself.
fn threads() {
    const MARKS: u64 = 1 << 21;
    let size = 1 << 28;
    let one = Granularity::new(1).expect("one");
    let marks = |recorder: &Recorder, half: u64| {
        let mut random = Random::new(half + 1);
        for _ in 0..MARKS {
            recorder.mark(half * (size / 2) + random.next() % (size / 2), 1);
        }
    };
    let mut contenders = [
        Contender::new("alone", || {
            let recorder = Recorder::new(size, one).expect("a size");
            timed(|| marks(&recorder, 0))
        }),
        Contender::new("two", || {
            let recorder = Recorder::new(size, one).expect("a size");
            let start = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| marks(&recorder, 1));
                marks(&recorder, 0);
            });
            start.elapsed()
        }),
    ];
    rounds(ROUNDS, &mut contenders);
    let rate = |time: Duration, threads: u64| (threads * MARKS) as f64 / time.as_secs_f64() / 1e6;
    let (alone, two) = (
        rate(contenders[0].median(), 1),
        rate(contenders[1].median(), 2),
    );
    println!(
        "TWO THREADS, disjoint halves of 2^28 bits, random marks into empty: alone {alone:.0} M/s, two {two:.0} M/s together, {:.2}×",
        two / alone
    );
}

/// Bytes in memory: a program of its own counts them.
fn memory() {
    let counted = Command::new(env!("CARGO_BIN_EXE_bitmap-memory")).status();
    assert!(
        counted.is_ok_and(|status| status.success()),
        "bitmap-memory says why"
    );
}

/// What a time is told in.
#[derive(Clone, Copy)]
enum Unit {
    /// Nanoseconds for each of the bits touched.
    PerBit,
    /// Microseconds for the whole.
    Whole,
}

fn header() {
    println!(
        "{:<23} {:<15} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>12} {:>8} {:>9}",
        "",
        "",
        "ours",
        "words",
        "fixedbitset",
        "roaring",
        "recorder",
        "HBitmap",
        "scaled",
        "/words",
        "HBitmap/"
    );
}

fn row(
    name: &str,
    fill: &str,
    contenders: &mut [Contender<'_>],
    unit: Unit,
    hbitmap: Option<Quoted>,
) {
    rounds(ROUNDS, contenders);
    let ns = |contender: &Contender<'_>| {
        let time = contender.median().as_secs_f64() * 1e9;
        match unit {
            Unit::PerBit => time / TOUCHED as f64,
            Unit::Whole => time,
        }
    };
    let show = |ns: f64| match unit {
        Unit::PerBit => format!("{ns:.1} ns"),
        Unit::Whole => format!("{:.1} µs", ns / 1e3),
    };
    let times: Vec<f64> = contenders.iter().map(ns).collect();
    let scaled = hbitmap.map(|quoted| quoted.scaled(times[1]));
    let cell = |at: usize| times.get(at).map_or("-".into(), |&time| show(time));
    println!(
        "{name:<23} {fill:<15} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>12} {:>7.2}× {:>9}",
        cell(0),
        cell(1),
        cell(2),
        cell(3),
        cell(4),
        hbitmap.map_or("-".into(), |quoted| show(quoted.hbitmap)),
        scaled.map_or("-".into(), show),
        times[0] / times[1],
        scaled.map_or("-".into(), |theirs| format!("{:.1}×", theirs / times[0])),
    );
}
