//! What the groups of one engine share: the ready queue, threads, alarms, names, the journal.
//!
//! The only file that reads the clock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::{Event, Request};
use crate::desk::Desk;
use crate::directory::Directory;
use crate::driver::caught;
use crate::group::Group;
use crate::guests::Guests;
use crate::journal::Journal;
use crate::notice::Hub;
use crate::queue::Queue;
use crate::reasons::Reasons;
use crate::recording::Recorder;
use crate::span::Span;
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};
use crate::tasks::Tasks;
use crate::timer::Timer;
use crate::watch::{self, Watch};
use crate::worker;
use crate::{Cause, Disposition, Error, GroupName, Verdict};

/// The time. Nothing else in this room asks for it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What an engine is built with.
pub(crate) struct Settings {
    pub(crate) threads: usize,
    pub(crate) task_limit: u32,
    pub(crate) stuck_after: Duration,
    pub(crate) journal: Option<Arc<dyn Journal>>,
    pub(crate) recorder: Option<Arc<dyn Recorder>>,
}

/// Writes to the journal at a time. A journal may let them share a sync, so more of them take hardly longer.
const JOURNAL_THREADS: usize = 256;

/// The shared half of an engine.
pub(crate) struct Shell {
    settings: Settings,
    epoch: Instant,
    pub(crate) queue: Queue<Span>,
    /// An alarm may be set for long after its group is over, and after everybody has gone: it keeps nobody.
    pub(crate) timer: Timer<(Weak<Group>, u32)>,
    /// Where tasks of jobs run.
    pub(crate) tasks: Arc<Tasks>,
    /// Where the journal is written.
    journal_tasks: Arc<Tasks>,
    pub(crate) directory: Directory,
    pub(crate) hub: Hub,
    pub(crate) desks: Mutex<Vec<Arc<Desk>>>,
    /// Where those sit who run a job themselves.
    pub(crate) guests: Guests,
    /// What drivers wait for.
    pub(crate) reasons: Reasons,
    pub(crate) watch: Watch,
    life: Mutex<Life>,
    calmed: Condvar,
    /// Not 0 once nobody is left who could ask for anything.
    orphaned: AtomicU64,
}

