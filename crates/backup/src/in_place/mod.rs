//! Backup in place: one device copied into another that is there already, as QEMU's backup job does it.
//!
//! There is no directory and no catalogue: what the copy is worth is written nowhere but in the bitmap, so it holds
//! while this process lives. [`InPlace::prepare`] gets threads; [`Prepared::start`] is the instant, inside a closed
//! gate; what it gives is the driver of a job. The bitmap is settled by the same table as any other (`settle.rs`): the
//! anchor of an *always* bitmap is the target, as long as that is not removed.

mod copying;
mod ending;
mod policy;

use std::error::Error;
use std::io;
use std::sync::Arc;

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, Split, View};
use cohort_block::{
    BeforeWrite, ClosedGate, Device, DeviceError, Gated, Ledger, Patience, Savers, Sink,
};
use cohort_job::{Abort, Commit, Context, Driver, Record, Step};

use crate::BitmapPolicy;
use crate::scan::allocated;
use crate::settle::{Ended, Settled};

use copying::Copying;
use ending::Ending;

pub use policy::{OnError, Reaction, Side};

/// Threads that save old data for writers. Writers wait for them, so more than one.
const SAVERS: usize = 4;

/// Which part of the source is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of it.
    Full,
    /// What its top layer allocates.
    Top,
    /// What the bitmap says.
    Bitmap,
    /// Only what is about to be overwritten, until the job is cancelled.
    Overwritten,
}

/// What one backup in place is to do.
#[derive(Clone, Debug)]
pub struct InPlace {
    /// What is copied; every write to it passes its gate.
    pub source: Arc<Gated>,
    /// Where to; as long as the source.
    pub target: Arc<dyn Device>,
    /// Which part.
    pub part: Part,
    /// The unit of copying: at least the target's own.
    pub cluster: Granularity,
    /// Copies at a time, at least one.
    pub workers: usize,
    /// Most bytes of one copy; a whole cluster in any case.
    pub chunk: u64,
    /// What becomes of the bitmap, if there is one.
    pub policy: BitmapPolicy,
    /// What a failed read means.
    pub on_source_error: OnError,
    /// What a failed write means.
    pub on_target_error: OnError,
    /// How often a cluster whose errors are ignored is tried; nothing for ever.
    pub attempts: Option<u32>,
    /// How many clusters that cannot be read may be left out. They stay dirty.
    pub skip_limit: u64,
    /// How long a writer waits, and what gives way then.
    pub patience: Patience,
}

/// Whoever wants to know how a backup in place goes on. Called by its job, so it must be quick.
pub trait Observer: Send + Sync + 'static {
    /// A copy failed, and this is what comes of it.
    fn failed(&self, side: Side, error: &DeviceError, reaction: Reaction);
    /// Everything is copied and durable, and nothing is decided. `skipped` is what was left out, if there is a bitmap. The
    /// record is what must be known of the job to settle its bitmap after a crash.
    ///
    /// # Errors
    /// Whatever forbids that the job commits.
    fn prepared(&self, skipped: Option<&DirtyBitmap>) -> Result<Record, cohort_job::Error> {
        let _ = skipped;
        Ok(Record::default())
    }
    /// The bitmap, if there was one, is settled; its job is about to end.
    fn settled(&self, settled: Option<Settled>, ended: Ended);
    /// The last word: source and target are not used any more.
    fn over(&self);
}

/// A backup that has all it needs to start within a fence.
#[derive(Debug)]
pub struct Prepared {
    plan: InPlace,
    savers: Savers,
    /// What the top layer allocated, and what was written since that was found.
    top: Option<(DirtyBitmap, Recorder)>,
}

impl InPlace {
    /// Looks at what is allocated if that is to be copied.
    ///
    /// # Errors
    /// The source cannot say what is allocated, or has too many clusters.
    pub fn prepare(self, deadline: std::time::Instant) -> io::Result<Prepared> {
        let sink = Arc::new(Into {
            target: self.target.clone(),
            cluster: self.cluster,
        });
        let savers = Savers::new(sink, SAVERS);
        let top = match self.part {
            Part::Top => Some(self.top_layer(deadline)?),
            Part::Full | Part::Bitmap | Part::Overwritten => None,
        };
        Ok(Prepared {
            plan: self,
            savers,
            top,
        })
    }

