//! Finds what changed by comparing a source with what its chain already holds.
//!
//! Bytes decide, not time stamps: a cluster is dirty exactly if it reads differently. Ranges that both sides know
//! as zero are not read. A source that cannot be read here counts as different, so that the copy, which has an
//! error policy, meets it again; a reference that cannot be read is an error, because nothing may lie on it.

use std::ops::Range;

use cohort_bitmap::{DirtyBitmap, Granularity, SizeError};
use cohort_block::{Device, DeviceError, ExtentKind};
use rayon::prelude::*;

/// Bytes that one thread compares at a time: two such buffers each, and long enough reads for any disk.
const PIECE: u64 = 1 << 20;

/// Pieces that [`scan_some`] reads: some tens of milliseconds of work, after which it may be paused.
const PIECES_AT_ONCE: usize = 64;

/// Times that [`scan_some`] asks for extents: a disk may consist of small holes.
const LOOKS_AT_ONCE: usize = 4096;

/// The clusters of `range` in which `source` differs from `reference`, as a set over the whole source.
///
/// Without a reference, and beyond its end, the comparison is with zeroes. `range` is in bytes, half-open, and
/// starts at a multiple of `cluster`. Works on all threads of the current rayon pool.
///
/// # Errors
///
/// [`ScanError`]: the reference could not be read, or the source has too many clusters.
pub(crate) fn scan(
    source: &dyn Device,
    reference: Option<&dyn Device>,
    cluster: Granularity,
    range: Range<u64>,
) -> Result<DirtyBitmap, ScanError> {
    let mut dirty = DirtyBitmap::new(source.size(), cluster)?;
    let mut from = range.start;
    let end = range.end.min(source.size());
    while from < end {
        let (runs, next) = scan_some(source, reference, cluster, from..end)?;
        runs.into_iter().for_each(|run| mark(&mut dirty, run));
        from = next;
    }
    Ok(dirty)
}

/// Compares a bounded part at the start of `range`: the runs of differing clusters, and where to go on.
pub(crate) fn scan_some(
    source: &dyn Device,
    reference: Option<&dyn Device>,
    cluster: Granularity,
    range: Range<u64>,
) -> Result<(Vec<Range<u64>>, u64), DeviceError> {
    let piece = PIECE.max(cluster.bytes());
    let comparison = Comparison {
        source,
        reference,
        cluster: cluster.bytes(),
    };
    let (mut pieces, mut from, mut looks) = (Vec::new(), range.start, 0);
    while from < range.end && pieces.len() < PIECES_AT_ONCE && looks < LOOKS_AT_ONCE {
        looks += 1;
        match comparison.zero_until(from..range.end) {
            Some(end) => from = end,
            None => {
                let end = (from + piece).min(range.end);
                pieces.push(from..end);
                from = end;
            }
        }
    }
    let found: Vec<Vec<Range<u64>>> = pieces
        .into_par_iter()
        .map(|piece| comparison.differing(piece))
        .collect::<Result<_, _>>()?;
    Ok((found.into_iter().flatten().collect(), from))
}

