//! A small reader of qcow2, independent of the builder: what a file holds, and whether its reference
//! counts are exact.

use std::collections::BTreeMap;
use std::io::Read;

/// What an image says of one cluster of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cluster {
    Unmapped,
    Zero,
    Data(Vec<u8>),
    /// Compressed, and not to be inflated: the map is exact, what it leads to is not what was written.
    Damaged,
}

/// A whole image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) size: u64,
    pub(crate) cluster_size: usize,
    /// Name and format of the backing file.
    pub(crate) backing: Option<(String, String)>,
    pub(crate) clusters: Vec<Cluster>,
}

/// Whether a file claims to be qcow2 at all.
pub(crate) fn is_qcow2(file: &[u8]) -> bool {
    file.starts_with(&[b'Q', b'F', b'I', 0xfb])
}

/// Reads an image and counts every reference to every cluster.
pub(crate) fn read(file: &[u8]) -> Result<Image, String> {
    if !is_qcow2(file) || number(file, 4, 4)? != 3 {
        return Err("not version 3".into());
    }
    let bits = number(file, 20, 4)?;
    let cluster_size = 1_u64 << bits;
    let size = number(file, 24, 8)?;
    let mut references = BTreeMap::from([(0, 1_u64)]);
    // Of whole clusters, or of the sectors that something compressed takes.
    let mut refer = |offset: u64, length: u64, unit: u64| -> Result<(), String> {
        if !offset.is_multiple_of(unit) || offset < cluster_size {
            return Err(format!("reference to {offset:#x}"));
        }
        for cluster in offset / cluster_size..(offset + length).div_ceil(cluster_size) {
            *references.entry(cluster).or_default() += 1;
        }
        Ok(())
    };

    let per_table = cluster_size / 8;
    let l1_entries = number(file, 36, 4)?;
    let l1_offset = number(file, 40, 8)?;
    let l1_length = (l1_entries * 8).next_multiple_of(cluster_size);
    refer(l1_offset, l1_length, cluster_size)?;
    let mut clusters = vec![Cluster::Unmapped; size.div_ceil(cluster_size) as usize];
    for table in 0..l1_entries {
        let entry = number(file, l1_offset + table * 8, 8)?;
        if entry == 0 {
            continue;
        }
        let l2_offset = flagged(entry)?;
        refer(l2_offset, cluster_size, cluster_size)?;
        for slot in 0..per_table {
            let entry = number(file, l2_offset + slot * 8, 8)?;
            let index = (table * per_table + slot) as usize;
            let content = match entry {
                0 => continue,
                1 => Cluster::Zero,
                _ if entry >> 62 == 1 => {
                    let (offset, length) = compressed(entry, bits);
                    refer(offset, length, 512)?;
                    inflate(bytes(file, offset, length)?, cluster_size)
                        .map_or(Cluster::Damaged, Cluster::Data)
                }
                _ => {
                    let offset = flagged(entry)?;
                    refer(offset, cluster_size, cluster_size)?;
                    Cluster::Data(bytes(file, offset, cluster_size)?.to_vec())
                }
            };
            *clusters.get_mut(index).ok_or("mapped beyond the disk")? = content;
        }
    }

    let counts_offset = number(file, 48, 8)?;
    let counts_clusters = number(file, 56, 4)?;
    refer(counts_offset, counts_clusters * cluster_size, cluster_size)?;
    let mut blocks = Vec::new();
    for entry in 0..counts_clusters * per_table {
        let offset = number(file, counts_offset + entry * 8, 8)?;
        if offset != 0 {
            refer(offset, cluster_size, cluster_size)?;
            blocks.push((entry, offset));
        }
    }
    let mut counts = BTreeMap::new();
    for (block, offset) in blocks {
        for slot in 0..cluster_size / 2 {
            let count = number(file, offset + slot * 2, 2)?;
            if count != 0 {
                counts.insert(block * (cluster_size / 2) + slot, count);
            }
        }
    }
    if counts != references {
        return Err(format!("counts {counts:?} but references {references:?}"));
    }
    Ok(Image {
        size,
        cluster_size: cluster_size as usize,
        backing: backing(file, cluster_size)?,
        clusters,
    })
}

fn backing(file: &[u8], cluster_size: u64) -> Result<Option<(String, String)>, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string());
    let (offset, length) = (number(file, 8, 8)?, number(file, 16, 4)?);
    if offset == 0 {
        return Ok(None);
    }
    if offset + length > cluster_size {
        return Err("the name leaves the header cluster".into());
    }
    let name = text(bytes(file, offset, length)?)?;
    let mut at = number(file, 100, 4)?;
    loop {
        let (kind, length) = (number(file, at, 4)?, number(file, at + 4, 4)?);
        match kind {
            0 => return Err("no backing format".into()),
            0xE279_2ACA => {
                let format = text(bytes(file, at + 8, length)?)?;
                return Ok(Some((name, format)));
            }
            _ => at += 8 + length.div_ceil(8) * 8,
        }
    }
}

/// The offset in an entry that carries the "exactly one reference" flag and nothing else.
fn flagged(entry: u64) -> Result<u64, String> {
    if entry >> 63 == 0 || entry & 0x1ff != 0 {
        return Err(format!("entry {entry:#x}"));
    }
    Ok(entry & !(1 << 63))
}

/// Where something compressed lies, and how long it is at most.
fn compressed(entry: u64, cluster_bits: u64) -> (u64, u64) {
    let sectors_at = 62 - (cluster_bits - 8);
    let offset = entry & ((1 << sectors_at) - 1);
    let sectors = (entry & !(1 << 62)) >> sectors_at;
    (offset, (sectors + 1) * 512 - offset % 512)
}

fn inflate(packed: &[u8], length: u64) -> Option<Vec<u8>> {
    let mut whole = vec![0; length as usize];
    let mut reader = flate2::read::DeflateDecoder::new(packed);
    reader.read_exact(&mut whole).ok()?;
    Some(whole)
}

fn number(file: &[u8], at: u64, length: u64) -> Result<u64, String> {
    let bytes = bytes(file, at, length)?;
    Ok(bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn bytes(file: &[u8], at: u64, length: u64) -> Result<&[u8], String> {
    let (at, length) = (at as usize, length as usize);
    at.checked_add(length)
        .and_then(|end| file.get(at..end))
        .ok_or_else(|| format!("{length} bytes at {at:#x} are beyond the file"))
}
