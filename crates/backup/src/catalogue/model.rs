//! The rows of a catalogue, as they are stored and as readers get them.
//!
//! Every row is a JSON object with exactly these fields (`docs/format.md` repeats them); an
//! unknown or missing one makes the catalogue unreadable rather than half understood. Sizes and
//! offsets are bytes, times are milliseconds since 1970 in UTC.

pub use cohort_journal::{AbortCause, Aborted, Decided, Member, Outcome, RecordBytes, Settling};
use serde::{Deserialize, Serialize};

use super::name::{BadName, DirectoryId, DiskName, ImageName, RunId};
use super::shown::Shown;

/// The version of the catalogue that this library writes, and the newest that it reads.
///
/// Version 1 had no digests and no bitmaps of images, up to version 2 no view named a set of a tracking store, up to
/// version 3 no view was refuted, up to version 4 nobody knew where sweeping begins, and up to version 5 which instant an
/// extent of a partial is of; they are read as they stand, and become this one with the next change.
pub const CATALOGUE_VERSION: u32 = 6;

/// What the catalogue says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The version of everything below; see [`CATALOGUE_VERSION`].
    pub version: u32,
    /// This directory's own id.
    pub directory: DirectoryId,
    /// When the catalogue was made.
    pub created_unix_ms: u64,
    /// The number that the next run gets; larger than that of every run so far.
    pub next_run: RunId,
    /// The first run whose left-over files may be removed: 1, or after a load the first run since, because what became of
    /// the files of earlier runs is not known any more.
    #[serde(default = "first_run")]
    pub sweep_from: RunId,
    /// The number that the next verdict gets; larger than that of every verdict so far.
    pub next_verdict: u64,
}

/// Where sweeping began before a catalogue said so.
fn first_run() -> RunId {
    RunId(1)
}

/// A disk that was backed up here, or was meant to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Where its data came from last time: a path, as information for people. Not used to open it.
    pub source: String,
}

/// One run: an attempt to take a point of each of some disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// When it began.
    pub started_unix_ms: u64,
    /// Its disks, in the order of the command.
    pub disks: Vec<DiskName>,
}

/// What is known of the instant that a point shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instant {
    /// The disk as it was at one instant: it was fenced, or nobody wrote while it was read.
    Proven,
    /// The disk changed while it was read, and the user accepted that.
    NoInstant,
    /// Nothing shows that the disk changed while it was read, and nothing shows that it did not.
    NoInstantProven,
}

/// Some bytes of a disk, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByteRange {
    /// The first byte.
    pub offset: u64,
    /// How many; never 0.
    pub length: u64,
}

/// Where the digests of an image's clusters are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredDigests {
    /// Their file, in the backup directory.
    pub file: ImageName,
    /// The digest of that file.
    pub root: Root,
}

/// The BLAKE3 digest of a whole file, written as 64 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RecordBytes", into = "RecordBytes")]
pub struct Root(pub [u8; 32]);

impl From<Root> for RecordBytes {
    fn from(root: Root) -> Self {
        Self(root.0.to_vec())
    }
}

impl TryFrom<RecordBytes> for Root {
    type Error = BadName;

    fn try_from(bytes: RecordBytes) -> Result<Self, BadName> {
        <[u8; 32]>::try_from(bytes.0)
            .map(Self)
            .map_err(|bytes| BadName {
                text: RecordBytes(bytes).into(),
                expected: "64 digits of lower-case hex",
            })
    }
}

/// A restorable instant of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The image file, in the backup directory.
    pub file: ImageName,
    /// The point of the same disk whose file backs this one; none for a full copy.
    pub parent: Option<RunId>,
    /// The disk's size.
    pub size: u64,
    /// The image's cluster size.
    pub cluster_size: u32,
    /// The instant it shows: the fence, or when reading began.
    pub created_unix_ms: u64,
    /// What is known of that instant.
    pub instant: Instant,
    /// What could not be read and was skipped: sorted, apart from each other, inside the disk.
    /// The point is *incomplete* if there is any.
    pub skipped: Vec<ByteRange>,
    /// How much was copied for this point.
    pub bytes_copied: u64,
    /// The digests of what its image holds; none if they were not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<StoredDigests>,
    /// Images of points that were pruned and that this one is still to be merged with, from the top down: its image lies
    /// on the first of them, and the last on the image of `parent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merging: Vec<Merging>,
}

