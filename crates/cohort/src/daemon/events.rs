//! What happens is told to every client, in order.

use std::io;
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
            for update in heard {
                let Some(events) = teller.upgrade() else {
                    return;
                };
                events.forward(update, &jobs, &tally);
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
        let message = event.told_at(SystemTime::now());
        for client in lock(&self.clients).iter() {
            client.tell(&message);
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

    fn forward(&self, update: Update, jobs: &Jobs, tally: &Tally) {
        let seq = match update {
            Update::Lagged { missed } => {
                complain(&format!("{missed} notices of jobs could not be told"));
                lock(&self.told).seq + missed
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
        };
        let mut told = lock(&self.told);
        told.seq = seq;
        if told.waiting > 0 {
            self.progress.notify_all();
        }
    }

    fn status(&self, jobs: &Jobs, job: &Subject, status: Status) {
        let Some(name) = &job.name else { return };
        let entry = jobs.change(job.job, |entry| {
            entry.started |= status == Status::Running;
            if status == Status::Aborting {
                let cancelled = || Some("Operation canceled".to_owned());
                entry.error = entry.error.take().or_else(cancelled);
            }
            entry.clone()
        });
        if let (Status::Concluded, Some(entry)) = (status, &entry) {
            self.state.end_job(name.as_str(), entry.error.clone());
        }
        if status == Status::Null {
            jobs.forget(job.job);
            // Not the job of an earlier daemon whose owed hooks ran.
            if entry.is_some() {
                self.state.forget_job(name.as_str());
            }
        }
        self.tell_status(name.as_str(), status.as_str());
        let Some(entry) = entry.filter(Entry::is_block_job) else {
            return;
        };
        if status == Status::Pending && !entry.auto_finalize {
            self.tell(Event::BlockJobPending(BlockJobPending {
                r#type: entry.kind.to_owned(),
                id: entry.id,
            }));
        }
    }

    /// Tells every client where a job is.
    pub(super) fn tell_status(&self, id: &str, status: &str) {
        self.tell(Event::JobStatusChange(JobStatusChange {
            id: id.to_owned(),
            status: status.to_owned(),
        }));
    }

    fn ended(&self, jobs: &Jobs, job: &Subject, outcome: &Outcome) {
        let entry = jobs.change(job.job, |entry| entry.clone());
        if let Some(entry) = entry.filter(|entry| entry.started && entry.is_block_job()) {
            self.tell_end(entry, outcome);
        }
    }

    /// Tells every client how a backup ended.
    pub(super) fn tell_end(&self, entry: Entry, outcome: &Outcome) {
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
        self.tell(match outcome {
            Outcome::Committed { .. } | Outcome::Failed { .. } => Event::BlockJobCompleted(state),
            Outcome::Cancelled { .. } => Event::BlockJobCancelled(state),
        });
    }
}
