//! Verifying a backup directory: every image read back and compared with its digests, and on request every point rebuilt.
//!
//! Each image is read once, through the chain it belongs to, whatever number of points lies on it. A point is sound if
//! every image of its chain is; where one is not, the parts of it that images above hide do no harm to the points there.

mod damage;
mod layer;
mod rebuilt;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::catalogue::{
    self, BadPointName, ByteRange, Contents, DiskName, NoSuchPoint, PointName, RunId,
};
use crate::restore::RestoreError;

pub use damage::Damage;

use damage::points_that_die;
use layer::Subject;

/// Which points are to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All, and the partials.
    All,
    /// One.
    Point(PointName),
    /// Those that a run took together.
    Run(RunId),
}

impl FromStr for Selection {
    type Err = BadPointName;

    /// Reads a point's name, or the number of a run; disks have names that begin with a letter.
    fn from_str(text: &str) -> Result<Self, BadPointName> {
        match text.parse::<u64>() {
            Ok(run) if run > 0 && !text.starts_with(['0', '+']) => Ok(Self::Run(RunId(run))),
            Ok(_) | Err(_) => text.parse().map(Self::Point),
        }
    }
}

/// What is to be verified, and how.
#[derive(Clone, Debug)]
pub struct Verify {
    selection: Selection,
    restore_test: Option<PathBuf>,
}

impl Verify {
    /// Reads back what was selected.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            restore_test: None,
        }
    }

    /// Restores every point besides, one after the other, to a file in that directory, and compares it.
    #[must_use]
    pub fn restore_test(mut self, scratch: impl Into<PathBuf>) -> Self {
        self.restore_test = Some(scratch.into());
        self
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// The points that were selected.
    pub points: Vec<PointVerdict>,
    /// What is wrong, file by file.
    pub damage: Vec<Damage>,
    /// Bytes that were read.
    pub read_bytes: u64,
}

impl VerifyReport {
    /// Whether nothing at all is wrong.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.damage.is_empty()
    }
}

/// What is known of a point now.
#[derive(Clone, Debug)]
pub struct PointVerdict {
    /// The disk.
    pub disk: DiskName,
    /// The run that took it.
    pub run: RunId,
    /// Whether it can be restored.
    pub state: PointState,
    /// Whether it was rebuilt, and compared.
    pub rebuilt: bool,
    /// What could not be read when it was taken; what it shows there is not the disk.
    pub skipped: Vec<ByteRange>,
}

/// Whether a point is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointState {
    /// Every byte is what was backed up.
    Sound,
    /// Everything can be read, but some images of its chain have no digests to compare with.
    NoDigests,
    /// It cannot be restored as it was.
    Damaged,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The backup directory cannot be used.
    #[error(transparent)]
    Directory(#[from] catalogue::OpenError),
    /// There is no such point.
    #[error(transparent)]
    NoSuchPoint(#[from] NoSuchPoint),
    /// The run took no point.
    #[error("run {0} has no point here")]
    NoSuchRun(RunId),
    /// A point could not be rebuilt for reasons of its scratch file.
    #[error("rebuilding {disk}@{run}: {error}")]
    Scratch {
        /// The disk.
        disk: DiskName,
        /// The run that took the point.
        run: RunId,
        /// Why.
        error: RestoreError,
    },
    /// It was told to stop.
    #[error("stopped before everything was verified")]
    Cancelled,
}

/// How far verifying is, and whether it is to stop.
pub(crate) struct Watch<'a> {
    pub(crate) progress: &'a (dyn Fn(u64, u64) + Sync),
    pub(crate) cancel: &'a AtomicBool,
    pub(crate) read: AtomicU64,
    /// An estimate.
    pub(crate) total: u64,
}

