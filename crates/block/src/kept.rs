//! QEMU's bitmaps of an image that is written to: in use while it is open, saved when it is closed.
//!
//! imago knows nothing of bitmaps. While it has the image it sees a header without the promise that they
//! are true, so it does not take that promise back; the file has it all along. Their clusters are counted
//! like any other, so imago leaves them alone; their directory and the counts change only before it has
//! the image and after.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Entry, Held, Qcow2Error, Saved};
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, Stretch};

use crate::file::File;

/// The bitmaps of an open image, and what is to be added to them.
pub(crate) struct Kept {
    path: PathBuf,
    bitmaps: Mutex<Bitmaps<Arc<dyn File>>>,
    live: Vec<LiveBitmap>,
    /// What was written: one for each granularity that they have.
    recorders: Vec<Recorder>,
    /// Whoever has them instead of us.
    owner: OnceLock<Arc<dyn BitmapOwner>>,
}

/// Who has the bitmaps of an image that is written to, and so says in the end what the image holds:
/// see [`Image::hand_over_bitmaps`](crate::Image::hand_over_bitmaps).
pub trait BitmapOwner: fmt::Debug + Send + Sync {
    /// What is to be in the image now that nobody writes to it any more. Those that it has keep their places there, new ones
    /// come last in this order, and what is not among these is taken out of it.
    fn to_save(&self) -> Vec<Saved>;

    /// They could not be saved, for this reason: what was in the image is inconsistent now.
    fn not_saved(&self, why: &str);
}

/// A bitmap that an image was found to have.
#[derive(Clone, Debug)]
pub struct FoundBitmap {
    /// What it is called.
    pub name: String,
    /// Bytes per bit.
    pub granularity: Granularity,
    /// Whether whoever writes has to mark it.
    pub enabled: bool,
    /// What it says; nothing if that is not true.
    pub bits: Option<DirtyBitmap>,
}

impl FoundBitmap {
    /// The bitmap of an entry; nothing if it is not of a kind that can be used.
    pub(crate) fn of(entry: &Entry, bits: Option<DirtyBitmap>) -> Option<Self> {
        Some(Self {
            name: entry.name().to_owned(),
            granularity: entry.granularity()?,
            enabled: entry.is_enabled(),
            bits,
        })
    }
}

/// An enabled bitmap of an image that is written to: what it said when the image was opened, and what was written since.
///
/// It stays true for as long as the image's device is written to, and says no more than it did then once that is dropped.
#[derive(Clone, Debug)]
pub struct LiveBitmap {
    held: Arc<Held>,
    written: Recorder,
}

impl LiveBitmap {
    /// What it is called.
    pub fn name(&self) -> &str {
        self.held.name()
    }

    /// Bytes per bit.
    pub fn granularity(&self) -> Granularity {
        self.written.granularity()
    }

    /// How many bytes of the disk are dirty now.
    pub fn dirty_bytes(&self) -> u64 {
        let mut all = self.written.snapshot();
        let before = self.held.bits().fitted_to(&all);
        all.merge(&before).expect("fitted to the same disk");
        all.dirty_bytes()
    }

    /// Whether the byte at `start` is dirty now, and for how many bytes at least, at most `length`, that stays so: as
    /// [`Recorder::status`].
    pub fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        let written = self.written.status(start, length)?;
        let length = length.min(self.written.size() - start);
        let before = self.held.bits().status(start, length).ok()?;
        Some(written.joined(before))
    }
}

impl Kept {
    /// Has the image at `path` say that its enabled bitmaps are in use, if it has some.
    pub(crate) fn begin(path: &Path, file: Arc<dyn File>) -> Result<Self, Qcow2Error> {
        let mut bitmaps = Bitmaps::open(file)?;
        if bitmaps.is_stale() {
            tracing::warn!("{}: {}", path.display(), Qcow2Error::Stale);
            return Ok(Self::with(path, bitmaps, Vec::new(), Vec::new()));
        }
        for entry in bitmaps.list() {
            if *entry.condition() == Condition::InUse {
                let error = Qcow2Error::Inconsistent {
                    name: entry.name().to_owned(),
                };
                tracing::warn!("{}: {error}", path.display());
            }
        }
        let (mut live, mut recorders): (Vec<LiveBitmap>, Vec<Recorder>) = (Vec::new(), Vec::new());
        for held in bitmaps.hold()? {
            let granularity = held.bits().granularity();
            let known = recorders.iter().find(|r| r.granularity() == granularity);
            let written = known.cloned().unwrap_or_else(|| {
                let recorder = Recorder::like(held.bits());
                recorders.push(recorder.clone());
                recorder
            });
            let held = Arc::new(held);
            live.push(LiveBitmap { held, written });
        }
        Ok(Self::with(path, bitmaps, live, recorders))
    }

    fn with(
        path: &Path,
        bitmaps: Bitmaps<Arc<dyn File>>,
        live: Vec<LiveBitmap>,
        recorders: Vec<Recorder>,
    ) -> Self {
        Kept {
            path: path.to_owned(),
            bitmaps: Mutex::new(bitmaps),
            live,
            recorders,
            owner: OnceLock::new(),
        }
    }

