//! A run that has a number: from surveys to jobs, and one instant for all of them.
//!
//! ```text
//! surveys ─► prepare: all that is durable ─► members of a transaction ─► the fence ─► launch
//! ```
//!
//! Whatever fails before the launch leaves every disk as it was.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_job::{Engine, JobHandle, JobSpec, Txn, TxnHandle};

use super::Backup;
use crate::catalogue::{Answer, Catalogue, Decision, DirectoryId, DiskName, PointRecord, RunId};
use crate::disk::{Decided, Disk, DiskState};
use crate::driver::BackupDriver;
use crate::error::{DiskError, StartError};
use crate::fence::Fence;
use crate::governor::Governor;
use crate::lent::Lent;
use crate::options::OnUndecided;
use crate::plan::Base;
use crate::report::{DiskOutcome, DiskReport, Meter};
use crate::running::{Member, Place, Raised, Running};
use crate::served;
use crate::survey::Survey;
use crate::turns;

/// A run that has a number, on its way to the engine.
pub(super) struct Launch {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) engine: Engine,
    pub(super) journal: Arc<Lent>,
    pub(super) run: RunId,
    pub(super) hurry: Arc<AtomicBool>,
    pub(super) governor: Arc<Governor>,
    pub(super) plan: Backup,
}

impl Launch {
    /// From surveys to jobs.
    pub(super) fn start(
        self,
        surveys: Vec<Survey>,
        mut places: Vec<Place>,
    ) -> Result<Running, StartError> {
        let mut disks = Vec::new();
        for survey in surveys {
            let name = survey.decided.name.clone();
            match self.prepare(survey) {
                Ok(disk) => disks.push(disk),
                Err((disk, error)) if self.plan.individual => {
                    disk.clean();
                    let place = places.iter_mut().find(|place| place.name() == &name);
                    if let Some(place) = place {
                        *place = Place::Out(Box::new(DiskReport::absent(
                            &name,
                            &disk.decided.source.label,
                            DiskOutcome::NotStarted(error),
                        )));
                    }
                }
                Err((disk, error)) => {
                    disk.clean();
                    disks.iter().for_each(|disk: &Arc<Disk>| disk.clean());
                    return Err(StartError::Disk {
                        name,
                        error: Box::new(error),
                    });
                }
            }
        }
        self.launch(disks, places)
    }

    /// Makes everything durable that a disk needs before its fence.
    fn prepare(&self, survey: Survey) -> Result<Arc<Disk>, (Arc<Disk>, DiskError)> {
        let Survey {
            decided,
            notes,
            views,
        } = survey;
        let state = DiskState {
            notes,
            stepped_down: decided.plan.stepped_down.clone(),
            ..DiskState::default()
        };
        let directory = self
            .catalogue
            .snapshot()
            .map(|contents| contents.meta.directory);
        let disk = Arc::new(Disk {
            group: self.group(&decided.name),
            decided,
            member: AtomicU32::new(0),
            run: self.run,
            catalogue: self.catalogue.clone(),
            directory: directory.clone().unwrap_or_else(|_| DirectoryId::random()),
            through: self.plan.through.clone(),
            hurry: self.hurry.clone(),
            meter: Meter::default(),
            writes: Arc::default(),
            governor: self.governor.clone(),
            alone: self.plan.individual || self.plan.disks.len() == 1,
            checkpoints: Arc::default(),
            state: Mutex::new(state),
        });
        let prepared = directory.map_err(DiskError::from).and_then(|_| {
            answer(&disk)?;
            views.map_or(Ok(()), |views| served::prepare(&disk, views))
        });
        match prepared {
            Ok(()) => Ok(disk),
            Err(error) => Err((disk, error)),
        }
    }

    /// The name of the transaction that a disk is in.
    fn group(&self, disk: &DiskName) -> String {
        if self.plan.individual {
            format!("run-{}/{disk}", self.run)
        } else {
            format!("run-{}", self.run)
        }
    }

