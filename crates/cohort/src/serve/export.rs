//! What is served: disks by name, and what can be said of their ranges.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use cohort_backup::UntrackError;
use cohort_bitmap::{DirtyBitmap, Stretch};
use cohort_block::{Device, DeviceError, ExtentKind, LiveBitmap, WriteMeter};
use cohort_nbd::{BitmapName, Context, Export, Exports, Name, Status};

use super::tracking::{Ending, Tracking};
use super::traffic::Traffic;

/// The length of requests that suits files best.
const PREFERRED_BYTES: u32 = 64 << 10;

/// Most runs that one block status request is answered with: looking them up takes time, and a client may ask on.
const MOST_RUNS: usize = 1024;

/// A disk under a name.
#[derive(Debug)]
pub(crate) struct Served {
    /// What clients call it.
    pub(crate) name: Name,
    /// The disk. Every write passes its gate.
    pub(crate) device: Arc<dyn Device>,
    /// What counts the writes, if nobody else tells of them.
    pub(crate) meter: Option<Arc<WriteMeter>>,
    /// What counts the requests.
    pub(crate) traffic: Traffic,
    /// Where its writes are recorded, if they are.
    pub(crate) tracking: Option<Tracking>,
    /// How much of it is served: all, or without what its file has more because of its format.
    pub(crate) size: u64,
    /// Nothing may be written to it.
    pub(crate) read_only: bool,
    /// Bitmaps that say what was written: once, or until now. They are let go with the disk, when it is served no more and
    /// its last client is gone.
    pub(crate) bitmaps: Vec<(BitmapName, Arc<dyn Dirt>)>,
}

/// What is told as `qemu:dirty-bitmap:NAME`, also while the disk is written to.
pub(crate) trait Dirt: fmt::Debug + Send + Sync {
    /// Whether the byte at `start` is dirty, and for how many bytes at least, at most `length`, that stays so. A write that
    /// was answered before the call is in it. Nothing past the end of what the bitmap speaks of.
    fn status(&self, start: u64, length: u64) -> Option<Stretch>;

    /// How many bytes are dirty now.
    fn dirty_bytes(&self) -> u64;
}

/// As it was when it was read.
impl Dirt for DirtyBitmap {
    fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        let length = length.min(self.size().checked_sub(start)?);
        DirtyBitmap::status(self, start, length).ok()
    }

    fn dirty_bytes(&self) -> u64 {
        DirtyBitmap::dirty_bytes(self)
    }
}

impl Dirt for LiveBitmap {
    fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        LiveBitmap::status(self, start, length)
    }

    fn dirty_bytes(&self) -> u64 {
        LiveBitmap::dirty_bytes(self)
    }
}

/// All disks that are served, and no two under one name.
#[derive(Debug, Default)]
pub(crate) struct Catalogue(RwLock<Vec<Arc<Served>>>);

/// There is a disk of that name already.
#[derive(Debug, thiserror::Error)]
#[error("another disk is served as {0}")]
pub(crate) struct NameTaken(pub(crate) Name);

impl Catalogue {
    /// Serves one more, to clients that come from now on.
    ///
    /// # Errors
    /// [`NameTaken`].
    pub(crate) fn add(&self, disk: Served) -> Result<(), NameTaken> {
        let mut disks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if disks.iter().any(|other| other.name == disk.name) {
            return Err(NameTaken(disk.name));
        }
        disks.push(Arc::new(disk));
        Ok(())
    }

    /// Those there are now, in the order in which they were added.
    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The disk of that name. The empty name means the only one there is.
    pub(super) fn disk(&self, name: &Name) -> Option<Arc<Served>> {
        let disks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match disks.as_slice() {
            [only] if name.as_str().is_empty() => Some(only.clone()),
            all => all.iter().find(|disk| disk.name == *name).cloned(),
        }
    }

    /// Lets no more clients in to the disk of that name.
    pub(super) fn remove(&self, name: &Name) {
        let mut disks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|disk| disk.name != *name);
    }
}

impl Exports for Catalogue {
    fn names(&self) -> Vec<Name> {
        self.all().iter().map(|disk| disk.name.clone()).collect()
    }

