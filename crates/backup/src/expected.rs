//! What the bytes of an image, or of a point, have to be: pieces of a disk, and the digests that speak of them.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cohort_bitmap::{DirtyBitmap, Granularity, SizeError};
use cohort_block::OsFile;

use crate::catalogue::{Contents, DiskName, ImageName, Layer, RunId};
use crate::digests::{Digest, Sidecar, SidecarError};
use crate::qcow2_builder::BuildError;
use crate::scan::is_zero;

/// Bytes that are read at once: whole clusters, whatever their size.
const PIECE: u64 = 2 << 20;

/// Bytes of a disk about which one thing is known.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Of the disk; cut at its end.
    pub(crate) bytes: Range<u64>,
    pub(crate) says: Says,
    /// Which image of the chain holds them, counted from the top; none if nobody does.
    pub(crate) layer: Option<usize>,
}

/// What is known of the bytes of a piece.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// Their digests: whole clusters of this run.
    Digests(Arc<Sidecar>, usize),
    /// They are zeroes.
    Zeroes,
    /// Nothing.
    Nothing,
}

/// Why it cannot be said what a point's bytes have to be.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ExpectedError {
    #[error(transparent)]
    Digests(#[from] SidecarError),
    #[error(transparent)]
    Image(#[from] BuildError),
    #[error("{0}")]
    Open(String),
    #[error(transparent)]
    TooLarge(#[from] SizeError),
}

impl Piece {
    /// Cuts the piece into some that are read at once.
    pub(crate) fn cut(self) -> impl Iterator<Item = Piece> {
        let Piece { bytes, says, layer } = self;
        let end = bytes.end;
        bytes.step_by(PIECE as usize).map(move |start| Piece {
            bytes: start..(start + PIECE).min(end),
            says: says.clone(),
            layer,
        })
    }

    /// The parts of the piece that `data` shows to be otherwise.
    pub(crate) fn differing(&self, data: &[u8]) -> Result<Vec<Range<u64>>, SidecarError> {
        /// What is not in clusters is judged by this much.
        const BLOCK: u64 = 4 << 10;
        let start = self.bytes.start;
        let place = |index: usize, unit: u64, data: &[u8]| {
            let at = start + index as u64 * unit;
            at..at + data.len() as u64
        };
        Ok(match &self.says {
            Says::Nothing => Vec::new(),
            Says::Zeroes => {
                let blocks = data.chunks(BLOCK as usize).enumerate();
                let wrong = blocks.filter(|(_, block)| !is_zero(block));
                wrong
                    .map(|(index, block)| place(index, BLOCK, block))
                    .collect()
            }
            Says::Digests(sidecar, run) => {
                let cluster = sidecar.cluster();
                let clusters = start / cluster..self.bytes.end.div_ceil(cluster);
                let digests = sidecar.read(&sidecar.runs()[*run], clusters)?;
                let chunks = data.chunks(cluster as usize).enumerate().zip(digests);
                let wrong =
                    chunks.filter(|((_, data), digest)| Digest::of(data, cluster) != *digest);
                wrong
                    .map(|((index, data), _)| place(index, cluster, data))
                    .collect()
            }
        })
    }
}

/// What an image itself holds, by its digests, as far as a disk of `size` bytes reaches.
pub(crate) fn of_layer(sidecar: &Arc<Sidecar>, size: u64) -> impl Iterator<Item = Piece> {
    let cluster = sidecar.cluster();
    let piece = move |(index, run): (usize, &crate::digests::Run)| Piece {
        bytes: (run.clusters().start * cluster).min(size)..(run.clusters().end * cluster).min(size),
        says: Says::Digests(Arc::clone(sidecar), index),
        layer: Some(0),
    };
    let pieces = sidecar.runs().iter().enumerate().map(piece);
    pieces.filter(|piece| !piece.bytes.is_empty())
}

/// All that a point reads as, in the order of the disk: for each byte what the topmost image that holds it says.
pub(crate) fn of_point(
    directory: &Path,
    contents: &Contents,
    disk: &DiskName,
    run: RunId,
) -> Result<Vec<Piece>, ExpectedError> {
    let layers = contents.layers(disk, run);
    let size = layers.first().map_or(0, |layer| layer.size);
    let finest = layers
        .iter()
        .map(|layer| u64::from(layer.cluster_size))
        .min();
    let unit = finest
        .and_then(|finest| Granularity::new(finest).ok())
        .unwrap_or_default();
    let mut left = DirtyBitmap::all_dirty(size, unit)?;
    let own: BTreeSet<_> = contents
        .points_of(disk)
        .map(|(_, point)| &point.file)
        .collect();
    let (mut pieces, mut image) = (Vec::new(), None);
    for (depth, layer) in layers.iter().enumerate() {
        if own.contains(layer.file) {
            image = Some(layer.file);
        }
        let image = image.unwrap_or(layer.file);
        let seen = visible(directory, layer, image, size, &mut left)?.into_iter();
        pieces.extend(seen.map(|piece| Piece {
            layer: Some(depth),
            ..piece
        }));
        let cluster = u64::from(layer.cluster_size).max(unit.bytes());
        pieces.extend(beyond(layer.size, depth, cluster, &mut left));
    }
    pieces.extend(left.runs().map(|run| Piece {
        bytes: run.offset..run.offset + run.length,
        says: Says::Zeroes,
        layer: None,
    }));
    pieces.sort_by_key(|piece| piece.bytes.start);
    Ok(pieces)
}

/// The bytes that are left beyond the end of a layer, whose disk was smaller: they are zeroes, whatever lies below. Of the
/// layer's own cluster in which it ended nothing is said, for what is before the end may lie below; and as it is one piece,
/// whoever writes it anew writes it whole.
fn beyond(end: u64, depth: usize, cluster: u64, left: &mut DirtyBitmap) -> Vec<Piece> {
    let size = left.size();
    if end >= size {
        return Vec::new();
    }
    let (start, whole) = (end - end % cluster, end.next_multiple_of(cluster).min(size));
    let piece = |run: cohort_bitmap::Run, says| Piece {
        bytes: run.range(),
        says,
        layer: Some(depth),
    };
    let cut = left
        .runs_in(start, whole, u64::MAX)
        .map(|run| piece(run, Says::Nothing));
    let rest = left
        .runs_in(whole, size, u64::MAX)
        .map(|run| piece(run, Says::Zeroes));
    let pieces = cut.chain(rest).collect();
    let cleared = left.reset(start, size - start);
    cleared.expect("it begins at a cluster and ends with the disk");
    pieces
}

/// What a layer says of the bytes that are left by the layers above it; takes them away. `image` is that of its point, which
/// a layer that is to be merged into it may have become.
fn visible(
    directory: &Path,
    layer: &Layer<'_>,
    image: &ImageName,
    size: u64,
    left: &mut DirtyBitmap,
) -> Result<Vec<Piece>, ExpectedError> {
    let own = match layer.digests {
        Some(stored) => {
            let path = directory.join(stored.file.to_string());
            of_layer(&Arc::new(Sidecar::open(&path, stored.root)?), size).collect()
        }
        None => held(directory, layer, image, left)?,
    };
    let (mut pieces, before) = (Vec::new(), left.clone());
    for piece in own {
        // Clusters are whole units of the set, which the end of the disk alone may cut.
        let cleared = left.reset(piece.bytes.start, piece.bytes.end - piece.bytes.start);
        cleared.expect("clusters are aligned and inside");
        // Of a disk that was larger, the last cluster held more than the bytes that are left of it.
        let whole_tail = layer.size <= size || piece.bytes.end < size;
        for seen in before.runs_in(piece.bytes.start, piece.bytes.end, u64::MAX) {
            let cluster = u64::from(layer.cluster_size);
            pieces.extend(split(&piece, cluster, seen.range(), whole_tail));
        }
    }
    Ok(pieces)
}

/// The part `seen` of a piece: whole clusters keep what is said of them, of parts of clusters nothing is known.
fn split(piece: &Piece, cluster: u64, seen: Range<u64>, whole_tail: bool) -> Vec<Piece> {
    let nothing = |bytes| Piece {
        bytes,
        says: Says::Nothing,
        layer: piece.layer,
    };
    let first = seen.start.next_multiple_of(cluster).min(seen.end);
    let whole_end = seen.end - seen.end % cluster;
    // The last cluster of the disk ends where the disk does.
    let last = if seen.end == piece.bytes.end && whole_tail {
        seen.end
    } else {
        whole_end.max(first)
    };
    let middle = Piece {
        bytes: first..last,
        says: piece.says.clone(),
        layer: piece.layer,
    };
    [nothing(seen.start..first), middle, nothing(last..seen.end)]
        .into_iter()
        .filter(|piece| !piece.bytes.is_empty())
        .collect()
}

/// What an image without digests holds.
fn held(
    directory: &Path,
    layer: &Layer<'_>,
    image: &ImageName,
    left: &DirtyBitmap,
) -> Result<Vec<Piece>, ExpectedError> {
    let path = directory.join(layer.file.to_string());
    let file = match OsFile::open(&path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && image != layer.file => {
            OsFile::open(directory.join(image.to_string()), false)
        }
        file => file,
    };
    let file = file.map_err(|error| ExpectedError::Open(format!("{}: {error}", path.display())))?;
    let builder = crate::Qcow2Builder::open(file)?;
    let (cluster, size) = (builder.cluster_size(), left.size());
    if cluster < left.granularity().bytes() {
        let path = path.display();
        let what = format!("{path}: its clusters are smaller than the catalogue says");
        return Err(ExpectedError::Open(what));
    }
    let piece = |run: Result<(Range<u64>, _), BuildError>| {
        let (clusters, _) = run?;
        Ok(Piece {
            bytes: (clusters.start * cluster).min(size)..(clusters.end * cluster).min(size),
            says: Says::Nothing,
            layer: Some(0),
        })
    };
    let pieces: Result<Vec<Piece>, BuildError> = builder.held().map(piece).collect();
    let mut pieces = pieces?;
    pieces.retain(|piece| !piece.bytes.is_empty());
    Ok(pieces)
}
