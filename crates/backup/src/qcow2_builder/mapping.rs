//! Which cluster of the file holds which cluster of the disk: L1 and L2 tables in memory.
//!
//! Only tables that were touched since the last seal are held, and a few that were read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::BuildError;
use super::layout::{Layout, SECTOR, from_big_endian};
use super::packed::Place;

/// Exactly one reference: the format wants the flag wherever the count is one, which is everywhere.
const COPIED: u64 = 1 << 63;
/// In an L2 entry: the cluster reads as zeroes, whatever the backing file holds.
const ZERO: u64 = 1;
/// In an L2 entry: what lies there is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bits of an entry that hold an offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bytes of unchanged tables kept in memory.
const CLEAN_BYTES: u64 = 16 << 20;

/// What a layer says of one cluster of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: the backing file decides, or zeroes if there is none.
    Unmapped,
    /// Zeroes.
    Zero,
    /// The data in this cluster of the file.
    Data(u64),
    /// The data, compressed.
    Packed(Place),
}

impl Entry {
    fn from_raw(raw: u64, layout: Layout) -> Result<Self, BuildError> {
        match raw {
            0 => Ok(Self::Unmapped),
            ZERO => Ok(Self::Zero),
            _ if raw & COMPRESSED != 0 => place(raw, layout).map(Self::Packed),
            _ => pointer(raw, layout, "L2 table").map(Self::Data),
        }
    }

    fn to_raw(self, layout: Layout) -> u64 {
        match self {
            Self::Unmapped => 0,
            Self::Zero => ZERO,
            Self::Data(cluster) => to_pointer(cluster, layout),
            Self::Packed(Place { offset, sectors }) => {
                COMPRESSED | (sectors - 1) << sectors_at(layout) | offset
            }
        }
    }
}

/// The bit from which on an entry of compressed data says how many sectors follow the first one.
fn sectors_at(layout: Layout) -> u32 {
    62 - (layout.cluster_bits() - 8)
}

/// Where the compressed data of an entry lies.
fn place(raw: u64, layout: Layout) -> Result<Place, BuildError> {
    let bits = sectors_at(layout);
    let offset = raw & ((1 << bits) - 1);
    let sectors = ((raw & (COMPRESSED - 1)) >> bits) + 1;
    let sector = SECTOR as u64;
    let whole = offset >= layout.cluster_size() && offset.is_multiple_of(sector);
    if raw & COPIED != 0 || !whole || sectors * sector > layout.cluster_size() {
        return Err(BuildError::damaged(format!(
            "entry {raw:#018x} in an L2 table"
        )));
    }
    Ok(Place { offset, sectors })
}

/// The entry of a table that refers to a cluster of the file.
pub(super) fn to_pointer(cluster: u64, layout: Layout) -> u64 {
    layout.offset(cluster) | COPIED
}

/// The cluster that an entry refers to.
pub(super) fn pointer(raw: u64, layout: Layout, table: &str) -> Result<u64, BuildError> {
    let cluster = layout
        .cluster_at(raw & OFFSET_MASK)
        .filter(|cluster| *cluster > 0);
    match cluster {
        Some(cluster) if raw == to_pointer(cluster, layout) => Ok(cluster),
        Some(_) | None => Err(BuildError::damaged(format!(
            "entry {raw:#018x} in an {table}"
        ))),
    }
}

/// One L2 table. Shared with a seal under way, which writes what it was when the seal began.
#[derive(Debug, Clone)]
struct Table {
    entries: Arc<Vec<u64>>,
    /// Changed since the last seal took it.
    changed: bool,
}

/// A changed table, as a seal takes it.
#[derive(Debug)]
pub(super) struct ChangedTable {
    /// Index in the L1 table.
    pub(super) index: u64,
    /// The cluster of its last sealed form, or zero.
    pub(super) sealed_at: u64,
    pub(super) entries: Arc<Vec<u64>>,
}

/// The mapping of the disk, with changes that no seal has made durable yet.
#[derive(Debug)]
pub(super) struct Mapping {
    layout: Layout,
    /// For every L2 table the cluster of its last sealed form; zero if it has none.
    sealed: Vec<u64>,
    tables: BTreeMap<u64, Table>,
}

impl Mapping {
    pub(super) fn new(layout: Layout, sealed: Vec<u64>) -> Self {
        Self {
            layout,
            sealed,
            tables: BTreeMap::new(),
        }
    }

    /// The cluster from which a table must be read before its entries can be asked for.
    pub(super) fn missing(&self, table: u64) -> Option<u64> {
        let at = self.sealed[table as usize];
        (at != 0 && !self.tables.contains_key(&table)).then_some(at)
    }

