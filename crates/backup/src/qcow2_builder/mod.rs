//! Builds a qcow2 file that is never broken: targets of backups, and restored disks.
//!
//! Data clusters are appended; the tables that map and count them are written to new places, never
//! over old ones; and one sector, the header, says which tables hold. A *seal* writes the tables,
//! flushes, writes that sector, and flushes again. Whatever ends the process or the power, the file
//! is what it was at its last seal, and `qemu-img check` finds it clean: every count is exact, and
//! what was appended since is not counted at all. Before the first seal it is no qcow2 file.
//!
//! ```text
//! sector 0 ──► L1 table ──► L2 tables ──► data clusters        (one reference to each cluster, but for those
//!     └──────► refcount table ──► refcount blocks               that several compressed ones lie in)
//! ```
//!
//! This rests on one assumption about the disk below: that writing a sector of 512 bytes is atomic.
//! A cluster is overwritten only when the last *durable* seal does not count it.
//!
//! The builder keeps no bitmaps and takes no internal snapshots; it continues only files that it sealed
//! itself. It does not read data clusters and never opens the backing file.
//!
//! Source of the facts: the published format description, `docs/interop/qcow2.rst` of QEMU.

mod error;
mod header;
mod held;
mod layout;
mod mapping;
mod open;
mod packed;
mod seal;
mod space;
mod state;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use cohort_block::File;

pub use error::{BuildError, FileOperation};
pub use header::Backing;
pub use held::Held;
pub use state::Staged;

use layout::{Layout, SECTOR};
use mapping::{Entry, Mapping, decode_table};
use packed::{Pack, Packer, Shares};
use seal::Sealed;
use space::{Allocator, ClusterSet};
use state::{State, lock};

/// What a new image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    size: u64,
    cluster_size: u64,
    backing: Option<Backing>,
}

impl CreateOptions {
    /// A standalone image of a disk of `size` bytes, with clusters of 64 KiB.
    ///
    /// The header counts whole sectors: a size that is no multiple of 512 is rounded up, and the
    /// bytes past the end read as zeroes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            cluster_size: 64 << 10,
            backing: None,
        }
    }

    /// Another cluster size in bytes: a power of two from 512 to 2 MiB.
    #[must_use]
    pub fn cluster_size(mut self, cluster_size: u64) -> Self {
        self.cluster_size = cluster_size;
        self
    }

    /// A layer over another file.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = Some(backing);
        self
    }
}

/// A qcow2 file under construction, which is what it was at its last [`seal`](Self::seal) whatever
/// ends the process or the power, and clean under `qemu-img check`. Before the first seal it is no
/// qcow2 file at all.
///
/// All methods take `&self`: any number of threads write while another seals. Locks are held for
/// bookkeeping only, never while data is written or flushed.
#[derive(Debug)]
pub struct Qcow2Builder<F: File> {
    file: F,
    layout: Layout,
    backing: Option<Backing>,
    packer: Packer,
    state: Arc<Mutex<State>>,
    /// What the last seal made durable; held throughout a seal, so that there is one at a time.
    sealed: Mutex<Sealed>,
}

impl<F: File> Qcow2Builder<F> {
    /// Starts a new image in an empty file.
    ///
    /// # Errors
    /// [`BuildError::NotEmpty`]; [`BuildError::ClusterSize`], [`BuildError::TooLarge`] and
    /// [`BuildError::BackingName`] for options that no reader would take; [`BuildError::Io`].
    pub fn create(file: F, options: &CreateOptions) -> Result<Self, BuildError> {
        let layout = Layout::new(options.size, options.cluster_size)?;
        let header = header::encode(layout, options.backing.as_ref())?;
        let length = file.len().map_err(FileOperation::Length.failed())?;
        if length != 0 {
            return Err(BuildError::NotEmpty { length });
        }
        let mut sector = [0; SECTOR];
        sector.copy_from_slice(&header[..SECTOR]);
        // The sector itself waits for the first seal. Its room is taken now: no later failure for
        // want of space can hit the one write that must not fail.
        let mut cluster = vec![0; layout.cluster_size() as usize];
        cluster[SECTOR..header.len()].copy_from_slice(&header[SECTOR..]);
        let mut taken = ClusterSet::default();
        taken.insert(0);
        let state = State {
            mapping: Mapping::new(layout, vec![0; layout.l1_entries() as usize]),
            allocator: Allocator::new(taken.clone(), 1),
            fresh: taken,
            dropped: Vec::new(),
            pack: Pack::default(),
            shares: Shares::default(),
            reshared: BTreeSet::new(),
            mapped: 0,
            closed: None,
        };
        let builder = Self {
            file,
            layout,
            backing: options.backing.clone(),
            packer: Packer::default(),
            state: Arc::new(Mutex::new(state)),
            sealed: Mutex::new(Sealed::none(sector)),
        };
        builder.write(&cluster, 0)?;
        Ok(builder)
    }

