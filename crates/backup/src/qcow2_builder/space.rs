//! Which clusters of the file are taken: a growing set, and the allocator over it.

/// A set of clusters of the file; what is beyond its end is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ClusterSet {
    words: Vec<u64>,
}

impl ClusterSet {
    pub(super) fn contains(&self, cluster: u64) -> bool {
        let (word, bit) = place(cluster);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a cluster; false if it was there already.
    pub(super) fn insert(&mut self, cluster: u64) -> bool {
        let (word, bit) = place(cluster);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        added
    }

    /// Takes a cluster out; false if it was not there.
    pub(super) fn remove(&mut self, cluster: u64) -> bool {
        let (word, bit) = place(cluster);
        let Some(word) = self.words.get_mut(word) else {
            return false;
        };
        let removed = *word & bit != 0;
        *word &= !bit;
        removed
    }

    pub(super) fn insert_all(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Sixty-four clusters at a time, those groups that are not empty: (first cluster, bits).
    pub(super) fn groups(&self) -> impl Iterator<Item = (u64, u64)> {
        let groups = self.words.iter().enumerate();
        groups
            .filter(|(_, word)| **word != 0)
            .map(|(index, word)| (index as u64 * 64, *word))
    }

    /// One past the last cluster, or zero.
    pub(super) fn end(&self) -> u64 {
        let last = self.groups().last();
        last.map_or(0, |(first, word)| {
            first + 64 - u64::from(word.leading_zeros())
        })
    }

    /// The first cluster at or after `from` that is not in the set.
    fn next_gap(&self, from: u64) -> u64 {
        let mut at = from;
        while let Some(word) = self.words.get((at / 64) as usize) {
            let free = !word >> (at % 64);
            if free != 0 {
                return at + u64::from(free.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
        at
    }

    /// The first cluster in `from..end` that is in the set, or `end`.
    fn next_member(&self, from: u64, end: u64) -> u64 {
        let mut at = from;
        while at < end {
            let Some(word) = self.words.get((at / 64) as usize) else {
                return end;
            };
            let taken = word >> (at % 64);
            if taken != 0 {
                return end.min(at + u64::from(taken.trailing_zeros()));
            }
            at = (at / 64 + 1) * 64;
        }
        end
    }
}

fn place(cluster: u64) -> (usize, u64) {
    ((cluster / 64) as usize, 1 << (cluster % 64))
}

/// Hands out clusters that nothing durable and nothing in flight refers to.
///
/// A cluster comes back through [`release`](Self::release) only once the last durable seal does
/// not count it, so whoever gets it may overwrite it at once.
#[derive(Debug)]
pub(super) struct Allocator {
    taken: ClusterSet,
    /// Clusters of the file, taken or free; what lies beyond is appended.
    end: u64,
    /// Free clusters below `end`.
    free: u64,
    /// No cluster below this one is free.
    lowest: u64,
    /// No run of this many clusters is free, as far as we looked.
    barren: u64,
}

impl Allocator {
    /// An allocator for a file of `end` clusters, of which `taken` are in use.
    pub(super) fn new(taken: ClusterSet, end: u64) -> Self {
        let used: u64 = taken
            .groups()
            .map(|(_, word)| u64::from(word.count_ones()))
            .sum();
        let end = end.max(taken.end());
        Self {
            taken,
            end,
            free: end - used,
            lowest: 0,
            barren: u64::MAX,
        }
    }

    /// Clusters of the file.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes `count` consecutive clusters; free ones if there are, else at the end of the file.
    pub(super) fn take(&mut self, count: u64) -> u64 {
        let first = self.reuse(count).unwrap_or_else(|| {
            let first = self.end;
            self.end += count;
            self.free += count;
            first
        });
        for cluster in first..first + count {
            self.taken.insert(cluster);
        }
        self.free -= count;
        if first == self.lowest {
            self.lowest = first + count;
        }
        first
    }

    /// Gives `count` clusters back.
    pub(super) fn release(&mut self, first: u64, count: u64) {
        for cluster in first..first + count {
            let was_taken = self.taken.remove(cluster);
            debug_assert!(was_taken, "cluster {cluster} is given back once");
        }
        self.free += count;
        self.lowest = self.lowest.min(first);
        self.barren = u64::MAX;
    }

    /// Hands out nothing below the end of the file but what comes back from now on.
    pub(super) fn leave_gaps(&mut self) {
        for cluster in 0..self.end {
            self.taken.insert(cluster);
        }
        self.free = 0;
        self.lowest = self.end;
    }

    /// The first free run that is long enough.
    fn reuse(&mut self, count: u64) -> Option<u64> {
        if self.free < count || count >= self.barren {
            return None;
        }
        self.lowest = self.taken.next_gap(self.lowest);
        let mut first = self.lowest;
        while first + count <= self.end {
            let taken = self.taken.next_member(first, first + count);
            if taken == first + count {
                return Some(first);
            }
            first = self.taken.next_gap(taken);
        }
        self.barren = count;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_fresh_file_is_appended_to() {
        let mut allocator = Allocator::new(ClusterSet::default(), 0);
        assert_eq!(allocator.take(1), 0);
        assert_eq!(allocator.take(100), 1);
        assert_eq!(allocator.end(), 101);
    }

    #[test]
    fn gaps_are_used_when_they_are_long_enough() {
        let mut allocator = Allocator::new(ClusterSet::default(), 0);
        allocator.take(10);
        allocator.release(2, 1);
        allocator.release(5, 3);
        assert_eq!(allocator.take(4), 10);
        assert_eq!(allocator.take(2), 5);
        assert_eq!(allocator.take(1), 2);
        assert_eq!(allocator.take(1), 7);
        assert_eq!(allocator.take(1), 14);
    }

    #[test]
    fn gaps_that_are_to_be_left_are_not_used() {
        let mut allocator = Allocator::new(ClusterSet::default(), 0);
        allocator.take(10);
        allocator.release(2, 3);
        allocator.leave_gaps();
        assert_eq!((allocator.take(1), allocator.take(2)), (10, 11));
        allocator.release(11, 1);
        assert_eq!(allocator.take(1), 11);
    }

    proptest! {
        #[test]
        fn nothing_is_handed_out_twice_and_gaps_are_found(
            steps in prop::collection::vec((any::<bool>(), 1u64..70, any::<prop::sample::Index>()), 1..120),
        ) {
            let mut allocator = Allocator::new(ClusterSet::default(), 0);
            let mut runs: Vec<(u64, u64)> = Vec::new();
            let mut taken = BTreeSet::new();
            for (take, count, index) in steps {
                if take || runs.is_empty() {
                    let gap = (0..allocator.end())
                        .find(|first| (*first..first + count).all(|c| c < allocator.end() && !taken.contains(&c)));
                    let first = allocator.take(count);
                    if let Some(gap) = gap {
                        prop_assert_eq!(first, gap);
                    }
                    for cluster in first..first + count {
                        prop_assert!(taken.insert(cluster));
                    }
                    runs.push((first, count));
                } else {
                    let (first, count) = runs.swap_remove(index.index(runs.len()));
                    allocator.release(first, count);
                    for cluster in first..first + count {
                        taken.remove(&cluster);
                    }
                }
                let end = taken.last().map_or(0, |last| last + 1);
                prop_assert_eq!(allocator.taken.end(), end);
                prop_assert!((0..allocator.end()).all(|c| allocator.taken.contains(c) == taken.contains(&c)));
            }
        }
    }
}
