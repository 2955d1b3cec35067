//! What may be asked of a backup, in the order in which QEMU looks at it and in its words; and the plan that comes of it.

use std::sync::Arc;
use std::time::Duration;

use cohort_backup::{BitmapPolicy, InPlace, OnError, OnMiss, Part};
use cohort_bitmap::Granularity;
use cohort_block::{Device, Patience};
use cohort_qmp::{Backup, BackupCommon, BitmapMode, Error, OnCbwError, SyncMode};

use crate::daemon::bitmaps::Bitmap;
use crate::daemon::generic;
use crate::daemon::nodes::{Graph, Node};
use crate::daemon::place::Purpose;
use crate::daemon::sharing::refuse_backup;

/// QEMU's least unit of copying.
const LEAST_CLUSTER: u64 = 64 << 10;

/// The largest that can be asked for; a larger one ends QEMU's process.
const MOST_CLUSTER: u64 = 128 << 20;

/// Copies at a time if the client does not say; QEMU has 64 of less work each.
const WORKERS: usize = 8;

/// Most copies at a time.
pub(super) const MOST_WORKERS: usize = 64;

/// A wait that is none.
const FOR_EVER: Duration = Duration::MAX;

/// The bitmap, if there is one: every rule of it and its mode, in QEMU's order.
pub(super) fn look_at_bitmap(
    backup: &BackupCommon,
    source: &Node,
) -> Result<Option<Arc<Bitmap>>, Error> {
    let sync = backup.sync;
    let by_bitmap = matches!(sync, SyncMode::Bitmap | SyncMode::Incremental);
    if by_bitmap && backup.bitmap.is_none() {
        return generic(format!(
            "must provide a valid bitmap name for '{sync}' sync mode"
        ));
    }
    let mut mode = backup.bitmap_mode;
    if sync == SyncMode::Incremental {
        if mode.is_some_and(|mode| mode != BitmapMode::OnSuccess) {
            return generic(
                "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
            );
        }
        mode = Some(BitmapMode::OnSuccess);
    }
    let Some(name) = &backup.bitmap else {
        if mode.is_some() {
            return generic("Cannot specify bitmap sync mode without a bitmap");
        }
        return Ok(None);
    };
    let Some(bitmap) = source.bitmap(name) else {
        return generic(format!("Bitmap '{name}' could not be found"));
    };
    let Some(mode) = mode else {
        return generic("Bitmap sync mode must be given when providing a bitmap");
    };
    bitmap.check(Purpose::Use)?;
    if sync == SyncMode::None {
        return generic("sync mode 'none' does not produce meaningful bitmap outputs");
    }
    if mode == BitmapMode::Never && sync != SyncMode::Bitmap {
        return generic(format!(
            "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{sync}'"
        ));
    }
    if mode != BitmapMode::Never {
        bitmap.check(Purpose::Change)?;
    }
    if bitmap.is_undecided() {
        return generic(format!(
            "Bitmap '{name}' waits for an answer: say x-cohort-bitmap-decide with keep or discard first"
        ));
    }
    Ok(Some(bitmap))
}

/// The nodes and how they are used, in QEMU's order.
pub(super) fn look_at_nodes(
    graph: &Graph,
    backup: &BackupCommon,
    source: &Arc<Node>,
    target: &Arc<Node>,
) -> Result<(), Error> {
    if Arc::ptr_eq(source, target) {
        return generic("Source and target cannot be the same");
    }
    if backup.compress == Some(true) {
        return generic("Compression is not supported for this drive ");
    }
    source.refuse_if_target()?;
    target.refuse_if_target()?;
    if target.traits.read_only {
        return generic("Block node is read-only");
    }
    let perf = backup.x_perf.as_ref();
    let workers = perf.and_then(|perf| perf.max_workers);
    if workers.is_some_and(|workers| !(1..=i64::from(i32::MAX)).contains(&workers)) {
        return generic("max-workers must be between 1 and 2147483647");
    }
    let chunk = perf.and_then(|perf| perf.max_chunk).unwrap_or(0);
    if chunk < 0 {
        return generic("max-chunk must be zero (which means no limit) or positive");
    }
    if source.disk.size() != target.disk.size() {
        return generic("Source and target image have different sizes");
    }
    if let Some(name) = &backup.filter_node_name {
        let named = |error: Error| Error::generic(format!("Could not create node: {}", error.text));
        graph.check_new_name(name).map_err(named)?;
    }
    let least = perf.and_then(|perf| perf.min_cluster_size).unwrap_or(0);
    if least > i64::MAX as u64 {
        return generic(format!(
            "min-cluster-size too large: {least} > {}",
            i64::MAX
        ));
    }
    if least > 0 && !least.is_power_of_two() {
        return generic(
            "Could not create node: Cannot create block-copy-state: min-cluster-size needs to be a power of 2",
        );
    }
    if least > MOST_CLUSTER {
        return generic(format!(
            "min-cluster-size too large: {least} > {MOST_CLUSTER}"
        ));
    }
    let cluster = cluster(backup, target).bytes();
    if chunk > 0 && (chunk as u64) < cluster {
        return generic(format!(
            "Required max-chunk ({chunk}) is less than backup cluster size ({cluster})"
        ));
    }
    if backup.discard_source == Some(true) {
        return generic("discard-source is not supported: the source keeps what was copied");
    }
    refuse_backup(source, target)
}

