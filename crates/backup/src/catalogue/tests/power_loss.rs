//! Power loss in the middle of a verdict: the verdict and its points are all there, or none is.
//!
//! The database runs over a storage that logs. After a power cut the disk holds every write that was
//! synced, and of the later ones any subset, each torn between any two sectors of 512 bytes.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::samples::{Deed, carry_out, small};
use crate::catalogue::Contents;
use crate::catalogue::store::{Store, examine};

const SECTOR: usize = 512;
/// How many subsets are tried at each operation.
const SUBSETS: u32 = 12;

#[derive(Clone, Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    SetLength(usize),
    Sync,
}

#[derive(Clone, Debug, Default)]
struct Logged(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    now: Vec<u8>,
    operations: Vec<Operation>,
}

impl Logged {
    /// Runs `action` and returns what the storage held before it and what was done to it.
    fn during(&self, action: impl FnOnce()) -> (Vec<u8>, Vec<Operation>) {
        let before = {
            let mut log = self.0.lock().unwrap();
            log.operations.clear();
            log.now.clone()
        };
        action();
        (before, self.0.lock().unwrap().operations.clone())
    }

    fn log(&self, operation: Operation) {
        let mut log = self.0.lock().unwrap();
        apply(&mut log.now, &operation);
        log.operations.push(operation);
    }
}

impl StorageBackend for Logged {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let log = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let source = log.now.get(offset..offset + out.len());
        out.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.log(Operation::SetLength(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.log(Operation::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.log(Operation::Write(
            usize::try_from(offset).unwrap(),
            data.to_vec(),
        ));
        Ok(())
    }
}

fn apply(disk: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(offset, data) => {
            // A write behind a lost change of length makes the file as long as it must be.
            disk.resize(disk.len().max(offset + data.len()), 0);
            disk[*offset..offset + data.len()].copy_from_slice(data);
        }
        Operation::SetLength(length) => disk.resize(*length, 0),
        Operation::Sync => {}
    }
}

/// A small generator with a printed seed; `rand` would be a dependency for ten lines.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Some of the operations, the writes among them torn.
    fn survivors(&mut self, unsynced: &[Operation]) -> Vec<Operation> {
        let mut kept = Vec::new();
        for operation in unsynced {
            match operation {
                Operation::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if self.roll() & 1 == 0 {
                            kept.push(Operation::Write(offset + index * SECTOR, sector.to_vec()));
                        }
                    }
                }
                Operation::SetLength(_) if self.roll() & 1 == 0 => kept.push(operation.clone()),
                Operation::SetLength(_) | Operation::Sync => {}
            }
        }
        kept
    }
}

/// Every state that a power cut during `operations` can leave, as far as the dice find them; each
/// with whether all operations were done and synced.
fn cuts(before: &[u8], operations: &[Operation], mut check: impl FnMut(&[u8], String)) {
    for done in 0..=operations.len() {
        let synced = operations[..done]
            .iter()
            .rposition(|op| matches!(op, Operation::Sync));
        let synced = synced.map_or(0, |at| at + 1);
        let mut durable = before.to_vec();
        operations[..synced]
            .iter()
            .for_each(|op| apply(&mut durable, op));
        for subset in 0..SUBSETS {
            let seed = ((done as u64 + 1) << 32) | (u64::from(subset) + 1);
            let mut disk = durable.clone();
            let kept = match subset {
                0 => Vec::new(),
                1 => operations[synced..done].to_vec(),
                _ => Dice(seed).survivors(&operations[synced..done]),
            };
            kept.iter().for_each(|op| apply(&mut disk, op));
            check(&disk, format!("after {done} operations, seed {seed:#x}"));
        }
    }
}

/// A commit of two points, one of which continues a partial.
fn committed(before: &Contents) -> Contents {
    let mut after = before.clone();
    carry_out(&mut after, &[(1, Deed::Commit), (2, Deed::Commit)], false);
    after
}

#[test]
fn power_loss_in_a_verdict_leaves_all_of_it_or_nothing() {
    let before = small();
    let after = committed(&before);
    let storage = Logged::default();
    let store = Store::create(storage.clone(), &before).unwrap();
    let (disk, operations) = storage.during(|| store.write(&before, &after).unwrap());

    let (mut old, mut new) = (0, 0);
    cuts(&disk, &operations, |disk, when| match examine(disk) {
        Ok(found) if found == before => old += 1,
        Ok(found) if found == after => new += 1,
        other => panic!("{when}: {other:?}"),
    });
    assert!(
        old > 0 && new > 0,
        "{old} before, {new} after: the cuts do not reach both sides"
    );
}

#[test]
fn returned_verdicts_survive_power_loss() {
    let before = small();
    let after = committed(&before);
    let storage = Logged::default();
    let store = Store::create(storage.clone(), &before).unwrap();
    let (disk, mut operations) = storage.during(|| store.write(&before, &after).unwrap());
    // What was not synced when the write returned may be lost whole.
    let synced = operations
        .iter()
        .rposition(|op| matches!(op, Operation::Sync))
        .unwrap();
    operations.truncate(synced + 1);
    let mut durable = disk;
    operations.iter().for_each(|op| apply(&mut durable, op));
    assert_eq!(examine(&durable).unwrap(), after);
}

#[test]
fn power_loss_while_a_writer_opens_after_a_kill_loses_nothing() {
    let before = small();
    let storage = Logged::default();
    let store = Store::create(storage.clone(), &before).unwrap();
    // Killed: what the file holds while the database is open, without the bytes of closing it.
    let killed = storage.0.lock().unwrap().now.clone();
    drop(store);
    let storage = Logged::default();
    storage.0.lock().unwrap().now = killed;
    let (disk, operations) = storage.during(|| {
        let store = Store::open_backend(storage.clone()).unwrap();
        assert_eq!(store.read().unwrap(), before);
        store.close().unwrap();
    });
    cuts(&disk, &operations, |disk, when| match examine(disk) {
        Ok(found) => assert_eq!(found, before, "{when}"),
        Err(fault) => panic!("{when}: {fault}"),
    });
}
