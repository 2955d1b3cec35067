//! Names every durable operation below a folder, and has the process die, or the operation fail, at one of them.
//!
//! The environment says which: `COHORT_CRASH` is the folder, `COHORT_CRASH_LOG` the file to which each point is written,
//! `COHORT_CRASH_AT` a point, and `COHORT_CRASH_HOW` what happens there (`kill`, `full`, `readonly`, `io`).

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use cohort_tests::crash::{How, Phase, Point, Reached};
use nix::errno::Errno;
use rustix::fs::{Access, CWD, Mode, OFlags};
use rustix::process::{Signal, getpid, kill_process};

/// What is asked of the operating system.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation<'a> {
    /// A file or folder is made.
    Make,
    /// A file that is there is opened to be written to: no point, but a read-only file system refuses it.
    Open,
    /// So many bytes from an offset on.
    Write(u64, u64),
    /// The file is cut or grown to a length.
    Cut(u64),
    Sync,
    Rename,
    Remove,
    /// Not one of the operating system's: a hook of this disk's job begins or ends.
    Hook(&'a str),
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PHASE: AtomicU8 = AtomicU8::new(Phase::Starting as u8);
static WATCH: OnceLock<Watch> = OnceLock::new();

struct Watch {
    folder: PathBuf,
    log: Option<rustix::fd::OwnedFd>,
    at: Option<(Point, How)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: BTreeMap<String, u32>,
    /// From the point on: what every operation on this side of the folder is told.
    broken: Option<(How, Side)>,
    /// What writes that no sync covers wrote over, by file, with the file's length before.
    unsynced: BTreeMap<PathBuf, Vec<(u64, Vec<u8>, u64)>>,
}

/// Where a full or read-only file system is: the backup directory, or what lies beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Directory,
    Beside,
}

/// From now on operations are points. Nothing happens without `COHORT_CRASH`.
pub(crate) fn arm() {
    let Some(folder) = std::env::var_os("COHORT_CRASH") else {
        return;
    };
    let text = |name| std::env::var(name).ok();
    let log = text("COHORT_CRASH_LOG").and_then(|path| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).ok()
    });
    let at = text("COHORT_CRASH_AT").map(|at| at.parse().expect("a point"));
    let how = text("COHORT_CRASH_HOW").map_or(How::Kill, |how| how.parse().expect("a way"));
    let watch = WATCH.set(Watch {
        folder: folder.into(),
        log,
        at: at.map(|at| (at, how)),
        state: Mutex::default(),
    });
    assert!(watch.is_ok(), "armed once");
    ARMED.store(true, Ordering::SeqCst);
}

pub(crate) fn is_armed() -> bool {
    ARMED.load(Ordering::Relaxed)
}

/// How far the run is.
pub(crate) fn phase() -> Phase {
    Phase::ALL[usize::from(PHASE.load(Ordering::SeqCst))]
}

pub(crate) fn enter(phase: Phase) {
    PHASE.store(phase as u8, Ordering::SeqCst);
}

pub(crate) fn exists(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
}

/// A hook of a disk's job begins or ends.
pub(crate) fn hook(disk: &str, name: &str) {
    if let Some(watch) = WATCH.get() {
        // Hooks do not fail by themselves.
        let _ = watch.pass(name.to_owned(), disk, Path::new(""), Operation::Hook(name));
    }
}

/// An operation is about to be carried out.
pub(crate) fn reach(path: &Path, operation: Operation<'_>) -> Result<(), Errno> {
    let Some(watch) = WATCH.get() else {
        return Ok(());
    };
    let Ok(inside) = path.strip_prefix(&watch.folder) else {
        return Ok(());
    };
    let Some((kind, disk)) = kind_of(inside) else {
        return Ok(());
    };
    let name = format!("{kind}.{}", word(operation));
    watch.pass(name, disk, path, operation)
}

fn word(operation: Operation<'_>) -> &str {
    match operation {
        Operation::Make => "make",
        Operation::Open => "open",
        Operation::Write(..) => "write",
        Operation::Cut(_) => "cut",
        Operation::Sync => "sync",
        Operation::Rename => "rename",
        Operation::Remove => "remove",
        Operation::Hook(name) => name,
    }
}

/// What a file below the folder is, and of which disk.
fn kind_of(inside: &Path) -> Option<(&'static str, &str)> {
    let text = inside.to_str()?.trim_end_matches(" (deleted)");
    let file = text.strip_prefix("R/");
    let (kind, length, of) = match (text, file) {
        ("R", _) => ("directory", 0, ""),
        ("", _) => ("folder", 0, ""),
        (_, Some("catalogue.redb")) => ("catalogue", 0, ""),
        (_, Some("catalogue.redb.new")) => ("new-catalogue", 0, ""),
        (_, Some("catalogue.lock" | "catalogue.gate")) => ("lock", 0, ""),
        (_, Some(file)) => {
            let of = file.split_once('.').map_or("", |(of, _)| of);
            let (kind, length) = match Path::new(file).extension().and_then(|e| e.to_str()) {
                Some("qcow2") => ("target", of.len()),
                Some("digests") => ("digests", of.len()),
                // Without a name: where digests wait to be written down.
                _ => ("spool", 0),
            };
            (kind, length, of)
        }
        (beside, None) => {
            let of = beside.split_once('.').map_or("", |(of, _)| of);
            let kind = match beside {
                // What is restored, under its name or a hidden one.
                _ if beside.trim_start_matches('.').starts_with("out.") => {
                    return Some(("output", ""));
                }
                _ if beside.ends_with(".raw") => "disk",
                _ if beside.ends_with(".qcow2") => "image",
                _ if beside.contains(".cohort") => "store",
                _ => return None,
            };
            (kind, of.len(), of)
        }
    };
    Some((kind, &of[..length]))
}

