//! Auditing what is claimed of a disk: a random sample of the granules that are said not to have changed since a point is
//! read and compared with that point.
//!
//! A scan that compares everything needs no claim; a bitmap is one. If a program wrote past whoever keeps the bitmap, a
//! backup that follows it silently misses data, and only bytes can tell. A sample tells how much of that there can be:
//! if none of n granules chosen at random differs, then with 95 % confidence fewer than 1 - 0.05^(1/n) of them do, about
//! 3/n (the "rule of three").

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cohort_bitmap::DirtyBitmap;
use cohort_block::{Device, Format, OpenOptions};
use rayon::prelude::*;

use crate::catalogue::{self, Anchor, ByteRange, Contents, DiskName, NoSuchPoint, RunId};
use crate::expected::{ExpectedError, Piece, Says, of_point};

/// How much is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    budget_bytes: u64,
    seed: Option<u64>,
}

impl Audit {
    /// Reads at most so many bytes of the disk; at least one granule.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            seed: None,
        }
    }

    /// Chooses the sample that this number stands for, instead of one that nobody foresees.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// What an audit of one disk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The point that the claims are about.
    pub point: RunId,
    /// Bytes of a granule.
    pub granule: u64,
    /// Granules that are claimed not to have changed.
    pub claimed: u64,
    /// Granules that were read.
    pub sampled: u64,
    /// Those of them that differ from the point, sorted.
    pub differing: Vec<ByteRange>,
    /// The number that stands for the sample.
    pub seed: u64,
}

impl Audited {
    /// The share of the claimed granules that is wrong at most, with 95 % confidence; only if none of the sample was.
    #[must_use]
    pub fn bound(&self) -> Option<f64> {
        match (self.differing.is_empty(), self.sampled) {
            (false, _) => None,
            (true, sampled) if sampled == self.claimed => Some(0.0),
            (true, sampled) => Some(1.0 - 0.05_f64.powf(1.0 / sampled as f64)),
        }
    }
}

