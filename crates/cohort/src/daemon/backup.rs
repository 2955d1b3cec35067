//! `blockdev-backup` and `drive-backup`: what may be asked for, in the order in which QEMU looks at it, and the job.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cohort_backup::{
    BitmapPolicy, Ended, InPlace, Observer, OnError, OnMiss, Part, Prepared, Reaction, Settled,
    Side,
};
use cohort_bitmap::store::SetId;
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{Device, DeviceError, Patience};
use cohort_job::{JobSpec, Record, Txn};
use cohort_qmp::{
    Backup, BackupCommon, BitmapMode, BlockJobError, CreateFile, DriveBackup, Driver, Error, Event,
    FileOptions, NewImageMode, NodeOptions, NodeRef, OnCbwError, Qcow2Options, RawOptions,
    SyncMode,
};

use super::bitmaps::Bitmap;
use super::drivers::Builder;
use super::events::Events;
use super::jobs::{Entry, Jobs, MOST_JOBS, SharedIoStatus};
use super::nodes::{Graph, Node, Owner, Use, UseKind, is_identifier};
use super::place::Purpose;
use super::state::{Clears, Fresh, JobEnd};
use super::transaction::{Done, Gates};
use super::{Daemon, GATE_WAIT, StateDirectory, complain, create, generic, lock};

/// QEMU's least unit of copying.
const LEAST_CLUSTER: u64 = 64 << 10;

/// The largest that can be asked for; a larger one ends QEMU's process.
const MOST_CLUSTER: u64 = 128 << 20;

/// Copies at a time if the client does not say; QEMU has 64 of less work each.
const WORKERS: usize = 8;

/// Most copies at a time.
const MOST_WORKERS: usize = 64;

/// A wait that is none.
const FOR_EVER: Duration = Duration::MAX;

/// What could be done for a backup before its gate was closed: all that takes time. What went wrong with that is told
/// only if nothing else is wrong.
pub(super) struct Early {
    target: Option<Arc<Node>>,
    prepared: Option<Result<Prepared, Error>>,
}

impl Daemon {
    /// Does for a backup what takes its time, if its nodes are there.
    pub(super) fn prepare_backup(&self, backup: &Backup, target: Option<Arc<Node>>) -> Early {
        let graph = self.graph();
        let source = graph.find(&backup.common.device).cloned();
        let target = target.or_else(|| graph.find(&backup.common.target).cloned());
        drop(graph);
        let prepared = source.zip(target.clone()).and_then(|(source, target)| {
            let same = Arc::ptr_eq(&source, &target) || source.disk.size() != target.disk.size();
            let plan = if same {
                None
            } else {
                plan(backup, &source, &target)
            };
            let failed = |error: std::io::Error| Error::generic(error.to_string());
            plan.map(|plan| plan.prepare(Instant::now() + GATE_WAIT).map_err(failed))
        });
        Early { target, prepared }
    }

    /// Looks at everything, then starts the backup inside the closed gates; its job is not launched yet.
    pub(super) fn start_backup(
        self: &Arc<Self>,
        graph: &Graph,
        gates: &mut Gates<'_>,
        backup: &Backup,
        early: Early,
        fresh: Option<Fresh>,
        group: &mut Option<Txn>,
    ) -> Result<Done, Error> {
        let common = &backup.common;
        let source = graph.either(&common.device)?;
        let target = match early.target {
            Some(target) => target,
            None => graph.either(&common.target)?,
        };
        let bitmap = look_at_bitmap(common, &source)?;
        look_at_nodes(graph, common, &source, &target)?;
        let id = common.job_id.as_deref().unwrap_or_default();
        self.look_at_id(id)?;
        let speed = common.speed.unwrap_or(0);
        let Ok(speed) = u64::try_from(speed) else {
            return generic("Parameter 'speed' expects a non-negative value");
        };
        let nothing_early = || Error::generic("the nodes changed while the backup was prepared");
        let prepared = early.prepared.ok_or_else(nothing_early)??;
        let closed = gates.of(&source).ok_or_else(nothing_early)?;

        let io_status = Arc::new(SharedIoStatus::default());
        let observer = Arc::new(JobObserver {
            events: self.events.clone(),
            jobs: self.jobs.clone(),
            state: self.state.clone(),
            id: id.to_owned(),
            io_status: io_status.clone(),
            held: Mutex::new(Some(Held {
                bitmap: bitmap.clone(),
                clears: common.bitmap_mode != Some(BitmapMode::Never),
                lent: Vec::new(),
                source: source.clone(),
                target: target.clone(),
                _uses: [source.claim(UseKind::Source), target.claim(UseKind::Target)],
            })),
        });
        let recording = bitmap.as_ref().is_some_and(|bitmap| bitmap.is_enabled());
        let view = bitmap.as_ref().and_then(|bitmap| bitmap.lend());
        let driver = prepared.start(closed, view, recording, observer.clone());
        let driver = driver.map_err(|error| Error::generic(error.to_string()))?;
        if let Some((bitmap, since)) = bitmap.as_ref().zip(driver.since()) {
            let lent = bitmap.record_since(since, fresh, closed);
            if let Some(held) = &mut *lock(&observer.held) {
                held.lent = lent;
            }
        }

        let (auto_finalize, auto_dismiss) = (
            common.auto_finalize.unwrap_or(true),
            common.auto_dismiss.unwrap_or(true),
        );
        let mut spec = JobSpec::new(id)
            .kind("backup")
            .speed(speed)
            .tasks(MOST_WORKERS as u32);
        if !auto_finalize {
            spec = spec.manual_finalize();
        }
        if !auto_dismiss {
            spec = spec.manual_dismiss();
        }
        let mut own = None;
        let group = match group {
            Some(group) => group,
            None => own.insert(self.engine.group(id)),
        };
        let job = group.add(spec, driver);
        let handle = job.map_err(|error| Error::generic(error.to_string()))?;
        self.jobs.add(Entry {
            id: id.to_owned(),
            handle: handle.clone(),
            kind: "backup",
            auto_finalize,
            auto_dismiss,
            started: false,
            before: false,
            outside: false,
            error: None,
            io_status,
        });
        Ok(Done::Job(handle, own))
    }

