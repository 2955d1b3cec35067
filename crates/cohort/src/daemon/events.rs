//! What happens is told to every client, in order.

use std::io;
use std::iter;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use cohort_job::{Engine, News, Outcome, Status, Subject, Update};
use cohort_qmp::{BlockJobPending, BlockJobState, Event, JobStatusChange};

use super::jobs::{Entry, Jobs};
use super::monitor::Client;
use super::tally::Tally;
use super::{StateDirectory, complain, lock};

/// Notices of the engine that may wait to be told. Far more than a bounded number of jobs make in a moment.
const NOTICES: usize = 1 << 20;

/// So many notices are told before anybody is woken to send them on.
const AT_ONCE: usize = 64;

/// How long who must not be overtaken waits for what happened before.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a client may take to read what is left for it when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Everybody who is told, and how far the telling is.
#[derive(Debug)]
pub(super) struct Events {
    engine: Engine,
    state: Arc<StateDirectory>,
    clients: Mutex<Vec<Arc<Client>>>,
    told: Mutex<Told>,
    progress: Condvar,
}

/// How far clients were told of what the engine says.
#[derive(Debug, Default)]
struct Told {
    seq: u64,
    /// How many wait for more.
    waiting: usize,
}

impl Events {
    /// Listens to the engine from now on.
    ///
    /// # Errors
    /// The system has no thread.
    pub(super) fn start(
        engine: &Engine,
        jobs: Arc<Jobs>,
        state: Arc<StateDirectory>,
        tally: Arc<Tally>,
    ) -> io::Result<Arc<Self>> {
        let events = Arc::new(Self {
            engine: engine.clone(),
            state,
            clients: Mutex::default(),
            told: Mutex::default(),
            progress: Condvar::new(),
        });
        let (heard, teller) = (engine.subscribe(NOTICES), Arc::downgrade(&events));
        let tell = move || {
            while let Some(first) = heard.recv() {
                let Some(events) = teller.upgrade() else {
                    return;
                };
                let more = iter::from_fn(|| heard.try_recv());
                let updates = iter::once(first).chain(more).take(AT_ONCE);
                events.forward_all(updates, &jobs, &tally);
            }
        };
        thread::Builder::new()
            .name("qmp-events".into())
            .spawn(tell)?;
        Ok(events)
    }

    /// Adds a client.
    pub(super) fn join(&self, client: &Arc<Client>) {
        lock(&self.clients).push(client.clone());
    }

    /// Forgets a client.
    pub(super) fn leave(&self, client: &Arc<Client>) {
        lock(&self.clients).retain(|other| !Arc::ptr_eq(other, client));
    }

    /// How many clients there are.
    pub(super) fn clients(&self) -> usize {
        lock(&self.clients).len()
    }

    /// Sends every client what is left for it, and away.
    pub(super) fn close(&self) {
        for client in std::mem::take(&mut *lock(&self.clients)) {
            client.drain(FAREWELL);
            client.close();
        }
    }

    /// Tells every client.
    pub(super) fn tell(&self, event: Event) {
        self.put(event);
        self.send();
    }

    /// Puts an event down for every client, to be sent with those that follow.
    fn put(&self, event: Event) {
        let now = SystemTime::now();
        let line = event.line_at(now);
        for client in lock(&self.clients).iter() {
            client.put(&line, now);
        }
    }

    /// Has what was put down sent.
    fn send(&self) {
        for client in lock(&self.clients).iter() {
            client.send();
        }
    }

