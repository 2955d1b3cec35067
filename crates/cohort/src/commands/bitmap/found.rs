//! What is known of the changes of a disk: QEMU's bitmaps in its image, and the sets of the tracking store beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Entry, Qcow2Error};
use cohort_bitmap::store::{Away, Owner, SetId, SetReport, SetUse, StoreError};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{
    Beside, Image, ImageFile, OpenError, OpenOptions, OsFile, TrackingError, TrackingStore,
};

use super::state::State;
use super::{shown, wrong};
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_open};

/// Everything that lies at a path, looked at without changing it.
#[derive(Debug)]
pub(super) struct Found {
    path: PathBuf,
    /// The qcow2 image, and those beneath it.
    images: Vec<Held>,
    store: Option<Store>,
}

/// A qcow2 image with its bitmaps.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    /// It lies beneath the one that was asked for.
    beneath: bool,
    file: Arc<OsFile>,
    bitmaps: Bitmaps<Arc<OsFile>>,
    /// Somebody has it open to write.
    in_use: bool,
}

/// A tracking store.
#[derive(Debug)]
pub(super) struct Store {
    /// Its file.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) beside: Beside,
}

/// One bitmap of a disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tracked<'a> {
    /// In an image.
    Qemu(&'a Held, &'a Entry),
    /// In the store.
    Set(&'a SetReport),
}

impl Found {
    /// Looks at what lies at `path`: a qcow2 image, a disk with a store beside it, or a store. A disk that somebody
    /// writes to is no obstacle.
    pub(super) fn at(path: &Path) -> Result<Found> {
        let looked_at = looked_at(path);
        let (file, in_use) =
            looked_at.map_err(|error| Failure::new(exit_of_open(&error), error))?;
        Found::in_file(&file, in_use)
    }

    /// As [`at`](Self::at), for a file that is open; `in_use` says whether somebody else writes to it.
    pub(super) fn in_file(file: &ImageFile, in_use: bool) -> Result<Found> {
        let path = file.path();
        let mut images = Vec::new();
        match Held::of(file, in_use, false) {
            Ok(held) => {
                images.push(held);
                images.extend(beneath(path));
            }
            Err(Qcow2Error::NotQcow2) => {}
            // It may be tracked by us all the same.
            Err(_) if TrackingStore::path_beside(path).exists() => {}
            Err(error) => return Err(wrong(path, error)),
        }
        let size = images.first().map(|image| image.bitmaps.disk_size());
        let store = match size {
            Some(size) => store_beside(path, Some(size))?,
            None => match store_itself(path)? {
                Some(store) => Some(store),
                None => store_beside(path, None)?,
            },
        };
        if images.is_empty() && store.is_none() {
            return Err(Failure::say(
                Exit::SourceUnsupported,
                format_args!(
                    "{}: neither a qcow2 image nor a tracking store, and there is no {} beside it: nothing is known of its changes",
                    path.display(),
                    TrackingStore::path_beside(path).display()
                ),
            ));
        }
        Ok(Found {
            path: path.into(),
            images,
            store,
        })
    }

    /// The tracking store, if there is one.
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The bitmaps: the image's in its order, those of the images beneath, then the store's by number.
    pub(super) fn tracked(&self) -> impl Iterator<Item = Tracked<'_>> {
        let images = self.images.iter().flat_map(|image| {
            let entries = image.bitmaps.list().iter();
            entries.map(move |entry| Tracked::Qemu(image, entry))
        });
        let store = self.store.iter();
        let sets = store.flat_map(|store| &store.beside.inspection.sets);
        images.chain(sets.map(Tracked::Set))
    }

    /// The bitmap of that name, or with that number after a `#`; without one the only one that there is. Of several images
    /// the uppermost counts that has it.
    pub(super) fn choose(&self, name: Option<&str>) -> Result<Tracked<'_>> {
        let path = self.path.display();
        let matching = |tracked: &Tracked<'_>| name.is_none_or(|name| tracked.is_called(name));
        let found: Vec<_> = self.tracked().filter(matching).collect();
        match (found.as_slice(), name) {
            ([one], _) => Ok(*one),
            ([one, others @ ..], Some(_)) if others.iter().all(Tracked::is_beneath) => Ok(*one),
            ([], Some(name)) => Err(Failure::say(
                Exit::NoSuchBitmap,
                format_args!(
                    "{path} has no bitmap \"{}\"; {}",
                    shown(name),
                    known(self.tracked())
                ),
            )),
            ([], None) => Err(Failure::say(
                Exit::NoSuchBitmap,
                format_args!("{path} has no bitmap"),
            )),
            (several, _) => Err(Failure::say(
                Exit::Usage,
                format_args!(
                    "{path}: {}: say which one, and a set by its number",
                    known(several.iter().copied())
                ),
            )),
        }
    }

    /// What a bitmap says.
    pub(super) fn read(&self, tracked: Tracked<'_>) -> Result<DirtyBitmap> {
        match tracked {
            Tracked::Set(set) => Ok(set.dirty.clone()),
            Tracked::Qemu(image, entry) => image.read(entry),
        }
    }

    /// What a bitmap is worth.
    pub(super) fn state(&self, tracked: Tracked<'_>) -> State {
        match (tracked, &self.store) {
            (Tracked::Qemu(image, entry), _) => image.state(entry),
            (Tracked::Set(set), Some(store)) => store.state(set),
            (Tracked::Set(_), None) => unreachable!("it is one of ours"),
        }
    }
}

