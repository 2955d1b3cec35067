//! Any changes to a tracking store that a kill left.
//!
//! The input is changes: place in units of 64 bytes (2 bytes), flags (1), length (1), bytes. With flag 1 the sector is
//! sealed again, which no fuzzer guesses.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use cohort_bitmap::store::{DiskState, File, Label, Mode, Store, inspect};

const ID: [u8; 16] = [3; 16];
const DISK: DiskState = DiskState {
    identity: [1; 24],
    session: [2; 16],
    size: 64 << 20,
    stamp: None,
};

/// Looking is an answer; opening is a refusal, or says what looking said, and so does looking again.
pub fn check(changes: &[u8]) {
    static KILLED: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = KILLED.get_or_init(killed).clone();
    let mut rest = changes;
    while let [a, b, flags, length, after @ ..] = rest {
        let (piece, after) = after.split_at((*length as usize).min(after.len()));
        let at = u16::from_le_bytes([*a, *b]) as usize * 64;
        let end = bytes.len().min(at + piece.len());
        if at < end {
            bytes[at..end].copy_from_slice(&piece[..end - at]);
        }
        if flags & 1 == 1 {
            seal(&mut bytes, at / 512 * 512);
        }
        rest = after;
    }
    let file = Arc::new(Memory(Mutex::new(bytes)));
    let Ok(looked) = inspect(&*file, Some(&DISK)) else {
        return;
    };
    let Ok((store, opened)) = Store::open(file.clone(), DISK, Mode::PowerLoss) else {
        return;
    };
    assert_eq!(opened.sets, looked.sets);
    drop(store);
    let again = inspect(&*file, Some(&DISK)).expect("it was just opened");
    for set in &opened.sets {
        let later = again.set(set.set).expect("a set that was there stays");
        assert_eq!(later.dirty, set.dirty);
    }
}

fn killed() -> Vec<u8> {
    let file = Arc::new(Memory::default());
    let store = Store::create(file.clone(), ID, DISK, Mode::PowerLoss).expect("a store");
    let since = store
        .begin(Label::default(), Default::default())
        .expect("a set");
    since.record(0, 1);
    store.checkpoint().expect("a checkpoint");
    since.record(40 << 20, 4096);
    drop(store);
    file.0.lock().expect("nobody panicked").clone()
}

fn seal(bytes: &mut [u8], at: usize) {
    let Some(sector) = bytes.get_mut(at..at + 512) else {
        return;
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&ID), &(at as u64).to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &sector[..508]);
    sector[508..].copy_from_slice(&sum.to_le_bytes());
}

#[derive(Debug, Default)]
struct Memory(Mutex<Vec<u8>>);

impl File for Memory {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (bytes, at) = (self.0.lock().expect("nobody panicked"), offset as usize);
        let found = bytes.get(at..at + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (mut bytes, at) = (self.0.lock().expect("nobody panicked"), offset as usize);
        let end = bytes.len().max(at + buf.len());
        bytes.resize(end, 0);
        bytes[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("nobody panicked").len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0
            .lock()
            .expect("nobody panicked")
            .resize(length as usize, 0);
        Ok(())
    }
}
