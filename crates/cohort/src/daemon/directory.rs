//! `x-cohort-backup`: runs into backup directories, of the disks that the command line names.
//!
//! A run has an engine of its own, whose journal is the directory's catalogue. Its jobs are listed among the others and
//! take the same verbs; that they came and how they went is told to every client.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cohort_backup::{Backup, DiskSpec, Running, Tracked};
use cohort_job::{JobHandle, Outcome, TxnHandle};
use cohort_qmp::{
    Argument, BackupRun, BackupState, BackupStop, DirectoryBackup, DiskState, Error, Report,
    ReportLine, StopHow,
};
use serde_json::Value;

use super::events::Events;
use super::jobs::Jobs;
use super::state::{JobRow, Row};
use super::tally::Tally;
use super::{Answer, Daemon, ENDING, StateDirectory, complain, generic, lock, nothing};
use crate::commands::{Told, Words, go_on, now, stop};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Most runs that are under way, or over with a report that may still be asked for.
const MOST_RUNS: usize = 64;

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a client that follows a run may take to fetch its report when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    runs: Vec<Arc<Run>>,
    begun: u64,
    /// No more may begin.
    closed: bool,
}

#[derive(Debug)]
struct Run {
    id: String,
    state: Mutex<State>,
    changed: Condvar,
    /// That disks try again which wait for the operator.
    continued: AtomicBool,
}

#[derive(Debug)]
enum State {
    /// Looks at disks and directory; with how it is to be stopped once it runs.
    Starting(Option<StopHow>),
    Under(Running),
    /// Gives the directory free.
    Ending,
    Over {
        told: Told,
        fetched: bool,
    },
}

impl Daemon {
    pub(super) fn directory_backup(&self, asked: &DirectoryBackup) -> Answer {
        let directory = self.restrict.check(&asked.directory)?;
        let backup = self.plan_backup(asked, directory);
        let run = self.runs.begin()?;
        let listing = Listing {
            jobs: self.jobs.clone(),
            events: self.events.clone(),
            tally: self.tally.clone(),
            state: self.state.clone(),
            asked: asked.write(),
        };
        let work = run.clone();
        let carry_out = move || work.carry_out(backup, &listing);
        let started = thread::Builder::new()
            .name("backup".into())
            .spawn(carry_out);
        if let Err(error) = started {
            self.runs.forget(&run);
            return generic(format!("no thread for the run: {error}"));
        }
        let id = run.id.clone();
        Ok(BackupRun { id }.write())
    }

    pub(super) fn backup_stop(&self, wish: &BackupStop) -> Answer {
        self.runs.find(&wish.id)?.stop(wish.how);
        nothing()
    }

    pub(super) fn backup_resume(&self, run: &BackupRun) -> Answer {
        self.runs.find(&run.id)?.go_on();
        nothing()
    }

    pub(super) fn query_backup(&self, run: &BackupRun) -> Answer {
        Ok(self.runs.find(&run.id)?.tell().write())
    }

    /// What is wrong with it is told in its report, as by the command line.
    fn plan_backup(&self, asked: &DirectoryBackup, directory: PathBuf) -> Result<Backup> {
        let words = Words::asked(asked)?;
        let disks = self.chosen(asked.disks.as_deref())?;
        let names: Vec<_> = disks.iter().map(|disk| disk.name().clone()).collect();
        words.all_used(&names)?;
        let individual = asked.individual.unwrap_or(false);
        let mut backup = Backup::to(directory).individual(individual);
        for disk in disks {
            backup = backup.disk(words.spec(DiskSpec::served(disk))?);
        }
        Ok(backup)
    }

    /// The disks of these names, or all.
    fn chosen(&self, names: Option<&[String]>) -> Result<Vec<Arc<Tracked>>> {
        let all = self.disks.tracked();
        let Some(names) = names else {
            return Ok(all);
        };
        let find = |name: &String| {
            let found = all.iter().find(|disk| disk.name().as_str() == name);
            found.cloned().ok_or_else(|| {
                let there: Vec<_> = all.iter().map(|disk| disk.name().as_str()).collect();
                let there = if there.is_empty() {
                    "it was started without disks".to_owned()
                } else {
                    format!("its disks are {}", there.join(", "))
                };
                let message = format_args!("the daemon has no disk '{name}': {there}");
                Failure::say(Exit::SourceMissing, message)
            })
        };
        names.iter().map(find).collect()
    }
}

