//! An open group: jobs are added to it, then it is launched.

use std::ops::Range;
use std::sync::Arc;

use crate::core::Request;
use crate::driver::ErasedDriver;
use crate::engine::JobSpec;
use crate::group::{Group, Later};
use crate::handle::{JobHandle, Owner, TxnHandle};
use crate::members::Limits;
use crate::slab::{Slab, slot};
use crate::{
    Cause, Disposition, Driver, GroupName, Hooks, InvalidName, JobId, Kind, MemberName, Refused,
    Spec, worker,
};

/// So many drivers are put in a slab before the group is locked to take them in.
const ADDED_AT_ONCE: usize = 1024;

/// Why a job was not added. Nothing changed.
///
/// ```
/// use cohort_job::{AddError, Engine, JobSpec, Step, from_fn};
///
/// let engine = Engine::new()?;
/// let mut group = engine.group("g");
/// group.add(JobSpec::new("disk0"), from_fn(|_| Step::done()))?;
/// let taken = group.add(JobSpec::new("disk0"), from_fn(|_| Step::done())).unwrap_err();
/// assert!(matches!(&taken, AddError::Taken { name } if name.as_str() == "disk0"));
/// assert_eq!(taken.to_string(), "job name 'disk0' is already in use: dismiss that job first");
/// assert!(matches!(
///     group.add(JobSpec::new("0 disks"), from_fn(|_| Step::done())),
///     Err(AddError::Invalid(_))
/// ));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The name is not one.
    #[error(transparent)]
    Invalid(#[from] InvalidName),
    /// A job of this name is there, and not dismissed.
    #[error("job name '{name}' is already in use: dismiss that job first")]
    Taken {
        /// The name.
        name: MemberName,
    },
    /// The group takes no more members.
    #[error("group '{group}' {refused}")]
    Refused {
        /// The group's name.
        group: GroupName,
        /// Why.
        refused: Refused,
    },
}

/// An open group: jobs are added to it, then it is launched. Dropped instead, it is rolled back:
/// every job that was added is aborted without having run. The hooks for that run on the engine's threads, and
/// names stay taken until they have: wait on [`Txn::handle`] before using one again.
///
/// ```
/// use cohort_job::{Cause, Engine, JobSpec, Outcome, Step, Verdict, from_fn};
///
/// let engine = Engine::new()?;
/// let mut group = engine.group("pair");
/// group.add(JobSpec::new("left"), from_fn(|_| Step::done()))?;
/// group.add(JobSpec::new("right"), from_fn(|_| Step::done()))?;
/// assert_eq!(group.launch().wait(), Some(Verdict::Commit));
///
/// // Never launched: what was added is undone.
/// let mut group = engine.group("second thoughts");
/// let job = group.add(JobSpec::new("left"), from_fn(|_| Step::done()))?;
/// let handle = group.handle();
/// drop(group);
/// handle.wait();
/// let Some(Outcome::Cancelled { cause: Cause::Rollback, .. }) = job.outcome() else {
///     panic!("it never ran")
/// };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a group that was not launched rolls it back"]
pub struct Txn {
    group: Arc<Group>,
    owner: Arc<Owner>,
    /// How many jobs were added.
    len: u32,
    launched: bool,
}

impl Txn {
    pub(crate) fn new(group: Arc<Group>, owner: Arc<Owner>) -> Self {
        Self {
            group,
            owner,
            len: 0,
            launched: false,
        }
    }

    /// Adds a job to the group.
    ///
    /// # Errors
    /// If its name is none or is taken, or the group was cancelled and is over.
    pub fn add(&mut self, spec: JobSpec, driver: impl Driver) -> Result<JobHandle, AddError> {
        self.add_boxed(spec, Box::new(driver))
    }

