//! A catalogue as text: one JSON document, to look at, to keep elsewhere, and to load again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::contents::Contents;
use super::model::{CATALOGUE_VERSION, Decided, Disk, Meta, Partial, Point, Run, Views};
use super::name::{DiskName, RunId};
use super::rules::Broken;

/// What a dump says it is.
const FORMAT: &str = "cohort-catalogue-dump";

/// Why a text is not the dump of a catalogue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// It is not JSON, or not with the fields of a dump.
    #[error("not a catalogue's dump: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It is JSON that says it is something else.
    #[error("not a catalogue's dump: its format is {0:?}")]
    OtherFormat(String),
    /// Another version wrote it.
    #[error("the dump has version {0}, and this program knows versions up to {CATALOGUE_VERSION}")]
    Version(u32),
    /// One row is there twice.
    #[error("the dump has two rows for {0}")]
    Twice(String),
    /// The rows contradict each other.
    #[error("the dump contradicts itself: {0}")]
    Broken(#[from] Broken),
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    meta: Meta,
    disks: Vec<Named<DiskName, Disk>>,
    runs: Vec<Named<RunId, Run>>,
    points: Vec<Named<(DiskName, RunId), Point>>,
    partials: Vec<Named<DiskName, Partial>>,
    views: Vec<Named<DiskName, Views>>,
    verdicts: Vec<Named<u64, Decided>>,
}

/// A row with its key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named<K, V> {
    key: K,
    row: V,
}

impl Contents {
    /// Everything, as JSON text.
    #[must_use]
    pub fn dump(&self) -> String {
        let document = Document {
            format: FORMAT.to_owned(),
            version: CATALOGUE_VERSION,
            meta: self.meta.clone(),
            disks: list(&self.disks),
            runs: list(&self.runs),
            points: list(&self.points),
            partials: list(&self.partials),
            views: list(&self.views),
            verdicts: list(&self.verdicts),
        };
        // Strings, numbers and lists of them: nothing in it can refuse to be written as JSON.
        let mut text = serde_json::to_string_pretty(&document).expect("a catalogue is plain data");
        text.push('\n');
        text
    }

    /// Reads what [`dump`](Self::dump) wrote, and checks every rule.
    ///
    /// # Errors
    /// [`DumpError`]; nothing is half read.
    pub fn undump(text: &str) -> Result<Self, DumpError> {
        let head: Head = serde_json::from_str(text)?;
        if head.format != FORMAT {
            return Err(DumpError::OtherFormat(head.format));
        }
        if !(1..=CATALOGUE_VERSION).contains(&head.version) {
            return Err(DumpError::Version(head.version));
        }
        let mut document: Document = serde_json::from_str(text)?;
        if !(1..=CATALOGUE_VERSION).contains(&document.meta.version) {
            return Err(DumpError::Version(document.meta.version));
        }
        document.meta.version = CATALOGUE_VERSION;
        let contents = Self {
            meta: document.meta,
            disks: map(document.disks, |disk| format!("disk {disk}"))?,
            runs: map(document.runs, |run| format!("run {run}"))?,
            points: map(document.points, |(disk, run)| format!("point {disk}@{run}"))?,
            partials: map(document.partials, |disk| format!("partial of {disk}"))?,
            views: map(document.views, |disk| format!("views of {disk}"))?,
            verdicts: map(document.verdicts, |number| format!("verdict {number}"))?,
        };
        contents.check()?;
        Ok(contents)
    }
}

fn list<K: Clone, V: Clone>(rows: &BTreeMap<K, V>) -> Vec<Named<K, V>> {
    let named = |(key, row): (&K, &V)| Named {
        key: key.clone(),
        row: row.clone(),
    };
    rows.iter().map(named).collect()
}

fn map<K: Ord, V>(
    rows: Vec<Named<K, V>>,
    name: impl Fn(&K) -> String,
) -> Result<BTreeMap<K, V>, DumpError> {
    let mut map = BTreeMap::new();
    for Named { key, row } in rows {
        let text = name(&key);
        if map.insert(key, row).is_some() {
            return Err(DumpError::Twice(text));
        }
    }
    Ok(map)
}
