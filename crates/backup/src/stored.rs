//! The tracking store of a disk: which of its sets make the disk's views, and what they are worth.
//!
//! The store never decides. What its sets mean is in the catalogue of the backup directory that owns them, and a set
//! that is not named there is garbage. Sets of other directories are left alone.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cohort_bitmap::store::{
    Away, Excess, Inspection, Label, Lost, Mode, Owner, Prepared, Recording, SetId, SetUse,
    StoreError,
};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{TrackingError, TrackingStore};

use crate::catalogue::{Contents, DirectoryId, DiskName, RunId, SetName, StoreId, Tracking, View};

/// What to do with views that may lack writes, because nobody can show that none passed their store by: after a
/// kill, and on block devices, which have no stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unproven {
    /// Compare the disk with its last point instead.
    Compare,
    /// Go by them: the caller says that nobody wrote to the disk while its store was not open.
    Use,
}

/// A disk's tracking store, open, and what was found in it.
pub(crate) struct Stored {
    path: PathBuf,
    id: StoreId,
    unproven: Unproven,
    found: HashMap<SetId, Found>,
    state: Mutex<State>,
}

struct State {
    /// Until it is closed.
    store: Option<TrackingStore>,
    /// Sets that record, of all owners.
    live: Vec<Live>,
}

/// A set that records, and what its label says.
#[derive(Clone, Debug)]
struct Live {
    recording: Recording,
    owner: [u8; 16],
    disk: String,
}

/// What is known of a set that was there when the store was opened.
#[derive(Clone, Debug)]
struct Found {
    excess_bytes: u64,
    lost: Option<Lost>,
    unproven: Option<String>,
}

/// The sets of a store that make a disk's views.
#[derive(Clone, Debug)]
pub(crate) struct ViewSets {
    /// Into which the disk's writes go now; it marks the recorder that the views share.
    pub(crate) recording: Recording,
    /// Those of the view against the point, if sets can say it.
    pub(crate) point: Option<Vec<SetId>>,
    /// Those of the view against the partial.
    pub(crate) partial: Option<Vec<SetId>>,
}

/// A view as a store knows it.
pub(crate) struct StoredView {
    pub(crate) bits: DirtyBitmap,
    pub(crate) sets: Vec<SetId>,
    pub(crate) recording: Recording,
    pub(crate) excess: Excess,
}

/// The bits of a view.
pub(crate) struct KnownBits {
    pub(crate) bits: DirtyBitmap,
    pub(crate) sets: Vec<SetId>,
    pub(crate) excess: Excess,
    /// Why nobody can show that no write is missing, if nobody can.
    pub(crate) unproven: Option<String>,
}

/// Begins the note of a set that was found recording after a kill: the reason follows.
const UNPROVEN: &str = "unproven: ";

impl Stored {
    /// Takes a store that was opened, with what was found in it; nothing for a new one. What recorded goes on
    /// recording, once the caller puts [`recordings`](Self::recordings) into the disk's gate.
    pub(crate) fn new(
        path: &Path,
        store: TrackingStore,
        found: Option<&Inspection>,
        unproven: Unproven,
    ) -> Result<Self, StoreError> {
        let (mut live, mut known) = (Vec::new(), HashMap::new());
        for report in found.iter().flat_map(|found| &found.sets) {
            let records = report.used == SetUse::Recording;
            let mut why = report.label.note.strip_prefix(UNPROVEN).map(str::to_owned);
            if let (true, None, Some(Away::Unknown(reason))) =
                (records, &why, found.map(|found| &found.away))
            {
                // Remembered: a clean close of this process proves nothing about the time before it.
                let note = format!("{UNPROVEN}{reason}");
                let label = report.label.clone();
                store.store().relabel(report.set, Label { note, ..label })?;
                why = Some(reason.clone());
            }
            if records && report.lost.is_none() {
                live.push(Live {
                    recording: store.store().resume(report.set)?,
                    owner: report.label.owner.id,
                    disk: report.label.name.clone(),
                });
            }
            known.insert(
                report.set,
                Found {
                    excess_bytes: report.excess_bytes,
                    lost: report.lost.clone(),
                    unproven: why,
                },
            );
        }
        Ok(Stored {
            path: std::path::absolute(path).unwrap_or_else(|_| path.into()),
            id: StoreId(store.store().id()),
            unproven,
            found: known,
            state: Mutex::new(State {
                store: Some(store),
                live,
            }),
        })
    }