/// Why two disks could not be compared.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ScanError {
    /// What the source is compared with could not be read.
    #[error(transparent)]
    Reference(#[from] DeviceError),
    /// The source has more clusters than a bitmap can hold.
    #[error(transparent)]
    TooLarge(#[from] SizeError),
}

/// The clusters of `source` that may hold anything but zeroes, without reading them.
///
/// # Errors
///
/// The source has too many clusters.
pub(crate) fn not_known_zero(
    source: &dyn Device,
    cluster: Granularity,
) -> Result<DirtyBitmap, SizeError> {
    mark_extents(source, cluster, |extent| extent.kind == ExtentKind::Data)
}

/// The clusters that the top layer of `source` allocates.
///
/// # Errors
///
/// The source has too many clusters.
pub(crate) fn allocated(
    source: &dyn Device,
    cluster: Granularity,
) -> Result<DirtyBitmap, SizeError> {
    mark_extents(source, cluster, |extent| extent.allocated)
}

/// Where a source cannot say, it is asked again a cluster later, and that cluster is marked: reading decides.
fn mark_extents(
    source: &dyn Device,
    cluster: Granularity,
    wanted: impl Fn(&cohort_block::Extent) -> bool,
) -> Result<DirtyBitmap, SizeError> {
    let mut marked = DirtyBitmap::new(source.size(), cluster)?;
    let mut offset = 0;
    while offset < source.size() {
        let left = source.size() - offset;
        let (length, wanted) = match source.extent(offset, left) {
            Ok(extent) => (extent.length.clamp(1, left), wanted(&extent)),
            Err(_) => (cluster.bytes().min(left), true),
        };
        if wanted {
            mark(&mut marked, offset..offset + length);
        }
        offset += length;
    }
    Ok(marked)
}

fn mark(bitmap: &mut DirtyBitmap, range: Range<u64>) {
    bitmap
        .set(range.start, range.end - range.start)
        .expect("ranges are cut at the end of the disk");
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // A page at a time: data ends the search at its first page, zeroes are read at memory speed.
    bytes
        .chunks(4096)
        .all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}

struct Comparison<'a> {
    source: &'a dyn Device,
    reference: Option<&'a dyn Device>,
    cluster: u64,
}

