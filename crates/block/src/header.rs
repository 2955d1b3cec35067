//! What we must know of a qcow2 file before anything is built on it.
//!
//! Images come from anywhere, so what is on disk is judged here, once, before it reaches the library
//! that maps clusters: features we do not know are named, and tables that leave the file are found now
//! rather than read as zeroes later. Layout: QEMU's `docs/interop/qcow2.rst`.

use std::io;
use std::path::Path;

use crate::file::File;
use crate::open::Access;
use crate::open_error::OpenError;

/// First bytes of every qcow2 file.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Length of a version 2 header, and of the part that both versions share.
const V2_BYTES: u64 = 72;
/// Least length of a version 3 header.
const V3_BYTES: u64 = 104;
/// Longest name of a backing file that the format allows.
const NAME_BYTES: u64 = 1023;
/// Longest level-one table that QEMU opens.
const L1_BYTES: u64 = 32 << 20;
/// Reserved bits of a level-one entry; the rest is an offset and the "copied" flag.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Autoclear bit 0: cleared by every writer that does not keep the bitmaps.
const AUTOCLEAR_BITMAPS: u64 = 1;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;

/// What a header says that matters to us; everything else in it was found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// Whether somebody promises that QEMU's bitmaps in it, if any, are true.
    pub(crate) promises_bitmaps: bool,
    /// The file beneath and its format, as written in the image.
    pub(crate) backing: Option<Backing>,
}

/// The layer beneath, as the image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) name: String,
    pub(crate) format: Option<String>,
}

/// Reads and judges the header and the level-one table of the qcow2 file at `path`.
pub(crate) fn read(path: &Path, file: &dyn File, access: Access) -> Result<Header, OpenError> {
    let reader = Reader {
        path,
        file,
        length: file.len().map_err(|e| OpenError::io(path, e))?,
    };
    let start = reader.bytes("the header", 0, V2_BYTES)?;
    if start[..4] != MAGIC {
        return Err(OpenError::WrongFormat {
            path: path.into(),
            wanted: "qcow2",
        });
    }
    let version = be32(&start, 4);
    if version != 2 && version != 3 {
        return Err(reader.unsupported(format!("qcow2 version {version}")));
    }
    let cluster_bits = be32(&start, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(reader.damaged(format!("clusters of 2^{cluster_bits} bytes")));
    }
    match be32(&start, 32) {
        0 => {}
        1 => return Err(reader.unsupported("AES encryption".into())),
        2 => return Err(reader.unsupported("LUKS encryption".into())),
        other => return Err(reader.unsupported(format!("encryption method {other}"))),
    }
    let extended = if version == 3 {
        Some(reader.bytes("the header", 0, V3_BYTES)?)
    } else {
        None
    };
    let header_bytes = match &extended {
        Some(header) => check_length(&reader, u64::from(be32(header, 100)), cluster_bits)?,
        None => V2_BYTES,
    };
    let extensions = read_extensions(&reader, &start, header_bytes, cluster_bits)?;
    if let Some(header) = &extended {
        check_features(&reader, be64(header, 72), header_bytes, &extensions)?;
        if be32(header, 96) > 6 {
            return Err(reader.damaged(format!("refcounts of 2^{} bits", be32(header, 96))));
        }
    }
    let promises_bitmaps = extended
        .as_ref()
        .is_some_and(|header| be64(header, 88) & AUTOCLEAR_BITMAPS != 0);
    check_l1_table(&reader, &start, cluster_bits)?;
    check_refcount_table(&reader, &start, cluster_bits, access)?;
    let backing = read_backing(&reader, &start, &extensions, cluster_bits)?;
    Ok(Header {
        version,
        cluster_bits,
        promises_bitmaps,
        backing,
    })
}

/// A file, its length, and how to complain about it.
struct Reader<'a> {
    path: &'a Path,
    file: &'a dyn File,
    length: u64,
}

