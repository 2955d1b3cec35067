//! The map of a partial: which bytes of it show which instant.
//!
//! A partial that was continued holds what several runs copied, each as its disk was at another instant. The map is a part
//! of the partial's row, so it is there exactly as long as the row is, and gone once a point commits.

use std::sync::Arc;

use cohort_bitmap::{DirtyBitmap, Granularity};
use serde::{Deserialize, Serialize};

use super::model::{Instant, Partial, RecordBytes};
use super::name::RunId;
use super::rules::{Broken, ensure};

/// What of a partial shows one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The run that found it so.
    pub run: RunId,
    /// The instant: the fence of that run, or when it began to read.
    pub created_unix_ms: u64,
    /// What is known of that instant.
    pub instant: Instant,
    /// Where.
    pub extents: Extents,
}

/// Some clusters of a disk; stored as a bitmap in its serialised form, in lower-case hex. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RecordBytes", into = "RecordBytes")]
pub struct Extents(Arc<DirtyBitmap>);

impl Shown {
    /// How much of the disk it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.clusters().dirty_bytes()
    }
}

impl Extents {
    /// The clusters that are dirty in that set.
    #[must_use]
    pub fn of(clusters: DirtyBitmap) -> Self {
        Self(Arc::new(clusters))
    }

    /// The clusters, as a set over the whole disk.
    #[must_use]
    pub fn clusters(&self) -> &DirtyBitmap {
        &self.0
    }
}

impl From<Extents> for RecordBytes {
    fn from(extents: Extents) -> Self {
        Self(extents.0.encode())
    }
}

impl TryFrom<RecordBytes> for Extents {
    type Error = cohort_bitmap::DecodeError;

    fn try_from(bytes: RecordBytes) -> Result<Self, Self::Error> {
        DirtyBitmap::decode(&bytes.0).map(Self::of)
    }
}

impl Partial {
    /// The extents of its map in the order of the disk, each with what it is a part of: offset, length, and whose.
    #[must_use]
    pub fn extents(&self) -> Vec<(u64, u64, &Shown)> {
        let extents = self.map.iter().flat_map(|shown| {
            let runs = shown.extents.clusters().runs();
            runs.map(move |run| (run.offset, run.length, shown))
        });
        let mut extents: Vec<_> = extents.collect();
        extents.sort_unstable_by_key(|(offset, ..)| *offset);
        extents
    }

    /// The rules of its map: `ran` says whether a run had its disk, and `row` names the partial.
    pub(super) fn check_map(
        &self,
        ran: impl Fn(RunId) -> bool,
        row: impl Fn() -> String,
    ) -> Result<(), Broken> {
        let cluster = Granularity::new(self.cluster_size.into());
        for (place, shown) in self.map.iter().enumerate() {
            let clusters = shown.extents.clusters();
            ensure(
                clusters.size() == self.size && Ok(clusters.granularity()) == cluster,
                &row,
                "its map is not of its clusters",
            )?;
            ensure(
                !clusters.is_empty(),
                &row,
                "its map names a run for nothing",
            )?;
            let before = place.checked_sub(1).map(|place| self.map[place].run);
            ensure(
                before.is_none_or(|before| before < shown.run),
                &row,
                "its map is not in the order of its runs",
            )?;
            ensure(
                (self.file.run()..=self.run).contains(&shown.run) && ran(shown.run),
                &row,
                "its map names a run that did not write it",
            )?;
        }
        let bytes: u64 = self.map.iter().map(Shown::bytes).sum();
        ensure(
            self.map.is_empty() || bytes == self.durable_bytes,
            &row,
            "its map is not of what it durably holds",
        )?;
        ensure(self.all_shown() == bytes, &row, "its map names bytes twice")
    }

    /// Bytes that its map names, each counted once.
    fn all_shown(&self) -> u64 {
        let Some((first, others)) = self.map.split_first() else {
            return 0;
        };
        if others.is_empty() {
            return first.bytes();
        }
        let mut all = first.extents.clusters().clone();
        for shown in others {
            all.merge(shown.extents.clusters())
                .expect("all are of one disk, as was just seen");
        }
        all.dirty_bytes()
    }
}
