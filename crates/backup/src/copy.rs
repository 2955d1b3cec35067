//! One copy: claimed clusters, read from the source, written to the target.
//!
//! Where nobody needs to look at the bytes (no digests, no writers to save them from), the kernel copies them from file
//! to file. Else they are read, a piece at a time, and written and digested out of the processor's cache.
//!
//! Runs on a blocking thread, holds one piece of memory, and never tries twice: what failed goes back to the
//! driver, one cluster at a time, and the error policy decides there.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cohort_block::{Claim, Device, DeviceError, ExtentKind, Ledger};

use crate::qcow2_builder::BuildError;
use crate::scan::is_zero;
use crate::target::Target;

/// A disk has no smaller unit: errors are narrowed down to this many bytes.
const SECTOR: usize = 512;

/// Copies clusters from one disk to one target.
#[derive(Debug)]
pub(crate) struct Copier {
    source: Arc<dyn Device>,
    target: Arc<Target>,
    ledger: Arc<Ledger>,
    /// Most bytes that one copy reads at once. With eight workers a disk takes eight times as much memory.
    piece: u64,
    /// Pieces of memory that no copy is using.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// Whether to let the kernel copy.
    offload: AtomicBool,
    /// Bytes that the source said are data; asked again for every claim, some file systems would look at all of a file
    /// each time.
    data: Mutex<Range<u64>>,
}

/// What became of the clusters of one claim.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// Bytes of the source that are dealt with.
    pub(crate) done: u64,
    /// Clusters that could not be copied, still claimed.
    pub(crate) failures: Vec<Failure>,
}

/// Clusters that could not be copied.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) claim: Claim,
    pub(crate) error: CopyError,
}

/// Which side failed.
#[derive(Clone, Debug)]
pub(crate) enum CopyError {
    Source(DeviceError),
    Target { byte: u64, error: BuildError },
}

impl Copier {
    /// What is claimed beyond one `piece`, and with `offload` all of it, is held until the target has taken what comes
    /// before: writers must not wait for that.
    pub(crate) fn new(
        source: Arc<dyn Device>,
        target: Arc<Target>,
        ledger: Arc<Ledger>,
        piece: u64,
        offload: bool,
    ) -> Self {
        Copier {
            source,
            target,
            ledger,
            piece,
            buffers: Mutex::default(),
            offload: AtomicBool::new(offload),
            data: Mutex::default(),
        }
    }

    /// Copies what is claimed.
    pub(crate) fn copy(&self, claim: Claim) -> Copied {
        let mut copied = Copied::default();
        let mut buffer = self
            .buffers
            .lock()
            .map(|mut free| free.pop())
            .ok()
            .flatten()
            .unwrap_or_default();
        let mut rest = Some(claim);
        while let Some(mut piece) = rest.take() {
            let (zero, end) = self.known_zero(&piece);
            if end < piece.clusters().end {
                rest = Some(piece.split_off(end));
            }
            if zero {
                self.put(piece, None, &mut copied);
            } else if let Some(piece) = self.offload(piece, &mut copied) {
                self.copy_data(piece, &mut buffer, &mut copied);
            }
        }
        self.target.push_out();
        if let Ok(mut free) = self.buffers.lock() {
            free.push(buffer);
        }
        copied
    }

    /// Whether the first clusters are known to be zeroes, and the cluster up to which that answer holds.
    fn known_zero(&self, claim: &Claim) -> (bool, u64) {
        let (clusters, bytes) = (claim.clusters(), claim.bytes());
        let mut zero_end = bytes.start;
        while zero_end < bytes.end {
            match self.extent(zero_end..bytes.end) {
                Some((ExtentKind::Zero, length)) => zero_end += length,
                Some((ExtentKind::Data, _)) | None => break, // Reading says the rest, or why not.
            }
        }
        if zero_end >= bytes.end {
            return (true, clusters.end);
        }
        let whole = zero_end >> self.ledger.cluster().shift();
        if whole > clusters.start {
            return (true, whole);
        }
        (false, self.first_zero_cluster(&clusters, &bytes))
    }

    /// Where, after a first cluster that must be read, a known hole begins.
    fn first_zero_cluster(&self, clusters: &Range<u64>, bytes: &Range<u64>) -> u64 {
        let shift = self.ledger.cluster().shift();
        let mut offset = bytes.start;
        while offset < bytes.end {
            let Some((kind, length)) = self.extent(offset..bytes.end) else {
                break;
            };
            let first = (offset >> shift).max(clusters.start + 1);
            let first = if offset > first << shift {
                first + 1
            } else {
                first
            };
            if kind == ExtentKind::Zero && (first + 1) << shift <= offset + length {
                return first.clamp(clusters.start + 1, clusters.end);
            }
            offset += length;
        }
        clusters.end
    }

