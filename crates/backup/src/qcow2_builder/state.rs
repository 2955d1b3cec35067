//! What writers change under the builder's lock, and what a seal takes: which cluster is where, and what was staged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use super::error::BuildError;
use super::layout::Layout;
use super::mapping::{Entry, Mapping};
use super::packed::{Pack, Shares};
use super::space::{Allocator, ClusterSet};

/// What writers change, and what a seal takes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) mapping: Mapping,
    pub(super) allocator: Allocator,
    /// Data clusters published since the last seal began: no seal has counted them.
    pub(super) fresh: ClusterSet,
    /// Clusters superseded since the last seal began that some seal may have counted.
    pub(super) dropped: Vec<u64>,
    /// Where compressed clusters go.
    pub(super) pack: Pack,
    /// How many mapped clusters lie packed in each cluster of the file,
    pub(super) shares: Shares,
    /// and where that changed since the last seal began.
    pub(super) reshared: BTreeSet<u64>,
    /// Data clusters that the mapping refers to.
    pub(super) mapped: u64,
    /// Why nothing more is taken.
    pub(super) closed: Option<BuildError>,
}

/// Clusters whose data is in the file and which nothing refers to yet.
///
/// [`publish`](super::Qcow2Builder::publish) makes them part of the image; dropping this voids them, and no
/// seal ever counts them.
#[must_use = "a copy that is not published is void"]
#[derive(Debug)]
pub struct Staged {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) first_index: u64,
    pub(super) first_cluster: u64,
    /// How many of the clusters are still unpublished.
    pub(super) count: u64,
}

impl State {
    pub(super) fn check_open(&self) -> Result<(), BuildError> {
        self.closed.clone().map_or(Ok(()), Err)
    }

    /// Maps a cluster of the disk anew; its table must be at hand.
    pub(super) fn map(
        &mut self,
        index: u64,
        entry: Entry,
        layout: Layout,
    ) -> Result<(), BuildError> {
        let old = self.mapping.replace(index, entry)?;
        match entry {
            Entry::Unmapped | Entry::Zero => {}
            Entry::Data(cluster) => {
                self.fresh.insert(cluster);
                self.mapped += 1;
            }
            Entry::Packed(place) => {
                self.share(place, layout, |count| count + 1);
                self.mapped += 1;
            }
        }
        match old {
            Entry::Unmapped | Entry::Zero => {}
            Entry::Data(cluster) => {
                self.mapped -= 1;
                if self.fresh.remove(cluster) {
                    // No seal has seen it, not even one under way.
                    self.allocator.release(cluster, 1);
                } else {
                    self.dropped.push(cluster);
                }
            }
            Entry::Packed(place) => {
                self.mapped -= 1;
                self.share(place, layout, |count| count - 1);
            }
        }
        Ok(())
    }
}

impl Staged {
    /// The first cluster of the disk that is staged.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.first_index
    }

    /// How many consecutive clusters are staged.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One cluster is published: it is not ours to give back any more.
    pub(super) fn advance(&mut self) {
        self.first_index += 1;
        self.first_cluster += 1;
        self.count -= 1;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Not through `lock`: a panic here could come on top of another.
        if let (1.., Ok(mut state)) = (self.count, self.state.lock()) {
            state.allocator.release(self.first_cluster, self.count);
        }
    }
}

/// Locks. What a panic left half-changed must never be sealed, so a panic under a lock spreads.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while this lock is held")
}
