//! Views, splits and their ends; the field's cases by name (`bitmap` in QEMU's words is our view).

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, Split, Undecided, View};
use proptest::{collection::vec, prelude::*};

const BASE: &str = "0110";
const SINCE: &str = "0011";

fn split() -> Split {
    let split = View::new(row(BASE)).split();
    mark(split.successor(), SINCE);
    split
}

/// Ours: neither flag nor busy mark: a view records from the moment its recorder is installed, and whoever uses it has it.
#[test]
fn b28_a_view_records_at_once_in_granules_of_64_kib() {
    let view = View::new(DirtyBitmap::new(4 * 65_536, Granularity::default()).unwrap());
    assert_eq!(view.granularity().bytes(), 65_536);
    view.recorder().mark(65_536, 1);
    assert_eq!(shown(&view), "0100");
}

/// Ours: what is not installed does not record, and installed it does.
#[test]
fn b38_only_an_installed_recorder_hears_of_writes() {
    let (view, disk) = (View::new(row("0000")), View::new(row("0000")));
    let write = |recorder: &Recorder| mark(recorder, "0100");
    write(disk.recorder());
    assert_eq!(shown(&view), "0000");
    write(view.recorder());
    assert_eq!(shown(&view), "0100");
}

#[test]
fn b46_reclaim_joins_base_and_since_and_records_on() {
    let view = split().reclaim();
    assert_eq!(shown(&view), "0111");
    mark(view.recorder(), "1000");
    assert_eq!(shown(&view), "1111");
}

/// Names and persistence are the caller's.
#[test]
fn b47_abdicate_leaves_since_and_what_was_skipped() {
    assert_eq!(shown(&split().abdicate(&row("0000"))), "0011");
    let view = split().abdicate(&row("0100"));
    mark(view.recorder(), "1000");
    assert_eq!(shown(&view), "1111");
}

/// Ours: who does not install the recorder does not record. There is no flag to forget.
#[test]
fn b48_view_whose_recorder_is_not_installed_keeps_its_content() {
    assert_eq!(shown(&View::new(row(BASE)).split().reclaim()), BASE);
}

/// Invariant 18.
#[test]
fn b45_base_stays_as_it_was_while_the_successor_records() {
    let view = View::new(row("0100"));
    mark(view.recorder(), "0010");
    let old = view.recorder().clone();
    let split = view.split();
    assert!(split.successor().is_empty() && !split.successor().same(&old));
    mark(split.successor(), SINCE);
    mark(&old, "1000");
    assert_eq!(
        (split.base().to_row(), split.to_copy().to_row()),
        (BASE.into(), BASE.into())
    );
    assert!(!split.continues_partial());
    assert_eq!(
        shown(&split.reclaim()),
        "0111",
        "what came too late to the old recorder is not seen"
    );
}

#[test]
fn keep_gives_both_views_and_one_recorder() {
    let (point, partial) = split().keep(&row("0010"));
    assert_eq!(
        (shown(&point), shown(&partial)),
        ("0111".into(), "0011".into())
    );
    assert!(point.recorder().same(partial.recorder()));
    mark(point.recorder(), "1000");
    assert_eq!(
        (shown(&point), shown(&partial)),
        ("1111".into(), "1011".into())
    );
}

#[test]
fn undecided_records_until_and_after_its_answer() {
    let undecided = || {
        let undecided = split().leave_undecided(&row("0010"));
        mark(undecided.point().recorder(), "1000");
        undecided
    };
    assert_eq!(
        (shown(undecided().point()), shown(undecided().partial())),
        ("1111".into(), "1011".into())
    );
    let (point, partial) = undecided().keep();
    assert_eq!(
        (shown(&point), shown(&partial)),
        ("1111".into(), "1011".into())
    );
    let point = undecided().discard();
    assert_eq!(shown(&point), "1111");
    let (point, partial) = Undecided::new(point, partial).keep();
    assert_eq!(
        (shown(&point), shown(&partial)),
        ("1111".into(), "1011".into())
    );
}

#[test]
fn continued_partial_is_what_is_copied_and_both_bases_live() {
    let (point, partial) = split().keep(&row("0010"));
    let split = point.split_continuing(partial);
    assert!(split.continues_partial());
    assert_eq!(
        (split.base().to_row(), split.to_copy().to_row()),
        ("0111".into(), "0011".into())
    );
    mark(split.successor(), "1000");
    let (point, partial) = split.reclaim_both();
    assert_eq!(
        (shown(&point), partial.as_ref().map(shown)),
        ("1111".into(), Some("1011".into()))
    );
}

/// Rather too much than too little, wherever shapes do not fit.
#[test]
fn what_remaining_does_not_speak_of_remains() {
    let (_, partial) = split().keep(&row("000"));
    assert_eq!(shown(&partial), "0011");
    let coarse = DirtyBitmap::from_row("01", Granularity::new(2 << 16).unwrap()).unwrap();
    let (_, partial) = View::new(row(BASE)).split().keep(&coarse);
    assert_eq!(shown(&partial), "0011");
    let fine = DirtyBitmap::new(4 << 16, Granularity::new(512).unwrap()).unwrap();
    let (_, partial) = View::new(row(BASE)).split().keep(&fine);
    assert_eq!(shown(&partial), "0000");
}

