//! The state directory: what clients asked for and still holds, written down, so that the next daemon is what this one was.
//!
//! What is written down is *commands*: the `object-add`, `blockdev-add`, `nbd-server-start` and `block-export-add` that
//! were accepted and that nothing has taken back since, a row each, with names of files made absolute. So there is one
//! way to make a node, and a restart goes it again. Rows are notes in the [journal](FileJournal) of the directory, which
//! also has the verdicts of the daemon's jobs: one file, one lock that says who holds it, one writer.
//!
//! - A command is carried out, then written down, then answered. Killed in between, the daemon has what nobody was told of,
//!   or lacks it.
//! - At a start objects come first, then nodes, and only when everything that records is in its place the server and
//!   its exports: nobody writes before.
//! - The command line wins: its disks and sockets are there before. What was added over QMP comes back beside them.
//! - What cannot come back is told by name on standard error and to `x-cohort-query-state`, and holds up nothing else. Its
//!   row stays, so that it comes back once its file does; a client that adds something of its name replaces it, and
//!   `cohort doctor DIR` forgets it.

mod restore;
mod rows;
mod stores;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use cohort_bitmap::store::{Inspection, Mode};
use cohort_journal::{FileJournal, OpenError};
use cohort_qmp::{Argument, Command, Error, Kept, StateInfo, StateLine};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bitmaps::Bitmap;
use super::nodes::Node;
use super::{Answer, Daemon, GATE_WAIT, complain, lock};
use crate::serve::{LETTING_GO, Stopped};
use rows::{Effect, Rows};

pub(crate) use rows::{BitmapRow, Clears, JobEnd, JobRow, Row, SetNames};
pub(crate) use stores::{Fresh, NodeStore, Sets};

/// The version of the rows that this program writes and reads.
const VERSION: u32 = 1;

/// The key of what the directory says of itself.
const MARK: &str = "daemon";

/// What a state directory says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    version: u32,
    /// No daemon has it, and the last one ended in order.
    closed: bool,
}

/// Why a directory cannot be a daemon's state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Its journal; another process may have it.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// It has backups.
    #[error(
        "{}: it is a backup directory; a daemon's state lies in a directory of its own", .0.display()
    )]
    Backups(PathBuf),
    /// Another program writes its verdicts there.
    #[error(
        "{}: another program keeps its journal here; a daemon's state lies in a directory of its own", .0.display()
    )]
    Foreign(PathBuf),
    /// A newer program wrote it.
    #[error("{}: the state has version {found}, and this program knows version {VERSION}", .directory.display())]
    Newer {
        /// The directory.
        directory: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It can be neither made nor written.
    #[error("{}: {source}", .directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What was said.
        source: io::Error,
    },
}

/// What is remembered, and where; without a directory nothing is.
#[derive(Debug, Default)]
pub(crate) struct StateDirectory {
    directory: Option<Directory>,
    /// A command changes what holds and what is written down with no other in between.
    turn: Mutex<()>,
    /// How many groups of several were begun.
    groups: AtomicU64,
    /// Jobs that end now end because the daemon does.
    ending: AtomicBool,
    told: Mutex<Vec<StateLine>>,
}

#[derive(Debug)]
struct Directory {
    journal: Arc<FileJournal>,
    /// Whether the daemon before ended in order.
    closed: bool,
    rows: Mutex<Rows>,
    /// What the stores of bitmaps survive.
    mode: Mode,
    /// By the names of their nodes.
    stores: Mutex<BTreeMap<String, Arc<NodeStore>>>,
}

