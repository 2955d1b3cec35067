//! The QMP server: nodes, bitmaps, jobs and exports, commanded as QEMU's storage daemon is.
//!
//! Every client has a thread that reads and carries out its commands, and one that writes (`monitor.rs`). Commands
//! change the [`Graph`] one at a time, under its lock; jobs run on the engine, and what they report goes to every
//! client through `events.rs`. No rule of copying or settling is here: `cohort-backup` has them.

mod backup;
mod bitmap_commands;
mod bitmaps;
mod blkdebug;
mod create;
mod directory;
mod disks;
mod drivers;
mod events;
mod exports;
mod info;
mod job_commands;
mod jobs;
mod monitor;
mod node_commands;
mod nodes;
mod objects;
mod part;
mod place;
mod restrict;
mod sharing;
pub(crate) mod state;
mod stats;
mod stored;
mod tally;
mod transaction;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cohort_job::Engine;
use cohort_qmp::{
    Argument, Command, Error, VersionInfo, VersionNumbers, query_commands, query_qmp_schema,
};
use serde_json::{Value, json};

use crate::interrupt::Interrupt;
use crate::metrics::Source;
use crate::output::eprint_line;
use crate::serve::Stopped;
use directory::Runs;
use disks::Disks;
use events::Events;
use exports::Exports;
use jobs::Jobs;
use nodes::Graph;
use restrict::Restrict;
use tally::Tally;

pub(crate) use monitor::Monitor;
pub(crate) use nodes::check_name;
pub(crate) use state::{StateDirectory, StateError};

/// How long a command waits for writes to end where it needs a moment without any.
const GATE_WAIT: Duration = Duration::from_secs(10);

/// How long jobs may take to end when the daemon does.
const ENDING: Duration = Duration::from_secs(30);

/// Where the daemon may go, and how much it may hold.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// What may be opened or made lies in this folder.
    pub(crate) restrict: Option<PathBuf>,
    /// How long requests of NBD clients may take at the end.
    pub(crate) drain: Duration,
    /// What the daemon before left.
    pub(crate) state: Arc<StateDirectory>,
}

/// All that QMP commands work on.
#[derive(Debug)]
pub(crate) struct Daemon {
    engine: Engine,
    graph: Mutex<Graph>,
    jobs: Arc<Jobs>,
    events: Arc<Events>,
    tally: Arc<Tally>,
    exports: Arc<Exports>,
    /// Those of the command line.
    disks: Disks,
    runs: Runs,
    restrict: Restrict,
    state: Arc<StateDirectory>,
    drain: Duration,
    quit: Mutex<Sender<Interrupt>>,
}

type Answer = Result<Value, Error>;

impl Daemon {
    /// A daemon without nodes, which says there that a client wants it to end.
    ///
    /// # Errors
    /// The system has no threads for it, or there is no such folder to be restricted to.
    pub(crate) fn start(settings: Settings, quit: Sender<Interrupt>) -> io::Result<Arc<Self>> {
        let mut engine = Engine::builder();
        if let Some(journal) = settings.state.journal() {
            engine = engine.journal(journal);
        }
        let engine = engine.build()?;
        let jobs = Arc::new(Jobs::default());
        let tally = Arc::new(Tally::new());
        let (state, told) = (settings.state.clone(), tally.clone());
        let events = Events::start(&engine, jobs.clone(), state, told)?;
        Ok(Arc::new(Self {
            engine,
            graph: Mutex::default(),
            jobs,
            events,
            tally,
            exports: Arc::default(),
            disks: Disks::default(),
            runs: Runs::default(),
            drain: settings.drain,
            restrict: Restrict::to(settings.restrict.as_deref())?,
            state: settings.state,
            quit: Mutex::new(quit),
        }))
    }

    /// Ends every export and job, then forgets every node and closes what recorded the writes to them. To be called once.
    pub(crate) fn stop(&self) -> Stopped {
        self.state.begin_end();
        self.runs.end();
        let mut stopped = self.exports.end(self.drain);
        let rest = self.engine.shutdown(Instant::now() + ENDING);
        for group in &rest {
            complain(&format!("job {} does not come to its end", group.name()));
        }
        self.events.catch_up();
        let closing = self.graph().clear();
        let endings = self.disks.let_go(&mut stopped);
        // Bitmaps are saved first: a store takes the files as they are when it is closed.
        stored::wait_for(closing);
        disks::close(endings, &mut stopped);
        self.state.close(&mut stopped);
        self.events.close();
        stopped
    }

    /// Carries a command out. What it set off has been told to every client before this returns.
    fn execute(self: &Arc<Self>, command: Command) -> Answer {
        let answer = self.carry_out_and_keep(command);
        self.events.catch_up();
        self.state.flush();
        answer
    }

