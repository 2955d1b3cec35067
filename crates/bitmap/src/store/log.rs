//! The log of intents: what is about to be written, one sector after the other.
//!
//! A batch of intents is one write of whole sectors, and durable before the next begins. It begins in the sector
//! where the one before ended, if that has room, and with what that holds. The log has two halves; one *epoch*
//! fills one half, epoch `e` the half `e % 2`. An epoch ends when its half is full or a checkpoint begins, and its
//! half is used again only when every recording set was written with a later epoch.

use super::SetId;
use super::layout::{Found, LOG_SECTORS, LOGS, SECTOR, Sector, StoreId};

const KIND: [u8; 4] = *b"log.";

/// Intents in one sector.
pub(super) const ENTRIES: usize = 20;

/// Offsets and lengths in the log are in units of this many bytes.
const UNIT: u64 = 512;

/// An intent: the bytes from `start` on are to be written, `marked` of them now; the `ahead` bytes
/// after those perhaps soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) set: SetId,
    pub(super) start: u64,
    pub(super) marked: u64,
    pub(super) ahead: u64,
}

/// One sector of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogSector {
    pub(super) epoch: u64,
    /// Where its batch began, counted in sectors of this half.
    pub(super) first: u32,
    pub(super) entries: Vec<Entry>,
}

/// The longest stretch that one entry can name, in bytes.
const LONGEST: u64 = (u32::MAX as u64) * UNIT;

/// An intent as entries that fit their fields, rounded outward to whole units.
pub(super) fn entries_of(entry: Entry) -> impl Iterator<Item = Entry> {
    let start = entry.start - entry.start % UNIT;
    let end = (entry.start + entry.marked).next_multiple_of(UNIT);
    let ahead_end = (entry.start + entry.marked + entry.ahead).next_multiple_of(UNIT);
    let pieces = (end - start).div_ceil(LONGEST).max(1);
    (0..pieces).map(move |piece| {
        let from = start + piece * LONGEST;
        let to = end.min(from + LONGEST);
        let ahead = if to == end { ahead_end - end } else { 0 };
        Entry {
            set: entry.set,
            start: from,
            marked: to - from,
            ahead: ahead.min(LONGEST),
        }
    })
}

/// The sectors of a batch that begins at sector `first` of the epoch's half. Always one at least, so
/// that an epoch without intents shows, too.
pub(super) fn encode_batch(entries: &[Entry], epoch: u64, first: u64, id: &StoreId) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunks: Vec<&[Entry]> = entries.chunks(ENTRIES).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    for (at, chunk) in (first..).zip(chunks) {
        let mut sector = Sector::new(KIND);
        sector.put_u64(epoch).put_u32(first as u32);
        sector.put_u32(chunk.len() as u32);
        for entry in chunk {
            sector.put_u64(entry.set.0).put_u64(entry.start / UNIT);
            sector.put_u32((entry.marked / UNIT) as u32);
            sector.put_u32((entry.ahead / UNIT) as u32);
        }
        bytes.extend_from_slice(&sector.sealed(id, place(epoch, at)));
    }
    bytes
}

/// Where sector `at` of an epoch lies.
pub(super) fn place(epoch: u64, at: u64) -> u64 {
    LOGS[(epoch % 2) as usize] + at * SECTOR as u64
}

/// How many sectors a batch of so many entries takes.
pub(super) fn sectors(entries: usize) -> u64 {
    entries.div_ceil(ENTRIES).max(1) as u64
}

/// Those of a batch's entries that are in its last sector, if that has room for more.
pub(super) fn tail(entries: &[Entry]) -> &[Entry] {
    &entries[entries.len() - entries.len() % ENTRIES..]
}

/// What the log holds of each epoch that is still whole, and where it is damaged.
#[derive(Clone, Debug, Default)]
pub(super) struct LogContents {
    /// The newest epoch that was begun, if any was.
    pub(super) newest: Option<u64>,
    /// Intents of the newest epoch and of the one before, each with its epoch.
    pub(super) entries: Vec<(u64, Entry)>,
    pub(super) damage: Option<String>,
}

