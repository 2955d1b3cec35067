//! What the field's cases are played on: a disk of 16 clusters with a point, and a peer that has one too.

use std::sync::{Arc, Mutex, mpsc};

use cohort_backup::{
    BitmapPolicy, DiskReport, DiskSpec, Options, Rows, Running, SyncMode, Tracked,
};
use cohort_bitmap::DirtyBitmap;
use cohort_block::{Device, ExtentKind, Fault, Faulty, Gated, Injected, MemoryDevice, Operation};
use cohort_job::{Disposition, Status};

use crate::served::run;
use crate::world::{CLUSTER, World, committed, disk, name, options};

/// How the example goes on after the guest's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Finishes,
    CannotRead9,
    Soft,
    Forced,
    PeerFails,
    PeerCancelled,
}

/// A disk of 16 clusters with a point, and a peer that has one too.
pub(crate) struct Example {
    pub(crate) world: World,
    pub(crate) a: Arc<Tracked>,
    pub(crate) b: Arc<Tracked>,
    pub(crate) peer: Arc<Mutex<Option<Injected>>>,
}

/// A disk in memory of which only these clusters were ever written.
pub(crate) fn sparse(disk: &str, allocated: impl IntoIterator<Item = u64>) -> Arc<Tracked> {
    let device = MemoryDevice::new(disk, 16 * CLUSTER);
    for cluster in allocated {
        let bytes = vec![cluster as u8 + 1; CLUSTER as usize];
        device.write_at(&bytes, cluster * CLUSTER).unwrap();
    }
    let layer = Layer::over(Arc::new(device));
    Tracked::new(name(disk), Arc::new(Gated::new(Arc::new(layer)))).unwrap()
}

/// Writes one byte into each cluster of a row.
pub(crate) fn dirty(disk: &Tracked, row: &str) {
    for (cluster, _) in row.chars().enumerate().filter(|(_, bit)| *bit == '1') {
        let at = cluster as u64 * CLUSTER + 77;
        disk.gated().write_at(&[0xd0], at).unwrap();
    }
}

/// One copy at a time, of one cluster.
pub(crate) fn slowly(mode: SyncMode, policy: BitmapPolicy) -> Options {
    // A tenth of a second's worth is a cluster; the first of them cost no waiting.
    options(|o| o.mode(mode).policy(policy).workers(1).speed(10 * CLUSTER))
}

impl Example {
    /// Both disks have a point; what is dirty against it is this row.
    pub(crate) fn new(allocated: impl IntoIterator<Item = u64>, base: &str) -> Self {
        let example = Example {
            world: World::new(),
            a: sparse("a", allocated),
            b: sparse("b", 0..16),
            peer: Arc::default(),
        };
        let both = [&example.a, &example.b].map(|disk| (disk, DiskSpec::served(disk.clone())));
        committed(run(&example.world, &both).0);
        dirty(&example.a, base);
        dirty(&example.b, "1111");
        example
    }

    /// Begins, and stops once the clusters before `hold` are copied and `hold` is read and no other.
    pub(crate) fn begin(
        &self,
        options: &Options,
        hold: u64,
        ending: Ending,
    ) -> (Running, Injected) {
        let (tell, told) = mpsc::channel();
        let held = DiskSpec::served(self.a.clone())
            .options(options.clone())
            .through(move |device| {
                let faulty = Faulty::new(device);
                let at = |cluster| cluster * CLUSTER..cluster * CLUSTER + 1;
                let stall = faulty.inject(Fault::stall(Operation::Read).within(at(hold)));
                if ending == Ending::CannotRead9 {
                    let _ = faulty.inject(Fault::error(Operation::Read).within(at(9)));
                }
                tell.send(stall).unwrap();
                Arc::new(faulty)
            });
        let mut backup = self.world.backup().disk(held);
        if matches!(ending, Ending::PeerFails | Ending::PeerCancelled) {
            backup = backup.disk(self.peer(ending));
        }
        let running = backup.start().unwrap();
        let stall = told.recv().unwrap();
        stall.wait_for_strikes(1);
        running.disks()[0].job().pause().unwrap();
        (running, stall)
    }

