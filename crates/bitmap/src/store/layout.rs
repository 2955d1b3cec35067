//! Where things lie in a store file, and how a sector proves that it is whole and in its place.
//!
//! Everything small is one *sector* of 512 bytes, which a disk is assumed to write whole or not at
//! all. Its last four bytes are a crc32c over the store's id, the sector's place and its other
//! bytes, so that a sector of another store, or of another place, is as invalid as a damaged one.

use std::io;

use super::File;
use crate::checksum;

/// Bytes that are written together or not at all.
pub(super) const SECTOR: usize = 512;

/// Where the two copies of the header lie: apart, so that a page of a cache never holds both.
pub(super) const HEADERS: [u64; 2] = [0, 4096];

/// How many sets a store can hold.
pub(super) const PAIRS: usize = 512;

/// Where the two copies of the table of sets lie.
pub(super) const TABLES: [u64; 2] = [8192, 8192 + (PAIRS * SECTOR) as u64];

/// Sectors in each half of the log of intents. A half of 1 MiB takes 40,000 intents or more when
/// many threads share a write, 2,048 when one thread writes alone.
pub(super) const LOG_SECTORS: u64 = 2048;

/// Where the two halves of the log lie.
pub(super) const LOGS: [u64; 2] = [1 << 20, 2 << 20];

/// Where the bodies of the sets begin.
pub(super) const BODIES: u64 = 3 << 20;

/// Bodies begin at multiples of this.
pub(super) const BODY_ALIGNMENT: u64 = 4096;

/// The number of a store: random, so that the parts of two stores are told apart.
pub(super) type StoreId = [u8; 16];

/// A sector and the place where it lies or will lie.
#[derive(Clone, Debug)]
pub(super) struct Sector {
    bytes: [u8; SECTOR],
    at: usize,
}

/// What lies in a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// Nothing was ever written there.
    Nothing,
    /// What was written there.
    Whole(T),
    /// Something that nobody wrote there.
    Damaged,
}

impl Sector {
    /// A sector that begins with four bytes naming its kind.
    pub(super) fn new(kind: [u8; 4]) -> Self {
        let mut sector = Self {
            bytes: [0; SECTOR],
            at: 0,
        };
        sector.put(&kind);
        sector
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(super) fn put_u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn put_u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// The bytes to write at `place`.
    pub(super) fn sealed(mut self, id: &StoreId, place: u64) -> [u8; SECTOR] {
        let sum = checksum(&self.bytes, id, place);
        self.bytes[SECTOR - 4..].copy_from_slice(&sum.to_le_bytes());
        self.bytes
    }

    /// What `bytes` hold, if they were sealed for `place` and begin with `kind`.
    pub(super) fn read(bytes: &[u8], kind: [u8; 4], id: &StoreId, place: u64) -> Found<Sector> {
        let Ok(bytes) = <[u8; SECTOR]>::try_from(bytes) else {
            return Found::Damaged;
        };
        if bytes == [0; SECTOR] {
            return Found::Nothing;
        }
        let stored = bytes[SECTOR - 4..].try_into().map_or(0, u32::from_le_bytes);
        if bytes[..4] != kind || stored != checksum(&bytes, id, place) {
            return Found::Damaged;
        }
        Found::Whole(Sector { bytes, at: 4 })
    }

    /// The next bytes. A sector is as long as all that is read from it.
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        taken
    }

    pub(super) fn take_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn take_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

/// Reads a part of the file of which the end may be missing: that reads as zeroes.
pub(super) fn read_part(file: &dyn File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let there = file.len()?.saturating_sub(at).min(length as u64) as usize;
    file.read_at(&mut bytes[..there], at)?;
    Ok(bytes)
}

fn checksum(bytes: &[u8; SECTOR], id: &StoreId, place: u64) -> u32 {
    let sum = checksum::of(id);
    let sum = checksum::append(sum, &place.to_le_bytes());
    checksum::append(sum, &bytes[..SECTOR - 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_whole_only_in_its_place_and_its_store() {
        let bytes = Sector::new(*b"test").sealed(&[7; 16], 4096);
        let found = |bytes: &[u8], kind: &[u8; 4], id: u8, place| {
            Sector::read(bytes, *kind, &[id; 16], place)
        };
        assert!(matches!(found(&bytes, b"test", 7, 4096), Found::Whole(_)));
        assert!(matches!(found(&bytes, b"test", 7, 4608), Found::Damaged));
        assert!(matches!(found(&bytes, b"test", 8, 4096), Found::Damaged));
        assert!(matches!(found(&bytes, b"tset", 7, 4096), Found::Damaged));
        assert!(matches!(
            found(&[0; SECTOR], b"test", 7, 4096),
            Found::Nothing
        ));
        assert!(matches!(
            found(&bytes[1..], b"test", 7, 4096),
            Found::Damaged
        ));
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        let bytes = Sector::new(*b"test").sealed(&[7; 16], 0);
        for bit in 0..SECTOR * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(
                    Sector::read(&flipped, *b"test", &[7; 16], 0),
                    Found::Damaged
                ),
                "bit {bit}"
            );
        }
    }
}
