//! An adapter: an ordinary function that blocks, on a thread of its own, as a job.
//!
//! The function runs while a task of the job stands for it. Where it looks at its [`Reins`] and the job is
//! held, or owes for its speed limit, it stops there and the task ends: so *paused* is true of it too.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crate::driver::caught;
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};
use crate::{Abort, Context, Driver, Error, Hooks, Progress, Step, Token};

/// What `why` repeats while the function is at work.
const AT_WORK: &str = "waits for its function, which is at work";

/// A driver that runs this function on a thread of its own. It should look at its [`Reins`] often: that is
/// where it can be paused, slowed down and stopped. What it returns is the job's result.
///
/// A function that never looks holds up its own group when that is cancelled, and is reported by name.
///
/// ```
/// use cohort_job::{Engine, JobSpec, blocking};
///
/// let job = Engine::new()?.launch(JobSpec::new("sum"), blocking(|reins| {
///     reins.progress().set_remaining(10);
///     for _ in 0..10 {
///         reins.pause_point()?;
///         reins.progress().advance(1);
///     }
///     Ok(())
/// }))?;
/// job.wait();
/// assert_eq!((job.why().as_str(), job.progress().done), ("committed", 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn blocking<F>(work: F) -> Blocking<F>
where
    F: FnOnce(&Reins) -> Result<(), Error> + Send + 'static,
{
    Blocking {
        work: Some(work),
        relay: Arc::new(Relay::default()),
    }
}

/// What [`blocking`] gives.
///
/// Example: [`blocking`](crate::blocking()).
pub struct Blocking<F> {
    work: Option<F>,
    relay: Arc<Relay>,
}

/// What a blocking function holds of its job.
///
/// Example: [`blocking`](crate::blocking()).
#[derive(Debug)]
pub struct Reins {
    token: Token,
    relay: Arc<Relay>,
}

/// The job was stopped: the function should return, and what it returns does not count.
///
/// ```
/// use cohort_job::{Error, Reins, Stopped};
///
/// /// `?` ends a function that was stopped; what it returns does not count then.
/// fn work(reins: &Reins) -> Result<(), Error> {
///     while !reins.is_stopped() {
///         reins.pay(1)?;
///     }
///     Err(Stopped.into())
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job was stopped")]
pub struct Stopped;

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        Self::new(stopped.to_string())
    }
}

impl Reins {
    /// Stays here as long as the job is paused. Costs a look at one word otherwise.
    ///
    /// # Errors
    /// If the job was stopped: return then, with `?`.
    pub fn pause_point(&self) -> Result<(), Stopped> {
        while !self.is_stopped() {
            if !self.token.should_return() {
                return Ok(());
            }
            self.relay.park(0)?;
        }
        Err(Stopped)
    }

    /// A pause point that also pays for so many units of the job's speed limit, and stays until they
    /// are paid.
    ///
    /// # Errors
    /// As [`Reins::pause_point`].
    pub fn pay(&self, units: u64) -> Result<(), Stopped> {
        self.pause_point()?;
        if units > 0 && self.token.is_limited() {
            self.relay.park(units)?;
            self.pause_point()?;
        }
        Ok(())
    }

    /// Whether the job was stopped.
    pub fn is_stopped(&self) -> bool {
        // A function that was parked when the job was stopped has no task, so the gate was not told.
        self.token.is_stopped() || self.relay.has_ended()
    }

    /// The job's progress.
    pub fn progress(&self) -> &Progress {
        self.token.progress()
    }
}

impl<F> Driver for Blocking<F>
where
    F: FnOnce(&Reins) -> Result<(), Error> + Send + 'static,
{
    const HOOKS: Hooks = Hooks::ABORT;

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        if cx.tasks() > 0 {
            return Step::Wait(AT_WORK);
        }
        match self.relay.turn() {
            Turn::Over(result) => return Step::Done(result),
            Turn::Parked { owes } if owes > 0 => {
                if let Err(wait) = cx.pay(owes) {
                    return Step::Sleep(wait);
                }
            }
            Turn::Parked { .. } | Turn::Runs => {}
        }
        if let Some(work) = self.work.take()
            && let Err(error) = start(work, cx.token(), &self.relay)
        {
            return Step::failed(Error::with_source(
                "no thread can be had for its function",
                error,
            ));
        }
        let relay = Arc::clone(&self.relay);
        cx.spawn(move || relay.run());
        Step::Wait(AT_WORK)
    }

    /// A function that is parked learns here that it need not go on, and is waited for.
    fn abort(&mut self, _: &Abort) {
        if self.work.is_none() {
            self.relay.end(true);
        }
    }
}

