//! What the demonstration checks: evidence in, a verdict out. Tests reach in between to see each check fail.

use cohort_backup::{BitmapPolicy, Rows};
use cohort_bitmap::DirtyBitmap;

/// What a check looks at. Whoever [tampers](Tamper) with it must be found out.
#[derive(Debug)]
pub enum Evidence<'a> {
    /// The bytes of a restored disk; must be those copied inside the fence.
    Restored(&'a mut Vec<u8>),
    /// How many points each disk has after a run that failed; must be as before.
    Points(&'a mut Vec<usize>),
    /// The bits that a disk is left with; must be what the table says.
    Bits(&'a mut DirtyBitmap),
    /// The names of the files in the backup directory after a forced cancel; must be as before.
    Files(&'a mut Vec<String>),
    /// Bytes that were copied to complete a kept partial; must be fewer than without it.
    Copied(&'a mut u64),
    /// Whether the disk with an undecided partial was left alone; must be.
    Refused(&'a mut bool),
    /// How many jobs the cancel of one reached; must be all.
    Reached(&'a mut usize),
}

/// Sees all evidence before the checks do. Outside of tests it changes nothing.
pub type Tamper<'a> = &'a mut dyn FnMut(Evidence<'_>);

/// The checks that were made, and those that failed.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many checks were made.
    pub made: usize,
    /// What failed, a sentence each.
    pub failed: Vec<String>,
}

impl Verdict {
    /// Whether every check held, and there were some.
    pub fn holds(&self) -> bool {
        self.made > 0 && self.failed.is_empty()
    }

    /// Notes one check.
    pub(super) fn note(&mut self, what: String, holds: bool) -> bool {
        self.made += 1;
        if !holds {
            self.failed.push(what);
        }
        holds
    }
}

/// How a disk's part in a run ended, as far as its bits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Committed,
    Kept,
    Discarded,
}

/// What a disk must be left with: the table of `docs/bitmaps.md`, told once more and by hand, so that a slip in the code
/// that settles does not vouch for itself. The view against the last point, and the one against a partial.
pub(super) fn expected(
    end: End,
    policy: BitmapPolicy,
    rows: &Rows,
) -> (DirtyBitmap, Option<DirtyBitmap>) {
    use BitmapPolicy::{Always, Ask, Never, OnSuccess};
    let with_since = |bits: &DirtyBitmap| {
        let mut union = bits.clone();
        // All sets of one disk have its size.
        let _ = union.merge(&rows.since);
        union
    };
    match (end, policy) {
        (End::Committed, OnSuccess | Always | Ask) => (with_since(&rows.skipped), None),
        (End::Kept, Always | Ask) => (with_since(&rows.base), Some(with_since(&rows.remaining))),
        (End::Committed, Never) | (End::Kept, OnSuccess | Never) | (End::Discarded, _) => {
            (with_since(&rows.base), None)
        }
    }
}

/// Whether `bits` is `expected`, but for the granules of clusters that are being written to right now: a writer may have
/// marked those between one look and the next, and is only ever allowed to add.
pub(super) fn same_but_for_new_writes(
    bits: &DirtyBitmap,
    expected: &DirtyBitmap,
    hot: &[u64],
    cluster: u64,
) -> bool {
    let granule = bits.granularity().bytes();
    (0..bits.granules()).all(|number| {
        let offset = number * granule;
        match (bits.get(offset), expected.get(offset)) {
            (true, false) => hot.contains(&(offset / cluster)),
            (false, true) => false,
            (true, true) | (false, false) => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use cohort_bitmap::{DirtyBitmap, Granularity};

    use super::same_but_for_new_writes;

    fn bits(row: &str) -> DirtyBitmap {
        let mut bitmap =
            DirtyBitmap::new((row.len() as u64) << 16, Granularity::DEFAULT).expect("a bitmap");
        for (number, _) in row.match_indices('1') {
            bitmap.set((number as u64) << 16, 1).expect("inside");
        }
        bitmap
    }

    #[test]
    fn new_writes_may_add_bits_where_they_are_made_and_take_none() {
        let expected = bits("0110");
        let same = |row| same_but_for_new_writes(&bits(row), &expected, &[3], 1 << 16);
        assert!(same("0110"));
        assert!(same("0111"));
        assert!(!same("1110"));
        assert!(!same("0010"));
    }
}
