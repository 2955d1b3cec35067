//! Bytes that sets of bits take, as the allocator counts them: a program of its own, because counting would slow down what is
//! timed; the benchmark `bitmap` runs it. Each set is made as its users make it, bit by bit or run by run.

use benches::fills::Fill;
use benches::sets::{Set, Words};
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use fixedbitset::FixedBitSet;
use peak_alloc::PeakAlloc;
use roaring::RoaringBitmap;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SHIFTS: [u32; 2] = [24, 28];

fn main() {
    for shift in SHIFTS {
        println!("\nMEMORY, in bits for each bit, 2^{shift} bits, as asked of the allocator");
        println!(
            "{:<16} {:>11} {:>11} {:>11} {:>11} {:>11}",
            "", "ours", "words", "fixedbitset", "roaring", "recorder"
        );
        for fill in Fill::ALL {
            let filled = <DirtyBitmap as Set>::from_words(&fill.words(1 << shift, 1));
            println!(
                "{:<16} {:>11.4} {:>11.4} {:>11.4} {:>11.4} {:>11.4}",
                fill.name(),
                taken(&filled, made::<DirtyBitmap>),
                taken(&filled, made::<Words>),
                taken(&filled, made::<FixedBitSet>),
                taken(&filled, made::<RoaringBitmap>),
                taken(&filled, recorded),
            );
        }
    }
}

/// Bits of memory for each bit of a set that is alive.
fn taken<S>(filled: &DirtyBitmap, make: impl FnOnce(&DirtyBitmap) -> S) -> f64 {
    let before = HEAP.current_usage();
    let set = make(filled);
    let bytes = HEAP.current_usage() - before;
    drop(set);
    8.0 * bytes as f64 / filled.granules() as f64
}

fn made<S: Set>(filled: &DirtyBitmap) -> S {
    let mut set = S::new(filled.size());
    for run in filled.runs() {
        set.set_range(run.offset, run.end());
    }
    set
}

fn recorded(filled: &DirtyBitmap) -> Recorder {
    let one = Granularity::new(1).expect("one byte");
    let recorder = Recorder::new(filled.size(), one).expect("a size");
    for run in filled.runs() {
        recorder.mark(run.offset, run.length);
    }
    recorder
}