    /// Waits until all that the engine has said so far is told.
    pub(super) fn catch_up(&self) {
        let until = self.engine.last_seq();
        let mut told = lock(&self.told);
        told.waiting += 1;
        let behind = |told: &mut Told| told.seq < until;
        let waited = self.progress.wait_timeout_while(told, PATIENCE, behind);
        let (mut told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        told.waiting -= 1;
    }

    fn forward_all(&self, updates: impl Iterator<Item = Update>, jobs: &Jobs, tally: &Tally) {
        let mut seq = lock(&self.told).seq;
        for update in updates {
            seq = self.forward(update, seq, jobs, tally);
        }
        self.send();
        let mut told = lock(&self.told);
        told.seq = seq;
        if told.waiting > 0 {
            self.progress.notify_all();
        }
    }

    /// Tells of one notice, after that number, and says which it is.
    fn forward(&self, update: Update, before: u64, jobs: &Jobs, tally: &Tally) -> u64 {
        match update {
            Update::Lagged { missed } => {
                complain(&format!("{missed} notices of jobs could not be told"));
                before + missed
            }
            Update::Notice(notice) => {
                match notice.news {
                    News::Status(job, status) => self.status(jobs, &job, status),
                    News::Ended(job, outcome) => self.ended(jobs, &job, &outcome),
                    News::Failed(job, error) => {
                        jobs.change(job.job, |entry| {
                            entry.error = Some(error.message().to_owned())
                        });
                    }
                    News::Decided(verdict) => tally.decided(&verdict),
                    // Told in the log of the rooms below; QMP has no word for them.
                    News::Stuck(_) | News::GivenUp(_) | News::InDoubt(_) | News::Owed(..) | _ => {}
                }
                notice.seq
            }
        }
    }

    fn status(&self, jobs: &Jobs, job: &Subject, status: Status) {
        let Some(name) = &job.name else { return };
        let known = jobs.change(job.job, |entry| {
            entry.started |= status == Status::Running;
            if status == Status::Aborting {
                let cancelled = || Some("Operation canceled".to_owned());
                entry.error = entry.error.take().or_else(cancelled);
            }
            let error = (status == Status::Concluded).then(|| entry.error.clone());
            let waits = status == Status::Pending && entry.is_block_job() && !entry.auto_finalize;
            (error, waits.then_some(entry.kind))
        });
        if let Some((Some(error), _)) = &known {
            self.state.end_job(name.as_str(), error.clone());
        }
        if status == Status::Null {
            jobs.forget(job.job);
            // Not the job of an earlier daemon whose owed hooks ran.
            if known.is_some() {
                self.state.forget_job(name.as_str());
            }
        }
        self.put(status_change(name.as_str(), status.as_str()));
        if let Some((_, Some(kind))) = known {
            self.put(Event::BlockJobPending(BlockJobPending {
                r#type: kind.to_owned(),
                id: name.as_str().to_owned(),
            }));
        }
    }

    /// Tells every client where a job is.
    pub(super) fn tell_status(&self, id: &str, status: &str) {
        self.tell(status_change(id, status));
    }

    fn ended(&self, jobs: &Jobs, job: &Subject, outcome: &Outcome) {
        let entry = jobs.change(job.job, |entry| entry.clone());
        if let Some(entry) = entry.filter(|entry| entry.started && entry.is_block_job()) {
            self.put(end(entry, outcome));
        }
    }

    /// Tells every client how a backup ended.
    pub(super) fn tell_end(&self, entry: Entry, outcome: &Outcome) {
        self.tell(end(entry, outcome));
    }
}

fn status_change(id: &str, status: &str) -> Event {
    Event::JobStatusChange(JobStatusChange {
        id: id.to_owned(),
        status: status.to_owned(),
    })
}

/// How a backup ended.
fn end(entry: Entry, outcome: &Outcome) -> Event {
    let error = match outcome {
        Outcome::Failed { error, .. } => Some(error.message().to_owned()),
        Outcome::Committed { .. } | Outcome::Cancelled { .. } => None,
    };
    let progress = entry.handle.progress();
    let state = BlockJobState {
        r#type: entry.kind.to_owned(),
        device: entry.id,
        len: progress.total,
        offset: progress.done,
        speed: entry.handle.speed(),
        error,
    };
    match outcome {
        Outcome::Committed { .. } | Outcome::Failed { .. } => Event::BlockJobCompleted(state),
        Outcome::Cancelled { .. } => Event::BlockJobCancelled(state),
    }
}
