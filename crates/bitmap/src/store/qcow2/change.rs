//! What may be done to an image's bitmaps, one by one.

use crate::{DirtyBitmap, Granularity, SizeMismatch, store::File};

use super::bitmaps::{Bitmaps, load};
use super::directory::{Condition, Entry, MAX_NAME_BYTES, entry_bytes, table_entries};
use super::error::Qcow2Error;
use super::header::{MAX_BITMAPS, MAX_DIRECTORY_BYTES};
use super::rewrite::Wanted;

/// What QEMU counts disks in.
const SECTOR: u64 = 512;

impl<F: File> Bitmaps<F> {
    /// Adds a bitmap with these contents. An enabled one is marked by whoever writes to the image.
    ///
    /// # Errors
    /// [`Qcow2Error::Exists`], [`Qcow2Error::BadName`], [`Qcow2Error::Granularity`], [`Qcow2Error::Size`],
    /// [`Qcow2Error::DiskSize`], [`Qcow2Error::TooLarge`], [`Qcow2Error::TooMany`] and
    /// [`Qcow2Error::NoRoom`] for what cannot be in this image; [`Qcow2Error::Stale`] if it has bitmaps
    /// that are no longer true; [`Qcow2Error::Unsupported`] if it needs a repair first;
    /// [`Qcow2Error::Damaged`] and [`Qcow2Error::Io`].
    pub fn add(&mut self, name: &str, bits: &DirtyBitmap, enabled: bool) -> Result<(), Qcow2Error> {
        self.reload()?;
        self.refuse_stale()?;
        if self.entry(name).is_ok() {
            return Err(Qcow2Error::Exists {
                name: name.to_owned(),
            });
        }
        check_name(name)?;
        if self.entries.len() as u64 >= u64::from(MAX_BITMAPS) {
            return Err(Qcow2Error::TooMany);
        }
        let granularity = bits.granularity();
        if Granularity::tracked(granularity.bytes()).is_err() {
            return Err(Qcow2Error::Granularity { granularity });
        }
        let entry = Entry::new(name, granularity, enabled);
        self.change(bits.size(), |wanted| {
            wanted.push(Wanted {
                entry,
                bits: Some(bits),
            });
        })
    }

