//! The seal: new tables beside the old ones, a flush, one sector, a flush.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use cohort_block::File;

use super::error::BuildError;
use super::header::{Roots, point_at};
use super::layout::{Layout, REFCOUNT_TABLE_LIMIT, SECTOR, to_big_endian};
use super::mapping::ChangedTable;
use super::packed::Shares;
use super::space::{Allocator, ClusterSet};
use super::{Qcow2Builder, State, lock};

/// What the last seal made durable.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    /// The header sector, as the next seal will write it but for the roots.
    pub(super) sector: [u8; SECTOR],
    /// Clusters with a count of one, or of what is packed in them; all others count zero.
    pub(super) counted: ClusterSet,
    /// Clusters that count what is packed in them instead.
    pub(super) shares: Shares,
    /// The cluster of each refcount block, or zero where there is none.
    pub(super) blocks: Vec<u64>,
    /// Clusters of the refcount table; empty before the first seal.
    pub(super) refcount_table: Range<u64>,
    /// Clusters of the L1 table; empty before the first seal.
    pub(super) l1: Range<u64>,
}

impl Sealed {
    /// Nothing yet.
    pub(super) fn none(sector: [u8; SECTOR]) -> Self {
        Self {
            sector,
            counted: ClusterSet::default(),
            shares: Shares::default(),
            blocks: Vec::new(),
            refcount_table: 0..0,
            l1: 0..0,
        }
    }

    /// One past the last cluster that counts.
    pub(super) fn end(&self) -> u64 {
        self.counted.end()
    }
}

/// What a seal takes from the writers' state, under its lock.
struct Taken {
    tables: Vec<ChangedTable>,
    fresh: ClusterSet,
    dropped: Vec<u64>,
    /// Clusters of which another number of packed ones is mapped now.
    shares: Vec<(u64, u16)>,
}

/// One seal: what the file will be, and what that takes and frees.
struct Plan {
    layout: Layout,
    next: Sealed,
    /// Refcount blocks whose counts changed and which have no new place yet.
    changed_blocks: BTreeSet<u64>,
    /// Refcount blocks that have their new place.
    moved_blocks: BTreeSet<u64>,
    /// L2 tables and their new clusters; zero for one that maps nothing any more.
    moved_tables: Vec<(u64, u64)>,
    l1_entries: Vec<u64>,
    /// Clusters taken for this plan: free again if it fails.
    allocated: Vec<Range<u64>>,
    /// Clusters that count no more: free once it is durable.
    released: Vec<Range<u64>>,
}

/// See [`Qcow2Builder::seal`].
pub(super) fn seal<F: File>(builder: &Qcow2Builder<F>) -> Result<(), BuildError> {
    let mut sealed = lock(&builder.sealed);
    let taken = {
        let mut state = lock(&builder.state);
        if let Some(error @ BuildError::Distrusted { .. }) = &state.closed {
            return Err(error.clone());
        }
        state.take(builder.layout)
    };
    if taken.tables.is_empty() && !sealed.l1.is_empty() {
        assert!(
            taken.dropped.is_empty(),
            "what is superseded changed a table"
        );
        lock(&builder.state).put_back(taken);
        return Ok(());
    }
    let mut plan = Plan::new(builder.layout, &sealed);
    plan.count_data(&taken);
    plan.place(&taken.tables, &mut lock(&builder.state));
    let written = plan
        .check()
        .and_then(|()| write_tables(builder, &plan, &taken.tables));
    if let Err(error) = written {
        let mut state = lock(&builder.state);
        plan.give_up(&mut state.allocator);
        state.put_back(taken);
        return Err(error);
    }
    plan.point();
    if let Err(error) = make_durable(builder, &plan.next.sector) {
        lock(&builder.state).closed = Some(error.clone());
        return Err(error);
    }
    let mut state = lock(&builder.state);
    state.mapping.sealed(&plan.moved_tables);
    for run in &plan.released {
        state.allocator.release(run.start, run.end - run.start);
    }
    *sealed = plan.next;
    Ok(())
}

