//! `cohort bitmap list`: every bitmap of a disk, and what it is worth.

use cohort_bitmap::store::{Away, Ended};
use serde::Serialize;

use super::found::{Found, Store, Tracked};
use super::state::State;
use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::human;
use crate::output::{self, json_line, print_line};

/// All bitmaps of a disk, as JSON gives them.
#[derive(Debug, Serialize)]
struct JsonBitmaps {
    event: &'static str,
    path: String,
    bitmaps: Vec<JsonBitmap>,
    store: Option<JsonStore>,
}

/// One bitmap, as JSON gives it.
#[derive(Debug, Serialize)]
pub(super) struct JsonBitmap {
    name: String,
    kind: &'static str,
    /// Of one of QEMU's: the image that holds it, which may lie beneath the disk.
    image: Option<String>,
    /// Of a set: its number, and who collects it.
    set: Option<u64>,
    owner: Option<JsonOwner>,
    note: Option<String>,
    granularity_bytes: Option<u64>,
    /// Nothing where it cannot be read.
    dirty_bytes: Option<u64>,
    state: &'static str,
    /// What keeps it from being true, or from being proved.
    why: Option<String>,
    /// So many of the dirty bytes at most were never written.
    excess_bytes: Option<u64>,
    lost_since_unix_ms: Option<u64>,
}

/// Who collects a set, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonOwner {
    id: String,
    path: String,
}

/// A tracking store, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonStore {
    path: String,
    id: String,
    survives: &'static str,
    closed: bool,
    /// The process that has it open.
    holder: Option<u32>,
    /// Whether somebody wrote to the disk while nobody recorded.
    away: &'static str,
    away_why: Option<String>,
    findings: Vec<String>,
}

pub(super) fn run(args: &args::BitmapList) -> Result {
    let machine = args
        .path
        .to_str()
        .and_then(|path| path.strip_prefix("qmp:"));
    if let Some(monitor) = machine {
        return super::machine::list(monitor.as_ref(), args.output.json);
    }
    let found = Found::at(&args.path)?;
    let rows: Vec<_> = found
        .tracked()
        .map(|tracked| Row::of(&found, tracked))
        .collect();
    if args.output.json {
        json_line(&JsonBitmaps {
            event: "bitmaps",
            path: args.path.display().to_string(),
            bitmaps: rows.iter().map(Row::json).collect(),
            store: found.store().map(json_store),
        });
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        print_line("no bitmaps");
    } else {
        print(&rows);
    }
    if let Some(store) = found.store() {
        print_store(store);
    }
    Ok(Exit::Done)
}

/// One bitmap, read.
pub(super) struct Row<'a> {
    tracked: Tracked<'a>,
    state: State,
    dirty_bytes: Option<u64>,
}

impl<'a> Row<'a> {
    /// Reads a bitmap, if it can be read.
    fn of(found: &Found, tracked: Tracked<'a>) -> Row<'a> {
        let state = found.state(tracked);
        let readable = !matches!(
            state,
            State::InUse | State::Inconsistent | State::Stale | State::Unusable(_)
        );
        match readable.then(|| found.read(tracked)) {
            None => Row::with(tracked, state, None),
            Some(Ok(bits)) => Row::with(tracked, state, Some(bits.dirty_bytes())),
            Some(Err(failure)) if failure.exit == Exit::SourceLocked => {
                Row::with(tracked, State::InUse, None)
            }
            Some(Err(failure)) => {
                let why = failure.error.root_cause().to_string();
                Row::with(tracked, State::Unusable(why), None)
            }
        }
    }

    /// A bitmap of which it is known what it says.
    pub(super) fn with(tracked: Tracked<'a>, state: State, dirty_bytes: Option<u64>) -> Row<'a> {
        Row {
            tracked,
            state,
            dirty_bytes,
        }
    }

    /// As JSON gives it.
    pub(super) fn json(&self) -> JsonBitmap {
        let tracked = self.tracked;
        let (name, kind, image, note) = match tracked {
            Tracked::Qemu(image, entry) => (entry.name(), "qemu", Some(image), None),
            Tracked::Set(set) => (
                set.label.name.as_str(),
                "cohort",
                None,
                Some(set.label.note.clone()),
            ),
        };
        JsonBitmap {
            name: name.into(),
            kind,
            image: image.map(|image| image.path().display().to_string()),
            set: tracked.set().map(|set| set.0),
            owner: tracked.owner().map(|owner| JsonOwner {
                id: hex(&owner.id),
                path: owner.path.clone(),
            }),
            note,
            granularity_bytes: tracked.granularity().map(|granularity| granularity.bytes()),
            dirty_bytes: self.dirty_bytes,
            state: self.state.word(),
            why: self.state.why(),
            excess_bytes: self.state.excess().map(|excess| excess.0),
            lost_since_unix_ms: if let State::Lost(lost) = &self.state {
                Some(lost.since_unix_ms)
            } else {
                None
            },
        }
    }
}

fn print(rows: &[Row<'_>]) {
    let mut table = output::table(&["NAME", "KIND", "GRANULE", "DIRTY", "OWNER", "STATE"]);
    for row in rows {
        let tracked = row.tracked;
        let unknown = || "-".to_owned();
        let owner = tracked
            .owner()
            .map(|owner| owner.path.as_str())
            .filter(|path| !path.is_empty());
        table.add_row([
            tracked.name(),
            tracked.kind(),
            tracked
                .granularity()
                .map_or_else(unknown, |granularity| human::bytes(granularity.bytes())),
            row.dirty_bytes.map_or_else(unknown, human::bytes),
            owner.map_or_else(unknown, super::shown),
            row.state.sentence(),
        ]);
    }
    print_line(&table.trim_fmt());
}

fn print_store(store: &Store) {
    let inspection = &store.beside.inspection;
    let path = store.path.display();
    let used = match (inspection.ended, store.beside.holder) {
        (_, Some(pid)) => format!("in use by process {pid}"),
        (Ended::Clean, None) => "closed".into(),
        (Ended::Open { pid }, None) => format!("not closed: process {pid} was killed"),
    };
    let away = match &inspection.away {
        Away::Refuted(why) => format!("; {why}"),
        Away::Unrefuted | Away::Unknown(_) => String::new(),
    };
    print_line(&format!("{path}: {}; {used}{away}", inspection.mode));
    for finding in &inspection.findings {
        print_line(&format!("{path}: {finding}"));
    }
}

fn json_store(store: &Store) -> JsonStore {
    let inspection = &store.beside.inspection;
    let (away, away_why) = match &inspection.away {
        Away::Unrefuted => ("unrefuted", None),
        Away::Unknown(why) => ("unknown", Some(why.clone())),
        Away::Refuted(why) => ("refuted", Some(why.clone())),
    };
    JsonStore {
        path: store.path.display().to_string(),
        id: hex(&inspection.id),
        survives: match inspection.mode {
            cohort_bitmap::store::Mode::KilledProcess => "kill",
            cohort_bitmap::store::Mode::PowerLoss => "power-loss",
        },
        closed: inspection.ended == Ended::Clean,
        holder: store.beside.holder,
        away,
        away_why,
        findings: inspection.findings.clone(),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