/// Why a disk could not be audited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The backup directory cannot be used.
    #[error(transparent)]
    Directory(#[from] catalogue::OpenError),
    /// There is nothing to compare with.
    #[error(transparent)]
    NoSuchPoint(#[from] NoSuchPoint),
    /// The point cannot be read.
    #[error("{disk}@{run}: {what}")]
    Point {
        /// The disk.
        disk: DiskName,
        /// The run that took the point.
        run: RunId,
        /// Why.
        what: String,
    },
    /// The disk cannot be read.
    #[error("{0}")]
    Source(String),
    /// It was told to stop.
    #[error("stopped before the sample was read")]
    Cancelled,
}

/// Compares a sample of a disk with the point that the next increment would be against. `changed` says what is known to
/// have changed since that point; the rest of the disk is claimed not to have. Nothing is changed anywhere: whoever finds a
/// wrong claim tells the [catalogue](catalogue::Catalogue::distrust).
///
/// `progress` is told (bytes read, bytes to read); setting `cancel` ends it soon.
///
/// # Errors
/// [`AuditError`]. A claim that is wrong is no error but a part of the answer.
pub fn audit(
    directory: &Path,
    disk: &DiskName,
    source: &dyn Device,
    changed: &DirtyBitmap,
    how: &Audit,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Audited, AuditError> {
    let contents = catalogue::read(directory)?;
    let run = anchor(&contents, disk)?;
    let unreadable = |what: String| AuditError::Point {
        disk: disk.clone(),
        run,
        what,
    };
    let comparison = Comparison::open(directory, &contents, disk, run, source)
        .map_err(|error| unreadable(error.to_string()))?;
    let claims = comparison.claims(changed);
    let seed = how
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    let claimed = claims.iter().map(|run| run.end - run.start).sum();
    let wanted = (how.budget_bytes / comparison.granule).max(1).min(claimed);
    let sample = choose(claimed, wanted, seed);
    let granules = places(&claims, &sample);
    let (read, total) = (AtomicU64::new(0), wanted * comparison.granule);
    let wrong: Vec<Range<u64>> = granules
        .into_par_iter()
        .map(|granule| {
            if cancel.load(Ordering::Relaxed) {
                return Err(AuditError::Cancelled);
            }
            let differs = comparison.differs(granule)?;
            let done = read.fetch_add(comparison.granule, Ordering::Relaxed);
            progress(done + comparison.granule, total);
            Ok(differs.then(|| comparison.bytes(granule)))
        })
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    let range = |range: Range<u64>| ByteRange {
        offset: range.start,
        length: range.end - range.start,
    };
    Ok(Audited {
        point: run,
        granule: comparison.granule,
        claimed,
        sampled: wanted,
        differing: wrong.into_iter().map(range).collect(),
        seed,
    })
}

/// The point that clean bits speak of: not always the newest one.
fn anchor(contents: &Contents, disk: &DiskName) -> Result<RunId, NoSuchPoint> {
    let view = contents
        .views
        .get(disk)
        .and_then(|views| views.point.as_ref());
    match view.map(|view| &view.anchor) {
        Some(Anchor::Point(run)) => Ok(*run),
        Some(Anchor::Partial(_)) | None => {
            let latest = catalogue::PointName {
                disk: disk.clone(),
                which: catalogue::Which::Latest,
            };
            contents.resolve(&latest).map(|(run, _)| run)
        }
    }
}

/// A disk beside a point of it.
struct Comparison<'a> {
    source: &'a dyn Device,
    point: Arc<dyn Device>,
    /// Bytes that both have.
    size: u64,
    granule: u64,
    /// What digests say of the point, in the order of the disk.
    pieces: Vec<Piece>,
}

impl<'a> Comparison<'a> {
    fn open(
        directory: &Path,
        contents: &Contents,
        disk: &DiskName,
        run: RunId,
        source: &'a dyn Device,
    ) -> Result<Self, ExpectedError> {
        let pieces = of_point(directory, contents, disk, run)?;
        let layers = contents.layers(disk, run);
        let top = layers
            .first()
            .ok_or_else(|| ExpectedError::Open("it is gone".to_owned()))?;
        let options = OpenOptions::read_only()
            .format(Format::Qcow2)
            .without_lock();
        let point = cohort_block::open(directory.join(top.file.to_string()), options)
            .map_err(|error| ExpectedError::Open(error.to_string()))?;
        Ok(Self {
            source,
            point,
            size: top.size.min(source.size()),
            granule: u64::from(top.cluster_size),
            pieces,
        })
    }

    /// The runs of granules, counted from the start, of which nothing is known to have changed. A granule that only one
    /// of both has whole is none: that the disk grew or shrank is known.
    fn claims(&self, changed: &DirtyBitmap) -> Vec<Range<u64>> {
        let whole = match self.point.size() == self.source.size().next_multiple_of(512) {
            true => self.size.div_ceil(self.granule),
            false => self.size / self.granule,
        };
        let (mut claims, mut next) = (Vec::new(), 0);
        for run in changed.runs() {
            let (first, end) = (run.offset / self.granule, run.end().div_ceil(self.granule));
            claims.push(next..first.min(whole));
            next = end;
        }
        claims.push(next..whole);
        claims.retain(|claim| claim.start < claim.end);
        claims
    }

    fn bytes(&self, granule: u64) -> Range<u64> {
        let start = granule * self.granule;
        start..(start + self.granule).min(self.size)
    }

    /// Whether the disk is not what the point has there. Digests spare reading the point.
    fn differs(&self, granule: u64) -> Result<bool, AuditError> {
        let bytes = self.bytes(granule);
        let mut ours = vec![0; (bytes.end - bytes.start) as usize];
        let read = self.source.read_at(&mut ours, bytes.start);
        read.map_err(|error| AuditError::Source(error.to_string()))?;
        let failed = |error: &dyn std::fmt::Display| AuditError::Source(error.to_string());
        if let Some(piece) = self.said(&bytes) {
            let wrong = piece.differing(&ours).map_err(|error| failed(&error))?;
            return Ok(!wrong.is_empty());
        }
        let mut theirs = vec![0; ours.len()];
        let read = self.point.read_at(&mut theirs, bytes.start);
        read.map_err(|error| failed(&error))?;
        Ok(ours != theirs)
    }

    /// What digests say of exactly these bytes.
    fn said(&self, bytes: &Range<u64>) -> Option<Piece> {
        let after = self
            .pieces
            .partition_point(|piece| piece.bytes.start <= bytes.start);
        let piece = &self.pieces[after.checked_sub(1)?];
        let whole = piece.bytes.end >= bytes.end;
        let speaks = match &piece.says {
            Says::Digests(sidecar, _) => sidecar.cluster() == self.granule,
            Says::Zeroes => true,
            Says::Nothing => false,
        };
        (whole && speaks).then(|| Piece {
            bytes: bytes.clone(),
            ..piece.clone()
        })
    }
}

/// `wanted` different numbers below `all`, each set of them as likely as any other. Floyd's algorithm (Communications of
/// the ACM 30/9, 1987): no more draws than numbers.
fn choose(all: u64, wanted: u64, seed: u64) -> BTreeSet<u64> {
    let mut random = seed;
    let mut chosen = BTreeSet::new();
    for last in all - wanted..all {
        // splitmix64: a generator whose seeds may be neighbours.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let drawn = ((u128::from(word) * u128::from(last + 1)) >> 64) as u64;
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen
}

/// The granules that the chosen numbers stand for, counted through the claims.
fn places(claims: &[Range<u64>], chosen: &BTreeSet<u64>) -> Vec<u64> {
    let (mut claims, mut before) = (claims.iter(), 0);
    let mut claim = claims.next().cloned().unwrap_or(0..0);
    let mut places = Vec::with_capacity(chosen.len());
    for number in chosen {
        while number - before >= claim.end - claim.start {
            before += claim.end - claim.start;
            claim = match claims.next() {
                Some(next) => next.clone(),
                None => return places,
            };
        }
        places.push(claim.start + number - before);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_as_large_as_wanted_and_inside() {
        for (all, wanted) in [(1, 1), (10, 10), (1000, 17), (u64::MAX / 2, 100), (0, 0)] {
            for seed in 0..50 {
                let chosen = choose(all, wanted, seed);
                assert_eq!(chosen.len() as u64, wanted);
                assert!(chosen.iter().all(|number| *number < all));
                assert_eq!(chosen, choose(all, wanted, seed));
            }
        }
    }

    #[test]
    fn every_granule_is_chosen_about_as_often() {
        let mut counts = [0u32; 20];
        for seed in 0..20_000 {
            for number in choose(20, 3, seed) {
                counts[number as usize] += 1;
            }
        }
        // 3,000 each on average; five standard deviations are 250.
        assert!(
            counts.iter().all(|count| (2750..3250).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn numbers_are_counted_through_the_claims() {
        let claims = [2..4, 7..8, 10..13];
        let all = places(&claims, &(0..6).collect());
        assert_eq!(all, [2, 3, 7, 10, 11, 12]);
        assert_eq!(places(&claims, &[1, 3].into()), [3, 10]);
    }

    #[test]
    fn bounds_follow_the_rule_of_three() {
        let audited = |sampled, claimed| Audited {
            point: RunId(1),
            granule: 65536,
            claimed,
            sampled,
            differing: Vec::new(),
            seed: 0,
        };
        let bound = audited(4096, 1 << 20).bound().unwrap();
        assert!((bound - 3.0 / 4096.0).abs() < 1e-5, "{bound}");
        assert_eq!(audited(10, 10).bound(), Some(0.0));
    }
}
