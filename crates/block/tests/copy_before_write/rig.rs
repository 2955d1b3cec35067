//! A backup of a disk full of old data, whose copier is the test itself.

use std::error::Error;
use std::ops::Range;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use cohort_block::{
    BeforeWrite, Claim, Device, Faulty, Gated, Ledger, MemoryDevice, Next, OnMiss, Patience,
    Savers, Sink,
};

use crate::{CLUSTER, CLUSTERS, LONG, NEW, OLD, SAVERS, SIZE, UNTOUCHED};

/// A backup of a disk full of old data. The copier is the test itself.
pub(crate) struct Rig {
    pub(crate) disk: Arc<Gated>,
    pub(crate) source: Arc<Faulty>,
    pub(crate) target: Arc<Faulty>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) filter: Arc<BeforeWrite>,
    pub(crate) recorder: Recorder,
    pub(crate) saves: Saves,
}

impl Rig {
    pub(crate) fn new(manifest: Range<u64>) -> Self {
        Self::with(manifest, LONG, OnMiss::BreakBackup)
    }

    pub(crate) fn with(manifest: Range<u64>, bound: Duration, on_miss: OnMiss) -> Self {
        let patience = Patience { bound, on_miss };
        Self::over(manifest, patience, |target, saves| {
            Arc::new(ToDevice { target, saves })
        })
    }

    pub(crate) fn over(
        manifest: Range<u64>,
        patience: Patience,
        sink: impl FnOnce(Arc<Faulty>, Saves) -> Arc<dyn Sink>,
    ) -> Self {
        let source = filled("source", OLD);
        let target = filled("target", UNTOUCHED);
        let saves = Saves::default();
        let disk = Arc::new(Gated::new(Arc::clone(&source) as Arc<dyn Device>));
        let savers = Savers::new(sink(Arc::clone(&target), Arc::clone(&saves)), SAVERS);
        let mut set = DirtyBitmap::new(SIZE, Granularity::new(CLUSTER).unwrap()).unwrap();
        let end = SIZE.min(manifest.end * CLUSTER);
        set.set(manifest.start * CLUSTER, end - manifest.start * CLUSTER)
            .unwrap();
        let ledger = Arc::new(Ledger::new(set));
        let recorder = Recorder::new(SIZE, Granularity::DEFAULT).unwrap();
        let mut closed = disk.close("test", Instant::now() + LONG).unwrap();
        let behind = Arc::clone(disk.device());
        let filter = BeforeWrite::new(Arc::clone(&ledger), behind, savers, patience);
        let filter = Arc::new(filter);
        closed.install_recorder(recorder.clone());
        closed.install_filter(Arc::clone(&filter));
        drop(closed);
        Self {
            disk,
            source,
            target,
            ledger,
            filter,
            recorder,
            saves,
        }
    }

    pub(crate) fn write(&self, bytes: Range<u64>) {
        self.try_write(bytes).unwrap();
    }

    pub(crate) fn try_write(&self, bytes: Range<u64>) -> Result<(), cohort_block::DeviceError> {
        let data = vec![NEW; (bytes.end - bytes.start) as usize];
        self.disk.write_at(&data, bytes.start)
    }

    pub(crate) fn source_byte(&self, at: u64) -> u8 {
        byte(&*self.source, at)
    }

    pub(crate) fn claim(&self, clusters: Range<u64>) -> Claim {
        let length = clusters.end - clusters.start;
        match self.ledger.claim_next(clusters.start, length) {
            Next::Claimed(claim) => {
                assert_eq!(claim.clusters(), clusters);
                claim
            }
            other @ (Next::Wait | Next::Finished | Next::Closed) => panic!("{other:?}"),
        }
    }

    /// What a copier does with a claim; says whether the copy counts.
    pub(crate) fn finish(&self, claim: Claim) -> bool {
        let bytes = claim.bytes();
        let mut data = vec![0; (bytes.end - bytes.start) as usize];
        self.source.read_at(&mut data, bytes.start).unwrap();
        self.target.write_at(&data, bytes.start).unwrap();
        self.saves.lock().unwrap().extend(claim.clusters());
        claim.complete()
    }

    pub(crate) fn copy(&self, clusters: Range<u64>) -> bool {
        self.finish(self.claim(clusters))
    }

    pub(crate) fn copy_all(&self) {
        // The watcher rings when a copy of somebody else ended.
        let (ring, rung) = channel();
        self.ledger.watch(move || {
            let _ = ring.send(());
        });
        loop {
            match self.ledger.claim_next(0, 4) {
                Next::Claimed(claim) => assert!(self.finish(claim)),
                Next::Wait => rung.recv().unwrap(),
                Next::Finished => return,
                Next::Closed => panic!("closed"),
            }
        }
    }

    pub(crate) fn seal(&self) -> cohort_block::Sealed {
        self.filter.seal(Instant::now() + LONG)
    }

    pub(crate) fn assert_saved(&self, clusters: Range<u64>) {
        self.assert_saved_all([clusters]);
    }

    pub(crate) fn assert_each_saved_once(&self) {
        let mut saves = self.saves.lock().unwrap().clone();
        saves.sort_unstable();
        let twice = saves.windows(2).find(|pair| pair[0] == pair[1]);
        assert!(twice.is_none(), "{saves:?}");
    }

    /// The target holds the old data of these clusters, whole, and nothing else.
    pub(crate) fn assert_saved_all<const N: usize>(&self, ranges: [Range<u64>; N]) {
        for cluster in 0..CLUSTERS {
            let bytes = self.ledger.bytes(&(cluster..cluster + 1));
            let mut data = vec![0; (bytes.end - bytes.start) as usize];
            self.target.read_at(&mut data, bytes.start).unwrap();
            let saved = ranges.iter().any(|range| range.contains(&cluster));
            let want = if saved { OLD } else { UNTOUCHED };
            assert!(data.iter().all(|b| *b == want), "cluster {cluster}");
        }
    }
}

/// Every cluster that was written to the target, by whomever.
pub(crate) type Saves = Arc<Mutex<Vec<u64>>>;

pub(crate) struct ToDevice {
    target: Arc<Faulty>,
    saves: Saves,
}

impl Sink for ToDevice {
    fn save(&self, cluster: u64, data: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.target.write_at(data, cluster * CLUSTER)?;
        self.saves.lock().unwrap().push(cluster);
        Ok(())
    }
}

pub(crate) struct Panics;

impl Sink for Panics {
    fn save(&self, _: u64, _: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        panic!("a sink that panics");
    }
}

pub(crate) fn filled(name: &str, byte: u8) -> Arc<Faulty> {
    let device = MemoryDevice::with_bytes(name, &vec![byte; SIZE as usize]);
    Arc::new(Faulty::new(Arc::new(device)))
}

pub(crate) fn byte(device: &dyn Device, at: u64) -> u8 {
    let mut byte = [0];
    device.read_at(&mut byte, at).unwrap();
    byte[0]
}
