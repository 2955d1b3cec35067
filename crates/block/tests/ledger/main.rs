//! The ledger, in drawn rows and against a slow one.
#![cfg(not(loom))]

mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{Broken, Counts, Ledger, Next};
use proptest::prelude::*;

use pair::{Move, Pair, moves};

const CLUSTER: u64 = 4096;

#[test]
fn copier_takes_runs_from_where_it_is_and_then_what_was_given_back() {
    let ledger = ledger("1101111011");
    let taken = |from, most| match ledger.claim_next(from, most) {
        Next::Claimed(claim) => claim,
        other @ (Next::Wait | Next::Finished | Next::Closed) => panic!("{other:?}"),
    };
    let first = taken(0, 16);
    assert_eq!(first.clusters(), 0..2);
    assert!(taken(2, 3).clusters() == (3..6), "given back at once");
    let second = taken(4, 1);
    assert_eq!(second.clusters(), 4..5);
    let third = taken(5, 16);
    assert_eq!(third.clusters(), 5..7);
    let fourth = taken(7, 16);
    assert_eq!(fourth.clusters(), 8..10);
    let wrapped = taken(10, 16);
    assert_eq!(wrapped.clusters(), 3..4);
    assert!(matches!(ledger.claim_next(0, 1), Next::Wait));
    for claim in [first, second, third, fourth, wrapped] {
        assert!(claim.complete());
    }
    assert!(matches!(ledger.claim_next(0, 1), Next::Finished));
}

#[test]
fn last_cluster_ends_with_the_disk() {
    let ledger = ledger("11");
    assert_eq!(ledger.bytes(&(0..2)), 0..2 * CLUSTER - 1);
    assert_eq!(ledger.clusters(CLUSTER - 1, 1), 0..1);
    assert_eq!(ledger.clusters(CLUSTER - 1, 2), 0..2);
    assert_eq!(ledger.clusters(0, u64::MAX), 0..2);
    assert!(ledger.clusters(5, 0).is_empty());
    assert!(ledger.clusters(u64::MAX, 1).is_empty());
}

#[test]
fn divided_claim_ends_piece_by_piece() {
    let ledger = ledger("1111");
    let Next::Claimed(mut head) = ledger.claim_next(0, 4) else {
        panic!("all is owed");
    };
    let mut middle = head.split_off(1);
    let tail = middle.split_off(3);
    assert_eq!(
        (head.clusters(), middle.clusters(), tail.clusters()),
        (0..1, 1..3, 3..4)
    );
    assert!(head.complete());
    assert!(middle.skip());
    drop(tail);
    let want = Counts {
        owed: 1,
        written: 1,
        skipped: 2,
        ..Counts::default()
    };
    assert_eq!(ledger.counts(), want);
}

#[test]
fn flush_covers_what_was_written_before_it_began() {
    let ledger = ledger("111");
    copy(&ledger, 0);
    let early = ledger.begin_flush();
    copy(&ledger, 1);
    let late = ledger.begin_flush();
    copy(&ledger, 2);
    // The later one covers the earlier one's clusters too.
    late.succeeded();
    assert_eq!(row(&ledger.remaining()), "001");
    early.succeeded();
    assert_eq!(row(&ledger.remaining()), "001");
    ledger.begin_flush().succeeded();
    assert_eq!(row(&ledger.remaining()), "000");
}

#[test]
fn flush_that_failed_takes_everything_written_back_for_good() {
    for dropped in [false, true] {
        let ledger = ledger("1111");
        copy(&ledger, 0);
        ledger.begin_flush().succeeded();
        copy(&ledger, 1);
        let other = ledger.begin_flush();
        copy(&ledger, 2);
        let flush = ledger.begin_flush();
        if dropped {
            drop(flush);
        } else {
            flush.failed("no space left");
        }
        assert!(!ledger.is_trusted());
        assert!(matches!(ledger.broken(), Some(Broken::Distrusted(_))));
        // Neither does one that began before, nor any later one, make it good again.
        other.succeeded();
        ledger.begin_flush().succeeded();
        assert_eq!(row(&ledger.remaining()), "0111");
        assert!(matches!(ledger.claim_next(0, 1), Next::Closed));
    }
}

#[test]
fn flush_that_was_withdrawn_costs_nothing_and_the_next_one_covers_what_it_would_have() {
    let ledger = ledger("1111");
    copy(&ledger, 0);
    ledger.begin_flush().succeeded();
    copy(&ledger, 1);
    let withdrawn = ledger.begin_flush();
    copy(&ledger, 2);
    withdrawn.withdrawn();
    assert!(ledger.is_trusted() && ledger.broken().is_none());
    assert_eq!(ledger.counts().written, 2);
    assert_eq!(row(&ledger.remaining()), "0111");
    copy(&ledger, 3);
    ledger.begin_flush().succeeded();
    assert_eq!(row(&ledger.remaining()), "0000");
}

#[test]
fn sealing_voids_what_has_not_ended() {
    let ledger = ledger("1111");
    copy(&ledger, 0);
    let Next::Claimed(late) = ledger.claim_next(1, 2) else {
        panic!("all is owed");
    };
    assert_eq!(ledger.seal(Instant::now()), 2);
    assert!(!late.is_live());
    assert!(!late.complete());
    assert_eq!(ledger.counts().owed, 3);
    // What was written before still becomes durable.
    ledger.begin_flush().succeeded();
    assert_eq!(row(&ledger.remaining()), "0111");
    assert!(ledger.broken().is_none());
}

