//! One image: whether it is there, whether its tables are in order, whether it holds what its digests say.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cohort_block::{Device, ExtentKind, Format, OpenOptions, OsFile};
use rayon::prelude::*;

use super::Watch;
use super::damage::Finding;
use crate::catalogue::{Contents, DiskName, Layer, Merging, Partial, RunId};
use crate::digests::Sidecar;
use crate::expected::{Piece, Says, of_layer, of_point};
use crate::qcow2_builder::{Held, Qcow2Builder};

/// An image to look at.
#[derive(Clone, Debug)]
pub(super) struct Subject<'a> {
    pub(super) disk: DiskName,
    /// The point it is of; none for a partial.
    pub(super) run: Option<RunId>,
    pub(super) layer: Layer<'a>,
    /// The file that it lies on.
    below: Option<String>,
    /// The images that it is to be merged with, if it is a pruned chain's.
    merging: &'a [Merging],
}

/// What was found out about an image.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) damage: Vec<Finding>,
    /// It has no digests, or they cannot be used.
    pub(super) unchecked: bool,
}

impl<'a> Subject<'a> {
    pub(super) fn of_point(contents: &'a Contents, disk: &DiskName, run: RunId) -> Option<Self> {
        let layers = contents.layers(disk, run);
        let merging = &contents.point(disk, run)?.merging[..];
        Some(Self {
            disk: disk.clone(),
            run: Some(run),
            layer: *layers.first()?,
            below: layers.get(1).map(|layer| layer.file.to_string()),
            merging,
        })
    }

    pub(super) fn of_partial(
        contents: &'a Contents,
        disk: &DiskName,
        partial: &'a Partial,
    ) -> Self {
        let parent = partial.parent.and_then(|run| contents.point(disk, run));
        Self {
            disk: disk.clone(),
            run: None,
            layer: Layer {
                file: &partial.file,
                size: partial.size,
                cluster_size: partial.cluster_size,
                digests: partial.digests.as_ref(),
            },
            below: parent.map(|parent| parent.file.to_string()),
            merging: &[],
        }
    }
}

/// Looks at an image and at its digests.
pub(super) fn check(
    directory: &Path,
    contents: &Contents,
    subject: &Subject<'_>,
    watch: &Watch<'_>,
) -> Found {
    if !subject.merging.is_empty() {
        return check_merging(directory, contents, subject, watch);
    }
    let mut found = Found::default();
    let path = directory.join(subject.layer.file.to_string());
    let builder = match open(&path, subject) {
        Ok(builder) => builder,
        Err(finding) => {
            found.damage.push(finding);
            return found;
        }
    };
    let held = match held(&builder) {
        Ok(held) => held,
        Err(finding) => {
            found.damage.push(finding);
            return found;
        }
    };
    let digests = subject.layer.digests.map(|stored| {
        let path = directory.join(stored.file.to_string());
        Sidecar::open(&path, stored.root)
            .map_err(|error| Finding::of_digests(stored.file.to_string(), error.to_string()))
    });
    let mut pieces: Vec<Piece> = match digests {
        Some(Ok(digests)) => {
            if subject.run.is_some() {
                found.damage.extend(compare_maps(&digests, &held));
            }
            of_layer(&Arc::new(digests), subject.layer.size).collect()
        }
        Some(Err(finding)) => {
            found.damage.push(finding);
            found.unchecked = true;
            Vec::new()
        }
        None => {
            found.unchecked = true;
            Vec::new()
        }
    };
    if found.unchecked {
        let cluster = u64::from(subject.layer.cluster_size);
        let data = held.iter().filter(|(_, held)| *held == Held::Data);
        pieces = data
            .map(|(clusters, _)| Piece {
                bytes: clusters.start * cluster..(clusters.end * cluster).min(subject.layer.size),
                says: Says::Nothing,
                layer: Some(0),
            })
            .collect();
    }
    // The catalogue's lock guards the directory, and nobody writes over what was sealed.
    let options = OpenOptions::read_only()
        .format(Format::Qcow2)
        .without_lock();
    match cohort_block::open(&path, options) {
        Ok(device) => found.damage.extend(read(&*device, pieces, watch)),
        Err(error) => found.damage.push(Finding::whole(error.to_string())),
    }
    found
}