    /// Refuses an id that is none, or is taken.
    pub(super) fn look_at_id(&self, id: &str) -> Result<(), Error> {
        if !is_identifier(id) {
            return Err(Error::generic(format!("Invalid job ID '{id}'")));
        }
        let known = self.jobs.find(id);
        if let Some(before) = known.as_ref().filter(|job| job.before) {
            // Whoever begins another of that name has no use for the one before.
            self.jobs.forget(before.handle.id());
            let _ = before.handle.dismiss();
        } else if known.is_some() {
            return Err(Error::generic(format!("Job ID '{id}' already in use")));
        }
        if self.jobs.len() >= MOST_JOBS {
            let text = format!("there are {MOST_JOBS} jobs, which is the most; dismiss one first");
            return Err(Error::generic(text));
        }
        Ok(())
    }

    /// Makes and opens the target of a `drive-backup`; it belongs to the job alone.
    pub(super) fn make_drive(&self, drive: DriveBackup) -> Result<(Backup, Arc<Node>), Error> {
        let mut graph = self.graph();
        let source = graph.either(&drive.common.device)?;
        let format = match &drive.format {
            Some(format) => format.clone(),
            None if source.driver == "qcow2" => "qcow2".to_owned(),
            None => "raw".to_owned(),
        };
        if !["raw", "qcow2"].contains(&format.as_str()) {
            return generic(format!("Unknown file format '{format}'"));
        }
        if drive.mode != Some(NewImageMode::Existing) {
            let path = self.restrict.check(&drive.common.target)?;
            let file = CreateFile {
                filename: path.display().to_string(),
                size: if format == "qcow2" {
                    0
                } else {
                    source.disk.size()
                },
                preallocation: None,
            };
            create::make_file(&path, &file)?;
        }
        let file = |options| NodeOptions {
            node_name: None,
            discard: None,
            cache: None,
            read_only: None,
            auto_read_only: None,
            force_share: None,
            detect_zeroes: None,
            driver: options,
        };
        let mut builder = Builder {
            graph: &mut graph,
            restrict: &self.restrict,
        };
        let protocol = file(Driver::File(FileOptions {
            filename: drive.common.target.clone(),
            locking: None,
            aio: None,
            drop_cache: None,
        }));
        let top = NodeRef::Options(Box::new(protocol.clone()));
        let options = match format.as_str() {
            "raw" => file(Driver::Raw(RawOptions {
                file: top,
                offset: None,
                size: None,
            })),
            "qcow2" => {
                if drive.mode != Some(NewImageMode::Existing) {
                    let node = builder.node(protocol, Owner::Parent)?;
                    create::make_qcow2(&node, source.disk.size(), None)?;
                }
                file(Driver::Qcow2(Qcow2Options {
                    file: top,
                    backing: None,
                    lazy_refcounts: None,
                    pass_discard_request: None,
                    pass_discard_snapshot: None,
                    pass_discard_other: None,
                }))
            }
            other => return generic(format!("Unknown driver '{other}'")),
        };
        let node = builder.node(options, Owner::Parent)?;
        let backup = Backup {
            common: BackupCommon {
                target: node.name.clone(),
                ..drive.common
            },
            x_cohort_ask: None,
            x_cohort_skip_limit: None,
            x_cohort_attempts: None,
            x_cohort_on_cbw_error: None,
            x_cohort_cbw_timeout: None,
        };
        Ok((backup, node))
    }
}

