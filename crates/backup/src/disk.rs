//! One disk in one run: what was decided before, and what is found out on the way.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cohort_bitmap::store::{Prepared, Recording, SetId};
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, Split};
use cohort_block::{BeforeWrite, Device, Ledger, Savers, StagingLevel, WriteMeter};

use crate::catalogue::{
    ByteRange, Catalogue, DirectoryId, DiskName, ImageName, Partial, Point, RunId, StoredDigests,
};
use crate::checkpoint::{Checkpoints, Named};
use crate::digests::Sidecar;
use crate::error::DiskError;
use crate::governor::Governor;
use crate::offline_store::KnownChanges;
use crate::options::Options;
use crate::plan::{Base, CopyPlan, StepDown};
use crate::report::{Continued, Meter, Rows};
use crate::source::Source;
use crate::target::{DigestsError, Target, Through, create_options};
use crate::tracked::Borrowed;

/// The facts of one disk in one run, shared by its job and by who reports on it.
pub(crate) struct Disk {
    pub(crate) decided: Decided,
    pub(crate) run: RunId,
    /// The name of the transaction that it is in.
    pub(crate) group: String,
    /// Its place among the members of that transaction.
    pub(crate) member: AtomicU32,
    pub(crate) catalogue: Arc<Catalogue>,
    /// The id of its directory.
    pub(crate) directory: DirectoryId,
    pub(crate) through: Option<Through>,
    /// Whether to stop without waiting for a flush.
    pub(crate) hurry: Arc<AtomicBool>,
    pub(crate) meter: Meter,
    /// How long writes to a served disk are held up, from the fence on.
    pub(crate) writes: Arc<WriteMeter>,
    /// What lets the copies of all disks of the run go ahead.
    pub(crate) governor: Arc<Governor>,
    /// Whether it has no others in its group.
    pub(crate) alone: bool,
    pub(crate) checkpoints: Arc<Checkpoints>,
    pub(crate) state: Mutex<DiskState>,
}

/// What is decided before the run has a number, and holds for all of it.
pub(crate) struct Decided {
    pub(crate) name: DiskName,
    pub(crate) options: Options,
    pub(crate) source: Source,
    pub(crate) plan: CopyPlan,
    /// What the target may lie on, best first; the last one is always possible.
    pub(crate) bases: Vec<Candidate>,
    /// The partial that the disk has in the catalogue.
    pub(crate) partial: Option<Partial>,
    /// The point that clean bits speak of.
    pub(crate) anchor: Option<RunId>,
    /// What the tracking store that was named, or the keeper of the disk's instant, says.
    pub(crate) known: Option<KnownChanges>,
}

/// Something that a target may lie on.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) base: Base,
    /// What the disk is compared with.
    pub(crate) reference: Option<Arc<dyn Device>>,
    /// The point whose file backs the target.
    pub(crate) parent: Option<RunId>,
    /// That file.
    pub(crate) backing: Option<ImageName>,
    /// The partial, opened to be continued.
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) cluster: Granularity,
}

/// What is found out on the way.
#[derive(Default)]
pub(crate) struct DiskState {
    /// A served disk that is prepared for its fence.
    pub(crate) ready: Option<Ready>,
    /// From the fence, or from the begin of copying, until it is settled.
    pub(crate) started: Option<Started>,
    /// The target, until it is clear what becomes of it.
    pub(crate) target: Option<Arc<Target>>,
    /// Files of digests that this run wrote.
    pub(crate) digests: Vec<ImageName>,
    /// The partial's row, once this run wrote it.
    pub(crate) named: Option<Named>,
    /// What of a partial is continued.
    pub(crate) continued: Option<Continued>,
    /// The digests of a target that is complete.
    pub(crate) stored: Option<StoredDigests>,
    pub(crate) error: Option<DiskError>,
    pub(crate) point: Option<Point>,
    pub(crate) left: Option<Partial>,
    pub(crate) copied_bytes: u64,
    pub(crate) skipped: Vec<ByteRange>,
    pub(crate) notes: Vec<String>,
    pub(crate) stepped_down: Option<StepDown>,
    pub(crate) rows: Option<Rows>,
    /// The sets of the view that the point will have, once they are in the record of the disk's job.
    pub(crate) recorded: Option<Vec<SetId>>,
    /// What recorded until the fence and does no more.
    pub(crate) outgoing: Vec<Recording>,
    /// How much old data waited, once a served disk is settled.
    pub(crate) staged: Option<StagingLevel>,
    /// Whether the source changed while it was read, and that was accepted.
    pub(crate) changed: bool,
}

/// A served disk with everything that its fence needs.
pub(crate) struct Ready {
    pub(crate) views: Borrowed,
    /// A recorder in the gate that no view uses.
    pub(crate) stale: Option<Recorder>,
    /// What the target lies on.
    pub(crate) parent: Option<RunId>,
    pub(crate) continues: bool,
    pub(crate) cluster: Granularity,
    pub(crate) savers: Savers,
    pub(crate) target: Arc<Target>,
    /// What is copied whether it is dirty or not.
    pub(crate) besides: Option<DirtyBitmap>,
    /// What becomes of the sets of its tracking store.
    pub(crate) turn: Option<Turn>,
}

/// A tracking store at the turn from one set to the next. The catalogue names the next one already.
pub(crate) struct Turn {
    pub(crate) next: Prepared,
    /// What records until the fence.
    pub(crate) before: Vec<Recording>,
}