/// Looks at a point that is being merged: which of its images holds what changes from moment to moment, and what all of
/// them together show does not.
fn check_merging(
    directory: &Path,
    contents: &Contents,
    subject: &Subject<'_>,
    watch: &Watch<'_>,
) -> Found {
    let mut found = Found::default();
    let Some(run) = subject.run else {
        return found;
    };
    let layers = subject.merging.iter().map(|layer| &layer.digests);
    found.unchecked = subject.layer.digests.is_none() || layers.into_iter().any(Option::is_none);
    let path = directory.join(subject.layer.file.to_string());
    let options = OpenOptions::read_only()
        .format(Format::Qcow2)
        .without_lock();
    let device = match cohort_block::open(&path, options) {
        Ok(device) => device,
        Err(error) => {
            found.damage.push(Finding::whole(error.to_string()));
            return found;
        }
    };
    match of_point(directory, contents, &subject.disk, run) {
        Ok(mut pieces) => {
            pieces.retain(|piece| {
                piece
                    .layer
                    .is_some_and(|depth| depth <= subject.merging.len())
            });
            found.damage.extend(read(&*device, pieces, watch));
        }
        Err(error) => found.damage.push(Finding::whole(error.to_string())),
    }
    found
}

/// Opens an image with all its tables, each cluster of which must be used and counted once.
fn open(path: &Path, subject: &Subject<'_>) -> Result<Qcow2Builder<OsFile>, Finding> {
    let layer = &subject.layer;
    let file = OsFile::open(path, false).map_err(|error| {
        Finding::whole(if error.kind() == io::ErrorKind::NotFound {
            "it is missing".to_owned()
        } else {
            error.to_string()
        })
    })?;
    if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Err(Finding::whole("it is not a regular file"));
    }
    let builder = Qcow2Builder::open(file).map_err(|error| Finding::whole(error.to_string()))?;
    let below = builder.backing().map(|backing| backing.file.clone());
    if builder.cluster_size() != u64::from(layer.cluster_size)
        || builder.size() != layer.size.next_multiple_of(512)
    {
        return Err(Finding::whole(
            "its size or cluster size is not the catalogue's",
        ));
    }
    if below != subject.below {
        let name = |file: Option<&String>| file.map_or("nothing", String::as_str).to_owned();
        let (is, should) = (name(below.as_ref()), name(subject.below.as_ref()));
        return Err(Finding::whole(format!(
            "it lies on {is}, and by the catalogue on {should}"
        )));
    }
    Ok(builder)
}

fn held(builder: &Qcow2Builder<OsFile>) -> Result<Vec<(Range<u64>, Held)>, Finding> {
    let held: Result<Vec<_>, _> = builder.held().collect();
    held.map_err(|error| Finding::whole(error.to_string()))
}

/// The image must hold what it has digests of, and nothing else.
fn compare_maps(digests: &Sidecar, held: &[(Range<u64>, Held)]) -> Vec<Finding> {
    let recorded = joined(digests.runs().iter().map(|run| run.clusters()));
    let held = joined(held.iter().map(|(clusters, _)| clusters.clone()));
    let bytes = |clusters: Vec<Range<u64>>| -> Vec<Range<u64>> {
        let unit = digests.cluster();
        let bytes = clusters
            .into_iter()
            .map(|run| run.start * unit..(run.end * unit).min(digests.size()));
        bytes.collect()
    };
    let lost = bytes(without(&recorded, &held));
    let added = bytes(without(&held, &recorded));
    [
        (lost, "its tables have lost what was stored"),
        (added, "its tables lead to what was never stored"),
    ]
    .into_iter()
    .filter(|(ranges, _)| !ranges.is_empty())
    .map(|(ranges, what)| Finding::at(what, ranges))
    .collect()
}

