//! The engine as its users meet it: built, given groups of jobs, listened to, shut down.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::core::Request;
use crate::driver::ErasedDriver;
use crate::handle::{JobHandle, Owner, TxnHandle};
use crate::journal::{Journal, JournalError, Owed};
use crate::members::Limits;
use crate::notice::Subscription;
use crate::open::{AddError, Txn};
use crate::recording::Recorder;
use crate::shell::{Settings, Shell};
use crate::{Driver, GroupName, JobId, Kind, MemberName, Outcome, Record, Spec, Status};

/// Runs groups of jobs. Cheap to clone.
///
/// Dropping it and every handle loses nothing: what runs, runs to its end. What waits for a user's
/// word is then cancelled with [`Disposition::Keep`](crate::Disposition::Keep), for nobody could say it any more.
///
/// ```
/// use std::time::{Duration, Instant};
/// use cohort_job::{Engine, JobSpec, Outcome, Status, Step, from_fn};
///
/// let engine = Engine::new()?;
/// // Here and now:
/// let outcome = engine.run(JobSpec::new("short"), from_fn(|_| Step::done()))?;
/// assert_eq!(outcome, Some(Outcome::Committed { short: false }));
///
/// // In the background, found again by name or by id, and listed:
/// let job = engine.launch(JobSpec::new("long"), from_fn(|_| Step::Wait("waits for the tide")))?;
/// assert_eq!(engine.job("long").map(|job| job.id()), Some(job.id()));
/// assert!(engine.job_by_id(job.id()).is_some());
/// let listed = engine.snapshot().jobs;
/// assert_eq!((listed.len(), listed[0].status), (1, Status::Running));
///
/// // At the end of the program:
/// let rest = engine.shutdown(Instant::now() + Duration::from_secs(10));
/// assert!(rest.is_empty() && engine.snapshot().jobs.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Engine(Arc<Owner>);

/// Settings for an [`Engine`].
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use cohort_job::{Engine, MemoryJournal, TextRecorder};
///
/// let engine = Engine::builder()
///     .threads(2)
///     .tasks(4)
///     .stuck_after(Duration::from_secs(5))
///     .journal(Arc::new(MemoryJournal::new()))
///     .recorder(Arc::new(TextRecorder::new(Vec::new())))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EngineBuilder {
    threads: usize,
    task_limit: u32,
    stuck_after: Duration,
    journal: Option<Arc<dyn Journal>>,
    recorder: Option<Arc<dyn Recorder>>,
}

/// A job to be added: its name, and how it is to be treated.
///
/// ```
/// use cohort_job::{Engine, JobSpec, Status, Step, from_fn};
///
/// let engine = Engine::new()?;
/// let spec = JobSpec::new("disk0").kind("copy").speed(1 << 20).tasks(8).manual_finalize().manual_dismiss();
/// let job = engine.launch(spec, from_fn(|_| Step::done()))?;
/// while job.status() != Status::Pending {
///     std::thread::yield_now();
/// }
/// // Everything is done, and nothing counts yet.
/// job.finalize()?;
/// job.wait();
/// // It is over, and kept with its name until somebody has looked.
/// assert_eq!(job.status(), Status::Concluded);
/// job.dismiss()?;
/// assert!(engine.job("disk0").is_none());
///
/// let nameless = engine.launch(JobSpec::unnamed(), from_fn(|_| Step::done()))?;
/// assert_eq!(nameless.name(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct JobSpec {
    pub(crate) name: Option<String>,
    pub(crate) kind: Option<Kind>,
    pub(crate) manual_finalize: bool,
    pub(crate) manual_dismiss: bool,
    pub(crate) speed: u64,
    pub(crate) tasks: u32,
}

/// Every job at one moment.
///
/// Example: [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineSnapshot {
    /// Whatever notices up to this number said is in here; later ones may be.
    pub seq: u64,
    /// Jobs that are not dismissed, in order of creation.
    pub jobs: Vec<JobState>,
}

/// One job in a snapshot.
///
/// Example: [`Engine`].
#[derive(Debug, Clone)]
pub struct JobState {
    /// Its id.
    pub id: JobId,
    /// Its name, if it has one.
    pub name: Option<MemberName>,
    /// Its group's name.
    pub group: GroupName,
    /// Where it is in its life.
    pub status: Status,
}

/// What a start found owed and runs again.
///
/// Example: [`Journal`].
#[derive(Debug)]
pub struct Recovered {
    /// The groups whose hooks run now; wait on them.
    pub groups: Vec<TxnHandle>,
    /// Members that nobody could build again: their groups stay owed.
    pub unknown: Vec<(GroupName, MemberName, Kind)>,
}

