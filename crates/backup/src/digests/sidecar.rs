//! Stored digests: one file beside an image, written once.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_block::{File, OsFile};

use super::{Digest, LENGTH};
use crate::catalogue::Root;

const MAGIC: [u8; 8] = *b"COHORTdg";
const VERSION: u32 = 1;
/// Bytes at the end of the file that say how to read the rest.
const TRAILER: usize = 64;
/// Bytes of a run in the table.
const RUN: usize = 24;
/// In place of a first digest: all of the run is zeroes.
pub(super) const ZEROES: u64 = u64::MAX;

/// Digests that were stored, checked against the catalogue's digest of their file.
#[derive(Debug)]
pub(crate) struct Sidecar {
    path: PathBuf,
    file: OsFile,
    size: u64,
    cluster: u64,
    runs: Vec<Run>,
}

/// Neighbouring clusters that an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    first: u64,
    count: u64,
    /// The place of the first digest in the file, in digests; none for zeroes.
    pub(crate) digests: Option<u64>,
}

impl Run {
    pub(crate) fn clusters(&self) -> Range<u64> {
        self.first..self.first + self.count
    }
}

/// Why stored digests cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    #[error("{}: {error}", path.display())]
    Io {
        path: PathBuf,
        error: Arc<io::Error>,
    },
    #[error("{}: not what was written when the backup was made", path.display())]
    Changed { path: PathBuf },
    #[error("{}: {what}", path.display())]
    Unreadable { path: PathBuf, what: &'static str },
}

impl Sidecar {
    /// Opens a file of digests, and checks every byte of it.
    pub(crate) fn open(path: &Path, root: Root) -> Result<Self, SidecarError> {
        let failed = io_error(path);
        let mut file = fs::File::open(path).map_err(&failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(&failed)? {
                0 => break,
                length => drop(hasher.update(&buffer[..length])),
            }
        }
        if *hasher.finalize().as_bytes() != root.0 {
            return Err(SidecarError::Changed {
                path: path.to_owned(),
            });
        }
        let file = OsFile::new(file).map_err(&failed)?;
        let length = file.len().map_err(&failed)?;
        let mut trailer = [0; TRAILER];
        let Some(at) = length.checked_sub(TRAILER as u64) else {
            return Err(unreadable(path, "too short for digests"));
        };
        file.read_at(&mut trailer, at).map_err(&failed)?;
        let trailer = Ending::decode(&trailer).map_err(|what| unreadable(path, what))?;
        let table = trailer
            .table(length)
            .ok_or_else(|| unreadable(path, "its parts do not add up"))?;
        let mut bytes = vec![0; table.end.saturating_sub(table.start) as usize];
        file.read_at(&mut bytes, table.start).map_err(&failed)?;
        let runs = trailer
            .runs(&bytes)
            .ok_or_else(|| unreadable(path, "its table of runs is not in order"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size: trailer.size,
            cluster: trailer.cluster,
            runs,
        })
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        self.cluster
    }

    /// What the image holds, in the order of the disk.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The digests of some clusters of a run.
    pub(crate) fn read(
        &self,
        run: &Run,
        clusters: Range<u64>,
    ) -> Result<Vec<Digest>, SidecarError> {
        let count = clusters.end - clusters.start;
        let Some(first) = run.digests else {
            return Ok(vec![Digest::of(&[], self.cluster); count as usize]);
        };
        let mut bytes = vec![0; (count * LENGTH) as usize];
        let at = (first + clusters.start - run.first) * LENGTH;
        self.file
            .read_at(&mut bytes, at)
            .map_err(io_error(&self.path))?;
        let (slots, _) = bytes.as_chunks::<{ LENGTH as usize }>();
        Ok(slots.iter().map(|slot| Digest(*slot)).collect())
    }
}

/// What comes after the digests: the runs (first cluster, count, first digest), and the numbers of both.
pub(super) struct Trailer {
    pub(super) cluster: u64,
    pub(super) size: u64,
    pub(super) digests: u64,
    pub(super) runs: Vec<(u64, u64, u64)>,
}

impl Trailer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.runs.len() * RUN + TRAILER);
        for (first, count, digests) in &self.runs {
            for number in [first, count, digests] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        let start = bytes.len();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for number in [
            self.cluster,
            self.size,
            self.digests,
            self.runs.len() as u64,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(start + TRAILER, 0);
        bytes
    }
}

/// The last bytes of the file, read back.
struct Ending {
    cluster: u64,
    size: u64,
    digests: u64,
    runs: u64,
}

impl Ending {
    fn decode(bytes: &[u8; TRAILER]) -> Result<Self, &'static str> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |index: usize| u64::from_le_bytes(numbers[index]);
        if numbers[0] != MAGIC {
            return Err("not a file of digests");
        }
        if number(1) != u64::from(VERSION) {
            return Err("digests of another version");
        }
        let cluster = number(2);
        if !cluster.is_power_of_two() {
            return Err("an impossible cluster size");
        }
        Ok(Self {
            cluster,
            size: number(3),
            digests: number(4),
            runs: number(5),
        })
    }

    /// Where the table of runs lies in a file of `length` bytes.
    fn table(&self, length: u64) -> Option<Range<u64>> {
        let start = self.digests.checked_mul(LENGTH)?;
        let end = start.checked_add(self.runs.checked_mul(RUN as u64)?)?;
        (end.checked_add(TRAILER as u64)? == length).then_some(start..end)
    }

    fn runs(&self, table: &[u8]) -> Option<Vec<Run>> {
        let (numbers, _) = table.as_chunks::<8>();
        let (clusters, mut end) = (self.size.div_ceil(self.cluster), 0);
        let mut runs = Vec::with_capacity(numbers.len() / 3);
        for run in numbers.chunks_exact(3) {
            let [first, count, digests] = [run[0], run[1], run[2]].map(u64::from_le_bytes);
            let last = first.checked_add(count).filter(|last| *last <= clusters)?;
            let there = digests == ZEROES
                || digests
                    .checked_add(count)
                    .is_some_and(|end| end <= self.digests);
            if first < end || count == 0 || !there {
                return None;
            }
            end = last;
            let digests = (digests != ZEROES).then_some(digests);
            runs.push(Run {
                first,
                count,
                digests,
            });
        }
        Some(runs)
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> SidecarError {
    move |error| SidecarError::Io {
        path: path.to_owned(),
        error: Arc::new(error),
    }
}

fn unreadable(path: &Path, what: &'static str) -> SidecarError {
    SidecarError::Unreadable {
        path: path.to_owned(),
        what,
    }
}