impl Runs {
    fn begin(&self) -> std::result::Result<Arc<Run>, Error> {
        let mut book = lock(&self.0);
        if book.closed {
            return Err(Error::generic("the daemon is ending"));
        }
        if book.runs.len() >= MOST_RUNS {
            // The oldest report goes.
            let over = book.runs.iter().position(|run| run.is_over());
            let Some(over) = over else {
                let text = format!("{MOST_RUNS} runs are under way, which is the most");
                return Err(Error::generic(text));
            };
            book.runs.remove(over);
        }
        book.begun += 1;
        let run = Arc::new(Run {
            id: format!("backup-{}", book.begun),
            state: Mutex::new(State::Starting(None)),
            changed: Condvar::new(),
            continued: AtomicBool::new(false),
        });
        book.runs.push(run.clone());
        Ok(run)
    }

    fn forget(&self, run: &Arc<Run>) {
        lock(&self.0).runs.retain(|other| !Arc::ptr_eq(other, run));
    }

    fn find(&self, id: &str) -> std::result::Result<Arc<Run>, Error> {
        let book = lock(&self.0);
        let found = book.runs.iter().find(|run| run.id == id).cloned();
        found.ok_or_else(|| Error::generic(format!("there is no run '{id}'")))
    }

    /// Lets none begin any more, and settles those under way by their policies.
    pub(super) fn end(&self) {
        let runs = {
            let mut book = lock(&self.0);
            book.closed = true;
            book.runs.clone()
        };
        runs.iter().for_each(|run| run.stop(StopHow::Keep));
        let deadline = Instant::now() + ENDING;
        for run in &runs {
            if !run.wait_until_over(deadline) {
                complain(&format!("{} does not come to its end", run.id));
            }
        }
        let deadline = Instant::now() + FAREWELL;
        runs.iter().for_each(|run| run.wait_until_fetched(deadline));
    }
}

impl Run {
    /// From its start to its report.
    fn carry_out(&self, backup: Result<Backup>, listing: &Listing) {
        let started = backup.and_then(|backup| backup.start().map_err(Failure::from));
        let told = match started {
            Ok(running) => self.watch(running, listing),
            Err(failure) => Told::from(&failure),
        };
        *lock(&self.state) = State::Over {
            told,
            fetched: false,
        };
        self.changed.notify_all();
    }

    fn watch(&self, running: Running, listing: &Listing) -> Told {
        let listed = listing.list(&running);
        let mut state = lock(&self.state);
        if let State::Starting(Some(how)) = *state {
            stop(&running, how);
        }
        *state = State::Under(running);
        let unfinished =
            |state: &State| matches!(state, State::Under(running) if !running.is_finished());
        while unfinished(&state) {
            let wait = self.changed.wait_timeout(state, LOOK);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            if let State::Under(running) = &*state {
                go_on(&self.continued, running);
            }
        }
        let State::Under(running) = std::mem::replace(&mut *state, State::Ending) else {
            unreachable!("only this thread changes what is under way");
        };
        drop(state);
        listing.count_groups(&listed);
        listing.unlist(listed);
        let report = running.wait();
        if let Some(fence) = &report.fence {
            listing.tally.fenced(fence.closed_for);
        }
        Told::of(&report)
    }

    fn stop(&self, how: StopHow) {
        match &mut *lock(&self.state) {
            State::Starting(wish) => *wish = Some(how),
            State::Under(running) => stop(running, how),
            State::Ending | State::Over { .. } => {}
        }
    }

