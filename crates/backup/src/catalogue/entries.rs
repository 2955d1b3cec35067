//! Which names in a backup directory may not be durable yet, and one sync for all of them.
//!
//! A name counts as durable only after a sync of the directory that began when its file was there already. So whoever
//! asks after such a sync waits for no other, and a group whose members ask one after the other syncs once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory;
use super::error::OpenError;
use super::name::ImageName;

#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Held while the directory is synced: who waits here may find that its names are durable.
    syncing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Names that were given out, and of which no sync is known that began after their files were made.
    new: BTreeSet<ImageName>,
    /// Set once by a sync that failed, never cleared: what it was to write may be lost, and the next one would not say so.
    failed: Option<Arc<io::Error>>,
}

impl Entries {
    /// A name was given out; its file comes later.
    pub(super) fn expect(&self, name: &ImageName) {
        self.lock().new.insert(name.clone());
    }

    /// Its file is gone.
    pub(super) fn forget(&self, name: &ImageName) {
        self.lock().new.remove(name);
    }

    /// Makes the names of all files durable that were made so far; asks nothing of the disk if they are.
    pub(super) fn sync_new(&self, directory: &Path) -> Result<(), OpenError> {
        self.sync(directory, false, File::sync_all)
    }

    /// Syncs the directory, whatever is known of it.
    pub(super) fn sync_all(&self, directory: &Path) -> Result<(), OpenError> {
        self.sync(directory, true, File::sync_all)
    }

    fn sync(
        &self,
        directory: &Path,
        always: bool,
        sync: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), OpenError> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.made(directory)?;
        if made.is_empty() && !always {
            return Ok(());
        }
        if let Err(error) = sync(&directory::handle(directory)?) {
            self.lock().failed = Some(Arc::new(error));
            return self.made(directory).map(drop);
        }
        self.lock().new.retain(|name| !made.contains(name));
        Ok(())
    }

    /// The new names whose files are there by now.
    fn made(&self, directory: &Path) -> Result<BTreeSet<ImageName>, OpenError> {
        let state = self.lock();
        if let Some(source) = &state.failed {
            let (path, operation, source) = (directory.to_owned(), "sync", source.clone());
            return Err(OpenError::Io {
                path,
                operation,
                source,
            });
        }
        let there = |name: &&ImageName| {
            let found = fs::symlink_metadata(directory.join(name.to_string()));
            !matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound)
        };
        Ok(state.new.iter().filter(there).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panics under this lock changed nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{DirectoryId, DiskName, FileKind, RunId};

    /// A directory, and names that were given out for it.
    fn named<const COUNT: usize>() -> (tempfile::TempDir, Entries, [ImageName; COUNT]) {
        let (entries, id) = (Entries::default(), DirectoryId::random());
        let names = std::array::from_fn(|number| {
            let disk = DiskName::new(format!("disk-{number}")).unwrap();
            ImageName::fresh(disk, RunId(1), id, FileKind::Image)
        });
        names.iter().for_each(|name| entries.expect(name));
        (tempfile::tempdir().unwrap(), entries, names)
    }

    fn make(directory: &Path, name: &ImageName) {
        File::create_new(directory.join(name.to_string())).unwrap();
    }

    #[test]
    fn one_sync_serves_all_names_that_are_there() {
        let (directory, entries, names) = named::<2>();
        let directory = directory.path();
        let syncs = |always| {
            let mut syncs = 0;
            let counted = |_: &File| {
                syncs += 1;
                Ok(())
            };
            entries.sync(directory, always, counted).unwrap();
            syncs
        };
        assert_eq!(syncs(false), 0, "no file is there");
        names.iter().for_each(|name| make(directory, name));
        assert_eq!((syncs(false), syncs(false)), (1, 0));
        assert_eq!(syncs(true), 1, "a rename has no new name");
    }

    #[test]
    fn a_file_made_while_others_are_synced_needs_another_sync() {
        let (directory, entries, [first, second]) = named();
        let directory = directory.path();
        make(directory, &first);
        let meanwhile = |_: &File| {
            make(directory, &second);
            Ok(())
        };
        entries.sync(directory, false, meanwhile).unwrap();
        let mut again = false;
        let asked = |_: &File| {
            again = true;
            Ok(())
        };
        entries.sync(directory, false, asked).unwrap();
        assert!(again);
    }

    #[test]
    fn after_a_sync_that_failed_no_name_is_durable() {
        let (directory, entries, [name]) = named();
        let directory = directory.path();
        make(directory, &name);
        let broken = |_: &File| Err(io::Error::other("gone"));
        let first = entries.sync(directory, false, broken).unwrap_err();
        let never = |_: &File| panic!("asked again");
        let second = entries.sync(directory, true, never).unwrap_err();
        assert_eq!(first.to_string(), second.to_string());
        assert!(first.to_string().ends_with("sync failed: gone"), "{first}");
    }
}
