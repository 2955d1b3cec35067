//! Which clusters of the file are used, and how often: found, taken and given back.
//!
//! Nothing is written before [`Refcounts::store`]. Counts go up before anything refers to a cluster and
//! down after nothing does any more, so whoever is killed in between leaves clusters that are counted and
//! not used, and never one that is used and not counted.

use std::collections::BTreeMap;

use crate::store::File;

use super::bytes::be64;
use super::directory::check_inside;
use super::error::Qcow2Error;
use super::header::{Header, Place};

/// Longest refcount table that QEMU accepts.
const MAX_TABLE_BYTES: u64 = 8 << 20;
/// How much of the counts is kept in memory when nothing of it changed.
const CACHE_BYTES: u64 = 64 << 20;
/// Where a block of counts is; the other bits are reserved.
const BLOCK_OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// The counts of a file's clusters, read as they are asked for.
#[derive(Debug)]
pub(super) struct Refcounts {
    cluster_bits: u32,
    /// Counts have 2^this bits.
    order: u32,
    file_bytes: u64,
    /// Where each block of counts is; zero for none.
    table: Vec<u64>,
    /// Entries of the table that are to be written.
    changed_entries: Vec<usize>,
    /// Where the table is, or will be.
    place: Place,
    /// Where it was, if it has moved.
    moved_from: Option<Place>,
    /// Where the image's own table is, which no count may call free.
    l1: Place,
    blocks: BTreeMap<usize, Block>,
    /// No cluster before this one is free.
    first_free: u64,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    changed: bool,
}

impl Refcounts {
    pub(super) fn read(file: &(impl File + ?Sized), header: &Header) -> Result<Self, Qcow2Error> {
        let io = Qcow2Error::io("reading the refcount table");
        let place = header.refcount_table;
        let file_bytes = file.len().map_err(&io)?;
        if place.offset == 0 || !place.offset.is_multiple_of(header.cluster()) || place.bytes == 0 {
            return Err(broken(format!(
                "no refcount table at byte {}",
                place.offset
            )));
        }
        if place.bytes > MAX_TABLE_BYTES.max(header.cluster()) {
            return Err(broken(format!("a refcount table of {} bytes", place.bytes)));
        }
        check_inside(file_bytes, place, "the refcount table")?;
        let mut bytes = vec![0; place.bytes as usize];
        file.read_at(&mut bytes, place.offset).map_err(&io)?;
        let table: Vec<u64> = bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        let wrong =
            |entry: &&u64| **entry & !BLOCK_OFFSET != 0 || !entry.is_multiple_of(header.cluster());
        if let Some(entry) = table.iter().find(wrong) {
            return Err(broken(format!("a refcount table entry of {entry:#018x}")));
        }
        Ok(Refcounts {
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            file_bytes,
            table,
            changed_entries: Vec::new(),
            place,
            moved_from: None,
            l1: header.l1,
            blocks: BTreeMap::new(),
            first_free: 1,
        })
    }

    /// Takes `clusters` neighbouring clusters that nobody uses, and gives the offset of the first.
    pub(super) fn take(
        &mut self,
        file: &(impl File + ?Sized),
        clusters: u64,
    ) -> Result<u64, Qcow2Error> {
        loop {
            let first = self.find(file, clusters)?;
            let blocks = self.block_of(first)..=self.block_of(first + clusters - 1);
            let Some(missing) = blocks.into_iter().find(|index| !self.has_block(*index)) else {
                for cluster in first..first + clusters {
                    self.set(file, cluster, 1)?;
                }
                return Ok(first << self.cluster_bits);
            };
            // It takes a cluster itself, perhaps one of these: so look again.
            self.add_block(file, missing)?;
        }
    }

    /// Gives back every cluster of a place, once.
    pub(super) fn give_back(
        &mut self,
        file: &(impl File + ?Sized),
        place: Place,
    ) -> Result<(), Qcow2Error> {
        for cluster in self.clusters_of(place) {
            let count = self.count(file, cluster)?;
            if count == 0 {
                return Err(broken(format!(
                    "cluster {cluster} is used and counted as free"
                )));
            }
            self.set(file, cluster, count - 1)?;
            if count == 1 {
                self.first_free = self.first_free.min(cluster);
            }
        }
        Ok(())
    }

    /// Whether every cluster of a place is counted: what is not would be taken from under its user.
    pub(super) fn check_used(
        &mut self,
        file: &(impl File + ?Sized),
        place: Place,
    ) -> Result<(), Qcow2Error> {
        for cluster in self.clusters_of(place) {
            if self.count(file, cluster)? == 0 {
                return Err(broken(format!(
                    "cluster {cluster} is used and counted as free"
                )));
            }
        }
        Ok(())
    }

