//! A file that fails at any operation: writers go on, and nobody is told that a write is there which is not.

use std::io;
use std::sync::{Condvar, Mutex};

use super::*;
use crate::store::File;
use crate::store::layout::{BODIES, LOGS};

/// What a process did with its store while the file failed.
struct Story {
    /// The set, once it exists.
    set: Option<SetId>,
    /// Granules whose writes went out.
    written: Vec<u64>,
    lost: Option<Lost>,
}

fn story(file: &Arc<Memory>) -> Story {
    let mut story = Story {
        set: None,
        written: Vec::new(),
        lost: None,
    };
    let Ok(store) = Store::create(file.clone(), [7; 16], disk(), Mode::PowerLoss) else {
        return story;
    };
    let Ok(since) = store.begin(label("since"), Granularity::DEFAULT) else {
        return story;
    };
    story.set = Some(since.set());
    for (at, granule) in [5, 900, 6, 7, 901, 4000, 30, 31].into_iter().enumerate() {
        since.record(granule * GRANULE, 1);
        story.written.push(granule);
        if at == 3 {
            let checkpointed = store.checkpoint();
            assert_eq!(checkpointed.is_err(), store.lost().is_some());
        }
    }
    let closed = store.close(disk());
    assert_eq!(closed.is_err(), store.lost().is_some());
    story.lost = store.lost();
    story
}

#[test]
fn a_failure_of_any_operation_loses_the_set_from_then_on_and_stops_nobody() {
    let whole = Arc::new(Memory::default());
    story(&whole);
    let mut lost = 0;
    for after in 0..whole.operations() {
        let file = Arc::new(Memory::default());
        file.fail(after, 1);
        let story = story(&file);
        let Some(set) = story.set else { continue };
        lost += u64::from(story.lost.is_some());
        assert_eq!(story.written.len(), 8, "operation {after}");
        let found = inspect(&*file, Some(&disk())).unwrap();
        let report = found.set(set).unwrap();
        assert_eq!(report.lost, story.lost, "operation {after}");
        for granule in story.written {
            assert!(report.dirty.get(granule * GRANULE), "operation {after}");
        }
    }
    assert!(lost > 15, "{lost}");
}

/// A file that never recovers cannot be told so; a process that reads it finds what was safe before.
#[test]
fn a_file_that_never_recovers_is_lost_to_its_process() {
    let whole = Arc::new(Memory::default());
    story(&whole);
    for after in 0..whole.operations() {
        let file = Arc::new(Memory::default());
        file.fail(after, u64::MAX);
        let story = story(&file);
        if story.set.is_some() {
            assert!(story.lost.is_some(), "operation {after}");
        }
    }
}

/// A file as the system keeps it: a sync that fails forgets what was to be synced, and tells nobody else. One sync waits
/// until it is let go, and then fails.
#[derive(Debug, Default)]
struct Cached {
    state: Mutex<Cache>,
    changed: Condvar,
    /// One sync at a time, as the system's find each other's pages.
    syncing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Cache {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<(usize, usize)>,
    /// Syncs to go until one waits.
    hold: Option<u32>,
    waits: bool,
    let_go: bool,
    /// The next write to the log fails.
    log_fails: bool,
}

impl Cached {
    fn change<T>(&self, change: impl FnOnce(&mut Cache) -> T) -> T {
        let changed = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        changed
    }
}

impl File for Cached {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        self.change(|cache| buf.copy_from_slice(&cache.now[at..at + buf.len()]));
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (from, to) = (offset as usize, offset as usize + buf.len());
        self.change(|cache| {
            let to_log = (LOGS[0]..BODIES).contains(&offset);
            if to_log && std::mem::take(&mut cache.log_fails) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let length = cache.now.len().max(to);
            cache.now.resize(length, 0);
            cache.now[from..to].copy_from_slice(buf);
            cache.dirty.push((from, to));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let _turn = self.syncing.lock().unwrap();
        let mut cache = self.state.lock().unwrap();
        cache.hold = cache.hold.and_then(|hold| hold.checked_sub(1));
        if cache.hold == Some(0) {
            cache.waits = true;
            self.changed.notify_all();
            let mut cache = self
                .changed
                .wait_while(cache, |cache| !cache.let_go)
                .unwrap();
            (cache.hold, cache.dirty) = (None, Vec::new());
            return Err(io::Error::other("the disk is on fire"));
        }
        let Cache {
            now,
            durable,
            dirty,
            ..
        } = &mut *cache;
        durable.resize(now.len(), 0);
        for (from, to) in dirty.drain(..) {
            durable[from..to].copy_from_slice(&now[from..to]);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.change(|cache| cache.now.len()) as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(|cache| cache.now.resize(length as usize, 0));
        Ok(())
    }
}

/// That a store is lost is not itself lost with the sync of somebody else.
#[test]
fn a_loss_is_durable_although_another_sync_fails_beside_it() {
    let file = Arc::new(Cached::default());
    let store = Store::create(file.clone(), [7; 16], disk(), Mode::PowerLoss).unwrap();
    let since = begun(&store);
    since.record(5 * GRANULE, 1);
    // The first sync of a checkpoint is that of the log, the next that of the sets.
    file.change(|cache| cache.hold = Some(2));
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| store.checkpoint());
        let cache = file.state.lock().unwrap();
        drop(file.changed.wait_while(cache, |cache| !cache.waits));
        let headers = file.change(|cache| {
            cache.log_fails = true;
            cache.now[..BODIES as usize].to_vec()
        });
        let writer = scope.spawn(|| since.record(900 * GRANULE, 1));
        // Long enough to say that the store is lost, or to wait for a turn to say so.
        (0..100_000).any(|_| {
            std::thread::yield_now();
            file.change(|cache| cache.now[..8192] != headers[..8192])
        });
        file.change(|cache| cache.let_go = true);
        writer.join().unwrap();
        checkpoint.join().unwrap().unwrap_err();
    });
    assert!(store.lost().is_some());
    // The power fails.
    let durable = Memory::holding(file.change(|cache| cache.durable.clone()));
    let found = inspect(&durable, Some(&disk())).unwrap();
    let report = found.set(since.set()).unwrap();
    assert!(report.dirty.get(900 * GRANULE), "{found:?}");
    assert_eq!(report.lost, store.lost());
}
