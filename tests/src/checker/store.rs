//! A tracking store (section 7).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::bits::Bits;
use super::fields::ensure;

const SECTOR: usize = 512;
const HEADERS: [usize; 2] = [0, 4096];
const TABLES: [usize; 2] = [8192, 270_336];
const PAIRS: usize = 512;
const LOGS: [usize; 2] = [1_048_576, 2_097_152];
const LOG_SECTORS: usize = 2048;
const BODIES: u64 = 3_145_728;
const UNIT: u64 = 512;

/// What a store says.
#[derive(Debug)]
pub struct Store {
    /// Its own number, as 32 hex digits.
    pub id: String,
    /// Its sets, by their numbers.
    pub sets: BTreeMap<u64, Set>,
}

/// A set as it is now.
#[derive(Debug)]
pub struct Set {
    /// Whose it is, as 32 hex digits.
    pub owner: String,
    /// Of which disk.
    pub name: String,
    /// What is dirty; nothing if writes are missing from it.
    pub bits: Option<Bits>,
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    state: u64,
    generation: u64,
    set: u64,
    epoch: u64,
    body: (u64, u64, u32),
    lost_since: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    epoch: u64,
    set: u64,
    start: u64,
    length: u64,
}

/// Little-endian numbers from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self, length: usize) -> u64 {
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

struct File {
    bytes: Vec<u8>,
    id: [u8; 16],
}

impl Store {
    /// Reads the store of a disk of so many bytes.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn read(path: &Path, size: u64) -> Result<Self, String> {
        let mut bytes = fs::read(path).map_err(|error| error.to_string())?;
        // The end of the file may be missing: it was never written.
        bytes.resize(bytes.len().max(BODIES as usize), 0);
        let (id, clean, lost) = header(&bytes)?;
        let file = File { bytes, id };
        let (entries, newest) = match clean {
            true => (Vec::new(), None),
            false => file.log()?,
        };
        let mut sets = BTreeMap::new();
        for pair in 0..PAIRS {
            let Some(descriptor) = file.descriptor(pair)? else {
                continue;
            };
            if descriptor.state == 0 {
                continue;
            }
            let set = file.set(&descriptor, &entries, (newest, clean), size);
            let mut set = set.map_err(|why| format!("set {}: {why}", descriptor.set))?;
            if lost && descriptor.state == 2 || descriptor.lost_since > 0 {
                set.bits = None;
            }
            sets.insert(descriptor.set, set);
        }
        let id = hex(&file.id);
        Ok(Self { id, sets })
    }
}

/// The store's id, whether it is clean, and whether it lost writes.
fn header(bytes: &[u8]) -> Result<([u8; 16], bool, bool), String> {
    let mut best: Option<(u64, [u8; 16], bool, bool)> = None;
    for at in HEADERS {
        let sector = &bytes[at..at + SECTOR];
        if &sector[..8] != b"cohortst" {
            continue;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&sector[12..28]);
        if !is_sealed(sector, &id, at) {
            continue;
        }
        let mut rest = Reader(&sector[8..]);
        ensure(rest.number(4) == 1, || "its version is not 1".to_owned())?;
        let mut rest = Reader(&sector[28..]);
        let (generation, _mode, clean) = (rest.number(8), rest.number(1), rest.number(1));
        // Identity, session, size; stamp, process, time of writing.
        let mut rest = Reader(&sector[28 + 10 + 24 + 16 + 8 + 1 + 40 + 4 + 8..]);
        let lost = rest.number(1) == 1;
        if best.is_none_or(|best| generation > best.0) {
            best = Some((generation, id, clean == 1, lost));
        }
    }
    let (_, id, clean, lost) = best.ok_or("neither copy of its header is whole")?;
    Ok((id, clean, lost))
}

fn is_sealed(sector: &[u8], id: &[u8; 16], place: usize) -> bool {
    let sum = crc32c::crc32c(id);
    let sum = crc32c::crc32c_append(sum, &(place as u64).to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &sector[..SECTOR - 4]);
    sector[SECTOR - 4..] == sum.to_le_bytes()
}

