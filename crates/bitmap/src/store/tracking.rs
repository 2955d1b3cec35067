//! `Store`: a store that is open to be written.

use std::fmt;
use std::io;
use std::sync::{OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sync::{Arc, Mutex, MutexGuard};
use crate::{DirtyBitmap, Granularity, Recorder};

use super::believed::Believed;
use super::cover::Cover;
use super::header::Header;
use super::intents::{Intents, LogPlace, Recording, Track};
use super::layout::{BODIES, HEADERS, LOGS, StoreId};
use super::log::encode_batch;
use super::recovery;
use super::sets::{Bound, Kind, Known, Sets, state_of};
use super::table::{NewSet, Table};
use super::{DiskState, File, Inspection, Label, Lost, Mode, SetId, SetUse, StoreError};

/// The tracking of one disk, kept in a file. See the [module](super).
///
/// Dropping it without [`close`](Self::close) leaves the file as a crash does. Only one process may have a
/// file open as a store; whoever opens the file sees to that with a lock.
pub struct Store {
    shared: Arc<Shared>,
}

/// What a store's recordings share.
pub(super) struct Shared {
    pub(super) intents: Intents,
    pub(super) file: std::sync::Arc<Believed>,
    pub(super) id: StoreId,
    disk_size: u64,
    /// Held through a checkpoint.
    turn: Mutex<()>,
    pub(super) sets: Mutex<Sets>,
    header: Mutex<Header>,
}

/// A set that exists durably and into which nothing records yet.
#[must_use = "nothing is recorded until it begins"]
pub struct Prepared {
    shared: Arc<Shared>,
    set: SetId,
    bound: Arc<Bound>,
}

impl Store {
    /// Makes a store for `disk` in an empty file. `id` is random.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`], or the file cannot be written.
    pub fn create(
        file: std::sync::Arc<dyn File>,
        id: StoreId,
        disk: DiskState,
        mode: Mode,
    ) -> Result<Store, StoreError> {
        let writing = StoreError::writing("the beginning");
        if file.len().map_err(StoreError::reading("the length"))? != 0 {
            return Err(StoreError::NotEmpty);
        }
        // Room for everything that may not fail for want of it later: header, table, log.
        file.write_at(&vec![0; (BODIES - HEADERS[1]) as usize], HEADERS[1])
            .map_err(&writing)?;
        let first = encode_batch(&[], 1, 0, &id);
        file.write_at(&first, LOGS[1]).map_err(&writing)?;
        file.sync_data().map_err(&writing)?;
        let header = begin(&*file, 0, id, mode, disk).map_err(&writing)?;
        Ok(Self::with(file, header, Table::empty(), Vec::new(), 1, 1))
    }

    /// Opens a store after a clean close or a crash, and tells what its sets hold now. What was recovered is
    /// written down exactly so before this returns.
    ///
    /// Sets that were recording hold no new writes until they are [resumed](Self::resume): resume them, or
    /// finish them, before the first write.
    ///
    /// # Errors
    /// As [`inspect`](super::inspect), [`StoreError::OtherDisk`], or the file cannot be written.
    pub fn open(
        file: std::sync::Arc<dyn File>,
        disk: DiskState,
        mode: Mode,
    ) -> Result<(Store, Inspection), StoreError> {
        let found = recovery::read(&*file, Some(&disk))?;
        if found.header.disk.identity != disk.identity {
            return Err(StoreError::OtherDisk);
        }
        let (id, mut table, epoch) = (found.header.id, found.table, found.epoch.max(1));
        let mut known = Vec::new();
        let mut changed = Vec::new();
        for report in &found.inspection.sets {
            let Some(pair) = table.pair_of(report.set) else {
                continue;
            };
            let recording = report.used == SetUse::Recording;
            if recording || report.lost.is_some() {
                changed.push(NewSet {
                    pair,
                    set: report.set,
                    state: state_of(recording),
                    epoch,
                    label: &report.label,
                    lost: report.lost.as_ref(),
                    bits: report.dirty.clone(),
                    excess_bytes: report.excess_bytes,
                });
            }
            known.push(Known {
                set: report.set,
                pair,
                label: report.label.clone(),
                lost: report.lost.clone(),
                excess_bytes: report.excess_bytes,
                kind: if recording {
                    Kind::recording(report.dirty.clone())
                } else {
                    Kind::Fixed
                },
            });
        }
        let writing = StoreError::writing("what was recovered");
        // The sets first: beginning an epoch overwrites the intents of the one before the last.
        table.write(&*file, &id, &changed).map_err(&writing)?;
        let begun = encode_batch(&[], epoch + 1, 0, &id);
        file.write_at(&begun, super::log::place(epoch + 1, 0))
            .map_err(&writing)?;
        file.sync_data().map_err(&writing)?;
        // And again, now that the new epoch is there: they hold all that came before it, so that the next switch
        // may overwrite that.
        changed.iter_mut().for_each(|set| set.epoch = epoch + 1);
        table.write(&*file, &id, &changed).map_err(&writing)?;
        drop(changed);
        let header = begin(&*file, found.header.generation, id, mode, disk).map_err(&writing)?;
        let store = Self::with(file, header, table, known, epoch + 1, 1);
        Ok((store, found.inspection))
    }

    fn with(
        file: std::sync::Arc<dyn File>,
        header: Header,
        table: Table,
        known: Vec<Known>,
        epoch: u64,
        next: u64,
    ) -> Store {
        let file = std::sync::Arc::new(Believed::new(file));
        let log = LogPlace {
            file: file.clone(),
            id: header.id,
            mode: header.mode,
        };
        let disk_size = header.disk.size;
        Store {
            shared: Arc::new(Shared {
                intents: Intents::new(log, epoch, next, budget(disk_size)),
                file,
                id: header.id,
                disk_size,
                turn: Mutex::new(()),
                sets: Mutex::new(Sets { table, known }),
                header: Mutex::new(header),
            }),
        }
    }

    /// The store's own id.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.shared.id
    }

    /// What its intents survive.
    #[must_use]
    pub fn mode(&self) -> Mode {
        lock(&self.shared.header).mode
    }

    /// Makes an empty set, durably, that is to record. Recording begins with [`Prepared::begin`], which touches
    /// memory only and so may be called while a gate is closed.
    ///
    /// # Errors
    /// There is no room for it, or the disk is too large for that granularity, or the store failed.
    pub fn prepare(&self, label: Label, granularity: Granularity) -> Result<Prepared, StoreError> {
        let base = DirtyBitmap::new(self.shared.disk_size, granularity)?;
        let bound = Arc::new(Bound {
            base: base.clone(),
            track: OnceLock::new(),
        });
        let kind = Kind::Recording(Arc::clone(&bound));
        let set = self.shared.add(label, base, kind)?;
        Ok(Prepared {
            shared: Arc::clone(&self.shared),
            set,
            bound,
        })
    }

    /// Makes an empty set and records into it from now on.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn begin(&self, label: Label, granularity: Granularity) -> Result<Recording, StoreError> {
        let prepared = self.prepare(label, granularity)?;
        let recorder = Recorder::like(&prepared.bound.base);
        Ok(prepared.begin(&recorder))
    }

    /// Goes on recording into a set that recorded when the store was left. The recorder starts empty: the set
    /// is what was found joined with it.
    ///
    /// # Errors
    /// There is no such set, it is fixed, or it records already.
    pub fn resume(&self, set: SetId) -> Result<Recording, StoreError> {
        let bound = self.shared.bound(set)?;
        if bound.track.get().is_some() {
            return Err(StoreError::Use {
                set,
                rule: "records already",
            });
        }
        let recorder = Recorder::like(&bound.base);
        let prepared = Prepared {
            shared: Arc::clone(&self.shared),
            set,
            bound,
        };
        Ok(prepared.begin(&recorder))
    }

    /// Writes a set whose bits change no more.
    ///
    /// # Errors
    /// There is no room for it, or the store failed.
    pub fn write_fixed(&self, label: Label, bits: &DirtyBitmap) -> Result<SetId, StoreError> {
        self.shared.add(label, bits.clone(), Kind::Fixed)
    }

    /// Ends recording into a set: what it holds now stays. Nothing may record into it any more; whoever does
    /// all the same makes the store lost.
    ///
    /// # Errors
    /// There is no such set, it is fixed, or the store failed.
    pub fn finish(&self, set: SetId) -> Result<(), StoreError> {
        self.shared.finish(set)
    }

    /// What a set holds now.
    ///
    /// # Errors
    /// There is no such set, or it cannot be read.
    pub fn bits(&self, set: SetId) -> Result<DirtyBitmap, StoreError> {
        if let Ok(bound) = self.shared.bound(set) {
            return Ok(bound.bits());
        }
        let found = recovery::read(&*self.shared.file, None)?;
        found
            .inspection
            .set(set)
            .map(|report| report.dirty.clone())
            .ok_or(StoreError::NoSuchSet { set })
    }

    /// Replaces what a set says of itself.
    ///
    /// # Errors
    /// There is no such set, or the store failed.
    pub fn relabel(&self, set: SetId, label: Label) -> Result<(), StoreError> {
        let bits = self.bits(set)?;
        self.shared.rewrite(set, |known| known.label = label, bits)
    }

    /// Drops sets; those that are not there are none already. Nothing may record into them any more.
    ///
    /// # Errors
    /// The store failed.
    pub fn drop_sets(&self, sets: &[SetId]) -> Result<(), StoreError> {
        self.shared.drop_sets(sets)
    }

    /// The sets, in the order in which they were made, with what they are used for.
    #[must_use]
    pub fn sets(&self) -> Vec<(SetId, Label, SetUse)> {
        let mut sets: Vec<_> = lock(&self.shared.sets)
            .known
            .iter()
            .map(|known| (known.set, known.label.clone(), known.kind.used()))
            .collect();
        sets.sort_by_key(|(set, ..)| *set);
        sets
    }

    /// Writes what the recording sets hold, so that a crash adds less, and the log has room again. Writers
    /// go on meanwhile.
    ///
    /// # Errors
    /// The store failed: now, or before.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.shared.checkpoint_if(|_| true)
    }

    /// Waits until a [`checkpoint`](Self::checkpoint) is of use, for a thread that does nothing else. False: there
    /// will be none any more, because the store was closed or failed.
    ///
    /// Without such a thread writers checkpoint themselves when the log is full.
    #[must_use]
    pub fn wait_for_work(&self) -> bool {
        self.shared.intents.wait_for_work()
    }

    /// Lets [`wait_for_work`](Self::wait_for_work) return: the thread that waits is no longer needed.
    pub fn dismiss(&self) {
        self.shared.intents.dismiss();
    }

    /// Since when the recording sets miss writes, if they do.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.shared.intents.lost()
    }

    /// Writes everything exactly, and the disk's last state, so that nothing is added on reopening. All
    /// writes to the disk have returned, it was flushed, and nobody records any more; whoever does all the same
    /// makes the store lost.
    ///
    /// # Errors
    /// The store failed: now, or before. The next to open it finds its recording sets lost.
    pub fn close(&self, disk: DiskState) -> Result<(), StoreError> {
        self.shared.close(disk)
    }
}

