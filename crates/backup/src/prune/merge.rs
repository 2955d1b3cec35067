//! One point merged with the images of points that are gone.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cohort_block::{Device, Format, OpenOptions, OsFile};
use rayon::prelude::*;

use super::{Merged, PruneError, ReadError};
use crate::catalogue::{Catalogue, Contents, DiskName, ImageName, Layer, RunId, StoredDigests};
use crate::digests::{Recording, Sidecar};
use crate::expected::{Piece, of_point};
use crate::qcow2_builder::{BuildError, Held, Qcow2Builder};
use crate::scan::is_zero;
use crate::target::create_options;

/// A merge under way.
struct Merge<'a> {
    catalogue: &'a Catalogue,
    contents: Arc<Contents>,
    disk: &'a DiskName,
    run: RunId,
    /// How many images are merged into one; the chain goes on below them.
    count: usize,
    tell: &'a (dyn Fn(u64) + Sync),
    cancel: &'a AtomicBool,
}

/// The image that others are merged into.
struct Into {
    path: PathBuf,
    builder: Qcow2Builder<OsFile>,
    /// Whether any of the images that become one has compressed clusters.
    compress: bool,
}

impl Into {
    fn failed(&self, error: BuildError) -> PruneError {
        PruneError::Write {
            path: self.path.clone(),
            error,
        }
    }
}