    fn find(&self, name: &Name) -> Option<Export> {
        let disk = self.disk(name)?;
        let bitmaps = disk
            .bitmaps
            .iter()
            .map(|(name, _)| Context::DirtyBitmap(name.clone()));
        let known = [Context::Allocation, Context::AllocationDepth];
        Some(Export {
            name: disk.name.clone(),
            size: disk.size,
            read_only: disk.read_only,
            preferred_length: PREFERRED_BYTES,
            contexts: known.into_iter().chain(bitmaps).collect(),
        })
    }
}

impl Served {
    /// Makes the disk durable, and ends its tracking: the store is to be closed when the disk has been.
    pub(super) fn end(&self) -> Result<Option<Ending>, UntrackError> {
        match &self.tracking {
            Some(tracking) => tracking.end(),
            None => Ok(self.device.flush().map(|()| None)?),
        }
    }

    /// What a context says of a range, from its start on: at least one run, joined where neighbours say the same, and
    /// only one if `one` is enough.
    pub(super) fn status(
        &self,
        context: &Context,
        offset: u64,
        length: u64,
        one: bool,
    ) -> Result<Vec<Status>, DeviceError> {
        let mut runs: Vec<Status> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        for _ in 0..MOST_RUNS {
            if at == end {
                break;
            }
            let run = self.run(context, at, end - at)?;
            at += run.length;
            match runs.last_mut() {
                Some(last) if last.flags == run.flags => last.length += run.length,
                Some(_) if one => break,
                _ => runs.push(run),
            }
        }
        Ok(runs)
    }

    fn run(&self, context: &Context, at: u64, length: u64) -> Result<Status, DeviceError> {
        if let Context::DirtyBitmap(wanted) = context {
            let bitmap = self.bitmaps.iter().find(|(name, _)| name == wanted);
            // A range that the bitmap does not reach says the safe thing: dirty.
            let stretch = bitmap.and_then(|(_, bitmap)| bitmap.status(at, length));
            return Ok(stretch.map_or(
                Status {
                    length,
                    flags: Context::DIRTY,
                },
                |stretch| Status {
                    length: stretch.length,
                    flags: if stretch.dirty { Context::DIRTY } else { 0 },
                },
            ));
        }
        let extent = self.device.extent(at, length)?;
        let flags = match (context, extent.kind, extent.allocated) {
            (Context::AllocationDepth, _, true) => 1,
            (Context::AllocationDepth, ExtentKind::Data, false) => 2,
            (Context::AllocationDepth, ExtentKind::Zero, false) => 0,
            (_, ExtentKind::Zero, _) => Context::HOLE | Context::ZERO,
            (_, ExtentKind::Data, _) => 0,
        };
        Ok(Status {
            length: extent.length,
            flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use cohort_bitmap::Granularity;
    use cohort_block::{Gated, MemoryDevice};

    use super::*;

    #[test]
    fn runs_are_joined_and_cut_at_the_range() {
        let size = 1 << 20;
        let mut bits = DirtyBitmap::new(size, Granularity::DEFAULT).unwrap();
        bits.set(65536, 3 * 65536).unwrap();
        let name = BitmapName::new("b0").unwrap();
        let served = Served {
            name: Name::new("m").unwrap(),
            device: Arc::new(Gated::new(Arc::new(MemoryDevice::new("m", size)))),
            meter: None,
            traffic: Traffic::default(),
            tracking: None,
            size,
            read_only: false,
            bitmaps: vec![(name.clone(), Arc::new(bits))],
        };
        let told = |offset, length, one| {
            let context = Context::DirtyBitmap(name.clone());
            let runs = served.status(&context, offset, length, one).unwrap();
            runs.into_iter()
                .map(|run| (run.length, run.flags))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told(0, size, false),
            [(65536, 0), (196_608, 1), (786_432, 0)]
        );
        assert_eq!(told(0, size, true), [(65536, 0)]);
        assert_eq!(told(100_000, 10, false), [(10, 1)]);
        let allocation = served.status(&Context::Allocation, 0, size, false).unwrap();
        assert_eq!(
            allocation,
            [Status {
                length: size,
                flags: Context::HOLE | Context::ZERO
            }]
        );
    }
}