impl Prepared {
    /// Its number.
    #[must_use]
    pub fn set(&self) -> SetId {
        self.set
    }

    /// Records into the set from now on what is also marked in `recorder`. In memory only.
    pub fn begin(self, recorder: &Recorder) -> Recording {
        let granules = recorder.granularity().granules(recorder.size());
        let cover = Cover::new(granules);
        // What the set holds already needs no intent.
        if recorder.granularity() == self.bound.base.granularity() {
            for run in self.bound.base.runs() {
                let end = recorder.granularity().granules(run.end()).min(granules);
                cover.set(&(run.offset >> recorder.granularity().shift()..end));
            }
        }
        let track = Track {
            set: self.set,
            recorder: recorder.clone(),
            cover: Arc::new(cover),
        };
        Recording {
            track: self.bound.track.get_or_init(|| track).clone(),
            shared: self.shared,
        }
    }
}

impl Shared {
    /// The store failed. From the moment this returns the next one to open it knows, if the file can still
    /// be written to at all.
    pub(super) fn fail(&self, why: &str) -> Lost {
        let mut header = lock(&self.header);
        if let Some(lost) = &header.lost {
            return lost.clone();
        }
        let lost = Lost {
            since_unix_ms: now_unix_ms(),
            why: why.to_owned(),
        };
        header.lost = Some(lost.clone());
        header.clean = false;
        header.generation += 1;
        self.file.anyway(|file| {
            if header.write(file).is_err() {
                // An empty file is no store: it promises nothing either.
                let _ = file.set_len(0).and_then(|()| file.sync_data());
            }
        });
        drop(header);
        self.intents.lose(lost.clone());
        lost
    }

