//! A session with the builder, told step by step to a model as well.

use std::sync::{Arc, Mutex};

use cohort_backup::{Backing, BuildError, CreateOptions, Qcow2Builder, Staged};

use super::log_file::LogFile;
use super::reader::{Cluster, Image};

/// One step. Indices are taken modulo the disk's clusters.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Write this many clusters from this one on.
    Write(u64, u64),
    /// As `Write`, compressed.
    Pack(u64, u64),
    /// Make this many clusters from this one on read as zeroes.
    Zero(u64, u64),
    /// Write data that is not part of the image yet.
    Stage(u64, u64),
    /// Make the oldest staged data part of the image.
    Publish,
    /// Void the oldest staged data.
    Void,
    Seal,
    /// Write this many clusters from this one on while a seal is at its n-th operation.
    WriteInSeal(u64, u64, u64),
    /// As `WriteInSeal`, compressed.
    PackInSeal(u64, u64, u64),
    /// Seal, cut the tail, and go on with a new builder.
    Finish,
    /// Forget the builder, as a killed process does, and continue from the file.
    Reopen,
    /// Kill the process after so many writes and syncs of a seal, and continue from the file.
    KillInSeal(u64),
    /// Let the file system be full for one write, so many writes from here.
    FullAfter(u64),
}

type LogBuilder = Qcow2Builder<LogFile>;

/// A way to write clusters.
type Write = fn(&LogBuilder, u64, &[u8]) -> Result<(), BuildError>;

/// The builder, the file below it, and what both should hold.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) file: LogFile,
    builder: Option<Arc<LogBuilder>>,
    staged: Vec<(Staged, Vec<Cluster>)>,
    /// Bytes of the disk; the image counts whole sectors.
    size: u64,
    /// What the file held when the session began.
    start: Option<Image>,
    /// What the next seal makes durable.
    current: Image,
    /// What each seal made durable, in order; one for each header written.
    pub(crate) seals: Vec<Image>,
    /// Makes every write different.
    stamp: u64,
}

impl Session {
    /// A new image of `size` bytes.
    pub(crate) fn create(size: u64, cluster_size: usize, backing: Option<Backing>) -> Self {
        let file = LogFile::default();
        let mut options = CreateOptions::new(size).cluster_size(cluster_size as u64);
        if let Some(backing) = backing.clone() {
            options = options.backing(backing);
        }
        let builder = Qcow2Builder::create(file.clone(), &options).unwrap();
        let current = Image {
            size: size.next_multiple_of(512),
            cluster_size,
            backing: backing.map(|backing| (backing.file, backing.format)),
            clusters: vec![Cluster::Unmapped; builder.clusters() as usize],
        };
        Self {
            file,
            builder: Some(Arc::new(builder)),
            staged: Vec::new(),
            size,
            start: None,
            current,
            seals: Vec::new(),
            stamp: 0,
        }
    }

    /// Continues from bytes on a disk that should hold `image`.
    pub(crate) fn resume(bytes: Vec<u8>, image: &Image, stamp: u64) -> Self {
        let file = LogFile::holding(bytes);
        Self {
            builder: Some(Arc::new(Qcow2Builder::open(file.clone()).unwrap())),
            file,
            staged: Vec::new(),
            size: image.size,
            start: Some(image.clone()),
            current: image.clone(),
            seals: Vec::new(),
            stamp,
        }
    }