/// Reads all pieces and says where they are otherwise, or cannot be read.
pub(super) fn read(device: &dyn Device, pieces: Vec<Piece>, watch: &Watch<'_>) -> Vec<Finding> {
    each(pieces, watch, |piece| {
        if matches!(piece.says, Says::Zeroes) && is_hole(device, piece.bytes.clone()) {
            return Ok(Vec::new());
        }
        let data = bytes_of(device, piece)?;
        piece.differing(&data).map_err(|error| error.to_string())
    })
}

/// Reads pieces of which nothing is known from two devices, and says where they differ.
pub(super) fn compare(
    device: &dyn Device,
    other: &dyn Device,
    pieces: Vec<Piece>,
    watch: &Watch<'_>,
) -> Vec<Finding> {
    each(pieces, watch, |piece| {
        let same = bytes_of(device, piece)? == bytes_of(other, piece)?;
        Ok(if same {
            Vec::new()
        } else {
            vec![piece.bytes.clone()]
        })
    })
}

fn each(
    pieces: Vec<Piece>,
    watch: &Watch<'_>,
    judge: impl Fn(&Piece) -> Result<Vec<Range<u64>>, String> + Sync,
) -> Vec<Finding> {
    let wrong: Vec<Wrong> = pieces
        .into_par_iter()
        .flat_map_iter(Piece::cut)
        .filter(|_| !watch.cancelled())
        .flat_map_iter(|piece| {
            watch.note(piece.bytes.end - piece.bytes.start);
            match judge(&piece) {
                Ok(ranges) => ranges.into_iter().map(Wrong::Changed).collect(),
                Err(why) => vec![Wrong::Unreadable(piece.bytes, why)],
            }
        })
        .collect();
    let (mut changed, mut findings) = (Vec::new(), Vec::new());
    for wrong in wrong {
        match wrong {
            Wrong::Changed(range) => changed.push(range),
            Wrong::Unreadable(range, why) => findings.push(Finding::at(why, vec![range])),
        }
    }
    if !changed.is_empty() {
        let ranges = joined(changed.into_iter());
        findings.insert(0, Finding::at("it is not what was backed up", ranges));
    }
    findings
}

/// What is wrong with some bytes.
enum Wrong {
    Changed(Range<u64>),
    Unreadable(Range<u64>, String),
}

fn bytes_of(device: &dyn Device, piece: &Piece) -> Result<Vec<u8>, String> {
    let length = piece.bytes.end - piece.bytes.start;
    let mut data = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = device.read_at(&mut data, piece.bytes.start);
    read.map_err(|error| error.to_string())?;
    Ok(data)
}

/// Whether the device knows, without reading, that all of this is zero.
fn is_hole(device: &dyn Device, bytes: Range<u64>) -> bool {
    let mut at = bytes.start;
    while at < bytes.end {
        match device.extent(at, bytes.end - at) {
            Ok(extent) if extent.kind == ExtentKind::Zero => at += extent.length,
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// Neighbours joined; ranges come in order.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

/// The parts of `ranges` that are in none of `others`; both are sorted and without overlaps.
pub(super) fn without(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut others = others.iter().peekable();
    for range in ranges {
        let mut start = range.start;
        while let Some(other) = others.peek() {
            if other.end <= start {
                others.next();
                continue;
            }
            if other.start >= range.end {
                break;
            }
            if other.start > start {
                left.push(start..other.start);
            }
            start = other.end;
            if start >= range.end {
                break;
            }
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_ranges_are_those_of_their_members() {
        let members = |bits: u32| {
            joined(
                (0..10)
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|bit| bit..bit + 1),
            )
        };
        for a in 0..1024u32 {
            for b in (0..1024u32).step_by(7) {
                assert_eq!(
                    without(&members(a), &members(b)),
                    members(a & !b),
                    "{a:b} {b:b}"
                );
            }
        }
    }
}