impl<F> Drop for Blocking<F> {
    fn drop(&mut self) {
        self.relay.end(false);
    }
}

fn start<F>(work: F, token: Token, relay: &Arc<Relay>) -> std::io::Result<()>
where
    F: FnOnce(&Reins) -> Result<(), Error> + Send + 'static,
{
    let relay = Arc::clone(relay);
    let run = move || {
        let reins = Reins { token, relay };
        let result = match reins.relay.await_turn() {
            Ok(()) => catch_unwind(AssertUnwindSafe(|| work(&reins)))
                .unwrap_or_else(|panic| Err(caught(panic))),
            Err(stopped) => Err(stopped.into()),
        };
        reins.relay.over(result);
    };
    thread::Builder::new()
        .name("cohort-blocking".into())
        .spawn(run)
        .map(drop)
}

/// Whose turn it is: the function's, or its job's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    /// The function stays where it is, and wants to pay for so many units.
    Parked {
        owes: u64,
    },
    Runs,
    Over(Result<(), Error>),
}

/// Passes the turn between the function's thread and the tasks that stand for it.
struct Relay {
    turn: Mutex<Turn>,
    changed: Condvar,
    /// Not 0 once no task will come any more. Changed under the lock, so that no wait misses it.
    ended: AtomicU64,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            turn: Mutex::new(Turn::Parked { owes: 0 }),
            changed: Condvar::new(),
            ended: AtomicU64::new(0),
        }
    }
}

impl Relay {
    fn turn(&self) -> Turn {
        self.turn.lock().clone()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) != 0
    }

    /// The task: lets the function run until it parks or is over.
    fn run(&self) {
        let mut turn = self.turn.lock();
        if matches!(*turn, Turn::Parked { .. }) {
            *turn = Turn::Runs;
            self.changed.notify_all();
        }
        while *turn == Turn::Runs {
            turn = self.changed.wait(turn);
        }
    }

    /// The function: gives the turn back, until a task passes it on again.
    fn park(&self, owes: u64) -> Result<(), Stopped> {
        *self.turn.lock() = Turn::Parked { owes };
        self.changed.notify_all();
        self.await_turn()
    }

    /// The function: waits for its turn.
    fn await_turn(&self) -> Result<(), Stopped> {
        let mut turn = self.turn.lock();
        while !self.has_ended() && *turn != Turn::Runs {
            turn = self.changed.wait(turn);
        }
        if self.has_ended() {
            Err(Stopped)
        } else {
            Ok(())
        }
    }

    /// The function returned.
    fn over(&self, result: Result<(), Error>) {
        *self.turn.lock() = Turn::Over(result);
        self.changed.notify_all();
    }

    /// The job: no turn will come any more; if `wait`, until the function has returned.
    fn end(&self, wait: bool) {
        let mut turn = self.turn.lock();
        self.ended.store(1, Ordering::Release);
        self.changed.notify_all();
        while wait && !matches!(*turn, Turn::Over(_)) {
            turn = self.changed.wait(turn);
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relay")
    }
}

impl<F> fmt::Debug for Blocking<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocking")
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::explore;

    #[test]
    fn the_turn_is_passed_on_and_back_and_an_end_reaches_a_parked_function() {
        explore("a function, a task that stands for it, and its end", || {
            let relay = Arc::new(Relay::default());
            let function = thread::spawn({
                let relay = Arc::clone(&relay);
                move || {
                    let stopped = relay.await_turn().and_then(|()| relay.park(0));
                    relay.over(Ok(()));
                    stopped
                }
            });
            relay.run();
            assert_eq!(relay.turn(), Turn::Parked { owes: 0 });
            relay.end(true);
            assert_eq!(relay.turn(), Turn::Over(Ok(())));
            assert_eq!(function.join().unwrap(), Err(Stopped));
        });
    }

    #[test]
    fn two_turns_take_a_function_to_its_end() {
        explore("a function that parks once", || {
            let relay = Arc::new(Relay::default());
            let function = thread::spawn({
                let relay = Arc::clone(&relay);
                move || {
                    let went_on = relay.await_turn().and_then(|()| relay.park(0));
                    relay.over(Ok(()));
                    went_on
                }
            });
            relay.run();
            relay.run();
            assert_eq!(relay.turn(), Turn::Over(Ok(())));
            assert_eq!(function.join().unwrap(), Ok(()));
        });
    }
}
