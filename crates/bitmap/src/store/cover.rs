//! Which granules of a recording set are covered: by an intent that is safe, or by a checkpoint.

use std::ops::Range;
use std::sync::OnceLock;

use crate::levels::{WORD_BITS, mask};
use crate::sync::{AtomicU64, Ordering};

/// Words allocated at a time: 32 KiB, which cover 16 GiB of disk at 64 KiB a bit.
const CHUNK_WORDS: u64 = if cfg!(loom) { 2 } else { 4096 };

/// One bit a granule. A set bit lets writers pass without an intent of their own.
///
/// Writers load, whoever has the store's turn stores. A bit is cleared only while its granule is not
/// marked in the recorder, and who clears it looks at the marks again afterwards: see
/// [`Cover::cool`].
#[derive(Debug)]
pub(super) struct Cover {
    chunks: Vec<OnceLock<Box<[AtomicU64]>>>,
    /// Not zero once nobody may record into the set any more.
    retired: AtomicU64,
}

impl Cover {
    pub(super) fn new(granules: u64) -> Self {
        let chunks = granules.div_ceil(CHUNK_WORDS * WORD_BITS);
        let cover = Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            retired: AtomicU64::new(0),
        };
        // Loom does not see what a `OnceLock` orders.
        if cfg!(loom) {
            for chunk in 0..chunks {
                let _allocated = cover.stored(chunk * CHUNK_WORDS);
            }
        }
        cover
    }

    /// Whether all of `granules` are covered.
    pub(super) fn holds(&self, granules: &Range<u64>) -> bool {
        words(granules).all(|word| {
            let wanted = mask(word, granules.start, granules.end);
            self.word(word) & wanted == wanted
        })
    }

    /// How many of `granules` are covered.
    pub(super) fn count(&self, granules: &Range<u64>) -> u64 {
        words(granules)
            .map(|word| {
                let wanted = mask(word, granules.start, granules.end);
                u64::from((self.word(word) & wanted).count_ones())
            })
            .sum()
    }

    /// How many granules right before `granule` are covered, looking back at most `most`.
    pub(super) fn run_before(&self, granule: u64, most: u64) -> u64 {
        let mut at = granule;
        let stop = granule.saturating_sub(most);
        while at > stop && self.word((at - 1) / WORD_BITS) >> ((at - 1) % WORD_BITS) & 1 == 1 {
            at -= 1;
        }
        granule - at
    }

    /// Covers `granules`.
    pub(super) fn set(&self, granules: &Range<u64>) {
        for word in words(granules) {
            let bits = mask(word, granules.start, granules.end);
            self.stored(word).fetch_or(bits, Ordering::Release);
        }
    }

    /// Uncovers what of `granules` is not `marked`.
    ///
    /// A writer marks, then asks whether it is covered; this uncovers, then asks whether it is marked;
    /// both with a fence in between. So at least one sees the other: the writer finds no cover and
    /// logs an intent, or the mark is found here and the cover put back.
    pub(super) fn cool(&self, granules: &Range<u64>, marked: impl Fn(u64) -> bool) {
        for word in words(granules) {
            self.stored(word)
                .fetch_and(!mask(word, granules.start, granules.end), Ordering::Relaxed);
        }
        crate::sync::fence(Ordering::SeqCst);
        for granule in granules.clone().filter(|granule| marked(*granule)) {
            self.set(&(granule..granule + 1));
        }
    }

    /// Uncovers everything, marked or not, because nobody may record any more: who does all the same then
    /// comes by the log, and is noticed.
    pub(super) fn retire(&self) {
        self.retired.store(1, Ordering::SeqCst);
        for word in self.chunks.iter().filter_map(OnceLock::get).flatten() {
            word.store(0, Ordering::Relaxed);
        }
        crate::sync::fence(Ordering::SeqCst);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst) != 0
    }

    fn word(&self, word: u64) -> u64 {
        self.chunks
            .get((word / CHUNK_WORDS) as usize)
            .and_then(OnceLock::get)
            .map_or(0, |chunk| {
                chunk[(word % CHUNK_WORDS) as usize].load(Ordering::Acquire)
            })
    }

    fn stored(&self, word: u64) -> &AtomicU64 {
        let chunk = self.chunks[(word / CHUNK_WORDS) as usize]
            .get_or_init(|| (0..CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect());
        &chunk[(word % CHUNK_WORDS) as usize]
    }
}

fn words(granules: &Range<u64>) -> Range<u64> {
    if granules.is_empty() {
        return 0..0;
    }
    granules.start / WORD_BITS..granules.end.div_ceil(WORD_BITS)
}
