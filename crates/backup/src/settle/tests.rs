//! The table cell by cell, the worked examples as rows of bits, and remaining against a slow oracle.

use std::fmt::Write;

use cohort_bitmap::{DirtyBitmap, Granularity, View};
use proptest::prelude::*;

use super::{Aborted, Ended, Fate, Settled, fate, in_granules, remaining, settle};
use crate::BitmapPolicy;

mod play;
mod worked_example;

const POLICIES: [BitmapPolicy; 4] = [
    BitmapPolicy::OnSuccess,
    BitmapPolicy::Always,
    BitmapPolicy::Ask,
    BitmapPolicy::Never,
];

const DOCS: &str = include_str!("../../../../docs/bitmaps.md");

/// The table of the docs, made from the code.
fn table() -> String {
    let mut table = String::from("| how the disk ended |");
    POLICIES
        .iter()
        .for_each(|policy| write!(table, " `{policy}` |").unwrap());
    table += "\n|---|---|---|---|---|\n";
    for ended in Ended::ALL {
        write!(table, "| {ended} |").unwrap();
        POLICIES
            .iter()
            .for_each(|&policy| write!(table, " {} |", fate(ended, policy)).unwrap());
        table += "\n";
    }
    table
}

#[test]
fn docs_print_the_table_of_the_code() {
    assert!(
        DOCS.contains(&table()),
        "docs/bitmaps.md should hold:\n{}",
        table()
    );
}

#[test]
fn every_fate_is_explained_apart() {
    let fates = [
        Fate::Abdicate,
        Fate::Reclaim,
        Fate::ReclaimBoth,
        Fate::KeepPartial,
        Fate::LeaveUndecided,
    ];
    for fenced in [false, true] {
        let sentences: std::collections::BTreeSet<_> =
            fates.iter().map(|fate| fate.explained(fenced)).collect();
        assert_eq!(sentences.len(), fates.len());
    }
}

/// The second telling: A abdicate, R reclaim, B reclaim both, K keep, U undecided.
#[test]
fn every_cell_is_as_drawn() {
    let drawn = [
        //                       on-success, always, ask, never
        (Ended::Committed, "AAAR"),
        (Ended::Kept, "BKUB"),
        (Ended::NothingDurable, "BBBB"),
        (Ended::FlushFailed, "RRRR"),
        (Ended::Discarded, "RRRR"),
        (Ended::NeverStarted, "BBBB"),
    ];
    assert_eq!(drawn.map(|(ended, _)| ended), Ended::ALL);
    for (ended, row) in drawn {
        let letter = |policy| match fate(ended, policy) {
            Fate::Abdicate => 'A',
            Fate::Reclaim => 'R',
            Fate::ReclaimBoth => 'B',
            Fate::KeepPartial => 'K',
            Fate::LeaveUndecided => 'U',
        };
        assert_eq!(
            POLICIES.map(letter).iter().collect::<String>(),
            row,
            "{ended}"
        );
    }
}

#[test]
fn only_a_started_durable_trusted_kept_target_is_a_partial() {
    for facts in 0..16_u8 {
        let [started, discard, flush_failed, anything_durable] =
            [0, 1, 2, 3].map(|bit| facts >> bit & 1 == 1);
        let ended = Ended::from(Aborted {
            started,
            discard,
            flush_failed,
            anything_durable,
        });
        assert_eq!(
            ended == Ended::Kept,
            started && !discard && !flush_failed && anything_durable
        );
        assert_eq!(ended == Ended::NeverStarted, !started);
        assert_eq!(ended == Ended::Discarded, started && discard);
        assert_ne!(ended, Ended::Committed);
    }
}

#[test]
fn undecided_answers_both_ways() {
    let undecided = || {
        let split = View::new(row("0110")).split();
        mark(split.successor(), "1000");
        match settle(
            split,
            fate(Ended::Kept, BitmapPolicy::Ask),
            &row("0010"),
            &row("0000"),
        ) {
            Settled::Undecided(undecided) => undecided,
            settled @ (Settled::Point(_) | Settled::Both { .. }) => {
                panic!("ask leaves undecided, not {settled:?}")
            }
        }
    };
    let (point, partial) = undecided().keep();
    assert_eq!(
        (shown(&point), shown(&partial)),
        ("1110".into(), "1010".into())
    );
    assert_eq!(shown(&undecided().discard()), "1110");
}

