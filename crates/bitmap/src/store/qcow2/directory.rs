//! The bitmap directory: one entry for each bitmap, parsed and written.

use crate::{Granularity, store::File};

use super::bytes::{be16, be32, be64};
use super::error::Qcow2Error;
use super::header::{DirectoryPlace, Header, MAX_DIRECTORY_BYTES, Place};

/// An entry's fixed part.
const FIXED_BYTES: usize = 24;
/// Longest name that the format allows.
pub(super) const MAX_NAME_BYTES: usize = 1023;
/// Exponents of granularity that the format allows.
const GRANULARITIES: std::ops::RangeInclusive<u8> = 9..=31;
/// Most entries of a bitmap's table, and most bytes of bits that they may stand for.
const MAX_TABLE_ENTRIES: u64 = 0x800_0000;
const MAX_PAYLOAD_BYTES: u64 = 0x2000_0000;
/// The type of a dirty bitmap, the only one there is.
const TYPE_DIRTY: u8 = 1;

const FLAG_IN_USE: u32 = 1;
const FLAG_AUTO: u32 = 2;
/// "Who does not know the extra data may use the bitmap all the same."
const FLAG_EXTRA_COMPATIBLE: u32 = 4;
const FLAGS_KNOWN: u32 = FLAG_IN_USE | FLAG_AUTO | FLAG_EXTRA_COMPATIBLE;

/// One bitmap of an image, as its directory tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) name: String,
    pub(super) raw_name: Vec<u8>,
    pub(super) table: Place,
    pub(super) flags: u32,
    pub(super) kind: u8,
    pub(super) granularity_bits: u8,
    pub(super) extra: Vec<u8>,
    pub(super) condition: Condition,
}

/// Whether a bitmap says the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was saved by who used it last.
    Consistent,
    /// Somebody has the image open to write, or did not close it in order: what the bitmap says is not true.
    InUse,
    /// It is of a kind that we do not know, for this reason; it is left alone.
    Unusable(String),
}

impl Entry {
    /// An entry for a new bitmap, whose table is still to be written.
    pub(super) fn new(name: &str, granularity: Granularity, enabled: bool) -> Self {
        Entry {
            name: name.to_owned(),
            raw_name: name.as_bytes().to_vec(),
            table: Place {
                offset: 0,
                bytes: 0,
            },
            flags: if enabled { FLAG_AUTO } else { 0 },
            kind: TYPE_DIRTY,
            granularity_bits: granularity.shift() as u8,
            extra: Vec::new(),
            condition: Condition::Consistent,
        }
    }

    /// What it is called; never empty. Bytes that are no UTF-8 are replaced, and such a bitmap is unusable.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes per bit; nothing if what the image says is out of the format's bounds.
    pub fn granularity(&self) -> Option<Granularity> {
        GRANULARITIES
            .contains(&self.granularity_bits)
            .then(|| Granularity::new(1 << self.granularity_bits).ok())
            .flatten()
    }

    /// Whether whoever writes to the image must mark it; a disabled one stays as it is.
    pub fn is_enabled(&self) -> bool {
        self.flags & FLAG_AUTO != 0
    }

    /// Whether it says the truth.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.flags = self.flags & !FLAG_AUTO | if enabled { FLAG_AUTO } else { 0 };
    }

    pub(super) fn set_granularity(&mut self, granularity: Granularity) {
        self.granularity_bits = granularity.shift() as u8;
    }

    pub(super) fn set_in_use(&mut self, in_use: bool) {
        self.flags = self.flags & !FLAG_IN_USE | if in_use { FLAG_IN_USE } else { 0 };
        self.condition = if in_use {
            Condition::InUse
        } else {
            Condition::Consistent
        };
    }

    /// Judges what the entry says. A condition is about this entry alone: the others stand.
    fn judge(&self, header: &Header) -> Condition {
        let unusable = |reason: String| Condition::Unusable(reason);
        if std::str::from_utf8(&self.raw_name).is_err() {
            return unusable("its name is no UTF-8".into());
        }
        if self.kind != TYPE_DIRTY {
            return unusable(format!("it is of the unknown type {}", self.kind));
        }
        let unknown = self.flags & !FLAGS_KNOWN;
        if unknown != 0 {
            return unusable(format!("it has unknown flags ({unknown:#x})"));
        }
        if !self.extra.is_empty() && self.flags & FLAG_EXTRA_COMPATIBLE == 0 {
            return unusable(format!(
                "it has {} bytes of unknown extra data",
                self.extra.len()
            ));
        }
        let Some(granularity) = self.granularity() else {
            return unusable(format!(
                "it has granules of 2^{} bytes",
                self.granularity_bits
            ));
        };
        let entries = self.table.bytes / 8;
        if self.table.offset == 0 || !self.table.offset.is_multiple_of(header.cluster()) {
            return unusable(format!(
                "its table is at byte {}, between clusters",
                self.table.offset
            ));
        }
        if entries == 0 || entries > MAX_TABLE_ENTRIES {
            return unusable(format!("its table has {entries} entries"));
        }
        if self.flags & FLAG_IN_USE != 0 {
            return Condition::InUse;
        }
        match table_entries(header, granularity) {
            Ok(needed) if needed <= entries => Condition::Consistent,
            Ok(needed) => unusable(format!(
                "its table has {entries} entries, and the disk takes {needed}"
            )),
            Err(_) => unusable("it would take more than the format's 512 MiB".into()),
        }
    }
}