    /// Whether the image has bitmaps that are promised to be true.
    pub(crate) fn has_bitmaps(&self) -> bool {
        let bitmaps = self.bitmaps();
        !bitmaps.is_stale() && !bitmaps.list().is_empty()
    }

    /// Whether there is anything to be done in the end.
    pub(crate) fn is_needed(&self) -> bool {
        !self.live.is_empty() || self.owner.get().is_some()
    }

    /// Gives all bitmaps away, before anything is written: those that are true are in use from here on, disabled ones too.
    pub(crate) fn hand_over(
        &self,
        owner: Arc<dyn BitmapOwner>,
    ) -> Result<Vec<FoundBitmap>, Qcow2Error> {
        let mut bitmaps = self.bitmaps();
        let mut found = Vec::new();
        if !bitmaps.is_stale() {
            let disabled = bitmaps.hold_disabled()?;
            let enabled = self.live.iter().map(|live| &*live.held);
            let held: Vec<_> = enabled.chain(&disabled).collect();
            for entry in bitmaps.list() {
                let bits = held.iter().find(|held| held.name() == entry.name());
                let bits = bits.map(|held| held.bits().clone());
                found.extend(FoundBitmap::of(entry, bits));
            }
        }
        // There is one hand-over for each image that is opened.
        let _ = self.owner.set(owner);
        Ok(found)
    }

    /// Whether the image could be given another bitmap beside `others`. Touches nothing but memory.
    pub(crate) fn check_new<'a>(
        &self,
        name: &str,
        granularity: Granularity,
        others: impl Iterator<Item = &'a str>,
    ) -> Result<(), Qcow2Error> {
        self.bitmaps().check_new(name, granularity, others)
    }

    fn bitmaps(&self) -> MutexGuard<'_, Bitmaps<Arc<dyn File>>> {
        // What is read of the image is read again before it is changed.
        self.bitmaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a range is about to be written.
    pub(crate) fn mark(&self, offset: u64, length: u64) {
        if self.owner.get().is_some() {
            return;
        }
        for written in &self.recorders {
            written.mark(offset, length);
        }
    }

    /// The enabled ones, as they are while the image is written to.
    pub(crate) fn live(&self) -> &[LiveBitmap] {
        &self.live
    }

    /// Saves the bitmaps with what was written, or as their owner says, and has the image say that they are true again. To
    /// be called once, when nobody writes any more; `written` says whether all that was written is in the image. What keeps
    /// the bitmaps from being saved is told; they stay in use then, and so inconsistent for everybody.
    pub(crate) fn finish(&self, written: bool) {
        let saved = match (written, self.owner.get()) {
            (false, _) => Err("its tables could not be written".to_owned()),
            (true, Some(owner)) => self.save(owner.to_save()),
            (true, None) => self.release(),
        };
        let Err(why) = saved else { return };
        let lost = format!(
            "{}: its bitmaps are left inconsistent: {why}",
            self.path.display()
        );
        match self.owner.get() {
            Some(owner) => owner.not_saved(&lost),
            None => tracing::error!("{lost}"),
        }
    }

    fn save(&self, all: Vec<Saved>) -> Result<(), String> {
        let saved = self.bitmaps().save(&all);
        saved.map_err(|error| error.to_string())
    }

    fn release(&self) -> Result<(), String> {
        let mut all = Vec::new();
        for LiveBitmap { held, written } in &self.live {
            let mut held = Held::clone(held);
            held.add(&written.snapshot())
                .map_err(|error| error.to_string())?;
            all.push(held);
        }
        let released = self.bitmaps().release(&all);
        released.map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("path", &self.path)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

/// Where in the header the autoclear bits end; bit 0, the promise, is in the last byte before that.
const AUTOCLEAR_END: u64 = 96;
const PROMISE: u8 = 1;

/// An image's file without the promise in its header, for who would take it back.
#[derive(Debug)]
pub(crate) struct Veiled(Arc<dyn File>);

impl Veiled {
    pub(crate) fn new(file: Arc<dyn File>) -> Self {
        Veiled(file)
    }
}

/// Where in a request at `offset` the byte with the promise is.
fn promise_in(offset: u64, length: usize) -> Option<usize> {
    let at = (AUTOCLEAR_END - 1).checked_sub(offset)? as usize;
    (at < length).then_some(at)
}

impl File for Veiled {
    cohort_bitmap::forward_file!(0: sync_data, len, set_len, write_zeroes, discard, run_at);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)?;
        if let Some(at) = promise_in(offset, buf.len()) {
            buf[at] &= !PROMISE;
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        match promise_in(offset, buf.len()) {
            Some(at) => {
                let mut promising = buf.to_vec();
                promising[at] |= PROMISE;
                self.0.write_at(&promising, offset)
            }
            None => self.0.write_at(buf, offset),
        }
    }
}
