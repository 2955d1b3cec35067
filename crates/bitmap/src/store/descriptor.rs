//! A numbered set in the file: its two descriptors, and the body that each points to.
//!
//! A descriptor is one sector in the table; the newer of the two in a pair holds. It names a body,
//! which holds the set's label and bits under a checksum of its own, and which is durable before the
//! descriptor is written.

use crate::DirtyBitmap;

use super::layout::{Found, SECTOR, Sector, StoreId};
use super::{Label, Owner, SetId};

const KIND: [u8; 4] = *b"set.";

/// What becomes of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The place is free.
    Dropped,
    /// Its bits change no more.
    Fixed,
    /// It records, from `epoch` on through the log.
    Recording,
}

/// One copy of a set's entry in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Counts all descriptors ever written to this store.
    pub(super) generation: u64,
    pub(super) set: SetId,
    pub(super) state: State,
    /// The first epoch of the log that the body may not hold yet.
    pub(super) epoch: u64,
    pub(super) body: Body,
    /// Since when writes are missing from it; zero if none are.
    pub(super) lost_since_unix_ms: u64,
    /// How much of the body, at most, was never written: what earlier recoveries added.
    pub(super) excess_bytes: u64,
}

/// Where a body lies, and what it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) at: u64,
    pub(super) length: u64,
    pub(super) checksum: u32,
}

impl Descriptor {
    pub(super) fn encode(&self, id: &StoreId, place: u64) -> [u8; SECTOR] {
        let mut sector = Sector::new(KIND);
        let state = match self.state {
            State::Dropped => 0,
            State::Fixed => 1,
            State::Recording => 2,
        };
        sector.put_u32(state);
        sector.put_u64(self.generation).put_u64(self.set.0);
        sector.put_u64(self.epoch).put_u64(self.body.at);
        sector.put_u64(self.body.length).put_u32(self.body.checksum);
        sector
            .put_u64(self.lost_since_unix_ms)
            .put_u64(self.excess_bytes);
        sector.sealed(id, place)
    }

    pub(super) fn decode(bytes: &[u8], id: &StoreId, place: u64) -> Found<Descriptor> {
        match Sector::read(bytes, KIND, id, place) {
            Found::Nothing => Found::Nothing,
            Found::Damaged => Found::Damaged,
            Found::Whole(mut sector) => {
                let state = match sector.take_u32() {
                    0 => State::Dropped,
                    1 => State::Fixed,
                    2 => State::Recording,
                    _ => return Found::Damaged,
                };
                Found::Whole(Descriptor {
                    state,
                    generation: sector.take_u64(),
                    set: SetId(sector.take_u64()),
                    epoch: sector.take_u64(),
                    body: Body {
                        at: sector.take_u64(),
                        length: sector.take_u64(),
                        checksum: sector.take_u32(),
                    },
                    lost_since_unix_ms: sector.take_u64(),
                    excess_bytes: sector.take_u64(),
                })
            }
        }
    }
}

/// A body's bytes: the label's parts, each after its length, then the bits as
/// [`DirtyBitmap::encode`] writes them.
pub(super) fn encode_body(label: &Label, lost_why: &str, bits: &DirtyBitmap) -> Vec<u8> {
    let mut bytes = label.owner.id.to_vec();
    for text in [&label.owner.path, &label.name, &label.note, lost_why] {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&bits.encode());
    bytes
}

/// What [`encode_body`] wrote: label, why it was lost, bits.
pub(super) fn decode_body(bytes: &[u8]) -> Option<(Label, String, DirtyBitmap)> {
    let (id, mut rest) = bytes.split_first_chunk::<16>()?;
    let mut text = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        String::from_utf8(text.to_vec()).ok()
    };
    let (path, name, note, lost_why) = (text()?, text()?, text()?, text()?);
    let bits = DirtyBitmap::decode(rest).ok()?;
    let owner = Owner { id: *id, path };
    Some((Label { owner, name, note }, lost_why, bits))
}