impl Watch {
    fn pass(
        &self,
        name: String,
        disk: &str,
        path: &Path,
        operation: Operation<'_>,
    ) -> Result<(), Errno> {
        let side = match path.strip_prefix(self.folder.join("R")) {
            Ok(_) => Side::Directory,
            Err(_) => Side::Beside,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((how, broken)) = state.broken {
            return match broken == side {
                true => how.refuses(operation),
                false => Ok(()),
            };
        }
        if matches!(operation, Operation::Open) {
            return Ok(());
        }
        let phase = phase_of(&name);
        let count = state.passed.entry(format!("{name} {disk} {phase}"));
        let count = count.or_insert(0);
        *count += 1;
        let point = Point {
            name,
            disk: disk.to_owned(),
            phase,
            time: *count,
        };
        let how = match &self.at {
            Some((at, how)) if *at == point => Some(*how),
            Some(_) | None => None,
        };
        self.log(&point, how);
        match how {
            None => self.remember(&mut state, path, operation),
            Some(How::Kill) => die(),
            Some(How::Io) => {
                lose(&mut state, path);
                return Err(Errno::EIO);
            }
            Some(how @ (How::Full | How::ReadOnly)) => {
                state.broken = Some((how, side));
                return how.refuses(operation);
            }
        }
        Ok(())
    }

    fn log(&self, point: &Point, how: Option<How>) {
        let reached = Reached {
            point: point.clone(),
            hit: how.is_some(),
        };
        if let Some(log) = &self.log {
            let _ = rustix::io::write(log, format!("{reached}\n").as_bytes());
        }
    }

    /// Only where a sync is to fail: a failed one loses what it was to write.
    fn remember(&self, state: &mut State, path: &Path, operation: Operation<'_>) {
        if !matches!(self.at, Some((_, How::Io))) {
            return;
        }
        match operation {
            Operation::Sync => _ = state.unsynced.remove(path),
            Operation::Write(offset, length) => note(state, path, offset, length),
            Operation::Cut(length) => note(state, path, length, u64::MAX),
            Operation::Make
            | Operation::Open
            | Operation::Rename
            | Operation::Remove
            | Operation::Hook(_) => {}
        }
    }
}

/// The phase in which an operation is. While a group stops, nothing is written to the catalogue but its verdict, and
/// checkpoints.
fn phase_of(name: &str) -> Phase {
    let (phase, thread) = (phase(), std::thread::current());
    let checkpoint = thread.name() == Some("cohort-checkpoint");
    if phase == Phase::Stopping && !checkpoint && name.starts_with("catalogue.") {
        return Phase::Deciding;
    }
    phase
}

/// What stands in a part of a file now.
fn note(state: &mut State, path: &Path, offset: u64, length: u64) {
    let Ok(file) = File::open(path) else { return };
    let Ok(before) = file.metadata().map(|found| found.len()) else {
        return;
    };
    let there = before.saturating_sub(offset).min(length);
    let mut bytes = vec![0; there as usize];
    if file.read_exact_at(&mut bytes, offset).is_ok() {
        let unsynced = state.unsynced.entry(path.to_owned()).or_default();
        unsynced.push((offset, bytes, before));
    }
}

/// A sync of the file failed: what it was to write is gone, and the next sync will not say so.
fn lose(state: &mut State, path: &Path) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return;
    };
    for (offset, bytes, length) in state.unsynced.remove(path).into_iter().flatten().rev() {
        let _ = rustix::io::pwrite(&file, &bytes, offset);
        let _ = rustix::fs::ftruncate(&file, length);
    }
}

fn die() {
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

trait Refuses {
    fn refuses(self, operation: Operation<'_>) -> Result<(), Errno>;
}

impl Refuses for How {
    /// What a file system that is broken so says.
    fn refuses(self, operation: Operation<'_>) -> Result<(), Errno> {
        let takes_room = matches!(
            operation,
            Operation::Make | Operation::Write(..) | Operation::Cut(_)
        );
        match (self, operation) {
            (_, Operation::Hook(_)) | (Self::Kill | Self::Io, _) => Ok(()),
            (Self::Full, _) if takes_room => Err(Errno::ENOSPC),
            (Self::Full, _) => Ok(()),
            (Self::ReadOnly, _) => Err(Errno::EROFS),
        }
    }
}