#[test]
fn stale_claim_does_not_speak_for_a_new_one() {
    let ledger = ledger("1");
    let Next::Claimed(stale) = ledger.claim_next(0, 1) else {
        panic!("all is owed");
    };
    ledger.distrust("reconnected");
    assert!(!stale.skip());
    assert_eq!(ledger.counts().owed, 1);
    assert!(ledger.skipped().is_empty());
}

#[test]
fn watcher_is_called_when_it_is_time_to_ask_again() {
    let ledger = ledger("111");
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let asks = Arc::downgrade(&ledger);
    assert!(ledger.watch(move || {
        // No lock is held, so it may ask.
        let _ = asks.upgrade().map(|ledger| ledger.counts());
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    assert!(!ledger.watch(|| ()), "only the first counts");
    let called = || calls.load(Ordering::Relaxed);
    copy(&ledger, 0);
    assert_eq!(called(), 0, "nobody waits");
    let [Next::Claimed(one), Next::Claimed(other)] = [0, 0].map(|_| ledger.claim_next(0, 1)) else {
        panic!("two are owed");
    };
    assert!(matches!(ledger.claim_next(0, 1), Next::Wait));
    assert!(one.complete());
    assert_eq!(called(), 1, "a copy ended");
    drop(other);
    assert_eq!(called(), 2, "one is owed again");
    ledger.distrust("reconnected");
    assert_eq!(called(), 3, "the backup broke");
}

/// Whoever completes it so has the copier ask again by ending; and a writer need not be told through it.
#[test]
fn copy_that_a_task_completes_calls_no_watcher() {
    let ledger = ledger("11");
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    ledger.watch(move || _ = counted.fetch_add(1, Ordering::Relaxed));
    let [Next::Claimed(one), Next::Claimed(other)] = [0, 0].map(|_| ledger.claim_next(0, 1)) else {
        panic!("two are owed");
    };
    assert!(matches!(ledger.claim_next(0, 1), Next::Wait));
    assert!(!ledger.is_finished());
    assert!(one.complete_in_a_task());
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    // Another's end is told, also of what was waited for before.
    assert!(other.complete());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(ledger.is_finished());
    assert_eq!(ledger.counts().written, 2);
    ledger.break_off(Broken::Distrusted("test".to_owned()));
    assert!(matches!(ledger.claim_next(0, 1), Next::Closed));
}

#[test]
fn disk_of_no_bytes_is_finished() {
    let set = DirtyBitmap::new(0, granularity()).unwrap();
    let ledger = Arc::new(Ledger::new(set));
    assert!(matches!(ledger.claim_next(0, 1), Next::Finished));
    assert_eq!(ledger.seal(Instant::now()), 0);
    assert!(ledger.remaining().is_empty());
}

#[test]
fn claim_given_back_breaks_the_backup_only_if_a_write_has_passed() {
    for passed in [false, true] {
        let mut pair = Pair::new("11");
        pair.make(&Move::Claim(0, 1));
        pair.make(&Move::Stage(0));
        if passed {
            pair.make(&Move::Pass(0));
        }
        pair.make(&Move::GiveBack(0));
        pair.check();
        assert_eq!(pair.ledger.broken().is_some(), passed);
    }
}

proptest! {
    #[test]
    fn agrees_with_a_vector_of_places(
        manifest in prop::collection::vec(any::<bool>(), 1..40),
        moves in prop::collection::vec(moves(), 0..60),
    ) {
        let row: String = manifest.iter().map(|m| if *m { '1' } else { '0' }).collect();
        let mut pair = Pair::new(&row);
        for step in moves {
            pair.make(&step);
            pair.check();
        }
        // Whatever is left unsaid goes back.
        while !pair.claims.is_empty() {
            pair.make(&Move::GiveBack(0));
            pair.check();
        }
        let counts = pair.ledger.counts();
        prop_assert_eq!((counts.in_flight, counts.staged), (0, 0));
    }
}

/// A ledger of a disk whose last cluster is one byte short.
fn ledger(row: &str) -> Arc<Ledger> {
    let size = row.len() as u64 * CLUSTER - 1;
    let mut set = DirtyBitmap::new(size, granularity()).unwrap();
    for (cluster, bit) in (0..).zip(row.chars()) {
        if bit == '1' {
            set.set(cluster * CLUSTER, 1).unwrap();
        }
    }
    Arc::new(Ledger::new(set))
}

fn granularity() -> Granularity {
    Granularity::new(CLUSTER).unwrap()
}

fn row(set: &DirtyBitmap) -> String {
    let bit = |cluster| if set.get(cluster * CLUSTER) { '1' } else { '0' };
    (0..set.granules()).map(bit).collect()
}

fn copy(ledger: &Arc<Ledger>, cluster: u64) {
    let Next::Claimed(claim) = ledger.claim_next(cluster, 1) else {
        panic!("{cluster} is owed");
    };
    assert_eq!(claim.clusters().start, cluster);
    assert!(claim.complete());
}
