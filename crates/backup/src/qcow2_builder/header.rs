//! The header: the one sector that says which tables hold.
//!
//! Bytes of the header cluster, as the published format describes version 3 (numbers big-endian):
//!
//! | bytes | what |
//! |---|---|
//! | 0..104 | the header proper |
//! | 104.. | the backing format extension, if there is a backing file; then the end mark, 8 zeroes |
//! | after it | the name of the backing file |
//!
//! Only the first sector ever changes after creation. A name that runs over its end is written
//! once, before the first seal.

use super::error::BuildError;
use super::layout::{Layout, SECTOR};

const MAGIC: [u8; 4] = *b"QFI\xfb";
const VERSION: u32 = 3;
const HEADER_LENGTH: usize = 104;
/// 16-bit counts, the format's default: two to the power of four bits.
const REFCOUNT_ORDER: u32 = 4;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_F857;
/// The format's own limit on the name of a backing file.
const NAME_LIMIT: usize = 1023;

/// The file below a layer: what the layer does not map is read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The file, as written into the header: relative to the directory of the layer itself.
    pub file: String,
    /// The format of that file, such as `qcow2` or `raw`; readers need not guess.
    pub format: String,
}

/// Where the tables of one seal lie, in clusters of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) l1: u64,
    pub(super) refcount_table: u64,
    pub(super) refcount_table_clusters: u64,
}

/// A header read back.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) layout: Layout,
    pub(super) backing: Option<Backing>,
    pub(super) roots: Roots,
}

/// The header cluster of a new image, as far as it is used; at least one sector.
///
/// The roots are left zero: [`point_at`] sets them at each seal.
pub(super) fn encode(layout: Layout, backing: Option<&Backing>) -> Result<Vec<u8>, BuildError> {
    let mut bytes = vec![0; HEADER_LENGTH];
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, 4, &VERSION.to_be_bytes());
    put(&mut bytes, 20, &layout.cluster_bits().to_be_bytes());
    put(&mut bytes, 24, &layout.size().to_be_bytes());
    // Within `u32`: the layout limits the table to 32 MiB.
    put(&mut bytes, 36, &(layout.l1_entries() as u32).to_be_bytes());
    put(&mut bytes, 96, &REFCOUNT_ORDER.to_be_bytes());
    put(&mut bytes, 100, &(HEADER_LENGTH as u32).to_be_bytes());
    if let Some(backing) = backing {
        append_format(&mut bytes, &backing.format);
    }
    bytes.extend_from_slice(&[0; 8]);
    if let Some(backing) = backing {
        let start = bytes.len();
        let room = (layout.cluster_size() as usize).saturating_sub(start);
        let (length, limit) = (backing.file.len(), room.min(NAME_LIMIT));
        if length == 0 || length > limit {
            return Err(BuildError::BackingName { length, limit });
        }
        put(&mut bytes, 8, &(start as u64).to_be_bytes());
        put(&mut bytes, 16, &(length as u32).to_be_bytes());
        bytes.extend_from_slice(backing.file.as_bytes());
    }
    bytes.resize(bytes.len().max(SECTOR), 0);
    Ok(bytes)
}

/// Makes a header sector name the tables of a seal.
pub(super) fn point_at(sector: &mut [u8; SECTOR], layout: Layout, roots: Roots) {
    put(sector, 40, &layout.offset(roots.l1).to_be_bytes());
    put(
        sector,
        48,
        &layout.offset(roots.refcount_table).to_be_bytes(),
    );
    // Within `u32`: the refcount table is at most 8 MiB.
    let clusters = roots.refcount_table_clusters as u32;
    put(sector, 56, &clusters.to_be_bytes());
}

