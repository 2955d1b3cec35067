//! The job of one disk: scan, lay out the target, copy, seal; what comes after is in `ending.rs`.
//!
//! A step only looks at what its tasks brought and hands out new ones. Served disks are fenced before their
//! job is launched and begin with copying.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use cohort_bitmap::DirtyBitmap;
use cohort_block::DeviceError;
use cohort_job::{Abort, Commit, Context, Driver, Error, Record, Step};

use crate::copying::Copying;
use crate::disk::{Candidate, Disk, Started, now_unix_ms};
use crate::error::DiskError;
use crate::plan::{Base, Changes, Rung, StepDown};
use crate::report::DiskPhase;
use crate::scan::{allocated, not_known_zero, scan_some};

/// The driver of one disk.
pub(crate) struct BackupDriver {
    disk: Arc<Disk>,
    stage: Stage,
}

enum Stage {
    Begin,
    Scan(Scan),
    LayOut(Slot<Result<(), DiskError>>),
    Copy(Copying),
    Seal(Slot<Result<(), DiskError>>),
    Over,
}

/// A comparison under way.
struct Scan {
    /// Which of the disk's bases it is compared with.
    base: usize,
    dirty: DirtyBitmap,
    from: u64,
    found: Slot<Found>,
}

/// Runs of bytes that differ, and where to go on.
type Found = Result<(Vec<Range<u64>>, u64), DeviceError>;

/// Where a task leaves its result.
struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T: Send + 'static> Slot<T> {
    fn spawn(cx: &mut Context<'_>, task: impl FnOnce() -> T + Send + 'static) -> Self {
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        cx.spawn(move || {
            let value = task();
            if let Ok(mut slot) = result.lock() {
                *slot = Some(value);
            }
        });
        Slot(slot)
    }

    fn take(&self) -> Option<T> {
        self.0.lock().ok()?.take()
    }
}

impl BackupDriver {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        BackupDriver {
            disk,
            stage: Stage::Begin,
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Step {
        if self.disk.state().started.is_some() {
            return self.begin_copying(cx);
        }
        match self.disk.decided.plan.changes {
            Changes::Everything => self.lay_out(cx, self.disk.decided.bases.len() - 1, None),
            Changes::View | Changes::Compare | Changes::Allocated => self.begin_scan(cx, 0),
            Changes::ImageBitmap => self.begin_with_bitmap(cx),
        }
    }

    /// Goes by the tracking store or the bitmap in the image, which says what differs from the best base.
    fn begin_with_bitmap(&mut self, cx: &mut Context<'_>) -> Step {
        let disk = &self.disk;
        let candidate = &disk.decided.bases[0];
        if let Some(known) = &disk.decided.known {
            return match known.in_clusters(candidate.cluster) {
                Ok(dirty) => self.lay_out(cx, 0, Some(dirty)),
                Err(_) => Step::failed(disk.fail(self.too_large(candidate))),
            };
        }
        let contents = match disk.catalogue.snapshot() {
            Ok(contents) => contents,
            Err(error) => return Step::failed(disk.fail(error.into())),
        };
        let point = candidate
            .parent
            .and_then(|run| contents.point(&disk.decided.name, run));
        let Some((bitmap, point)) = disk.decided.source.bitmap.as_ref().zip(point) else {
            return self.begin_scan(cx, 0);
        };
        match bitmap.dirty(candidate.cluster, point) {
            Ok(dirty) => self.lay_out(cx, 0, Some(dirty)),
            Err(_) => Step::failed(disk.fail(self.too_large(candidate))),
        }
    }

    /// Compares the disk with one of its bases, the last of which needs no comparison.
    fn begin_scan(&mut self, cx: &mut Context<'_>, base: usize) -> Step {
        let candidate = &self.disk.decided.bases[base];
        if candidate.base == Base::Nothing {
            return self.lay_out(cx, base, None);
        }
        let size = self.disk.size();
        let dirty = match DirtyBitmap::new(size, candidate.cluster) {
            Ok(dirty) => dirty,
            Err(_) => return Step::failed(self.disk.fail(self.too_large(candidate))),
        };
        self.disk.meter.begin(DiskPhase::Scanning, size);
        cx.progress().set_remaining(size);
        let found = self.scan_from(cx, base, 0);
        self.stage = Stage::Scan(Scan {
            base,
            dirty,
            from: 0,
            found,
        });
        Step::Wait(SCANS)
    }

    fn scan_from(&self, cx: &mut Context<'_>, base: usize, from: u64) -> Slot<Found> {
        let (source, candidate) = (
            self.disk.decided.source.device.clone(),
            self.disk.decided.bases[base].clone(),
        );
        Slot::spawn(cx, move || {
            let range = from..source.size();
            scan_some(
                &*source,
                candidate.reference.as_deref(),
                candidate.cluster,
                range,
            )
        })
    }

    fn go_on_scanning(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Scan(scan) = &mut self.stage else {
            return Step::Again;
        };
        let (runs, next) = match scan.found.take() {
            None => return Step::Wait(SCANS),
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                let base = scan.base;
                return self.fall_back(cx, base, &error);
            }
        };
        for run in runs {
            let _ = scan.dirty.set(run.start, run.end - run.start);
        }
        cx.progress().advance(next - scan.from);
        self.disk.meter.set_done(next);
        scan.from = next;
        if next < self.disk.size() {
            let base = scan.base;
            let found = self.scan_from(cx, base, next);
            if let Stage::Scan(scan) = &mut self.stage {
                scan.found = found;
            }
            return Step::Wait(SCANS);
        }
        let (base, dirty) = (scan.base, scan.dirty.clone());
        self.lay_out(cx, base, Some(dirty))
    }