impl Engine {
    /// An engine with a thread per core, no journal, and the other settings as they are.
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn new() -> std::io::Result<Self> {
        Self::builder().build()
    }

    /// Settings to change before building one.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            threads: thread::available_parallelism().map_or(1, |cores| cores.get()),
            task_limit: 16,
            stuck_after: Duration::from_secs(30),
            journal: None,
            recorder: None,
        }
    }

    /// Opens a group. The name is for the journal and for messages: a group that may have to be recovered
    /// should have one of its own.
    pub fn group(&self, name: impl Into<GroupName>) -> Txn {
        let group = self.0.shell.new_group(name.into());
        Txn::new(group, Arc::clone(&self.0))
    }

    /// Launches one job in a group of its own, which has the job's name.
    ///
    /// # Errors
    /// As [`Txn::add`].
    pub fn launch(&self, spec: JobSpec, driver: impl Driver) -> Result<JobHandle, AddError> {
        let mut txn = self.group(spec.group_name());
        let job = txn.add(spec, driver)?;
        txn.launch();
        Ok(job)
    }

    /// Runs one job in a group of its own and waits for it; none if its group is in doubt. Do not call this inside a
    /// driver.
    ///
    /// The calling thread itself makes the first call of the driver, and those that follow from it at once: a short
    /// job ends without waking anybody. So a call that never returns keeps this from returning too, even when
    /// the job is given up.
    ///
    /// # Errors
    /// As [`Txn::add`].
    pub fn run(&self, spec: JobSpec, driver: impl Driver) -> Result<Option<Outcome>, AddError> {
        let mut txn = self.group(spec.group_name());
        let job = txn.add(spec, driver)?;
        txn.launch_here();
        Ok(job.wait())
    }

    /// The job of this name that is not dismissed.
    pub fn job(&self, name: &str) -> Option<JobHandle> {
        self.job_by_id(self.0.shell.directory.named(name)?)
    }

    /// The job of this id; none if it was dismissed.
    pub fn job_by_id(&self, id: JobId) -> Option<JobHandle> {
        let group = self.0.shell.directory.find(id.txn)?;
        group.lock().core.status(id.member)?;
        Some(JobHandle::new(group, id.member, Arc::clone(&self.0)))
    }

    /// Listens to what happens from now on, with room for so many notices at a time.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        self.0.shell.hub.subscribe(capacity)
    }

    /// The number of the last notice that was given to subscribers.
    pub fn last_seq(&self) -> u64 {
        self.0.shell.hub.last_seq()
    }

    /// Every job that is not dismissed.
    pub fn snapshot(&self) -> EngineSnapshot {
        let seq = self.0.shell.hub.last_seq();
        let mut jobs = Vec::new();
        for group in self.0.shell.directory.all() {
            let turn = group.lock();
            for member in 0..turn.core.len() {
                let Some(status) = turn.core.status(member) else {
                    continue;
                };
                let id = JobId {
                    txn: group.id,
                    member,
                };
                let name = turn.names.of(member).cloned();
                jobs.push(JobState {
                    id,
                    name,
                    group: group.name.clone(),
                    status,
                });
            }
        }
        EngineSnapshot { seq, jobs }
    }

    /// Runs the hooks of the groups that the journal says are owed theirs. `rebuild` makes a driver from
    /// what the one before left; it answers `None` for what it does not know. Call it before the first
    /// group of this process is launched.
    ///
    /// A replayed job knows only its record: whatever else it needs (say that it was softly cancelled,
    /// see [`Context::asked`](crate::Context::asked) in `prepare`) must be in there.
    ///
    /// # Errors
    /// If the journal cannot be read; nothing was run then.
    pub fn recover(
        &self,
        mut rebuild: impl FnMut(
            &GroupName,
            &MemberName,
            &Kind,
            &Record,
        ) -> Option<Box<dyn ErasedDriver>>,
    ) -> Result<Recovered, JournalError> {
        let mut recovered = Recovered {
            groups: Vec::new(),
            unknown: Vec::new(),
        };
        let Some(journal) = self.0.shell.journal() else {
            return Ok(recovered);
        };
        for owed in journal.owed()? {
            let mut drivers = Vec::new();
            let mut incomplete = false;
            for (name, kind, record) in &owed.records {
                let (name, kind) = (name.clone(), kind.clone());
                match rebuild(&owed.group, &name, &kind, record) {
                    Some(driver) => drivers.push((name, kind, driver)),
                    None => {
                        incomplete = true;
                        recovered.unknown.push((owed.group.clone(), name, kind));
                    }
                }
            }
            recovered
                .groups
                .push(self.replay(owed, drivers, incomplete));
        }
        Ok(recovered)
    }

    fn replay(
        &self,
        owed: Owed,
        drivers: Vec<(MemberName, Kind, Box<dyn ErasedDriver>)>,
        incomplete: bool,
    ) -> TxnHandle {
        let group = self.0.shell.new_group(owed.group);
        group.lock().records = owed.records;
        for (name, kind, driver) in drivers {
            let spec = Spec {
                hooks: driver.hooks(),
                ..Spec::default()
            };
            let added = group.add(1, spec, |members, names| {
                // Without a claim on the name: a replayed job is on its way out, and takes nobody's place.
                names.add(members.seats().len() as u32, name, kind);
                members.push(driver, Limits::default());
            });
            debug_assert!(added.is_ok(), "an open group takes members");
        }
        let sealed = group.seal(Request::Replay(owed.verdict), incomplete);
        debug_assert!(sealed.is_ok(), "an open group can be replayed");
        TxnHandle::new(group, Arc::clone(&self.0))
    }

    /// Lets no job start any more, and those that run go on: until all are over, or until the first
    /// deadline. Then it is a [`shutdown`](Engine::shutdown) with the second: what still runs stops at its
    /// next pause point, and keeps what its policy keeps.
    pub fn drain(&self, deadline: Instant, stop_by: Instant) -> Vec<TxnHandle> {
        self.0.shell.drain(deadline);
        self.shutdown(stop_by)
    }

    /// Lets no job start any more, cancels every group with Keep, and waits for them until the deadline.
    /// Returns the groups that are not over by then: they still end by themselves, if they can.
    pub fn shutdown(&self, deadline: Instant) -> Vec<TxnHandle> {
        let rest = self.0.shell.shut_down(deadline);
        rest.into_iter()
            .map(|group| TxnHandle::new(group, Arc::clone(&self.0)))
            .collect()
    }
}

