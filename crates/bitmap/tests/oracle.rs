//! Every operation against a slow twin that keeps one `bool` per granule and thinks in bytes.
//!
//! With `self_check` after each operation this holds the laws of the bare bitmap: the count is that of
//! the leaves; a summary bit is set exactly if the word below is not zero; no bit past the end; set
//! never clears and reset never sets, both only where asked and both idempotent; the next dirty and the
//! next clean byte are the nearest; stretches partition the disk and alternate; offsets ascend; merging
//! only adds; what a shrink forgot does not come back; kept bytes give the same set again.

use cohort_bitmap::{Added, DirtyBitmap, Granularity, RangeError, Recorder, Run, Stretch, View};
use proptest::{collection::vec, prelude::*};

/// The slow twin. Nothing clever: loops over bytes and granules.
#[derive(Clone, Debug, PartialEq)]
struct Slow {
    size: u64,
    granule: u64,
    dirty: Vec<bool>,
}

impl Slow {
    fn new(size: u64, granularity: Granularity) -> Slow {
        Slow {
            size,
            granule: granularity.bytes(),
            dirty: vec![false; granularity.granules(size) as usize],
        }
    }

    fn get(&self, byte: u64) -> bool {
        byte < self.size && self.dirty[(byte / self.granule) as usize]
    }

    fn put(&mut self, bytes: std::ops::Range<u64>, value: bool) {
        bytes.for_each(|byte| self.dirty[(byte / self.granule) as usize] = value);
    }

    fn resize(&mut self, size: u64, added: Added) {
        self.dirty
            .resize(size.div_ceil(self.granule) as usize, false);
        let old = std::mem::replace(&mut self.size, size);
        if added == Added::Dirty && size > old {
            self.put(old..size, true);
        }
    }

    /// A granule becomes `of(mine, any of its bytes in other, all of its bytes in other)`.
    fn combine(&mut self, other: &Slow, of: fn(bool, bool, bool) -> bool) {
        for granule in 0..self.dirty.len() {
            let start = granule as u64 * self.granule;
            let mut bytes =
                (start..self.size.min(start + self.granule)).map(|byte| other.get(byte));
            let any = bytes.clone().any(|dirty| dirty);
            self.dirty[granule] = of(self.dirty[granule], any, bytes.all(|dirty| dirty));
        }
    }

    fn first(&self, start: u64, end: u64, value: bool) -> Option<u64> {
        (start..end.min(self.size)).find(|&byte| self.get(byte) == value)
    }

    fn area(&self, start: u64, end: u64, max_length: u64) -> Option<Run> {
        let offset = self.first(start, end, true)?;
        let stop = self.first(offset, end, false).unwrap_or(end.min(self.size));
        let length = (stop - offset).min(max_length);
        (length > 0).then_some(Run { offset, length })
    }

    fn runs(&self) -> impl Iterator<Item = Run> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.area(at, self.size, u64::MAX)?;
            at = run.end();
            Some(run)
        })
    }

    fn row(&self) -> String {
        self.dirty
            .iter()
            .map(|&dirty| if dirty { '1' } else { '0' })
            .collect()
    }
}

/// One operation; positions are brought into the disk, and a little past it, when it runs.
#[derive(Clone, Debug)]
enum Op {
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

fn op() -> impl Strategy<Value = Op> {
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
fn long_op() -> impl Strategy<Value = Op> {
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
fn each_op() -> Vec<Op> {
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

fn apply(op: &Op, fast: &mut DirtyBitmap, slow: &mut Slow) -> Result<(), TestCaseError> {
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
fn move_chunk(
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

/// Everything that can be asked, at a few places and in whole.
fn agree(fast: &DirtyBitmap, slow: &Slow, places: &[(u64, u64, u64)]) -> Result<(), TestCaseError> {
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
fn pieces_agree(
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

fn stretches_partition(fast: &DirtyBitmap, slow: &Slow) -> Result<(), TestCaseError> {
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

fn filled(size: u64, granularity: Granularity, set: &[(u64, u64)]) -> (DirtyBitmap, Slow) {
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

fn granularity(shift: u32) -> Granularity {
    Granularity::new(1 << shift).unwrap()
}