/// Reads both halves, given as bytes.
pub(super) fn scan(halves: [&[u8]; 2], id: &StoreId) -> LogContents {
    let mut contents = LogContents::default();
    let mut read = Vec::new();
    for (half, bytes) in (0_u64..).zip(halves) {
        let sectors: Vec<_> = (0..LOG_SECTORS)
            .zip(bytes.chunks(SECTOR))
            .map(|(at, bytes)| decode(bytes, half, at, id))
            .collect();
        let epoch = sectors.iter().filter_map(epoch_of).max();
        contents.newest = contents.newest.max(epoch);
        read.push((half, epoch, sectors));
    }
    for (half, epoch, sectors) in read {
        if let Some(at) = sectors.iter().position(|s| matches!(s, Found::Damaged)) {
            contents.damage = Some(format!("sector {at} of half {half} of its log is damaged"));
        }
        let Some(epoch) = epoch else { continue };
        // Older than the one before the newest: parts of it may be overwritten.
        if Some(epoch + 1) < contents.newest {
            continue;
        }
        if let Some(at) = gap(&sectors, epoch) {
            contents.damage = Some(format!("sector {at} of half {half} of its log is missing"));
        }
        for sector in sectors {
            if let Found::Whole(sector) = sector
                && sector.epoch == epoch
            {
                contents
                    .entries
                    .extend(sector.entries.into_iter().map(|entry| (epoch, entry)));
            }
        }
    }
    contents
}

fn epoch_of(sector: &Found<LogSector>) -> Option<u64> {
    match sector {
        Found::Whole(sector) => Some(sector.epoch),
        Found::Nothing | Found::Damaged => None,
    }
}

/// A sector that must be of this epoch and is not: one before the last batch. Of the last batch any
/// may be missing, because nobody was told that it is durable.
fn gap(sectors: &[Found<LogSector>], epoch: u64) -> Option<usize> {
    let of_epoch = |sector: &Found<LogSector>| epoch_of(sector) == Some(epoch);
    let begun = sectors.iter().rev().find_map(|sector| match sector {
        Found::Whole(sector) if sector.epoch == epoch => Some(sector.first as usize),
        Found::Whole(_) | Found::Nothing | Found::Damaged => None,
    })?;
    sectors[..begun.min(sectors.len())]
        .iter()
        .position(|sector| !of_epoch(sector))
}