/// A disk of which an instant is being copied.
pub(crate) struct Started {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) target: Arc<Target>,
    pub(crate) parent: Option<RunId>,
    pub(crate) created_unix_ms: u64,
    /// Of a served disk.
    pub(crate) fenced: Option<FencedDisk>,
}

/// What the fence did to a served disk.
pub(crate) struct FencedDisk {
    pub(crate) split: Split,
    pub(crate) filter: Arc<BeforeWrite>,
    /// What is to be copied, in granules of the disk's bitmap.
    pub(crate) manifest: DirtyBitmap,
    /// The point that the view speaks of.
    pub(crate) anchor: Option<RunId>,
    /// The partial that is continued.
    pub(crate) partial: Option<ImageName>,
    pub(crate) sets: Option<FencedSets>,
}

/// The sets of the tracking store of a disk that is being copied.
pub(crate) struct FencedSets {
    /// Since.
    pub(crate) recording: Recording,
    /// Base, as far as sets say it.
    pub(crate) point: Option<Vec<SetId>>,
    /// What was dirty against the partial, as far as sets say it.
    pub(crate) partial: Option<Vec<SetId>>,
}

impl Disk {
    pub(crate) fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes it has.
    pub(crate) fn size(&self) -> u64 {
        self.decided.source.device.size()
    }

    /// How long a flush is waited for.
    pub(crate) fn flush_wait(&self) -> Duration {
        if self.hurry.load(Ordering::Acquire) {
            Duration::ZERO
        } else {
            self.decided.options.flush_wait
        }
    }

    pub(crate) fn note(&self, note: impl Into<String>) {
        self.state().notes.push(note.into());
    }

    /// Makes the target file, or takes up the partial's, and remembers it.
    pub(crate) fn make_target(&self, candidate: &Candidate) -> Result<Arc<Target>, DiskError> {
        let target = match &candidate.target {
            Some(partial) => Arc::clone(partial),
            None => {
                let backing = candidate.backing.as_ref();
                let options = create_options(self.size(), self.decided.options.cluster, backing);
                let name = self.catalogue.new_image(&self.decided.name, self.run)?;
                let directory = self.catalogue.directory();
                Arc::new(Target::create(
                    directory,
                    name,
                    &options,
                    (candidate.cluster, self.decided.options.compress),
                    self.through.as_ref(),
                )?)
            }
        };
        self.catalogue.enlist(&self.group, &self.decided.name);
        self.state().target = Some(target.clone());
        if target.continued() {
            target
                .note_held(self.size())
                .map_err(|error| DiskError::write(target.path(), None, error))?;
        }
        if self.decided.options.digests {
            self.begin_digests(&target, candidate)?;
        }
        Ok(target)
    }

    /// Digests of a new target begin empty; those of a partial go on from what is stored, or from what it holds.
    fn begin_digests(&self, target: &Target, candidate: &Candidate) -> Result<(), DiskError> {
        let continued = candidate.target.as_ref().and(self.decided.partial.as_ref());
        let stored = continued.and_then(|partial| partial.digests.as_ref());
        let stored =
            stored.map(|stored| Sidecar::open(&self.catalogue.path_of(&stored.file), stored.root));
        let size = self.size();
        let fits =
            |stored: &Sidecar| stored.size() == size && stored.cluster() == target.cluster_size();
        let stored = match stored.transpose() {
            Ok(stored) => stored.filter(fits),
            Err(error) => {
                self.note(format!(
                    "the digests of the partial are computed again: {error}"
                ));
                None
            }
        };
        let image = continued.and(candidate.reference.as_deref());
        target
            .begin_digests(size, stored.as_ref(), image)
            .map_err(|error| DiskError::digests(target.path(), error))
    }

    /// Makes the target's digests of the clusters that are wanted durable under a name of their own, for the row
    /// that will name them.
    pub(crate) fn store_digests(
        &self,
        target: &Target,
        wanted: impl FnMut(u64) -> io::Result<bool>,
    ) -> Result<Option<StoredDigests>, DiskError> {
        let Some(digests) = target.digests() else {
            return Ok(None);
        };
        let file = self.catalogue.new_digests(&self.decided.name, self.run)?;
        let path = self.catalogue.path_of(&file);
        self.state().digests.push(file.clone());
        let root = digests
            .write(&path, wanted)
            .map_err(|error| DiskError::digests(&path, DigestsError::File(Arc::new(error))))?;
        Ok(Some(StoredDigests { file, root }))
    }

    /// Drops the partial that the disk has in the catalogue, with its file.
    pub(crate) fn drop_partial(&self) -> Result<(), DiskError> {
        if let Some(partial) = self.catalogue.drop_partial(&self.decided.name)? {
            self.catalogue.remove_image(&partial.file)?;
            if let Some(digests) = partial.digests {
                self.catalogue.remove_image(&digests.file)?;
            }
        }
        Ok(())
    }

    /// What a fresh error means for this disk's file.
    pub(crate) fn fail(&self, error: DiskError) -> cohort_job::Error {
        let message = error.to_string();
        self.state().error.get_or_insert(error);
        cohort_job::Error::new(message)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("name", &self.decided.name)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// The dirty runs of a set, as byte ranges.
pub(crate) fn ranges(set: &DirtyBitmap) -> Vec<ByteRange> {
    set.runs()
        .map(|run| ByteRange {
            offset: run.offset,
            length: run.length,
        })
        .collect()
}

pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
