//! The journal of a directory: what its groups are owed, in `journal.redb`.
//!
//! A row is a verdict whose hooks are not all known to have returned; it is deleted when they have. So the file is as
//! large as what is owed at one time, and a start reads no history. Beside them lie the notes of whoever opened the
//! journal: what he wants to find again, which is nobody else's to read.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use cohort_job::{Entry, GroupName, Journal, JournalError, Owed, Verdict};
use redb::{
    ReadTransaction, ReadableTable, TableDefinition, TableError, TableHandle, WriteTransaction,
};

use crate::batch::Batch;
use crate::database::{self, Writer};
use crate::error::{OpenError, Unreadable};
use crate::fault::Fault;
use crate::lock::{self, Found, LockFiles, WriterLock};
use crate::sync::{Mutex, MutexGuard};
use crate::verdict::Decided;

/// The version of the journal that this library writes and reads.
pub const JOURNAL_VERSION: u32 = 1;

/// The journal's name, before the endings of its files.
const NAME: &str = "journal";
const META: TableDefinition<'_, &'static str, u64> = TableDefinition::new("journal");
const VERSION_KEY: &str = "version";
const OWED: TableDefinition<'_, u64, &'static [u8]> = TableDefinition::new("owed");
/// Made with the first note.
const NOTES: TableDefinition<'_, &'static str, &'static [u8]> = TableDefinition::new("notes");
/// Each further try means that another writer died, or started, in between.
const READ_TRIES: usize = 64;

/// What a journal holds: the verdicts whose hooks may still have to run, oldest first, and the notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By their numbers.
    pub owed: BTreeMap<u64, Decided>,
    /// Rows that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// What was [noted](FileJournal::note), by its keys.
    pub notes: BTreeMap<String, Vec<u8>>,
}

/// Where the verdicts of one process outlive it: a journal in a directory of its own.
///
/// Groups that are decided at the same time share a write. After a write that failed nothing more is taken, because nobody
/// knows what the file holds; the next start reads it. Dropping the journal lets the next process in.
///
/// ```
/// use std::sync::Arc;
/// use cohort_job::{Engine, JobSpec, Step, Verdict, from_fn};
/// use cohort_journal::FileJournal;
///
/// # let folder = tempfile::tempdir()?;
/// # let state = folder.path().join("state");
/// let engine = Engine::builder().journal(Arc::new(FileJournal::open(&state)?)).build()?;
/// let mut group = engine.group("deploy 7");
/// group.add(JobSpec::new("web").kind("deploy"), from_fn(|_| Step::done()))?;
/// assert_eq!(group.launch().wait(), Some(Verdict::Commit));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileJournal {
    directory: PathBuf,
    writer: Writer,
    batch: Batch<Change>,
    state: Mutex<State>,
    /// After the writer: the lock outlives the open file.
    _lock: WriterLock,
}

#[derive(Debug)]
struct State {
    contents: Contents,
    next: u64,
}

#[derive(Debug)]
enum Change {
    /// A verdict, and the same as it lies in the file.
    Put(u64, Decided, Vec<u8>),
    Remove(u64),
    Note(Vec<Note>),
}

impl Contents {
    fn knows(&self, number: u64) -> bool {
        let is_it = |row: &Unreadable| row.number == number;
        self.owed.contains_key(&number) || self.unreadable.iter().any(is_it)
    }

    /// What was written is known.
    fn follow(&mut self, change: Change) {
        match change {
            Change::Put(number, decided, _) => drop(self.owed.insert(number, decided)),
            Change::Remove(number) => {
                self.owed.remove(&number);
                self.unreadable.retain(|row| row.number != number);
            }
            Change::Note(notes) => notes.into_iter().for_each(|(key, note)| match note {
                Some(note) => drop(self.notes.insert(key, note)),
                None => drop(self.notes.remove(&key)),
            }),
        }
    }
}

/// What is to be found under a key from now on; nothing, to forget it.
pub type Note = (String, Option<Vec<u8>>);

