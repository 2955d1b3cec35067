//! `blockdev-backup` and `drive-backup`: the job. What may be asked for is in `backup/rules.rs`, a drive's target in
//! `backup/drive.rs`, what a backup has while it lasts in `backup/observer.rs`.

mod drive;
mod observer;
mod rules;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use cohort_backup::Prepared;
use cohort_block::Device;
use cohort_job::{JobSpec, Txn};
use cohort_qmp::{Backup, BitmapMode, Error};

use self::observer::{Held, JobObserver};
use self::rules::{MOST_WORKERS, look_at_bitmap, look_at_nodes, plan};
use super::jobs::{Entry, MOST_JOBS, SharedIoStatus};
use super::nodes::{Graph, Node, UseKind, is_identifier};
use super::state::Fresh;
use super::transaction::{Done, Gates};
use super::{Daemon, GATE_WAIT, generic, lock};

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
            handle,
            kind: "backup",
            auto_finalize,
            auto_dismiss,
            started: false,
            before: false,
            outside: false,
            error: None,
            io_status,
        });
        Ok(Done::Job(own))
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
}