    /// A base that cannot be read is none: the next one, at the price of copying more.
    fn fall_back(&mut self, cx: &mut Context<'_>, base: usize, error: &DeviceError) -> Step {
        let disk = &self.disk;
        if disk.decided.bases[base].base == Base::Partial {
            disk.note(format!("the partial is not continued: {error}"));
            if let Err(error) = disk.drop_partial() {
                return Step::failed(disk.fail(error));
            }
        }
        if disk.decided.bases[base + 1].base == Base::Nothing
            && disk.decided.bases[base].base == Base::Point
        {
            let step = StepDown {
                to: Rung::Everything,
                reason: error.to_string(),
            };
            if disk.decided.options.strict {
                let source_name = disk.decided.source.label.clone();
                return Step::failed(disk.fail(DiskError::TooStrict { source_name, step }));
            }
            disk.state().stepped_down = Some(step);
        }
        self.begin_scan(cx, base + 1)
    }

    /// Makes the target and the list of what is to be copied.
    fn lay_out(&mut self, cx: &mut Context<'_>, base: usize, dirty: Option<DirtyBitmap>) -> Step {
        let disk = Arc::clone(&self.disk);
        self.stage = Stage::LayOut(Slot::spawn(cx, move || {
            start_unfenced(&disk, &disk.decided.bases[base], dirty)
        }));
        Step::Wait("waits for the target to be made")
    }

    fn begin_copying(&mut self, cx: &mut Context<'_>) -> Step {
        self.disk.note_continued();
        match Copying::begin(&self.disk, cx) {
            Some(copying) => {
                self.stage = Stage::Copy(copying);
                Step::Again
            }
            None => Step::failed(Error::new("there is nothing to copy to")),
        }
    }

    fn begin_sealing(&mut self, cx: &mut Context<'_>) -> Step {
        self.disk.meter.enter(DiskPhase::Sealing);
        let disk = Arc::clone(&self.disk);
        self.stage = Stage::Seal(Slot::spawn(cx, move || disk.seal_complete()));
        Step::Wait(SEALS)
    }

    fn too_large(&self, candidate: &Candidate) -> DiskError {
        DiskError::TooLarge {
            source_name: self.disk.decided.source.label.clone(),
            size: self.disk.size(),
            cluster: candidate.cluster.bytes(),
        }
    }
}

impl Driver for BackupDriver {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        match &mut self.stage {
            Stage::Begin => self.begin(cx),
            Stage::Scan(_) => self.go_on_scanning(cx),
            Stage::LayOut(slot) => match slot.take() {
                None => Step::Wait("waits for the target to be made"),
                Some(Ok(())) => self.begin_copying(cx),
                Some(Err(error)) => Step::failed(self.disk.fail(error)),
            },
            Stage::Copy(copying) => match copying.step(&self.disk, cx) {
                Some(step) => step,
                None => self.begin_sealing(cx),
            },
            Stage::Seal(slot) => match slot.take() {
                None => Step::Wait(SEALS),
                Some(Ok(())) => {
                    self.disk.meter.enter(DiskPhase::Waiting);
                    self.stage = Stage::Over;
                    Step::done()
                }
                Some(Err(error)) => Step::failed(self.disk.fail(error)),
            },
            Stage::Over => Step::done(),
        }
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        self.disk.prepare().map_err(|error| self.disk.fail(error))
    }

    fn commit(&mut self, _: &Commit) {
        self.stage = Stage::Over;
        self.disk.commit();
    }

    fn abort(&mut self, why: &Abort) {
        // The copier's results hold claims; they go back before anything is settled.
        self.stage = Stage::Over;
        self.disk.abort(why);
    }

    fn clean(&mut self) {
        self.disk.clean();
    }
}

const SCANS: &str = "waits for the comparison with the last point";
const SEALS: &str = "waits for the target to be durable";

/// Finds what an unfenced disk has to copy, and makes its target.
fn start_unfenced(
    disk: &Disk,
    candidate: &Candidate,
    dirty: Option<DirtyBitmap>,
) -> Result<(), DiskError> {
    let source = &*disk.decided.source.device;
    let too_large = |_| DiskError::TooLarge {
        source_name: disk.decided.source.label.clone(),
        size: source.size(),
        cluster: candidate.cluster.bytes(),
    };
    let manifest = match dirty {
        None => not_known_zero(source, candidate.cluster).map_err(too_large)?,
        Some(mut dirty) => {
            if disk.decided.plan.changes == Changes::Allocated {
                let besides = allocated(source, candidate.cluster).map_err(too_large)?;
                dirty.merge(&besides).expect("both are of the same disk");
            }
            dirty
        }
    };
    let target = disk.make_target(candidate)?;
    disk.state().started = Some(Started {
        ledger: Arc::new(cohort_block::Ledger::new(manifest)),
        target,
        parent: candidate.parent,
        created_unix_ms: now_unix_ms(),
        fenced: None,
    });
    Ok(())
}