impl FileJournal {
    /// Opens a directory's journal; makes the directory (not its parents) and the journal if they are not there.
    ///
    /// # Errors
    /// Any [`OpenError`]; [`OpenError::Held`] at once if another process writes here. A dead one is no obstacle.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        let directory = directory.as_ref();
        make_directory(directory)?;
        let (lock, gate) = WriterLock::take(&LockFiles::of(directory, NAME))
            .map_err(|error| OpenError::lock(directory, error))?;
        let path = path_in(directory);
        let at_path = |fault| OpenError::fault(&path, fault);
        let contents = if path.try_exists().map_err(OpenError::io(&path, "stat"))? {
            // A copy is examined first: opening for writing would change a file that is not ours.
            let bytes = database::copy(&path).map_err(OpenError::file)?;
            database::examine(&bytes, read_rows).map_err(at_path)?
        } else {
            let new = directory.join(format!("{NAME}.redb.new"));
            database::create(&new, &path, mark).map_err(OpenError::file)?;
            Contents::default()
        };
        let writer = Writer::open(&path).map_err(at_path)?;
        drop(gate);
        let unreadable = contents.unreadable.iter().map(|row| row.number);
        let last = contents.owed.keys().copied().chain(unreadable).max();
        Ok(Self {
            directory: directory.to_owned(),
            writer,
            batch: Batch::new(),
            state: Mutex::new(State {
                contents,
                next: last.map_or(1, |last| last + 1),
            }),
            _lock: lock,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What is owed now.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.lock().contents.clone()
    }

    /// Forgets a verdict, or a row that cannot be read, by its number: its hooks will not run any more. `false` if there
    /// is none of that number.
    ///
    /// # Errors
    /// If that could not be written.
    pub fn forget(&self, number: u64) -> Result<bool, JournalError> {
        let known = self.lock().contents.knows(number);
        if known {
            self.submit(Change::Remove(number))?;
        }
        Ok(known)
    }

    /// Writes notes down, all in one transaction. They share writes with the verdicts that are reached meanwhile.
    ///
    /// ```
    /// use cohort_journal::FileJournal;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let journal = FileJournal::open(folder.path())?;
    /// journal.note(vec![("a".into(), Some(b"1".to_vec())), ("b".into(), Some(b"2".to_vec()))])?;
    /// journal.note(vec![("a".into(), None)])?;
    /// drop(journal);
    /// let notes = FileJournal::open(folder.path())?.contents().notes;
    /// assert_eq!(notes.into_iter().collect::<Vec<_>>(), [("b".to_owned(), b"2".to_vec())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If that could not be written; then nobody knows whether it was, until the next start.
    pub fn note(&self, notes: Vec<Note>) -> Result<(), JournalError> {
        if notes.is_empty() {
            return Ok(());
        }
        self.submit(Change::Note(notes))
    }

    fn submit(&self, change: Change) -> Result<(), JournalError> {
        let write = |changes: Vec<Change>| {
            let written = self.writer.change(|txn| apply(txn, &changes));
            written.map_err(|fault: Fault| {
                format!("{}: {fault}", path_in(&self.directory).display())
            })?;
            // Here, and not where each is submitted, so that what is known is what the last of them wrote.
            let contents = &mut self.lock().contents;
            changes.into_iter().for_each(|it| contents.follow(it));
            Ok(())
        };
        self.batch
            .submit(change, write)
            .map_err(|why| JournalError::new(&*why))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for FileJournal {
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[Entry],
    ) -> Result<(), JournalError> {
        let decided = Decided::now(group, *verdict, records);
        let row =
            serde_json::to_vec(&decided).map_err(|error| JournalError::new(error.to_string()))?;
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        drop(state);
        self.submit(Change::Put(number, decided, row))
    }

    fn owed(&self) -> Result<Vec<Owed>, JournalError> {
        let state = self.lock();
        Ok(state.contents.owed.values().map(Decided::owed).collect())
    }

    fn done(&self, owed: &Owed) -> Result<(), JournalError> {
        let is_it = |(number, decided): (&u64, &Decided)| decided.is(owed).then_some(*number);
        let mut state = self.lock();
        let Some(number) = state.contents.owed.iter().find_map(is_it) else {
            return Ok(());
        };
        // At once: another like it that is done meanwhile must not be taken for it.
        state.contents.owed.remove(&number);
        drop(state);
        self.submit(Change::Remove(number))
    }
}

/// Reads a directory's journal, as of one moment. Works beside a writer, right after one was killed, and without the
/// right to write; changes nothing.
///
/// # Errors
/// Any [`OpenError`] but [`OpenError::Held`].
pub fn read(directory: impl AsRef<Path>) -> Result<Contents, OpenError> {
    let directory = directory.as_ref();
    let path = path_in(directory);
    for _ in 0..READ_TRIES {
        if !directory.is_dir() {
            return Err(OpenError::NoDirectory(directory.to_owned()));
        }
        let found = lock::look(&LockFiles::of(directory, NAME))
            .map_err(|error| OpenError::lock(directory, error))?;
        if !path.try_exists().map_err(OpenError::io(&path, "stat"))? {
            return Err(OpenError::NoJournal(directory.to_owned()));
        }
        let read = match found {
            Found::Writer => database::read_beside(&path, read_rows),
            Found::Nobody(gate) => {
                let bytes = database::copy(&path).map_err(OpenError::file)?;
                drop(gate);
                database::examine(&bytes, read_rows)
            }
            Found::NoLocks => {
                let bytes = database::copy(&path).map_err(OpenError::file)?;
                database::examine(&bytes, read_rows)
            }
        };
        match read {
            Err(Fault::Unclean | Fault::Held) => {}
            other => return other.map_err(|fault| OpenError::fault(&path, fault)),
        }
    }
    Err(OpenError::Restless(path))
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join(format!("{NAME}.redb"))
}

fn make_directory(directory: &Path) -> Result<(), OpenError> {
    match fs::create_dir(directory) {
        Ok(()) => {
            let parent = directory
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let opened = fs::File::open(parent).map_err(OpenError::io(parent, "open"))?;
            opened.sync_all().map_err(OpenError::io(parent, "sync"))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(OpenError::NoDirectory(directory.to_owned()))
        }
        Err(error) => Err(OpenError::io(directory, "make directory")(error)),
    }
}

/// Writes into a new database what it is.
fn mark(txn: &WriteTransaction) -> Result<(), Fault> {
    txn.open_table(OWED).map_err(redb::Error::from)?;
    let mut meta = txn.open_table(META).map_err(redb::Error::from)?;
    meta.insert(VERSION_KEY, u64::from(JOURNAL_VERSION))
        .map_err(redb::Error::from)?;
    Ok(())
}

fn apply(txn: &WriteTransaction, changes: &[Change]) -> Result<(), Fault> {
    let mut table = txn.open_table(OWED).map_err(redb::Error::from)?;
    for change in changes {
        match change {
            Change::Put(number, _, row) => {
                table
                    .insert(number, row.as_slice())
                    .map_err(redb::Error::from)?;
            }
            Change::Remove(number) => {
                table.remove(number).map_err(redb::Error::from)?;
            }
            Change::Note(changed) => {
                let mut notes = txn.open_table(NOTES).map_err(redb::Error::from)?;
                for (key, note) in changed {
                    let done = match note {
                        Some(note) => notes.insert(&**key, &**note),
                        None => notes.remove(&**key),
                    };
                    done.map_err(redb::Error::from)?;
                }
            }
        }
    }
    Ok(())
}

fn read_rows(txn: &ReadTransaction) -> Result<Contents, Fault<Infallible>> {
    check_version(txn)?;
    let mut contents = Contents::default();
    let table = txn.open_table(OWED).map_err(redb::Error::from)?;
    for row in table.iter().map_err(redb::Error::from)? {
        let (number, value) = row.map_err(redb::Error::from)?;
        let number = number.value();
        match serde_json::from_slice::<Decided>(value.value()) {
            Ok(decided) => drop(contents.owed.insert(number, decided)),
            Err(error) => contents.unreadable.push(Unreadable {
                number,
                why: error.to_string(),
            }),
        }
    }
    contents.notes = read_notes(txn)?;
    Ok(contents)
}

fn read_notes(txn: &ReadTransaction) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let table = match txn.open_table(NOTES) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(error) => return Err(redb::Error::from(error).into()),
    };
    let mut notes = BTreeMap::new();
    for row in table.iter().map_err(redb::Error::from)? {
        let (key, note) = row.map_err(redb::Error::from)?;
        notes.insert(key.value().to_owned(), note.value().to_vec());
    }
    Ok(notes)
}

/// Looks at the version alone: rows of a newer one need not be readable.
fn check_version(txn: &ReadTransaction) -> Result<(), Fault> {
    let foreign = || Fault::Foreign("it is another program's redb database".to_owned());
    let mut tables = txn.list_tables().map_err(redb::Error::from)?;
    if !tables.any(|table| table.name() == META.name()) {
        return Err(foreign());
    }
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(TableError::Storage(error)) => return Err(redb::Error::from(error).into()),
        Err(_) => return Err(foreign()),
    };
    let version = table.get(VERSION_KEY).map_err(redb::Error::from)?;
    match version.map(|version| version.value()) {
        Some(found) if found == u64::from(JOURNAL_VERSION) => Ok(()),
        Some(found) => Err(Fault::Newer(u32::try_from(found).unwrap_or(u32::MAX))),
        None => Err(foreign()),
    }
}
