//! Clusters that are in somebody's hands: whose, and whether writes may pass them.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;

/// Runs of clusters in flight. They do not overlap.
#[derive(Default)]
pub(super) struct Flights {
    /// By their first cluster.
    runs: BTreeMap<u64, Flight>,
    /// Clusters of them, and how many of those are staged.
    clusters: u64,
    staged: u64,
}

/// One run in flight.
pub(super) struct Flight {
    end: u64,
    claim: u64,
    staged: bool,
    /// Whether a write has passed since: what the claimant keeps is all there is of the old data.
    pub(super) passed: bool,
}

impl Flights {
    /// A claim takes these clusters, which nobody has in hand.
    pub(super) fn begin(&mut self, clusters: &Range<u64>, claim: u64) {
        let flight = Flight {
            end: clusters.end,
            claim,
            staged: false,
            passed: false,
        };
        self.clusters += clusters.end - clusters.start;
        self.runs.insert(clusters.start, flight);
    }

    /// Whether the claim that began here was not voided since.
    pub(super) fn is_live(&self, start: u64, claim: u64) -> bool {
        let flight = self.runs.get(&start);
        flight.is_some_and(|flight| flight.claim == claim)
    }

    /// Ends the flight of a claim; none if it was voided.
    pub(super) fn end(&mut self, start: u64, claim: u64) -> Option<Flight> {
        if !self.is_live(start, claim) {
            return None;
        }
        let flight = self.runs.remove(&start)?;
        self.clusters -= flight.end - start;
        self.staged -= flight.staged_clusters(start);
        Some(flight)
    }

    /// Lets writes pass a claim's clusters; false if it was voided.
    pub(super) fn stage(&mut self, start: u64, claim: u64) -> bool {
        let flight = self.runs.get_mut(&start);
        let Some(flight) = flight.filter(|flight| flight.claim == claim) else {
            return false;
        };
        self.staged -= flight.staged_clusters(start);
        flight.staged = true;
        self.staged += flight.staged_clusters(start);
        true
    }

    /// Gives what a claim has from `at` on to another one, if it was not voided.
    pub(super) fn split(&mut self, start: u64, claim: u64, at: u64, other: u64) {
        let flight = self.runs.get_mut(&start);
        let Some(first) = flight.filter(|flight| flight.claim == claim) else {
            return;
        };
        let second = Flight {
            claim: other,
            ..*first
        };
        first.end = at;
        self.runs.insert(at, second);
    }

    /// Whether a write to these clusters must wait.
    pub(super) fn is_busy(&self, clusters: &Range<u64>) -> bool {
        // Flights do not overlap, so backwards from the end the first that does not reach in is the last.
        self.runs
            .range(..clusters.end)
            .rev()
            .take_while(|(_, flight)| flight.end > clusters.start)
            .any(|(_, flight)| !flight.staged)
    }

    /// Remembers that a write to these clusters goes ahead; none of them is busy.
    pub(super) fn pass(&mut self, clusters: &Range<u64>) {
        let runs = self.runs.range_mut(..clusters.end).rev();
        for (_, flight) in runs.take_while(|(_, flight)| flight.end > clusters.start) {
            flight.passed = true;
        }
    }

    /// Voids all claims, and gives the clusters that they had.
    pub(super) fn void(&mut self) -> impl Iterator<Item = Range<u64>> + use<> {
        let runs = mem::take(self).runs.into_iter();
        runs.map(|(start, flight)| start..flight.end)
    }

    /// Whether none is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many clusters are in flight, staged ones too.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// How many of them are staged.
    pub(super) fn staged(&self) -> u64 {
        self.staged
    }
}

impl Flight {
    fn staged_clusters(&self, start: u64) -> u64 {
        if self.staged { self.end - start } else { 0 }
    }
}
