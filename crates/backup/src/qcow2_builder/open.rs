//! Continuing a file from its last seal, trusting nothing that it says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use cohort_block::File;

use super::error::{BuildError, FileOperation};
use super::header::{self, Header, Roots};
use super::layout::{Layout, REFCOUNT_TABLE_LIMIT, SECTOR, from_big_endian};
use super::mapping::{Entry, Mapping, decode_table, entries_of, pointer};
use super::packed::{Pack, Packer, Place, Shares};
use super::seal::Sealed;
use super::space::{Allocator, ClusterSet};
use super::{Qcow2Builder, State};

/// See [`Qcow2Builder::open`].
pub(super) fn open<F: File>(file: F) -> Result<Qcow2Builder<F>, BuildError> {
    // What we are about to read may be in the page cache only, left there by a killed process. Were
    // power lost later, the seal before it would be back, and clusters that only that one counts
    // must not have been overwritten by then.
    file.sync_data().map_err(FileOperation::Flush.failed())?;
    let length = file.len().map_err(FileOperation::Length.failed())?;
    let (sector, header) = read_header(&file, length)?;
    let mut walk = Walk {
        file: &file,
        layout: header.layout,
        length,
        seen: ClusterSet::default(),
        shares: Shares::default(),
        mapped: 0,
    };
    walk.claim(0, 1, "header")?;
    let blocks = walk.refcount_table(header.roots)?;
    let counted = walk.counts(&blocks)?;
    let l1 = walk.l1(header.roots)?;
    walk.tables(&l1)?;
    let (seen, shares, mapped) = (walk.seen, walk.shares, walk.mapped);
    if !same(&seen, &counted.0) || !shares.count_alike(&counted.1) {
        return Err(BuildError::damaged(
            "the reference counts are not those of the tables",
        ));
    }
    let end = length.div_ceil(header.layout.cluster_size());
    let state = State {
        mapping: Mapping::new(header.layout, l1),
        allocator: Allocator::new(seen, end),
        fresh: ClusterSet::default(),
        dropped: Vec::new(),
        pack: Pack::default(),
        shares: shares.clone(),
        reshared: BTreeSet::new(),
        mapped,
        closed: None,
    };
    let Roots {
        l1,
        refcount_table,
        refcount_table_clusters,
    } = header.roots;
    let sealed = Sealed {
        sector,
        counted: counted.0,
        shares,
        blocks,
        refcount_table: refcount_table..refcount_table + refcount_table_clusters,
        l1: l1..l1 + header.layout.l1_clusters(),
    };
    Ok(Qcow2Builder {
        file,
        layout: header.layout,
        backing: header.backing,
        packer: Packer::default(),
        state: Arc::new(Mutex::new(state)),
        sealed: Mutex::new(sealed),
    })
}

fn read_header<F: File>(file: &F, length: u64) -> Result<([u8; SECTOR], Header), BuildError> {
    if length < SECTOR as u64 {
        return Err(BuildError::NotSealed);
    }
    let mut sector = [0; SECTOR];
    read(file, &mut sector, 0)?;
    let mut cluster = vec![0; header::claimed_cluster_size(&sector).min(length) as usize];
    read(file, &mut cluster, 0)?;
    Ok((sector, header::decode(&cluster)?))
}

/// One pass over all tables, which notes every cluster they refer to.
struct Walk<'a, F> {
    file: &'a F,
    layout: Layout,
    /// Bytes of the file.
    length: u64,
    seen: ClusterSet,
    shares: Shares,
    mapped: u64,
}

