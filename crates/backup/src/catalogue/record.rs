//! What a backup job's `prepare` leaves for the verdict: enough to make its file a point.

use serde::{Deserialize, Serialize};

use super::model::{Point, Tracking};
use super::name::{DiskName, RunId};

/// The version of [`PointRecord`]'s encoding.
const VERSION: u32 = 1;

/// The record of a backup job: the point that its disk gets if the group commits.
///
/// An *empty* record of the same kind means that the member commits without a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointRecord {
    /// The disk.
    pub disk: DiskName,
    /// The run that takes the point.
    pub run: RunId,
    /// The point; its file is durable and sealed.
    pub point: Point,
    /// The view that stands once the point does.
    pub view: CommittedView,
}

/// The view that a commit leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommittedView {
    /// The point its clean bits speak of: the new one, or an older one where the policy is *never*.
    pub anchor: RunId,
    /// The bits.
    pub tracking: Tracking,
}

/// A record that does not say what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// Another version wrote it.
    #[error("the record has version {0}; this program knows version {VERSION}")]
    Version(u32),
    /// It is not a record at all.
    #[error("the record cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    record: &'a PointRecord,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
    record: serde_json::Value,
}

impl PointRecord {
    /// The kind of member whose records are these.
    pub const KIND: &'static str = "backup";

    /// The record as bytes: JSON, with its version.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let written = Written {
            version: VERSION,
            record: self,
        };
        // Strings, numbers and lists of them: nothing in it can refuse to be written as JSON.
        serde_json::to_vec(&written).expect("a point record is plain data")
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`BadRecord`], if another version or something else wrote it.
    pub fn decode(record: &[u8]) -> Result<Self, BadRecord> {
        let versioned: Versioned = serde_json::from_slice(record)?;
        if versioned.version != VERSION {
            return Err(BadRecord::Version(versioned.version));
        }
        Ok(serde_json::from_value(versioned.record)?)
    }
}
