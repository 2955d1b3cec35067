//! The catalogue of a backup directory: points, partials, views and verdicts.
//!
//! ```text
//!  one writer ── Catalogue ── every change is one durable transaction ──┐
//!                                                                       ├── catalogue.redb
//!  many readers ── read() ── a consistent copy of everything ───────────┘
//! ```
//!
//! A file in the directory is a point only if the catalogue says so. The catalogue is the journal of
//! the groups that write here: the verdict on a group, the points it commits and the views and partials
//! they replace are one transaction. `docs/format.md` says what is on disk, to the letter.
//!
//! Readers need no right to write and wait for nobody: beside a writer they see what was committed last,
//! after a kill they repair a copy in memory and leave the file to the next writer.

mod change;
mod contents;
mod directory;
mod dump;
mod entries;
mod error;
mod files;
mod garbage;
mod journal;
mod model;
mod name;
mod record;
mod rules;
mod shown;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cohort_block::File;
use cohort_journal::lock::WriterLock;

pub use contents::{Contents, Layer, NoSuchPoint};
pub use directory::{list_files, read};
pub use dump::DumpError;
pub use error::{ChangeError, OpenError, Unclosed};
pub use garbage::FileRole;
pub use model::{
    AbortCause, Aborted, Anchor, Answer, ByteRange, CATALOGUE_VERSION, Clearing, Decided, Decision,
    Disk, FileStamp, ImageBitmap, Instant, Member, Merging, Meta, Outcome, Partial, Point, Proof,
    RecordBytes, Root, Run, SetName, Settling, StoreId, StoredDigests, Tracking, View, Views,
};
pub use name::{
    BadDiskName, BadName, BadPointName, DISK_NAME_MAX, DirectoryId, DiskName, FileKind, ImageName,
    PointName, RunId, Which,
};
pub use record::{BadRecord, CommittedView, PointRecord};
pub use rules::Broken;
pub use shown::{Extents, Shown};

use entries::Entries;
use store::Store;

/// The one writer of a backup directory; also its reader. All methods may be called from any thread.
///
/// Dropping it closes the catalogue and lets the next writer in; [`close`](Self::close) also says what failed then.
#[derive(Debug)]
pub struct Catalogue {
    directory: PathBuf,
    state: Mutex<State>,
    entries: Entries,
    /// After the state: the lock outlives the open file.
    _lock: WriterLock,
}

#[derive(Debug)]
struct State {
    contents: Arc<Contents>,
    store: Store,
    /// Set once by a write that failed, never cleared: why nobody knows what the file holds.
    doubt: Option<Arc<str>>,
    /// Set once by a verdict that was not taken: the engine holds that group in doubt, so no other
    /// verdict may be taken before the next start.
    closed: Option<Arc<str>>,
    /// Files that this process was given names for and that no verdict named yet.
    in_use: BTreeSet<ImageName>,
    /// The disks whose partials end with a group that is told to leave no trace.
    enlisted: BTreeMap<String, BTreeSet<DiskName>>,
}

/// What is left of a disk whose group did not commit, for [`Catalogue::keep_partial`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The disk.
    pub disk: DiskName,
    /// The target, sealed and durable.
    pub partial: Partial,
    /// base ∪ since, if the disk has a point.
    pub against_point: Tracking,
    /// remaining ∪ since.
    pub against_partial: Tracking,
}

/// Where the bits of a disk's views are, for [`Catalogue::track`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedViews {
    /// Of the view against the point.
    pub point: Tracking,
    /// Of the view against the partial.
    pub partial: Tracking,
}

impl Catalogue {
    /// Opens a directory for writing; makes the directory (not its parents) and the catalogue if
    /// they are not there.
    ///
    /// # Errors
    /// Any [`OpenError`]; [`OpenError::Busy`] at once if somebody else writes here.
    pub fn open_or_create(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        let (directory, contents, store, lock) = directory::open(directory.as_ref(), true, None)?;
        Ok(Self::new(directory, contents, store, lock))
    }

