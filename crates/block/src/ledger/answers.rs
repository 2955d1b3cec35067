//! What a ledger answers: to the copier, to writers, and to who asks how far it is or why it broke.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::Claim;
use crate::DeviceError;

/// Why a backup can no longer show the instant of its fence.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A write could not wait longer for old data to reach the target.
    #[error(
        "{device}: a write at byte {offset} waited {bound:?}, the longest it may, for the old data there to be saved"
    )]
    Late {
        /// The source.
        device: String,
        /// Where the write began.
        offset: u64,
        /// How long a write may wait.
        bound: Duration,
    },
    /// Old data could not be read.
    #[error("old data could not be read: {0}")]
    Source(DeviceError),
    /// Old data could not be written to the target.
    #[error("{device}: the old data at byte {offset} could not be saved: {cause}")]
    Target {
        /// The source.
        device: String,
        /// First byte of the cluster.
        offset: u64,
        /// What the target says.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// Old data was kept beside the target, and what kept it gave it up.
    #[error("the old data at byte {offset} was lost before it was saved: {cause}")]
    Staged {
        /// First byte of the cluster.
        offset: u64,
        /// What happened to it.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// What the target acknowledged may be lost.
    #[error("the target cannot be trusted any more: {0}")]
    Distrusted(String),
}

/// What the copier is told when it asks for more: see [`Ledger::claim_next`](super::Ledger::claim_next).
#[derive(Debug)]
pub enum Next {
    /// These are yours.
    Claimed(Claim),
    /// Nothing is owed now, but copies are in flight and may fail. The watcher is called when one ends.
    Wait,
    /// Every cluster is written, durable or skipped.
    Finished,
    /// The ledger is sealed or broken: nothing will be handed out again.
    Closed,
}

/// What a write to the source must do about its clusters first.
pub(crate) enum Before {
    /// Copy this one.
    Claimed(Claim),
    /// Wait: the rest is in flight.
    Busy,
    /// Nothing.
    Pass,
}

/// How many clusters are where. They add up to the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be copied still.
    pub owed: u64,
    /// Being copied, and not yet read or not kept: writes to them wait.
    pub in_flight: u64,
    /// Old data read and kept until the target takes it: writes to them pass.
    pub staged: u64,
    /// Copied, and perhaps not yet durable.
    pub written: u64,
    /// Copied, and covered by a later flush.
    pub durable: u64,
    /// Given up, with permission.
    pub skipped: u64,
}