    /// It reads nothing until it is told, so it cannot fail before the guest has written.
    pub(crate) fn peer(&self, ending: Ending) -> DiskSpec {
        let (fails, wait) = (ending == Ending::PeerFails, self.peer.clone());
        DiskSpec::served(self.b.clone()).through(move |device| {
            let faulty = Faulty::new(device);
            let stall = faulty.inject(Fault::stall(Operation::Read));
            if fails {
                let _ = faulty.inject(Fault::error(Operation::Read));
            }
            *wait.lock().unwrap() = Some(stall);
            Arc::new(faulty)
        })
    }

    /// The whole example: the clusters up to `hold` copied, then the guest's writes, then the ending.
    pub(crate) fn play(
        &self,
        options: &Options,
        hold: u64,
        writes: &str,
        ending: Ending,
    ) -> DiskReport {
        let (running, stall) = self.begin(options, hold, ending);
        let job = running.disks()[0].job().clone();
        stall.release();
        while job.status() != Status::Paused {
            std::thread::yield_now();
        }
        dirty(&self.a, writes);
        match ending {
            Ending::Finishes | Ending::CannotRead9 => job.resume().unwrap(),
            Ending::Soft => job.cancel(Disposition::Keep).unwrap(),
            Ending::Forced => job.cancel(Disposition::Discard).unwrap(),
            Ending::PeerFails => {}
            Ending::PeerCancelled => {
                let peer = running.disks()[1].job();
                peer.cancel(Disposition::Keep).unwrap();
            }
        }
        if let Some(stall) = self.peer.lock().unwrap().take() {
            stall.release();
        }
        // Refused once the job is over.
        let _ = job.set_speed(0);
        let report = running.wait();
        self.world.check();
        disk(&report, "a").clone()
    }

    /// Whatever happened, the next run makes a true point.
    pub(crate) fn completes(&self) {
        let spec = |disk: &Arc<Tracked>| {
            DiskSpec::served(disk.clone())
                .options(options(|o| o.undecided(cohort_backup::OnUndecided::Keep)))
        };
        let (report, copies) = run(
            &self.world,
            &[(&self.a, spec(&self.a)), (&self.b, spec(&self.b))],
        );
        let last = committed(report).run.unwrap().0;
        assert!(self.world.restored("a", last) == copies[0]);
        assert!(self.world.restored("b", last) == copies[1]);
    }
}

pub(crate) fn shown(rows: &Rows) -> (String, Option<String>) {
    let partial = rows.partial_view.as_ref().map(DirtyBitmap::to_row);
    (rows.point_view.to_row(), partial)
}

/// As the top layer of a qcow2 image: what was never written is not its own. Notes where it is read.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) inner: Arc<dyn Device>,
    pub(crate) reads: Arc<Mutex<Vec<u64>>>,
}

impl Layer {
    pub(crate) fn over(inner: Arc<dyn Device>) -> Self {
        let reads = Arc::default();
        Layer { inner, reads }
    }
}

impl Device for Layer {
    cohort_block::forward!(inner: name, size, write_at, write_zeroes, discard, flush);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), cohort_block::DeviceError> {
        self.reads.lock().unwrap().push(offset);
        self.inner.read_at(buf, offset)
    }

    fn extent(
        &self,
        offset: u64,
        length: u64,
    ) -> Result<cohort_block::Extent, cohort_block::DeviceError> {
        let extent = self.inner.extent(offset, length)?;
        let allocated = extent.kind == ExtentKind::Data;
        Ok(cohort_block::Extent {
            allocated,
            ..extent
        })
    }
}

/// Longer than anything here takes.
pub(crate) const LONG: std::time::Duration = std::time::Duration::from_secs(60);