    /// Continues an image from its last seal.
    ///
    /// Makes that seal durable first (a killed process may have left it in the page cache only),
    /// then reads every table and checks that each cluster is referred to and counted exactly once.
    ///
    /// # Errors
    /// [`BuildError::NotSealed`], [`BuildError::Unsupported`], [`BuildError::Damaged`], or
    /// [`BuildError::Io`]. The file is not changed.
    pub fn open(file: F) -> Result<Self, BuildError> {
        open::open(file)
    }

    /// Bytes of the disk, whole sectors.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// Bytes of a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.layout.cluster_size()
    }

    /// Clusters of the disk; the last may be partial.
    #[must_use]
    pub fn clusters(&self) -> u64 {
        self.layout.clusters()
    }

    /// The file below this layer.
    #[must_use]
    pub fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    /// The file that the image is in.
    #[must_use]
    pub fn file(&self) -> &F {
        &self.file
    }

    /// Bytes of the data clusters published so far.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.layout.offset(lock(&self.state).mapped)
    }

    /// Bytes of the file so far, everything included.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.layout.offset(lock(&self.state).allocator.end())
    }

    /// Whether this layer itself says what a cluster of the disk holds, data or zeroes.
    ///
    /// # Errors
    /// [`BuildError::OutOfRange`], or [`BuildError::Io`] and [`BuildError::Damaged`] while reading
    /// an older table.
    pub fn contains(&self, index: u64) -> Result<bool, BuildError> {
        self.layout.check_range(index, 1)?;
        let state = self.with_table(index / self.layout.table_entries())?;
        Ok(state.mapping.entry(index)? != Entry::Unmapped)
    }

    /// Writes nothing where anything was before: whoever opened the file earlier and goes on reading it finds the tables of
    /// that seal, and all that they lead to, whatever was sealed since. What is left so, the next one to open it uses.
    pub(crate) fn leave_gaps(&self) {
        lock(&self.state).allocator.leave_gaps();
    }

    /// Writes one cluster of the disk; what it held in this layer before is superseded.
    ///
    /// # Errors
    /// As [`write_clusters`](Self::write_clusters).
    pub fn write_cluster(&self, index: u64, data: &[u8]) -> Result<(), BuildError> {
        self.write_clusters(index, data)
    }

    /// Writes consecutive clusters of the disk, in one piece of the file.
    ///
    /// `data` is whole clusters, except that the disk's last cluster may be given in part. Two
    /// threads that write the same cluster at once have no order.
    ///
    /// # Errors
    /// [`BuildError::OutOfRange`], [`BuildError::NotWholeClusters`], [`BuildError::Io`], or why the
    /// target takes nothing more.
    pub fn write_clusters(&self, first_index: u64, data: &[u8]) -> Result<(), BuildError> {
        self.publish(self.stage(first_index, data)?)
    }

    /// Writes the data of consecutive clusters without making them part of the image.
    ///
    /// # Errors
    /// As [`write_clusters`](Self::write_clusters).
    pub fn stage(&self, first_index: u64, data: &[u8]) -> Result<Staged, BuildError> {
        let count = self.layout.covered(first_index, data.len())?;
        let staged = self.reserve(first_index, count)?;
        self.write_padded(data, self.layout.offset(staged.first_cluster))?;
        Ok(staged)
    }

    /// Has `fill` put the data of consecutive whole clusters into the file, from the byte that it is told on, and makes
    /// them part of the image if it says that it did.
    ///
    /// # Errors
    /// As [`write_clusters`](Self::write_clusters).
    pub(crate) fn fill_clusters(
        &self,
        clusters: Range<u64>,
        fill: impl FnOnce(&F, u64) -> bool,
    ) -> Result<bool, BuildError> {
        let count = clusters.end - clusters.start;
        self.layout.check_range(clusters.start, count)?;
        let staged = self.reserve(clusters.start, count)?;
        if !fill(&self.file, self.layout.offset(staged.first_cluster)) {
            return Ok(false);
        }
        self.publish(staged)?;
        Ok(true)
    }

    /// Makes staged clusters part of the image; the next seal covers them.
    ///
    /// # Errors
    /// [`BuildError::Io`] and [`BuildError::Damaged`] while reading an older table (clusters that
    /// its table maps are void, those before it are published), or why the target takes nothing more.
    ///
    /// # Panics
    /// If another builder staged the clusters.
    pub fn publish(&self, mut staged: Staged) -> Result<(), BuildError> {
        assert!(
            Arc::ptr_eq(&self.state, &staged.state),
            "clusters are published by the builder that staged them"
        );
        for piece in self.layout.pieces(staged.first_index, staged.count) {
            let mut state = self.with_table(piece.table)?;
            state.check_open()?;
            for index in piece.first_index..piece.first_index + piece.count {
                state.map(index, Entry::Data(staged.first_cluster), self.layout)?;
                staged.advance();
            }
        }
        Ok(())
    }

    /// Makes one cluster of the disk read as zeroes.
    ///
    /// # Errors
    /// As [`write_zero_clusters`](Self::write_zero_clusters).
    pub fn write_zero_cluster(&self, index: u64) -> Result<(), BuildError> {
        self.write_zero_clusters(index, 1)
    }

    /// Makes consecutive clusters of the disk read as zeroes: unmapped if this is a standalone
    /// image, marked zero in a layer.
    ///
    /// # Errors
    /// [`BuildError::OutOfRange`]; [`BuildError::Io`] and [`BuildError::Damaged`] while reading an
    /// older table; or why the target takes nothing more.
    pub fn write_zero_clusters(&self, first: u64, count: u64) -> Result<(), BuildError> {
        self.layout.check_range(first, count)?;
        let entry = match self.backing {
            Some(_) => Entry::Zero,
            None => Entry::Unmapped,
        };
        for piece in self.layout.pieces(first, count) {
            let mut state = self.with_table(piece.table)?;
            state.check_open()?;
            if entry == Entry::Unmapped && state.mapping.is_empty(piece.table) {
                continue;
            }
            for index in piece.first_index..piece.first_index + piece.count {
                state.map(index, entry, self.layout)?;
            }
        }
        Ok(())
    }

    /// Makes everything that was published before this call durable, all of it or nothing.
    ///
    /// Writers go on meanwhile; what they publish waits for the next seal.
    ///
    /// # Errors
    /// [`BuildError::Io`] or [`BuildError::TooManyClusters`] if the tables could not be written:
    /// the last seal holds, and sealing may be tried again. [`BuildError::Distrusted`] if a flush or
    /// the header's write failed, now or earlier: what is durable is then the last seal or, if this
    /// one's header got through, this one.
    pub fn seal(&self) -> Result<(), BuildError> {
        seal::seal(self)
    }

    /// Seals, cuts what nothing refers to off the end of the file, and takes nothing more.
    ///
    /// # Errors
    /// As [`seal`](Self::seal), or [`BuildError::Io`] if the file cannot be cut: it is sealed then.
    pub fn finish(&self) -> Result<(), BuildError> {
        {
            let mut state = lock(&self.state);
            state.check_open()?;
            state.closed = Some(BuildError::Finished);
        }
        if let Err(error) = self.seal() {
            let mut state = lock(&self.state);
            if let Some(BuildError::Finished) = state.closed {
                state.closed = None;
            }
            return Err(error);
        }
        let end = lock(&self.sealed).end();
        let length = self.file.len().map_err(FileOperation::Length.failed())?;
        if self.layout.offset(end) < length {
            let cut = self.file.set_len(self.layout.offset(end));
            cut.map_err(FileOperation::Length.failed())?;
        }
        Ok(())
    }

    /// Takes room for clusters, which goes back by itself if they are not published.
    fn reserve(&self, first_index: u64, count: u64) -> Result<Staged, BuildError> {
        let mut state = lock(&self.state);
        state.check_open()?;
        Ok(Staged {
            first_index,
            first_cluster: state.allocator.take(count),
            count,
            state: Arc::clone(&self.state),
        })
    }

    /// Has what was written so far begin its way to the storage. Nothing counts for it: a seal flushes.
    pub(crate) fn push_out(&self) {
        self.file.push_out();
    }

    /// Locks the state with one L2 table at hand, reading it first if it is not, without the lock.
    fn with_table(&self, table: u64) -> Result<MutexGuard<'_, State>, BuildError> {
        loop {
            let state = lock(&self.state);
            let Some(at) = state.mapping.missing(table) else {
                return Ok(state);
            };
            drop(state);
            let read = self
                .read(at, 1)
                .and_then(|bytes| decode_table(&bytes, table, self.layout));
            let mut state = lock(&self.state);
            // Somebody else may have brought it meanwhile, and a seal may have moved it: its old
            // place then holds anything, so neither its bytes nor a failure to read them count.
            if state.mapping.missing(table) == Some(at) {
                state.mapping.supply(table, at, read?);
                return Ok(state);
            }
        }
    }

    fn read(&self, cluster: u64, count: u64) -> Result<Vec<u8>, BuildError> {
        let offset = self.layout.offset(cluster);
        let length = self.layout.offset(count);
        let mut bytes = vec![0; length as usize];
        let read = self.file.read_at(&mut bytes, offset);
        read.map_err(FileOperation::Read { offset, length }.failed())?;
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), BuildError> {
        let length = bytes.len() as u64;
        let written = self.file.write_at(bytes, offset);
        written.map_err(FileOperation::Write { offset, length }.failed())
    }

    /// Writes data, and zeroes up to the end of its last cluster.
    fn write_padded(&self, data: &[u8], offset: u64) -> Result<(), BuildError> {
        let whole = data.len() - data.len() % self.layout.cluster_size() as usize;
        let (whole, tail) = data.split_at(whole);
        if !whole.is_empty() {
            self.write(whole, offset)?;
        }
        if !tail.is_empty() {
            let mut padded = vec![0; self.layout.cluster_size() as usize];
            padded[..tail.len()].copy_from_slice(tail);
            self.write(&padded, offset + whole.len() as u64)?;
        }
        Ok(())
    }
}
