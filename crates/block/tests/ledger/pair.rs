//! The ledger beside a slow one, a vector of words, one per cluster; both are told the same things.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cohort_block::{
    BeforeWrite, Broken, Claim, Counts, Device, Flush, Gated, Ledger, MemoryDevice, Next, Patience,
    Savers, Sink,
};
use proptest::prelude::*;

use crate::{CLUSTER, ledger, row};

/// Where the slow ledger says a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Outside,
    Owed,
    InFlight,
    /// And whether a write has passed.
    Staged(bool),
    /// And how many flushes had begun before.
    Written(u64),
    Durable,
    Skipped,
}

#[derive(Clone, Debug)]
pub(crate) enum Move {
    Claim(u64, u64),
    Stage(usize),
    /// A write to a cluster that has nothing to wait for.
    Pass(usize),
    Complete(usize),
    GiveBack(usize),
    Lose(usize),
    Skip(usize),
    Divide(usize, u64),
    BeginFlush,
    FlushSucceeds(usize),
    FlushFails(usize),
    FlushWithdrawn(usize),
    Break,
    Seal,
}

pub(crate) fn moves() -> impl Strategy<Value = Move> {
    let n = 0..8usize;
    prop_oneof![
        8 => (0..40u64, 1..6u64).prop_map(|(from, most)| Move::Claim(from, most)),
        3 => n.clone().prop_map(Move::Stage),
        4 => (0..40usize).prop_map(Move::Pass),
        6 => n.clone().prop_map(Move::Complete),
        2 => n.clone().prop_map(Move::GiveBack),
        1 => n.clone().prop_map(Move::Lose),
        1 => n.clone().prop_map(Move::Skip),
        2 => (n.clone(), 0..6u64).prop_map(|(claim, at)| Move::Divide(claim, at)),
        3 => Just(Move::BeginFlush),
        3 => n.clone().prop_map(Move::FlushSucceeds),
        1 => n.clone().prop_map(Move::FlushFails),
        1 => n.prop_map(Move::FlushWithdrawn),
        1 => Just(Move::Break),
        1 => Just(Move::Seal),
    ]
}

/// The ledger and the vector, told the same things.
pub(crate) struct Pair {
    pub(crate) ledger: Arc<Ledger>,
    /// Writes to it pass the ledger's filter, whose savers never get anything to do.
    disk: Gated,
    places: Vec<Place>,
    /// Voided ones stay, to be ended in vain.
    pub(crate) claims: Vec<(Claim, bool)>,
    flushes: Vec<(Flush, u64)>,
    begun: u64,
    closed: bool,
    trusted: bool,
}

impl Pair {
    pub(crate) fn new(row: &str) -> Self {
        let place = |bit| match bit {
            '1' => Place::Owed,
            _ => Place::Outside,
        };
        let ledger = ledger(row);
        Self {
            disk: gated(&ledger, row.len() as u64 * CLUSTER - 1),
            ledger,
            places: row.chars().map(place).collect(),
            claims: Vec::new(),
            flushes: Vec::new(),
            begun: 0,
            closed: false,
            trusted: true,
        }
    }

    pub(crate) fn make(&mut self, step: &Move) {
        match *step {
            Move::Claim(from, most) => self.claim(from, most),
            Move::Complete(at) => {
                let written = Place::Written(self.begun);
                self.end(at, written, Claim::complete);
            }
            Move::Skip(at) => self.end(at, Place::Skipped, Claim::skip),
            Move::Stage(at) => {
                if let Some((claim, live)) = self.claims.get(at) {
                    assert_eq!(claim.stage(), *live);
                    let (clusters, live) = (claim.clusters(), *live);
                    let passed = |p: &Place| matches!(p, Place::Staged(true));
                    if live && !self.places_of(&clusters).iter().any(passed) {
                        self.set(clusters, Place::Staged(false));
                    }
                }
            }
            Move::Pass(cluster) => self.pass(cluster),
            Move::GiveBack(at) => self.give_back(at, drop),
            Move::Lose(at) => {
                self.give_back(at, |claim| claim.lose(Broken::Distrusted("lost".into())));
            }
            Move::Divide(at, by) => self.divide(at, by),
            Move::BeginFlush => {
                self.begun += 1;
                self.flushes.push((self.ledger.begin_flush(), self.begun));
            }
            Move::FlushSucceeds(at) => {
                if let Some((flush, number)) = self.take_flush(at) {
                    flush.succeeded();
                    self.change(
                        Place::Durable,
                        |p| matches!(p, Place::Written(begun) if *begun < number),
                    );
                }
            }
            Move::FlushFails(at) => {
                if let Some((flush, _)) = self.take_flush(at) {
                    flush.failed("said the test");
                    self.trusted = false;
                    self.void();
                    self.change(Place::Owed, |p| matches!(p, Place::Written(_)));
                }
            }
            // Only a flush that begins from here on covers what this one alone would have.
            Move::FlushWithdrawn(at) => {
                if let Some((flush, number)) = self.take_flush(at) {
                    flush.withdrawn();
                    let taken =
                        |p: &Place| matches!(p, Place::Written(begun) if begun + 1 == number);
                    self.change(Place::Written(self.begun), taken);
                }
            }
            Move::Break => {
                self.ledger
                    .break_off(Broken::Distrusted("said the test".into()));
                self.void();
            }
            Move::Seal => {
                self.ledger.seal(Instant::now());
                self.void();
            }
        }
    }