impl File {
    /// The sector at a place after its kind; nothing if it was never written.
    fn sector(&self, place: usize, kind: &[u8; 4]) -> Result<Option<Reader<'_>>, String> {
        let sector = &self.bytes[place..place + SECTOR];
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let whole = sector[..4] == *kind && is_sealed(sector, &self.id, place);
        ensure(whole, || format!("the sector at {place} is damaged"))?;
        Ok(Some(Reader(&sector[4..SECTOR - 4])))
    }

    fn descriptor(&self, pair: usize) -> Result<Option<Descriptor>, String> {
        let mut newest: Option<Descriptor> = None;
        for table in TABLES {
            let Some(mut sector) = self.sector(table + pair * SECTOR, b"set.")? else {
                continue;
            };
            let found = Descriptor {
                state: sector.number(4),
                generation: sector.number(8),
                set: sector.number(8),
                epoch: sector.number(8),
                body: (sector.number(8), sector.number(8), sector.number(4) as u32),
                lost_since: sector.number(8),
            };
            if newest.is_none_or(|newest| found.generation > newest.generation) {
                newest = Some(found);
            }
        }
        Ok(newest)
    }

    /// Every intent of the newest epoch and of the one before.
    fn log(&self) -> Result<(Vec<Entry>, Option<u64>), String> {
        let (mut entries, mut newest) = (Vec::new(), None);
        for (half, log) in LOGS.into_iter().enumerate() {
            for at in 0..LOG_SECTORS {
                let Some(mut sector) = self.sector(log + at * SECTOR, b"log.")? else {
                    continue;
                };
                let (epoch, _first, count) = (sector.number(8), sector.number(4), sector.number(4));
                ensure(epoch % 2 == half as u64, || {
                    format!("epoch {epoch} is in half {half}")
                })?;
                ensure(count <= 20, || format!("{count} entries in a sector"))?;
                newest = newest.max(Some(epoch));
                for _ in 0..count {
                    let (set, start) = (sector.number(8), sector.number(8) * UNIT);
                    let length = (sector.number(4) + sector.number(4)) * UNIT;
                    entries.push(Entry {
                        epoch,
                        set,
                        start,
                        length,
                    });
                }
            }
        }
        entries.retain(|entry: &Entry| Some(entry.epoch + 1) >= newest);
        Ok((entries, newest))
    }

    fn set(
        &self,
        descriptor: &Descriptor,
        entries: &[Entry],
        (newest, clean): (Option<u64>, bool),
        size: u64,
    ) -> Result<Set, String> {
        let (at, length, sum) = descriptor.body;
        let inside = at >= BODIES && at % 4096 == 0;
        let body = self.bytes.get(at as usize..(at + length) as usize);
        let body = body.filter(|_| inside).ok_or("its body lies nowhere")?;
        ensure(crc32c::crc32c(body) == sum, || {
            "its body is damaged".to_owned()
        })?;
        let (owner, mut rest) = body.split_at_checked(16).ok_or("its body is cut short")?;
        let mut texts = Vec::new();
        for _ in 0..4 {
            let (length, text) = rest.split_at_checked(4).ok_or("its body is cut short")?;
            let length = Reader(length).number(4) as usize;
            let (text, after) = text
                .split_at_checked(length)
                .ok_or("its body is cut short")?;
            texts.push(String::from_utf8(text.to_vec()).map_err(|error| error.to_string())?);
            rest = after;
        }
        let mut bits = Bits::read(rest)?;
        if descriptor.state == 2 {
            let epochs = descriptor.epoch..=descriptor.epoch + 1;
            let covers = clean || newest.is_some_and(|newest| epochs.contains(&newest));
            ensure(covers, || {
                format!("the log is at {newest:?}, the set at {}", descriptor.epoch)
            })?;
            let ours = entries
                .iter()
                .filter(|entry| entry.set == descriptor.set && entry.epoch >= descriptor.epoch);
            ours.for_each(|entry| bits.set(entry.start, entry.length));
        }
        bits.fit(size);
        Ok(Set {
            owner: hex(owner),
            name: texts.swap_remove(1),
            bits: Some(bits),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