impl<F: File> Walk<'_, F> {
    /// Notes a reference to clusters, which must be in the file and must be the only one.
    fn claim(&mut self, first: u64, count: u64, what: &str) -> Result<(), BuildError> {
        let end = first.checked_add(count);
        let whole_clusters = self.length / self.layout.cluster_size();
        if end.is_none_or(|end| end > whole_clusters) {
            return Err(BuildError::damaged(format!(
                "the {what} lies beyond the end of the file"
            )));
        }
        (first..first + count).try_for_each(|cluster| self.note(cluster, what))
    }

    /// Notes the only reference to a cluster.
    fn note(&mut self, cluster: u64, what: &str) -> Result<(), BuildError> {
        if self.seen.insert(cluster) {
            return Ok(());
        }
        Err(BuildError::damaged(format!(
            "cluster {cluster} of the file has two uses, one in the {what}"
        )))
    }

    /// The cluster of each refcount block, zero where there is none.
    fn refcount_table(&mut self, roots: Roots) -> Result<Vec<u64>, BuildError> {
        let clusters = roots.refcount_table_clusters;
        let entries = clusters.saturating_mul(self.layout.table_entries());
        // A table of one cluster is never too large, whatever its entries are.
        if clusters == 0 || (clusters > 1 && entries > REFCOUNT_TABLE_LIMIT) {
            return Err(BuildError::damaged("impossible size of the refcount table"));
        }
        self.claim(roots.refcount_table, clusters, "refcount table")?;
        let raw = self.clusters(roots.refcount_table, clusters)?;
        let mut blocks = Vec::new();
        for (block, raw) in (0..).zip(from_big_endian(&raw)) {
            if raw == 0 {
                continue;
            }
            let cluster = self.layout.cluster_at(raw).filter(|cluster| *cluster > 0);
            let cluster = cluster.ok_or_else(|| {
                BuildError::damaged(format!("entry {raw:#018x} in the refcount table"))
            })?;
            self.claim(cluster, 1, "refcount table")?;
            blocks.resize(block, 0);
            blocks.push(cluster);
        }
        Ok(blocks)
    }

    /// The clusters that count, and those that count more than one, which only what is packed may. The file holds all of
    /// them, or begins the last one.
    fn counts(&self, blocks: &[u64]) -> Result<(ClusterSet, Shares), BuildError> {
        let (mut counted, mut shares) = (ClusterSet::default(), Shares::default());
        let counts = self.layout.counts_per_block();
        let begun_clusters = self.length.div_ceil(self.layout.cluster_size());
        for (block, at) in (0..).zip(blocks).filter(|(_, at)| **at != 0) {
            let bytes = self.clusters(*at, 1)?;
            let (values, _) = bytes.as_chunks::<2>();
            for (cluster, value) in (block * counts..).zip(values) {
                match u16::from_be_bytes(*value) {
                    0 => {}
                    count if cluster < begun_clusters => {
                        counted.insert(cluster);
                        if count > 1 {
                            shares.set(cluster, count);
                        }
                    }
                    count => {
                        return Err(BuildError::damaged(format!(
                            "a count of {count} for cluster {cluster} of the file"
                        )));
                    }
                }
            }
        }
        Ok((counted, shares))
    }

    /// The cluster of each L2 table, zero where there is none.
    fn l1(&mut self, roots: Roots) -> Result<Vec<u64>, BuildError> {
        let clusters = self.layout.l1_clusters();
        self.claim(roots.l1, clusters, "L1 table")?;
        let mut raw = from_big_endian(&self.clusters(roots.l1, clusters)?);
        raw.truncate(self.layout.l1_entries() as usize);
        let at = |raw: u64| match raw {
            0 => Ok(0),
            _ => pointer(raw, self.layout, "L1 table"),
        };
        raw.into_iter().map(at).collect()
    }

    fn tables(&mut self, l1: &[u64]) -> Result<(), BuildError> {
        for (table, at) in (0..).zip(l1).filter(|(_, at)| **at != 0) {
            self.claim(*at, 1, "L1 table")?;
            let entries = decode_table(&self.clusters(*at, 1)?, table, self.layout)?;
            for entry in entries_of(&entries, self.layout) {
                match entry {
                    Entry::Unmapped | Entry::Zero => continue,
                    Entry::Data(cluster) => self.claim(cluster, 1, "L2 table")?,
                    Entry::Packed(place) => self.share(place)?,
                }
                self.mapped += 1;
            }
        }
        Ok(())
    }

    /// Notes compressed data, which may share clusters with other such, and with nothing else. It must be in the file; the
    /// rest of its last cluster need not be.
    fn share(&mut self, place: Place) -> Result<(), BuildError> {
        if place.end() > self.length {
            return Err(BuildError::damaged(
                "compressed data lies beyond the end of the file",
            ));
        }
        for cluster in place.clusters(self.layout) {
            let others = self.shares.get(cluster);
            if others == 0 {
                self.note(cluster, "L2 table")?;
            }
            let more = others.checked_add(1);
            let more = more.ok_or_else(|| BuildError::damaged("a cluster of too many uses"))?;
            self.shares.set(cluster, more);
        }
        Ok(())
    }

    fn clusters(&self, first: u64, count: u64) -> Result<Vec<u8>, BuildError> {
        let mut bytes = vec![0; self.layout.offset(count) as usize];
        read(self.file, &mut bytes, self.layout.offset(first))?;
        Ok(bytes)
    }
}

fn read<F: File>(file: &F, bytes: &mut [u8], offset: u64) -> Result<(), BuildError> {
    let length = bytes.len() as u64;
    let read = file.read_at(bytes, offset);
    read.map_err(FileOperation::Read { offset, length }.failed())
}

/// Whether two sets hold the same clusters, however much room they have.
fn same(a: &ClusterSet, b: &ClusterSet) -> bool {
    a.groups().eq(b.groups())
}
