//! The disks of the demonstration: real files, raw and qcow2, each with a writer that never rests.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use cohort_backup::catalogue::DiskName;
use cohort_backup::{CreateOptions, Qcow2Builder, Tracked};
use cohort_block::{Device, Faulty, Gated, OpenOptions, OsFile, open};

/// A cluster, and a granule of the bitmaps: one character in the rows.
pub(super) const CLUSTER: u64 = 64 << 10;

/// Clusters of each disk: as many as fit in a terminal's line.
pub(super) const CLUSTERS: u64 = 64;

/// Bytes that one write has.
const WRITE: usize = 4096;

/// A writer rests so long between two writes: some hundred writes a second are plenty to see.
const PACE: Duration = Duration::from_millis(3);

/// One disk: where it is written to, where faults are put, and its tracking.
#[derive(Debug)]
pub(super) struct Disk {
    /// What it is called.
    pub(super) name: DiskName,
    /// `raw` or `qcow2`.
    pub(super) format: &'static str,
    /// Between the gate and the file: where the demonstration makes it fail or wait.
    pub(super) faulty: Arc<Faulty>,
    /// The disk as its users and the backup see it.
    pub(super) tracked: Arc<Tracked>,
    /// Writes all the while.
    pub(super) writer: Writer,
}

impl Disk {
    /// Makes a disk full of data in `directory` and starts to write to it.
    pub(super) fn make(
        directory: &Path,
        name: &str,
        format: &'static str,
        hot: &[u64],
    ) -> Result<Disk> {
        let path = directory.join(format!("{name}.{format}"));
        let file = OsFile::create_new(&path).with_context(|| path.display().to_string())?;
        match format {
            "qcow2" => make_qcow2(file, name)?,
            _ => make_raw(&file, name).with_context(|| path.display().to_string())?,
        }
        let device = open(&path, OpenOptions::read_write())?;
        let faulty = Arc::new(Faulty::new(device));
        let gated = Arc::new(Gated::new(faulty.clone()));
        let name = DiskName::new(name)?;
        let tracked = Tracked::new(name.clone(), gated.clone())?;
        let writer = Writer::start(gated, hot)?;
        Ok(Disk {
            name,
            format,
            faulty,
            tracked,
            writer,
        })
    }
}

fn make_raw(file: &OsFile, name: &str) -> std::io::Result<()> {
    use cohort_block::File;
    (0..CLUSTERS).try_for_each(|cluster| {
        file.write_at(&pattern(name, cluster, CLUSTER as usize), cluster * CLUSTER)
    })
}

fn make_qcow2(file: OsFile, name: &str) -> Result<()> {
    let image = Qcow2Builder::create(file, &CreateOptions::new(CLUSTERS * CLUSTER))?;
    for cluster in 0..CLUSTERS {
        image.write_cluster(cluster, &pattern(name, cluster, CLUSTER as usize))?;
    }
    Ok(image.finish()?)
}

/// Bytes that differ from disk to disk, cluster to cluster and round to round.
fn pattern(name: &str, number: u64, length: usize) -> Vec<u8> {
    let line = format!("{name} {number} ");
    line.bytes().cycle().take(length).collect()
}

/// A thread that writes to a disk, a few clusters in turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    rounds: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The clusters that are written to.
    hot: Vec<u64>,
    /// How often all of them were.
    rounds: u64,
    failed: Option<String>,
}

impl Writer {
    fn start(disk: Arc<Gated>, hot: &[u64]) -> Result<Writer> {
        let shared = Arc::new(Shared::default());
        shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hot = hot.to_vec();
        let (stop, stopped) = mpsc::channel();
        let (ours, mut number) = (shared.clone(), 0_u64);
        let write_on = move || {
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                number += 1;
                ours.write_one(&*disk, number);
            }
        };
        let thread = thread::Builder::new()
            .name("writer".into())
            .spawn(write_on)?;
        Ok(Writer {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The clusters that are being written to.
    pub(super) fn hot(&self) -> Vec<u64> {
        self.lock().hot.clone()
    }

    /// Turns to other clusters.
    pub(super) fn turn_to(&self, hot: &[u64]) {
        let mut state = self.lock();
        (state.hot, state.rounds) = (hot.to_vec(), 0);
    }

    /// Waits until every hot cluster was written to since the last turn.
    ///
    /// # Errors
    /// A write failed.
    pub(super) fn wait_for_a_round(&self) -> Result<()> {
        let state = self.lock();
        // The first round may have begun in the middle.
        let state = self
            .shared
            .rounds
            .wait_while(state, |state| state.rounds < 2 && state.failed.is_none());
        match &state.unwrap_or_else(PoisonError::into_inner).failed {
            Some(error) => Err(anyhow::anyhow!(
                "a write of the demonstration failed: {error}"
            )),
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn write_one(&self, disk: &dyn Device, number: u64) {
        let hot = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hot
            .clone();
        if hot.is_empty() {
            return;
        }
        let index = number as usize % hot.len();
        let offset = hot[index] * CLUSTER + number * WRITE as u64 % CLUSTER;
        let written = disk.write_at(&pattern("written", number, WRITE), offset);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.hot == hot && index + 1 == hot.len() {
            state.rounds += 1;
        }
        if let Err(error) = written {
            state.failed.get_or_insert(error.to_string());
        }
        drop(state);
        self.rounds.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
