//! Sets of bits behind one trait: ours, a plain array of words, and the peers. Each does what its users would.

use cohort_bitmap::{DirtyBitmap, Granularity};
use fixedbitset::FixedBitSet;
use roaring::RoaringBitmap;

/// A set of bits of a size that was said once.
pub trait Set: Clone {
    /// What it is called in the tables.
    const NAME: &'static str;

    /// An empty set.
    fn new(bits: u64) -> Self;
    /// The set of these words: bit i of word w is bit 64 w + i.
    fn from_words(words: &[u64]) -> Self;
    /// Adds a bit.
    fn set(&mut self, bit: u64);
    /// Whether a bit is in it.
    fn get(&self, bit: u64) -> bool;
    /// Adds the bits `from..to`.
    fn set_range(&mut self, from: u64, to: u64);
    /// Goes through its runs: how many there are, and the sum of their lengths.
    fn areas(&self) -> (u64, u64);
    /// Adds the bits of another.
    fn merge(&mut self, other: &Self);
    /// How many bits are in it.
    fn count(&self) -> u64;
    /// The set as bytes.
    fn store(&self) -> Vec<u8>;
    /// The set of these bytes.
    fn load(bytes: &[u8], bits: u64) -> Self;
}

impl Set for DirtyBitmap {
    const NAME: &'static str = "ours";

    fn new(bits: u64) -> Self {
        DirtyBitmap::new(bits, Granularity::new(1).expect("one byte")).expect("a size")
    }

    fn from_words(words: &[u64]) -> Self {
        let mut set = <Self as Set>::new(64 * words.len() as u64);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        set.import_chunk(0, set.size(), &bytes).expect("as long");
        set
    }

    #[inline]
    fn set(&mut self, bit: u64) {
        DirtyBitmap::set(self, bit, 1).expect("inside");
    }

    #[inline]
    fn get(&self, bit: u64) -> bool {
        DirtyBitmap::get(self, bit)
    }

    fn set_range(&mut self, from: u64, to: u64) {
        DirtyBitmap::set(self, from, to - from).expect("inside");
    }

    fn areas(&self) -> (u64, u64) {
        let (mut runs, mut sum) = (0, 0);
        for run in self.runs() {
            runs += 1;
            sum += run.length;
        }
        (runs, sum)
    }

    fn merge(&mut self, other: &Self) {
        DirtyBitmap::merge(self, other).expect("of one size");
    }

    fn count(&self) -> u64 {
        self.dirty_granules()
    }

    fn store(&self) -> Vec<u8> {
        self.encode()
    }

    fn load(bytes: &[u8], _: u64) -> Self {
        DirtyBitmap::decode(bytes).expect("as stored")
    }
}

/// A bare array: what everybody writes first.
#[derive(Clone, Debug)]
pub struct Words(Vec<u64>);

impl Words {
    /// The array.
    pub fn into_inner(self) -> Vec<u64> {
        self.0
    }
}

impl Set for Words {
    const NAME: &'static str = "words";

    fn new(bits: u64) -> Self {
        Words(vec![0; bits.div_ceil(64) as usize])
    }

    fn from_words(words: &[u64]) -> Self {
        Words(words.to_vec())
    }

