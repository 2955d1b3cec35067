//! The table of sets: which copy of which entry holds, and where bodies find room.

use std::io;

use crate::{DirtyBitmap, checksum};

use super::descriptor::{Body, Descriptor, State, encode_body};
use super::layout::{BODIES, BODY_ALIGNMENT, Found, PAIRS, SECTOR, StoreId, TABLES, read_part};
use super::{File, Label, Lost, SetId, StoreError};

/// Both copies of every entry.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) pairs: Vec<[Found<Descriptor>; 2]>,
}

/// A set to be written to its pair.
#[derive(Debug)]
pub(super) struct NewSet<'a> {
    pub(super) pair: usize,
    pub(super) set: SetId,
    pub(super) state: State,
    pub(super) epoch: u64,
    pub(super) label: &'a Label,
    pub(super) lost: Option<&'a Lost>,
    pub(super) bits: DirtyBitmap,
    pub(super) excess_bytes: u64,
}

impl Table {
    pub(super) fn empty() -> Self {
        Self {
            pairs: vec![[Found::Nothing, Found::Nothing]; PAIRS],
        }
    }

    pub(super) fn read(file: &dyn File, id: &StoreId) -> Result<Self, StoreError> {
        let mut table = Self::empty();
        for (copy, at) in TABLES.into_iter().enumerate() {
            let bytes = read_part(file, at, PAIRS * SECTOR)
                .map_err(StoreError::reading("the table of sets"))?;
            for (pair, sector) in bytes.chunks(SECTOR).enumerate() {
                table.pairs[pair][copy] = Descriptor::decode(sector, id, place(pair, copy));
            }
        }
        Ok(table)
    }

    /// The copy of a pair that holds, and the other one.
    pub(super) fn newest(&self, pair: usize) -> (Option<&Descriptor>, &Found<Descriptor>) {
        let [one, other] = &self.pairs[pair];
        match (one, other) {
            (Found::Whole(a), Found::Whole(b)) if a.generation >= b.generation => (Some(a), other),
            (Found::Whole(a), Found::Nothing | Found::Damaged) => (Some(a), other),
            (_, Found::Whole(b)) => (Some(b), one),
            (Found::Nothing | Found::Damaged, Found::Nothing) => (None, one),
            (Found::Nothing | Found::Damaged, Found::Damaged) => (None, other),
        }
    }

    /// Where a set is.
    pub(super) fn pair_of(&self, set: SetId) -> Option<usize> {
        (0..self.pairs.len()).find(|pair| {
            self.newest(*pair)
                .0
                .is_some_and(|d| d.set == set && d.state != State::Dropped)
        })
    }

    /// A pair that no set has.
    pub(super) fn free_pair(&self) -> Option<usize> {
        (0..self.pairs.len()).find(|pair| match self.newest(*pair) {
            (Some(newest), _) => newest.state == State::Dropped,
            (None, _) => true,
        })
    }

    /// The number for the next descriptor, and for a set that it is the first of. The newest
    /// descriptor is never overwritten but by a newer one, so this never goes back.
    pub(super) fn next_generation(&self) -> u64 {
        let whole = self.pairs.iter().flatten().filter_map(|copy| match copy {
            Found::Whole(descriptor) => Some(descriptor.generation),
            Found::Nothing | Found::Damaged => None,
        });
        whole.max().map_or(1, |newest| newest + 1)
    }

    /// Writes sets: first their bodies, to places that nothing refers to; when those are durable their
    /// descriptors, each over the copy that does not hold.
    pub(super) fn write(
        &mut self,
        file: &dyn File,
        id: &StoreId,
        sets: &[NewSet<'_>],
    ) -> io::Result<()> {
        let mut bodies = Vec::new();
        for new in sets {
            let why = new.lost.map_or("", |lost| &lost.why);
            let bytes = encode_body(new.label, why, &new.bits);
            let body = Body {
                at: self.room(bytes.len() as u64, &bodies),
                length: bytes.len() as u64,
                checksum: checksum::of(&bytes),
            };
            file.write_at(&bytes, body.at)?;
            bodies.push(body);
        }
        file.sync_data()?;
        let descriptors = sets.iter().zip(bodies).zip(self.next_generation()..);
        let descriptors = descriptors.map(|((new, body), generation)| {
            let descriptor = Descriptor {
                generation,
                set: new.set,
                state: new.state,
                epoch: new.epoch,
                body,
                lost_since_unix_ms: new.lost.map_or(0, |lost| lost.since_unix_ms.max(1)),
                excess_bytes: new.excess_bytes,
            };
            (new.pair, descriptor)
        });
        let descriptors: Vec<_> = descriptors.collect();
        self.write_descriptors(file, id, &descriptors)
    }

    /// Marks the places of sets as free.
    pub(super) fn drop_sets(
        &mut self,
        file: &dyn File,
        id: &StoreId,
        pairs: &[usize],
    ) -> io::Result<()> {
        let generations = self.next_generation()..;
        let descriptors: Vec<_> = pairs
            .iter()
            .zip(generations)
            .map(|(pair, generation)| {
                let set = self.newest(*pair).0.map_or(SetId(0), |newest| newest.set);
                let dropped = Descriptor {
                    generation,
                    set,
                    state: State::Dropped,
                    epoch: 0,
                    body: Body::default(),
                    lost_since_unix_ms: 0,
                    excess_bytes: 0,
                };
                (*pair, dropped)
            })
            .collect();
        self.write_descriptors(file, id, &descriptors)
    }

    fn write_descriptors(
        &mut self,
        file: &dyn File,
        id: &StoreId,
        descriptors: &[(usize, Descriptor)],
    ) -> io::Result<()> {
        for (pair, descriptor) in descriptors {
            let copy = self.copy_to_overwrite(*pair);
            let place = place(*pair, copy);
            file.write_at(&descriptor.encode(id, place), place)?;
            self.pairs[*pair][copy] = Found::Whole(*descriptor);
        }
        file.sync_data()
    }

    fn copy_to_overwrite(&self, pair: usize) -> usize {
        match &self.pairs[pair] {
            [Found::Whole(a), Found::Whole(b)] => usize::from(a.generation > b.generation),
            [Found::Whole(_), Found::Nothing | Found::Damaged] => 1,
            [Found::Nothing | Found::Damaged, _] => 0,
        }
    }

    /// The first place with room for a body, away from all that any copy refers to and from `taken`.
    fn room(&self, length: u64, taken: &[Body]) -> u64 {
        let whole = self.pairs.iter().flatten().filter_map(|copy| match copy {
            Found::Whole(descriptor) => Some(descriptor.body),
            Found::Nothing | Found::Damaged => None,
        });
        let mut used: Vec<_> = whole.chain(taken.iter().copied()).collect();
        used.retain(|body| body.length > 0);
        used.sort_by_key(|body| body.at);
        let mut at = BODIES;
        for body in used {
            if at + length <= body.at {
                break;
            }
            at = at.max((body.at + body.length).next_multiple_of(BODY_ALIGNMENT));
        }
        at
    }
}

fn place(pair: usize, copy: usize) -> u64 {
    TABLES[copy] + (pair * SECTOR) as u64
}