    fn claim(&mut self, from: u64, most: u64) {
        let owed: Vec<u64> = (0..)
            .zip(&self.places)
            .filter(|(_, place)| **place == Place::Owed)
            .map(|(cluster, _)| cluster)
            .collect();
        let first = owed.iter().find(|c| **c >= from).or(owed.first());
        match self.ledger.claim_next(from, most) {
            Next::Claimed(claim) => {
                assert!(!self.closed);
                let Range { start, end } = claim.clusters();
                assert_eq!(Some(&start), first);
                assert!(end - start <= most);
                assert!((start..end).all(|c| owed.contains(&c)));
                let whole = end - start == most || (end == from && start < from);
                assert!(whole || !owed.contains(&end), "the longest run");
                self.set(start..end, Place::InFlight);
                self.claims.push((claim, true));
            }
            Next::Closed => assert!(self.closed),
            Next::Wait => {
                assert_eq!(first, None);
                assert!(self.places.iter().any(is_under_way));
            }
            Next::Finished => {
                assert_eq!(first, None);
                assert!(!self.places.iter().any(is_under_way));
            }
        }
    }

    fn end(&mut self, at: usize, place: Place, end: impl FnOnce(Claim) -> bool) {
        if at < self.claims.len() {
            let (claim, live) = self.claims.swap_remove(at);
            let clusters = claim.clusters();
            assert_eq!(end(claim), live);
            if live {
                self.set(clusters, place);
            }
        }
    }

    /// Marks a whole claim when a write passes over one cluster of it.
    fn pass(&mut self, cluster: usize) {
        let waits = |place: &Place| matches!(place, Place::Owed | Place::InFlight);
        if self.places.get(cluster).is_none_or(waits) {
            return;
        }
        self.disk.write_at(&[1], cluster as u64 * CLUSTER).unwrap();
        let over = |claim: &Claim| claim.clusters().contains(&(cluster as u64));
        let claim = self
            .claims
            .iter()
            .find(|(claim, live)| *live && over(claim));
        if let (Some((claim, _)), Place::Staged(_)) = (claim, self.places[cluster]) {
            let clusters = claim.clusters();
            self.set(clusters, Place::Staged(true));
        }
    }

    fn places_of(&self, clusters: &Range<u64>) -> &[Place] {
        &self.places[clusters.start as usize..clusters.end as usize]
    }

    /// What a write has passed over cannot be copied again: the backup is broken, unless it is over.
    fn give_back(&mut self, at: usize, end: impl FnOnce(Claim)) {
        let Some((claim, live)) = self.claims.get(at) else {
            return;
        };
        let clusters = claim.clusters();
        let passed = *live && self.places_of(&clusters)[0] == Place::Staged(true);
        self.end(at, Place::Owed, |claim| {
            let live = claim.is_live();
            end(claim);
            live
        });
        if passed && !self.closed {
            assert!(self.ledger.broken().is_some());
            self.void();
        }
    }

    fn divide(&mut self, at: usize, by: u64) {
        if let Some((claim, live)) = self.claims.get_mut(at) {
            let Range { start, end } = claim.clusters();
            if by > 0 && start + by < end {
                let rest = (claim.split_off(start + by), *live);
                self.claims.push(rest);
            }
        }
    }

    fn take_flush(&mut self, at: usize) -> Option<(Flush, u64)> {
        (at < self.flushes.len()).then(|| self.flushes.swap_remove(at))
    }

    fn void(&mut self) {
        self.closed = true;
        self.claims.iter_mut().for_each(|(_, live)| *live = false);
        self.change(Place::Owed, is_under_way);
    }

    fn change(&mut self, to: Place, which: impl Fn(&Place) -> bool) {
        for place in self.places.iter_mut().filter(|place| which(place)) {
            *place = to;
        }
    }

    fn set(&mut self, clusters: Range<u64>, to: Place) {
        self.places[clusters.start as usize..clusters.end as usize].fill(to);
    }

    pub(crate) fn check(&self) {
        let count = |is: fn(&Place) -> bool| self.places.iter().filter(|p| is(p)).count() as u64;
        let want = Counts {
            owed: count(|p| *p == Place::Owed),
            in_flight: count(|p| *p == Place::InFlight),
            staged: count(|p| matches!(p, Place::Staged(_))),
            written: count(|p| matches!(p, Place::Written(_))),
            durable: count(|p| *p == Place::Durable),
            skipped: count(|p| *p == Place::Skipped),
        };
        assert_eq!(self.ledger.counts(), want);
        let remains = |place: &Place| match place {
            Place::Outside | Place::Durable => '0',
            Place::Owed
            | Place::InFlight
            | Place::Staged(_)
            | Place::Written(_)
            | Place::Skipped => '1',
        };
        let remaining: String = self.places.iter().map(remains).collect();
        assert_eq!(row(&self.ledger.remaining()), remaining);
        assert_eq!(self.ledger.is_trusted(), self.trusted);
    }
}

/// A disk whose writes ask this ledger.
fn gated(ledger: &Arc<Ledger>, size: u64) -> Gated {
    struct Never;
    impl Sink for Never {
        fn save(&self, _: u64, _: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            unreachable!("only clusters that are not owed are written")
        }
    }
    let disk = Gated::new(Arc::new(MemoryDevice::new("disk", size)));
    let savers = Savers::new(Arc::new(Never), 1);
    let behind = Arc::clone(disk.device());
    let filter = BeforeWrite::new(Arc::clone(ledger), behind, savers, Patience::default());
    let mut closed = disk
        .close("test", Instant::now() + Duration::from_secs(60))
        .unwrap();
    closed.install_filter(Arc::new(filter));
    drop(closed);
    disk
}

fn is_under_way(place: &Place) -> bool {
    matches!(place, Place::InFlight | Place::Staged(_))
}