/// B21, ours: QEMU marks nothing when a device grows.
#[test]
fn growth_marks_the_new_area_in_every_view() {
    let mut undecided = split().leave_undecided(&row("0010"));
    let old = undecided.point().recorder().clone();
    old.mark(4 << 16, 1);
    let grown = Recorder::new((5 << 16) + 7, Granularity::DEFAULT).unwrap();
    undecided.resize(&grown);
    let (point, partial) = undecided.keep();
    assert_eq!(
        (shown(&point), shown(&partial)),
        ("011111".into(), "001111".into())
    );
    assert!(point.recorder().same(&grown) && partial.recorder().same(&grown));
}

#[test]
fn growth_inside_the_last_granule_marks_it() {
    let mut view = View::new(DirtyBitmap::new((2 << 16) + 5, Granularity::DEFAULT).unwrap());
    view.resize(&Recorder::new((2 << 16) + 6, Granularity::DEFAULT).unwrap());
    assert_eq!(shown(&view), "001");
}

#[test]
fn shrink_then_growth_brings_nothing_back_clean() {
    let mut view = View::new(row("1001"));
    view.resize(&Recorder::new(2 << 16, Granularity::DEFAULT).unwrap());
    assert_eq!(shown(&view), "10");
    view.resize(&Recorder::new(4 << 16, Granularity::DEFAULT).unwrap());
    assert_eq!(shown(&view), "1011");
}

#[test]
fn b34_one_byte_written_marks_its_granule() {
    let view = View::new(row("0000"));
    view.recorder().mark(65_536, 1);
    assert_eq!(
        (shown(&view), view.snapshot().count()),
        ("0100".into(), 65_536)
    );
    assert_eq!(view.recorder().marked_granules(), 1);
}

/// A write past the end fails at the device; recording it neither panics nor wraps around.
#[test]
fn marks_past_the_end_are_ignored() {
    let recorder = Recorder::new(100, Granularity::new(64).unwrap()).unwrap();
    for (offset, length) in [
        (100, 1),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (200, 0),
        (0, 0),
        (99, 0),
    ] {
        recorder.mark(offset, length);
    }
    assert!(recorder.is_empty());
    recorder.mark(99, u64::MAX);
    assert_eq!(recorder.snapshot().to_row(), "01");
    assert!(recorder.get(64) && !recorder.get(63) && !recorder.get(100));
}

proptest! {
    /// Any life: rounds of writes, splits and ends. The view never misses what was written since
    /// its anchor moved, and with equal shapes never says more.
    #[test]
    fn views_hold_exactly_what_their_rules_say(
        rounds in vec((any::<u16>(), any::<u16>(), any::<u16>(), 0..5_u8), 1..12),
    ) {
        let mut view = View::new(row("0000000000000000"));
        let mut expected = 0_u16;
        for (before, during, given, end) in rounds {
            mark_bits(view.recorder(), before);
            expected |= before;
            let split = view.split();
            prop_assert_eq!(bits(split.base()), expected);
            mark_bits(split.successor(), during);
            let given_row = from_bits(given);
            (view, expected) = match end {
                0 => (split.abdicate(&given_row), given | during),
                1 => (split.reclaim(), expected | during),
                2 => (split.keep(&given_row).0, expected | during),
                3 => (split.keep(&given_row).1, given | during),
                _ => (split.leave_undecided(&given_row).discard(), expected | during),
            };
            prop_assert_eq!(bits(&view.snapshot()), expected);
            prop_assert_eq!(view.snapshot().self_check(), Ok(()));
        }
    }
}

fn row(row: &str) -> DirtyBitmap {
    DirtyBitmap::from_row(row, Granularity::DEFAULT).unwrap()
}

/// The view's row, asked for in whole and granule by granule.
fn shown(view: &View) -> String {
    let row = view.snapshot().to_row();
    let asked = (0..view.size()).step_by(view.granularity().bytes() as usize);
    assert_eq!(
        row,
        asked
            .map(|offset| if view.get(offset) { '1' } else { '0' })
            .collect::<String>()
    );
    row
}

fn mark(recorder: &Recorder, row: &str) {
    (0..)
        .zip(row.chars())
        .filter(|(_, digit)| *digit == '1')
        .for_each(|(at, _)| recorder.mark(at << 16, 1));
}

fn mark_bits(recorder: &Recorder, set: u16) {
    mark(recorder, &from_bits(set).to_row());
}

fn from_bits(set: u16) -> DirtyBitmap {
    let digits: String = (0..16)
        .map(|bit| if set >> bit & 1 == 1 { '1' } else { '0' })
        .collect();
    row(&digits)
}

fn bits(bitmap: &DirtyBitmap) -> u16 {
    bitmap
        .dirty_offsets()
        .fold(0, |bits, offset| bits | 1 << (offset >> 16))
}
