//! Plays a script in a process of its own, which may be killed, or whose files may fail, at a point.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cohort_tests::crash::{How, Point, Reached, Script};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far longer than any run takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a process left.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) folder: TempDir,
    pub(crate) script: Script,
    /// Every point of its last run, in order.
    pub(crate) log: Vec<Reached>,
    /// What it printed.
    pub(crate) said: String,
    /// Whether it ended by itself, and well.
    pub(crate) succeeded: bool,
}

/// Where files cost no syncs, if there is such a place: a kill loses nothing that was written.
pub(crate) fn folder() -> TempDir {
    let fast = Path::new("/dev/shm");
    let made = if fast.is_dir() {
        tempfile::tempdir_in(fast)
    } else {
        tempfile::tempdir()
    };
    made.expect("a folder")
}

/// Plays a script to its end, or to a point.
pub(crate) fn play(script: &Script, at: Option<(&Point, How)>) -> Played {
    let folder = folder();
    let disks = folder.path().join("world");
    fs::create_dir(&disks).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash-run"));
    command.arg(&disks).arg(script.to_string());
    let ended = watched(command, &disks, folder.path(), at);
    Played {
        folder,
        script: script.clone(),
        log: ended.log,
        said: format!("{}{}", ended.stdout, ended.stderr),
        succeeded: ended.code == Some(0),
    }
}

/// What a process did whose durable operations below a folder were written down.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Every point, in order.
    pub(crate) log: Vec<Reached>,
    /// Nothing if it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a process to its end, or to a point of what it does below a folder; its log lies in `beside`.
pub(crate) fn watched(
    mut command: Command,
    world: &Path,
    beside: &Path,
    at: Option<(&Point, How)>,
) -> Ended {
    let log = beside.join("log");
    command.env("COHORT_CRASH", world);
    command.env("COHORT_CRASH_LOG", &log);
    if let Some((point, how)) = at {
        command.env("COHORT_CRASH_AT", point.to_string());
        command.env("COHORT_CRASH_HOW", how.to_string());
    }
    let output = ended(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let parsed = |line: &str| line.parse().unwrap_or_else(|error| panic!("{error}"));
    Ended {
        log: fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .map(parsed)
            .collect(),
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Does the same with each, twice as many at a time as there are processors: a process also waits for its own threads.
pub(crate) fn each<T: Send>(list: Vec<T>, work: impl Fn(T) + Sync) {
    let queue = Mutex::new(list.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..2 * thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(one) = next() {
                    work(one);
                }
            });
        }
    });
}

/// Runs it to its end, which comes: a process that hangs fails the test.
pub(crate) fn ended(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("it starts");
    let process = Pid::from_child(&child);
    let (tell, told) = channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let ended = told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        kill_process(process, Signal::KILL).expect("it can be killed");
        panic!("{command:?} hangs");
    });
    ended.expect("it ran")
}

impl Played {
    pub(crate) fn world(&self) -> std::path::PathBuf {
        self.folder.path().join("world")
    }

    /// Where what was to happen happened.
    pub(crate) fn hit(&self) -> Option<&Reached> {
        self.log.iter().find(|reached| reached.hit)
    }
}
