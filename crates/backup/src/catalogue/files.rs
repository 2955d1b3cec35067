//! The files beside the catalogue: names for new ones, what becomes of those that nobody names, and when a name is durable.

use std::fs;
use std::io;

use super::{Catalogue, ChangeError, DiskName, FileKind, ImageName, OpenError, RunId, list_files};

impl Catalogue {
    /// A name for a new image file, which the caller creates (with `create_new`). Until a verdict or
    /// [`keep_partial`](Self::keep_partial) names it, the file is unfinished; it is not swept as long
    /// as this process lives.
    ///
    /// # Errors
    /// [`ChangeError::InDoubt`], after a write that failed.
    pub fn new_image(&self, disk: &DiskName, run: RunId) -> Result<ImageName, ChangeError> {
        self.new_file(disk, run, FileKind::Image)
    }

    /// A name for a new file of digests, with the same fate as [`new_image`](Self::new_image)'s.
    ///
    /// # Errors
    /// [`ChangeError::InDoubt`], after a write that failed.
    pub fn new_digests(&self, disk: &DiskName, run: RunId) -> Result<ImageName, ChangeError> {
        self.new_file(disk, run, FileKind::Digests)
    }

    fn new_file(
        &self,
        disk: &DiskName,
        run: RunId,
        kind: FileKind,
    ) -> Result<ImageName, ChangeError> {
        let mut state = self.lock();
        state.certain()?;
        let name = ImageName::fresh(disk.clone(), run, state.contents.meta.directory, kind);
        state.in_use.insert(name.clone());
        self.entries.expect(&name);
        Ok(name)
    }

    /// Removes the files that runs of this catalogue left and nobody names, except those that
    /// this process was given names for. Returns what was removed.
    ///
    /// # Errors
    /// The first removal that failed; the others were tried.
    pub fn sweep(&self) -> Result<Vec<ImageName>, OpenError> {
        let state = self.lock();
        if state.doubt.is_some() {
            // What is garbage is not known.
            return Ok(Vec::new());
        }
        let listing = list_files(&self.directory)?;
        let garbage = state.contents.garbage(listing.iter().map(AsRef::as_ref));
        let (mut removed, mut failure) = (Vec::new(), None);
        for image in garbage
            .into_iter()
            .filter(|image| !state.in_use.contains(image))
        {
            match self.unlink(&image) {
                Ok(()) => removed.push(image),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(removed), Err)
    }

    /// Removes a file that [`new_image`](Self::new_image) or [`new_digests`](Self::new_digests) named,
    /// unless the catalogue names it. Returns whether it is gone.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn remove_image(&self, image: &ImageName) -> Result<bool, OpenError> {
        let mut state = self.lock();
        if state.doubt.is_some() || state.contents.files().any(|named| named == image) {
            return Ok(false);
        }
        self.unlink(image)?;
        state.in_use.remove(image);
        Ok(true)
    }

    /// Bytes that the files of this catalogue take, as far as they are there.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn bytes(&self) -> Result<u64, OpenError> {
        use std::os::unix::fs::MetadataExt;
        let named = list_files(&self.directory)?;
        let ours = named.iter().filter(|name| {
            let name = name.to_str().map(str::parse::<ImageName>);
            name.is_some_and(|name| name.is_ok())
        });
        let taken =
            |name| fs::metadata(self.directory.join(name)).map_or(0, |found| found.blocks() * 512);
        Ok(ours.map(taken).sum())
    }

    /// Makes the names of the files durable that were made under names given out here: to be called between making
    /// files and whatever names them. One sync serves all that are there when it begins.
    ///
    /// # Errors
    /// [`OpenError::Io`], if this sync fails, or one before it did: it may have lost names, and no later one would say so.
    pub fn sync_names(&self) -> Result<(), OpenError> {
        self.entries.sync_new(&self.directory)
    }

    /// Makes every change to the directory durable, as renames are.
    ///
    /// # Errors
    /// As [`sync_names`](Self::sync_names).
    pub fn sync_directory(&self) -> Result<(), OpenError> {
        self.entries.sync_all(&self.directory)
    }

    fn unlink(&self, image: &ImageName) -> Result<(), OpenError> {
        let path = self.path_of(image);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(OpenError::io(&path, "remove")(error))
            }
            Ok(()) | Err(_) => {
                self.entries.forget(image);
                Ok(())
            }
        }
    }
}