/// Writes the new tables to their new places, where no seal looks for anything yet.
fn write_tables<F: File>(
    builder: &Qcow2Builder<F>,
    plan: &Plan,
    tables: &[ChangedTable],
) -> Result<(), BuildError> {
    let at = |cluster| builder.layout.offset(cluster);
    for (table, (_, cluster)) in tables.iter().zip(&plan.moved_tables) {
        if *cluster != 0 {
            builder.write(&to_big_endian(&table.entries), at(*cluster))?;
        }
    }
    builder.write_padded(&to_big_endian(&plan.l1_entries), at(plan.next.l1.start))?;
    for block in &plan.moved_blocks {
        let cluster = plan.next.blocks[*block as usize];
        builder.write(&plan.encode_block(*block), at(cluster))?;
    }
    let pointers: Vec<u64> = plan
        .next
        .blocks
        .iter()
        .map(|cluster| at(*cluster))
        .collect();
    builder.write_padded(
        &to_big_endian(&pointers),
        at(plan.next.refcount_table.start),
    )
}

/// The order that everything rests on: flush what the sector will point at, the sector, flush.
fn make_durable<F: File>(
    builder: &Qcow2Builder<F>,
    sector: &[u8; SECTOR],
) -> Result<(), BuildError> {
    let file = &builder.file;
    let outcome = file
        .sync_data()
        .and_then(|()| file.write_at(sector, 0))
        .and_then(|()| file.sync_data());
    outcome.map_err(|source| BuildError::Distrusted {
        source: Arc::new(source),
    })
}

impl State {
    fn take(&mut self, layout: Layout) -> Taken {
        // No cluster that a seal counts is taken for more.
        self.pack.close(layout, &mut self.allocator);
        let reshared = std::mem::take(&mut self.reshared).into_iter();
        Taken {
            shares: reshared
                .map(|cluster| (cluster, self.shares.get(cluster)))
                .collect(),
            tables: self.mapping.take_changed(),
            fresh: std::mem::take(&mut self.fresh),
            dropped: std::mem::take(&mut self.dropped),
        }
    }

    /// Undoes [`take`](Self::take), joined with what happened since.
    fn put_back(&mut self, taken: Taken) {
        self.mapping.put_back(&taken.tables);
        // A cluster that was fresh and was dropped meanwhile is in both; the drop is applied last.
        self.fresh.insert_all(&taken.fresh);
        self.dropped.extend(taken.dropped);
        self.reshared
            .extend(taken.shares.into_iter().map(|(cluster, _)| cluster));
    }
}

