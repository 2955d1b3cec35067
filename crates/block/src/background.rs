//! Threads that work behind others' backs: they take a processor where nobody else wants it.

use std::cell::Cell;

/// Steps of niceness. At ten the scheduler of Linux gives a thread a ninth of the time of one that it competes with.
const NICER: i32 = 10;

thread_local! {
    static BEHIND: Cell<bool> = const { Cell::new(false) };
}

/// Makes the calling thread, for the rest of its life, give way to all that are not in the background: copies
/// and writers want the same processors, and a writer's write waits for nothing else.
pub fn step_behind() {
    if BEHIND.replace(true) {
        return;
    }
    // On Linux this is a thread's own.
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "copies compete with writers for processors");
    }
}