    /// Sees to it that something records: a set that nobody collects, as long as no directory has one of its own. It says
    /// what was written since the disk was first served, for whoever wants to know.
    pub(crate) fn tend_nobodys(&self, disk: &DiskName) -> Result<(), StoreError> {
        let mut state = self.lock();
        let State {
            store: Some(store),
            live,
        } = &mut *state
        else {
            return Ok(());
        };
        let nobody = Owner::default();
        if live.iter().all(|live| live.owner == nobody.id) && !live.is_empty() {
            return Ok(());
        }
        live.retain(|live| live.owner != nobody.id);
        let sets = store.store().sets().into_iter();
        let nobodys = sets.filter(|(_, label, _)| label.owner == nobody);
        let nobodys: Vec<_> = nobodys.map(|(set, ..)| set).collect();
        store.store().drop_sets(&nobodys)?;
        if live.is_empty() {
            let label = label(&nobody, disk);
            live.push(Live {
                recording: store.store().begin(label, Granularity::DEFAULT)?,
                owner: nobody.id,
                disk: disk.as_str().to_owned(),
            });
        }
        Ok(())
    }

    /// Everything that records.
    pub(crate) fn recordings(&self) -> Vec<Recording> {
        let live = &self.lock().live;
        live.iter().map(|live| live.recording.clone()).collect()
    }

    /// What records for this disk of this directory.
    pub(crate) fn recordings_of(&self, owner: DirectoryId, disk: &DiskName) -> Vec<Recording> {
        let state = self.lock();
        let ours = |live: &&Live| live.owner == owner.bytes() && live.disk == disk.as_str();
        let ours = state.live.iter().filter(ours);
        ours.map(|live| live.recording.clone()).collect()
    }

    /// Whether it outlives a loss of power.
    pub(crate) fn outlives_power(&self) -> bool {
        let state = self.lock();
        let store = state.store.as_ref();
        store.is_some_and(|store| store.store().mode() == Mode::PowerLoss)
    }

    /// Makes a new, empty set durable, for what is written from the next fence on.
    pub(crate) fn prepare(
        &self,
        owner: &Owner,
        disk: &DiskName,
        granularity: Granularity,
    ) -> Result<Prepared, String> {
        let label = label(owner, disk);
        self.with(|store| store.store().prepare(label, granularity))
    }

    /// Notes that a prepared set records. Memory only.
    pub(crate) fn began(&self, recording: &Recording, owner: DirectoryId, disk: &DiskName) {
        self.lock().live.push(Live {
            recording: recording.clone(),
            owner: owner.bytes(),
            disk: disk.as_str().to_owned(),
        });
    }

    /// Writes bits that change no more.
    pub(crate) fn write_fixed(
        &self,
        owner: &Owner,
        disk: &DiskName,
        bits: &DirtyBitmap,
    ) -> Result<SetId, String> {
        let label = label(owner, disk);
        self.with(|store| store.store().write_fixed(label, bits))
    }

    /// What recorded until its gate was told otherwise stays as it is.
    pub(crate) fn finish(&self, recording: &Recording) -> Result<(), String> {
        self.lock()
            .live
            .retain(|live| !live.recording.same(recording));
        self.with(|store| store.store().finish(recording.set()))
    }

    /// Drops sets into which nobody records.
    pub(crate) fn drop_sets(&self, sets: &[SetId]) -> Result<(), String> {
        self.with(|store| store.store().drop_sets(sets))
    }

    /// Sets of that owner that no view of its catalogue is made of.
    pub(crate) fn garbage(&self, contents: &Contents) -> Vec<SetId> {
        let owner = contents.meta.directory.bytes();
        let named: Vec<u64> = contents.sets_of(self.id).collect();
        let state = self.lock();
        let Some(store) = &state.store else {
            return Vec::new();
        };
        let sets = store.store().sets().into_iter();
        sets.filter(|(set, label, _)| label.owner.id == owner && !named.contains(&set.0))
            .map(|(set, ..)| set)
            .collect()
    }

