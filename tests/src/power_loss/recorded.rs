//! A backup directory of real files whose writes and syncs go into one log, with those of the disk and of its tracking
//! store; and the directory as a loss of power after any of them leaves it.
//!
//! Files that are reached through the log are replayed to the sector. The others (digests, locks) are there whole or
//! not, as they were seen between two events: digests are made durable before anything names them, by one call that
//! nothing else comes between.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cohort_bitmap::store::File;

use super::{Event, Fate, after};

/// A directory and files beside it that share a log. Clones are the same.
#[derive(Clone, Debug)]
pub struct Recorded {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of every file in the log: its name, and what it held when it came in.
    names: Vec<String>,
    start: Vec<Vec<u8>>,
    log: Vec<Event>,
    /// When what is in the directory came, and went, and what it held last if it is not in the log.
    seen: Vec<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

/// A file that tells the log.
#[derive(Debug)]
struct RecordedFile {
    inner: Arc<dyn File>,
    number: usize,
    recorded: Recorded,
}

/// What is left of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// Files of the directory.
    pub directory: BTreeMap<String, Vec<u8>>,
    /// Files beside it that were in the log.
    pub beside: BTreeMap<String, Vec<u8>>,
}

impl Recorded {
    /// Nothing is in the log yet.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let recorded = Self {
            directory: directory.to_owned(),
            state: Arc::default(),
        };
        recorded.look(&mut recorded.lock())?;
        Ok(recorded)
    }

    /// Has a file tell the log; what it holds now is durable.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&self, name: &str, inner: Arc<dyn File>) -> io::Result<Arc<dyn File>> {
        let mut bytes = vec![0; inner.len()? as usize];
        inner.read_at(&mut bytes, 0)?;
        let mut state = self.lock();
        let known = state.names.iter().position(|other| other == name);
        let number = known.unwrap_or_else(|| {
            state.names.push(name.to_owned());
            state.start.push(bytes);
            state.names.len() - 1
        });
        drop(state);
        let recorded = self.clone();
        Ok(Arc::new(RecordedFile {
            inner,
            number,
            recorded,
        }))
    }

    /// Remembers something among the events.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn note(&self, note: u64) -> io::Result<()> {
        self.push(Event::Note(note))
    }

    /// What happened so far.
    #[must_use]
    pub fn log(&self) -> Vec<Event> {
        self.lock().log.clone()
    }

    /// The number of a file in the log.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<usize> {
        self.lock().names.iter().position(|other| other == name)
    }

    /// The name of a file in the log.
    #[must_use]
    pub fn name_of(&self, number: usize) -> String {
        self.lock().names[number].clone()
    }

    /// What a loss of power leaves after the first `count` events: of what no sync covers, what `fate` says.
    #[must_use]
    pub fn after(&self, count: usize, fate: impl FnMut(usize, &Event) -> Fate) -> Remnant {
        let state = self.lock();
        let files = after(&state.start, &state.log[..count], fate);
        let mut remnant = Remnant {
            directory: BTreeMap::new(),
            beside: BTreeMap::new(),
        };
        for seen in &state.seen {
            if seen.from <= count && count < seen.to {
                let number = state.names.iter().position(|name| *name == seen.name);
                let bytes = number.map_or(&seen.bytes, |number| &files[number]);
                remnant.directory.insert(seen.name.clone(), bytes.clone());
            }
        }
        for (name, bytes) in state.names.iter().zip(files) {
            if !state.seen.iter().any(|seen| seen.name == *name) {
                remnant.beside.insert(name.clone(), bytes);
            }
        }
        remnant
    }

    fn push(&self, event: Event) -> io::Result<()> {
        let mut state = self.lock();
        self.look(&mut state)?;
        state.log.push(event);
        Ok(())
    }

    /// Sees what came and went since the last event.
    fn look(&self, state: &mut State) -> io::Result<()> {
        let now = state.log.len();
        let mut there = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            there.extend(entry.file_name().to_str().map(str::to_owned));
        }
        for seen in &mut state.seen {
            if seen.to == usize::MAX && !there.contains(&seen.name) {
                seen.to = now;
            }
        }
        for name in there {
            let in_log = state.names.contains(&name);
            let old = state
                .seen
                .iter_mut()
                .find(|seen| seen.name == name && seen.to == usize::MAX);
            let bytes = match in_log {
                true => Vec::new(),
                // It may go at any time.
                false => fs::read(self.directory.join(&name)).unwrap_or_default(),
            };
            match old {
                Some(seen) => seen.bytes = bytes,
                None => state.seen.push(Seen {
                    name,
                    from: now,
                    to: usize::MAX,
                    bytes,
                }),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remnant {
    /// Makes another directory hold the files of the directory, and nothing else.
    ///
    /// # Errors
    /// The system's.
    pub fn lay_out(&self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name
                .to_str()
                .is_some_and(|name| self.directory.contains_key(name))
            {
                fs::remove_file(entry.path())?;
            }
        }
        for (name, bytes) in &self.directory {
            // Over what is there: that costs less than room made anew.
            let mut options = fs::File::options();
            let options = options.write(true).create(true).truncate(false);
            let file = options.open(directory.join(name))?;
            file.write_all_at(bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
        }
        Ok(())
    }
}

impl File for RecordedFile {
    cohort_block::forward_file!(inner: read_at, len);

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        // Noted last: a sync that begins before this returned does not cover it.
        self.inner.write_at(buf, offset)?;
        self.recorded.push(Event::Write {
            file: self.number,
            offset,
            data: buf.into(),
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        // Two steps, so that writes of other threads may come between.
        let begun = self.recorded.lock().log.len();
        self.recorded.push(Event::Synced {
            file: self.number,
            begun,
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)?;
        self.recorded.push(Event::SetLen {
            file: self.number,
            length,
        })
    }
}