pub(super) fn decode(bytes: &[u8], half: u64, at: u64, id: &StoreId) -> Found<LogSector> {
    match Sector::read(bytes, KIND, id, place(half, at)) {
        Found::Nothing => Found::Nothing,
        Found::Damaged => Found::Damaged,
        Found::Whole(mut sector) => {
            let (epoch, first, count) = (sector.take_u64(), sector.take_u32(), sector.take_u32());
            if epoch % 2 != half || u64::from(first) > at || count as usize > ENTRIES {
                return Found::Damaged;
            }
            let entries = (0..count)
                .map(|_| Entry {
                    set: SetId(sector.take_u64()),
                    start: sector.take_u64().saturating_mul(UNIT),
                    marked: u64::from(sector.take_u32()) * UNIT,
                    ahead: u64::from(sector.take_u32()) * UNIT,
                })
                .collect();
            Found::Whole(LogSector {
                epoch,
                first,
                entries,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: StoreId = [3; 16];

    fn entry(start: u64) -> Entry {
        Entry {
            set: SetId(9),
            start,
            marked: 512,
            ahead: 1024,
        }
    }

    /// Halves into which batches were written as (epoch, first sector, entries).
    fn halves(batches: &[(u64, u64, &[Entry])]) -> [Vec<u8>; 2] {
        let mut halves = [(); 2].map(|()| vec![0; LOG_SECTORS as usize * SECTOR]);
        for (epoch, first, entries) in batches {
            let bytes = encode_batch(entries, *epoch, *first, &ID);
            let at = *first as usize * SECTOR;
            halves[(epoch % 2) as usize][at..at + bytes.len()].copy_from_slice(&bytes);
        }
        halves
    }

    fn scanned(halves: &[Vec<u8>; 2]) -> LogContents {
        scan([&halves[0], &halves[1]], &ID)
    }

    #[test]
    fn batches_come_back() {
        let many: Vec<_> = (0..45).map(|n| entry(n * 512)).collect();
        let log = halves(&[(4, 0, &[entry(0)]), (4, 1, &many), (5, 0, &[])]);
        let found = scanned(&log);
        assert_eq!((found.newest, found.damage), (Some(5), None));
        assert_eq!(found.entries.len(), 46);
        assert!(found.entries.iter().all(|(epoch, _)| *epoch == 4));
    }

    #[test]
    fn an_epoch_that_is_being_overwritten_is_not_read() {
        let log = halves(&[
            (4, 0, &[entry(0)]),
            (4, 1, &[entry(1)]),
            (5, 0, &[entry(2)]),
            (6, 0, &[entry(3)]),
        ]);
        let found = scanned(&log);
        assert_eq!(found.newest, Some(6));
        let epochs: Vec<_> = found.entries.iter().map(|(epoch, _)| *epoch).collect();
        assert_eq!(epochs, [6, 5]);
        assert_eq!(found.damage, None);
    }

    #[test]
    fn any_sector_of_the_last_batch_may_be_missing_and_no_other() {
        let many: Vec<_> = (0..45).map(|n| entry(n * 512)).collect();
        let written = halves(&[(2, 0, &[entry(0)]), (2, 1, &many)]);
        for (lost, is_damage) in [(0, true), (1, false), (2, false), (3, false)] {
            let mut log = written.clone();
            log[0][lost * SECTOR..][..SECTOR].fill(0);
            assert_eq!(scanned(&log).damage.is_some(), is_damage, "sector {lost}");
        }
    }

    #[test]
    fn a_batch_that_fills_a_sector_up_may_be_missing_and_not_what_was_there() {
        let (old, new) = (entry(0), entry(512));
        let before = halves(&[(2, 0, &[old])]);
        let many: Vec<_> = std::iter::once(old).chain(vec![new; 30]).collect();
        let mut log = halves(&[(2, 0, &[old]), (2, 0, &many)]);
        assert_eq!(scanned(&log).entries.len(), 31);
        assert_eq!(tail(&many).len(), 11);
        assert_eq!(tail(&many[..20]), []);
        // Any of its sectors did not come to be: what was durable before is there, and nothing is damaged.
        log[0][..SECTOR].copy_from_slice(&before[0][..SECTOR]);
        let found = scanned(&log);
        assert_eq!(found.damage, None);
        assert!(found.entries.contains(&(2, old)));
        let mut log = halves(&[(2, 0, &many)]);
        log[0][SECTOR..2 * SECTOR].fill(0);
        let found = scanned(&log);
        assert_eq!((found.entries.len(), found.damage), (20, None));
    }

    #[test]
    fn swapped_and_flipped_sectors_are_damage() {
        let written = halves(&[(2, 0, &[entry(0)]), (2, 1, &[entry(1)])]);
        let mut swapped = written.clone();
        let (one, rest) = swapped[0].split_at_mut(SECTOR);
        one.swap_with_slice(&mut rest[..SECTOR]);
        assert!(scanned(&swapped).damage.is_some());
        let mut flipped = written;
        flipped[0][SECTOR + 30] ^= 4;
        assert!(scanned(&flipped).damage.is_some());
    }

    #[test]
    fn long_stretches_are_cut_and_odd_ones_rounded_outward() {
        let long = Entry {
            set: SetId(1),
            start: 700,
            marked: 5 << 40,
            ahead: 100,
        };
        let pieces: Vec<_> = entries_of(long).collect();
        assert_eq!(pieces[0].start, 512);
        for pair in pieces.windows(2) {
            assert_eq!(pair[0].start + pair[0].marked, pair[1].start);
        }
        let last = pieces.last().unwrap();
        assert!(last.start + last.marked >= 700 + (5 << 40));
        assert!(last.start + last.marked + last.ahead >= 800 + (5 << 40));
        let log = halves(&[(2, 0, &pieces)]);
        let back: Vec<_> = scanned(&log).entries.into_iter().map(|(_, e)| e).collect();
        assert_eq!(back, pieces);
    }
}
