//! Keeping an image's bitmaps while the disk in it is written to.

use crate::{DirtyBitmap, store::File};

use super::bitmaps::Bitmaps;
use super::directory::{self, Condition};
use super::error::Qcow2Error;

/// An enabled bitmap of an image that is open to be written to: see [`Bitmaps::hold`].
#[derive(Clone, Debug)]
pub struct Held {
    name: String,
    bits: DirtyBitmap,
    changed: bool,
}

impl Held {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says, with what was added.
    pub fn bits(&self) -> &DirtyBitmap {
        &self.bits
    }

    /// Adds what was written, rounded outward.
    ///
    /// # Errors
    /// [`Qcow2Error::Size`] for a disk of another size; nothing was added.
    pub fn add(&mut self, written: &DirtyBitmap) -> Result<(), Qcow2Error> {
        self.bits.merge(written)?;
        self.changed |= !written.is_empty();
        Ok(())
    }
}

impl<F: File> Bitmaps<F> {
    /// Begins to write to the disk: reads every enabled bitmap, and has the image say, durably, that they
    /// are in use, so that whoever finds it after a crash does not believe them. Disabled bitmaps stay
    /// true whatever is written, and are left alone; so are those that were inconsistent before.
    ///
    /// From here on the caller keeps what is written to the disk, and ends with [`release`](Self::release).
    ///
    /// # Errors
    /// [`Qcow2Error::Unusable`] if there is a bitmap of an unknown kind, which the writing could make
    /// untrue; [`Qcow2Error::Stale`], [`Qcow2Error::DiskSize`], [`Qcow2Error::Unsupported`],
    /// [`Qcow2Error::Damaged`] and [`Qcow2Error::Io`] as for any change. No bitmap is in use then.
    pub fn hold(&mut self) -> Result<Vec<Held>, Qcow2Error> {
        self.reload()?;
        self.refuse_stale()?;
        let mut held = Vec::new();
        for entry in &self.entries {
            match &entry.condition {
                Condition::Unusable(reason) => {
                    return Err(Qcow2Error::Unusable {
                        name: entry.name.clone(),
                        reason: reason.clone(),
                    });
                }
                Condition::Consistent if entry.is_enabled() => held.push(Held {
                    name: entry.name.clone(),
                    bits: self.read_entry(entry)?,
                    changed: false,
                }),
                Condition::Consistent | Condition::InUse => {}
            }
        }
        if !held.is_empty() {
            self.check_disk_size()?;
            self.check_changeable()?;
            self.mark_in_use(&held)?;
        }
        Ok(held)
    }

    /// Ends what [`hold`](Self::hold) began: saves what is held, and has the image say that it is true.
    ///
    /// # Errors
    /// As for any change; the bitmaps stay in use then, and so inconsistent for everybody.
    pub fn release(&mut self, held: &[Held]) -> Result<(), Qcow2Error> {
        self.reload()?;
        self.refuse_stale()?;
        for one in held {
            self.entry(&one.name)?;
        }
        if held.is_empty() {
            return Ok(());
        }
        self.rewrite(|wanted| {
            for one in wanted {
                if let Some(saved) = held.iter().find(|saved| saved.name == one.entry.name) {
                    one.entry.set_in_use(false);
                    one.bits = saved.changed.then_some(&saved.bits);
                }
            }
        })
    }

    /// Sets the flags where they are: until the first write to the disk each of them may be set or not, so
    /// nothing needs to be switched at once.
    fn mark_in_use(&mut self, held: &[Held]) -> Result<(), Qcow2Error> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            if held.iter().any(|held| held.name == entry.name) {
                entry.set_in_use(true);
            }
        }
        let io = Qcow2Error::io("marking the image's bitmaps as in use");
        if let Some(directory) = self.header.directory() {
            let bytes = directory::encode(&entries)?;
            self.file
                .write_at(&bytes, directory.place.offset)
                .map_err(&io)?;
            self.file.sync_data().map_err(&io)?;
        }
        self.entries = entries;
        Ok(())
    }
}