/// A partial from an earlier run lacks granule 2 only; this run was to copy that.
#[test]
fn continued_partial_survives_unless_untrusted_or_unwanted() {
    let after = |ended, policy, left: &str| {
        let split = View::new(row("0110")).split_continuing(View::new(row("0010")));
        assert_eq!(split.to_copy().to_row(), "0010");
        mark(split.successor(), "1000");
        let settled = settle(split, fate(ended, policy), &row(left), &row("0000"));
        (shown(settled.point()), settled.partial().map(shown))
    };
    let (point, partial) = ("1110".to_owned(), Some("1010".to_owned()));
    for policy in POLICIES {
        assert_eq!(
            after(Ended::NeverStarted, policy, "0010"),
            (point.clone(), partial.clone()),
            "{policy}"
        );
        assert_eq!(
            after(Ended::NothingDurable, policy, "0010"),
            (point.clone(), partial.clone()),
            "{policy}"
        );
        assert_eq!(
            after(Ended::Discarded, policy, "0010"),
            (point.clone(), None),
            "{policy}"
        );
        assert_eq!(
            after(Ended::FlushFailed, policy, "0010"),
            (point.clone(), None),
            "{policy}"
        );
    }
    assert_eq!(
        after(Ended::Kept, BitmapPolicy::OnSuccess, "0000"),
        (point.clone(), partial)
    );
    assert_eq!(
        after(Ended::Kept, BitmapPolicy::Always, "0000"),
        (point, Some("1000".to_owned()))
    );
    assert_eq!(
        after(Ended::Committed, BitmapPolicy::Always, "0000"),
        ("1000".to_owned(), None)
    );
}

/// QEMU reports all 16 granules of each missing cluster (its granularity inflation).
#[test]
fn fine_granules_of_missing_clusters_do_not_inflate() {
    let mut manifest = DirtyBitmap::new(16 << 16, granularity(12)).unwrap();
    for cluster in [1, 3, 5, 7] {
        manifest.set(cluster << 16, 1).unwrap();
    }
    let left = remaining(&manifest, granularity(16), |cluster| cluster < 4);
    assert_eq!(left.dirty_offsets().collect::<Vec<_>>(), [5 << 16, 7 << 16]);
}

#[test]
fn clusters_that_are_not_spoken_of_remain() {
    let manifest = DirtyBitmap::from_row("0111", Granularity::DEFAULT).unwrap();
    assert_eq!(in_granules(&manifest, &row("00")).to_row(), "0011");
}

#[test]
fn coarse_granule_stays_until_all_its_clusters_are_durable() {
    let manifest = DirtyBitmap::all_dirty(16 << 16, granularity(18)).unwrap();
    let left =
        |durable: u64| remaining(&manifest, granularity(16), |cluster| cluster < durable).to_row();
    assert_eq!(
        (left(3), left(4), left(7), left(16)),
        ("1111".into(), "0111".into(), "0111".into(), "0000".into())
    );
}

proptest! {
    /// Byte by byte: a granule remains if it was asked for and any of its bytes is not durable.
    #[test]
    fn remaining_is_exact_at_any_granularity_and_size(
        size in 0..700_u64,
        (granule, cluster) in (0..8_u32, 0..8_u32),
        asked in proptest::collection::vec(any::<bool>(), 700),
        durable in proptest::collection::vec(any::<bool>(), 700),
    ) {
        let (granule, cluster) = (granularity(granule), granularity(cluster));
        let mut manifest = DirtyBitmap::new(size, granule).unwrap();
        (0..size).filter(|&byte| asked[(byte >> granule.shift()) as usize]).for_each(|byte| manifest.set(byte, 1).unwrap());
        let mut expected = DirtyBitmap::new(size, granule).unwrap();
        (0..size)
            .filter(|&byte| manifest.get(byte) && !durable[(byte >> cluster.shift()) as usize])
            .for_each(|byte| expected.set(byte, 1).unwrap());
        let left = remaining(&manifest, cluster, |number| durable[number as usize]);
        prop_assert_eq!(left.self_check(), Ok(()));

        let mut owed = DirtyBitmap::all_dirty(size, cluster).unwrap();
        owed.retain(cluster, |number| !durable[number as usize]);
        prop_assert_eq!(&in_granules(&manifest, &owed), &left);
        prop_assert_eq!(left, expected);
    }

    /// The law that makes settling safe. A disk, a last point and a target are played at random;
    /// afterwards every granule in which the disk differs from a view's anchor is in that view.
    #[test]
    fn no_view_forgets_a_granule_that_differs_from_its_anchor(
        runs in proptest::collection::vec(
            (any::<u8>(), any::<u8>(), any::<u8>(), 0..6_usize, 0..4_usize, any::<bool>()), 1..8),
    ) {
        play::check(&runs)?;
    }
}

fn granularity(shift: u32) -> Granularity {
    Granularity::new(1 << shift).unwrap()
}

fn row(row: &str) -> DirtyBitmap {
    DirtyBitmap::from_row(row, Granularity::DEFAULT).unwrap()
}

fn shown(view: &View) -> String {
    view.snapshot().to_row()
}

fn mark(recorder: &cohort_bitmap::Recorder, row: &str) {
    (0..)
        .zip(row.chars())
        .filter(|(_, digit)| *digit == '1')
        .for_each(|(at, _)| recorder.mark(at << 16, 1));
}