    /// Adds the members, raises the fence, and lets go.
    fn launch(
        mut self,
        disks: Vec<Arc<Disk>>,
        mut places: Vec<Place>,
    ) -> Result<Running, StartError> {
        let mut txns: Vec<Txn> = Vec::new();
        let mut members: Vec<(Arc<Disk>, JobHandle)> = Vec::new();
        for disk in disks {
            if txns.is_empty() || self.plan.individual {
                txns.push(self.engine.group(disk.group.as_str()));
            }
            let spec = JobSpec::new(disk.decided.name.as_str())
                .kind(PointRecord::KIND)
                .speed(disk.decided.options.speed)
                .tasks(u32::try_from(disk.decided.options.workers).unwrap_or(u32::MAX));
            let before = if self.plan.individual {
                0
            } else {
                members.len()
            };
            disk.member
                .store(u32::try_from(before).unwrap_or(u32::MAX), Ordering::Relaxed);
            let meter = disk.decided.source.tracked().map(|_| &disk.writes);
            self.governor.add(disk.decided.options.workers, meter);
            let txn = txns.last_mut().expect("pushed just now");
            match txn.add(spec, BackupDriver::new(disk.clone())) {
                Ok(job) => members.push((disk, job)),
                Err(error) => {
                    disk.clean();
                    return Err(roll_back(txns, StartError::Engine(error.to_string())));
                }
            }
        }
        let fence = match self.fence(&members) {
            Ok(fence) => fence,
            Err(error) => return Err(roll_back(txns, error)),
        };
        let groups: Vec<TxnHandle> = txns.into_iter().map(Txn::launch).collect();
        for (disk, job) in members {
            if let Some(place) = places
                .iter_mut()
                .find(|place| place.name() == &disk.decided.name)
            {
                *place = Place::In(Box::new(Member { disk, job }));
            }
        }
        Ok(Running::new(
            self.run,
            self.engine,
            self.journal,
            groups,
            places,
            (self.hurry, self.governor),
            fence,
        ))
    }

    /// One instant for all served disks.
    fn fence(&mut self, members: &[(Arc<Disk>, JobHandle)]) -> Result<Option<Raised>, StartError> {
        let served = members
            .iter()
            .filter_map(|(disk, _)| disk.decided.source.tracked().map(|tracked| (disk, tracked)));
        let served: Vec<_> = served.collect();
        let Some(bound) = served
            .iter()
            .map(|(disk, _)| disk.decided.options.writer_wait)
            .min()
        else {
            return Ok(None);
        };
        let mut fence = Fence::new(format!("run {}", self.run), bound);
        for (_, tracked) in &served {
            fence = fence.gate(tracked.gated());
        }
        let hooks = std::mem::take(&mut self.plan.hooks);
        let frozen = !hooks.is_empty();
        for hook in hooks {
            fence = hook
                .join(fence)
                .map_err(|error| StartError::Engine(format!("no thread for a hook: {error}")))?;
        }
        let look = self.plan.inside_fence.take();
        let fenced = fence.raise(|closed| {
            for ((disk, _), gate) in served.iter().zip(closed) {
                served::start(disk, gate);
            }
            if let Some(look) = look {
                look();
            }
        })?;
        served.iter().for_each(|(disk, _)| turns::passed(disk));
        Ok(Some(Raised {
            bound,
            closed_for: fenced.closed_for,
            frozen_for: frozen.then_some(fenced.frozen_for),
            thaw_failures: fenced
                .thaw_failures
                .iter()
                .map(ToString::to_string)
                .collect(),
        }))
    }
}

/// Carries out what was said about a partial: an answer is durable before anything is done with it.
fn answer(disk: &Disk) -> Result<(), DiskError> {
    let Decided {
        name,
        options,
        plan,
        partial,
        ..
    } = &disk.decided;
    let Some(partial) = partial else {
        return Ok(());
    };
    if plan.base == Base::Partial {
        if partial.decision == Decision::Undecided && options.undecided == OnUndecided::Keep {
            disk.catalogue.answer(name, Answer::Keep)?;
        }
        return Ok(());
    }
    let left = plan.partial_left.as_deref();
    disk.note(format!(
        "the partial of run {} is dropped: {}",
        partial.run,
        left.unwrap_or("it is not wanted")
    ));
    disk.drop_partial()
}

/// Undoes transactions that were not launched, and waits until that is done.
fn roll_back(txns: Vec<Txn>, error: StartError) -> StartError {
    let handles: Vec<TxnHandle> = txns.iter().map(Txn::handle).collect();
    drop(txns);
    for handle in handles {
        let _ = handle.wait_until(std::time::Instant::now() + ROLLBACK_WAIT);
    }
    error
}

/// Nothing ran, so hooks only close files.
const ROLLBACK_WAIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod conformance;
