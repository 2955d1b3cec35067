//! The header of a store: whose it is, how it was left, and whether it was lost.

use std::io;

use super::layout::{Found, HEADERS, SECTOR, Sector, StoreId, read_part};
use super::{DiskState, File, Lost, Mode, Stamp, StoreError};

const MAGIC: [u8; 8] = *b"cohortst";
pub(super) const VERSION: u32 = 1;

/// Longest reason for a loss that is kept.
const WHY_BYTES: usize = 200;

/// What one copy of the header says. The copy with the higher generation holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u64,
    pub(super) id: StoreId,
    pub(super) mode: Mode,
    /// Whether everything was written exactly and nothing since.
    pub(super) clean: bool,
    /// The disk when this copy was written.
    pub(super) disk: DiskState,
    /// The process that writes to the store.
    pub(super) pid: u32,
    pub(super) written_unix_ms: u64,
    pub(super) lost: Option<Lost>,
}

impl Header {
    /// Where this generation lies.
    pub(super) fn place(&self) -> u64 {
        HEADERS[(self.generation % 2) as usize]
    }

    pub(super) fn encode(&self) -> [u8; SECTOR] {
        let mut sector = Sector::new(*b"coho");
        sector.put(&MAGIC[4..]).put_u32(VERSION).put(&self.id);
        sector.put_u64(self.generation);
        let mode = match self.mode {
            Mode::KilledProcess => 0,
            Mode::PowerLoss => 1,
        };
        sector.put(&[mode, u8::from(self.clean)]);
        sector.put(&self.disk.identity).put(&self.disk.session);
        sector.put_u64(self.disk.size);
        sector.put(&[u8::from(self.disk.stamp.is_some())]);
        let stamp = self.disk.stamp.unwrap_or_default();
        sector.put_u64(stamp.size);
        for (seconds, nanoseconds) in [stamp.modified, stamp.changed] {
            sector.put(&seconds.to_le_bytes());
            sector.put(&nanoseconds.to_le_bytes());
        }
        sector.put_u32(self.pid).put_u64(self.written_unix_ms);
        sector.put(&[u8::from(self.lost.is_some())]);
        if let Some(lost) = &self.lost {
            let why = shortened(&lost.why);
            sector.put_u64(lost.since_unix_ms);
            sector.put_u32(why.len() as u32).put(why.as_bytes());
        }
        sector.sealed(&self.id, self.place())
    }

    /// Makes it durable at its place.
    pub(super) fn write(&self, file: &dyn File) -> io::Result<()> {
        file.write_at(&self.encode(), self.place())?;
        file.sync_data()
    }

    /// One copy; the error is a version that this program does not read.
    fn decode(bytes: &[u8], place: u64) -> Result<Found<Header>, StoreError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Found::Nothing);
        }
        let (magic, version) = (&bytes[..8], &bytes[8..12]);
        if magic != MAGIC {
            return Ok(Found::Damaged);
        }
        // The version comes before the checksum: later versions may lay out everything else anew.
        let version = version.try_into().map_or(0, u32::from_le_bytes);
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[12..28]);
        let Found::Whole(mut sector) = Sector::read(bytes, *b"coho", &id, place) else {
            return Ok(Found::Damaged);
        };
        if version != VERSION {
            return Err(StoreError::Version { version });
        }
        let _magic_version_and_id: [u8; 24] = sector.take();
        Ok(Self::decode_fields(&mut sector, id)
            .filter(|header| header.place() == place)
            .map_or(Found::Damaged, Found::Whole))
    }

    fn decode_fields(sector: &mut Sector, id: StoreId) -> Option<Header> {
        let generation = sector.take_u64();
        let [mode, clean] = sector.take();
        let mode = match mode {
            0 => Mode::KilledProcess,
            1 => Mode::PowerLoss,
            _ => return None,
        };
        let (identity, session, size) = (sector.take(), sector.take(), sector.take_u64());
        let [stamped] = sector.take();
        let stamp = Stamp {
            size: sector.take_u64(),
            modified: (take_i64(sector), take_i64(sector)),
            changed: (take_i64(sector), take_i64(sector)),
        };
        let (pid, written_unix_ms, [lost]) = (sector.take_u32(), sector.take_u64(), sector.take());
        let lost = if lost == 0 {
            None
        } else {
            let (since_unix_ms, length) = (sector.take_u64(), sector.take_u32() as usize);
            let why: [u8; WHY_BYTES] = sector.take();
            Some(Lost {
                since_unix_ms,
                why: String::from_utf8_lossy(why.get(..length)?).into_owned(),
            })
        };
        Some(Header {
            generation,
            id,
            mode,
            clean: clean == 1,
            disk: DiskState {
                identity,
                session,
                size,
                stamp: (stamped == 1).then_some(stamp),
            },
            pid,
            written_unix_ms,
            lost,
        })
    }
}

/// Reads both copies: the newer one, and what is wrong with them if anything is.
///
/// Each is written only when the other is durable, and a sector is never half written, so both are
/// whole and one generation apart. Anything else is damage, and the newer one may be the one that
/// is gone.
pub(super) fn read_header(file: &dyn File) -> Result<(Header, Option<&'static str>), StoreError> {
    let length = file.len().map_err(StoreError::reading("the header"))?;
    if length == 0 {
        return Err(StoreError::NotAStore);
    }
    let mut copies = Vec::new();
    for place in HEADERS {
        let bytes = read_part(file, place, SECTOR).map_err(StoreError::reading("the header"))?;
        copies.push((bytes.clone(), Header::decode(&bytes, place)?));
    }
    let ours = copies.iter().any(|(bytes, _)| bytes[..8] == MAGIC);
    match (&copies[0].1, &copies[1].1) {
        (Found::Whole(one), Found::Whole(other)) if one.id != other.id => {
            Err(StoreError::Damaged {
                what: "the two copies of its header are of different stores".into(),
            })
        }
        (Found::Whole(one), Found::Whole(other)) => {
            let newer = if one.generation > other.generation {
                one
            } else {
                other
            };
            let apart = one.generation.abs_diff(other.generation);
            let wrong = (apart != 1).then_some("one copy of its header is older than it can be");
            Ok((newer.clone(), wrong))
        }
        (Found::Whole(only), _) | (_, Found::Whole(only)) => {
            Ok((only.clone(), Some("one copy of its header is damaged")))
        }
        (Found::Nothing | Found::Damaged, Found::Nothing | Found::Damaged) if ours => {
            Err(StoreError::Damaged {
                what: "both copies of its header are damaged".into(),
            })
        }
        (Found::Nothing | Found::Damaged, Found::Nothing | Found::Damaged) => {
            Err(StoreError::NotAStore)
        }
    }
}

fn take_i64(sector: &mut Sector) -> i64 {
    i64::from_le_bytes(sector.take())
}

/// At most as much as fits, cut between characters.
fn shortened(why: &str) -> &str {
    let mut end = why.len().min(WHY_BYTES);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    &why[..end]
}
