//! The arithmetic of qcow2: how a disk's size and the cluster size shape the tables.
//!
//! Facts are from the published format description (`docs/interop/qcow2.rst` of QEMU).

use super::error::BuildError;

/// Bytes of a sector: the unit that a power loss is assumed not to tear.
pub(super) const SECTOR: usize = 512;

/// Bytes of one entry in the L1, L2 and refcount tables.
pub(super) const ENTRY: u64 = 8;

/// Readers refuse L1 tables above 32 MiB.
const L1_LIMIT: u64 = (32 << 20) / ENTRY;

/// Readers refuse refcount tables above 8 MiB.
pub(super) const REFCOUNT_TABLE_LIMIT: u64 = (8 << 20) / ENTRY;

/// Sizes that follow from the disk's size and the cluster size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    size: u64,
    cluster_bits: u32,
}

impl Layout {
    /// The layout of a disk of `size` bytes, rounded up to whole sectors.
    ///
    /// QEMU counts disks in sectors and would round *down*, which would lose the tail.
    pub(super) fn new(size: u64, cluster_size: u64) -> Result<Self, BuildError> {
        if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
            return Err(BuildError::ClusterSize(cluster_size));
        }
        let limit = L1_LIMIT * (cluster_size / ENTRY) * cluster_size;
        if size > limit {
            return Err(BuildError::TooLarge {
                size,
                cluster_size,
                limit,
            });
        }
        Ok(Self {
            size: size.next_multiple_of(SECTOR as u64),
            cluster_bits: cluster_size.trailing_zeros(),
        })
    }

    /// Bytes of the disk, whole sectors.
    pub(super) fn size(self) -> u64 {
        self.size
    }

    pub(super) fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters of the disk; the last may be partial.
    pub(super) fn clusters(self) -> u64 {
        self.size.div_ceil(self.cluster_size())
    }

    /// Entries of one L2 table, which is one cluster.
    pub(super) fn table_entries(self) -> u64 {
        self.cluster_size() / ENTRY
    }

    /// Entries of the L1 table; one even for an empty disk, so that there always is a table.
    pub(super) fn l1_entries(self) -> u64 {
        self.clusters().div_ceil(self.table_entries()).max(1)
    }

    /// Clusters that the L1 table takes.
    pub(super) fn l1_clusters(self) -> u64 {
        self.l1_entries().div_ceil(self.table_entries())
    }

    /// Clusters of the file that one refcount block counts, at 16 bits each.
    pub(super) fn counts_per_block(self) -> u64 {
        self.cluster_size() / 2
    }

    /// The byte at which a cluster of the file starts.
    pub(super) fn offset(self, cluster: u64) -> u64 {
        cluster << self.cluster_bits
    }

    /// The cluster that starts at a byte of the file, if one does.
    pub(super) fn cluster_at(self, offset: u64) -> Option<u64> {
        offset
            .is_multiple_of(self.cluster_size())
            .then_some(offset >> self.cluster_bits)
    }

    /// How many clusters `length` bytes from the start of cluster `first` are.
    pub(super) fn covered(self, first: u64, length: usize) -> Result<u64, BuildError> {
        let whole = length as u64 / self.cluster_size();
        let partial = !(length as u64).is_multiple_of(self.cluster_size());
        let count = whole + u64::from(partial);
        self.check_range(first, count)?;
        // Only the last cluster of the disk may be given in part; the rest of it is zeroes.
        if count == 0 || (partial && first + count != self.clusters()) {
            return Err(BuildError::NotWholeClusters { length });
        }
        Ok(count)
    }

    /// Refuses clusters beyond the end of the disk.
    pub(super) fn check_range(self, first: u64, count: u64) -> Result<(), BuildError> {
        let clusters = self.clusters();
        match first.checked_add(count) {
            Some(end) if end <= clusters => Ok(()),
            Some(_) | None => Err(BuildError::OutOfRange {
                index: first.max(clusters),
                clusters,
            }),
        }
    }

    /// Cuts `first..first + count` where L2 tables end.
    pub(super) fn pieces(self, first: u64, count: u64) -> impl Iterator<Item = Piece> {
        let entries = self.table_entries();
        let end = first + count;
        let mut at = first;
        std::iter::from_fn(move || {
            if at == end {
                return None;
            }
            let table = at / entries;
            let next = ((table + 1) * entries).min(end);
            let piece = Piece {
                table,
                count: next - at,
                first_index: at,
            };
            at = next;
            Some(piece)
        })
    }
}

/// Consecutive clusters of the disk which one L2 table maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Index in the L1 table.
    pub(super) table: u64,
    /// Clusters.
    pub(super) count: u64,
    /// Index on the disk of the first cluster.
    pub(super) first_index: u64,
}

/// Numbers as the format stores them.
pub(super) fn to_big_endian(entries: &[u64]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect()
}

/// The inverse of [`to_big_endian`]; a rest of fewer than eight bytes is ignored.
pub(super) fn from_big_endian(bytes: &[u8]) -> Vec<u64> {
    let (entries, _) = bytes.as_chunks::<8>();
    entries
        .iter()
        .map(|entry| u64::from_be_bytes(*entry))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_tebibytes_need_a_quarter_mebibyte_of_l1() {
        let layout = Layout::new(16 << 40, 64 << 10).unwrap();
        assert_eq!(layout.l1_entries(), 32 << 10);
        assert_eq!(layout.l1_clusters(), 4);
    }

    #[test]
    fn only_the_last_cluster_may_be_partial() {
        let layout = Layout::new(10 * 512 + 1, 512).unwrap();
        assert_eq!(layout.clusters(), 11);
        assert_eq!(layout.covered(10, 1).unwrap(), 1);
        assert_eq!(layout.covered(8, 2 * 512 + 1).unwrap(), 3);
        assert!(matches!(
            layout.covered(8, 513),
            Err(BuildError::NotWholeClusters { length: 513 })
        ));
        assert!(matches!(
            layout.covered(10, 513),
            Err(BuildError::OutOfRange { clusters: 11, .. })
        ));
        assert!(layout.covered(u64::MAX, 512).is_err());
        assert!(layout.covered(0, 0).is_err());
    }

    #[test]
    fn pieces_end_where_tables_end() {
        let layout = Layout::new(1 << 20, 512).unwrap();
        let pieces: Vec<_> = layout
            .pieces(60, 70)
            .map(|piece| (piece.table, piece.first_index, piece.count))
            .collect();
        assert_eq!(pieces, [(0, 60, 4), (1, 64, 64), (2, 128, 2)]);
    }

    #[test]
    fn odd_cluster_sizes_and_huge_disks_are_refused() {
        assert!(matches!(Layout::new(0, 0), Err(BuildError::ClusterSize(0))));
        assert!(Layout::new(0, 256).is_err());
        assert!(Layout::new(0, 4 << 20).is_err());
        assert!(Layout::new(0, 65_537).is_err());
        assert!(Layout::new(128 << 30, 512).is_ok());
        assert!(matches!(
            Layout::new((128 << 30) + 1, 512),
            Err(BuildError::TooLarge { .. })
        ));
        assert!(Layout::new(u64::MAX, 2 << 20).is_err());
    }
}
