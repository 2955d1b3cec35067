//! Digests of what an image holds (section 4).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::catalogue::ImageRow;
use super::fields::ensure;
use super::image::Layer;

const TRAILER: usize = 64;
const NO_PLACE: u64 = u64::MAX;

fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = &bytes[at..at + 8];
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// What a file of digests must say of an image.
#[derive(Debug)]
pub(super) struct Tells<'a> {
    /// All that the image holds; else nothing that is not so.
    pub(super) whole: bool,
    /// Clusters of which it may say something else: what lies over them was appended to the image.
    pub(super) other: &'a BTreeSet<u64>,
    /// The cluster size that its row had when they were made.
    pub(super) cluster: u64,
}

/// Whether a file of digests is the one that a row names, and says what the image holds.
pub(super) fn check(
    path: &Path,
    root: &str,
    layer: &Layer,
    row: &ImageRow,
    tells: &Tells<'_>,
) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let found = blake3::hash(&bytes).to_hex();
    ensure(found.as_str() == root, || {
        "it is not the file that was named".to_owned()
    })?;
    ensure(bytes.len() >= TRAILER, || "it is too short".to_owned())?;
    let (body, trailer) = bytes.split_at(bytes.len() - TRAILER);
    let head = trailer[..8] == *b"COHORTdg" && number(trailer, 8) == 1;
    ensure(head, || "its end is no trailer of version 1".to_owned())?;
    let told = (number(trailer, 16), number(trailer, 24));
    ensure(told == (tells.cluster, row.size), || {
        format!("it is of a disk of {told:?}")
    })?;
    if layer.cluster != tells.cluster {
        // Merged into finer clusters.
        return Ok(());
    }
    let (digests, runs) = (number(trailer, 32) as usize, number(trailer, 40) as usize);
    ensure(body.len() == digests * 16 + runs * 24, || {
        "its parts do not add up".to_owned()
    })?;
    ensure(trailer[48..].iter().all(|byte| *byte == 0), || {
        "its end has more".to_owned()
    })?;
    let (digests, runs) = body.split_at(digests * 16);
    let mut next = 0;
    let mut told = 0;
    for run in runs.chunks(24) {
        let (first, count, place) = (number(run, 0), number(run, 8), number(run, 16));
        ensure(count > 0 && first >= next, || {
            format!("the run at {first} is out of order")
        })?;
        next = first + count;
        for cluster in first..next {
            let held = layer.held.get(&cluster);
            let digest = match place {
                NO_PLACE => None,
                place => {
                    let at = (place + cluster - first) as usize * 16;
                    Some(digests.get(at..at + 16).ok_or("a digest past the end")?)
                }
            };
            let same = match (held, digest) {
                (Some(None), None) => true,
                (Some(Some(data)), None) => data.iter().all(|byte| *byte == 0),
                (Some(Some(data)), Some(digest)) => of(data) == digest,
                // What a standalone image does not hold is zeroes.
                (None, None) => layer.backing.is_none(),
                (Some(None), Some(_)) | (None, Some(_)) => false,
            };
            let hidden = tells.other.contains(&cluster);
            ensure(same || hidden, || {
                format!("cluster {cluster} is not what its digest says")
            })?;
            told += u64::from(held.is_some());
        }
    }
    let all = !tells.whole || told == layer.held.len() as u64;
    ensure(all, || {
        format!("it tells of {told} of {} clusters", layer.held.len())
    })
}

fn of(cluster: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(cluster).as_bytes()[..16]);
    if digest == [0; 16] {
        digest[0] = 1;
    }
    digest
}