    /// Whoever writes while the map is read may allocate what was passed already: that is recorded.
    fn top_layer(&self, deadline: std::time::Instant) -> io::Result<(DirtyBitmap, Recorder)> {
        let source = &self.source;
        let recorder = Recorder::new(source.size(), self.cluster).map_err(io::Error::other)?;
        let closed = source.close("the search for what is allocated", deadline);
        closed
            .map_err(io::Error::other)?
            .install_recorder(recorder.clone());
        let found = allocated(&**source.device(), self.cluster).map_err(io::Error::other)?;
        Ok((found, recorder))
    }
}

/// Old data on its way to the target.
struct Into {
    target: Arc<dyn Device>,
    cluster: Granularity,
}

impl Sink for Into {
    fn save(&self, cluster: u64, data: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let offset = cluster << self.cluster.shift();
        Ok(self.target.write_at(data, offset)?)
    }
}

impl Prepared {
    /// The instant. Touches memory only, so that it may be called while the gate is closed. `view` is the bitmap, if
    /// there is one, and `recording` whether writes count in it from here on.
    ///
    /// # Errors
    /// Never for sizes that [`InPlace::prepare`] has seen; the view is lost then.
    pub fn start(
        self,
        closed: &mut ClosedGate<'_>,
        view: Option<View>,
        recording: bool,
        observer: Arc<dyn Observer>,
    ) -> io::Result<InPlaceDriver> {
        let Prepared { plan, savers, top } = self;
        let split = view.map(|view| {
            let old = view.recorder().clone();
            let split = view.split();
            closed.remove_recorder(&old);
            if recording {
                closed.install_recorder(split.successor().clone());
            }
            split
        });
        let clusters = manifest(&plan, split.as_ref(), top, closed)?;
        let ledger = Arc::new(Ledger::new(clusters));
        let source = plan.source.device().clone();
        let filter = BeforeWrite::new(ledger.clone(), source, savers, plan.patience);
        let filter = Arc::new(filter);
        closed.install_filter(filter.clone());
        let plan = Arc::new(plan);
        let ending = Ending {
            plan: plan.clone(),
            filter,
            ledger: ledger.clone(),
            split,
            observer: observer.clone(),
        };
        Ok(InPlaceDriver {
            copying: Some(Copying::new(plan, ledger, observer)),
            ending,
        })
    }
}

/// The clusters to copy.
fn manifest(
    plan: &InPlace,
    split: Option<&Split>,
    top: Option<(DirtyBitmap, Recorder)>,
    closed: &mut ClosedGate<'_>,
) -> io::Result<DirtyBitmap> {
    let size = plan.source.size();
    let all = || DirtyBitmap::all_dirty(size, plan.cluster);
    let clusters = match (plan.part, split, top) {
        (Part::Bitmap, Some(split), _) => split.to_copy().at_granularity(plan.cluster),
        (Part::Top, _, Some((mut found, recorder))) => {
            closed.remove_recorder(&recorder);
            let merged = found.merge(&recorder.snapshot());
            merged.map_err(io::Error::other)?;
            Ok(found)
        }
        (Part::Full | Part::Top | Part::Bitmap | Part::Overwritten, ..) => all(),
    };
    clusters.map_err(io::Error::other)
}

/// The job of a backup in place.
pub struct InPlaceDriver {
    /// None once it is decided.
    copying: Option<Copying>,
    ending: Ending,
}

impl InPlaceDriver {
    /// What records the writes since the instant, if there is a bitmap: it takes its old recorder's place in the gate.
    pub fn since(&self) -> Option<&Recorder> {
        self.ending.split.as_ref().map(Split::successor)
    }
}

impl Driver for InPlaceDriver {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        match &mut self.copying {
            Some(copying) => copying.step(cx),
            None => Step::done(),
        }
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, cohort_job::Error> {
        let skipped = self.ending.skipped();
        self.ending.observer.prepared(skipped.as_ref())
    }

    fn commit(&mut self, _: &Commit) {
        self.copying = None;
        self.ending.commit();
    }

    fn abort(&mut self, why: &Abort) {
        // Results that nobody looked at hold claims; they go back before anything is settled.
        self.copying = None;
        self.ending.abort(why.disposition);
    }

    fn clean(&mut self) {
        self.ending.observer.over();
    }
}

impl std::fmt::Debug for InPlaceDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InPlaceDriver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
