//! Handles to jobs and groups: cheap to clone, and dropping one changes nothing.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use crate::core::Request;
use crate::group::Group;
use crate::seat::Seat;
use crate::shell::Shell;
use crate::turn::Turn;
use crate::{
    Cause, Disposition, GroupName, JobId, MemberName, Meter, Outcome, Phase, Refused, Snapshot,
    Status, TxnId, VerbError, Verdict, watch, why,
};

/// Held by everybody who could still ask for something; the last one gone, the engine is orphaned.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) shell: Arc<Shell>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shell.orphan();
    }
}

/// One job. In an async program, await it (or a reference to it): [`JobHandle::wait`] without the thread.
///
/// ```
/// use std::time::{Duration, Instant};
/// use cohort_job::{Disposition, Engine, JobSpec, Phase, Status, Step, from_fn};
///
/// let engine = Engine::new()?;
/// let job = engine.launch(JobSpec::new("copy").speed(100), from_fn(|cx| match cx.pay(10) {
///     Ok(()) => Step::Again,
///     Err(wait) => Step::Sleep(wait),
/// }))?;
/// job.pause()?;
/// while job.status() != Status::Paused {
///     std::thread::yield_now();
/// }
/// assert_eq!(job.why(), "paused: it was paused by a user and waits for a resume");
/// job.resume()?;
/// job.set_speed(1_000)?;
/// assert_eq!((job.speed(), job.txn().phase()), (1_000, Phase::Open));
///
/// // It never ends by itself.
/// assert_eq!(job.wait_until(Instant::now() + Duration::from_millis(1)), None);
/// job.cancel(Disposition::Keep)?;
/// assert!(job.wait().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JobHandle {
    pub(crate) group: Arc<Group>,
    member: u32,
    owner: Arc<Owner>,
}

/// One group; handles are equal if they are of the same one. In an async program, await it (or a reference to it):
/// [`TxnHandle::wait`] without the thread.
///
/// ```
/// use std::time::{Duration, Instant};
/// use cohort_job::{Disposition, Engine, JobSpec, Phase, Step, Verdict, from_fn};
///
/// let engine = Engine::new()?;
/// let mut open = engine.group("three");
/// open.add_all(&JobSpec::unnamed(), (0..3).map(|_| from_fn(|_| Step::Wait("waits for Godot"))))?;
/// let group = open.launch();
/// assert_eq!((group.members().len(), group.verdict()), (3, None));
/// assert_eq!(group.wait_until(Instant::now() + Duration::from_millis(1)), None);
///
/// group.cancel(Disposition::Discard)?;
/// let Some(Verdict::Abort { disposition: Disposition::Discard, .. }) = group.wait() else {
///     panic!("nobody came")
/// };
/// assert!(group.phase() == Phase::Done && !group.in_doubt());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TxnHandle {
    pub(crate) group: Arc<Group>,
    owner: Arc<Owner>,
}

impl JobHandle {
    pub(crate) fn new(group: Arc<Group>, member: u32, owner: Arc<Owner>) -> Self {
        Self {
            group,
            member,
            owner,
        }
    }