impl EngineBuilder {
    /// How many threads call drivers, at least one; as many as there are cores unless told.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How many tasks of one job run at a time, at least one, unless the job says otherwise; 16 unless told.
    #[must_use]
    pub fn tasks(mut self, limit: u32) -> Self {
        self.task_limit = limit.max(1);
        self
    }

    /// After what time a step or hook that has not returned, or a task that a stopped job waits for,
    /// is reported as stuck and may be given up; 30 seconds unless told.
    #[must_use]
    pub fn stuck_after(mut self, time: Duration) -> Self {
        self.stuck_after = time;
        self
    }

    /// Where verdicts are written. Without a journal nothing is recovered after a crash.
    #[must_use]
    pub fn journal(mut self, journal: Arc<dyn Journal>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Who is told of every turn of every group, for replay: see [`TextRecorder`](crate::TextRecorder).
    #[must_use]
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn build(self) -> std::io::Result<Engine> {
        let shell = Shell::start(Settings {
            threads: self.threads,
            task_limit: self.task_limit,
            stuck_after: self.stuck_after,
            journal: self.journal,
            recorder: self.recorder,
        })?;
        Ok(Engine(Arc::new(Owner { shell })))
    }
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl JobSpec {
    /// A job of this name: an ASCII letter, then ASCII letters, digits, `-`, `.` or `_`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }

    /// The name of a group of its own.
    pub(crate) fn group_name(&self) -> String {
        self.name.clone().unwrap_or_default()
    }

    /// A job without a name.
    pub fn unnamed() -> Self {
        Self::default()
    }

    /// What sort of driver it has, so that [`Engine::recover`] can build it again.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<Kind>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Its group waits for a finalize before it prepares.
    #[must_use]
    pub fn manual_finalize(mut self) -> Self {
        self.manual_finalize = true;
        self
    }

    /// It stays, with its name, until it is dismissed.
    #[must_use]
    pub fn manual_dismiss(mut self) -> Self {
        self.manual_dismiss = true;
        self
    }

    /// Its speed limit in units per second; 0 is none.
    #[must_use]
    pub fn speed(mut self, units_per_second: u64) -> Self {
        self.speed = units_per_second;
        self
    }

    /// How many of its tasks run at a time, at least one.
    #[must_use]
    pub fn tasks(mut self, limit: u32) -> Self {
        self.tasks = limit.max(1);
        self
    }
}