impl Comparison<'_> {
    /// The runs of differing clusters inside one piece.
    fn differing(&self, piece: Range<u64>) -> Result<Vec<Range<u64>>, DeviceError> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut offset = piece.start;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        while offset < piece.end {
            let left = piece.end - offset;
            let (source_zero, a) = self.known_zero(Some(self.source), offset, left);
            let (reference_zero, b) = self.known_zero(self.reference, offset, left);
            if source_zero && reference_zero {
                // Only whole clusters may be passed over; the last one of a source may be short.
                let both = offset + a.min(b);
                let whole = if both >= piece.end {
                    piece.end
                } else {
                    both / self.cluster * self.cluster
                };
                if whole > offset {
                    offset = whole;
                    continue;
                }
            }
            let end = self
                .comparable(source_zero, reference_zero, offset, a.min(b))
                .min(piece.end);
            let length = usize::try_from(end - offset).expect("a piece fits memory");
            theirs.resize(length, 0);
            self.read_reference(&mut theirs, offset)?;
            ours.resize(length, 0);
            let readable = self.source.read_at(&mut ours, offset).is_ok();
            self.collect(&ours, &theirs, readable, offset, &mut runs);
            offset = end;
        }
        Ok(runs)
    }

    /// How far both sides are known to be zero, in whole clusters; nothing if that is not even one.
    fn zero_until(&self, range: Range<u64>) -> Option<u64> {
        let left = range.end - range.start;
        let (source_zero, a) = self.known_zero(Some(self.source), range.start, left);
        if !source_zero {
            return None;
        }
        let (reference_zero, b) = self.known_zero(self.reference, range.start, left);
        let both = range.start + a.min(b);
        // The last cluster of a source may be short.
        let whole = if both >= range.end {
            range.end
        } else {
            both / self.cluster * self.cluster
        };
        (reference_zero && whole > range.start).then_some(whole)
    }

    /// Where the stretch ends that is worth reading at once.
    fn comparable(&self, source_zero: bool, reference_zero: bool, offset: u64, known: u64) -> u64 {
        let start = offset / self.cluster * self.cluster;
        if source_zero && reference_zero {
            return start + self.cluster; // A cluster of which only a part is known as zero.
        }
        start + known.div_ceil(self.cluster).max(1) * self.cluster
    }

    fn collect(
        &self,
        ours: &[u8],
        theirs: &[u8],
        readable: bool,
        offset: u64,
        runs: &mut Vec<Range<u64>>,
    ) {
        let step = usize::try_from(self.cluster).expect("a cluster fits memory");
        for (index, (a, b)) in ours.chunks(step).zip(theirs.chunks(step)).enumerate() {
            let start = offset + index as u64 * self.cluster;
            let differs = if readable {
                a != b
            } else {
                self.differs_alone(b, start)
            };
            if !differs {
                continue;
            }
            let end = start + a.len() as u64;
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
    }

    /// One cluster of a stretch that could not be read whole: an unreadable cluster counts as different.
    fn differs_alone(&self, theirs: &[u8], start: u64) -> bool {
        let mut ours = vec![0; theirs.len()];
        self.source.read_at(&mut ours, start).is_err() || ours != theirs
    }

    /// Whether a side knows zeroes at `offset`, and for how many bytes that holds.
    fn known_zero(&self, side: Option<&dyn Device>, offset: u64, left: u64) -> (bool, u64) {
        let Some(device) = side else {
            return (true, left);
        };
        if offset >= device.size() {
            return (true, left);
        }
        match device.extent(offset, left.min(device.size() - offset)) {
            Ok(extent) => (extent.kind == ExtentKind::Zero, extent.length),
            Err(_) => (false, left), // Reading decides.
        }
    }

    fn read_reference(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        buffer.fill(0);
        let Some(reference) = self.reference else {
            return Ok(());
        };
        let held = reference
            .size()
            .saturating_sub(offset)
            .min(buffer.len() as u64);
        if held == 0 {
            return Ok(());
        }
        reference.read_at(
            &mut buffer[..usize::try_from(held).expect("bounded by the buffer")],
            offset,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cohort_block::MemoryDevice;
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: u64 = 4096;

    fn granularity() -> Granularity {
        Granularity::new(CLUSTER).unwrap()
    }
    fn disk(bytes: &[u8]) -> Arc<MemoryDevice> {
        Arc::new(MemoryDevice::with_bytes("disk", bytes))
    }
    fn rows(source: &dyn Device, reference: Option<&dyn Device>) -> String {
        scan(source, reference, granularity(), 0..source.size())
            .unwrap()
            .to_row()
    }

    #[test]
    fn single_differing_byte_makes_its_cluster_dirty() {
        let old = vec![7; 5 * 4096 + 100];
        let mut new = old.clone();
        new[4095] = 8;
        new[3 * 4096] = 8;
        *new.last_mut().unwrap() = 8;
        assert_eq!(rows(&*disk(&new), Some(&*disk(&old))), "100101");
    }

    #[test]
    fn beyond_a_shorter_reference_everything_but_zeroes_differs() {
        let mut new = vec![0; 4 * 4096];
        new[..4096].fill(1);
        new[3 * 4096 + 5] = 1;
        assert_eq!(rows(&*disk(&new), Some(&*disk(&[1; 4096]))), "0001");
        assert_eq!(rows(&*disk(&new), None), "1001");
        // The reference may also be longer, and end in the middle of a cluster.
        assert_eq!(rows(&*disk(&[1; 4000]), Some(&*disk(&[1; 9000]))), "0");
    }

    proptest! {
        #[test]
        fn scan_finds_exactly_the_clusters_that_differ(
            size in 1..40_000usize,
            other in 0..40_000usize,
            writes in prop::collection::vec((0..40_000usize, 0..3u8, any::<bool>()), 0..20),
        ) {
            let (mut ours, mut theirs) = (vec![0; size], vec![0; other]);
            for (at, value, both) in writes {
                if at < size { ours[at] = value; }
                if both && at < other { theirs[at] = value; }
            }
            let mut padded = theirs.clone();
            padded.resize(size.max(other), 0);
            let slow: String = ours
                .chunks(CLUSTER as usize)
                .zip(padded.chunks(CLUSTER as usize))
                .map(|(a, b)| if *a == b[..a.len()] { '0' } else { '1' })
                .collect();
            prop_assert_eq!(rows(&*disk(&ours), Some(&*disk(&theirs))), slow);
        }

        #[test]
        fn zero_test_agrees_with_looking_at_each_byte(size in 0..20_000usize, at in 0..20_000usize, value: u8) {
            let mut bytes = vec![0; size];
            if at < size { bytes[at] = value; }
            prop_assert_eq!(is_zero(&bytes), bytes.iter().all(|&b| b == 0));
        }
    }
}