    fn go_on(&self) {
        self.continued.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn is_over(&self) -> bool {
        matches!(*lock(&self.state), State::Over { .. })
    }

    fn tell(&self) -> BackupState {
        let mut state = lock(&self.state);
        match &mut *state {
            State::Starting(_) | State::Ending => BackupState {
                disks: Vec::new(),
                report: None,
            },
            State::Under(running) => BackupState {
                disks: now(running).into_iter().map(disk_state).collect(),
                report: None,
            },
            State::Over { told, fetched } => {
                *fetched = true;
                self.changed.notify_all();
                BackupState {
                    disks: Vec::new(),
                    report: Some(report(told)),
                }
            }
        }
    }

    fn wait_until_over(&self, deadline: Instant) -> bool {
        let wait = deadline.saturating_duration_since(Instant::now());
        let unfinished = |state: &mut State| !matches!(state, State::Over { .. });
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.state), wait, unfinished);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn wait_until_fetched(&self, deadline: Instant) {
        let wait = deadline.saturating_duration_since(Instant::now());
        let unread = |state: &mut State| !matches!(state, State::Over { fetched: true, .. });
        drop(
            self.changed
                .wait_timeout_while(lock(&self.state), wait, unread),
        );
    }
}

fn disk_state(now: crate::progress::DiskNow) -> DiskState {
    DiskState {
        name: now.name,
        phase: now.phase,
        done: now.done,
        total: now.total,
        stopped: now.stopped,
    }
}

fn report(told: &Told) -> Report {
    let lines = told.lines.iter().cloned();
    Report {
        exit: told.exit.word().to_owned(),
        lines: lines
            .map(|(good, text)| ReportLine { good, text })
            .collect(),
        result: told.result.clone(),
    }
}

/// Where the jobs of a run are listed, told of, counted and written down.
struct Listing {
    jobs: Arc<Jobs>,
    events: Arc<Events>,
    tally: Arc<Tally>,
    state: Arc<StateDirectory>,
    /// The command's arguments.
    asked: Value,
}

impl Listing {
    /// Lists the jobs of a run, and tells that they are there.
    fn list(&self, running: &Running) -> Vec<(String, JobHandle)> {
        let run = running.run().map_or(0, |run| run.0);
        let mut listed = Vec::new();
        for disk in running.disks() {
            let handle = disk.job().clone();
            let name = format!("run-{run}.{}", disk.name());
            let id = self.jobs.add_outside(&name, handle.clone());
            for status in ["created", "running"] {
                self.events.tell_status(&id, status);
            }
            listed.push((id, handle));
        }
        let rows = listed.iter().map(|(id, _)| JobRow {
            id: id.clone(),
            kind: "backup".to_owned(),
            command: "x-cohort-backup".to_owned(),
            arguments: self.asked.clone(),
            ended: None,
        });
        let written = self
            .state
            .change(|all| rows.for_each(|row| all.add(Row::Job(row))));
        if let Err(error) = written {
            complain(&format!("run {run}: {}", error.text));
        }
        listed
    }

    /// Counts how the groups of a run were decided.
    #[allow(
        clippy::mutable_key_type,
        reason = "which group a handle is of never changes"
    )]
    fn count_groups(&self, listed: &[(String, JobHandle)]) {
        let groups: HashSet<_> = listed.iter().map(|(_, handle)| handle.txn()).collect();
        let verdicts = groups.iter().filter_map(TxnHandle::verdict);
        verdicts.for_each(|verdict| self.tally.decided(&verdict));
    }

    /// Tells how the jobs of a run went, and forgets them.
    fn unlist(&self, listed: Vec<(String, JobHandle)>) {
        for (id, handle) in listed {
            let entry = self.jobs.find(&id);
            if let Some((entry, outcome)) = entry.zip(handle.outcome()) {
                let error = match &outcome {
                    Outcome::Committed { .. } => None,
                    Outcome::Failed { error, .. } => Some(error.message().to_owned()),
                    Outcome::Cancelled { .. } => Some("Operation canceled".to_owned()),
                };
                self.state.end_job(&id, error);
                self.events.tell_end(entry, &outcome);
            }
            for status in ["concluded", "null"] {
                self.events.tell_status(&id, status);
            }
            self.jobs.forget_outside(&id);
            self.state.forget_job(&id);
        }
        self.state.flush();
    }
}
