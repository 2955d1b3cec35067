//! Keeping an image's bitmaps while the disk in it is written to.

use crate::{DirtyBitmap, store::File};

use super::bitmaps::Bitmaps;
use super::directory::{self, Condition, Entry};
use super::error::Qcow2Error;
use super::rewrite::Wanted;

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

/// What an image is to hold under a name when nobody writes to its disk any more: see [`Bitmaps::save`].
#[derive(Clone, Debug)]
pub struct Saved {
    /// What it is called.
    pub name: String,
    /// Whether whoever writes next has to mark it.
    pub enabled: bool,
    /// What it says; nothing for one that stays in the image as it is there.
    pub bits: Option<DirtyBitmap>,
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
        self.hold_where(Entry::is_enabled)
    }

    /// As [`hold`](Self::hold), for the disabled bitmaps that are true: for who changes them, too, and ends with
    /// [`save`](Self::save).
    ///
    /// # Errors
    /// As [`hold`](Self::hold); those that were in use before stay so.
    pub fn hold_disabled(&mut self) -> Result<Vec<Held>, Qcow2Error> {
        self.hold_where(|entry| !entry.is_enabled())
    }

    fn hold_where(&mut self, is_meant: impl Fn(&Entry) -> bool) -> Result<Vec<Held>, Qcow2Error> {
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
                Condition::Consistent if is_meant(entry) => held.push(Held {
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

    /// Ends what [`hold`](Self::hold) and [`hold_disabled`](Self::hold_disabled) began: from here on the image holds these
    /// bitmaps and no others, and says that they are true. Those that it had keep their places, new ones come last. Bitmaps
    /// that were stale make place.
    ///
    /// # Errors
    /// As for any change; what was in use stays so, and is inconsistent for everybody.
    pub fn save(&mut self, all: &[Saved]) -> Result<(), Qcow2Error> {
        self.reload()?;
        if self.is_stale() {
            if all.is_empty() {
                return Ok(());
            }
            self.remove_stale()?;
        }
        if self.entries.is_empty() && all.is_empty() {
            return Ok(());
        }
        let sized = all.iter().filter_map(|one| one.bits.as_ref());
        for bits in sized {
            self.check_size(bits.size())?;
        }
        self.rewrite(|wanted| save_entries(wanted, all))
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

/// Has the list hold what is saved, and what is of a kind that we do not know.
fn save_entries<'a>(wanted: &mut Vec<Wanted<'a>>, all: &'a [Saved]) {
    let saved = |name: &str| all.iter().find(|one| one.name == name);
    wanted.retain(|one| {
        matches!(one.entry.condition, Condition::Unusable(_)) || saved(&one.entry.name).is_some()
    });
    for one in all {
        let Some(bits) = &one.bits else { continue };
        let known = wanted.iter_mut().find(|w| w.entry.name == one.name);
        match known {
            Some(known) => {
                known.entry.set_in_use(false);
                known.entry.set_enabled(one.enabled);
                known.entry.set_granularity(bits.granularity());
                known.bits = Some(bits);
            }
            None => wanted.push(Wanted {
                entry: Entry::new(&one.name, bits.granularity(), one.enabled),
                bits: Some(bits),
            }),
        }
    }
}