/// The unit of copying.
fn cluster(backup: &BackupCommon, target: &Node) -> Granularity {
    let least = backup
        .x_perf
        .as_ref()
        .and_then(|perf| perf.min_cluster_size);
    let bytes = LEAST_CLUSTER
        .max(least.unwrap_or(0))
        .max(target.cluster.unwrap_or(0));
    Granularity::new(bytes).unwrap_or(Granularity::DEFAULT)
}

/// The job as the backup room knows it; nothing if an argument makes no sense, which is told elsewhere.
pub(super) fn plan(backup: &Backup, source: &Arc<Node>, target: &Arc<Node>) -> Option<InPlace> {
    let common = &backup.common;
    let perf = common.x_perf.as_ref();
    let number = |value: Option<i64>| value.map(u64::try_from).transpose().ok();
    let workers = number(perf.and_then(|perf| perf.max_workers))?;
    let workers = workers.map_or(WORKERS, |asked| {
        usize::try_from(asked).unwrap_or(MOST_WORKERS)
    });
    let least = perf.and_then(|perf| perf.min_cluster_size).unwrap_or(0);
    if least > MOST_CLUSTER || (least > 0 && !least.is_power_of_two()) {
        return None;
    }
    let policy = match common.bitmap_mode {
        Some(BitmapMode::Always) if backup.x_cohort_ask == Some(true) => BitmapPolicy::Ask,
        Some(BitmapMode::Always) => BitmapPolicy::Always,
        Some(BitmapMode::Never) => BitmapPolicy::Never,
        Some(BitmapMode::OnSuccess) | None => BitmapPolicy::OnSuccess,
    };
    let on_miss = match backup.x_cohort_on_cbw_error {
        Some(OnCbwError::BreakSnapshot) => OnMiss::BreakBackup,
        Some(OnCbwError::BreakGuestWrite) | None => OnMiss::BreakWrite,
    };
    let bound = match backup.x_cohort_cbw_timeout {
        None | Some(0) => FOR_EVER,
        Some(seconds) => Duration::from_secs(seconds.into()),
    };
    Some(InPlace {
        source: source.disk.clone(),
        target: target.disk.clone(),
        part: match common.sync {
            SyncMode::Full => Part::Full,
            SyncMode::Top => Part::Top,
            SyncMode::None => Part::Overwritten,
            SyncMode::Bitmap | SyncMode::Incremental => Part::Bitmap,
        },
        cluster: cluster(common, target),
        workers: workers.clamp(1, MOST_WORKERS),
        chunk: number(perf.and_then(|perf| perf.max_chunk))?.unwrap_or(0),
        policy,
        on_source_error: on_error(common.on_source_error),
        on_target_error: on_error(common.on_target_error),
        attempts: backup.x_cohort_attempts,
        skip_limit: backup.x_cohort_skip_limit.unwrap_or(0),
        patience: Patience { bound, on_miss },
    })
}

fn on_error(word: Option<cohort_qmp::OnError>) -> OnError {
    use cohort_qmp::OnError as Word;
    match word {
        None | Some(Word::Report) => OnError::Report,
        Some(Word::Ignore) => OnError::Ignore,
        Some(Word::Enospc | Word::Auto) => OnError::Enospc,
        Some(Word::Stop) => OnError::Stop,
    }
}