    /// How the catalogue names these sets; that they lost writes, if the store failed.
    pub(crate) fn tracking(&self, sets: Option<&[SetId]>) -> Tracking {
        let state = self.lock();
        let lost = state.store.as_ref().and_then(|store| store.store().lost());
        match (lost, sets) {
            (Some(lost), _) => Tracking::lost(lost.since_unix_ms),
            (None, None) => Tracking::none(),
            (None, Some(sets)) => Tracking::of_sets(
                sets.iter()
                    .map(|set| SetName {
                        store: self.path.display().to_string(),
                        id: self.id,
                        number: set.0,
                    })
                    .collect(),
            ),
        }
    }

    /// What a view of the catalogue says, or why it cannot be gone by. Somebody goes on recording for it.
    pub(crate) fn view(&self, view: &View) -> Result<StoredView, String> {
        let KnownBits {
            bits,
            sets,
            excess,
            unproven,
        } = self.bits(view)?;
        if let (Some(why), Unproven::Compare) = (unproven, self.unproven) {
            return Err(format!(
                "nobody can show that it has every write ({why}): to go by it all the same is yours to say"
            ));
        }
        let state = self.lock();
        let mut live = state.live.iter();
        let live = live.rfind(|live| sets.contains(&live.recording.set()));
        let live = live.ok_or("nobody recorded what was written since")?;
        Ok(StoredView {
            bits,
            sets,
            recording: live.recording.clone(),
            excess,
        })
    }

    /// What a view of the catalogue held when the store was opened, joined with what was recorded since.
    pub(crate) fn bits(&self, view: &View) -> Result<KnownBits, String> {
        let Tracking { proof, sets, .. } = &view.tracking;
        if let Some(why) = proof.distrust() {
            return Err(why.to_owned());
        }
        let mut whole: Option<DirtyBitmap> = None;
        let (mut excess_bytes, mut unproven) = (0, None);
        for name in sets {
            let set = SetId(name.number);
            if name.id != self.id {
                return Err(format!(
                    "the last backup went by another tracking store, which was at {}",
                    name.store
                ));
            }
            if let Some(found) = self.found.get(&set) {
                if let Some(lost) = &found.lost {
                    return Err(lost.why.clone());
                }
                unproven = unproven.or_else(|| found.unproven.clone());
                excess_bytes += found.excess_bytes;
            }
            let bits = self
                .with(|store| store.store().bits(set))
                .map_err(|why| format!("set {set} cannot be read: {why}"))?;
            match &mut whole {
                None => whole = Some(bits),
                Some(whole) => whole
                    .merge(&bits.fitted_to(whole))
                    .expect("fitted to the same disk"),
            }
        }
        Ok(KnownBits {
            bits: whole.ok_or("the last backup named no sets of a tracking store")?,
            sets: sets.iter().map(|name| SetId(name.number)).collect(),
            excess: Excess(excess_bytes),
            unproven,
        })
    }

    /// Writes everything exactly, with the disk's stamp. Nothing records any more.
    pub(crate) fn close(&self) -> Result<(), TrackingError> {
        self.take().map_or(Ok(()), TrackingStore::close)
    }

    /// The store itself, to be closed by the caller, if it was not taken before. Nothing records any more.
    pub(crate) fn take(&self) -> Option<TrackingStore> {
        let mut state = self.lock();
        state.live.clear();
        state.store.take()
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&TrackingStore) -> Result<T, StoreError>,
    ) -> Result<T, String> {
        match &self.lock().store {
            Some(store) => act(store).map_err(|error| error.to_string()),
            None => Err("the tracking store was closed".to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The point that a view speaks of, if it speaks of one.
pub(crate) fn anchored_at(view: &View) -> Option<RunId> {
    match view.anchor {
        crate::catalogue::Anchor::Point(run) => Some(run),
        crate::catalogue::Anchor::Partial(_) => None,
    }
}

fn label(owner: &Owner, disk: &DiskName) -> Label {
    Label {
        owner: owner.clone(),
        name: disk.as_str().to_owned(),
        note: String::new(),
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