/// An image that no point shows any more and that another point needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merging {
    /// The image file, in the backup directory.
    pub file: ImageName,
    /// The disk's size when it was taken.
    pub size: u64,
    /// The image's cluster size.
    pub cluster_size: u32,
    /// The digests of what it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<StoredDigests>,
}

impl Point {
    /// Whether holes of unread data are left in it.
    #[must_use]
    pub fn incomplete(&self) -> bool {
        !self.skipped.is_empty()
    }
}

/// Whether the next run may continue a partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It may.
    Keep,
    /// Somebody must answer first: keep or discard.
    Undecided,
}

/// What is said to an undecided partial, at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The next run continues it.
    Keep,
    /// It is dropped; the disk goes on from its last point.
    Discard,
}

/// A target that is not a point: what a run left that did not commit. One per disk at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partial {
    /// The image file, in the backup directory.
    pub file: ImageName,
    /// The point whose file backs it; none if it began a full copy.
    pub parent: Option<RunId>,
    /// Whether the next run may use it.
    pub decision: Decision,
    /// The disk's size.
    pub size: u64,
    /// The image's cluster size.
    pub cluster_size: u32,
    /// How much it durably holds, as far as that need not be copied again.
    pub durable_bytes: u64,
    /// How much the run still had to copy when it stopped: an estimate, the disk may change.
    pub remaining_bytes: u64,
    /// The run that left it so.
    pub run: RunId,
    /// When.
    pub stopped_unix_ms: u64,
    /// What stopped the run, for people.
    pub why: String,
    /// The digests of what its image durably holds; none if they were not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<StoredDigests>,
    /// Which instant all that it durably holds is of: in the order of the runs, and no byte twice. Empty in a row from
    /// before version 6, or if nothing of it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map: Vec<Shown>,
}

/// What the clean bits of a view speak of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Anchor {
    /// The point of that run.
    Point(RunId),
    /// The disk's partial, which is that file.
    Partial(ImageName),
}

/// What the tracking behind a view is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Proof {
    /// Every write is in it.
    Proven,
    /// Writes may have passed it by: to be used only if the user says so, or checked by a scan.
    Unproven,
    /// Its store failed: it lost writes from that time on, and is of no use.
    Lost {
        /// Milliseconds since 1970.
        since_unix_ms: u64,
    },
    /// An audit found changes at that time which it does not have, so it is of no use.
    Refuted {
        /// Milliseconds since 1970.
        at_unix_ms: u64,
    },
}

impl Proof {
    /// Why a view is of no use, if it is of none; for people.
    pub(crate) const fn distrust(self) -> Option<&'static str> {
        match self {
            Proof::Proven | Proof::Unproven => None,
            Proof::Lost { .. } => {
                Some("its tracking store failed, and writes since then are missing from it")
            }
            Proof::Refuted { .. } => Some("an audit found changes that its tracking does not have"),
        }
    }
}

/// A numbered set of a tracking store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetName {
    /// The store's path when the set was made, for people.
    pub store: String,
    /// The store: one that was removed and made again is another.
    pub id: StoreId,
    /// The set's number in it.
    pub number: u64,
}

/// A tracking store's own id, written as 32 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RecordBytes", into = "RecordBytes")]
pub struct StoreId(pub [u8; 16]);

impl From<StoreId> for RecordBytes {
    fn from(id: StoreId) -> Self {
        Self(id.0.to_vec())
    }
}

impl TryFrom<RecordBytes> for StoreId {
    type Error = BadName;

    fn try_from(bytes: RecordBytes) -> Result<Self, BadName> {
        <[u8; 16]>::try_from(bytes.0)
            .map(Self)
            .map_err(|bytes| BadName {
                text: RecordBytes(bytes).into(),
                expected: "a store's id (32 digits of lower-case hex)",
            })
    }
}

/// Where the bits of a view are: the union of numbered sets.
///
/// Without any set nothing was recorded that outlives a process, and a scan finds what changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracking {
    /// What they are worth.
    pub proof: Proof,
    /// The sets.
    pub sets: Vec<SetName>,
    /// A bitmap that QEMU keeps in the image, if the run was told to go by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_bitmap: Option<ImageBitmap>,
}

