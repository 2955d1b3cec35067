//! 16 clusters of 64 KiB, base and writes of the worked example; each case names what remains.

use super::*;

const BASE: &str = "0101010101010000";
const SINCE: &str = "0110010000000000";
const BASE_SINCE: &str = "0111010101010000";
const NONE: &str = "0000000000000000";

/// Settles in every policy; gives the rows of the point's view and of the partial's.
fn settled(
    base: &str,
    since: &str,
    ended: Ended,
    remaining: &str,
    skipped: &str,
) -> [(String, Option<String>); 4] {
    POLICIES.map(|policy| {
        let split = View::new(row(base)).split();
        mark(split.successor(), since);
        let settled = settle(split, fate(ended, policy), &row(remaining), &row(skipped));
        (shown(settled.point()), settled.partial().map(shown))
    })
}

fn check(ended: Ended, remaining: &str, point: [&str; 4], partial: [Option<&str>; 4]) {
    let settled = settled(BASE, SINCE, ended, remaining, NONE);
    for ((settled, policy), (point, partial)) in
        settled.iter().zip(POLICIES).zip(point.iter().zip(partial))
    {
        assert_eq!(
            (settled.0.as_str(), settled.1.as_deref()),
            (*point, partial),
            "{ended}, {policy}"
        );
    }
}

/// The rows of the docs, made from the code.
fn rows_of_bits() -> String {
    let cases = [
        ("goes on, commits", Ended::Committed, SINCE, NONE, NONE),
        (
            "goes on, copies 7, cannot read 9",
            Ended::Kept,
            SINCE,
            "0000000001010000",
            NONE,
        ),
        (
            "goes on, 11 is skipped, commits",
            Ended::Committed,
            SINCE,
            NONE,
            "0000000000010000",
        ),
        (
            "soft cancel, or a peer fails or is cancelled",
            Ended::Kept,
            SINCE,
            "0000000101010000",
            NONE,
        ),
        (
            "the same, after all was copied",
            Ended::Kept,
            SINCE,
            NONE,
            NONE,
        ),
        (
            "forced cancel",
            Ended::Discarded,
            SINCE,
            "0000000101010000",
            NONE,
        ),
        (
            "a flush of the target failed",
            Ended::FlushFailed,
            SINCE,
            "0000000101010000",
            NONE,
        ),
        (
            "launch rolled back (nothing written yet)",
            Ended::NeverStarted,
            NONE,
            BASE,
            NONE,
        ),
    ];
    let mut rows = String::from(
        "| the run | `on-success` | `always` | `always`, against the partial | `never` |\n",
    );
    rows += "|---|---|---|---|---|\n";
    for (label, ended, since, remaining, skipped) in cases {
        let [(on_success, _), (always, partial), _, (never, _)] =
            settled(BASE, since, ended, remaining, skipped);
        let partial = partial.map_or("no partial".to_owned(), |row| format!("`{row}`"));
        writeln!(
            rows,
            "| {label} | `{on_success}` | `{always}` | {partial} | `{never}` |"
        )
        .unwrap();
    }
    rows
}

#[test]
fn docs_print_the_rows_of_the_code() {
    assert!(
        DOCS.contains(&rows_of_bits()),
        "docs/bitmaps.md should hold:\n{}",
        rows_of_bits()
    );
}

#[test]
fn success_leaves_since_and_never_moves_nothing() {
    check(
        Ended::Committed,
        NONE,
        [SINCE, SINCE, SINCE, BASE_SINCE],
        [None; 4],
    );
}

#[test]
fn read_error_on_nine_after_seven_was_copied() {
    let partial = Some("0110010001010000");
    check(
        Ended::Kept,
        "0000000001010000",
        [BASE_SINCE; 4],
        [None, partial, partial, None],
    );
}

#[test]
fn soft_cancel_or_a_peers_failure_midway() {
    let partial = Some("0110010101010000");
    check(
        Ended::Kept,
        "0000000101010000",
        [BASE_SINCE; 4],
        [None, partial, partial, None],
    );
}

/// QEMU edits the bitmap as after a soft cancel; ours leaves no trace.
#[test]
fn forced_cancel_leaves_no_trace() {
    check(
        Ended::Discarded,
        "0000000101010000",
        [BASE_SINCE; 4],
        [None; 4],
    );
}

#[test]
fn cancel_while_pending_with_all_copied_and_durable() {
    check(
        Ended::Kept,
        NONE,
        [BASE_SINCE; 4],
        [None, Some(SINCE), Some(SINCE), None],
    );
}

/// QEMU's `always` then has all ones; ours is untouched: nothing was written since.
#[test]
fn launch_rolled_back_leaves_the_bitmap_untouched() {
    for (point, partial) in settled(BASE, NONE, Ended::NeverStarted, BASE, NONE) {
        assert_eq!((point.as_str(), partial), (BASE, None));
    }
}

/// Copied is not durable: with 1 and 3 copied but never flushed there is nothing to keep.
#[test]
fn copied_but_never_flushed_is_reclaimed() {
    check(Ended::NothingDurable, BASE, [BASE_SINCE; 4], [None; 4]);
    check(
        Ended::FlushFailed,
        "0000000101010000",
        [BASE_SINCE; 4],
        [None; 4],
    );
}

#[test]
fn skipped_granules_stay_dirty_after_success() {
    let [on_success, always, ask, never] =
        settled(BASE, SINCE, Ended::Committed, NONE, "0000000000010000").map(|(point, _)| point);
    assert_eq!(
        [on_success.as_str(), always.as_str(), ask.as_str()],
        ["0110010000010000"; 3]
    );
    assert_eq!(never, BASE_SINCE);
}

/// The full mode: what remains may reach beyond the base, and the old content plays no part.
#[test]
fn failed_full_backup_keeps_what_is_missing() {
    let rows = settled(
        "0110000000000000",
        "0000000000100001",
        Ended::Kept,
        "0000001111111111",
        NONE,
    );
    assert_eq!(rows[0], ("0110000000100001".to_owned(), None));
    assert_eq!(
        rows[1],
        (
            "0110000000100001".to_owned(),
            Some("0000001111111111".to_owned())
        )
    );
}