impl Reader<'_> {
    fn bytes(&self, what: &str, offset: u64, length: u64) -> Result<Vec<u8>, OpenError> {
        self.check_inside(what, offset, length)?;
        let mut bytes = vec![0; length as usize];
        match self.file.read_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.truncated(what, offset, length))
            }
            Err(e) => Err(OpenError::io(self.path, e)),
        }
    }

    fn check_inside(&self, what: &str, offset: u64, length: u64) -> Result<(), OpenError> {
        if offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length)
        {
            Ok(())
        } else {
            Err(self.truncated(what, offset, length))
        }
    }

    fn truncated(&self, what: &str, offset: u64, length: u64) -> OpenError {
        let what = format!(
            "{what} ({length} bytes at byte {offset}) lies beyond the file's {} bytes",
            self.length
        );
        OpenError::Truncated {
            path: self.path.into(),
            what,
        }
    }

    fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged {
            path: self.path.into(),
            what,
        }
    }

    fn unsupported(&self, feature: String) -> OpenError {
        OpenError::Unsupported {
            path: self.path.into(),
            feature,
        }
    }
}

fn check_length(reader: &Reader<'_>, length: u64, cluster_bits: u32) -> Result<u64, OpenError> {
    if length < V3_BYTES || !length.is_multiple_of(8) || length > 1 << cluster_bits {
        return Err(reader.damaged(format!("a header of {length} bytes")));
    }
    Ok(length)
}

/// One header extension.
struct Extension {
    kind: u32,
    data: Vec<u8>,
}

/// Reads the list behind the header. It ends at its end mark, or where the backing file's name begins.
fn read_extensions(
    reader: &Reader<'_>,
    start: &[u8],
    header_bytes: u64,
    cluster_bits: u32,
) -> Result<Vec<Extension>, OpenError> {
    let limit = match be64(start, 8) {
        0 => 1 << cluster_bits,
        name => name.min(1 << cluster_bits),
    };
    let mut found = Vec::new();
    let mut at = header_bytes;
    while at + 8 <= limit {
        let head = reader.bytes("the header extensions", at, 8)?;
        let (kind, length) = (be32(&head, 0), u64::from(be32(&head, 4)));
        if kind == EXTENSION_END {
            break;
        }
        at += 8;
        if length > limit.saturating_sub(at) {
            return Err(reader.damaged(format!("header extension {kind:#010x} leaves the header")));
        }
        found.push(Extension {
            kind,
            data: reader.bytes("the header extensions", at, length)?,
        });
        at += length.next_multiple_of(8);
    }
    Ok(found)
}

/// Refuses what we cannot read, by name.
fn check_features(
    reader: &Reader<'_>,
    features: u64,
    header_bytes: u64,
    extensions: &[Extension],
) -> Result<(), OpenError> {
    let Some(bit) = (0..64).find(|bit| features & (1 << bit) != 0) else {
        return Ok(());
    };
    let repair = "let `qemu-img check -r all` repair it first";
    let feature = match bit {
        0 => format!("the dirty mark (it was not closed in order: {repair})"),
        1 => format!("the corrupt mark (QEMU found its metadata wrong: {repair})"),
        2 => for_qemu("an external data file"),
        3 => match compression(reader, header_bytes)? {
            1 => for_qemu("zstd compression"),
            other => format!("compression type {other}"),
        },
        4 => for_qemu("extended L2 entries (subclusters)"),
        _ => match feature_name(extensions, bit) {
            Some(name) => format!("incompatible feature bit {bit}, \"{name}\""),
            None => format!("incompatible feature bit {bit}"),
        },
    };
    Err(reader.unsupported(feature))
}

/// A feature of images that QEMU reads, with the way to read them through it.
fn for_qemu(feature: &str) -> String {
    format!(
        "{feature}; let QEMU read it: `qemu-nbd --read-only --persistent --socket=/SOCKET IMAGE` serves it as \
         nbd+unix:///?socket=/SOCKET"
    )
}

fn compression(reader: &Reader<'_>, header_bytes: u64) -> Result<u8, OpenError> {
    if header_bytes <= V3_BYTES {
        return Err(reader.damaged("a compression type that the header has no room for".into()));
    }
    Ok(reader.bytes("the header", V3_BYTES, 1)?[0])
}