/// Merges a point with the images that it has to be merged with.
pub(super) fn merge(
    catalogue: &Catalogue,
    disk: &DiskName,
    run: RunId,
    tell: &(dyn Fn(u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Merged, PruneError> {
    let contents = catalogue.snapshot()?;
    let merging = contents
        .point(disk, run)
        .map_or(0, |point| point.merging.len());
    let merge = Merge {
        catalogue,
        contents,
        disk,
        run,
        count: merging + 1,
        tell,
        cancel,
    };
    let copied_bytes = merge.run()?;
    Ok(Merged {
        disk: disk.clone(),
        run,
        copied_bytes,
    })
}

impl Merge<'_> {
    fn run(&self) -> Result<u64, PruneError> {
        let layers = self.contents.layers(self.disk, self.run);
        let path = self.catalogue.path_of(layers[0].file);
        let mut copied = 0;
        // A merge that was interrupted after its last step but one has its image in place already.
        let top = self.read(&path, false)?;
        if backing(&top) != self.below(&layers) {
            let (into, bytes) = self.copy(&layers, top.has_compressed())?;
            copied = bytes;
            fs::rename(&into, &path).map_err(|error| io(&into, error))?;
            self.catalogue.sync_directory()?;
        }
        let merged = self.read(&path, false)?;
        let digests = self.digests(&merged, &path, &layers)?;
        self.catalogue.sync_directory()?;
        let cluster = u32::try_from(merged.cluster_size()).unwrap_or(u32::MAX);
        self.catalogue
            .merged(self.disk, self.run, cluster, digests)?;
        Ok(copied)
    }

    /// The file on which the merged image lies.
    fn below(&self, layers: &[Layer<'_>]) -> Option<String> {
        layers.get(self.count).map(|layer| layer.file.to_string())
    }

    /// Brings all that the point shows of these images into one, durably; gives its place.
    fn copy(&self, layers: &[Layer<'_>], compressed: bool) -> Result<(PathBuf, u64), PruneError> {
        let source = self.open(layers[0].file)?;
        let directory = self.catalogue.directory();
        let pieces = of_point(directory, &self.contents, self.disk, self.run)
            .map_err(|error| ReadError::from(error).of(self.disk, self.run))?;
        let (path, builder, first_kept) = self.into(layers)?;
        let into = Into {
            compress: compressed || builder.has_compressed(),
            path,
            builder,
        };
        let copied: Vec<Piece> = pieces
            .into_iter()
            .filter(|piece| piece.layer.is_some_and(|depth| depth < first_kept))
            .collect();
        let bytes = self.copy_pieces(&*source, copied, &into)?;
        let sealed = into.builder.seal();
        sealed.map_err(|error| into.failed(error))?;
        Ok((into.path, bytes))
    }

    /// The image to merge into, and the first layer that need not be copied: the lowest one itself if that has the right
    /// shape, which is nearly always, else a new one.
    fn into(
        &self,
        layers: &[Layer<'_>],
    ) -> Result<(PathBuf, Qcow2Builder<OsFile>, usize), PruneError> {
        let (merged, top) = (&layers[..self.count], &layers[0]);
        let lowest = merged[self.count - 1];
        let same = |layer: &Layer<'_>| layer.cluster_size == top.cluster_size;
        if merged.iter().all(same) && lowest.size == top.size {
            let path = self.catalogue.path_of(lowest.file);
            let builder = self.read(&path, true)?;
            // Perhaps since before an earlier merge, by tables that count for nothing since.
            if builder.file().is_read() {
                builder.leave_gaps();
            }
            return Ok((path, builder, self.count - 1));
        }
        let name = self.catalogue.new_image(self.disk, self.run)?;
        let path = self.catalogue.path_of(&name);
        let file = OsFile::create_new(&path).map_err(|error| io(&path, error))?;
        let finest = merged.iter().map(|layer| layer.cluster_size).min();
        let finest = u64::from(finest.unwrap_or(top.cluster_size));
        let below = layers.get(self.count).map(|layer| layer.file);
        let options = create_options(top.size, finest, below);
        let failed = |error| PruneError::Write {
            path: path.clone(),
            error,
        };
        let builder = Qcow2Builder::create(file, &options).map_err(failed)?;
        Ok((path, builder, self.count))
    }

    fn copy_pieces(
        &self,
        source: &dyn Device,
        pieces: Vec<Piece>,
        into: &Into,
    ) -> Result<u64, PruneError> {
        let (copied, failure) = (AtomicU64::new(0), Mutex::new(None));
        let stopped = || self.cancel.load(Ordering::Relaxed);
        pieces
            .into_par_iter()
            .flat_map_iter(Piece::cut)
            .try_for_each(|piece| {
                if stopped() {
                    return Err(());
                }
                let length = piece.bytes.end - piece.bytes.start;
                let done = self.copy_piece(source, &piece, into);
                (self.tell)(copied.fetch_add(length, Ordering::Relaxed) + length);
                done.map_err(|error| {
                    if let Ok(mut failure) = failure.lock() {
                        failure.get_or_insert(error);
                    }
                })
            })
            .map_err(|()| {
                let failure = failure.into_inner().ok().flatten();
                failure.unwrap_or(PruneError::Cancelled)
            })?;
        Ok(copied.into_inner())
    }

    fn copy_piece(
        &self,
        source: &dyn Device,
        piece: &Piece,
        into: &Into,
    ) -> Result<(), PruneError> {
        let bytes = &piece.bytes;
        let mut data = vec![0; usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX)];
        let unreadable = |error: ReadError| error.of(self.disk, self.run);
        source
            .read_at(&mut data, bytes.start)
            .map_err(|error| unreadable(error.into()))?;
        let wrong = piece
            .differing(&data)
            .map_err(|error| unreadable(error.into()))?;
        if let Some(wrong) = wrong.first() {
            return Err(PruneError::Damaged {
                disk: self.disk.clone(),
                run: self.run,
                offset: wrong.start,
                length: wrong.end - wrong.start,
            });
        }
        let builder = &into.builder;
        let cluster = builder.cluster_size();
        let first = bytes.start / cluster;
        let chunks = data.chunks(usize::try_from(cluster).unwrap_or(usize::MAX));
        let written = (first..)
            .zip(chunks)
            .try_for_each(|(index, data)| match is_zero(data) {
                true => builder.write_zero_cluster(index),
                false if into.compress => builder.write_compressed(index, data),
                false => builder.write_cluster(index, data),
            });
        written.map_err(|error| into.failed(error))
    }

    /// The digests of the merged image, if any of those it was made of had some: theirs, and where there is none that
    /// speaks of exactly a cluster, that of what was merged just now.
    fn digests(
        &self,
        merged: &Qcow2Builder<OsFile>,
        path: &Path,
        layers: &[Layer<'_>],
    ) -> Result<Option<StoredDigests>, PruneError> {
        let (layers, size) = (&layers[..self.count], layers[0].size);
        if layers.iter().all(|layer| layer.digests.is_none()) {
            return Ok(None);
        }
        let directory = self.catalogue.directory();
        let cluster = merged.cluster_size();
        let layered = merged.backing().is_some();
        let recording = Recording::create(directory, size, cluster, layered)
            .map_err(|error| io(directory, error))?;
        let unreadable = |error: ReadError| error.of(self.disk, self.run);
        for layer in layers.iter().rev() {
            self.overlay(&recording, layer, cluster, size)
                .map_err(unreadable)?;
        }
        let image =
            cohort_block::open(path, read_only()).map_err(|error| unreadable(error.into()))?;
        let held = merged.held().map(|run| {
            let (clusters, held) = run?;
            Ok::<(Range<u64>, bool), ReadError>((clusters, held == Held::Zero))
        });
        recording.fit(&*image, held).map_err(unreadable)?;
        let file = self.catalogue.new_digests(self.disk, self.run)?;
        let stored = self.catalogue.path_of(&file);
        let root = recording
            .write(&stored, |_| Ok(true))
            .map_err(|error| io(&stored, error))?;
        Ok(Some(StoredDigests { file, root }))
    }

    /// Puts the digests of one layer over those of the layers below it.
    fn overlay(
        &self,
        recording: &Recording,
        layer: &Layer<'_>,
        cluster: u64,
        size: u64,
    ) -> Result<(), ReadError> {
        let stored = layer
            .digests
            .map(|stored| Sidecar::open(&self.catalogue.path_of(&stored.file), stored.root));
        let all = size.div_ceil(cluster);
        if layer.size < size {
            // What the layers below have beyond its end is not seen, and of the cluster in which it ends not all.
            recording.forget(layer.size / cluster..all);
        }
        match stored.transpose()? {
            Some(stored) if stored.cluster() == cluster => {
                recording.load(&stored)?;
                if layer.size > size {
                    // The last cluster held more than is left of it.
                    recording.forget(size / cluster..layer.size.div_ceil(cluster));
                }
            }
            // Nothing below a layer that does not say what it holds is certain to be seen.
            Some(_) | None => recording.forget(0..all),
        }
        Ok(())
    }

    fn open(&self, image: &ImageName) -> Result<Arc<dyn Device>, PruneError> {
        let opened = cohort_block::open(self.catalogue.path_of(image), read_only());
        opened.map_err(|error| ReadError::from(error).of(self.disk, self.run))
    }

    /// Opens an image. That flushes it, so that what is read of it is there for good.
    fn read(&self, path: &Path, writable: bool) -> Result<Qcow2Builder<OsFile>, PruneError> {
        let file = OsFile::open(path, writable).map_err(|error| io(path, error))?;
        Qcow2Builder::open(file).map_err(|error| match error.is_flush() {
            true => PruneError::Write {
                path: path.to_owned(),
                error,
            },
            false => ReadError::from(error).of(self.disk, self.run),
        })
    }
}

fn read_only() -> OpenOptions {
    // The catalogue's lock guards the directory.
    OpenOptions::read_only()
        .format(Format::Qcow2)
        .without_lock()
}

fn backing(image: &Qcow2Builder<OsFile>) -> Option<String> {
    image.backing().map(|backing| backing.file.clone())
}

fn io(path: &Path, error: std::io::Error) -> PruneError {
    PruneError::File {
        path: path.to_owned(),
        error,
    }
}