/// Reads a header; `bytes` is the start of the file, a cluster of it or as much as there is.
pub(super) fn decode(bytes: &[u8]) -> Result<Header, BuildError> {
    if bytes.len() < SECTOR || bytes[..4] != MAGIC {
        return Err(BuildError::NotSealed);
    }
    refuse_foreign(bytes)?;
    let cluster_bits = u32_at(bytes, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(BuildError::damaged("impossible cluster size"));
    }
    let size = u64_at(bytes, 24);
    let layout = Layout::new(size, 1 << cluster_bits)?;
    if layout.size() != size || layout.l1_entries() != u64::from(u32_at(bytes, 36)) {
        return Err(BuildError::Unsupported {
            feature: "an L1 table or size of another shape",
        });
    }
    let cluster = |offset: u64, what: &str| match layout.cluster_at(offset) {
        Some(cluster) if cluster > 0 => Ok(cluster),
        Some(_) | None => Err(BuildError::damaged(format!(
            "the {what} cannot start at byte {offset}"
        ))),
    };
    let roots = Roots {
        l1: cluster(u64_at(bytes, 40), "L1 table")?,
        refcount_table: cluster(u64_at(bytes, 48), "refcount table")?,
        refcount_table_clusters: u64::from(u32_at(bytes, 56)),
    };
    let backing = decode_backing(&bytes[..bytes.len().min(1 << cluster_bits)])?;
    Ok(Header {
        layout,
        backing,
        roots,
    })
}

/// The cluster size that a header sector claims, for reading the rest of its cluster.
pub(super) fn claimed_cluster_size(sector: &[u8; SECTOR]) -> u64 {
    1 << u32_at(sector, 20).clamp(9, 21)
}

/// Everything that a target being built never carries, each by its name.
fn refuse_foreign(bytes: &[u8]) -> Result<(), BuildError> {
    let unsupported = |feature| Err(BuildError::Unsupported { feature });
    match () {
        () if u32_at(bytes, 4) != VERSION => unsupported("another version than 3"),
        () if u32_at(bytes, 32) != 0 => unsupported("encryption"),
        () if u32_at(bytes, 60) != 0 => unsupported("internal snapshots"),
        () if u64_at(bytes, 72) != 0 => unsupported("incompatible features"),
        () if u64_at(bytes, 80) != 0 => unsupported("lazy refcounts"),
        () if u64_at(bytes, 88) != 0 => unsupported("bitmaps or other auto-clear features"),
        () if u32_at(bytes, 96) != REFCOUNT_ORDER => unsupported("refcounts not 16 bits wide"),
        () if !(104..=SECTOR as u32).contains(&u32_at(bytes, 100)) => {
            unsupported("a header of unknown length")
        }
        () => Ok(()),
    }
}

fn decode_backing(cluster: &[u8]) -> Result<Option<Backing>, BuildError> {
    let format = decode_extensions(cluster)?;
    let start = u64_at(cluster, 8);
    let length = u32_at(cluster, 16) as usize;
    if start == 0 {
        return Ok(None);
    }
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let name = start
        .checked_add(length)
        .filter(|_| (1..=NAME_LIMIT).contains(&length))
        .and_then(|end| cluster.get(start..end))
        .ok_or_else(|| BuildError::damaged("the backing file name lies outside the header"))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    match (text(name), format.and_then(text)) {
        (Some(file), Some(format)) => Ok(Some(Backing { file, format })),
        (None, _) | (_, None) => Err(BuildError::Unsupported {
            feature: "a backing file without a plain name and format",
        }),
    }
}

/// Walks the extensions to their end mark; returns the backing format.
fn decode_extensions(cluster: &[u8]) -> Result<Option<&[u8]>, BuildError> {
    let mut at = u32_at(cluster, 100) as usize;
    let mut format = None;
    loop {
        let cut = || BuildError::damaged("a header extension runs out of the header");
        let head = cluster.get(at..at + 8).ok_or_else(cut)?;
        let (kind, length) = (u32_at(head, 0), u32_at(head, 4) as usize);
        let rest = &cluster[at + 8..];
        let data = rest.get(..length).ok_or_else(cut)?;
        match kind {
            EXTENSION_END => return Ok(format),
            EXTENSION_BACKING_FORMAT => format = Some(data),
            // A table of names, for messages only.
            EXTENSION_FEATURE_NAMES => {}
            _ => {
                return Err(BuildError::Unsupported {
                    feature: "a header extension unknown here",
                });
            }
        }
        at += 8 + length.next_multiple_of(8);
    }
}

fn append_format(bytes: &mut Vec<u8>, format: &str) {
    bytes.extend_from_slice(&EXTENSION_BACKING_FORMAT.to_be_bytes());
    bytes.extend_from_slice(&(format.len() as u32).to_be_bytes());
    bytes.extend_from_slice(format.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}