impl Watch<'_> {
    pub(crate) fn note(&self, bytes: u64) {
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(read.min(self.total), self.total);
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// Verifies a backup directory. Changes nothing in it and waits for nobody: what a run or a prune removes meanwhile is
/// not called damaged.
///
/// `progress` is told (bytes read, about how many there are); setting `cancel` ends it soon.
///
/// # Errors
/// [`VerifyError`]: nothing is known then. Damage is no error but a part of the report.
pub fn verify(
    directory: &Path,
    what: &Verify,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<VerifyReport, VerifyError> {
    let mut contents = catalogue::read(directory)?;
    for _ in 0..TRIES {
        let report = once(directory, &contents, what, progress, cancel)?;
        let now = match report.sound() {
            true => return Ok(report),
            false => catalogue::read(directory)?,
        };
        // A run or a prune may have moved what was being read; then it is read again.
        if (&now.points, &now.partials) == (&contents.points, &contents.partials) {
            return Ok(report);
        }
        contents = now;
    }
    once(directory, &contents, what, progress, cancel)
}

/// How often a directory that changes under the reader is read again, if something seems wrong.
const TRIES: usize = 4;

fn once(
    directory: &Path,
    contents: &Contents,
    what: &Verify,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<VerifyReport, VerifyError> {
    let selected = select(contents, &what.selection)?;
    let subjects = subjects(contents, &selected, what.selection == Selection::All);
    let watch = Watch {
        progress,
        cancel,
        read: AtomicU64::new(0),
        total: estimate(directory, contents, &subjects, what, &selected),
    };
    let (mut damage, mut unchecked) = (Vec::new(), BTreeSet::new());
    for subject in &subjects {
        let found = layer::check(directory, contents, subject, &watch);
        if watch.cancelled() {
            return Err(VerifyError::Cancelled);
        }
        if found.unchecked {
            unchecked.extend(subject.run.map(|run| (subject.disk.clone(), run)));
        }
        damage.extend(found.damage.into_iter().map(|finding| {
            let points = points_that_die(directory, contents, subject, &finding);
            finding.into_damage(subject, points)
        }));
    }
    let mut points = Vec::new();
    for (disk, run) in selected {
        let dies = damage
            .iter()
            .any(|damage| damage.disk == disk && damage.points.contains(&run));
        let chain = chain_of(contents, &disk, run);
        let state = match () {
            () if dies => PointState::Damaged,
            () if chain
                .iter()
                .any(|run| unchecked.contains(&(disk.clone(), *run))) =>
            {
                PointState::NoDigests
            }
            () => PointState::Sound,
        };
        let point = contents.point(&disk, run);
        points.push(PointVerdict {
            skipped: point.map_or_else(Vec::new, |point| point.skipped.clone()),
            disk,
            run,
            state,
            rebuilt: false,
        });
    }
    if let Some(scratch) = &what.restore_test {
        rebuilt::rebuild_all(
            directory,
            contents,
            scratch,
            &mut points,
            &mut damage,
            &watch,
        )?;
    }
    Ok(VerifyReport {
        points,
        damage,
        read_bytes: watch.read.into_inner(),
    })
}

/// The points that are meant.
fn select(
    contents: &Contents,
    selection: &Selection,
) -> Result<Vec<(DiskName, RunId)>, VerifyError> {
    match selection {
        Selection::All => Ok(contents.points.keys().cloned().collect()),
        Selection::Point(name) => {
            let (run, _) = contents.resolve(name)?;
            Ok(vec![(name.disk.clone(), run)])
        }
        Selection::Run(run) => {
            let of_run = contents.points.keys().filter(|(_, other)| other == run);
            let found: Vec<_> = of_run.cloned().collect();
            match found.is_empty() {
                true => Err(VerifyError::NoSuchRun(*run)),
                false => Ok(found),
            }
        }
    }
}

/// The images that the selected points consist of, each once.
fn subjects<'a>(
    contents: &'a Contents,
    selected: &[(DiskName, RunId)],
    partials: bool,
) -> Vec<Subject<'a>> {
    let chains = selected.iter().flat_map(|(disk, run)| {
        let chain = chain_of(contents, disk, *run);
        chain.into_iter().map(move |run| (disk.clone(), run))
    });
    let needed: BTreeSet<(DiskName, RunId)> = chains.collect();
    let mut subjects: Vec<_> = needed
        .iter()
        .filter_map(|(disk, run)| Subject::of_point(contents, disk, *run))
        .collect();
    if partials {
        let partials = contents.partials.iter();
        subjects
            .extend(partials.map(|(disk, partial)| Subject::of_partial(contents, disk, partial)));
    }
    subjects
}

/// A point and those it lies on, newest first.
fn chain_of(contents: &Contents, disk: &DiskName, run: RunId) -> Vec<RunId> {
    let parent = |run: &RunId| contents.point(disk, *run).and_then(|point| point.parent);
    std::iter::successors(Some(run), parent).collect()
}

/// About how much there is to read.
fn estimate(
    directory: &Path,
    contents: &Contents,
    subjects: &[Subject<'_>],
    what: &Verify,
    selected: &[(DiskName, RunId)],
) -> u64 {
    let length = |subject: &Subject<'_>| {
        let path = directory.join(subject.layer.file.to_string());
        std::fs::metadata(path).map_or(0, |found| found.len())
    };
    let images: u64 = subjects.iter().map(length).sum();
    let rebuilt =
        |(disk, run): &(DiskName, RunId)| contents.point(disk, *run).map_or(0, |point| point.size);
    let rebuilt: u64 = match what.restore_test {
        Some(_) => selected.iter().map(rebuilt).sum(),
        None => 0,
    };
    images.saturating_add(rebuilt)
}
