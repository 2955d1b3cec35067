//! A machine whose files remember every write and sync, so that a loss of power, or the end of the process, can
//! be replayed at every moment.
//!
//! Files share one log, so what one of them may hold when another does not is replayed, too. What a sync of a
//! file covered is there; of the rest any subset, each write in any of its sectors.

mod chance;
mod recorded;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cohort_bitmap::store::File;

pub use chance::Chance;
pub use recorded::{Recorded, Remnant};

/// Bytes that are written together or not at all.
pub const SECTOR: usize = 512;

/// What happened to a machine's files, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write returned.
    Write {
        /// The number of the file.
        file: usize,
        /// Where.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// A file was cut or grown.
    SetLen {
        /// The number of the file.
        file: usize,
        /// To this length.
        length: u64,
    },
    /// A sync returned: what this file was asked for before the event `begun` is durable.
    Synced {
        /// The number of the file.
        file: usize,
        /// How many events there were when it began.
        begun: usize,
    },
    /// Whatever a test wants to remember, such as that a request was acknowledged.
    Note(u64),
}

/// What becomes of one write that no sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reached the disk.
    Done,
    /// It did not.
    Lost,
    /// Bit n, repeating, says whether its n-th sector did.
    Torn(u64),
}

/// Files that share a log. Clones are the same machine.
#[derive(Clone, Default)]
pub struct Machine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<Vec<u8>>,
    /// What the files held, durably, when the log began.
    start: Vec<Vec<u8>>,
    log: Vec<Event>,
}

/// A file of a [`Machine`].
#[derive(Clone, Debug)]
pub struct MachineFile {
    machine: Machine,
    number: usize,
}

/// What a file holds after all is over: to be read only.
#[derive(Clone)]
pub struct Remains(pub Vec<u8>);

impl Machine {
    /// A machine with files that hold these bytes, durably.
    #[must_use]
    pub fn holding(files: Vec<Vec<u8>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            start: files.clone(),
            files,
            log: Vec::new(),
        })))
    }

    /// Its file of that number.
    #[must_use]
    pub fn file(&self, number: usize) -> Arc<MachineFile> {
        Arc::new(MachineFile {
            machine: self.clone(),
            number,
        })
    }

    /// Remembers something among the events.
    pub fn note(&self, note: u64) {
        self.with(|state| state.log.push(Event::Note(note)));
    }

    /// Everything so far is durable, and forgotten as events.
    pub fn begin(&self) {
        self.with(|state| {
            state.start = state.files.clone();
            state.log.clear();
        });
    }

    /// What happened so far.
    #[must_use]
    pub fn log(&self) -> Vec<Event> {
        self.with(|state| state.log.clone())
    }

    /// What the files held when the log began.
    #[must_use]
    pub fn start(&self) -> Vec<Vec<u8>> {
        self.with(|state| state.start.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the files hold after the events `log`, of which those that no sync covers have the fate that `fate` gives
/// them.
pub fn after(
    start: &[Vec<u8>],
    log: &[Event],
    mut fate: impl FnMut(usize, &Event) -> Fate,
) -> Vec<Vec<u8>> {
    let mut files = start.to_vec();
    let durable = durable(log, files.len());
    for (at, event) in log.iter().enumerate() {
        match event {
            Event::Write { file, offset, data } => {
                let fate = if at < durable[*file] {
                    Fate::Done
                } else {
                    fate(at, event)
                };
                write(&mut files[*file], *offset as usize, data, fate);
            }
            Event::SetLen { file, length } => {
                if at < durable[*file] || fate(at, event) != Fate::Lost {
                    files[*file].resize(*length as usize, 0);
                }
            }
            Event::Synced { .. } | Event::Note(_) => {}
        }
    }
    files
}

/// Before which event everything of each file is durable.
#[must_use]
pub fn durable(log: &[Event], files: usize) -> Vec<usize> {
    let mut durable = vec![0; files];
    for event in log {
        if let Event::Synced { file, begun } = event {
            durable[*file] = durable[*file].max(*begun);
        }
    }
    durable
}

fn write(file: &mut Vec<u8>, offset: usize, data: &[u8], fate: Fate) {
    let mask = match fate {
        Fate::Lost => return,
        Fate::Done => u64::MAX,
        Fate::Torn(mask) => mask,
    };
    let mut at = 0;
    let mut number = 0;
    while at < data.len() {
        // Up to the end of the sector of the disk, wherever the write began.
        let length = (SECTOR - (offset + at) % SECTOR).min(data.len() - at);
        if mask >> (number % 64) & 1 == 1 {
            let end = offset + at + length;
            if file.len() < end {
                file.resize(end, 0);
            }
            file[offset + at..end].copy_from_slice(&data[at..at + length]);
        }
        at += length;
        number += 1;
    }
}

impl File for MachineFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.machine.with(|state| {
            let from = offset as usize;
            let bytes = state.files[self.number].get(from..from + buf.len());
            buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.machine.with(|state| {
            state.log.push(Event::Write {
                file: self.number,
                offset,
                data: buf.into(),
            });
            write(
                &mut state.files[self.number],
                offset as usize,
                buf,
                Fate::Done,
            );
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        // Two steps, so that writes of other threads may come between.
        let begun = self.machine.with(|state| state.log.len());
        self.machine.with(|state| {
            state.log.push(Event::Synced {
                file: self.number,
                begun,
            });
        });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .machine
            .with(|state| state.files[self.number].len() as u64))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.machine.with(|state| {
            state.log.push(Event::SetLen {
                file: self.number,
                length,
            });
            state.files[self.number].resize(length as usize, 0);
            Ok(())
        })
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|state| {
            f.debug_struct("Machine")
                .field("files", &state.files.len())
                .field("events", &state.log.len())
                .finish()
        })
    }
}

impl File for Remains {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = offset as usize;
        let bytes = self.0.get(from..from + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

impl fmt::Debug for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