    /// Checkpoints if that is still of use when it is this caller's turn.
    pub(super) fn checkpoint_if(
        &self,
        of_use: impl FnOnce(&Intents) -> bool,
    ) -> Result<(), StoreError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lost) = self.intents.lost() {
            return Err(StoreError::Lost(lost));
        }
        if !of_use(&self.intents) {
            return Ok(());
        }
        self.write_all(false)
    }

    /// Switches epochs, and writes every recording set as of then.
    fn write_all(&self, exact: bool) -> Result<(), StoreError> {
        self.checked(self.intents.switch(exact))?;
        let mut sets = lock(&self.sets);
        let epoch = self.intents.epoch();
        let Sets { table, known } = &mut *sets;
        let recording: Vec<_> = known
            .iter()
            .filter_map(|known| known.recording_now(epoch))
            .collect();
        self.checked(table.write(&*self.file, &self.id, &recording))
    }

    fn close(&self, disk: DiskState) -> Result<(), StoreError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.intents.dismiss();
        for known in &lock(&self.sets).known {
            if let Kind::Recording(bound) = &known.kind {
                bound.retire();
            }
        }
        if let Some(lost) = self.intents.lost() {
            return Err(StoreError::Lost(lost));
        }
        self.write_all(true)?;
        let mut header = lock(&self.header);
        if let Some(lost) = &header.lost {
            return Err(StoreError::Lost(lost.clone()));
        }
        header.clean = true;
        header.disk = disk;
        header.written_unix_ms = now_unix_ms();
        header.generation += 1;
        let written = header.write(&*self.file);
        drop(header);
        self.checked(written)
    }

    /// A failure to write anything is the end of all promises: what was synced with it may be gone, too.
    pub(super) fn checked(&self, written: io::Result<()>) -> Result<(), StoreError> {
        written.map_err(|error| {
            StoreError::Lost(self.fail(&format!("its sets cannot be written: {error}")))
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("file", &self.shared.file)
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

/// Writes down that this process has the store open, in both copies of the header: one of them may be damaged,
/// or older than it can be.
fn begin(
    file: &dyn File,
    generation: u64,
    id: StoreId,
    mode: Mode,
    disk: DiskState,
) -> io::Result<Header> {
    let mut header = Header {
        generation,
        id,
        mode,
        clean: false,
        disk,
        pid: std::process::id(),
        written_unix_ms: now_unix_ms(),
        lost: None,
    };
    for _ in 0..2 {
        header.generation += 1;
        header.write(file)?;
    }
    Ok(header)
}

/// How many bytes may be prepared for and not written. While a checkpoint is being written the stretches
/// of two epochs count, so a crash adds at most twice as much: under 1 % of the disk, or half a gibibyte.
fn budget(disk_size: u64) -> u64 {
    (disk_size / 256).max(256 << 20)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(all(test, loom))]
mod loom_models;