/// A bitmap inside a qcow2 image, of which a run took what its point holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageBitmap {
    /// What it is called there.
    pub name: String,
    /// Bytes per bit.
    pub granularity: u64,
    /// The image's path, when the run read it.
    pub path: String,
    /// The image, and the files beneath it, as they were then; the image first.
    pub files: Vec<FileStamp>,
    /// The digest of its bits, as they were then.
    pub bits: Root,
    /// Whether what the point holds was taken from it.
    pub clearing: Clearing,
}

/// Whether a bitmap was cleared of what a point holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clearing {
    /// It is to be done, if nobody changed the image or the bitmap since.
    Owed,
    /// It was done, and is durable.
    Done,
}

/// Which file, and as which it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStamp {
    /// The number of its file system.
    pub filesystem: u64,
    /// Its inode there.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When its bytes last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// When anything about it last changed: seconds and nanoseconds since 1970.
    pub changed: (i64, i64),
}

impl Tracking {
    /// Nobody watches this disk: every run scans it.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            proof: Proof::Unproven,
            sets: Vec::new(),
            image_bitmap: None,
        }
    }

    /// The union of sets that have every write.
    #[must_use]
    pub(crate) const fn of_sets(sets: Vec<SetName>) -> Self {
        Self {
            proof: Proof::Proven,
            sets,
            image_bitmap: None,
        }
    }

    /// Writes are missing since that time, in milliseconds since 1970.
    #[must_use]
    pub const fn lost(since_unix_ms: u64) -> Self {
        Self {
            proof: Proof::Lost { since_unix_ms },
            sets: Vec::new(),
            image_bitmap: None,
        }
    }
}

/// One way to look at what changed on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// What a clean bit says is unchanged since.
    pub anchor: Anchor,
    /// The bits.
    pub tracking: Tracking,
}

/// The views of one disk. No view against a point means that everything is to be copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Against a point: base ∪ since, or since alone.
    pub point: Option<View>,
    /// Against the partial, while there is one: remaining ∪ since.
    pub partial: Option<View>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(row: impl Serialize) -> Value {
        serde_json::to_value(row).unwrap()
    }

    /// The encodings that `docs/format.md` prints: a change here is a new version of the format.
    #[test]
    fn words_are_those_of_the_format() {
        assert_eq!(written(Instant::Proven), "proven");
        assert_eq!(written(Instant::NoInstant), "no-instant");
        assert_eq!(written(Instant::NoInstantProven), "no-instant-proven");
        assert_eq!(written(Decision::Keep), "keep");
        assert_eq!(written(Decision::Undecided), "undecided");
        assert_eq!(written(Anchor::Point(RunId(7))), json!({"point": 7}));
        let file = "vda.7-0123456789abcdef.qcow2";
        let partial = Anchor::Partial(file.parse().unwrap());
        assert_eq!(written(partial), json!({"partial": file}));
        assert_eq!(written(Proof::Unproven), "unproven");
        let lost = Proof::Lost { since_unix_ms: 5 };
        assert_eq!(written(lost), json!({"lost": {"since_unix_ms": 5}}));
        let refuted = Proof::Refuted { at_unix_ms: 6 };
        assert_eq!(written(refuted), json!({"refuted": {"at_unix_ms": 6}}));
        assert_eq!(written(Outcome::Commit), "commit");
        let aborted = |cause, disposition| written(Outcome::Abort(Aborted { cause, disposition }));
        assert_eq!(
            aborted(AbortCause::Failed(2), Settling::Keep),
            json!({"abort": {"cause": {"failed": 2}, "disposition": "keep"}})
        );
        assert_eq!(
            aborted(AbortCause::ProcessEnded, Settling::Discard),
            json!({"abort": {"cause": "process-ended", "disposition": "discard"}})
        );
        assert_eq!(written(RecordBytes(vec![0, 0xfe])), "00fe");
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        let range: Result<ByteRange, _> = serde_json::from_str(r#"{"offset":0,"length":1}"#);
        range.unwrap();
        for bad in [
            r#"{"offset":0}"#,
            r#"{"offset":0,"length":1,"colour":"red"}"#,
        ] {
            let range: Result<ByteRange, _> = serde_json::from_str(bad);
            assert!(range.is_err(), "{bad}");
        }
    }
}