    /// Counts a cluster that is used, if it is counted as free; says whether it was.
    ///
    /// # Errors
    /// It lies where nothing is counted, or where nothing may lie.
    pub(super) fn use_if_free(
        &mut self,
        file: &(impl File + ?Sized),
        place: Place,
    ) -> Result<bool, Qcow2Error> {
        let cluster = place.offset >> self.cluster_bits;
        if self.count(file, cluster)? > 0 {
            return Ok(false);
        }
        if !self.has_block(self.block_of(cluster)) || self.overlaps(place) {
            return Err(broken(format!(
                "cluster {cluster} is used and counted as free"
            )));
        }
        self.set(file, cluster, 1)?;
        Ok(true)
    }

    /// Whether a place overlaps the counts themselves, or the image's table.
    pub(super) fn overlaps(&self, place: Place) -> bool {
        let (end, l1) = (place.offset.saturating_add(place.bytes), self.l1);
        let in_l1 = place.offset < l1.offset.saturating_add(l1.bytes) && l1.offset < end;
        let clusters = self.clusters_of(place);
        let own = self.clusters_of(self.place);
        let blocks = self.table.iter().filter(|block| **block != 0);
        in_l1
            || clusters.start < own.end && own.start < clusters.end
            || blocks
                .map(|block| block >> self.cluster_bits)
                .any(|block| clusters.contains(&block))
    }

    /// Writes what changed, durably. New blocks and a new table are durable before anything leads there.
    pub(super) fn store(
        &mut self,
        file: &(impl File + ?Sized),
        header: &mut Header,
    ) -> Result<(), Qcow2Error> {
        let io = Qcow2Error::io("writing refcounts");
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.changed) {
            file.write_at(&block.bytes, self.table[*index])
                .map_err(&io)?;
            block.changed = false;
        }
        if self.moved_from.is_some() {
            let bytes: Vec<u8> = self
                .table
                .iter()
                .flat_map(|entry| entry.to_be_bytes())
                .collect();
            file.write_at(&bytes, self.place.offset).map_err(&io)?;
        }
        file.sync_data().map_err(&io)?;
        if let Some(old) = self.moved_from.take() {
            header.move_refcount_table(file, self.place)?;
            self.changed_entries.clear();
            self.give_back(file, old)?;
            return self.store(file, header);
        }
        if !self.changed_entries.is_empty() {
            for index in std::mem::take(&mut self.changed_entries) {
                let at = self.place.offset + index as u64 * 8;
                file.write_at(&self.table[index].to_be_bytes(), at)
                    .map_err(&io)?;
            }
            file.sync_data().map_err(&io)?;
        }
        Ok(())
    }

    fn clusters_of(&self, place: Place) -> std::ops::Range<u64> {
        let end = place.offset.saturating_add(place.bytes);
        place.offset >> self.cluster_bits..end.div_ceil(1 << self.cluster_bits)
    }

    /// Clusters that one block counts.
    fn per_block(&self) -> u64 {
        (8 << self.cluster_bits) >> self.order
    }

    fn block_of(&self, cluster: u64) -> usize {
        (cluster / self.per_block()) as usize
    }

    fn has_block(&self, index: usize) -> bool {
        self.table.get(index).is_some_and(|block| *block != 0)
    }

    /// The first of `clusters` neighbouring free clusters. What no block counts is free.
    ///
    /// # Errors
    /// Also if that is where the counts themselves are, or the image's table, which a damaged image may say.
    fn find(&mut self, file: &(impl File + ?Sized), clusters: u64) -> Result<u64, Qcow2Error> {
        let first = self.find_uncounted(file, clusters)?;
        let place = Place {
            offset: first << self.cluster_bits,
            bytes: clusters << self.cluster_bits,
        };
        if self.overlaps(place) {
            return Err(broken(format!(
                "tables at byte {} are counted as free",
                place.offset
            )));
        }
        Ok(first)
    }

    fn find_uncounted(
        &mut self,
        file: &(impl File + ?Sized),
        clusters: u64,
    ) -> Result<u64, Qcow2Error> {
        let (order, per_block) = (self.order, self.per_block());
        let (mut first, mut at) = (self.first_free, self.first_free);
        let mut seen = None;
        while at - first < clusters {
            let index = self.block_of(at);
            let end = (index as u64 + 1) * per_block;
            if !self.has_block(index) {
                seen.get_or_insert(at);
                at = end;
                continue;
            }
            let bytes = &self.load(file, index)?.bytes;
            while at < end && at - first < clusters {
                at += 1;
                if count_at(bytes, order, (at - 1) % per_block) == 0 {
                    seen.get_or_insert(at - 1);
                } else {
                    first = at;
                }
            }
        }
        self.first_free = seen.unwrap_or(first);
        Ok(first)
    }

    fn count(&mut self, file: &(impl File + ?Sized), cluster: u64) -> Result<u64, Qcow2Error> {
        let (index, within) = (self.block_of(cluster), cluster % self.per_block());
        if !self.has_block(index) {
            return Ok(0);
        }
        let order = self.order;
        Ok(count_at(&self.load(file, index)?.bytes, order, within))
    }

    /// Changes a count of a block that there is.
    fn set(
        &mut self,
        file: &(impl File + ?Sized),
        cluster: u64,
        count: u64,
    ) -> Result<(), Qcow2Error> {
        let (order, within) = (self.order, cluster % self.per_block());
        let block = self.load(file, self.block_of(cluster))?;
        set_count_at(&mut block.bytes, order, within, count);
        block.changed = true;
        Ok(())
    }

    fn load(
        &mut self,
        file: &(impl File + ?Sized),
        index: usize,
    ) -> Result<&mut Block, Qcow2Error> {
        if !self.blocks.contains_key(&index) {
            if (self.blocks.len() as u64) << self.cluster_bits > CACHE_BYTES {
                self.blocks.retain(|_, block| block.changed);
            }
            let place = Place {
                offset: self.table[index],
                bytes: 1 << self.cluster_bits,
            };
            check_inside(self.file_bytes, place, "a refcount block")?;
            let mut bytes = vec![0; place.bytes as usize];
            file.read_at(&mut bytes, place.offset)
                .map_err(Qcow2Error::io("reading refcounts"))?;
            let changed = false;
            self.blocks.insert(index, Block { bytes, changed });
        }
        let block = self.blocks.get_mut(&index);
        block.ok_or_else(|| broken(format!("refcount block {index} is gone")))
    }

    /// Makes a block, or one that must be there before: who needs it asks again.
    fn add_block(&mut self, file: &(impl File + ?Sized), missing: usize) -> Result<(), Qcow2Error> {
        let cluster = self.find(file, 1)?;
        let own = self.block_of(cluster);
        // Where nothing is counted yet, the first cluster holds the block that counts it.
        let index = if self.has_block(own) { missing } else { own };
        if index >= self.table.len() {
            return self.grow_table(file, index);
        }
        self.table[index] = cluster << self.cluster_bits;
        self.changed_entries.push(index);
        let bytes = vec![0; 1 << self.cluster_bits];
        let changed = true;
        self.blocks.insert(index, Block { bytes, changed });
        self.set(file, cluster, 1)
    }

    /// Makes the table long enough for an entry, with some to spare, in a place of its own.
    fn grow_table(&mut self, file: &(impl File + ?Sized), index: usize) -> Result<(), Qcow2Error> {
        let per_cluster = 1 << (self.cluster_bits - 3);
        // The spare half is more than the blocks that count the table itself.
        let entries = (index + 1 + index / 2 + 16).next_multiple_of(per_cluster);
        let bytes = entries as u64 * 8;
        if bytes > MAX_TABLE_BYTES.max(1 << self.cluster_bits) {
            return Err(broken("it is as large as its refcount table can be".into()));
        }
        self.table.resize(entries, 0);
        let offset = self.take(file, bytes >> self.cluster_bits)?;
        let old = std::mem::replace(&mut self.place, Place { offset, bytes });
        match self.moved_from {
            None => self.moved_from = Some(old),
            // It grew twice: nothing has led to the one in between.
            Some(_) => self.give_back(file, old)?,
        }
        Ok(())
    }
}