/// How many clusters of bits a bitmap of the image's disk takes.
pub(super) fn table_entries(header: &Header, granularity: Granularity) -> Result<u64, Qcow2Error> {
    let bytes = granularity.granules(header.size).div_ceil(8);
    let entries = bytes.div_ceil(header.cluster());
    if entries > MAX_TABLE_ENTRIES || entries << header.cluster_bits > MAX_PAYLOAD_BYTES {
        return Err(Qcow2Error::TooLarge { granularity });
    }
    Ok(entries)
}

/// Bytes of the directory entry of a new bitmap.
pub(super) fn entry_bytes(name: &str) -> u64 {
    (FIXED_BYTES + name.len()).next_multiple_of(8) as u64
}

/// Reads a directory. No entry is lost: those that we do not know are kept as they are.
///
/// # Errors
/// A directory that cannot be told apart into its entries; two bitmaps of one name.
pub(super) fn read(
    file: &(impl File + ?Sized),
    header: &Header,
    directory: DirectoryPlace,
) -> Result<Vec<Entry>, Qcow2Error> {
    let place = directory.place;
    let io = Qcow2Error::io("reading the directory of the image's bitmaps");
    check_inside(file.len().map_err(&io)?, place, "the directory")?;
    let mut bytes = vec![0; place.bytes as usize];
    file.read_at(&mut bytes, place.offset).map_err(&io)?;
    let entries = parse(&bytes, header)?;
    if entries.len() as u64 != u64::from(directory.bitmaps) {
        let (found, told) = (entries.len(), directory.bitmaps);
        return Err(Qcow2Error::damaged(format!(
            "the header tells of {told} bitmaps, the directory of {found}"
        )));
    }
    Ok(entries)
}

fn parse(bytes: &[u8], header: &Header) -> Result<Vec<Entry>, Qcow2Error> {
    let broken = |at: usize| Qcow2Error::damaged(format!("the directory breaks off at byte {at}"));
    let mut names = std::collections::HashSet::new();
    let (mut entries, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let fixed = bytes.get(at..at + FIXED_BYTES).ok_or_else(|| broken(at))?;
        let (name_bytes, extra_bytes) = (be16(fixed, 18) as usize, be32(fixed, 20) as usize);
        let extra_at = at + FIXED_BYTES;
        let name_at = extra_at + extra_bytes;
        let end = (name_at + name_bytes).next_multiple_of(8);
        if end > bytes.len() {
            return Err(broken(at));
        }
        let raw_name = bytes[name_at..name_at + name_bytes].to_vec();
        if raw_name.is_empty() || raw_name.len() > MAX_NAME_BYTES {
            let what = format!("one has a name of {} bytes", raw_name.len());
            return Err(Qcow2Error::damaged(what));
        }
        let mut entry = Entry {
            name: String::from_utf8_lossy(&raw_name).into_owned(),
            raw_name,
            table: Place {
                offset: be64(fixed, 0),
                bytes: u64::from(be32(fixed, 8)) * 8,
            },
            flags: be32(fixed, 12),
            kind: fixed[16],
            granularity_bits: fixed[17],
            extra: bytes[extra_at..name_at].to_vec(),
            condition: Condition::Consistent,
        };
        entry.condition = entry.judge(header);
        if !names.insert(entry.name.clone()) {
            let name = entry.name.escape_debug();
            return Err(Qcow2Error::damaged(format!("two are called \"{name}\"")));
        }
        entries.push(entry);
        at = end;
    }
    Ok(entries)
}

/// The bytes of a directory.
///
/// # Errors
/// [`Qcow2Error::TooMany`].
pub(super) fn encode(entries: &[Entry]) -> Result<Vec<u8>, Qcow2Error> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(entry.table.offset.to_be_bytes());
        bytes.extend(((entry.table.bytes / 8) as u32).to_be_bytes());
        bytes.extend(entry.flags.to_be_bytes());
        bytes.extend([entry.kind, entry.granularity_bits]);
        bytes.extend((entry.raw_name.len() as u16).to_be_bytes());
        bytes.extend((entry.extra.len() as u32).to_be_bytes());
        bytes.extend(&entry.extra);
        bytes.extend(&entry.raw_name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if bytes.len() as u64 > MAX_DIRECTORY_BYTES {
            return Err(Qcow2Error::TooMany);
        }
    }
    Ok(bytes)
}

/// Whether the file has all these bytes.
pub(super) fn check_inside(length: u64, place: Place, what: &str) -> Result<(), Qcow2Error> {
    let Place { offset, bytes } = place;
    if offset.checked_add(bytes).is_some_and(|end| end <= length) {
        return Ok(());
    }
    Err(Qcow2Error::damaged(format!(
        "{what} ({bytes} bytes at byte {offset}) lies beyond the file's {length} bytes"
    )))
}