    /// Adds a job whose driver's type is forgotten.
    ///
    /// # Errors
    /// As [`Txn::add`].
    ///
    /// ```
    /// use cohort_job::{Engine, ErasedDriver, JobSpec, Step, for_each, from_fn};
    ///
    /// let engine = Engine::new()?;
    /// let mut group = engine.group("of two types");
    /// let drivers: Vec<Box<dyn ErasedDriver>> = vec![
    ///     Box::new(from_fn(|_| Step::done())),
    ///     Box::new(for_each(0..3, |_, _| Ok(()))),
    /// ];
    /// for driver in drivers {
    ///     group.add_boxed(JobSpec::unnamed(), driver)?;
    /// }
    /// group.launch().wait();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_boxed(
        &mut self,
        spec: JobSpec,
        driver: Box<dyn ErasedDriver>,
    ) -> Result<JobHandle, AddError> {
        let id = JobId {
            txn: self.group.id,
            member: self.len,
        };
        let name = spec
            .name
            .as_deref()
            .map(|name| self.claim(name, id))
            .transpose()?;
        let freed = name.clone();
        let core_spec = spec.for_core(driver.hooks());
        let limits = spec.limits();
        let added = self.group.add(1, core_spec, |members, names| {
            members.push(driver, limits);
            if let Some(name) = name {
                let kind = spec.kind.unwrap_or_else(|| Kind::new(""));
                names.add(id.member, name, kind);
            }
        });
        if let Err(refused) = added {
            if let Some(name) = &freed {
                self.owner.shell.directory.free(name, id);
            }
            return Err(self.refused(refused));
        }
        self.len += 1;
        Ok(self.job(id.member))
    }

    /// Adds a job for each driver, all treated alike: for many much cheaper than one [`Txn::add`] each. Says which
    /// positions they have; [`TxnHandle::job`] gives a handle for each.
    ///
    /// # Errors
    /// As [`Txn::add`]; what was added before stays. A name would be the same for all: only one job can have it.
    pub fn add_all<D: Driver>(
        &mut self,
        spec: &JobSpec,
        drivers: impl IntoIterator<Item = D>,
    ) -> Result<Range<u32>, AddError> {
        let start = self.len;
        let mut drivers = drivers.into_iter();
        if spec.name.is_some() {
            drivers.try_for_each(|driver| self.add(spec.clone(), driver).map(drop))?;
            return Ok(start..self.len);
        }
        let core_spec = spec.for_core(D::HOOKS);
        self.group.make_room(drivers.size_hint().0);
        loop {
            // The iterator is the user's: it runs while no lock is held.
            let next = drivers.by_ref().take(ADDED_AT_ONCE);
            let slots: Vec<_> = next.map(slot).collect();
            let count = slots.len() as u32;
            if count == 0 {
                return Ok(start..self.len);
            }
            let slab = Box::new(Slab::new(slots));
            self.group
                .add(count, core_spec, |members, _| {
                    members.append(slab, spec.limits());
                })
                .map_err(|refused| self.refused(refused))?;
            self.len += count;
        }
    }

    /// Closes the group and starts every job. A group that was cancelled before ends as aborted instead,
    /// without having run.
    pub fn launch(mut self) -> TxnHandle {
        let later = self.start();
        self.group.carry_out(later);
        self.handle()
    }

    /// The same, and the calling thread runs what it can itself.
    pub(crate) fn launch_here(mut self) {
        let later = self.start();
        if let Some(span) = self.group.carry_on(later, |_| true) {
            worker::run_here(&self.owner.shell, span);
        }
    }

    fn start(&mut self) -> Later {
        self.launched = true;
        if self.owner.shell.is_closing() {
            // Refused only if its verdict is fixed, which it cannot be before the launch.
            let _ = self.group.ask(
                Request::CancelAll(Cause::Shutdown, Disposition::Keep),
                |_| (),
            );
        }
        let sealed = self.group.seal_locked(Request::Launch, false);
        sealed.expect("a group is launched once")
    }

    /// The handle of the group, which outlives this value.
    pub fn handle(&self) -> TxnHandle {
        TxnHandle::new(Arc::clone(&self.group), Arc::clone(&self.owner))
    }

    fn job(&self, member: u32) -> JobHandle {
        JobHandle::new(Arc::clone(&self.group), member, Arc::clone(&self.owner))
    }

    fn refused(&self, refused: Refused) -> AddError {
        AddError::Refused {
            group: self.group.name.clone(),
            refused,
        }
    }

    fn claim(&self, name: &str, job: JobId) -> Result<MemberName, AddError> {
        if !crate::name::is_well_formed(name) {
            return Err(InvalidName {
                name: name.to_owned(),
            }
            .into());
        }
        let name = MemberName::new(name);
        if self.owner.shell.directory.claim(&name, job) {
            Ok(name)
        } else {
            Err(AddError::Taken { name })
        }
    }
}

impl JobSpec {
    fn for_core(&self, hooks: Hooks) -> Spec {
        Spec {
            manual_finalize: self.manual_finalize,
            manual_dismiss: self.manual_dismiss,
            hooks,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            speed: self.speed,
            tasks: self.tasks,
        }
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        if !self.launched {
            let sealed = self.group.seal(Request::Rollback, false);
            debug_assert!(sealed.is_ok(), "a group is rolled back once");
        }
    }
}
