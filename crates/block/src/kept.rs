//! QEMU's bitmaps of an image that is written to: in use while it is open, saved when it is closed.
//!
//! imago knows nothing of bitmaps. While it has the image it sees a header without the promise that they
//! are true, so it does not take that promise back; the file has it all along. Their clusters are counted
//! like any other, so imago leaves them alone; their directory and the counts change only before it has
//! the image and after.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Held, Qcow2Error};
use cohort_bitmap::{Granularity, Recorder, Stretch};

use crate::file::{File, FileRun};

/// The bitmaps of an open image, and what is to be added to them.
pub(crate) struct Kept {
    path: PathBuf,
    bitmaps: Bitmaps<Arc<dyn File>>,
    live: Vec<LiveBitmap>,
    /// What was written: one for each granularity that they have.
    recorders: Vec<Recorder>,
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
    /// Has the image at `path` say that its enabled bitmaps are in use. Nothing for one without bitmaps.
    pub(crate) fn begin(path: &Path, file: Arc<dyn File>) -> Result<Option<Self>, Qcow2Error> {
        let mut bitmaps = Bitmaps::open(file)?;
        if bitmaps.list().is_empty() {
            return Ok(None);
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
        Ok(Some(Kept {
            path: path.to_owned(),
            bitmaps,
            live,
            recorders,
        }))
    }

    /// Remembers that a range is about to be written.
    pub(crate) fn mark(&self, offset: u64, length: u64) {
        for written in &self.recorders {
            written.mark(offset, length);
        }
    }

    /// The enabled ones, as they are while the image is written to.
    pub(crate) fn live(&self) -> &[LiveBitmap] {
        &self.live
    }

    /// Saves the bitmaps with what was written, and has the image say that they are true again. To be
    /// called when nobody writes any more, and all that was written is in the image.
    ///
    /// # Errors
    /// What keeps them from being saved; they stay in use then, and so inconsistent for everybody.
    pub(crate) fn finish(mut self) -> Result<(), Qcow2Error> {
        let mut all = Vec::new();
        for LiveBitmap { held, written } in self.live {
            let mut held = Arc::unwrap_or_clone(held);
            held.add(&written.snapshot())?;
            all.push(held);
        }
        self.bitmaps.release(&all)
    }

    /// The image's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
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

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.discard(offset, length)
    }

    fn run_at(&self, offset: u64, length: u64) -> io::Result<FileRun> {
        self.0.run_at(offset, length)
    }
}
