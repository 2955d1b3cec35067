//! What is written down: a row for each thing that clients asked for and that still holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cohort_bitmap::store::SetId;
use cohort_journal::Note;
use cohort_qmp::{Command, Kept};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stores::Sets;

/// Something that still holds. Fields that are missing or not known make a row unreadable rather than half understood;
/// `docs/format.md` repeats them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Row {
    /// Limits that nodes share, by `object-add`.
    Object(Asked),
    /// A node, by `blockdev-add`.
    Node(Asked),
    /// A dirty bitmap.
    Bitmap(BitmapRow),
    /// A job that is not dismissed.
    Job(JobRow),
    /// The NBD server, by `nbd-server-start`.
    Server(Asked),
    /// An export, by `block-export-add` or `nbd-server-add`.
    Export(Asked),
}

/// A command as it was accepted, with the names of files made absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// What it made is called so.
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) arguments: Value,
}

/// A bitmap of a node, which is not one that nobody named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BitmapRow {
    pub(crate) node: String,
    pub(crate) name: String,
    /// Bytes per bit.
    pub(crate) granularity: u64,
    /// Whether writes count.
    pub(crate) enabled: bool,
    /// Whether it is saved in the node's image when that is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) persistent: bool,
    /// What it is the union of; nothing if everything counts as dirty.
    pub(crate) sets: Option<SetNames>,
}

/// Sets of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetNames {
    /// The store's own id, in hexadecimal digits.
    pub(crate) store: String,
    pub(crate) numbers: Vec<u64>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobRow {
    pub(crate) id: String,
    /// `backup` or `create`.
    pub(crate) kind: String,
    /// What was asked for.
    pub(crate) command: String,
    pub(crate) arguments: Value,
    /// How it ended, once its hooks ran.
    pub(crate) ended: Option<JobEnd>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobEnd {
    /// Why it did not end well, if it did not.
    pub(crate) error: Option<String>,
}

/// What the record of a backup says: the sets of which its bitmap is made no more if it commits, because its target holds
/// all that is in them, or another set does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clears {
    pub(crate) version: u32,
    pub(crate) node: String,
    pub(crate) bitmap: String,
    pub(crate) sets: SetNames,
}

/// What a command that was carried out changes about what is written down.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Adds(Row),
    /// What is of this kind and name.
    Drops(Kept, String),
    /// The server and all its exports.
    DropsServer,
}

/// All rows by their numbers, in the order in which they were asked for; and which of them are not written down as they are.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    all: BTreeMap<u64, Row>,
    /// Larger than every number in use, also of rows that cannot be read.
    pub(super) next: u64,
    touched: BTreeSet<u64>,
}

impl SetNames {
    pub(crate) fn of(sets: &Sets) -> Self {
        Self {
            store: hex(sets.store()),
            numbers: sets.named().map(|set| set.0).collect(),
        }
    }

    /// The sets, if they are of the store with that id.
    pub(crate) fn in_store(&self, id: [u8; 16]) -> Option<Vec<SetId>> {
        let ours = self.store == hex(id);
        ours.then(|| self.numbers.iter().copied().map(SetId).collect())
    }
}

fn hex(id: [u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Clears {
    /// That these sets of a bitmap are needed no more.
    pub(crate) fn of(node: &str, bitmap: &str, store: [u8; 16], sets: &[SetId]) -> Self {
        Self {
            version: 1,
            node: node.to_owned(),
            bitmap: bitmap.to_owned(),
            sets: SetNames {
                store: hex(store),
                numbers: sets.iter().map(|set| set.0).collect(),
            },
        }
    }
}

impl Row {
    pub(crate) fn kind(&self) -> Kept {
        match self {
            Self::Object(_) => Kept::Object,
            Self::Node(_) => Kept::Node,
            Self::Bitmap(_) => Kept::Bitmap,
            Self::Job(_) => Kept::Job,
            Self::Server(_) => Kept::Server,
            Self::Export(_) => Kept::Export,
        }
    }

    /// What people call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Object(asked) | Self::Node(asked) | Self::Server(asked) | Self::Export(asked) => {
                asked.name.clone()
            }
            Self::Bitmap(row) => format!("{}/{}", row.node, row.name),
            Self::Job(row) => row.id.clone(),
        }
    }

    /// Its place in a restart: what others lie on comes first, and what lets writers in comes last.
    pub(super) fn turn(&self) -> u8 {
        match self {
            Self::Object(_) => 0,
            Self::Node(_) => 1,
            Self::Bitmap(_) => 2,
            Self::Job(_) => 3,
            Self::Server(_) => 4,
            Self::Export(_) => 5,
        }
    }
}