    #[inline]
    fn set(&mut self, bit: u64) {
        self.0[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    #[inline]
    fn get(&self, bit: u64) -> bool {
        self.0[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn set_range(&mut self, from: u64, to: u64) {
        let (first, last) = ((from / 64) as usize, ((to - 1) / 64) as usize);
        let (head, tail) = (u64::MAX << (from % 64), u64::MAX >> (63 - (to - 1) % 64));
        if first == last {
            self.0[first] |= head & tail;
            return;
        }
        self.0[first] |= head;
        self.0[first + 1..last].fill(u64::MAX);
        self.0[last] |= tail;
    }

    fn areas(&self) -> (u64, u64) {
        let (mut runs, mut sum) = (0, 0);
        let mut open: Option<u64> = None;
        for (base, &word) in (0..).step_by(64).zip(&self.0) {
            // Neither begins nor ends a run.
            if word == if open.is_some() { u64::MAX } else { 0 } {
                continue;
            }
            let mut at = 0;
            while at < 64 {
                let rest = if open.is_some() { !word } else { word } & (u64::MAX << at);
                if rest == 0 {
                    break;
                }
                at = rest.trailing_zeros();
                let bit = base + u64::from(at);
                match open.take() {
                    Some(from) => {
                        runs += 1;
                        sum += bit - from;
                    }
                    None => open = Some(bit),
                }
            }
        }
        if let Some(from) = open {
            runs += 1;
            sum += 64 * self.0.len() as u64 - from;
        }
        (runs, sum)
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn store(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn load(bytes: &[u8], _: u64) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Words(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

impl Set for FixedBitSet {
    const NAME: &'static str = "fixedbitset";

    fn new(bits: u64) -> Self {
        FixedBitSet::with_capacity(bits as usize)
    }

    fn from_words(words: &[u64]) -> Self {
        let blocks = words.iter().map(|&word| word as usize);
        FixedBitSet::with_capacity_and_blocks(64 * words.len(), blocks)
    }

    #[inline]
    fn set(&mut self, bit: u64) {
        self.insert(bit as usize);
    }

    #[inline]
    fn get(&self, bit: u64) -> bool {
        self.contains(bit as usize)
    }

    fn set_range(&mut self, from: u64, to: u64) {
        self.insert_range(from as usize..to as usize);
    }

    fn areas(&self) -> (u64, u64) {
        runs_of_bits(self.ones().map(|bit| bit as u64))
    }

    fn merge(&mut self, other: &Self) {
        self.union_with(other);
    }

    fn count(&self) -> u64 {
        self.count_ones(..) as u64
    }

    fn store(&self) -> Vec<u8> {
        let blocks = self.as_slice().iter();
        blocks.flat_map(|block| block.to_le_bytes()).collect()
    }

    fn load(bytes: &[u8], bits: u64) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let blocks = words.iter().map(|word| usize::from_le_bytes(*word));
        FixedBitSet::with_capacity_and_blocks(bits as usize, blocks)
    }
}

impl Set for RoaringBitmap {
    const NAME: &'static str = "roaring";

    fn new(_: u64) -> Self {
        RoaringBitmap::new()
    }

    fn from_words(words: &[u64]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut set = RoaringBitmap::from_lsb0_bytes(0, &bytes);
        set.optimize();
        set
    }

    #[inline]
    fn set(&mut self, bit: u64) {
        self.insert(bit as u32);
    }

    #[inline]
    fn get(&self, bit: u64) -> bool {
        self.contains(bit as u32)
    }

    fn set_range(&mut self, from: u64, to: u64) {
        self.insert_range(from as u32..to as u32);
    }

    fn areas(&self) -> (u64, u64) {
        let (mut runs, mut sum) = (0, 0);
        let mut iter = self.iter();
        let mut end = None;
        while let Some(range) = iter.next_range() {
            // A run goes on across containers.
            runs += u64::from(end != Some(*range.start()));
            end = range.end().checked_add(1);
            sum += u64::from(range.end() - range.start()) + 1;
        }
        (runs, sum)
    }

    fn merge(&mut self, other: &Self) {
        *self |= other;
    }

    fn count(&self) -> u64 {
        self.len()
    }

    fn store(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.serialized_size());
        self.serialize_into(&mut bytes).expect("memory");
        bytes
    }

    fn load(bytes: &[u8], _: u64) -> Self {
        RoaringBitmap::deserialize_from(bytes).expect("as stored")
    }
}

/// Runs, for who only tells bits.
fn runs_of_bits(bits: impl Iterator<Item = u64>) -> (u64, u64) {
    let (mut runs, mut sum, mut end) = (0, 0, None);
    for bit in bits {
        runs += u64::from(end != Some(bit));
        sum += 1;
        end = Some(bit + 1);
    }
    (runs, sum)
}
