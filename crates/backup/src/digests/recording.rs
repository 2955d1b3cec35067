//! Digests while they come in: a slot for each cluster of the disk, in a nameless sparse file.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use cohort_block::{Device, DeviceError, File, OsFile};

use super::sidecar::{Sidecar, SidecarError, Trailer, ZEROES};
use super::{Digest, LENGTH};
use crate::catalogue::Root;

/// Slots that are read or written at once: one mebibyte of them.
const SLOTS_AT_ONCE: u64 = (1 << 20) / LENGTH;

/// The digests of an image under construction. Any number of threads record at once, each its own clusters.
#[derive(Debug)]
pub(crate) struct Recording {
    slots: OsFile,
    size: u64,
    cluster: u64,
    /// Whether zeroes are held too; an image that stands alone leaves them out.
    layered: bool,
    zeroes: Digest,
    /// The first failure; recording goes on, and nothing is written in the end.
    failed: Mutex<Option<io::Error>>,
}

impl Recording {
    /// Starts without any digest, in a file of that directory.
    pub(crate) fn create(
        directory: &Path,
        size: u64,
        cluster: u64,
        layered: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            slots: OsFile::new(tempfile::tempfile_in(directory)?)?,
            size,
            cluster,
            layered,
            zeroes: Digest::of(&[], cluster),
            failed: Mutex::new(None),
        })
    }

    /// The image now holds these bytes, from the start of a cluster on: whole clusters, or up to the end of the disk.
    pub(crate) fn data(&self, first: u64, data: &[u8]) {
        let cluster = usize::try_from(self.cluster).unwrap_or(usize::MAX);
        let digests: Vec<u8> = data
            .chunks(cluster)
            .flat_map(|data| Digest::of(data, self.cluster).0)
            .collect();
        self.note(self.slots.write_at(&digests, first * LENGTH));
    }

    /// The image now reads as zeroes there.
    pub(crate) fn zeroes(&self, clusters: Range<u64>) {
        if self.layered {
            self.fill(clusters, self.zeroes);
        } else {
            self.forget(clusters);
        }
    }

    /// What the image holds there is not known any more.
    pub(crate) fn forget(&self, clusters: Range<u64>) {
        let cleared = self.slots.len().and_then(|length| {
            let end = (clusters.end * LENGTH).min(length);
            let start = clusters.start * LENGTH;
            if start < end {
                self.slots.write_zeroes(start, end - start)?;
            }
            Ok(())
        });
        self.note(cleared);
    }

    /// Takes over stored digests.
    pub(crate) fn load(&self, stored: &Sidecar) -> Result<(), SidecarError> {
        for run in stored.runs() {
            match run.digests {
                None => self.zeroes(run.clusters()),
                Some(_) => {
                    for piece in pieces(run.clusters()) {
                        let digests = stored.read(run, piece.clone())?;
                        let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
                        self.note(self.slots.write_at(&bytes, piece.start * LENGTH));
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the digests those of an image that holds exactly these runs: drops others, and reads from `image` what
    /// has none. Gives back how many bytes were read.
    pub(crate) fn fit<E: From<DeviceError>>(
        &self,
        image: &dyn Device,
        held: impl Iterator<Item = Result<(Range<u64>, bool), E>>,
    ) -> Result<u64, E> {
        let (mut end, mut read) = (0, 0);
        for run in held {
            let (clusters, zero) = run?;
            self.forget(end..clusters.start);
            end = clusters.end;
            if zero {
                self.zeroes(clusters);
                continue;
            }
            for piece in pieces(clusters) {
                let slots = self.look(piece.clone());
                for (cluster, slot) in piece.zip(slots) {
                    if slot.is_none() {
                        read += self.read_one(image, cluster)?;
                    }
                }
            }
        }
        self.forget(end..self.size.div_ceil(self.cluster));
        Ok(read)
    }

    /// Writes the digests of the clusters that are wanted into a new file, durably; gives that file's digest. Others
    /// may be recorded meanwhile, but none that is wanted.
    pub(crate) fn write(
        &self,
        path: &Path,
        mut wanted: impl FnMut(u64) -> io::Result<bool>,
    ) -> io::Result<Root> {
        if let Some(error) = &*self
            .failed
            .lock()
            .map_err(|_| io::Error::other("recording digests panicked"))?
        {
            return Err(io::Error::new(error.kind(), error.to_string()));
        }
        let mut file = fs::OpenOptions::new();
        let file = file.write(true).create_new(true).open(path)?;
        let mut out = Out {
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
        };
        let mut trailer = Trailer {
            cluster: self.cluster,
            size: self.size,
            digests: 0,
            runs: Vec::new(),
        };
        self.each(|cluster, digest| {
            if !wanted(cluster)? {
                return Ok(());
            }
            let zero = digest == self.zeroes;
            if !zero {
                out.put(&digest.0)?;
            }
            trailer.note(cluster, zero);
            Ok(())
        })?;
        out.put(&trailer.encode())?;
        out.file.flush()?;
        out.file.get_ref().sync_all()?;
        Ok(Root(*out.hasher.finalize().as_bytes()))
    }

    fn each(&self, mut action: impl FnMut(u64, Digest) -> io::Result<()>) -> io::Result<()> {
        let length = self.slots.len()?;
        let mut at = 0;
        while at < length {
            let run = self.slots.run_at(at, length - at)?;
            if run.hole {
                at += run.length;
                at -= at % LENGTH;
                continue;
            }
            let first = at / LENGTH;
            let end = (at + run.length).min(length).div_ceil(LENGTH);
            let piece = first..end.min(first + SLOTS_AT_ONCE);
            at = piece.end * LENGTH;
            for (cluster, slot) in piece.clone().zip(self.try_look(piece)?) {
                if let Some(digest) = slot {
                    action(cluster, digest)?;
                }
            }
        }
        Ok(())
    }

    fn fill(&self, clusters: Range<u64>, digest: Digest) {
        for piece in pieces(clusters) {
            let bytes = digest.0.repeat((piece.end - piece.start) as usize);
            self.note(self.slots.write_at(&bytes, piece.start * LENGTH));
        }
    }

    fn look(&self, clusters: Range<u64>) -> Vec<Option<Digest>> {
        let nothing = vec![None; (clusters.end - clusters.start) as usize];
        self.try_look(clusters).unwrap_or_else(|error| {
            self.note(Err(error));
            nothing
        })
    }

    fn try_look(&self, clusters: Range<u64>) -> io::Result<Vec<Option<Digest>>> {
        let mut bytes = vec![0; ((clusters.end - clusters.start) * LENGTH) as usize];
        let start = clusters.start * LENGTH;
        let there = self.slots.len()?.saturating_sub(start);
        let there = there.min(bytes.len() as u64) as usize;
        self.slots.read_at(&mut bytes[..there], start)?;
        let (slots, _) = bytes.as_chunks::<{ LENGTH as usize }>();
        Ok(slots.iter().map(|slot| Digest::from_slot(*slot)).collect())
    }

    fn read_one(&self, image: &dyn Device, cluster: u64) -> Result<u64, DeviceError> {
        let offset = cluster * self.cluster;
        let length = self.cluster.min(self.size.saturating_sub(offset));
        let mut data = vec![0; length as usize];
        image.read_at(&mut data, offset)?;
        self.data(cluster, &data);
        Ok(length)
    }

    fn note(&self, result: io::Result<()>) {
        if let (Err(error), Ok(mut failed)) = (result, self.failed.lock()) {
            failed.get_or_insert(error);
        }
    }
}

impl Trailer {
    /// Adds one more cluster, which comes after all before it.
    fn note(&mut self, cluster: u64, zero: bool) {
        let digests = if zero { ZEROES } else { self.digests };
        self.digests += u64::from(!zero);
        match self.runs.last_mut() {
            Some(run) if run.0 + run.1 == cluster && (run.2 == ZEROES) == zero => run.1 += 1,
            Some(_) | None => self.runs.push((cluster, 1, digests)),
        }
    }
}

/// A file that is written and digested at once.
struct Out {
    file: BufWriter<fs::File>,
    hasher: blake3::Hasher,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}

fn pieces(clusters: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = clusters.end;
    clusters
        .step_by(SLOTS_AT_ONCE as usize)
        .map(move |first| first..(first + SLOTS_AT_ONCE).min(end))
}