    /// Runs steps; every one that fails must fail for the reason given to the file.
    pub(crate) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(first, count) => {
                let (first, data, clusters) = self.data(*first, *count);
                if allow_full(self.builder().write_clusters(first, &data)) {
                    self.set(first, &clusters);
                }
            }
            Step::Pack(first, count) => {
                let (first, data, clusters) = self.data(*first, *count);
                if allow_full(self.builder().write_compressed(first, &data)) {
                    self.set(first, &clusters);
                }
            }
            Step::Zero(first, count) => {
                let (first, count) = self.range(*first, *count);
                self.builder().write_zero_clusters(first, count).unwrap();
                let zero = match self.current.backing {
                    Some(_) => Cluster::Zero,
                    None => Cluster::Unmapped,
                };
                self.set(first, &vec![zero; count as usize]);
            }
            Step::Stage(first, count) => {
                let (first, data, clusters) = self.data(*first, *count);
                match self.builder().stage(first, &data) {
                    Ok(staged) => self.staged.push((staged, clusters)),
                    error => assert!(!allow_full(error.map(drop))),
                }
            }
            Step::Publish if !self.staged.is_empty() => {
                let (staged, clusters) = self.staged.remove(0);
                let first = staged.first_index();
                self.builder().publish(staged).unwrap();
                self.set(first, &clusters);
            }
            Step::Void if !self.staged.is_empty() => drop(self.staged.remove(0)),
            Step::Publish | Step::Void => {}
            Step::Seal => {
                let outcome = self.builder().seal();
                self.note_seal(outcome);
            }
            Step::WriteInSeal(first, count, operation) => {
                self.write_in_seal(*first, *count, *operation, LogBuilder::write_clusters);
            }
            Step::PackInSeal(first, count, operation) => {
                self.write_in_seal(*first, *count, *operation, LogBuilder::write_compressed);
            }
            Step::Finish => {
                let outcome = self.builder().finish();
                self.note_seal(outcome);
                self.reopen();
            }
            Step::Reopen => self.reopen(),
            Step::KillInSeal(operations) => {
                self.file.fill_after(None);
                self.file.live_for(Some(*operations));
                let outcome = self.builder().seal();
                self.file.live_for(None);
                if self.file.headers() > self.seals.len() {
                    self.seals.push(self.current.clone());
                } else if outcome.is_ok() {
                    assert_eq!(self.last_seal(), Some(&self.current));
                }
                self.reopen();
            }
            Step::FullAfter(writes) => self.file.fill_after(Some(*writes)),
        }
        self.check_contains();
    }

    fn write_in_seal(&mut self, first: u64, count: u64, operation: u64, write: Write) {
        let (first, data, clusters) = self.data(first, count);
        let builder = Arc::clone(self.builder());
        let written = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&written);
        self.file.interrupt(operation, move || {
            let outcome = write(&builder, first, &data);
            *slot.lock().unwrap() = Some(outcome);
        });
        let sealed = self.builder().seal();
        self.file.never_mind();
        let builder = Arc::clone(self.builder());
        self.note_seal(sealed);
        let written = written.lock().unwrap().take();
        // A target that lost its trust was opened again, without the write.
        let same = Arc::ptr_eq(&builder, self.builder());
        if same && written.is_some_and(allow_full) {
            self.set(first, &clusters);
        }
    }

    fn note_seal(&mut self, outcome: Result<(), BuildError>) {
        if let Err(BuildError::Distrusted { .. }) = outcome {
            // The write for which there was no room was the header's own.
            self.reopen();
        } else if allow_full(outcome) {
            if self.file.headers() > self.seals.len() {
                self.seals.push(self.current.clone());
            }
            assert_eq!(self.file.headers(), self.seals.len());
        }
    }

    /// Continues from the last seal; without any there is nothing to continue.
    fn reopen(&mut self) {
        self.staged.clear();
        self.builder = None;
        match self.last_seal() {
            Some(sealed) => {
                self.current = sealed.clone();
                let builder = Qcow2Builder::open(self.file.clone()).unwrap();
                self.builder = Some(Arc::new(builder));
            }
            None => {
                let opened = Qcow2Builder::open(self.file.clone());
                assert!(matches!(opened, Err(BuildError::NotSealed)));
                // A run would start a new file, so the session starts over.
                let backing = self.current.backing.clone();
                let backing = backing.map(|(file, format)| Backing { file, format });
                *self = Self::create(self.size, self.current.cluster_size, backing);
            }
        }
    }

    fn last_seal(&self) -> Option<&Image> {
        self.seals.last().or(self.start.as_ref())
    }

    fn builder(&self) -> &Arc<LogBuilder> {
        self.builder.as_ref().unwrap()
    }

    fn set(&mut self, first: u64, clusters: &[Cluster]) {
        let first = first as usize;
        self.current.clusters[first..first + clusters.len()].clone_from_slice(clusters);
    }

    fn range(&self, first: u64, count: u64) -> (u64, u64) {
        let clusters = self.builder().clusters();
        let first = first % clusters;
        (first, count.clamp(1, clusters - first))
    }

    /// Data that tells its place and its time; short where the disk ends inside a cluster.
    fn data(&mut self, first: u64, count: u64) -> (u64, Vec<u8>, Vec<Cluster>) {
        let (first, count) = self.range(first, count);
        let cluster_size = self.current.cluster_size;
        self.stamp += 1;
        let clusters: Vec<Vec<u8>> = (first..first + count)
            .map(|index| {
                let word = (self.stamp << 20 | index | 1 << 63).to_be_bytes();
                let length =
                    (self.size - index * cluster_size as u64).min(cluster_size as u64) as usize;
                let mut bytes: Vec<u8> = word.into_iter().cycle().take(length).collect();
                bytes.resize(cluster_size, 0);
                bytes
            })
            .collect();
        let mut data = clusters.concat();
        let end = (self.size - first * cluster_size as u64).min(data.len() as u64);
        data.truncate(end as usize);
        (
            first,
            data,
            clusters.into_iter().map(Cluster::Data).collect(),
        )
    }

    fn check_contains(&self) {
        let clusters = &self.current.clusters;
        let data = clusters
            .iter()
            .filter(|cluster| matches!(cluster, Cluster::Data(_)))
            .count();
        let allocated = self.builder().allocated_bytes();
        assert_eq!(allocated, (data * self.current.cluster_size) as u64);
        let index = (self.stamp * 7) % clusters.len() as u64;
        let contains = self.builder().contains(index).unwrap();
        assert_eq!(contains, clusters[index as usize] != Cluster::Unmapped);
    }
}

/// True if it went well; false if there was no space, and nothing else may have gone wrong.
fn allow_full(outcome: Result<(), BuildError>) -> bool {
    if let Err(error) = &outcome {
        let kind = error.io().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::StorageFull), "{error}");
    }
    outcome.is_ok()
}
