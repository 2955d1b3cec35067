//! Which options go together, in the order in which they are looked at.
//!
//! The rules are those of `blockdev-backup` (QEMU 10) where they mean something here, in our words. Three fell away:
//! a disk needs no named bitmap to be copied incrementally, because its views, or a comparison, say what changed; so a
//! policy never lacks a bitmap; and `none` may keep what it has, as a partial.

use std::time::Duration;

use super::Options;
use super::errors::ErrorPolicy;
use super::words::{BitmapPolicy, SyncMode};

/// Each worker is a thread while it copies; more than this only costs memory.
const MAX_WORKERS: usize = 256;
/// The smallest cluster: a disk's granularity here is never finer than a page.
const MIN_CLUSTER: u64 = 4 << 10;
/// The largest cluster of the qcow2 format.
const MAX_CLUSTER: u64 = 2 << 20;
/// The largest unit of copying: a writer waits while so much is read for it.
const MAX_UNIT: u64 = 16 << 20;
/// The longest that errors may be waited out; who wants to wait longer wants `stop`.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Finds the first rule that is broken.
pub(super) fn check(o: &Options) -> Result<(), OptionsError> {
    match (o.mode, o.policy) {
        (SyncMode::Incremental, policy) if policy != BitmapPolicy::OnSuccess => {
            return Err(OptionsError::IncrementalPolicy(policy));
        }
        (mode @ (SyncMode::Full | SyncMode::Top | SyncMode::None), BitmapPolicy::Never) => {
            return Err(OptionsError::NeverWithout(mode));
        }
        _ => {}
    }
    if o.workers == 0 || o.workers > MAX_WORKERS {
        return Err(OptionsError::Workers(o.workers));
    }
    if !o.cluster.is_power_of_two() || !(MIN_CLUSTER..=MAX_CLUSTER).contains(&o.cluster) {
        return Err(OptionsError::Cluster(o.cluster));
    }
    if o.min_cluster != 0 && !o.min_cluster.is_power_of_two() || o.min_cluster > MAX_UNIT {
        return Err(OptionsError::MinCluster(o.min_cluster));
    }
    if o.writer_wait.is_zero() {
        return Err(OptionsError::WriterWait);
    }
    let unit = o.cluster.max(o.min_cluster);
    if o.staging_file.is_some() && o.staging_memory < 2 * unit {
        return Err(OptionsError::StagingMemory {
            memory: o.staging_memory,
            cluster: unit,
        });
    }
    if matches!(o.on_target_error, ErrorPolicy::Skip { .. }) {
        return Err(OptionsError::SkipOnTarget);
    }
    check_errors("source", &o.on_source_error)?;
    check_errors("target", &o.on_target_error)
}

fn check_errors(side: &'static str, policy: &ErrorPolicy) -> Result<(), OptionsError> {
    let budget = policy.budget();
    if budget.attempts == 0 {
        return Err(OptionsError::NoAttempts(side));
    }
    if budget.total > MAX_WAIT || budget.back_off > MAX_WAIT {
        return Err(OptionsError::LongWait(side));
    }
    if matches!(policy, ErrorPolicy::Skip { limit: 0, .. }) {
        return Err(OptionsError::SkipNothing);
    }
    Ok(())
}

/// Options that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// Incremental fixes the policy.
    #[error(
        "sync mode incremental means policy on-success, not {0}: use sync mode bitmap to choose a policy"
    )]
    IncrementalPolicy(BitmapPolicy),
    /// Never has a meaning only where a bitmap steers the copy.
    #[error(
        "policy never leaves the bitmap as it is, and sync mode {0} does not follow it: use sync mode bitmap or another policy"
    )]
    NeverWithout(SyncMode),
    /// Too few or too many workers.
    #[error("{0} workers: between 1 and {MAX_WORKERS} copies can be under way at once")]
    Workers(usize),
    /// Not a cluster size.
    #[error("cluster size {0}: it must be a power of two from 4 KiB to 2 MiB")]
    Cluster(u64),
    /// Not a unit of copying.
    #[error(
        "minimum cluster size {0}: it must be a power of two up to 16 MiB, or 0 for the target's cluster"
    )]
    MinCluster(u64),
    /// A writer that may not wait at all cannot be fenced.
    #[error("writer wait 0: a fence needs some time, one second is the default")]
    WriterWait,
    /// Old data passes through memory on its way to the scratch file.
    #[error(
        "staging in a file needs memory for two clusters of {cluster} bytes on the way there, and has {memory}: allow more memory"
    )]
    StagingMemory {
        /// Bytes of memory to stage in.
        memory: u64,
        /// Bytes in a cluster.
        cluster: u64,
    },
    /// What cannot be written cannot be left out either.
    #[error(
        "error policy skip is for reading the source: a target that cannot be written needs report, stop, enospc or ignore"
    )]
    SkipOnTarget,
    /// A budget without even a first try.
    #[error(
        "error policy for the {0} allows 0 attempts: the first try counts, so allow at least 1"
    )]
    NoAttempts(&'static str),
    /// A budget that outlasts any watch.
    #[error(
        "error policy for the {0} waits longer than a day: for what takes an operator's time there is stop"
    )]
    LongWait(&'static str),
    /// A permission to leave out nothing.
    #[error("error policy skip allows 0 clusters to be left out: allow at least 1, or report")]
    SkipNothing,
}

#[cfg(test)]
mod tests;
