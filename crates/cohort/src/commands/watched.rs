//! Long work of one thing: on a thread of its own, with progress, and Ctrl-C to end it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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

/// Works until it is done. `work` is given whom to tell (bytes done, bytes in all), and a flag that is set when it is to
/// stop.
pub(super) fn watched<T: Send>(
    shown: Shown<'_>,
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
        let work = scope.spawn(|| work(&tell, &cancel));
        while !work.is_finished() {
            let now = DiskNow {
                name: shown.name.to_owned(),
                phase: shown.phase.to_owned(),
                done: done.load(Ordering::Relaxed),
                total: total.load(Ordering::Relaxed),
            };
            progress.show(start.elapsed(), &[now]);
            if interrupts.recv_timeout(LOOK) == Ok(Interrupt) {
                progress.say(shown.stopping);
                cancel.store(true, Ordering::Relaxed);
            }
        }
        work.join()
    });
    progress.finish();
    result.map_err(|_| Failure::say(Exit::Other, format_args!("{} panicked", shown.phase)))
}
