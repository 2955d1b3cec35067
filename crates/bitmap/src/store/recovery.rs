//! Reading a store without changing it: what its sets hold, and what of it can be trusted.

use std::io;

use crate::{DirtyBitmap, checksum};

use super::descriptor::{Descriptor, State, decode_body};
use super::header::{Header, read_header};
use super::layout::{Found, LOG_SECTORS, LOGS, SECTOR, TABLES, read_part};
use super::log::{self, LogContents};
use super::table::Table;
use super::{
    Away, DiskState, Ended, File, Inspection, Label, Lost, Mode, SetReport, SetUse, StoreError,
};

/// Tells everything that a store says, as of now, and changes nothing. A writer may be using the
/// store meanwhile.
///
/// Without `disk` nothing is said about who wrote to the disk since, and its size is taken to be what
/// it was.
///
/// # Errors
/// The file cannot be read, is no store, is of another version, or is damaged beyond reading.
pub fn inspect(file: &dyn File, disk: Option<&DiskState>) -> Result<Inspection, StoreError> {
    // A writer that checkpoints between two of our reads shows in the table, and one that writes to a sector while it
    // is read leaves us half of it.
    const TRIES: usize = 8;
    let mut before = fingerprint(file)?;
    for _ in 1..TRIES {
        let read = read(file, disk);
        let after = fingerprint(file)?;
        let whole = read
            .as_ref()
            .is_ok_and(|contents| contents.inspection.findings.is_empty());
        if before == after && whole {
            return read.map(|contents| contents.inspection);
        }
        before = after;
    }
    read(file, disk).map(|contents| contents.inspection)
}

/// What changes whenever a writer makes older bodies or intents worthless.
fn fingerprint(file: &dyn File) -> Result<u32, StoreError> {
    let bytes = read_part(file, 0, TABLES[1] as usize * 2)
        .map_err(StoreError::reading("the table of sets"))?;
    Ok(checksum::of(&bytes))
}

/// Everything in a store file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    pub(super) table: Table,
    /// The newest epoch that anything mentions.
    pub(super) epoch: u64,
    pub(super) inspection: Inspection,
}

pub(super) fn read(file: &dyn File, disk: Option<&DiskState>) -> Result<Contents, StoreError> {
    let (header, wrong) = read_header(file)?;
    let table = Table::read(file, &header.id)?;
    let log = read_log(file, &header).map_err(StoreError::reading("the log of intents"))?;
    let size = disk.map_or(header.disk.size, |disk| disk.size);
    let away = away(&header, disk);
    let mut judge = Judge {
        file,
        header: &header,
        log: &log,
        size,
        lost: None,
        findings: Vec::new(),
    };
    judge.lost = judge.loss(wrong, disk, &away);
    let mut sets = Vec::new();
    let mut epoch = log.newest.unwrap_or(0);
    for pair in 0..table.pairs.len() {
        for copy in &table.pairs[pair] {
            if let Found::Whole(descriptor) = copy {
                epoch = epoch.max(descriptor.epoch);
            }
        }
        sets.extend(judge.set(&table, pair)?);
    }
    sets.sort_by_key(|report| report.set);
    let inspection = Inspection {
        id: header.id,
        mode: header.mode,
        ended: if header.clean {
            Ended::Clean
        } else {
            Ended::Open { pid: header.pid }
        },
        written_unix_ms: header.written_unix_ms,
        disk: header.disk,
        away,
        findings: judge.findings,
        sets,
    };
    Ok(Contents {
        header,
        table,
        epoch,
        inspection,
    })
}

/// The log, or nothing where a clean close made it worthless.
fn read_log(file: &dyn File, header: &Header) -> io::Result<LogContents> {
    let length = LOG_SECTORS as usize * SECTOR;
    let halves = [
        read_part(file, LOGS[0], length)?,
        read_part(file, LOGS[1], length)?,
    ];
    let mut log = log::scan([&halves[0], &halves[1]], &header.id);
    if header.clean {
        (log.entries, log.damage) = (Vec::new(), None);
    } else if file.len()? < LOGS[1] + length as u64 {
        log.damage = Some("the file was cut".into());
    }
    Ok(log)
}

fn away(header: &Header, disk: Option<&DiskState>) -> Away {
    let Some(disk) = disk else {
        return Away::Unknown("the disk was not looked at".into());
    };
    if disk.identity != header.disk.identity {
        return Away::Refuted("it is another disk".into());
    }
    if !header.clean {
        return Away::Unknown(
            "the store was not closed, so it does not know the disk's last state".into(),
        );
    }
    match (header.disk.stamp, disk.stamp) {
        (Some(then), Some(now)) if then == now => Away::Unrefuted,
        (Some(then), Some(now)) if then.size != now.size => Away::Refuted(format!(
            "the disk had {} bytes when it was closed, and has {}",
            then.size, now.size
        )),
        (Some(_), Some(_)) => {
            Away::Refuted("the disk was changed after the store was closed".into())
        }
        (None, _) | (_, None) => {
            Away::Unknown("the disk carries no time of its last change".into())
        }
    }
}

/// Reads sets and says what they are worth.
struct Judge<'a> {
    file: &'a dyn File,
    header: &'a Header,
    log: &'a LogContents,
    size: u64,
    /// What every set that records has lost.
    lost: Option<Lost>,
    findings: Vec<String>,
}