#[derive(Debug, Default)]
struct Life {
    /// Groups that are not over.
    live: usize,
    /// No group starts any more.
    closing: bool,
    /// The journal failed: it takes no more verdicts in this process.
    in_doubt: Option<Error>,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Shell {
    /// Sets everything up and starts the threads, which end once nobody is left and all is over.
    pub(crate) fn start(settings: Settings) -> std::io::Result<Arc<Self>> {
        let threads = settings.threads;
        let shell = Arc::new(Self {
            settings,
            epoch: now(),
            queue: Queue::new(),
            timer: Timer::new(),
            tasks: Arc::new(Tasks::new()),
            journal_tasks: Arc::new(Tasks::at_most(JOURNAL_THREADS)),
            directory: Directory::new(),
            hub: Hub::new(),
            desks: Mutex::new(Vec::new()),
            guests: Guests::default(),
            reasons: Reasons::default(),
            watch: Watch::default(),
            life: Mutex::new(Life::default()),
            calmed: Condvar::new(),
            orphaned: AtomicU64::new(0),
        });
        let started = (0..threads)
            .try_for_each(|_| worker::start(&shell))
            .and_then(|()| shell.start_timer());
        if let Err(error) = started {
            shell.close();
            return Err(error);
        }
        Ok(shell)
    }

    fn start_timer(self: &Arc<Self>) -> std::io::Result<()> {
        let shell = Arc::clone(self);
        let run = move || {
            let ring = |(group, member): (Weak<Group>, u32)| {
                if let Some(group) = group.upgrade() {
                    group.tell([Event::Woken(member)]);
                }
            };
            shell.timer.run(ring, || watch::look(&shell));
        };
        thread::Builder::new()
            .name("cohort-timer".into())
            .spawn(run)
            .map(drop)
    }

    /// How long the engine has been there.
    pub(crate) fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.epoch)
    }

    pub(crate) fn threads(&self) -> usize {
        self.settings.threads
    }

    pub(crate) fn task_limit(&self) -> u32 {
        self.settings.task_limit
    }

    pub(crate) fn stuck_after(&self) -> Duration {
        self.settings.stuck_after
    }

    pub(crate) fn journal(&self) -> Option<&Arc<dyn Journal>> {
        self.settings.journal.as_ref()
    }

    /// Who listens to every turn; mostly nobody.
    pub(crate) fn recorder(&self) -> Option<&dyn Recorder> {
        self.settings.recorder.as_deref()
    }

    pub(crate) fn new_group(self: &Arc<Self>, name: GroupName) -> Arc<Group> {
        self.life.lock().live += 1;
        self.directory
            .add(|id| Group::new(Arc::clone(self), id, name))
    }

    /// Whether groups are still let start.
    pub(crate) fn is_closing(&self) -> bool {
        self.life.lock().closing
    }

    /// Writes a verdict down and tells the group, from a thread that may block; or has the answer at once.
    pub(crate) fn decide(self: &Arc<Self>, group: &Arc<Group>, verdict: Verdict) -> Option<Event> {
        let Some(journal) = self.journal() else {
            // No journal was given: nothing could ever be read back.
            return Some(Event::Decided(Ok(())));
        };
        let (shell, group, journal) = (Arc::clone(self), Arc::clone(group), Arc::clone(journal));
        self.journal_tasks.run(Box::new(move || {
            let records = group.take_records();
            let answer = shell.write(|| journal.decide(&group.name, &verdict, &records));
            drop(journal);
            group.lock().records = records;
            group.decided(answer);
        }));
        None
    }

    /// A group is in doubt: who waits for the engine to calm down need not wait for it.
    pub(crate) fn group_is_in_doubt(&self) {
        // Under the lock, or it could be missed between a look and a wait.
        let life = self.life.lock();
        self.calmed.notify_all();
        drop(life);
    }

    /// Why the journal takes no more verdicts, if it does not.
    pub(crate) fn doubt(&self) -> Option<Error> {
        self.life.lock().in_doubt.clone()
    }

    /// One write to the journal, unless one failed before.
    fn write(&self, decide: impl FnOnce() -> Result<(), crate::JournalError>) -> Result<(), Error> {
        if let Some(error) = &self.life.lock().in_doubt {
            return Err(Error::new(format!(
                "the journal takes no more verdicts, since it failed before: {error}"
            )));
        }
        let answer = catch_unwind(AssertUnwindSafe(decide))
            .unwrap_or_else(|panic| Err(crate::JournalError::new(caught(panic))))
            .map_err(Error::from);
        if let Err(error) = &answer {
            self.life
                .lock()
                .in_doubt
                .get_or_insert_with(|| error.clone());
        }
        answer
    }

    /// The last hook of a group returned: drops its drivers, tells the journal, lets the waiting go.
    pub(crate) fn conclude(self: &Arc<Self>, group: &Arc<Group>, owed: bool) {
        if owed || group.lock().keeps_drivers {
            let drivers = group.drivers();
            (0..drivers.len()).for_each(|member| drivers.discard(member));
        }
        let Some(journal) = self.journal().filter(|_| !owed) else {
            self.finish(group);
            return;
        };
        let (shell, group, journal) = (Arc::clone(self), Arc::clone(group), Arc::clone(journal));
        self.journal_tasks.run(Box::new(move || {
            let owed = group.owed();
            let done = catch_unwind(AssertUnwindSafe(|| journal.done(&owed)))
                .unwrap_or_else(|panic| Err(crate::JournalError::new(caught(panic))));
            if let Err(error) = done {
                tracing::warn!(group = %group.name, %error, "the journal could not note that nothing is owed; the next start repeats the hooks");
            }
            drop(journal);
            shell.finish(&group);
        }));
    }

    fn finish(self: &Arc<Self>, group: &Arc<Group>) {
        if !group.finish() {
            return;
        }
        let mut life = self.life.lock();
        life.live -= 1;
        let last = life.live == 0;
        drop(life);
        self.calmed.notify_all();
        if self.is_orphaned() {
            self.forget(group);
            if last {
                self.close();
            }
        }
    }

    /// Forgets a group that is over and dismissed.
    pub(crate) fn forget(&self, group: &Arc<Group>) {
        drop(self.directory.remove(group.id));
    }

    /// Lets no group start any more, and waits for those that run.
    pub(crate) fn drain(&self, deadline: Instant) {
        self.life.lock().closing = true;
        self.calm_down(deadline);
    }

    /// Lets no group start any more, cancels all with Keep and waits for them; those that are not over.
    pub(crate) fn shut_down(self: &Arc<Self>, deadline: Instant) -> Vec<Arc<Group>> {
        self.life.lock().closing = true;
        for group in self.directory.all() {
            // Refused by those whose verdict is fixed: they end by themselves.
            let _ = group.ask(
                Request::CancelAll(Cause::Shutdown, Disposition::Keep),
                |_| (),
            );
        }
        self.calm_down(deadline);
        let mut rest = self.directory.all();
        rest.retain(|group| !group.is_over());
        rest
    }

    /// Waits until every group is at its end, at most until the deadline.
    fn calm_down(&self, deadline: Instant) {
        let mut life = self.life.lock();
        loop {
            let left = deadline.saturating_duration_since(now());
            let mut groups = self.directory.all().into_iter();
            if left.is_zero() || groups.all(|group| group.is_at_its_end()) {
                break;
            }
            life = self.calmed.wait_timeout(life, left);
        }
    }

    /// The last handle is gone. What runs runs on; what waits for a user's word gets none any more, so
    /// it is cancelled, with Keep.
    pub(crate) fn orphan(self: &Arc<Self>) {
        self.orphaned.store(1, Ordering::SeqCst);
        for group in self.directory.all() {
            if group.is_over() {
                self.forget(&group);
            } else {
                self.speak_for_the_user(&group);
            }
        }
        if self.life.lock().live == 0 {
            self.close();
        }
    }

    pub(crate) fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire) != 0
    }

    /// Cancels an orphaned group if it waits for a user, and lets one go whose verdict is in doubt.
    pub(crate) fn speak_for_the_user(self: &Arc<Self>, group: &Arc<Group>) {
        let (waits, in_doubt) = {
            let turn = group.lock();
            (turn.core.waits_for_a_user(), turn.core.in_doubt())
        };
        if waits {
            let _ = group.ask(
                Request::CancelAll(Cause::Shutdown, Disposition::Keep),
                |_| (),
            );
        } else if in_doubt {
            self.conclude(group, true);
        }
    }

    fn close(&self) {
        self.queue.close();
        self.timer.close();
        self.tasks.close();
        self.journal_tasks.close();
        self.hub.close();
    }

    /// Whether this worker is one more than needed, now that blocked ones came back; then it leaves.
    pub(crate) fn is_to_spare(&self, desk: &Arc<Desk>) -> bool {
        let mut desks = self.desks.lock();
        if desks.len() <= self.settings.threads {
            return !desks.iter().any(|other| Arc::ptr_eq(other, desk));
        }
        let blocked = desks.iter().filter(|desk| desk.is_blocked()).count();
        let spare = desks.len() > self.settings.threads + blocked;
        if spare {
            desks.retain(|other| !Arc::ptr_eq(other, desk));
        }
        spare
    }

    /// Wherever drivers are called.
    pub(crate) fn every_desk(&self) -> Vec<Arc<Desk>> {
        let mut desks = self.desks.lock().clone();
        desks.extend(self.guests.all());
        desks
    }

    /// This desk has no worker any more.
    pub(crate) fn leave(&self, desk: &Arc<Desk>) {
        self.guests.lose(desk);
        self.desks.lock().retain(|other| !Arc::ptr_eq(other, desk));
    }
}
