//! Every interleaving of first writers that share a sync, and of a writer with a checkpoint that uncovers.
//!
//! The claim each time: when `record` returns, a kill at any later moment leaves the write in the log or in the
//! checkpoint that made that part of the log worthless.

use std::io;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

use loom::thread;

use super::*;
use crate::store::layout::{Found, SECTOR};
use crate::store::log;

const GRANULE: u64 = 512;
/// Two words of bits.
const SIZE: u64 = 128 * GRANULE;
const ID: StoreId = [1; 16];

/// Remembers what was written where.
#[derive(Debug, Default)]
struct Written(Plain<Vec<(u64, Vec<u8>)>>);

impl File for Written {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.lock().unwrap().push((offset, buf.to_vec()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Whether the log of `epoch` or a later one announces a granule.
    fn announces(&self, granule: u64, epoch: u64) -> bool {
        let start = granule * GRANULE;
        let within = |entry: &log::Entry| {
            (entry.start..entry.start + entry.marked + entry.ahead).contains(&start)
        };
        self.0.lock().unwrap().iter().any(|(at, bytes)| {
            bytes.chunks(SECTOR).enumerate().any(|(n, sector)| {
                let half = u64::from(*at >= LOGS[1]);
                let number = (at - LOGS[half as usize]) / SECTOR as u64 + n as u64;
                match log::decode(sector, half, number, &ID) {
                    Found::Whole(found) => found.epoch >= epoch && found.entries.iter().any(within),
                    Found::Nothing | Found::Damaged => false,
                }
            })
        })
    }

    fn batches(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A store whose file need not be read, and a set that records.
fn recording() -> (std::sync::Arc<Written>, Recording) {
    let file = std::sync::Arc::new(Written::default());
    let header = Header {
        generation: 2,
        id: ID,
        mode: Mode::PowerLoss,
        clean: false,
        disk: DiskState {
            identity: [0; 24],
            session: [0; 16],
            size: SIZE,
            stamp: None,
        },
        pid: 1,
        written_unix_ms: 0,
        lost: None,
    };
    let store = Store::with(file.clone(), header, Table::empty(), Vec::new(), 1, 1);
    let base = DirtyBitmap::new(SIZE, Granularity::new(GRANULE).unwrap()).unwrap();
    let recorder = Recorder::like(&base);
    let prepared = Prepared {
        shared: Arc::clone(&store.shared),
        set: SetId(1),
        bound: Arc::new(Bound {
            base,
            track: OnceLock::new(),
        }),
    };
    (file, prepared.begin(&recorder))
}

fn walk(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    static WALKED: Counter = Counter::new(0);
    let before = WALKED.load(Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        WALKED.fetch_add(1, Relaxed);
        model();
    });
    println!("{name}: {} interleavings", WALKED.load(Relaxed) - before);
}

/// First writers, one thread each; each finds its granule announced when it may go on.
fn first_writers(granules: &[u64]) {
    let (file, since) = recording();
    let writers: Vec<_> = granules
        .iter()
        .map(|&granule| {
            let (file, since) = (file.clone(), since.clone());
            thread::spawn(move || {
                since.record(granule * GRANULE, 1);
                assert!(file.announces(granule, 1), "granule {granule}");
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    assert!(file.batches() <= granules.len());
}

#[test]
fn loom_two_first_writers_share() {
    walk("two first writers", 4, || first_writers(&[3, 70]));
}

#[test]
fn loom_two_first_writers_of_one_granule_write_once() {
    walk("two first writers of one granule", 4, || {
        let (file, since) = recording();
        let other = since.clone();
        let writer = thread::spawn(move || other.record(3 * GRANULE, 1));
        since.record(3 * GRANULE, 1);
        assert!(file.announces(3, 1));
        writer.join().unwrap();
        assert_eq!(file.batches(), 1);
    });
}

#[test]
fn loom_three_first_writers_share() {
    walk("three first writers", 1, || first_writers(&[3, 3, 70]));
}

/// Writers to a stretch that was prepared for, while a checkpoint takes the preparation back.
fn writers_and_cooling(granules: &[u64]) {
    let (file, since) = recording();
    since.prepare_for(2..5);
    let writers: Vec<_> = granules
        .iter()
        .map(|&granule| {
            let since = since.clone();
            thread::spawn(move || since.record(granule * GRANULE, 1))
        })
        .collect();
    since.shared.intents.switch(true).unwrap();
    let checkpoint = since.recorder().snapshot();
    writers.into_iter().for_each(|w| w.join().unwrap());
    let epoch = since.shared.intents.epoch();
    for granule in granules {
        assert!(
            checkpoint.get(granule * GRANULE) || file.announces(*granule, epoch),
            "granule {granule} is in neither"
        );
    }
}

#[test]
fn loom_cooling_misses_no_writer() {
    walk("a writer and a cooling checkpoint", 5, || {
        writers_and_cooling(&[3]);
    });
}

#[test]
fn loom_cooling_misses_no_writer_of_two() {
    walk("two writers and a cooling checkpoint", 2, || {
        writers_and_cooling(&[3, 4]);
    });
}