/// Opens a file to look at it; says whether somebody else has it open to write.
fn looked_at(path: &Path) -> std::result::Result<(ImageFile, bool), OpenError> {
    match ImageFile::open(path, OpenOptions::read_only()) {
        Ok(file) => Ok((file, false)),
        Err(OpenError::Locked { .. }) => {
            let options = OpenOptions::read_only().without_lock();
            Ok((ImageFile::open(path, options)?, true))
        }
        Err(error) => Err(error),
    }
}

/// The images beneath the one at `path`, those with bitmaps that can be listed. Where the chain cannot be opened nothing is
/// known of them; that is told by who reads the disk.
fn beneath(path: &Path) -> Vec<Held> {
    let chain = Image::open(path, OpenOptions::read_only().without_lock());
    let chain = chain
        .map(|image| image.files().to_vec())
        .unwrap_or_default();
    let lower = chain.iter().skip(1);
    lower
        .filter_map(|layer| {
            let (file, in_use) = looked_at(layer.path()).ok()?;
            Held::of(&file, in_use, true).ok()
        })
        .collect()
}

impl Held {
    fn of(file: &ImageFile, in_use: bool, beneath: bool) -> std::result::Result<Held, Qcow2Error> {
        Ok(Held {
            path: file.path().into(),
            beneath,
            file: Arc::clone(file.file()),
            bitmaps: Bitmaps::open(Arc::clone(file.file()))?,
            in_use,
        })
    }

    /// The image's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn state(&self, entry: &Entry) -> State {
        match entry.condition() {
            Condition::Unusable(why) => State::Unusable(why.clone()),
            _ if self.bitmaps.is_stale() => State::Stale,
            Condition::InUse if self.in_use => State::InUse,
            Condition::InUse => State::Inconsistent,
            Condition::Consistent if entry.is_enabled() => State::Enabled,
            Condition::Consistent => State::Disabled,
        }
    }

    fn read(&self, entry: &Entry) -> Result<DirtyBitmap> {
        let path = self.path.as_path();
        let in_use = || {
            Failure::say(
                Exit::SourceLocked,
                format_args!(
                    "{}: bitmap \"{}\" is in use: a program has the image open to write, and what it says is known when that one closes it",
                    path.display(),
                    shown(entry.name())
                ),
            )
        };
        if self.state(entry) == State::InUse {
            return Err(in_use());
        }
        let bits = self.bitmaps.read(entry.name());
        if self.in_use {
            // Whoever writes may have given the bitmap's clusters away while they were read, but not without
            // changing its entry first.
            let again =
                Bitmaps::open(Arc::clone(&self.file)).map_err(|error| wrong(path, error))?;
            if again.is_stale() != self.bitmaps.is_stale()
                || again.entry(entry.name()).ok() != Some(entry)
            {
                return Err(in_use());
            }
        }
        bits.map_err(|error| wrong(path, error))
    }
}

impl Store {
    fn state(&self, set: &SetReport) -> State {
        let excess = set.excess();
        match (&set.lost, set.used) {
            (Some(lost), _) => State::Lost(lost.clone()),
            (None, SetUse::Fixed) => State::Fixed { excess },
            (None, SetUse::Recording) => State::Recording {
                excess,
                unproven: match &self.beside.inspection.away {
                    Away::Unknown(why) if self.beside.holder.is_none() => Some(why.clone()),
                    Away::Refuted(why) => Some(why.clone()),
                    Away::Unknown(_) | Away::Unrefuted => None,
                },
            },
        }
    }
}

