//! Every operation against a slow twin that keeps one `bool` per granule and thinks in bytes.
//!
//! With `self_check` after each operation this holds the laws of the bare bitmap: the count is that of
//! the leaves; a summary bit is set exactly if the word below is not zero; no bit past the end; set
//! never clears and reset never sets, both only where asked and both idempotent; the next dirty and the
//! next clean byte are the nearest; stretches partition the disk and alternate; offsets ascend; merging
//! only adds; what a shrink forgot does not come back; kept bytes give the same set again.

mod ops;
mod slow;

use cohort_bitmap::{DirtyBitmap, Recorder, Stretch, View};
use proptest::{collection::vec, prelude::*};

use crate::ops::{apply, each_op, long_op, op};
use crate::slow::{Slow, agree, filled, granularity};

#[test]
fn every_pair_of_operations_agrees_with_the_slow_twin() {
    let sizes = [(130, 0), (5000, 0), (700, 3), ((2 << 18) + 70, 0)];
    let ops = each_op();
    for (size, shift) in sizes {
        for (first, second) in ops
            .iter()
            .flat_map(|op| ops.iter().map(move |next| (op, next)))
        {
            let (mut fast, mut slow) = filled(size, granularity(shift), &[(9, 90), (size / 2, 70)]);
            let told =
                |error: TestCaseError| panic!("{size}, {shift}: {first:?}, {second:?}: {error}");
            apply(first, &mut fast, &mut slow).unwrap_or_else(told);
            apply(second, &mut fast, &mut slow).unwrap_or_else(told);
            assert_eq!(fast.self_check(), Ok(()), "{first:?}, {second:?}");
            assert!(fast.runs().eq(slow.runs()), "{size}: {first:?}, {second:?}");
            if size <= 5000 {
                let places = [(0, 100, 7), (65, size, 3), (size - 1, 9, 99)];
                agree(&fast, &slow, &places).unwrap_or_else(told);
            }
            assert_eq!(fast.self_check(), Ok(()), "once counted");
        }
    }
}