impl Effect {
    /// That of a command, whose relative paths are taken from `folder`.
    pub(super) fn of(command: &Command, folder: &Path) -> Self {
        let adds = |row: fn(Asked) -> Row, name: &str| {
            let mut arguments = command.arguments();
            if names_nobody(&arguments) {
                return Self::Nothing;
            }
            make_absolute(&mut arguments, folder);
            Self::Adds(row(Asked {
                name: name.to_owned(),
                command: command.name().to_owned(),
                arguments,
            }))
        };
        let drops = |kind, name: &str| Self::Drops(kind, name.to_owned());
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "most commands ask, or are of jobs and bitmaps, which are written down where they change"
        )]
        match command {
            // What nobody shall read is not written down either.
            Command::ObjectAdd(object) if object.object.word() == "secret" => Self::Nothing,
            Command::ObjectAdd(object) => adds(Row::Object, &object.id),
            Command::ObjectDel(object) => drops(Kept::Object, &object.id),
            Command::BlockdevAdd(node) => {
                adds(Row::Node, node.node_name.as_deref().unwrap_or_default())
            }
            Command::BlockdevDel(node) => drops(Kept::Node, &node.node_name),
            Command::NbdServerStart(_) => adds(Row::Server, "nbd"),
            Command::NbdServerStop(_) => Self::DropsServer,
            Command::BlockExportAdd(export) => adds(Row::Export, &export.id),
            Command::NbdServerAdd(add) => {
                adds(Row::Export, add.name.as_deref().unwrap_or(&add.device))
            }
            Command::BlockExportDel(export) => drops(Kept::Export, &export.id),
            Command::NbdServerRemove(export) => drops(Kept::Export, &export.name),
            _ => Self::Nothing,
        }
    }
}

impl Rows {
    /// Takes a row as it was found.
    pub(super) fn found(&mut self, number: u64, row: Row) {
        self.all.insert(number, row);
    }

    /// Every row and its number, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Row)> {
        self.all.iter().map(|(number, row)| (*number, row))
    }

    /// Adds a row, in the place of one of its kind and name that could not come back.
    pub(crate) fn add(&mut self, row: Row) {
        let (kind, name) = (row.kind(), row.name());
        self.retain(|other| other.kind() != kind || other.name() != name);
        let number = self.next;
        self.next += 1;
        self.all.insert(number, row);
        self.touched.insert(number);
    }

    /// Has these be all bitmaps of a node. Gives the sets of those that were, and are none any more.
    pub(crate) fn set_bitmaps(&mut self, node: &str, rows: Vec<BitmapRow>) -> Vec<SetId> {
        let mut gone = Vec::new();
        for old in self.all.values() {
            if let Row::Bitmap(old) = old
                && old.node == node
                && !rows.iter().any(|row| row.name == old.name)
            {
                let numbers = old.sets.iter().flat_map(|sets| &sets.numbers);
                gone.extend(numbers.copied().map(SetId));
            }
        }
        let is_there =
            |row: &BitmapRow| row.node != node || rows.iter().any(|r| r.name == row.name);
        self.retain(|row| !matches!(row, Row::Bitmap(row) if !is_there(row)));
        rows.into_iter().for_each(|row| self.set_bitmap(row));
        gone
    }

    /// Has a bitmap be as it is now.
    pub(crate) fn set_bitmap(&mut self, new: BitmapRow) {
        for (number, row) in &mut self.all {
            if let Row::Bitmap(row) = row
                && (&row.node, &row.name) == (&new.node, &new.name)
            {
                if *row != new {
                    *row = new;
                    self.touched.insert(*number);
                }
                return;
            }
        }
        self.add(Row::Bitmap(new));
    }

    /// Notes how a job ended, unless that is known already.
    pub(crate) fn end_job(&mut self, id: &str, end: JobEnd) {
        for (number, row) in &mut self.all {
            if let Row::Job(row) = row
                && row.id == id
                && row.ended.is_none()
            {
                row.ended = Some(end);
                self.touched.insert(*number);
                return;
            }
        }
    }

    /// Does what the commit of a backup means for its bitmap; for the second time it does nothing.
    pub(crate) fn clear(&mut self, clears: &Clears) {
        for (number, row) in &mut self.all {
            if let Row::Bitmap(row) = row
                && (&row.node, &row.name) == (&clears.node, &clears.bitmap)
                && let Some(sets) = &mut row.sets
                && sets.store == clears.sets.store
            {
                sets.numbers
                    .retain(|set| !clears.sets.numbers.contains(set));
                self.touched.insert(*number);
            }
        }
    }

    /// Drops all rows but these.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Row) -> bool) {
        let touched = &mut self.touched;
        self.all.retain(|number, row| {
            let kept = keep(row);
            if !kept {
                touched.insert(*number);
            }
            kept
        });
    }

    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Adds(row) => {
                // Bitmaps of one that could not come back are not its own.
                if let Row::Node(node) = &row {
                    self.set_bitmaps(&node.name, Vec::new());
                }
                self.add(row);
            }
            Effect::Drops(kind, name) => {
                self.retain(|row| row.kind() != kind || row.name() != name)
            }
            Effect::DropsServer => {
                self.retain(|row| !matches!(row.kind(), Kept::Server | Kept::Export));
            }
        }
    }

    /// What is to be written so that all is.
    pub(super) fn notes(&mut self) -> Vec<Note> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        let note = |number: u64| {
            let row = self.all.get(&number);
            let text = row.and_then(|row| serde_json::to_vec(row).ok());
            (key(number), text)
        };
        touched.map(note).collect()
    }
}

