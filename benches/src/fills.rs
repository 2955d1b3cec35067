//! What sets of bits hold before they are measured.

use crate::sets::{Set, Words};

/// What a set holds before it is measured.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Nothing.
    Empty,
    /// So many of 10,000 bits, anywhere.
    Random(u64),
    /// So many of 10,000, in runs of 64 Ki bits.
    Runs(u64),
}

impl Fill {
    /// Those of the tables.
    pub const ALL: [Fill; 7] = [
        Fill::Empty,
        Fill::Random(0),
        Fill::Random(10),
        Fill::Random(1000),
        Fill::Random(5000),
        Fill::Runs(10),
        Fill::Runs(1000),
    ];

    /// What it is called in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Fill::Empty => "empty",
            Fill::Random(0) => "0.001 % random",
            Fill::Random(10) => "0.1 % random",
            Fill::Random(1000) => "10 % random",
            Fill::Random(_) => "50 % random",
            Fill::Runs(10) => "0.1 % in runs",
            Fill::Runs(_) => "10 % in runs",
        }
    }

    /// The same words for the same seed.
    pub fn words(self, bits: u64, seed: u64) -> Vec<u64> {
        let mut random = Random::new(seed);
        let mut words = Words::new(bits);
        match self {
            Fill::Empty => {}
            Fill::Random(share) => {
                let share = if share == 0 {
                    bits / 100_000
                } else {
                    bits / 10_000 * share
                };
                let mut left = share;
                while left > 0 {
                    let bit = random.next() % bits;
                    left -= u64::from(!words.get(bit));
                    words.set(bit);
                }
            }
            Fill::Runs(share) => {
                for _ in 0..(bits / 10_000 * share).div_ceil(1 << 16) {
                    let from = random.next() % (bits - (1 << 16));
                    words.set_range(from, from + (1 << 16));
                }
            }
        }
        words.into_inner()
    }
}

/// Xorshift: quick, and the same every time.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins anywhere, even at 0.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        if self.0 < 1 << 32 {
            self.0 = self.0.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
