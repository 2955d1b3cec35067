//! The operations, how they are chosen, and what each does to a bitmap and its slow twin.

use cohort_bitmap::{Added, DirtyBitmap, RangeError};
use proptest::{collection::vec, prelude::*};

use crate::slow::{Slow, filled, granularity};

/// One operation; positions are brought into the disk, and a little past it, when it runs.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Set(u64, u64),
    Reset(u64, u64),
    ResetGranules(u64, u64),
    SetAll,
    Clear,
    Resize(u64, bool),
    Merge(Other),
    Intersect(Other),
    Subtract(Other),
    Scale(u32),
    Retain(u32, u64),
    Encode,
    Clone,
    Chunk(u64, u64),
}

/// Another bitmap of the same size: its granularity and what is set in it.
type Other = (u32, Vec<(u64, u64)>);

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let place = || any::<u64>();
    let length = || prop_oneof![Just(0), 1..200_u64, 1..20_000_u64];
    let other = || (0..9_u32, vec((place(), length()), 0..5));
    prop_oneof![
        6 => (place(), length()).prop_map(|(at, length)| Op::Set(at, length)),
        2 => (place(), length()).prop_map(|(at, length)| Op::Reset(at, length)),
        4 => (place(), length()).prop_map(|(at, length)| Op::ResetGranules(at, length)),
        1 => Just(Op::SetAll),
        1 => Just(Op::Clear),
        2 => (place(), any::<bool>()).prop_map(|(size, dirty)| Op::Resize(size, dirty)),
        2 => other().prop_map(Op::Merge),
        2 => other().prop_map(Op::Intersect),
        2 => other().prop_map(Op::Subtract),
        1 => (0..9_u32).prop_map(Op::Scale),
        1 => (0..9_u32, any::<u64>()).prop_map(|(unit, pattern)| Op::Retain(unit, pattern)),
        1 => Just(Op::Encode),
        1 => Just(Op::Clone),
        1 => (place(), place()).prop_map(|(from, to)| Op::Chunk(from, to)),
    ]
}

/// As [`op`], with ranges that fill whole chunks of words, and without the operations that never see one.
pub(crate) fn long_op() -> impl Strategy<Value = Op> {
    let near = || {
        (0..5_u64, 0..130_u64).prop_map(|(chunk, off)| (chunk << 18) + off - (chunk.min(1) * 65))
    };
    let range = || (near(), near()).prop_map(|(a, b)| (a.min(b), a.max(b) - a.min(b)));
    let other = || (0..4_u32, vec(range(), 0..4));
    prop_oneof![
        5 => range().prop_map(|(at, length)| Op::Set(at, length)),
        3 => range().prop_map(|(at, length)| Op::ResetGranules(at, length)),
        1 => Just(Op::SetAll),
        2 => (near(), any::<bool>()).prop_map(|(size, dirty)| Op::Resize(size, dirty)),
        2 => other().prop_map(Op::Merge),
        2 => other().prop_map(Op::Intersect),
        2 => other().prop_map(Op::Subtract),
        1 => Just(Op::Encode),
        1 => Just(Op::Clone),
        1 => (near(), near()).prop_map(|(from, to)| Op::Chunk(from, to)),
    ]
}

/// One of each operation, or more where it goes different ways; offsets and lengths reach over words and chunks.
pub(crate) fn each_op() -> Vec<Op> {
    const CHUNK: u64 = 1 << 18;
    let other = || (1, vec![(60, 200), (CHUNK - 3, CHUNK + 9)]);
    vec![
        Op::Set(70, 1),
        Op::Set(3, CHUNK + 700),
        Op::Reset(64, 128),
        Op::ResetGranules(70, 1),
        Op::ResetGranules(CHUNK - 9, CHUNK + 20),
        Op::SetAll,
        Op::Clear,
        Op::Resize(CHUNK + 1, false),
        Op::Resize(2 * CHUNK + 5, true),
        Op::Merge(other()),
        Op::Intersect(other()),
        Op::Subtract(other()),
        Op::Scale(2),
        Op::Retain(6, 0x5a5a_0ff0_5a5a_0ff0),
        Op::Encode,
        Op::Clone,
        Op::Chunk(64, 5000),
    ]
}

