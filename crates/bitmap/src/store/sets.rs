//! The sets of an open store: what each is, and how one is added, changed and dropped.

use std::sync::OnceLock;

use crate::DirtyBitmap;
use crate::sync::{Arc, MutexGuard};

use super::descriptor::State;
use super::intents::Track;
use super::layout::PAIRS;
use super::table::{NewSet, Table};
use super::tracking::{Shared, lock};
use super::{Label, Lost, SetId, SetUse, StoreError};

/// The sets of an open store, under one lock.
pub(super) struct Sets {
    pub(super) table: Table,
    pub(super) known: Vec<Known>,
}

/// A set in the table.
pub(super) struct Known {
    pub(super) set: SetId,
    pub(super) pair: usize,
    pub(super) label: Label,
    pub(super) lost: Option<Lost>,
    pub(super) excess_bytes: u64,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Fixed,
    Recording(Arc<Bound>),
}

/// A set that records, or is to: what it held when this process found it, and what records into it.
pub(super) struct Bound {
    pub(super) base: DirtyBitmap,
    pub(super) track: OnceLock<Track>,
}

impl Shared {
    pub(super) fn add(
        &self,
        label: Label,
        bits: DirtyBitmap,
        kind: Kind,
    ) -> Result<SetId, StoreError> {
        let mut sets = self.unfailed_sets()?;
        let Sets { table, known } = &mut *sets;
        let pair = table.free_pair().ok_or(StoreError::Full { most: PAIRS })?;
        let new = Known {
            set: SetId(table.next_generation()),
            pair,
            label,
            lost: None,
            excess_bytes: 0,
            kind,
        };
        let written = table.write(
            &*self.file,
            &self.id,
            &[new.as_new(self.intents.epoch(), bits)],
        );
        let set = new.set;
        self.checked(written)?;
        known.push(new);
        Ok(set)
    }

    pub(super) fn bound(&self, set: SetId) -> Result<Arc<Bound>, StoreError> {
        let sets = lock(&self.sets);
        let known = sets.known.iter().find(|known| known.set == set);
        match known.map(|known| &known.kind) {
            Some(Kind::Recording(bound)) => Ok(Arc::clone(bound)),
            Some(Kind::Fixed) => Err(StoreError::Use {
                set,
                rule: "is fixed: nothing records into it any more",
            }),
            None => Err(StoreError::NoSuchSet { set }),
        }
    }

    pub(super) fn finish(&self, set: SetId) -> Result<(), StoreError> {
        let bound = self.bound(set)?;
        bound.retire();
        let bits = bound.bits();
        self.rewrite(set, |known| known.kind = Kind::Fixed, bits)
    }

    /// Changes a set and writes it down.
    pub(super) fn rewrite(
        &self,
        set: SetId,
        change: impl FnOnce(&mut Known),
        bits: DirtyBitmap,
    ) -> Result<(), StoreError> {
        let mut sets = self.unfailed_sets()?;
        let epoch = self.intents.epoch();
        let Sets { table, known } = &mut *sets;
        let known = known
            .iter_mut()
            .find(|known| known.set == set)
            .ok_or(StoreError::NoSuchSet { set })?;
        change(known);
        // A set that records is as of now, which is no earlier than the start of this epoch.
        let bits = match &known.kind {
            Kind::Recording(bound) => bound.bits(),
            Kind::Fixed => bits,
        };
        self.checked(table.write(&*self.file, &self.id, &[known.as_new(epoch, bits)]))
    }

    pub(super) fn drop_sets(&self, dropped: &[SetId]) -> Result<(), StoreError> {
        let mut sets = self.unfailed_sets()?;
        let Sets { table, known } = &mut *sets;
        let (gone, kept) = std::mem::take(known)
            .into_iter()
            .partition(|known| dropped.contains(&known.set));
        *known = kept;
        let gone: Vec<Known> = gone;
        for known in &gone {
            if let Kind::Recording(bound) = &known.kind {
                bound.retire();
            }
        }
        let pairs: Vec<_> = gone.iter().map(|known| known.pair).collect();
        self.checked(table.drop_sets(&*self.file, &self.id, &pairs))
    }

    fn unfailed_sets(&self) -> Result<MutexGuard<'_, Sets>, StoreError> {
        let sets = lock(&self.sets);
        match self.intents.lost() {
            Some(lost) => Err(StoreError::Lost(lost)),
            None => Ok(sets),
        }
    }
}

impl Kind {
    pub(super) fn recording(base: DirtyBitmap) -> Kind {
        Kind::Recording(Arc::new(Bound {
            base,
            track: OnceLock::new(),
        }))
    }

    pub(super) fn used(&self) -> SetUse {
        match self {
            Kind::Fixed => SetUse::Fixed,
            Kind::Recording(_) => SetUse::Recording,
        }
    }
}

impl Bound {
    /// What was found joined with what was recorded.
    pub(super) fn bits(&self) -> DirtyBitmap {
        let Some(track) = self.track.get() else {
            return self.base.clone();
        };
        let mut bits = track.recorder.snapshot();
        let base = self.base.fitted(bits.size(), bits.granularity());
        bits.merge(&base).expect("it was fitted");
        bits
    }

    /// Nobody records into it any more.
    pub(super) fn retire(&self) {
        if let Some(track) = self.track.get() {
            track.cover.retire();
        }
    }
}

impl Known {
    pub(super) fn as_new(&self, epoch: u64, bits: DirtyBitmap) -> NewSet<'_> {
        NewSet {
            pair: self.pair,
            set: self.set,
            state: state_of(matches!(self.kind, Kind::Recording(_))),
            epoch,
            label: &self.label,
            lost: self.lost.as_ref(),
            bits,
            excess_bytes: self.excess_bytes,
        }
    }

    /// What is to be written of it at a checkpoint.
    pub(super) fn recording_now(&self, epoch: u64) -> Option<NewSet<'_>> {
        match &self.kind {
            Kind::Recording(bound) => Some(self.as_new(epoch, bound.bits())),
            Kind::Fixed => None,
        }
    }
}

pub(super) fn state_of(recording: bool) -> State {
    if recording {
        State::Recording
    } else {
        State::Fixed
    }
}