    /// What the source says of the first bytes of a range, and of how many.
    fn extent(&self, range: Range<u64>) -> Option<(ExtentKind, u64)> {
        let left = range.end - range.start;
        let mut data = self.data.lock().ok()?;
        if data.contains(&range.start) {
            return Some((ExtentKind::Data, left.min(data.end - range.start)));
        }
        let rest = self.source.size() - range.start;
        let extent = self.source.extent(range.start, rest).ok()?;
        if extent.kind == ExtentKind::Data {
            *data = range.start..range.start + extent.length;
        }
        Some((extent.kind, extent.length.clamp(1, left)))
    }

    /// Has the kernel copy, and gives the claim back if it did not: then it is not asked again.
    fn offload(&self, claim: Claim, copied: &mut Copied) -> Option<Claim> {
        let bytes = claim.bytes();
        if !self.offload.load(Ordering::Relaxed)
            || !self.target.may_take_over(&bytes)
            || !claim.is_live()
        {
            return Some(claim);
        }
        if !self.target.take_over(bytes.clone(), &*self.source) {
            self.offload.store(false, Ordering::Relaxed);
            return Some(claim);
        }
        if claim.complete_in_a_task() {
            copied.done += bytes.end - bytes.start;
        }
        None
    }

    /// Reads and writes a piece after the other.
    fn copy_data(&self, claim: Claim, buffer: &mut Vec<u8>, copied: &mut Copied) {
        let at_once = (self.piece / self.ledger.cluster().bytes()).max(1);
        let mut rest = Some(claim);
        while let Some(mut piece) = rest.take() {
            let Range { start, end } = piece.clusters();
            if end - start > at_once {
                rest = Some(piece.split_off(start + at_once));
            }
            self.copy_piece(piece, buffer, copied);
        }
    }

    /// Reads a piece whole; if that fails, in halves, until the bad clusters stand alone.
    fn copy_piece(&self, mut claim: Claim, buffer: &mut Vec<u8>, copied: &mut Copied) {
        let (clusters, bytes) = (claim.clusters(), claim.bytes());
        let length = usize::try_from(bytes.end - bytes.start).expect("a chunk fits memory");
        buffer.resize(length.max(buffer.len()), 0);
        match self.source.read_at(&mut buffer[..length], bytes.start) {
            Ok(()) => {
                // It is in memory now: writers need not wait for the target.
                claim.stage();
                self.put_runs(claim, &buffer[..length], copied);
            }
            Err(_) if clusters.end - clusters.start > 1 => {
                let middle = clusters.start + (clusters.end - clusters.start) / 2;
                let second = claim.split_off(middle);
                self.copy_piece(claim, buffer, copied);
                self.copy_piece(second, buffer, copied);
            }
            Err(error) => {
                let error = CopyError::Source(narrow(&*self.source, bytes).unwrap_or(error));
                copied.failures.push(Failure { claim, error });
            }
        }
    }

    /// Writes what was read, run by run of clusters that are all zero or all not.
    fn put_runs(&self, claim: Claim, data: &[u8], copied: &mut Copied) {
        let cluster =
            usize::try_from(self.ledger.cluster().bytes()).expect("a cluster fits memory");
        let (first, mut data) = (claim.clusters().start, data);
        let zeroes: Vec<bool> = data.chunks(cluster).map(is_zero).collect();
        let mut rest = Some(claim);
        for run in zeroes.chunk_by(|a, b| a == b) {
            let Some(mut piece) = rest.take() else { break };
            let end = piece.clusters().start + run.len() as u64;
            if end < first + zeroes.len() as u64 {
                rest = Some(piece.split_off(end));
            }
            let (now, later) = data.split_at(data.len().min(run.len() * cluster));
            data = later;
            self.put(piece, (!run[0]).then_some(now), copied);
        }
    }

    /// Writes one run; no data stands for zeroes.
    fn put(&self, claim: Claim, data: Option<&[u8]>, copied: &mut Copied) {
        if !claim.is_live() {
            return; // Its copy would not count any more.
        }
        let bytes = claim.bytes();
        let result = match data {
            Some(data) => self.target.write(bytes.start, data),
            None => self.target.write_zeroes(bytes.clone()),
        };
        match result {
            Ok(()) => {
                if claim.complete_in_a_task() {
                    copied.done += bytes.end - bytes.start;
                }
            }
            Err(error) => {
                let error = CopyError::Target {
                    byte: bytes.start,
                    error,
                };
                copied.failures.push(Failure { claim, error });
            }
        }
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyError::Source(error) => error.fmt(f),
            CopyError::Target { byte, error } => write!(f, "the data of byte {byte}: {error}"),
        }
    }
}

/// The first sector of a range that cannot be read, as the device says it; none if now all can.
fn narrow(source: &dyn Device, range: Range<u64>) -> Option<DeviceError> {
    let mut sector = [0; SECTOR];
    range.clone().step_by(SECTOR).find_map(|start| {
        let length = usize::try_from(range.end - start).map_or(SECTOR, |left| left.min(SECTOR));
        source.read_at(&mut sector[..length], start).err()
    })
}