pub(crate) fn apply(op: &Op, fast: &mut DirtyBitmap, slow: &mut Slow) -> Result<(), TestCaseError> {
    let (size, granularity_now) = (fast.size(), fast.granularity());
    let inside = |at: u64, length: u64| (at % (size + 3), length);
    match *op {
        Op::Set(at, length) => {
            let (at, length) = inside(at, length);
            let fits = at + length <= size;
            prop_assert_eq!(fast.set(at, length).is_ok(), fits);
            if fits {
                slow.put(at..at + length, true);
            }
        }
        Op::Reset(at, length) => {
            let (at, length) = inside(at, length);
            let end = at + length;
            let aligned = at.is_multiple_of(slow.granule)
                && (end.is_multiple_of(slow.granule) || end == size);
            let expected = match (end <= size, aligned) {
                (false, _) => Err(RangeError::PastEnd {
                    offset: at,
                    length,
                    size,
                }),
                (true, false) => Err(RangeError::Misaligned {
                    offset: at,
                    length,
                    granularity: granularity_now,
                }),
                (true, true) => {
                    slow.put(at..end, false);
                    Ok(())
                }
            };
            prop_assert_eq!(fast.reset(at, length), expected);
        }
        Op::ResetGranules(at, length) => {
            let at = at % (size + 1) / slow.granule * slow.granule;
            let end = size.min((at + length).next_multiple_of(slow.granule));
            prop_assert_eq!(fast.reset(at, end - at), Ok(()));
            slow.put(at..end, false);
        }
        Op::SetAll => {
            fast.set_all();
            slow.dirty.fill(true);
        }
        Op::Clear => {
            fast.clear();
            slow.dirty.fill(false);
        }
        Op::Resize(to, dirty) => {
            let (to, added) = (
                to % (2 * size + 100).min(if size < 20_000 { 20_000 } else { 3 << 18 }),
                if dirty { Added::Dirty } else { Added::Clean },
            );
            prop_assert_eq!(fast.resize(to, added), Ok(()));
            slow.resize(to, added);
        }
        Op::Merge((shift, ref set)) => {
            let (other, slow_other) = filled(size, granularity(shift), set);
            prop_assert_eq!(fast.merge(&other), Ok(()));
            slow.combine(&slow_other, |mine, any, _| mine || any);
        }
        Op::Intersect((shift, ref set)) => {
            let (other, slow_other) = filled(size, granularity(shift), set);
            prop_assert_eq!(fast.intersect(&other), Ok(()));
            slow.combine(&slow_other, |mine, any, _| mine && any);
        }
        Op::Subtract((shift, ref set)) => {
            let (other, slow_other) = filled(size, granularity(shift), set);
            prop_assert_eq!(fast.subtract(&other), Ok(()));
            slow.combine(&slow_other, |mine, _, all| mine && !all);
        }
        Op::Scale(shift) => {
            *fast = fast.at_granularity(granularity(shift)).unwrap();
            let mut scaled = Slow::new(size, granularity(shift));
            scaled.combine(slow, |_, any, _| any);
            *slow = scaled;
        }
        Op::Retain(shift, pattern) => {
            fast.retain(granularity(shift), |unit| pattern >> (unit % 64) & 1 == 1);
            let mut units = Slow::new(size, granularity(shift));
            units
                .dirty
                .iter_mut()
                .zip(0..)
                .for_each(|(dirty, unit)| *dirty = pattern >> (unit % 64) & 1 == 1);
            slow.combine(&units, |mine, any, _| mine && any);
        }
        Op::Encode => {
            let bytes = fast.encode();
            let streamed = DirtyBitmap::read_from(bytes.as_slice()).unwrap();
            *fast = DirtyBitmap::decode(&bytes).unwrap();
            prop_assert_eq!(&streamed, &*fast);
        }
        Op::Clone => {
            let copy = fast.clone();
            prop_assert_eq!(&copy, &*fast);
            // The old one goes its own way.
            fast.set_all();
            *fast = copy;
        }
        Op::Chunk(from, to) => move_chunk(fast, slow, from, to)?,
    }
    Ok(())
}

/// Takes a chunk out, puts it into a copy that has the opposite there, and compares.
pub(crate) fn move_chunk(
    fast: &mut DirtyBitmap,
    slow: &Slow,
    from: u64,
    to: u64,
) -> Result<(), TestCaseError> {
    let (size, step) = (fast.size(), fast.chunk_alignment());
    let from = from % (size + 1) / step * step;
    let end = size.min((from + to % (size + 1)).next_multiple_of(step));
    let chunk = fast.export_chunk(from, end - from).unwrap();
    let bits: Vec<bool> = chunk
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1))
        .collect();
    let first = (from / slow.granule) as usize;
    let count = ((end - from).div_ceil(slow.granule)) as usize;
    prop_assert_eq!(&bits[..count], &slow.dirty[first..first + count]);
    prop_assert!(bits[count..].iter().all(|bit| !bit), "tail bits are zero");
    if from < end {
        fast.set(from, end - from).unwrap();
    }
    prop_assert_eq!(fast.import_chunk(from, end - from, &chunk), Ok(()));
    Ok(())
}
