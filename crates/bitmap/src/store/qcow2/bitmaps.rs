//! `Bitmaps`: an image's bitmaps, listed and read.

use crate::{DirtyBitmap, store::File};

use super::directory::{self, Condition, Entry};
use super::error::{Known, Qcow2Error};
use super::header::Header;
use super::table;

/// The dirty bitmaps that a qcow2 image holds.
///
/// To open and to read them changes nothing, and needs a file only to be read. Who changes them must be
/// the only one to write to the image; QEMU's locks are the caller's business.
#[derive(Debug)]
pub struct Bitmaps<F> {
    pub(super) file: F,
    pub(super) header: Header,
    pub(super) entries: Vec<Entry>,
}

impl<F: File> Bitmaps<F> {
    /// Reads which bitmaps an image holds; an image without any is fine.
    ///
    /// # Errors
    /// [`Qcow2Error::NotQcow2`]; [`Qcow2Error::Version`] for version 2, which has none;
    /// [`Qcow2Error::Unsupported`] for features that we do not know; [`Qcow2Error::Damaged`] if header
    /// or directory cannot be right; [`Qcow2Error::Io`].
    pub fn open(file: F) -> Result<Self, Qcow2Error> {
        let (header, entries) = load(&file)?;
        Ok(Bitmaps {
            file,
            header,
            entries,
        })
    }

    /// Bytes of the disk in the image.
    pub fn disk_size(&self) -> u64 {
        self.header.size
    }

    /// Bytes of the image's clusters.
    pub fn cluster_size(&self) -> u64 {
        self.header.cluster()
    }

    /// The bitmaps, in the order of the image; those that cannot be used too, with why.
    pub fn list(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the image has bitmaps that another program did not keep while it wrote to the disk: then
    /// none of them is true, whatever its own condition.
    pub fn is_stale(&self) -> bool {
        self.header.directory().is_some() && !self.header.is_promised()
    }

    /// The entry of a bitmap.
    ///
    /// # Errors
    /// [`Qcow2Error::Unknown`], with the names that there are.
    pub fn entry(&self, name: &str) -> Result<&Entry, Qcow2Error> {
        let found = self.entries.iter().find(|entry| entry.name == name);
        found.ok_or_else(|| Qcow2Error::Unknown {
            name: name.to_owned(),
            known: Known(
                self.entries
                    .iter()
                    .map(|entry| entry.name.clone())
                    .collect(),
            ),
        })
    }

    /// What a bitmap says.
    ///
    /// # Errors
    /// [`Qcow2Error::Unknown`]; [`Qcow2Error::Stale`], [`Qcow2Error::Inconsistent`] and
    /// [`Qcow2Error::Unusable`] for what would not be true; [`Qcow2Error::Damaged`] and
    /// [`Qcow2Error::Io`].
    pub fn read(&self, name: &str) -> Result<DirtyBitmap, Qcow2Error> {
        self.read_entry(self.entry_to_use(name)?)
    }

    /// The entry of a bitmap that says the truth.
    pub(super) fn entry_to_use(&self, name: &str) -> Result<&Entry, Qcow2Error> {
        let entry = self.entry(name)?;
        if self.is_stale() {
            return Err(Qcow2Error::Stale);
        }
        let name = name.to_owned();
        match &entry.condition {
            Condition::Consistent => Ok(entry),
            Condition::InUse => Err(Qcow2Error::Inconsistent { name }),
            Condition::Unusable(reason) => Err(Qcow2Error::Unusable {
                name,
                reason: reason.clone(),
            }),
        }
    }

    pub(super) fn read_entry(&self, entry: &Entry) -> Result<DirtyBitmap, Qcow2Error> {
        let granularity = entry.granularity().ok_or_else(|| Qcow2Error::Unusable {
            name: entry.name.clone(),
            reason: "its granularity is out of bounds".into(),
        })?;
        let clean = DirtyBitmap::new(self.header.size, granularity)?;
        table::read(&self.file, &self.header, entry, clean)
    }
}

/// Reads header and directory. A directory that nobody promises is read as far as it can be, to be named.
pub(super) fn load(file: &impl File) -> Result<(Header, Vec<Entry>), Qcow2Error> {
    let header = Header::read(file)?;
    let Some(place) = header.directory() else {
        return Ok((header, Vec::new()));
    };
    let entries = match directory::read(file, &header, place) {
        Err(Qcow2Error::Damaged { .. }) if !header.is_promised() => Vec::new(),
        other => other?,
    };
    Ok((header, entries))
}