/// The bitmap, if there is one: every rule of it and its mode, in QEMU's order.
fn look_at_bitmap(backup: &BackupCommon, source: &Node) -> Result<Option<Arc<Bitmap>>, Error> {
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
fn look_at_nodes(
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
    Ok(())
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
fn plan(backup: &Backup, source: &Arc<Node>, target: &Arc<Node>) -> Option<InPlace> {
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

/// Tells clients of a backup's errors, and takes back what it had when it ends.
struct JobObserver {
    events: Arc<Events>,
    jobs: Arc<Jobs>,
    state: Arc<StateDirectory>,
    id: String,
    io_status: Arc<SharedIoStatus>,
    held: Mutex<Option<Held>>,
}

/// What a backup has as long as it lasts.
struct Held {
    bitmap: Option<Arc<Bitmap>>,
    /// Whether the bitmap is cleared of what is copied, if all goes well.
    clears: bool,
    /// The sets that the bitmap was made of.
    lent: Vec<SetId>,
    source: Arc<Node>,
    target: Arc<Node>,
    _uses: [Arc<Use>; 2],
}

impl Observer for JobObserver {
    fn failed(&self, side: Side, error: &DeviceError, reaction: Reaction) {
        let action = match reaction {
            Reaction::Report => "report",
            Reaction::Ignore => "ignore",
            Reaction::Stop => "stop",
        };
        let operation = match side {
            Side::Source => "read",
            Side::Target => "write",
        };
        // Not before what the engine has said of the job until now.
        self.events.catch_up();
        self.events.tell(Event::BlockJobError(BlockJobError {
            device: self.id.clone(),
            operation: operation.to_owned(),
            action: action.to_owned(),
        }));
        if reaction == Reaction::Stop {
            let no_space = error.cause().kind() == std::io::ErrorKind::StorageFull;
            self.io_status.stopped(no_space);
        }
    }

    fn prepared(&self, skipped: Option<&DirtyBitmap>) -> Result<Record, cohort_job::Error> {
        let held = lock(&self.held);
        let Some((held, bitmap)) = held
            .as_ref()
            .and_then(|held| Some((held, held.bitmap.as_ref()?)))
        else {
            return Ok(Record::default());
        };
        let Some(store) = self
            .state
            .store_of(&held.source.name)
            .filter(|_| held.clears)
        else {
            return Ok(Record::default());
        };
        if store.outlives_power() {
            // Else a loss of power could take back writes of which the bitmap is about to be cleared.
            let flushed = held.source.disk.flush();
            flushed.map_err(|error| {
                cohort_job::Error::with_source("the disk must be durable first", error)
            })?;
        }
        if let Some(skipped) = skipped.filter(|skipped| !skipped.is_empty())
            && let Some(set) = store.write(&bitmap.name, skipped)
        {
            bitmap.add_set(set);
        }
        let clears = Clears::of(&held.source.name, &bitmap.name, store.id(), &held.lent);
        let record = serde_json::to_vec(&clears).map_err(|error| error.to_string())?;
        Ok(Record(record))
    }

    fn settled(&self, settled: Option<Settled>, ended: Ended) {
        let mut error = None;
        if self.state.is_kept() && ended != Ended::Committed {
            // What the engine has said of the job until now.
            self.events.catch_up();
            let job = self.jobs.find(&self.id);
            let said = job.and_then(|job| job.error);
            error = said.or_else(|| Some("Operation canceled".to_owned()));
        }
        let held = lock(&self.held);
        let Some(held) = &*held else { return };
        let lent = held.bitmap.as_ref().zip(settled);
        let bitmap = lent.map(|(bitmap, settled)| {
            let durable: &[SetId] = if ended == Ended::Committed && held.clears {
                &held.lent
            } else {
                &[]
            };
            bitmap.come_back(settled, &held.target, durable);
            bitmap
        });
        let ended = JobEnd { error };
        let written = self.state.settle_job(&self.id, ended, &held.source, bitmap);
        if let Err(error) = written {
            complain(&format!("job '{}': {}", self.id, error.text));
        }
    }

    fn over(&self) {
        drop(lock(&self.held).take());
    }
}