    /// Takes in a table read from cluster `at`, unless it was replaced meanwhile.
    pub(super) fn supply(&mut self, table: u64, at: u64, entries: Vec<u64>) {
        if self.missing(table) != Some(at) {
            return;
        }
        let kept = CLEAN_BYTES >> self.layout.cluster_bits();
        if self.tables.len() as u64 > kept {
            self.forget_unchanged();
        }
        let table_read = Table {
            entries: Arc::new(entries),
            changed: false,
        };
        self.tables.insert(table, table_read);
    }

    /// Whether anything of this table is mapped. The table must not be missing.
    pub(super) fn is_empty(&self, table: u64) -> bool {
        self.sealed[table as usize] == 0 && !self.tables.contains_key(&table)
    }

    /// The entry of a cluster of the disk. Its table must not be missing.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, BuildError> {
        let (table, at) = self.place(index);
        let Some(table) = self.tables.get(&table) else {
            return Ok(Entry::Unmapped);
        };
        Entry::from_raw(table.entries[at], self.layout)
    }

    /// Changes the entry of a cluster of the disk; returns the old one. Its table must not be
    /// missing.
    pub(super) fn replace(&mut self, index: u64, entry: Entry) -> Result<Entry, BuildError> {
        let old = self.entry(index)?;
        if old == entry {
            return Ok(old);
        }
        let (table, at) = self.place(index);
        let entries = self.layout.table_entries() as usize;
        let table = self.tables.entry(table).or_insert_with(|| Table {
            entries: Arc::new(vec![0; entries]),
            changed: false,
        });
        Arc::make_mut(&mut table.entries)[at] = entry.to_raw(self.layout);
        table.changed = true;
        Ok(old)
    }

    /// Takes all changed tables for a seal; from now on they count as unchanged.
    pub(super) fn take_changed(&mut self) -> Vec<ChangedTable> {
        let changed = self.tables.iter_mut().filter(|(_, table)| table.changed);
        changed
            .map(|(index, table)| {
                table.changed = false;
                ChangedTable {
                    index: *index,
                    sealed_at: self.sealed[*index as usize],
                    entries: Arc::clone(&table.entries),
                }
            })
            .collect()
    }

    /// Puts tables back that a seal took in vain.
    pub(super) fn put_back(&mut self, changed: &[ChangedTable]) {
        for taken in changed {
            // A changed table stays in memory until a seal has made it durable.
            if let Some(table) = self.tables.get_mut(&taken.index) {
                table.changed = true;
            }
        }
    }

    /// The L1 table as it will be once `moved` (table, new cluster) holds.
    pub(super) fn l1_with(&self, moved: &[(u64, u64)]) -> Vec<u64> {
        let mut sealed = self.sealed.clone();
        for (table, cluster) in moved {
            sealed[*table as usize] = *cluster;
        }
        let raw = |cluster: u64| match cluster {
            0 => 0,
            _ => to_pointer(cluster, self.layout),
        };
        sealed.into_iter().map(raw).collect()
    }

    /// Notes where a durable seal has put tables.
    pub(super) fn sealed(&mut self, moved: &[(u64, u64)]) {
        for (table, cluster) in moved {
            self.sealed[*table as usize] = *cluster;
        }
        self.forget_unchanged();
    }

    fn forget_unchanged(&mut self) {
        self.tables.retain(|_, table| table.changed);
    }

    fn place(&self, index: u64) -> (u64, usize) {
        let entries = self.layout.table_entries();
        (index / entries, (index % entries) as usize)
    }
}

/// Reads the bytes of an L2 table, and refuses entries that a target being built never has.
pub(super) fn decode_table(
    bytes: &[u8],
    table: u64,
    layout: Layout,
) -> Result<Vec<u64>, BuildError> {
    let entries = from_big_endian(bytes);
    let first = table * layout.table_entries();
    for (index, raw) in (first..).zip(&entries) {
        let entry = Entry::from_raw(*raw, layout)?;
        if entry != Entry::Unmapped && index >= layout.clusters() {
            return Err(BuildError::damaged(format!(
                "cluster {index} is mapped beyond the end of the disk"
            )));
        }
    }
    Ok(entries)
}

/// What a decoded L2 table says of the clusters of the disk, in their order.
pub(super) fn entries_of(entries: &[u64], layout: Layout) -> impl Iterator<Item = Entry> {
    entries
        .iter()
        .filter_map(move |raw| Entry::from_raw(*raw, layout).ok())
}