impl StateDirectory {
    /// Takes a directory, which is made if it is not there, for this process alone. `mode` is what bitmaps survive.
    ///
    /// # Errors
    /// Any [`StateError`]; nothing was changed.
    pub(crate) fn open(directory: &Path, mode: Mode) -> Result<Self, StateError> {
        let failed = |source| StateError::Io {
            directory: directory.to_owned(),
            source,
        };
        if directory.join("catalogue.redb").exists() {
            return Err(StateError::Backups(directory.to_owned()));
        }
        // What it says of files is nobody else's business.
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            Ok(()) | Err(_) => {}
        }
        let journal = Arc::new(FileJournal::open(directory)?);
        let contents = journal.contents();
        let mark = contents.notes.get(MARK);
        let mark = mark.map(|mark| serde_json::from_slice::<Mark>(mark));
        let closed = match mark {
            None if contents == Default::default() => true,
            None | Some(Err(_)) => return Err(StateError::Foreign(directory.to_owned())),
            Some(Ok(mark)) if mark.version != VERSION => {
                return Err(StateError::Newer {
                    directory: directory.to_owned(),
                    found: mark.version,
                });
            }
            Some(Ok(mark)) => mark.closed,
        };
        write_mark(&journal, false).map_err(|error| failed(io::Error::other(error)))?;
        let mut rows = Rows::default();
        for (key, note) in &contents.notes {
            let Ok(number) = key.parse() else { continue };
            rows.next = rows.next.max(number + 1);
            match serde_json::from_slice(note) {
                Ok(row) => rows.found(number, row),
                Err(error) => complain(&format!(
                    "row {number} of {} cannot be read, and stays: {error}",
                    directory.display()
                )),
            }
        }
        Ok(Self {
            directory: Some(Directory {
                journal,
                closed,
                rows: Mutex::new(rows),
                mode,
                stores: Mutex::default(),
            }),
            ..Self::default()
        })
    }

    /// Where the verdicts of jobs are written.
    pub(super) fn journal(&self) -> Option<Arc<FileJournal>> {
        let directory = self.directory.as_ref()?;
        Some(directory.journal.clone())
    }

    /// Whether anything is remembered.
    pub(super) fn is_kept(&self) -> bool {
        self.directory.is_some()
    }

    /// A name for a group of several jobs: the journal knows groups by their names.
    pub(super) fn group_name(&self) -> String {
        let number = self.groups.fetch_add(1, Ordering::Relaxed) + 1;
        format!("transaction-{number}")
    }

    /// The daemon ends: what jobs become by that is told by the next one.
    pub(super) fn begin_end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// A job was dismissed. Written down with what comes next: told once more, it does no harm.
    pub(super) fn forget_job(&self, id: &str) {
        if let Some(directory) = &self.directory
            && !self.ending.load(Ordering::Acquire)
        {
            let mut rows = lock(&directory.rows);
            rows.retain(|row| !matches!(row, Row::Job(job) if job.id == id));
        }
    }

    /// A job is over. Written down with what comes next, if its hooks did not do that.
    pub(super) fn end_job(&self, id: &str, error: Option<String>) {
        if let Some(directory) = &self.directory {
            lock(&directory.rows).end_job(id, JobEnd { error });
        }
    }

    /// Writes down what waits for that.
    pub(super) fn flush(&self) {
        if let Err(error) = self.change(|_| ()) {
            complain(&error.text);
        }
    }

    /// Keeps other commands from changing what holds until the answer is dropped.
    fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// Changes what is written down; it is durable when this returns.
    ///
    /// # Errors
    /// It cannot be written, and nothing more can.
    pub(super) fn change(&self, change: impl FnOnce(&mut Rows)) -> Result<(), Error> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        // Rows are written in the order in which they change.
        let mut rows = lock(&directory.rows);
        change(&mut rows);
        let written = directory.journal.note(rows.notes());
        written.map_err(|error| {
            Error::generic(format!(
                "it is done, and the next daemon will not know of it: {error}"
            ))
        })
    }

    /// The store of a node's bitmaps, if it has one.
    pub(super) fn store_of(&self, node: &str) -> Option<Arc<NodeStore>> {
        let directory = self.directory.as_ref()?;
        lock(&directory.stores).get(node).cloned()
    }

    /// The same, made if it is not there and can be: for a node of a name, which lies on a file.
    pub(super) fn store_for(&self, node: &Node) -> Option<Arc<NodeStore>> {
        let directory = self.directory.as_ref()?;
        let mut stores = lock(&directory.stores);
        if let Some(store) = stores.get(&node.name) {
            return Some(store.clone());
        }
        let file = stores::file_of(node).filter(|_| node.has_name())?;
        let made = NodeStore::create(directory.journal.directory(), node, &file, directory.mode);
        let made = made.inspect_err(|why| {
            complain(&format!(
                "bitmaps of node {} come back all dirty: {why}",
                node.name
            ));
        });
        let store = made.ok()?;
        stores.insert(node.name.clone(), store.clone());
        Some(store)
    }

    /// Opens the store that the daemon before had for this node; or says why there is none to go by.
    fn reopen_store(&self, node: &Node) -> Result<(Arc<NodeStore>, Inspection), String> {
        let directory = self.directory.as_ref().ok_or("nothing is remembered")?;
        let file = stores::file_of(node).ok_or("it lies on no file of this host")?;
        let folder = directory.journal.directory();
        let (store, found) = NodeStore::open(folder, node, &file, directory.mode)
            .map_err(|error| error.to_string())?;
        lock(&directory.stores).insert(node.name.clone(), store.clone());
        Ok((store, found))
    }

    /// Notes how a job ended, and what it left of its bitmap.
    pub(super) fn settle_job(
        &self,
        id: &str,
        ended: JobEnd,
        node: &Node,
        bitmap: Option<&Arc<Bitmap>>,
    ) -> Result<(), Error> {
        let store = self.store_of(&node.name);
        let mut gone = Vec::new();
        self.change(|rows| {
            rows.end_job(id, ended);
            let written_down = |bitmap: &&Arc<Bitmap>| bitmap.place.is_written_down();
            if let Some(bitmap) = bitmap.filter(|_| node.has_name()).filter(written_down) {
                let row;
                (row, gone) = bitmap.row(&node.name, store.as_deref());
                rows.set_bitmap(row);
            }
        })?;
        if let Some(store) = store {
            store.drop_sets(&gone);
        }
        Ok(())
    }

    /// Forgets the stores of nodes that are gone, and what is written down of their bitmaps.
    pub(super) fn forget_bitmaps(&self, gone: &[String]) -> Result<(), Error> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        self.change(|rows| {
            for node in gone {
                rows.set_bitmaps(node, Vec::new());
            }
        })?;
        for node in gone {
            if let Some(store) = lock(&directory.stores).remove(node) {
                store.remove();
            }
        }
        Ok(())
    }

    /// Every row, by its turn in a restart.
    fn rows(&self) -> Vec<Row> {
        let Some(directory) = &self.directory else {
            return Vec::new();
        };
        let rows = lock(&directory.rows);
        let mut rows: Vec<_> = rows.iter().map(|(_, row)| row.clone()).collect();
        rows.sort_by_key(Row::turn);
        rows
    }

    /// Remembers what is to be said of something that the daemon before had; says at once what people should know.
    fn tell(&self, kind: Kept, name: String, back: bool, text: String) {
        if !text.is_empty() {
            let what = if back { "is back" } else { "is not back" };
            complain(&format!("{kind} '{name}' {what}: {text}"));
        }
        lock(&self.told).push(StateLine {
            kind,
            name,
            back,
            text,
        });
    }

    /// The daemon does not begin: whether the one before ended in order is for the next one to know.
    pub(crate) fn leave_as_found(&self) {
        if let Some(directory) = &self.directory
            && let Err(error) = write_mark(&directory.journal, directory.closed)
        {
            complain(&format!(
                "the state directory is left as after a kill: {error}"
            ));
        }
    }

    /// The end, in order: nobody has a disk any more, or not for long. Says which bitmaps are left as after a kill.
    pub(super) fn close(&self, stopped: &mut Stopped) {
        let Some(directory) = &self.directory else {
            return;
        };
        let stores = std::mem::take(&mut *lock(&directory.stores));
        let deadline = Instant::now() + LETTING_GO;
        while stores.values().any(|store| store.waits()) && Instant::now() < deadline {
            thread::yield_now();
        }
        let closed = stores.values().map(|store| store.close());
        stopped.unproven.extend(closed.filter_map(Result::err));
        self.flush();
        if let Err(error) = write_mark(&directory.journal, true) {
            complain(&format!(
                "the state directory is left as after a kill: {error}"
            ));
        }
    }
}