/// The key of a row; they sort as their numbers.
pub(crate) fn key(number: u64) -> String {
    format!("{number:020}")
}

/// Whether the arguments speak of a node that nobody named: it will not be called so again.
fn names_nobody(arguments: &Value) -> bool {
    match arguments {
        Value::String(text) => text.starts_with("#block"),
        Value::Array(items) => items.iter().any(names_nobody),
        Value::Object(members) => members.values().any(names_nobody),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Makes the names of files and sockets absolute, wherever they stand: the next daemon may be started elsewhere.
fn make_absolute(arguments: &mut Value, folder: &Path) {
    match arguments {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| make_absolute(item, folder)),
        Value::Object(members) => {
            for (name, value) in members {
                if let (Value::String(path), "filename" | "path") = (&mut *value, &**name) {
                    *path = folder.join(&**path).display().to_string();
                }
                make_absolute(value, folder);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn effect(command: &str, arguments: Value) -> Effect {
        let Value::Object(arguments) = arguments else {
            panic!("{arguments}");
        };
        let command = Command::read(command, arguments).unwrap();
        Effect::of(&command, Path::new("/srv"))
    }

    #[test]
    fn what_a_client_adds_is_written_down_with_absolute_names() {
        let node = json!({
            "driver": "qcow2", "node-name": "d",
            "file": { "driver": "file", "filename": "a/d.qcow2" },
            "backing": { "driver": "nbd", "server": { "type": "unix", "path": "/run/s" } },
        });
        let Effect::Adds(Row::Node(asked)) = effect("blockdev-add", node) else {
            panic!("a node");
        };
        assert_eq!((&*asked.name, &*asked.command), ("d", "blockdev-add"));
        assert_eq!(asked.arguments["file"]["filename"], "/srv/a/d.qcow2");
        assert_eq!(asked.arguments["backing"]["server"]["path"], "/run/s");
        let text = serde_json::to_string(&Row::Node(asked.clone())).unwrap();
        assert!(
            text.starts_with(r#"{"node":{"name":"d","command":"blockdev-add","#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<Row>(&text).unwrap(),
            Row::Node(asked)
        );
    }

    #[test]
    fn nothing_secret_and_nothing_nameless_is_written_down() {
        let secret = json!({ "qom-type": "secret", "id": "s", "data": "x" });
        assert_eq!(effect("object-add", secret), Effect::Nothing);
        let above = json!({ "driver": "raw", "node-name": "r", "file": "#block003" });
        assert_eq!(effect("blockdev-add", above), Effect::Nothing);
        assert_eq!(
            effect("query-jobs", Value::Object(Map::new())),
            Effect::Nothing
        );
    }

    #[test]
    fn what_takes_something_away_drops_its_row_and_no_other() {
        let mut rows = Rows::default();
        let add = |rows: &mut Rows, name: &str| {
            rows.apply(effect(
                "blockdev-add",
                json!({ "driver": "null-co", "node-name": name }),
            ));
            let export = json!({ "type": "nbd", "id": name, "node-name": name });
            rows.apply(effect("block-export-add", export));
        };
        add(&mut rows, "a");
        add(&mut rows, "b");
        rows.apply(effect("block-export-del", json!({ "id": "a" })));
        rows.apply(effect("blockdev-del", json!({ "node-name": "b" })));
        let left = |rows: &Rows| -> Vec<_> {
            let rows = rows.iter();
            rows.map(|(number, row)| (number, row.kind(), row.name()))
                .collect()
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(
            left(&rows),
            [(0, Kept::Node, a.clone()), (3, Kept::Export, b)]
        );
        rows.apply(effect("nbd-server-stop", json!({})));
        assert_eq!(left(&rows), [(0, Kept::Node, a.clone())]);
        // One that could not come back is replaced by what has its name now.
        add(&mut rows, "a");
        assert_eq!(
            left(&rows),
            [(4, Kept::Node, a.clone()), (5, Kept::Export, a)]
        );
        let notes = rows.notes();
        let dropped: Vec<_> = notes.iter().filter(|note| note.1.is_none()).collect();
        assert_eq!((notes.len(), dropped.len()), (6, 4));
        assert!(rows.notes().is_empty(), "written once");
    }
}