/// Few large granules, or enough small ones for three levels.
fn shape() -> impl Strategy<Value = (u64, u32)> {
    prop_oneof![
        (0..3000_u64, 0..7_u32),
        (4000..9000_u64, 0..2_u32),
        (0..130_u64, Just(0))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The same over several chunks of words.
    #[test]
    fn long_operations_agree_with_the_slow_twin(
        size in (1_u64 << 18) - 70..(3 << 18) + 70,
        ops in vec(long_op(), 1..12),
        at in any::<u64>(),
    ) {
        let mut fast = DirtyBitmap::new(size, granularity(0)).unwrap();
        let mut slow = Slow::new(size, granularity(0));
        for op in &ops {
            apply(op, &mut fast, &mut slow)?;
            prop_assert_eq!(fast.self_check(), Ok(()), "after {:?}", op);
            prop_assert!(fast.runs().eq(slow.runs()), "after {:?}", op);
        }
        prop_assert_eq!(fast.dirty_granules(), slow.runs().map(|run| run.length).sum::<u64>());
        prop_assert_eq!(fast.self_check(), Ok(()), "once counted");
        let at = at % (slow.size + 1);
        prop_assert_eq!(fast.next_dirty(at, u64::MAX), slow.first(at, u64::MAX, true));
        prop_assert_eq!(fast.next_zero(at, u64::MAX), slow.first(at, u64::MAX, false));
    }
}

proptest! {
    #[test]
    fn all_operations_agree_with_the_slow_twin(
        (size, shift) in shape(),
        ops in vec(op(), 1..20),
        places in vec((any::<u64>(), any::<u64>(), any::<u64>()), 6),
    ) {
        let mut fast = DirtyBitmap::new(size, granularity(shift)).unwrap();
        let mut slow = Slow::new(size, granularity(shift));
        for op in &ops {
            apply(op, &mut fast, &mut slow)?;
            prop_assert_eq!(fast.self_check(), Ok(()), "after {:?}", op);
            prop_assert_eq!(fast.to_row(), slow.row(), "after {:?}", op);
        }
        agree(&fast, &slow, &places)?;
    }

    #[test]
    fn unions_are_commutative_associative_and_idempotent(
        (size, shift) in shape(),
        sets in vec(vec((any::<u64>(), 0..3000_u64), 0..6), 3),
    ) {
        let [a, b, c] = [0, 1, 2].map(|i| filled(size, granularity(shift), &sets[i]).0);
        let join = |left: &DirtyBitmap, right: &DirtyBitmap| {
            let mut joined = left.clone();
            joined.merge(right).map(|()| joined)
        };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b).unwrap(), &c), join(&a, &join(&b, &c).unwrap()));
        prop_assert_eq!(join(&a, &a), Ok(a.clone()));
    }

    /// Another shape: whatever a granule's bytes say, and dirty where nothing is said.
    #[test]
    fn fitted_says_no_less_and_no_more_than_its_granules(
        (size, shift) in (0..700_u64, 0..9_u32),
        (other_size, other_shift) in (0..700_u64, 0..9_u32),
        set in vec((any::<u64>(), 0..90_u64), 0..5),
    ) {
        let source = filled(size, granularity(shift), &set).0;
        let shape = DirtyBitmap::new(other_size, granularity(other_shift)).unwrap();
        let mut expected = Slow::new(other_size, granularity(other_shift));
        (0..other_size)
            .filter(|&byte| byte >= size || source.get(byte))
            .for_each(|byte| expected.put(byte..byte + 1, true));
        let fitted = source.fitted_to(&shape);
        prop_assert_eq!(fitted.self_check(), Ok(()));
        prop_assert_eq!((fitted.size(), fitted.granularity()), (shape.size(), shape.granularity()));
        prop_assert_eq!(fitted.to_row(), expected.row());
    }

    /// Marks from several threads: nothing is lost, nothing is added.
    #[test]
    fn recorder_agrees_with_the_slow_twin(
        (size, shift) in shape(),
        marks in vec(vec((any::<u64>(), 0..2000_u64), 0..8), 1..4),
    ) {
        let recorder = Recorder::new(size, granularity(shift)).unwrap();
        let mut slow = Slow::new(size, granularity(shift));
        std::thread::scope(|scope| {
            for marks in &marks {
                let recorder = recorder.clone();
                scope.spawn(move || marks.iter().for_each(|&(at, length)| recorder.mark(at % (size + 9), length)));
            }
        });
        for &(at, length) in marks.iter().flatten() {
            let at = at % (size + 9);
            slow.put(at.min(size)..size.min(at + length), true);
        }
        let snapshot = recorder.snapshot();
        prop_assert_eq!(snapshot.self_check(), Ok(()));
        prop_assert_eq!(snapshot.to_row(), slow.row());
        prop_assert_eq!(recorder.is_empty(), snapshot.is_empty());
        for byte in (0..size + 3).step_by(7) {
            prop_assert_eq!(recorder.get(byte), slow.get(byte));
        }
        // Stretch by stretch, a recorder and a view over it say what their snapshots say.
        let mut fixed = DirtyBitmap::new(size, granularity(shift)).unwrap();
        fixed.set(size / 3, size / 5).unwrap();
        let view = View::with_recorder(fixed, recorder.clone());
        let told = |status: &dyn Fn(u64) -> Option<Stretch>| {
            let mut row = vec![];
            while let Some(stretch) = status(row.len() as u64) {
                assert!(stretch.length > 0 && row.len() as u64 + stretch.length <= size);
                row.resize(row.len() + stretch.length as usize, stretch.dirty);
            }
            row
        };
        let of = |bits: &DirtyBitmap| (0..size).map(|byte| bits.get(byte)).collect::<Vec<_>>();
        prop_assert_eq!(told(&|at| recorder.status(at, u64::MAX)), of(&snapshot));
        prop_assert_eq!(told(&|at| recorder.status(at, 100)), of(&snapshot));
        prop_assert_eq!(told(&|at| view.status(at, u64::MAX)), of(&view.snapshot()));
    }

    /// The same beyond one chunk: large areas, sparse marks, chunks marked in one go.
    #[test]
    fn stretches_of_long_recorders_are_those_of_their_snapshots(
        marks in vec((0..5_u64 << 18, prop_oneof![Just(1_u64), 0..200_u64, Just(2_u64 << 18)]), 0..6),
    ) {
        let size = (5 << 18) - 7;
        let recorder = Recorder::new(size, granularity(0)).unwrap();
        marks.iter().for_each(|&(at, length)| recorder.mark(at, length));
        let snapshot = recorder.snapshot();
        let mut at = 0;
        while let Some(stretch) = recorder.status(at, u64::MAX) {
            let (dirty, length) = (stretch.dirty, stretch.length);
            let same = snapshot.status(at, length).unwrap();
            prop_assert_eq!((same.dirty, same.length), (dirty, length));
            at += length;
        }
        prop_assert_eq!(at, size);
    }

    /// Whatever the bytes are, reading them is safe; and what is read is written and read the same again. The
    /// records are rightly summed, so that they are looked into.
    #[test]
    fn decoding_any_bytes_is_safe(
        shift in 0..60_u32,
        size in prop_oneof![0..1_u64 << 20, any::<u64>()],
        records in vec((0..20_u32, record()), 0..6),
        (at, bytes) in (any::<prop::sample::Index>(), vec(any::<u8>(), 0..200)),
    ) {
        let mut pieces = vec![b"cohortbm\x02\0\0\0".to_vec()];
        pieces[0].extend_from_slice(&shift.to_le_bytes());
        pieces[0].extend_from_slice(&size.to_le_bytes());
        pieces.extend(records.iter().map(|(block, body)| [&block.to_le_bytes(), body.as_slice()].concat()));
        pieces.push(vec![0; 5]);
        let (mut summed, mut checksum) = (Vec::new(), 0);
        for piece in pieces {
            checksum = crc32c::crc32c_append(checksum, &piece);
            summed.extend_from_slice(&piece);
            summed.extend_from_slice(&checksum.to_le_bytes());
        }
        if let Ok(bitmap) = DirtyBitmap::decode(&summed) {
            prop_assert_eq!(bitmap.self_check(), Ok(()));
            prop_assert_eq!(DirtyBitmap::decode(&bitmap.encode()), Ok(bitmap));
        }
        let whole = filled(3000, granularity(0), &[(5, 900), (2000, 3)]).0;
        let mut damaged = whole.encode();
        let at = at.index(damaged.len());
        let end = damaged.len().min(at + bytes.len());
        damaged[at..end].copy_from_slice(&bytes[..end - at]);
        if let Ok(bitmap) = DirtyBitmap::decode(&damaged) {
            prop_assert_eq!(bitmap, whole);
        }
    }
}

/// A record without its block's number: mostly with a body of the length that its form has.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let list = |form: u8, width: usize| {
        vec(any::<u8>(), 1..9).prop_map(move |entries| {
            let mut body = vec![form, entries.len() as u8 - 1, 0];
            // Small steps ascend more often than any bytes would.
            let mut place = 0_u16;
            for step in entries.iter().flat_map(|&step| vec![step; width]) {
                place = place.wrapping_add(u16::from(step));
                body.extend_from_slice(&place.to_le_bytes());
            }
            body
        })
    };
    prop_oneof![
        (0..4_u8).prop_map(|blocks| vec![1, blocks, 0, 0, 0]),
        list(2, 1),
        list(3, 2),
        vec(0..3_u8, 8192).prop_map(|words| [vec![4], words].concat()),
        vec(any::<u8>(), 1..9),
    ]
}