impl Plan {
    fn new(layout: Layout, sealed: &Sealed) -> Self {
        Self {
            layout,
            next: sealed.clone(),
            changed_blocks: BTreeSet::new(),
            moved_blocks: BTreeSet::new(),
            moved_tables: Vec::new(),
            l1_entries: Vec::new(),
            allocated: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Counts what was published and stops counting what was superseded.
    fn count_data(&mut self, taken: &Taken) {
        self.next.counted.insert_all(&taken.fresh);
        for (first, _) in taken.fresh.groups() {
            // Sixty-four clusters never straddle a block, which counts at least 256.
            self.changed_blocks
                .insert(first / self.layout.counts_per_block());
        }
        for cluster in &taken.dropped {
            self.uncount(*cluster..*cluster + 1);
        }
        for (cluster, count) in &taken.shares {
            // One that counts no more is not handed out again: somebody may still be about to use it.
            match count {
                0 => drop(self.next.counted.remove(*cluster)),
                _ => drop(self.next.counted.insert(*cluster)),
            }
            self.next.shares.set(*cluster, *count);
            self.touch(*cluster);
        }
    }

    /// Finds new places for every table that changes, until the counts count themselves.
    fn place(&mut self, tables: &[ChangedTable], state: &mut State) {
        let allocator = &mut state.allocator;
        for table in tables {
            let maps_nothing = table.entries.iter().all(|entry| *entry == 0);
            let cluster = if maps_nothing {
                0
            } else {
                self.allocate(1, allocator).start
            };
            self.moved_tables.push((table.index, cluster));
            if table.sealed_at != 0 {
                self.uncount(table.sealed_at..table.sealed_at + 1);
            }
        }
        self.l1_entries = state.mapping.l1_with(&self.moved_tables);
        self.uncount(self.next.l1.clone());
        self.next.l1 = self.allocate(self.layout.l1_clusters(), allocator);
        self.uncount(self.next.refcount_table.clone());
        self.next.refcount_table = 0..0;
        self.place_counts(allocator);
    }

    /// Moving a block changes counts, perhaps in another block, which then moves too; each moves
    /// once. More blocks may want a larger table, whose clusters want counting.
    fn place_counts(&mut self, allocator: &mut Allocator) {
        loop {
            while let Some(block) = self.changed_blocks.pop_first() {
                self.move_block(block, allocator);
            }
            let entries = self.next.blocks.len() as u64;
            let wanted = entries.div_ceil(self.layout.table_entries());
            let table = self.next.refcount_table.clone();
            if table.end - table.start >= wanted {
                return;
            }
            // Too small for the blocks that counting itself has asked for.
            if !table.is_empty() {
                self.uncount(table);
            }
            self.next.refcount_table = self.allocate(wanted, allocator);
        }
    }

    fn move_block(&mut self, block: u64, allocator: &mut Allocator) {
        self.moved_blocks.insert(block);
        let at = block as usize;
        if at >= self.next.blocks.len() {
            self.next.blocks.resize(at + 1, 0);
        }
        let old = self.next.blocks[at];
        if old != 0 {
            self.uncount(old..old + 1);
        }
        self.next.blocks[at] = self.allocate(1, allocator).start;
    }

    fn allocate(&mut self, count: u64, allocator: &mut Allocator) -> Range<u64> {
        let first = allocator.take(count);
        let run = first..first + count;
        for cluster in run.clone() {
            self.next.counted.insert(cluster);
            self.touch(cluster);
        }
        self.allocated.push(run.clone());
        run
    }

    fn uncount(&mut self, run: Range<u64>) {
        for cluster in run.clone() {
            self.next.counted.remove(cluster);
            self.touch(cluster);
        }
        self.released.push(run);
    }

    /// The count of a cluster changes, so the block that holds it must move, once.
    fn touch(&mut self, cluster: u64) {
        let block = cluster / self.layout.counts_per_block();
        if !self.moved_blocks.contains(&block) {
            self.changed_blocks.insert(block);
        }
    }

    fn check(&self) -> Result<(), BuildError> {
        if self.next.blocks.len() as u64 > REFCOUNT_TABLE_LIMIT {
            return Err(BuildError::TooManyClusters {
                cluster_size: self.layout.cluster_size(),
            });
        }
        Ok(())
    }

    fn encode_block(&self, block: u64) -> Vec<u8> {
        let counts = self.layout.counts_per_block();
        let count = |cluster| match self.next.shares.get(cluster) {
            0 => u16::from(self.next.counted.contains(cluster)),
            shares => shares,
        };
        let clusters = block * counts..(block + 1) * counts;
        clusters
            .flat_map(|cluster| count(cluster).to_be_bytes())
            .collect()
    }

    /// Makes the header sector name the new tables.
    fn point(&mut self) {
        let table = &self.next.refcount_table;
        let roots = Roots {
            l1: self.next.l1.start,
            refcount_table: table.start,
            refcount_table_clusters: table.end - table.start,
        };
        point_at(&mut self.next.sector, self.layout, roots);
    }

    /// Gives back what was taken for a plan that comes to nothing.
    fn give_up(&self, allocator: &mut Allocator) {
        for run in &self.allocated {
            allocator.release(run.start, run.end - run.start);
        }
    }
}