    /// Its id in this process.
    pub fn id(&self) -> JobId {
        JobId {
            txn: self.group.id,
            member: self.member,
        }
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<MemberName> {
        self.group.lock().names.of(self.member).cloned()
    }

    /// Its group.
    pub fn txn(&self) -> TxnHandle {
        TxnHandle::new(Arc::clone(&self.group), Arc::clone(&self.owner))
    }

    /// Where it is in its life; [`Status::Null`] once dismissed.
    pub fn status(&self) -> Status {
        self.group
            .lock()
            .core
            .status(self.member)
            .unwrap_or(Status::Null)
    }

    /// How it ended, also after it was dismissed; none until it is concluded.
    pub fn outcome(&self) -> Option<Outcome> {
        self.group.lock().outcome(self.member)
    }

    /// How far it is.
    pub fn progress(&self) -> Snapshot {
        self.group
            .with_seat(self.member, Seat::progress)
            .unwrap_or_default()
    }

    /// Watches its progress: how fast it is, and how much longer it will take.
    pub fn meter(&self) -> Meter {
        Meter::new(self.clone())
    }

    /// Its speed limit in units per second; 0 is none.
    pub fn speed(&self) -> u64 {
        let speed = |seat: &Seat| seat.odds_if_any().map_or(0, |odds| odds.limit.speed());
        self.group.with_seat(self.member, speed).unwrap_or_default()
    }

    /// Whether the user has paused it: not whether it has come to rest by now.
    pub fn is_paused_by_user(&self) -> bool {
        self.group.lock().core.is_paused_by_user(self.member)
    }

    /// Whether anything holds it, the user's pause or a [`Hold`](crate::Hold).
    pub fn is_held(&self) -> bool {
        self.group.lock().core.is_held(self.member)
    }

    /// One sentence: what it waits for, or what ended it.
    pub fn why(&self) -> String {
        why::sentence(&self.group, self.member)
    }

    /// Waits until its group is over, and says how the job ended; none if the group is in doubt, which no
    /// waiting changes. Do not wait inside a driver: it keeps a worker from its work.
    pub fn wait(&self) -> Option<Outcome> {
        self.group.wait(None).then(|| self.outcome())?
    }

    /// The same, but not longer than until the deadline; none if it is not over by then.
    pub fn wait_until(&self, deadline: Instant) -> Option<Outcome> {
        self.group.wait(Some(deadline)).then(|| self.outcome())?
    }

    /// Ends it early, and its group with it. A converged job that is told Keep finishes instead, without
    /// its switch-over, and does not disturb its group.
    ///
    /// # Errors
    /// If the verdict of its group is fixed.
    pub fn cancel(&self, disposition: Disposition) -> Result<(), VerbError> {
        self.ask(Request::Cancel(self.member, disposition))
    }

    /// Holds it at its next pause point.
    ///
    /// # Errors
    /// If it is paused already, or too far for it.
    pub fn pause(&self) -> Result<(), VerbError> {
        self.ask_of_pause(Request::Pause(self.member))
    }

    /// Takes the pause back.
    ///
    /// # Errors
    /// If it was not paused.
    pub fn resume(&self) -> Result<(), VerbError> {
        self.ask_of_pause(Request::Resume(self.member))
    }

    /// Changes its speed limit, in units per second; 0 is none.
    ///
    /// # Errors
    /// If it does not run any more.
    pub fn set_speed(&self, units_per_second: u64) -> Result<(), VerbError> {
        let mut raises = false;
        let look = |seat: &Seat| {
            let mut odds = seat.odds();
            // Tried on a copy: a refusal must change nothing.
            let mut limit = odds.limit;
            raises = limit.set_speed(units_per_second);
            std::mem::replace(&mut odds.limit, limit)
        };
        let before = self.group.with_seat(self.member, look);
        let asked = self.ask(Request::SetSpeed {
            member: self.member,
            raises,
        });
        if let (Err(_), Some(before)) = (&asked, before) {
            self.group
                .with_seat(self.member, |seat| seat.odds().limit = before);
        }
        asked
    }

    /// Asks a converged job to end well, with its switch-over.
    ///
    /// # Errors
    /// If it is not ready.
    pub fn complete(&self) -> Result<(), VerbError> {
        self.ask(Request::Complete(self.member))
    }

    /// Has its whole group prepare, then commit or abort.
    ///
    /// # Errors
    /// If it is not pending.
    pub fn finalize(&self) -> Result<(), VerbError> {
        self.ask(Request::Finalize(self.member))
    }

    /// Forgets a concluded job and frees its name.
    ///
    /// # Errors
    /// If it is not concluded.
    pub fn dismiss(&self) -> Result<(), VerbError> {
        self.ask(Request::Dismiss(self.member))
    }

    /// Goes on without a job that was reported stuck. Whoever asks has made sure before that nothing its
    /// driver still does can reach what is being settled.
    ///
    /// # Errors
    /// If it is not stuck.
    ///
    /// ```
    /// use std::sync::mpsc::channel;
    /// use std::time::Duration;
    /// use cohort_job::{Engine, JobSpec, News, Step, Update, from_fn};
    ///
    /// let engine = Engine::builder().stuck_after(Duration::from_millis(10)).build()?;
    /// let news = engine.subscribe(100);
    /// let (never, hangs) = channel::<()>();
    /// let job = engine.launch(JobSpec::new("tape"), from_fn(move |_| {
    ///     let _ = hangs.recv();
    ///     Step::done()
    /// }))?;
    /// // Told by name; until then, and of a job that is not stuck, this is refused.
    /// let stuck = |update: &Update| matches!(update, Update::Notice(told) if matches!(told.news, News::Stuck(_)));
    /// assert!(news.into_iter().any(|update| stuck(&update)));
    /// job.give_up()?;
    /// job.wait();
    /// assert_eq!(job.why(), "failed: given up: it was stuck and did not come back");
    /// drop(never);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn give_up(&self) -> Result<(), VerbError> {
        watch::give_up(&self.owner.shell, &self.group, self.member)
            .map_err(|refused| self.error(refused))
    }