    /// Opens a directory that has a catalogue, for writing.
    ///
    /// # Errors
    /// Any [`OpenError`]; [`OpenError::Busy`] at once if somebody else writes here.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        let (directory, contents, store, lock) = directory::open(directory.as_ref(), false, None)?;
        Ok(Self::new(directory, contents, store, lock))
    }

    /// As [`open`](Self::open), with the catalogue's file reached through what `wrap` makes of it: the place for faults
    /// and for what replays losses of power in tests. Nobody can read the directory meanwhile.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_through(
        directory: impl AsRef<Path>,
        wrap: impl Fn(Arc<dyn File>) -> Arc<dyn File>,
    ) -> Result<Self, OpenError> {
        let directory = directory.as_ref();
        let (directory, contents, store, lock) = directory::open(directory, false, Some(&wrap))?;
        Ok(Self::new(directory, contents, store, lock))
    }

    /// Makes the catalogue of a directory that has none from a dump, and opens it.
    ///
    /// Images may be there already; those that the dump does not name are left alone for ever.
    ///
    /// # Errors
    /// [`OpenError::HasCatalogue`], or any other.
    pub fn load(directory: impl AsRef<Path>, contents: Contents) -> Result<Self, OpenError> {
        let (directory, contents, store, lock) = directory::load(directory.as_ref(), contents)?;
        Ok(Self::new(directory, contents, store, lock))
    }

    fn new(directory: PathBuf, contents: Contents, store: Store, lock: WriterLock) -> Self {
        let state = State {
            contents: Arc::new(contents),
            store,
            doubt: None,
            closed: None,
            in_use: BTreeSet::new(),
            enlisted: BTreeMap::new(),
        };
        Self {
            directory,
            state: Mutex::new(state),
            entries: Entries::default(),
            _lock: lock,
        }
    }

    /// Closes the catalogue and lets the next writer in.
    ///
    /// # Errors
    /// [`Unclosed`], if that failed, or a change before it.
    pub fn close(self) -> Result<(), Unclosed> {
        let directory = self.directory;
        let state = self.state.into_inner();
        let State { store, doubt, .. } = state.unwrap_or_else(PoisonError::into_inner);
        let closed = store.close();
        let failed = closed.map_err(|fault| format!("closing it failed: {fault}").into());
        // What failed first is what led to the rest.
        let ended = doubt.map_or(failed, Err);
        ended.map_err(|why| Unclosed { directory, why })
    }

    /// The backup directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a file of that name is.
    #[must_use]
    pub fn path_of(&self, image: &ImageName) -> PathBuf {
        self.directory.join(image.to_string())
    }

    /// Everything the catalogue says now.
    ///
    /// # Errors
    /// [`ChangeError::InDoubt`], after a write that failed.
    pub fn snapshot(&self) -> Result<Arc<Contents>, ChangeError> {
        let state = self.lock();
        state.certain()?;
        Ok(state.contents.clone())
    }

    /// Gives out the number of a new run over these disks (name and source, for information) and
    /// makes the disks known.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if a disk is named twice.
    pub fn begin_run(&self, disks: &[(DiskName, String)]) -> Result<RunId, ChangeError> {
        self.change(|contents| contents.begin_run(disks, now_unix_ms()))
    }

    /// Keeps the target of a disk whose group did not commit, as `kept.partial.decision` says, with
    /// both views. An older partial of the disk is replaced.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn keep_partial(&self, kept: Kept) -> Result<(), ChangeError> {
        self.change(|contents| {
            contents.keep_partial(kept);
            Ok(())
        })
    }

    /// Names the target of a disk whose group is not decided as the disk's partial, with a view against it that is where
    /// `tracking` says; without, it goes on as it is if it is the same partial, and else is found by a scan. An older partial of the disk is replaced. The
    /// group must have [enlisted](Self::enlist) the disk: once it is decided, nothing is changed.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn checkpoint(
        &self,
        group: &str,
        disk: &DiskName,
        partial: Partial,
        tracking: Option<Tracking>,
    ) -> Result<(), ChangeError> {
        let mut state = self.lock();
        let enlisted = state.enlisted.get(group);
        if !enlisted.is_some_and(|disks| disks.contains(disk)) {
            return Ok(());
        }
        state.change(|contents| {
            contents.checkpoint(disk, partial, tracking);
            Ok(())
        })
    }

    /// Says something else of a disk's partial, as long as it is that file; its views stay.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn rewrite_partial(&self, disk: &DiskName, row: Partial) -> Result<(), ChangeError> {
        self.change(|contents| {
            contents.rewrite_partial(disk, row);
            Ok(())
        })
    }

    /// Says where the bits of a disk's views are from now on: of the view against the point of the run `anchor`, and of
    /// the view against the partial, as far as there are such views. One against another point then has no sets.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn track(
        &self,
        disk: &DiskName,
        anchor: Option<RunId>,
        tracked: TrackedViews,
    ) -> Result<(), ChangeError> {
        self.change(|contents| {
            contents.track(disk, anchor, tracked);
            Ok(())
        })
    }

    /// Answers an undecided partial. A kept one may be answered too.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if the disk has no partial.
    pub fn answer(&self, disk: &DiskName, answer: Answer) -> Result<(), ChangeError> {
        self.change(|contents| contents.answer(disk, answer))
    }

    /// Notes that the image bitmap which a disk's view goes by was cleared of what the point holds, or, if not
    /// `done`, that it never will be: then it is forgotten.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn settle_image_bitmap(&self, disk: &DiskName, done: bool) -> Result<(), ChangeError> {
        self.change(|contents| {
            contents.settle_image_bitmap(disk, done);
            Ok(())
        })
    }

    /// Drops a disk's partial, if it has one, and the view against it. Returns it; its files are
    /// garbage from now on.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn drop_partial(&self, disk: &DiskName) -> Result<Option<Partial>, ChangeError> {
        self.change(|contents| Ok(contents.drop_partial(disk)))
    }

    /// Prunes points of a disk, none of which another disk, a view or a partial needs: from now on they are points no
    /// more. A point that lay on them lies on the next one that is left, and has their images to be merged with.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if something still needs one of them as a point.
    pub fn remove_points(
        &self,
        disk: &DiskName,
        removed: &BTreeSet<RunId>,
    ) -> Result<(), ChangeError> {
        self.change(|contents| {
            contents.remove_points(disk, removed);
            Ok(())
        })
    }

    /// What is known of a disk's changes is wrong: no view of it is used any more, and the next run compares everything.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn distrust(&self, disk: &DiskName) -> Result<(), ChangeError> {
        self.change(|contents| {
            contents.distrust(disk, now_unix_ms());
            Ok(())
        })
    }

    /// The image of a point holds what those it was merged with held.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn merged(
        &self,
        disk: &DiskName,
        run: RunId,
        cluster_size: u32,
        digests: Option<StoredDigests>,
    ) -> Result<(), ChangeError> {
        self.change(|contents| contents.merged(disk, run, cluster_size, digests))
    }

    /// The partial of this disk ends with that group: if the verdict is *abort, Discard*, the partial
    /// is dropped in the verdict's own transaction. To be said before the group may be decided.
    pub fn enlist(&self, group: &str, disk: &DiskName) {
        let mut state = self.lock();
        state
            .enlisted
            .entry(group.to_owned())
            .or_default()
            .insert(disk.clone());
    }

    /// Applies a change to a copy of the content, checks every rule, writes, and only then counts it.
    fn change<T>(
        &self,
        action: impl FnOnce(&mut Contents) -> Result<T, Broken>,
    ) -> Result<T, ChangeError> {
        self.lock().change(action)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves the state as it was: `change` assigns last.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn certain(&self) -> Result<(), ChangeError> {
        self.doubt
            .as_ref()
            .map_or(Ok(()), |why| Err(ChangeError::InDoubt(why.clone())))
    }

    fn change<T>(
        &mut self,
        action: impl FnOnce(&mut Contents) -> Result<T, Broken>,
    ) -> Result<T, ChangeError> {
        self.certain()?;
        let mut next = Contents::clone(&self.contents);
        let value = action(&mut next)?;
        next.check()?;
        if next == *self.contents {
            return Ok(value);
        }
        if let Err(fault) = self.store.write(&self.contents, &next) {
            let why: Arc<str> = format!("writing it failed: {fault}").into();
            self.doubt = Some(why.clone());
            return Err(ChangeError::InDoubt(why));
        }
        self.in_use
            .retain(|image| !next.files().any(|named| named == image));
        self.contents = Arc::new(next);
        Ok(value)
    }
}

/// The catalogue's clock: what people are shown, never what order things have.
fn now_unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