    /// Whether an empty bitmap could be added beside `others`, whatever bitmaps are in the image now. Looks at nothing but
    /// what was read of the image before.
    ///
    /// # Errors
    /// As [`add`](Self::add), but for those that only writing shows.
    pub fn check_new<'a>(
        &self,
        name: &str,
        granularity: Granularity,
        others: impl Iterator<Item = &'a str>,
    ) -> Result<(), Qcow2Error> {
        self.header.check_writable()?;
        self.check_disk_size()?;
        if Granularity::tracked(granularity.bytes()).is_err() {
            return Err(Qcow2Error::Granularity { granularity });
        }
        table_entries(&self.header, granularity)?;
        check_name(name)?;
        let (mut bitmaps, mut bytes) = (1, entry_bytes(name));
        for other in others {
            bitmaps += 1;
            bytes += entry_bytes(other);
        }
        if bitmaps > u64::from(MAX_BITMAPS) || bytes > MAX_DIRECTORY_BYTES {
            return Err(Qcow2Error::TooMany);
        }
        Ok(())
    }

    /// Replaces what a bitmap says, whole; its granularity is that of `bits` from now on.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`add`](Self::add).
    pub fn replace(&mut self, name: &str, bits: &DirtyBitmap) -> Result<(), Qcow2Error> {
        self.reload()?;
        let mut entry = self.entry_to_use(name)?.clone();
        let granularity = bits.granularity();
        if Granularity::tracked(granularity.bytes()).is_err() {
            return Err(Qcow2Error::Granularity { granularity });
        }
        entry.set_granularity(granularity);
        self.put(entry, Some(bits))
    }

    /// Clears the granules of a bitmap of which every byte is dirty in `copied`, and says what is left.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub fn subtract(
        &mut self,
        name: &str,
        copied: &DirtyBitmap,
    ) -> Result<DirtyBitmap, Qcow2Error> {
        self.reload()?;
        let mut bits = self.read(name)?;
        bits.subtract(copied)?;
        self.replace(name, &bits)?;
        Ok(bits)
    }

    /// Has writers mark a bitmap, or leave it as it is.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`add`](Self::add).
    pub fn set_enabled(&mut self, name: &str, enabled: bool) -> Result<(), Qcow2Error> {
        self.reload()?;
        let mut entry = self.entry_to_use(name)?.clone();
        entry.set_enabled(enabled);
        self.put(entry, None)
    }

    /// Removes a bitmap, also one that is not true any more.
    ///
    /// # Errors
    /// [`Qcow2Error::Unknown`]; [`Qcow2Error::Unusable`] for one of an unknown kind, of which we do not
    /// know what is its own; [`Qcow2Error::Stale`] for what [`remove_stale`](Self::remove_stale) is for;
    /// otherwise as [`add`](Self::add).
    pub fn remove(&mut self, name: &str) -> Result<(), Qcow2Error> {
        self.reload()?;
        self.refuse_stale()?;
        let entry = self.entry(name)?;
        if let Condition::Unusable(reason) = &entry.condition {
            return Err(Qcow2Error::Unusable {
                name: name.to_owned(),
                reason: reason.clone(),
            });
        }
        self.rewrite(|wanted| wanted.retain(|wanted| wanted.entry.name != name))
    }

    /// Removes all bitmaps of an image that another program wrote to without keeping them.
    ///
    /// That program may have given their clusters to something else, so they are not given back here:
    /// `qemu-img check -r leaks` finds those that nobody uses.
    ///
    /// # Errors
    /// [`Qcow2Error::Unsupported`] if the image needs a repair first; [`Qcow2Error::Io`].
    pub fn remove_stale(&mut self) -> Result<(), Qcow2Error> {
        self.reload()?;
        self.header.check_writable()?;
        if self.is_stale() {
            self.header.lead_to(&self.file, None)?;
        }
        self.reload()
    }

    /// Looks again: nobody else writes, but a change of ours may have failed midway.
    pub(super) fn reload(&mut self) -> Result<(), Qcow2Error> {
        (self.header, self.entries) = load(&self.file)?;
        Ok(())
    }

    pub(super) fn refuse_stale(&self) -> Result<(), Qcow2Error> {
        if self.is_stale() {
            Err(Qcow2Error::Stale)
        } else {
            Ok(())
        }
    }

    /// Puts an entry in the place of the one of its name.
    pub(super) fn put(
        &mut self,
        entry: Entry,
        bits: Option<&DirtyBitmap>,
    ) -> Result<(), Qcow2Error> {
        let size = bits.map_or(self.header.size, DirtyBitmap::size);
        self.change(size, |wanted| {
            if let Some(old) = wanted
                .iter_mut()
                .find(|wanted| wanted.entry.name == entry.name)
            {
                *old = Wanted { entry, bits };
            }
        })
    }

    fn change<'a>(
        &mut self,
        size: u64,
        edit: impl FnOnce(&mut Vec<Wanted<'a>>),
    ) -> Result<(), Qcow2Error> {
        self.check_size(size)?;
        self.rewrite(edit)
    }

    /// Refuses bits of a disk of another size, and of one that QEMU could not read bitmaps of.
    pub(super) fn check_size(&self, size: u64) -> Result<(), Qcow2Error> {
        let own = self.header.size;
        if size != own {
            return Err(SizeMismatch {
                size: own,
                other: size,
            }
            .into());
        }
        self.check_disk_size()
    }

    /// QEMU counts whole sectors, and would find the table of a disk with part of one wrong.
    pub(super) fn check_disk_size(&self) -> Result<(), Qcow2Error> {
        let size = self.header.size;
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Qcow2Error::DiskSize { size });
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Qcow2Error> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Qcow2Error::BadName { bytes: name.len() });
    }
    Ok(())
}