/// What the image itself calls an incompatible feature: 48-byte records of kind, bit and name.
fn feature_name(extensions: &[Extension], bit: u32) -> Option<String> {
    let names = extensions
        .iter()
        .filter(|e| e.kind == EXTENSION_FEATURE_NAMES);
    let mut records = names.flat_map(|e| e.data.chunks_exact(48));
    let record = records.find(|record| record[0] == 0 && u32::from(record[1]) == bit)?;
    let name = record[2..].split(|byte| *byte == 0).next()?;
    // Escaped, because it goes to terminals and comes from anywhere.
    Some(String::from_utf8_lossy(name).escape_debug().to_string())
}

fn check_l1_table(reader: &Reader<'_>, start: &[u8], cluster_bits: u32) -> Result<(), OpenError> {
    let (size, entries, offset) = (be64(start, 24), u64::from(be32(start, 36)), be64(start, 40));
    let cluster = 1u64 << cluster_bits;
    // One level-two table is a cluster of eight-byte entries, each for one cluster.
    let bytes_per_entry = cluster << (cluster_bits - 3);
    let needed = size.div_ceil(bytes_per_entry);
    if needed > L1_BYTES / 8 || entries > L1_BYTES / 8 {
        return Err(reader.damaged(format!(
            "a disk of {size} bytes, more than the format can map"
        )));
    }
    if entries < needed {
        let what = format!("an L1 table of {entries} entries, where the disk needs {needed}");
        return Err(reader.damaged(what));
    }
    if !offset.is_multiple_of(cluster) {
        return Err(reader.damaged(format!("an L1 table at byte {offset}, between clusters")));
    }
    let table = reader.bytes("the L1 table", offset, entries * 8)?;
    for entry in table.chunks_exact(8).map(|entry| be64(entry, 0)) {
        let at = entry & L1_OFFSET;
        if entry & L1_RESERVED != 0 || !at.is_multiple_of(cluster) {
            return Err(reader.damaged(format!("an L1 entry of {entry:#018x}")));
        }
        if at != 0 {
            reader.check_inside("an L2 table", at, cluster)?;
        }
    }
    Ok(())
}

fn check_refcount_table(
    reader: &Reader<'_>,
    start: &[u8],
    cluster_bits: u32,
    access: Access,
) -> Result<(), OpenError> {
    let (offset, clusters) = (be64(start, 48), u64::from(be32(start, 56)));
    if !offset.is_multiple_of(1 << cluster_bits) {
        return Err(reader.damaged(format!(
            "a refcount table at byte {offset}, between clusters"
        )));
    }
    // Who only reads never looks into it.
    match access {
        Access::ReadOnly => Ok(()),
        Access::ReadWrite if offset == 0 || clusters == 0 => {
            Err(reader.damaged("no refcount table".into()))
        }
        Access::ReadWrite => {
            reader.check_inside("the refcount table", offset, clusters << cluster_bits)?;
            // It counts the header's own cluster, so there is one in every sound image; imago would look
            // for room for a missing one in the very clusters that it counts, without end.
            let first = be64(&reader.bytes("the refcount table", offset, 8)?, 0);
            if first == 0 {
                return Err(reader.damaged("no first refcount block".into()));
            }
            Ok(())
        }
    }
}

fn read_backing(
    reader: &Reader<'_>,
    start: &[u8],
    extensions: &[Extension],
    cluster_bits: u32,
) -> Result<Option<Backing>, OpenError> {
    let (offset, length) = (be64(start, 8), u64::from(be32(start, 16)));
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    let inside = offset
        .checked_add(length)
        .is_some_and(|end| end <= 1 << cluster_bits);
    if length > NAME_BYTES || !inside {
        let what = format!("a backing file name of {length} bytes at byte {offset}");
        return Err(reader.damaged(what));
    }
    let text = |bytes: Vec<u8>, what: &str| {
        String::from_utf8(bytes)
            .map_err(|_| reader.unsupported(format!("{what} that is not UTF-8")))
    };
    let name = text(
        reader.bytes("the backing file name", offset, length)?,
        "a backing file name",
    )?;
    let format = extensions
        .iter()
        .find(|e| e.kind == EXTENSION_BACKING_FORMAT);
    let format = format
        .map(|e| text(e.data.clone(), "a backing format"))
        .transpose()?;
    Ok(Some(Backing { name, format }))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
