//! The slow twin, and how a bitmap is compared with it.

use cohort_bitmap::{Added, DirtyBitmap, Granularity, Run, Stretch};
use proptest::prelude::*;

/// The slow twin. Nothing clever: loops over bytes and granules.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slow {
    pub size: u64,
    pub granule: u64,
    pub dirty: Vec<bool>,
}

impl Slow {
    pub(crate) fn new(size: u64, granularity: Granularity) -> Slow {
        Slow {
            size,
            granule: granularity.bytes(),
            dirty: vec![false; granularity.granules(size) as usize],
        }
    }

    pub(crate) fn get(&self, byte: u64) -> bool {
        byte < self.size && self.dirty[(byte / self.granule) as usize]
    }

    pub(crate) fn put(&mut self, bytes: std::ops::Range<u64>, value: bool) {
        bytes.for_each(|byte| self.dirty[(byte / self.granule) as usize] = value);
    }

    pub(crate) fn resize(&mut self, size: u64, added: Added) {
        self.dirty
            .resize(size.div_ceil(self.granule) as usize, false);
        let old = std::mem::replace(&mut self.size, size);
        if added == Added::Dirty && size > old {
            self.put(old..size, true);
        }
    }

    /// A granule becomes `of(mine, any of its bytes in other, all of its bytes in other)`.
    pub(crate) fn combine(&mut self, other: &Slow, of: fn(bool, bool, bool) -> bool) {
        for granule in 0..self.dirty.len() {
            let start = granule as u64 * self.granule;
            let mut bytes =
                (start..self.size.min(start + self.granule)).map(|byte| other.get(byte));
            let any = bytes.clone().any(|dirty| dirty);
            self.dirty[granule] = of(self.dirty[granule], any, bytes.all(|dirty| dirty));
        }
    }

    pub(crate) fn first(&self, start: u64, end: u64, value: bool) -> Option<u64> {
        (start..end.min(self.size)).find(|&byte| self.get(byte) == value)
    }

    pub(crate) fn area(&self, start: u64, end: u64, max_length: u64) -> Option<Run> {
        let offset = self.first(start, end, true)?;
        let stop = self.first(offset, end, false).unwrap_or(end.min(self.size));
        let length = (stop - offset).min(max_length);
        (length > 0).then_some(Run { offset, length })
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.area(at, self.size, u64::MAX)?;
            at = run.end();
            Some(run)
        })
    }

    pub(crate) fn row(&self) -> String {
        self.dirty
            .iter()
            .map(|&dirty| if dirty { '1' } else { '0' })
            .collect()
    }
}

/// Everything that can be asked, at a few places and in whole.
pub(crate) fn agree(
    fast: &DirtyBitmap,
    slow: &Slow,
    places: &[(u64, u64, u64)],
) -> Result<(), TestCaseError> {
    let dirty = slow.dirty.iter().filter(|&&dirty| dirty).count() as u64;
    prop_assert_eq!(fast.dirty_granules(), dirty);
    prop_assert_eq!(fast.count(), dirty * slow.granule);
    prop_assert_eq!(
        fast.dirty_bytes(),
        (0..slow.size).filter(|&byte| slow.get(byte)).count() as u64
    );
    prop_assert_eq!(fast.is_empty(), dirty == 0);
    for &(at, length, max) in places {
        let (at, length, max) = (at % (slow.size + 10), length % (slow.size + 10), max % 100);
        prop_assert_eq!(fast.get(at), slow.get(at));
        prop_assert_eq!(
            fast.next_dirty(at, length),
            slow.first(at, at + length, true)
        );
        prop_assert_eq!(
            fast.next_zero(at, length),
            slow.first(at, at + length, false)
        );
        prop_assert_eq!(
            fast.next_dirty(at, u64::MAX),
            slow.first(at, u64::MAX, true)
        );
        prop_assert_eq!(
            fast.next_zero(at, u64::MAX),
            slow.first(at, u64::MAX, false)
        );
        prop_assert_eq!(
            fast.next_dirty_area(at, at + length, max),
            slow.area(at, at + length, max)
        );
        pieces_agree(fast, slow, at, at + length, max)?;
    }
    prop_assert_eq!(fast.dirty_offsets().count() as u64, dirty);
    stretches_partition(fast, slow)
}

/// Runs cut to `max` cover exactly the dirty bytes of the range, in order.
pub(crate) fn pieces_agree(
    fast: &DirtyBitmap,
    slow: &Slow,
    start: u64,
    end: u64,
    max: u64,
) -> Result<(), TestCaseError> {
    let mut at = start;
    for piece in fast.runs_in(start, end, max) {
        prop_assert!(piece.length >= 1 && piece.length <= max.max(1));
        prop_assert_eq!(Some(piece), slow.area(at, end, max.max(1)));
        at = piece.end();
    }
    prop_assert_eq!(slow.first(at, end, true), None);
    Ok(())
}

pub(crate) fn stretches_partition(fast: &DirtyBitmap, slow: &Slow) -> Result<(), TestCaseError> {
    let (mut at, mut before) = (0, None);
    while at < slow.size {
        let Stretch { dirty, length } = fast.status(at, slow.size - at).unwrap();
        prop_assert_ne!(before, Some(dirty), "stretches alternate");
        prop_assert!(length > 0 && (at..at + length).all(|byte| slow.get(byte) == dirty));
        (at, before) = (at + length, Some(dirty));
    }
    prop_assert_eq!(at, slow.size);
    Ok(())
}

pub(crate) fn filled(
    size: u64,
    granularity: Granularity,
    set: &[(u64, u64)],
) -> (DirtyBitmap, Slow) {
    let mut fast = DirtyBitmap::new(size, granularity).unwrap();
    let mut slow = Slow::new(size, granularity);
    for &(at, length) in set {
        let at = at % (size + 1);
        let end = size.min(at + length);
        fast.set(at, end - at).unwrap();
        slow.put(at..end, true);
    }
    (fast, slow)
}

pub(crate) fn granularity(shift: u32) -> Granularity {
    Granularity::new(1 << shift).unwrap()
}
