//! How every change is made: a new directory beside the old one, to which the header leads in one step.
//!
//! The order is: clusters of bits, tables and directory into places that nobody uses; the counts of those
//! places; a sync; the header, and a sync; and at last the counts of what is no longer used. Whoever is
//! killed in between leaves the old bitmaps or the new ones, and clusters that nothing refers to.

use std::collections::HashSet;

use crate::{DirtyBitmap, store::File};

use super::bitmaps::Bitmaps;
use super::directory::{self, Condition, Entry, table_entries};
use super::error::Qcow2Error;
use super::header::{DirectoryPlace, Place};
use super::refcounts::Refcounts;
use super::table::{Content, Division, Slot, for_each_slot};

/// What becomes of one bitmap in a change.
pub(super) struct Wanted<'a> {
    pub(super) entry: Entry,
    /// Its bits, if they are to be written; otherwise they stay where they are.
    pub(super) bits: Option<&'a DirtyBitmap>,
}

/// What one bitmap has of the file.
struct Owned {
    name: String,
    table: Place,
    places: Vec<Place>,
}

impl<F: File> Bitmaps<F> {
    /// Makes the image hold the bitmaps that `edit` leaves in the list.
    pub(super) fn rewrite<'a>(
        &mut self,
        edit: impl FnOnce(&mut Vec<Wanted<'a>>),
    ) -> Result<(), Qcow2Error> {
        self.header.check_writable()?;
        let keep = |entry: &Entry| Wanted {
            entry: entry.clone(),
            bits: None,
        };
        let mut wanted: Vec<_> = self.entries.iter().map(keep).collect();
        edit(&mut wanted);
        let mut counts = Refcounts::read(&self.file, &self.header)?;
        let owned = self.owned(&mut counts)?;
        let old_directory = self.header.directory();

        for one in &mut wanted {
            if let Some(bits) = one.bits {
                one.entry.table = self.write_bits(&mut counts, bits)?;
            }
        }
        let entries: Vec<_> = wanted.into_iter().map(|one| one.entry).collect();
        let directory = self.write_directory(&mut counts, &entries)?;
        counts.store(&self.file, &mut self.header)?;
        self.header.lead_to(&self.file, directory)?;

        let stays = |old: &&Owned| {
            let mut left = entries.iter();
            left.any(|entry| entry.name == old.name && entry.table == old.table)
        };
        for old in owned.iter().filter(|old| !stays(old)) {
            for place in &old.places {
                counts.give_back(&self.file, *place)?;
            }
        }
        if let Some(old) = old_directory {
            counts.give_back(&self.file, old.place)?;
        }
        counts.store(&self.file, &mut self.header)?;
        self.reload()
    }

    /// Whether a change would be refused for what the image is.
    pub(super) fn check_changeable(&self) -> Result<(), Qcow2Error> {
        self.header.check_writable()?;
        let mut counts = Refcounts::read(&self.file, &self.header)?;
        self.owned(&mut counts).map(drop)
    }

    /// Finds what each bitmap of a known kind has of the file.
    ///
    /// # Errors
    /// [`Qcow2Error::Damaged`] if they share it with one another or with what every image has: giving it
    /// back would take it from its owner. [`Qcow2Error::Unsupported`] if it is counted as free.
    fn owned(&self, counts: &mut Refcounts) -> Result<Vec<Owned>, Qcow2Error> {
        let mut seen = HashSet::new();
        let mut owned = Vec::new();
        if let Some(directory) = self.header.directory() {
            self.claim(counts, &mut seen, directory.place)?;
        }
        for entry in &self.entries {
            if matches!(entry.condition, Condition::Unusable(_)) {
                continue;
            }
            let mut places = vec![entry.table];
            for_each_slot(&self.file, &self.header, entry, |_, slot| {
                if let Slot::At(offset) = slot {
                    let bytes = self.header.cluster();
                    places.push(Place { offset, bytes });
                }
                Ok(())
            })?;
            for place in &places {
                self.claim(counts, &mut seen, *place)?;
            }
            owned.push(Owned {
                name: entry.name.clone(),
                table: entry.table,
                places,
            });
        }
        Ok(owned)
    }

    fn claim(
        &self,
        counts: &mut Refcounts,
        seen: &mut HashSet<u64>,
        place: Place,
    ) -> Result<(), Qcow2Error> {
        let cluster = self.header.cluster();
        let end = place.offset.saturating_add(place.bytes);
        let mut clusters = place.offset / cluster..end.div_ceil(cluster);
        let shared = place.offset < cluster
            || counts.overlaps(place)
            || !clusters.all(|cluster| seen.insert(cluster));
        if shared {
            let at = place.offset;
            let what = format!("what they have at byte {at} is somebody else's too");
            return Err(Qcow2Error::damaged(what));
        }
        counts.check_used(&self.file, place)
    }

    /// Writes a bitmap's table and bits where nobody reads yet.
    fn write_bits(&self, counts: &mut Refcounts, bits: &DirtyBitmap) -> Result<Place, Qcow2Error> {
        let cluster = self.header.cluster();
        let division = Division::new(bits, &self.header);
        let entries = table_entries(&self.header, bits.granularity())?;
        let mut table = Vec::with_capacity((entries * 8).next_multiple_of(cluster) as usize);
        for index in 0..entries {
            let slot = match division.content(bits, index) {
                None | Some(Content::Zeroes) => Slot::Zeroes,
                Some(Content::Ones) => Slot::Ones,
                Some(Content::Bits { offset, length }) => {
                    let chunk = bits.export_chunk(offset, length);
                    let mut bytes = chunk.map_err(|e| Qcow2Error::damaged(e.to_string()))?;
                    bytes.resize(cluster as usize, 0);
                    let at = counts.take(&self.file, 1)?;
                    self.write(&bytes, at)?;
                    Slot::At(at)
                }
            };
            table.extend(slot.encode().to_be_bytes());
        }
        self.write_padded(counts, table)
    }

    fn write_directory(
        &self,
        counts: &mut Refcounts,
        entries: &[Entry],
    ) -> Result<Option<DirectoryPlace>, Qcow2Error> {
        if entries.is_empty() {
            return Ok(None);
        }
        let bytes = directory::encode(entries)?;
        let place = self.write_padded(counts, bytes)?;
        Ok(Some(DirectoryPlace {
            bitmaps: entries.len() as u32,
            place,
        }))
    }

    /// Writes whole clusters, so that the file never ends within one; the place is that of `bytes` alone.
    fn write_padded(
        &self,
        counts: &mut Refcounts,
        mut bytes: Vec<u8>,
    ) -> Result<Place, Qcow2Error> {
        let length = bytes.len() as u64;
        let clusters = length.div_ceil(self.header.cluster());
        bytes.resize((clusters << self.header.cluster_bits) as usize, 0);
        let offset = counts.take(&self.file, clusters)?;
        self.write(&bytes, offset)?;
        Ok(Place {
            offset,
            bytes: length,
        })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Qcow2Error> {
        let io = Qcow2Error::io("writing the image's bitmaps");
        self.file.write_at(bytes, at).map_err(io)
    }
}