impl Daemon {
    /// Carries a command out and writes down what it changes for good.
    pub(super) fn carry_out_and_keep(self: &Arc<Self>, command: Command) -> Answer {
        if !self.state.is_kept() {
            return self.dispatch(command);
        }
        let effect = Effect::of(&command, &self.restrict.folder());
        if effect == Effect::Nothing {
            return self.dispatch(command);
        }
        let added = match &effect {
            Effect::Adds(Row::Node(asked)) => Some(asked.name.clone()),
            Effect::Nothing | Effect::Adds(_) | Effect::Drops(..) | Effect::DropsServer => None,
        };
        let _turn = self.state.turn();
        let answer = self.dispatch(command)?;
        self.state.change(|rows| rows.apply(effect))?;
        if let Some(node) = added {
            self.keep_found_bitmaps(&node)?;
        }
        Ok(answer)
    }

    /// Has the bitmaps that images brought along for a node, or for what it lies on, be in stores as well: so a kill does not
    /// cost them what they say.
    fn keep_found_bitmaps(&self, node: &str) -> Result<(), Error> {
        // Nobody begins a job with them until they are written down.
        let graph = self.graph();
        let mut rest: Vec<_> = graph.find(node).cloned().into_iter().collect();
        while let Some(node) = rest.pop() {
            rest.extend(node.children.iter().cloned());
            self.keep_found_bitmaps_of(&node)?;
        }
        Ok(())
    }

