//! A budget for failures that may pass: so many attempts, ever longer apart, within a time.
//!
//! Pure: time comes in as a value.

use std::time::Duration;

use crate::{Abort, Commit, Context, Driver, Error, Hooks, Record, Step};

/// How often something that failed is tried again, and for how long.
///
/// ```
/// use std::time::Duration;
/// use cohort_job::{Engine, JobSpec, Retry, Step, from_fn};
///
/// let mut calls = 0;
/// let flaky = from_fn(move |_| {
///     calls += 1;
///     if calls < 3 { Step::failed("busy") } else { Step::done() }
/// });
/// let retry = Retry::new(5).back_off(Duration::from_micros(10)).longest(Duration::from_millis(1));
/// let job = Engine::new()?.launch(JobSpec::new("flaky"), retry.of(flaky))?;
/// job.wait();
/// assert_eq!(job.why(), "committed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    back_off: Duration,
    longest: Duration,
    within: Option<Duration>,
}

/// What is left of a [`Retry`] for one thing that is tried.
///
/// ```
/// use std::time::Duration;
/// use cohort_job::{Attempts, Retry};
///
/// let second = Duration::from_secs(1);
/// let mut attempts = Attempts::new(Retry::new(3).back_off(second));
/// assert_eq!(attempts.failed(Duration::ZERO, "busy".into()), Ok(second));
/// assert_eq!(attempts.failed(second, "busy".into()), Ok(2 * second));
/// let mut luckier = attempts;
/// luckier.succeeded();
/// assert_eq!(luckier, Attempts::new(Retry::new(3).back_off(second)));
/// let last = attempts.failed(3 * second, "busy".into()).unwrap_err();
/// assert_eq!(last.to_string(), "given up after 3 attempts in 3s: busy");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    policy: Retry,
    made: u32,
    /// When the first of them failed.
    since: Duration,
}

impl Retry {
    /// At most so many attempts in all, at least one, at once after each other.
    #[must_use]
    pub const fn new(attempts: u32) -> Self {
        Self {
            attempts: if attempts == 0 { 1 } else { attempts },
            back_off: Duration::ZERO,
            longest: Duration::from_secs(60),
            within: None,
        }
    }

    /// Waits so long before the second attempt, and twice as long before each one after it.
    #[must_use]
    pub const fn back_off(mut self, first: Duration) -> Self {
        self.back_off = first;
        self
    }

    /// Never waits longer than this at a time; a minute unless told.
    #[must_use]
    pub const fn longest(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Begins no attempt later than this after the first that failed.
    #[must_use]
    pub const fn within(mut self, total: Duration) -> Self {
        self.within = Some(total);
        self
    }

    /// A driver whose failed steps are stepped again within this budget. A step that goes on at once or is done, and any
    /// progress, makes it whole again; one that only waits says nothing yet. A panic is not tried again.
    ///
    /// It is for drivers that can be stepped after a failure. The function of [`blocking`](crate::blocking()) and the item of
    /// [`for_each`](crate::for_each) that failed are gone, and their failure stays: count [`Attempts`] within those.
    pub fn of(self, driver: impl Driver) -> impl Driver {
        Retrying {
            driver,
            attempts: Attempts::new(self),
            not_before: Duration::ZERO,
            done: 0,
        }
    }
}

impl Attempts {
    /// A whole budget.
    #[must_use]
    pub const fn new(policy: Retry) -> Self {
        Self {
            policy,
            made: 0,
            since: Duration::ZERO,
        }
    }

    /// An attempt failed: how long to wait before the next one. `now` is counted from any fixed moment, as
    /// [`Context::elapsed`] is.
    ///
    /// # Errors
    /// If the budget is spent: the last failure, and how often it was tried.
    pub fn failed(&mut self, now: Duration, error: Error) -> Result<Duration, Error> {
        if self.made == 0 {
            self.since = now;
        }
        self.made += 1;
        let Retry {
            attempts,
            back_off,
            longest,
            within,
        } = self.policy;
        let doubled = 1_u32.checked_shl(self.made - 1).unwrap_or(u32::MAX);
        let wait = back_off.saturating_mul(doubled).min(longest);
        let spent = now.saturating_sub(self.since);
        let late = within.is_some_and(|within| spent.saturating_add(wait) > within);
        if self.made < attempts && !late {
            return Ok(wait);
        }
        if self.made == 1 {
            return Err(error);
        }
        let made = self.made;
        Err(Error::with_source(
            format!("given up after {made} attempts in {spent:?}"),
            error,
        ))
    }

    /// An attempt went well: the budget is whole again.
    pub fn succeeded(&mut self) {
        self.made = 0;
    }
}

struct Retrying<D> {
    driver: D,
    attempts: Attempts,
    not_before: Duration,
    /// How far the job was when it failed last.
    done: u64,
}

impl<D: Driver> Driver for Retrying<D> {
    const HOOKS: Hooks = D::HOOKS;

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let early = self.not_before.saturating_sub(cx.elapsed());
        if !early.is_zero() {
            // Woken for something else; the next attempt still has to wait.
            return Step::Sleep(early);
        }
        match self.driver.step(cx) {
            Step::Done(Err(error)) => match self.attempts.failed(cx.elapsed(), error) {
                Ok(wait) => {
                    self.not_before = cx.elapsed().saturating_add(wait);
                    self.done = cx.progress().snapshot().done;
                    Step::Sleep(wait)
                }
                Err(error) => Step::failed(error),
            },
            step @ (Step::Again | Step::Done(Ok(()))) => {
                self.attempts.succeeded();
                step
            }
            // It may wait for a task that will fail as the one before did.
            step @ (Step::Sleep(_) | Step::Wait(_)) => {
                if self.attempts.made > 0 && cx.progress().snapshot().done > self.done {
                    self.attempts.succeeded();
                }
                step
            }
        }
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<Record, Error> {
        self.driver.prepare(cx)
    }

    fn commit(&mut self, how: &Commit) {
        self.driver.commit(how);
    }

    fn abort(&mut self, why: &Abort) {
        self.driver.abort(why);
    }

    fn clean(&mut self) {
        self.driver.clean();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let policy = Retry::new(100).back_off(seconds(1)).longest(seconds(5));
        let mut attempts = Attempts::new(policy);
        let waits: Vec<_> = (0..40)
            .map(|_| {
                attempts
                    .failed(seconds(0), "busy".into())
                    .unwrap()
                    .as_secs()
            })
            .collect();
        assert_eq!(waits[..5], [1, 2, 4, 5, 5]);
        assert_eq!(waits[39], 5);
    }

    #[test]
    fn no_attempt_begins_after_the_total_time() {
        let policy = Retry::new(100).back_off(seconds(10)).within(seconds(25));
        let mut attempts = Attempts::new(policy);
        assert_eq!(
            attempts.failed(seconds(100), "busy".into()),
            Ok(seconds(10))
        );
        let error = attempts.failed(seconds(110), "busy".into()).unwrap_err();
        assert_eq!(error.to_string(), "given up after 2 attempts in 10s: busy");
    }

    #[test]
    fn a_success_makes_the_budget_whole_and_one_attempt_is_told_as_it_is() {
        let mut attempts = Attempts::new(Retry::new(2));
        for now in 0..5 {
            assert_eq!(attempts.failed(seconds(now), "busy".into()), Ok(seconds(0)));
            attempts.succeeded();
        }
        let mut once = Attempts::new(Retry::new(0));
        let error = once.failed(seconds(0), "busy".into()).unwrap_err();
        assert_eq!(error.to_string(), "busy");
    }
}