impl Judge<'_> {
    /// Why the recording sets cannot hold every write, if they cannot.
    fn loss(
        &mut self,
        wrong: Option<&'static str>,
        disk: Option<&DiskState>,
        away: &Away,
    ) -> Option<Lost> {
        if let Some(lost) = &self.header.lost {
            return Some(lost.clone());
        }
        let mut whys: Vec<String> = Vec::new();
        whys.extend(wrong.map(str::to_owned));
        whys.extend(self.log.damage.clone());
        self.findings.clone_from(&whys);
        let restarted = disk.is_some_and(|disk| disk.session != self.header.disk.session);
        if restarted && !self.header.clean && self.header.mode == Mode::KilledProcess {
            whys.push(
                "the machine went down, and the store was kept in the mode that survives only a killed process".into(),
            );
        }
        if let Away::Refuted(why) = away {
            whys.push(why.clone());
        } else if disk.is_some_and(|disk| disk.size < self.header.disk.size) {
            whys.push("the disk has become smaller".into());
        }
        (!whys.is_empty()).then(|| Lost {
            since_unix_ms: self.header.written_unix_ms,
            why: whys.join("; "),
        })
    }

    /// The set in a pair, if there is one.
    fn set(&mut self, table: &Table, pair: usize) -> Result<Option<SetReport>, StoreError> {
        let (newest, other) = table.newest(pair);
        let Some(newest) = newest else {
            if *other == Found::Damaged {
                self.findings
                    .push(format!("entry {pair} of its table of sets is damaged"));
            }
            return Ok(None);
        };
        if newest.state == State::Dropped {
            return Ok(None);
        }
        let (set, used) = (newest.set, used(newest));
        let mut broken = None;
        if *other == Found::Damaged && used == SetUse::Fixed {
            broken = Some(format!(
                "a copy of the entry of set {set} is damaged, and may be the newer one"
            ));
        }
        let mut held = self.body(newest)?.map(|body| (newest, body));
        if held.is_none() {
            self.findings
                .push(format!("the newest bits of set {set} are damaged"));
            if let Found::Whole(older) = other
                && older.set == set
                && older.state == State::Recording
            {
                held = self.body(older)?.map(|body| (older, body));
            }
        }
        let Some((descriptor, (label, lost_why, bits))) = held else {
            let why = format!("the bits of set {set} are damaged");
            return self.unreadable(newest, why).map(Some);
        };
        if descriptor.state == State::Recording && !self.covers(descriptor.epoch) {
            broken = Some(format!(
                "the log does not reach back to the last whole copy of set {set}"
            ));
        }
        self.findings.extend(broken.clone());
        let own_loss = (newest.lost_since_unix_ms > 0).then_some(Lost {
            since_unix_ms: newest.lost_since_unix_ms,
            why: lost_why,
        });
        let lost = own_loss
            .or_else(|| self.lost.clone().filter(|_| used == SetUse::Recording))
            .or_else(|| broken.map(|why| self.lost_since_writing(why)));
        let mut report = SetReport {
            set,
            label,
            used,
            dirty: bits.fitted(self.size, bits.granularity()),
            excess_bytes: descriptor.excess_bytes,
            lost,
        };
        if report.lost.is_some() {
            report.dirty.set_all();
            report.excess_bytes = 0;
        } else if descriptor.state == State::Recording {
            self.add_intents(&mut report, descriptor.epoch);
        }
        Ok(Some(report))
    }

    /// Whether the log still holds every intent from `epoch` on.
    fn covers(&self, epoch: u64) -> bool {
        self.header.clean
            || self
                .log
                .newest
                .is_some_and(|newest| epoch <= newest && newest <= epoch + 1)
    }

    /// Joins a set with the intents since its last checkpoint: first what was to be written at once, then
    /// what was only prepared for.
    fn add_intents(&self, report: &mut SetReport, epoch: u64) {
        let mine = self
            .log
            .entries
            .iter()
            .filter(|(of, entry)| *of >= epoch && entry.set == report.set)
            .map(|(_, entry)| entry);
        let dirty = &mut report.dirty;
        mine.clone()
            .for_each(|entry| mark(dirty, entry.start, entry.marked));
        let exact = dirty.dirty_bytes();
        mine.for_each(|entry| mark(dirty, entry.start.saturating_add(entry.marked), entry.ahead));
        report.excess_bytes += dirty.dirty_bytes() - exact;
    }

    /// A set of which only the entry in the table is left.
    fn unreadable(&self, newest: &Descriptor, why: String) -> Result<SetReport, StoreError> {
        Ok(SetReport {
            set: newest.set,
            label: Label::default(),
            used: used(newest),
            dirty: DirtyBitmap::all_dirty(self.size, crate::Granularity::DEFAULT)?,
            excess_bytes: 0,
            lost: Some(self.lost_since_writing(why)),
        })
    }

    fn lost_since_writing(&self, why: String) -> Lost {
        Lost {
            since_unix_ms: self.header.written_unix_ms,
            why,
        }
    }

    /// A body, if it is what its descriptor says.
    fn body(
        &self,
        descriptor: &Descriptor,
    ) -> Result<Option<(Label, String, DirtyBitmap)>, StoreError> {
        let body = descriptor.body;
        let reading = StoreError::reading("a set");
        let length = self.file.len().map_err(&reading)?;
        if body
            .at
            .checked_add(body.length)
            .is_none_or(|end| end > length)
        {
            return Ok(None);
        }
        let mut bytes = vec![0; body.length as usize];
        self.file.read_at(&mut bytes, body.at).map_err(reading)?;
        if checksum::of(&bytes) != body.checksum {
            return Ok(None);
        }
        Ok(decode_body(&bytes))
    }
}

fn used(descriptor: &Descriptor) -> SetUse {
    match descriptor.state {
        State::Fixed | State::Dropped => SetUse::Fixed,
        State::Recording => SetUse::Recording,
    }
}

/// Marks what of a range lies inside the disk.
fn mark(bits: &mut DirtyBitmap, start: u64, length: u64) {
    let start = start.min(bits.size());
    let length = length.min(bits.size() - start);
    bits.set(start, length).expect("it was cut to the disk");
}
