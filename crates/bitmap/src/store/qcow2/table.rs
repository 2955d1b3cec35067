//! A bitmap's table, and the clusters of bits that it leads to.

use crate::{DirtyBitmap, store::File};

use super::bytes::be64;
use super::directory::{Entry, check_inside};
use super::error::Qcow2Error;
use super::header::{Header, Place};

/// Where an entry leads to, if to a cluster.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Without an offset: all ones rather than all zeroes.
const ALL_ONES: u64 = 1;
/// What a table may be read in at once: bounded, whatever the image says.
const ENTRIES_AT_ONCE: u64 = 8192;

/// What one cluster of bits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing is dirty.
    Zeroes,
    /// Everything is dirty.
    Ones,
    /// The bits are in this cluster, named by its offset.
    At(u64),
}

impl Slot {
    fn decode(entry: u64, header: &Header) -> Result<Self, Qcow2Error> {
        let (offset, rest) = (entry & OFFSET, entry & !OFFSET);
        match (offset, rest) {
            (0, 0) => Ok(Slot::Zeroes),
            (0, ALL_ONES) => Ok(Slot::Ones),
            (offset, 0) if offset.is_multiple_of(header.cluster()) => Ok(Slot::At(offset)),
            (_, _) => Err(Qcow2Error::damaged(format!(
                "a table entry of {entry:#018x}"
            ))),
        }
    }

    pub(super) fn encode(self) -> u64 {
        match self {
            Slot::Zeroes => 0,
            Slot::Ones => ALL_ONES,
            Slot::At(offset) => offset,
        }
    }
}

/// Calls `each` with every entry of a bitmap's table.
pub(super) fn for_each_slot(
    file: &(impl File + ?Sized),
    header: &Header,
    entry: &Entry,
    mut each: impl FnMut(u64, Slot) -> Result<(), Qcow2Error>,
) -> Result<(), Qcow2Error> {
    let io = Qcow2Error::io("reading a bitmap's table");
    check_inside(file.len().map_err(&io)?, entry.table, "a bitmap's table")?;
    let entries = entry.table.bytes / 8;
    let mut bytes = vec![0; (entries.min(ENTRIES_AT_ONCE) * 8) as usize];
    let mut done = 0;
    while done < entries {
        let now = (entries - done).min(ENTRIES_AT_ONCE);
        let part = &mut bytes[..(now * 8) as usize];
        file.read_at(part, entry.table.offset + done * 8)
            .map_err(&io)?;
        for index in 0..now {
            each(
                done + index,
                Slot::decode(be64(part, index as usize * 8), header)?,
            )?;
        }
        done += now;
    }
    Ok(())
}

/// How a disk is divided among the clusters of bits of one bitmap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Division {
    size: u64,
    /// Bytes of disk for which one cluster has bits; a disk may be smaller.
    covered: u64,
    granularity: u64,
}

impl Division {
    pub(super) fn new(bitmap: &DirtyBitmap, header: &Header) -> Self {
        let granularity = bitmap.granularity().bytes();
        // At most 2^21 bytes of 8 bits of 2^31 bytes each: far from overflow.
        Division {
            size: bitmap.size(),
            covered: header.cluster() * 8 * granularity,
            granularity,
        }
    }

    /// The disk's bytes of a slot, as offset and length; nothing past the end of the disk.
    pub(super) fn range(&self, slot: u64) -> Option<(u64, u64)> {
        let offset = slot.checked_mul(self.covered)?;
        (offset < self.size).then(|| (offset, self.covered.min(self.size - offset)))
    }

    /// Whole words that the bits of so many bytes of disk take, in bytes.
    fn bit_bytes(&self, length: u64) -> u64 {
        length.div_ceil(self.granularity).div_ceil(64) * 8
    }

    /// What a bitmap has for a slot. All ones are said only of whole words: the rest of a last one would
    /// count as dirty with who fills all of it.
    pub(super) fn content(&self, bitmap: &DirtyBitmap, slot: u64) -> Option<Content> {
        let (offset, length) = self.range(slot)?;
        let end = offset + length;
        if bitmap.next_dirty(offset, length).is_none() {
            return Some(Content::Zeroes);
        }
        let whole_words = length.is_multiple_of(self.granularity * 64);
        if whole_words && bitmap.next_zero(offset, length).is_none() {
            return Some(Content::Ones);
        }
        Some(Content::Bits {
            offset,
            length: end - offset,
        })
    }
}

/// What is to be written for a slot.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Zeroes,
    Ones,
    /// The bits of these bytes of disk.
    Bits {
        offset: u64,
        length: u64,
    },
}

/// Reads a bitmap's bits.
pub(super) fn read(
    file: &(impl File + ?Sized),
    header: &Header,
    entry: &Entry,
    mut bitmap: DirtyBitmap,
) -> Result<DirtyBitmap, Qcow2Error> {
    let io = Qcow2Error::io("reading a bitmap's bits");
    let division = Division::new(&bitmap, header);
    let end = file.len().map_err(&io)?;
    let mut bytes = Vec::new();
    for_each_slot(file, header, entry, |slot, kind| {
        let Some((offset, length)) = division.range(slot) else {
            // A table longer than the disk takes: what lies there is of no disk.
            return Ok(());
        };
        match kind {
            Slot::Zeroes => {}
            Slot::Ones => bitmap.set(offset, length).map_err(unexpected)?,
            Slot::At(at) => {
                let held = Place {
                    offset: at,
                    bytes: division.bit_bytes(length),
                };
                check_inside(end, held, "a cluster of bits")?;
                bytes.resize(held.bytes as usize, 0);
                file.read_at(&mut bytes, at).map_err(&io)?;
                bitmap
                    .import_chunk(offset, length, &bytes)
                    .map_err(unexpected)?;
            }
        }
        Ok(())
    })?;
    Ok(bitmap)
}

/// A slot is a multiple of 64 granules and inside the disk: neither setting nor importing can refuse it.
fn unexpected(error: impl std::fmt::Display) -> Qcow2Error {
    Qcow2Error::damaged(format!("a cluster of bits does not fit the disk: {error}"))
}
