//! Asking the marks how far a stretch goes, while others mark.

use super::marks::Marks;

impl Marks {
    /// Whether `bit` is set, and a bit behind it before which all are the same. What follows may be the same again: a
    /// look goes no further than the chunk, unless there is nothing.
    pub(crate) fn stretch(&self, bit: u64) -> (bool, u64) {
        let end = self.chunk_end(bit);
        if self.is_full_at(bit) {
            return (true, end);
        }
        let Some(words) = self.words_from(bit) else {
            return (false, self.next_touched(end));
        };
        let (mut first, mut set, mut flip) = (true, false, 0);
        for (start, word) in words {
            let mut differs = word ^ flip;
            if first {
                let skipped = bit - start;
                set = word >> skipped & 1 == 1;
                flip = if set { u64::MAX } else { 0 };
                differs = (word ^ flip) & u64::MAX << skipped;
                first = false;
            }
            if differs != 0 {
                return (set, end.min(start + u64::from(differs.trailing_zeros())));
            }
        }
        (set, end)
    }
}