    pub(crate) fn member(&self) -> u32 {
        self.member
    }

    pub(crate) fn ask(&self, request: Request) -> Result<(), VerbError> {
        self.group
            .ask(request, |_| ())
            .map_err(|refused| self.error(refused))
    }

    /// A user's word on its pause: why its driver paused it before says nothing any more.
    fn ask_of_pause(&self, request: Request) -> Result<(), VerbError> {
        let forget = |turn: &mut Turn| drop(turn.paused_themselves.remove(&self.member));
        self.group
            .ask(request, forget)
            .map_err(|refused| self.error(refused))
    }

    fn error(&self, refused: Refused) -> VerbError {
        VerbError {
            job: self.group.lock().names.text(self.member),
            refused,
        }
    }
}

impl fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobHandle({})", self.id())
    }
}

impl TxnHandle {
    pub(crate) fn new(group: Arc<Group>, owner: Arc<Owner>) -> Self {
        Self { group, owner }
    }

    /// Its id in this process.
    pub fn id(&self) -> TxnId {
        self.group.id
    }

    /// Its name.
    pub fn name(&self) -> &GroupName {
        &self.group.name
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.group.lock().core.phase()
    }

    /// What was decided; none before.
    pub fn verdict(&self) -> Option<Verdict> {
        self.group.lock().core.verdict()
    }

    /// Whether the verdict could not be written down, so that only the next start will know it.
    pub fn in_doubt(&self) -> bool {
        self.group.lock().core.in_doubt()
    }

    /// The job at this position in creation order, if there is one.
    pub fn job(&self, member: u32) -> Option<JobHandle> {
        let known = member < self.group.lock().core.len();
        known.then(|| JobHandle::new(Arc::clone(&self.group), member, Arc::clone(&self.owner)))
    }

    /// Its jobs, in creation order.
    pub fn members(&self) -> Vec<JobHandle> {
        let count = self.group.lock().core.len();
        let handle =
            |member| JobHandle::new(Arc::clone(&self.group), member, Arc::clone(&self.owner));
        (0..count).map(handle).collect()
    }

    /// Ends every job early. If all have converged and are told Keep, each finishes without its
    /// switch-over, and the group commits.
    ///
    /// # Errors
    /// If the verdict is fixed.
    pub fn cancel(&self, disposition: Disposition) -> Result<(), VerbError> {
        let request = Request::CancelAll(Cause::User, disposition);
        let name = || self.group.name.to_string();
        self.group
            .ask(request, |_| ())
            .map_err(|refused| VerbError {
                job: name(),
                refused,
            })
    }

    /// Waits until every hook has returned, and says what was decided; none if the group is in doubt,
    /// which no waiting changes. Do not wait inside a driver.
    pub fn wait(&self) -> Option<Verdict> {
        self.group.wait(None).then(|| self.verdict())?
    }

    /// The same, but not longer than until the deadline; none if it is not over by then.
    pub fn wait_until(&self, deadline: Instant) -> Option<Verdict> {
        self.group.wait(Some(deadline)).then(|| self.verdict())?
    }
}

impl PartialEq for TxnHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.group, &other.group)
    }
}

impl Eq for TxnHandle {}

impl Hash for TxnHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.group).hash(state);
    }
}

impl fmt::Debug for TxnHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxnHandle({} {:?})", self.group.id, self.group.name)
    }
}
