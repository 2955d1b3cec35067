//! Long work of one thing: on a thread of its own, with progress, and Ctrl-C to end it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{process, thread};

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::{self, Interrupt};
use crate::progress::{DiskNow, Progress};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is shown while something works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    /// What is worked on.
    pub(super) name: &'a str,
    /// What is done with it.
    pub(super) phase: &'a str,
    /// What is said when Ctrl-C ends it.
    pub(super) stopping: &'a str,
    /// Whether progress is for programs.
    pub(super) json: bool,
}

/// What the operator may say and hear while something works.
pub(super) struct Operated<L> {
    /// Called now and then: says what the work waits for to be mended.
    pub(super) look: L,
    /// Whether a second Ctrl-C ends the process where it stands: nothing needs to be cleaned up.
    pub(super) insist: bool,
}

/// Works until it is done. `work` is given whom to tell (bytes done, bytes in all), and a flag that is set when it is to
/// stop.
pub(super) fn watched<T: Send>(
    shown: Shown<'_>,
    work: impl FnOnce(&(dyn Fn(u64, u64) + Sync), &AtomicBool) -> T + Send,
) -> Result<T> {
    let nobody = Operated {
        look: || None,
        insist: false,
    };
    watched_with(shown, nobody, work)
}

/// As [`watched`], with an operator.
pub(super) fn watched_with<T: Send>(
    shown: Shown<'_>,
    operated: Operated<impl Fn() -> Option<String>>,
    work: impl FnOnce(&(dyn Fn(u64, u64) + Sync), &AtomicBool) -> T + Send,
) -> Result<T> {
    let interrupts = interrupt::listen().map_err(|error| Failure::new(Exit::Other, error))?;
    let (start, cancel) = (Instant::now(), AtomicBool::new(false));
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut progress = Progress::new(shown.json);
    let tell = |bytes, all| {
        done.fetch_max(bytes, Ordering::Relaxed);
        total.store(all, Ordering::Relaxed);
    };
    let result = thread::scope(|scope| {
        let (ending, ended) = channel::<()>();
        let (tell, cancel) = (&tell, &cancel);
        let work = scope.spawn(move || {
            // Dropped when the work is over, by a panic too.
            let _ending = ending;
            work(tell, cancel)
        });
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let now = DiskNow {
                name: shown.name.to_owned(),
                phase: shown.phase.to_owned(),
                done: done.load(Ordering::Relaxed),
                total: total.load(Ordering::Relaxed),
                stopped: (operated.look)(),
            };
            progress.show(start.elapsed(), &[now]);
            if interrupts.try_recv() == Ok(Interrupt) {
                progress.say(shown.stopping);
                if cancel.swap(true, Ordering::Relaxed) && operated.insist {
                    process::exit(Exit::Cancelled.code().into());
                }
            }
        }
        work.join()
    });
    progress.finish();
    result.map_err(|_| Failure::say(Exit::Other, format_args!("{} panicked", shown.phase)))
}