impl Tracked<'_> {
    /// What it is called: a set without a name by its number.
    pub(super) fn name(&self) -> String {
        match self {
            Tracked::Qemu(_, entry) => shown(entry.name()),
            Tracked::Set(set) if set.label.name.is_empty() => format!("#{}", set.set),
            Tracked::Set(set) => shown(&set.label.name),
        }
    }

    /// Whose kind it is of, for people.
    pub(super) fn kind(&self) -> String {
        match self {
            Tracked::Qemu(image, _) if image.beneath => {
                format!("QEMU, in {}", image.path.display())
            }
            Tracked::Qemu(..) => "QEMU".into(),
            Tracked::Set(set) => format!("Cohort set #{}", set.set),
        }
    }

    /// Its number, if it is a set.
    pub(super) fn set(&self) -> Option<SetId> {
        match self {
            Tracked::Qemu(..) => None,
            Tracked::Set(set) => Some(set.set),
        }
    }

    /// Bytes per bit; nothing where the image says what cannot be.
    pub(super) fn granularity(&self) -> Option<Granularity> {
        match self {
            Tracked::Qemu(_, entry) => entry.granularity(),
            Tracked::Set(set) => Some(set.granularity()),
        }
    }

    /// Who collects it, if it is a set.
    pub(super) fn owner(&self) -> Option<&Owner> {
        match self {
            Tracked::Qemu(..) => None,
            Tracked::Set(set) => Some(&set.label.owner),
        }
    }

    fn is_beneath(&self) -> bool {
        matches!(self, Tracked::Qemu(image, _) if image.beneath)
    }

    fn is_called(&self, name: &str) -> bool {
        match self {
            Tracked::Qemu(_, entry) => entry.name() == name,
            Tracked::Set(set) => set.label.name == name || format!("#{}", set.set) == name,
        }
    }
}

/// The names of some bitmaps, for who asked for another one.
fn known<'a>(tracked: impl Iterator<Item = Tracked<'a>>) -> String {
    let name = |tracked: Tracked<'_>| match tracked {
        Tracked::Qemu(image, _) if image.beneath => {
            format!("\"{}\" (in {})", tracked.name(), image.path.display())
        }
        Tracked::Qemu(..) => format!("\"{}\"", tracked.name()),
        Tracked::Set(set) if set.label.name.is_empty() => format!("#{}", set.set),
        Tracked::Set(set) => format!("#{} \"{}\"", set.set, tracked.name()),
    };
    let names: Vec<_> = tracked.map(name).collect();
    if names.is_empty() {
        return "it has none at all".into();
    }
    format!("it has {}", names.join(", "))
}

/// The store that the file at `path` is, if it is one; with the disk beside which it lies, if that is there.
fn store_itself(path: &Path) -> Result<Option<Store>> {
    match TrackingStore::inspect(path, None) {
        Err(TrackingError::Store {
            source: StoreError::NotAStore,
            ..
        }) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(_) => {}
    }
    let disk = path.to_str().and_then(|path| path.strip_suffix(".cohort"));
    let disk = disk.map(Path::new).filter(|disk| disk.exists());
    inspect(path, disk, None).map(Some)
}

/// The store beside the disk at `path`, if there is one.
fn store_beside(path: &Path, size: Option<u64>) -> Result<Option<Store>> {
    let beside = TrackingStore::path_beside(path);
    match beside.exists() {
        true => inspect(&beside, Some(path), size).map(Some),
        false => Ok(None),
    }
}

/// Looks at a store, together with its disk if that can be looked at.
fn inspect(path: &Path, disk: Option<&Path>, size: Option<u64>) -> Result<Store> {
    let measure = |disk: &Path| {
        let options = OpenOptions::read_only().without_lock();
        Image::open(disk, options).map(|image| image.device().size())
    };
    let sized = disk.and_then(|disk| {
        let size = size.map_or_else(|| measure(disk).ok(), Some);
        size.map(|size| (disk, size))
    });
    let beside = TrackingStore::inspect(path, sized).map_err(unreadable)?;
    Ok(Store {
        path: path.into(),
        beside,
    })
}

pub(super) fn unreadable(error: TrackingError) -> Failure {
    let exit = match &error {
        TrackingError::Store {
            source: StoreError::Damaged { .. } | StoreError::OtherDisk,
            ..
        } => Exit::SourceDamaged,
        TrackingError::Store {
            source: StoreError::NotAStore | StoreError::Version { .. },
            ..
        } => Exit::SourceUnsupported,
        TrackingError::Store { .. }
        | TrackingError::Exists { .. }
        | TrackingError::Held { .. }
        | TrackingError::Io { .. }
        | _ => Exit::SourceUnreadable,
    };
    Failure::new(exit, error)
}