    fn dispatch(self: &Arc<Self>, command: Command) -> Answer {
        match command {
            Command::Capabilities(_) => nothing(),
            Command::QueryVersion(_) => Ok(Argument::write(&version())),
            Command::QueryCommands(_) => Ok(query_commands()),
            Command::QueryQmpSchema(_) => Ok(query_qmp_schema()),
            // Who asked is answered first: see `Daemon::quit`.
            Command::Quit(_) => nothing(),
            Command::BlockdevAdd(options) => self.blockdev_add(options),
            Command::BlockdevDel(node) => self.blockdev_del(&node.node_name),
            Command::BlockdevCreate(job) => self.blockdev_create(job),
            Command::BlockdevReopen(reopen) => self.blockdev_reopen(reopen),
            Command::BlockResize(resize) => self.block_resize(&resize),
            Command::QueryNamedBlockNodes(_) => Ok(self.query_named_block_nodes()),
            Command::QueryBlock(_) => Ok(json!([])),
            Command::QueryBlockstats(query) => Ok(self.query_blockstats(&query)),
            Command::BitmapAdd(add) => self.change_bitmap(transaction::Change::Add(add)),
            Command::BitmapRemove(of) => self.change_bitmap(transaction::Change::Remove(of)),
            Command::BitmapClear(of) => self.change_bitmap(transaction::Change::Clear(of)),
            Command::BitmapEnable(of) => self.change_bitmap(transaction::Change::Enable(of)),
            Command::BitmapDisable(of) => self.change_bitmap(transaction::Change::Disable(of)),
            Command::BitmapMerge(merge) => self.change_bitmap(transaction::Change::Merge(merge)),
            Command::BitmapSha256(of) => self.bitmap_sha256(&of),
            Command::BitmapDecide(decide) => self.bitmap_decide(&decide),
            Command::BlockdevBackup(backup) => self.blockdev_backup(backup),
            Command::DriveBackup(backup) => self.drive_backup(backup),
            Command::DirectoryBackup(backup) => self.directory_backup(&backup),
            Command::BackupStop(wish) => self.backup_stop(&wish),
            Command::BackupResume(run) => self.backup_resume(&run),
            Command::QueryBackup(run) => self.query_backup(&run),
            Command::Transaction(transaction) => self.transaction(transaction),
            Command::JobPause(job) => self.on_job(&job.id, |job| job.pause()),
            Command::JobResume(job) => self.on_job(&job.id, |job| job.resume()),
            Command::JobCancel(cancel) => self.job_cancel(&cancel),
            Command::JobComplete(job) => self.on_job(&job.id, |job| job.complete()),
            Command::JobFinalize(job) => self.on_job(&job.id, |job| job.finalize()),
            Command::JobDismiss(job) => self.on_job(&job.id, |job| job.dismiss()),
            Command::QueryJobs(_) => Ok(self.query_jobs()),
            Command::JobWhy(job) => self.job_why(&job.id),
            Command::BlockJobSetSpeed(speed) => self.block_job_set_speed(&speed),
            Command::BlockJobCancel(cancel) => self.block_job_cancel(&cancel),
            Command::BlockJobPause(job) => self.on_block_job(&job.device, |job| job.pause()),
            Command::BlockJobResume(job) => self.on_block_job(&job.device, |job| job.resume()),
            Command::BlockJobComplete(job) => self.on_block_job(&job.device, |job| job.complete()),
            Command::BlockJobFinalize(job) => self.on_block_job(&job.id, |job| job.finalize()),
            Command::BlockJobDismiss(job) => self.on_block_job(&job.id, |job| job.dismiss()),
            Command::QueryBlockJobs(_) => Ok(self.query_block_jobs()),
            Command::QueryStatistics(_) => Ok(Argument::write(&self.statistics())),
            Command::ObjectAdd(object) => self.object_add(object),
            Command::ObjectDel(object) => self.object_del(&object.id),
            Command::NbdServerStart(start) => self.nbd_server_start(&start),
            Command::NbdServerStop(_) => self.nbd_server_stop(),
            Command::NbdServerAdd(add) => self.nbd_server_add(add),
            Command::NbdServerRemove(remove) => self.nbd_server_remove(remove),
            Command::BlockExportAdd(export) => self.block_export_add(export),
            Command::BlockExportDel(export) => self.block_export_del(&export),
            Command::QueryBlockExports(_) => Ok(self.query_block_exports()),
            Command::QueryState(_) => Ok(self.query_state()),
        }
    }

    /// Says that a client wants the end.
    fn quit(&self) {
        // Nobody hears it who is ending already.
        let _ = lock(&self.quit).send(Interrupt);
    }

    /// For whoever tells of it, and does not keep it from ending.
    pub(crate) fn source(self: &Arc<Self>) -> std::sync::Weak<dyn Source> {
        let daemon: Arc<dyn Source> = self.clone();
        Arc::downgrade(&daemon)
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        lock(&self.graph)
    }
}

/// What we say we are: the version whose behaviour this follows, and in `package` the truth.
fn version() -> VersionInfo {
    VersionInfo {
        qemu: VersionNumbers {
            major: 10,
            minor: 0,
            micro: 2,
        },
        package: concat!("cohort ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// What commands return that return nothing.
fn nothing() -> Answer {
    Ok(json!({}))
}

fn generic<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::generic(text))
}

/// Tells whoever runs us what no client is told.
fn complain(what: &str) {
    eprint_line(&format!("cohort: {what}"));
}

/// A panic elsewhere is that command's, or that job's, own affair.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
