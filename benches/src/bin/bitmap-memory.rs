//! Bytes that sets of bits take, as the system counts them: what is resident of them, because memory that was asked for and
//! never touched costs nothing. Each is made as its users make it, bit by bit or run by run, in a process of its own, so that
//! none lives in what another left; the benchmark `bitmap` runs this program, which runs itself.

use std::process::Command;

use benches::fills::Fill;
use benches::sets::{Set, Words};
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use fixedbitset::FixedBitSet;
use roaring::RoaringBitmap;

const SHIFTS: [u32; 2] = [24, 28];

/// Whose sets, and how they are made.
type Make = fn(&DirtyBitmap) -> u64;
const MAKES: [(&str, Make); 5] = [
    ("ours", taken::<DirtyBitmap>),
    ("words", taken::<Words>),
    ("fixedbitset", taken::<FixedBitSet>),
    ("roaring", taken::<RoaringBitmap>),
    ("recorder", taken_by_recorder),
];

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|number| number.parse().expect("a number"))
        .collect();
    match numbers[..] {
        [shift, fill, make] => {
            println!("{}", measured(shift as u32, Fill::ALL[fill], MAKES[make].1))
        }
        _ => tables(),
    }
}

fn tables() {
    for shift in SHIFTS {
        println!("\nMEMORY, in bits for each bit, 2^{shift} bits, as resident");
        let names = MAKES.map(|(name, _)| format!("{name:>11}")).join(" ");
        println!("{:<16} {names}", "");
        for (number, fill) in Fill::ALL.iter().enumerate() {
            let bits = (0..MAKES.len()).map(|make| in_child(shift, number, make));
            let cells: Vec<_> = bits.map(|bits| format!("{bits:>11.4}")).collect();
            println!("{:<16} {}", fill.name(), cells.join(" "));
        }
    }
}

/// Bits of memory for each bit of a set, from a process that makes no other.
fn in_child(shift: u32, fill: usize, make: usize) -> f64 {
    let own = std::env::current_exe().expect("this program");
    let numbers = [shift as usize, fill, make].map(|number| number.to_string());
    let told = Command::new(own).args(numbers).output().expect("it runs");
    let told = String::from_utf8(told.stdout).expect("a number");
    let bytes: f64 = told.trim().parse().expect("a number");
    8.0 * bytes / f64::from(2_u32.pow(shift))
}

fn measured(shift: u32, fill: Fill, make: Make) -> u64 {
    let words = fill.words(1 << shift, 1);
    let filled = <DirtyBitmap as Set>::from_words(&words);
    let bytes = make(&filled);
    // Alive until now, so that nothing is made in what they left.
    drop((words, filled));
    bytes
}

fn taken<S: Set>(filled: &DirtyBitmap) -> u64 {
    let before = resident();
    let mut set = S::new(filled.size());
    for run in filled.runs() {
        set.set_range(run.offset, run.end());
    }
    let after = resident();
    std::hint::black_box(set);
    after.saturating_sub(before)
}

fn taken_by_recorder(filled: &DirtyBitmap) -> u64 {
    let before = resident();
    let one = Granularity::new(1).expect("one byte");
    let recorder = Recorder::new(filled.size(), one).expect("a size");
    for run in filled.runs() {
        recorder.mark(run.offset, run.length);
    }
    let after = resident();
    std::hint::black_box(recorder);
    after.saturating_sub(before)
}

/// What of this process is in memory, page by page: the account in `status` lags behind.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel's account");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .expect("a number of KiB")
        << 10
}
