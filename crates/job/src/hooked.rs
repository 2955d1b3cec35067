//! Adapters that add one hook to a driver, so that a job with a little to settle needs no type of its own.

use crate::{Abort, Commit, Context, Driver, Error, Hooks, Record, Step};

/// Adds hooks to a driver. If the driver has that hook, its own runs first.
///
/// ```
/// use std::sync::mpsc;
/// use cohort_job::{DriverExt, Engine, JobSpec, Step, from_fn};
///
/// let (told, heard) = mpsc::channel();
/// let failing = from_fn(|_| Step::failed("no luck"))
///     .on_commit(|_| unreachable!())
///     .on_abort(move |why| told.send(why.disposition).unwrap());
/// Engine::new()?.launch(JobSpec::new("j"), failing)?.wait();
/// assert_eq!(heard.recv()?, cohort_job::Disposition::Keep);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait DriverExt: Driver + Sized {
    /// Does this when the job's group commits.
    fn on_commit(self, hook: impl FnMut(&Commit) + Send + 'static) -> impl Driver {
        Hooked(self, OnCommit(hook))
    }

    /// Does this when the job's group aborts.
    fn on_abort(self, hook: impl FnMut(&Abort) + Send + 'static) -> impl Driver {
        Hooked(self, OnAbort(hook))
    }

    /// Does this last, however the job ended.
    fn on_clean(self, hook: impl FnMut() + Send + 'static) -> impl Driver {
        Hooked(self, OnClean(hook))
    }
}

impl<D: Driver> DriverExt for D {}

/// A driver and one more hook.
struct Hooked<D, H>(D, H);

trait Hook: Send + 'static {
    const HOOKS: Hooks;

    fn commit(&mut self, _how: &Commit) {}
    fn abort(&mut self, _why: &Abort) {}
    fn clean(&mut self) {}
}

struct OnCommit<F>(F);
struct OnAbort<F>(F);
struct OnClean<F>(F);

impl<F: FnMut(&Commit) + Send + 'static> Hook for OnCommit<F> {
    const HOOKS: Hooks = Hooks::COMMIT;

    fn commit(&mut self, how: &Commit) {
        (self.0)(how);
    }
}

impl<F: FnMut(&Abort) + Send + 'static> Hook for OnAbort<F> {
    const HOOKS: Hooks = Hooks::ABORT;

    fn abort(&mut self, why: &Abort) {
        (self.0)(why);
    }
}

impl<F: FnMut() + Send + 'static> Hook for OnClean<F> {
    const HOOKS: Hooks = Hooks::CLEAN;

    fn clean(&mut self) {
        (self.0)();
    }
}

impl<D: Driver, H: Hook> Driver for Hooked<D, H> {
    const HOOKS: Hooks = D::HOOKS.and(H::HOOKS);

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        self.0.step(cx)
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<Record, Error> {
        self.0.prepare(cx)
    }

    fn commit(&mut self, how: &Commit) {
        self.0.commit(how);
        self.1.commit(how);
    }

    fn abort(&mut self, why: &Abort) {
        self.0.abort(why);
        self.1.abort(why);
    }

    fn clean(&mut self) {
        self.0.clean();
        self.1.clean();
    }
}