/// The count at an index of a block: most significant byte first, but lowest bits first within a byte.
fn count_at(block: &[u8], order: u32, index: u64) -> u64 {
    let index = index as usize;
    if order < 3 {
        let (per_byte, bits) = (8 >> order, 1 << order);
        let byte = block[index / per_byte] >> (index % per_byte * bits);
        return u64::from(byte) & ((1 << bits) - 1);
    }
    let bytes = 1 << (order - 3);
    let count = &block[index * bytes..(index + 1) * bytes];
    count
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn set_count_at(block: &mut [u8], order: u32, index: u64, count: u64) {
    let index = index as usize;
    if order < 3 {
        let (per_byte, bits) = (8 >> order, 1 << order);
        let shift = index % per_byte * bits;
        let byte = &mut block[index / per_byte];
        *byte = *byte & !(((1u8 << bits) - 1) << shift) | (count as u8) << shift;
        return;
    }
    let bytes = 1 << (order - 3);
    block[index * bytes..(index + 1) * bytes].copy_from_slice(&count.to_be_bytes()[8 - bytes..]);
}

fn broken(what: String) -> Qcow2Error {
    Qcow2Error::Unsupported {
        feature: format!("wrong refcounts ({what}): let `qemu-img check -r all` repair them first"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_any_width_changes_no_neighbour() {
        for order in 0..=6 {
            let largest = if order == 6 {
                u64::MAX
            } else {
                (1 << (1 << order)) - 1
            };
            for index in 0..8 {
                let mut block = vec![0; 64];
                set_count_at(&mut block, order, index, largest);
                let counts: Vec<u64> = (0..8).map(|at| count_at(&block, order, at)).collect();
                let expected: Vec<u64> = (0..8)
                    .map(|at| if at == index { largest } else { 0 })
                    .collect();
                assert_eq!(counts, expected, "width 2^{order}");
                set_count_at(&mut block, order, index, 0);
                assert!(block.iter().all(|byte| *byte == 0), "width 2^{order}");
            }
        }
    }
}