    fn keep_found_bitmaps_of(&self, node: &Arc<Node>) -> Result<(), Error> {
        let mut found = lock(&node.bitmaps).clone();
        found.retain(|bitmap| bitmap.wants_sets());
        if found.is_empty() {
            return Ok(());
        }
        let Some(store) = self.state.store_for(node) else {
            return Ok(());
        };
        let fresh: Vec<_> = found
            .iter()
            .map(|bitmap| store.prepare(&bitmap.name, bitmap.granularity))
            .collect();
        let gate = node.disk.close("bitmaps", Instant::now() + GATE_WAIT);
        let mut gate = gate.map_err(|error| Error::generic(error.to_string()))?;
        for (bitmap, fresh) in found.iter().zip(fresh) {
            fresh
                .into_iter()
                .for_each(|fresh| bitmap.keep_in(fresh, &mut gate));
        }
        drop(gate);
        self.write_down(std::slice::from_ref(node), Vec::new())
    }

    /// Writes down what became of bitmaps of these nodes, and drops the sets that are needed no more.
    pub(super) fn write_down(&self, nodes: &[Arc<Node>], jobs: Vec<JobRow>) -> Result<(), Error> {
        let mut gone = Vec::new();
        self.state.change(|rows| {
            jobs.into_iter().for_each(|job| rows.add(Row::Job(job)));
            for node in nodes.iter().filter(|node| node.has_name()) {
                let store = self.state.store_of(&node.name);
                let bitmaps = lock(&node.bitmaps);
                let bitmaps = bitmaps
                    .iter()
                    .filter(|bitmap| bitmap.place.is_written_down())
                    .map(|bitmap| bitmap.row(&node.name, store.as_deref()));
                let (now, left): (Vec<_>, Vec<_>) = bitmaps.unzip();
                let mut left = left.concat();
                left.extend(rows.set_bitmaps(&node.name, now));
                gone.extend(store.map(|store| (store, left)));
            }
        })?;
        gone.iter().for_each(|(store, sets)| store.drop_sets(sets));
        Ok(())
    }

    pub(super) fn query_state(&self) -> Value {
        let directory = self.state.directory.as_ref();
        let path = directory.map(|state| state.journal.directory().display().to_string());
        StateInfo {
            directory: path,
            ended_in_order: directory.is_none_or(|state| state.closed),
            told: lock(&self.state.told).clone(),
        }
        .write()
    }
}

/// Whether these are the notes of a state directory.
pub(crate) fn is_of_a_daemon(notes: &BTreeMap<String, Vec<u8>>) -> bool {
    notes.contains_key(MARK)
}

fn write_mark(journal: &FileJournal, closed: bool) -> Result<(), cohort_job::JournalError> {
    let mark = Mark {
        version: VERSION,
        closed,
    };
    let text = serde_json::to_vec(&mark).unwrap_or_default();
    journal.note(vec![(MARK.to_owned(), Some(text))])
}
