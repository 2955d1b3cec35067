//! The smallest adapter: a closure as a driver.

use crate::{Context, Driver, Hooks, Step};

/// A driver whose steps are calls of this closure, without hooks.
///
/// ```
/// use cohort_job::{Engine, JobSpec, Outcome, Step, from_fn};
///
/// let mut left = 3;
/// let countdown = from_fn(move |_| {
///     left -= 1;
///     if left == 0 { Step::done() } else { Step::Again }
/// });
/// let job = Engine::new()?.launch(JobSpec::new("countdown"), countdown)?;
/// assert_eq!(job.wait(), Some(Outcome::Committed { short: false }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn from_fn<F>(step: F) -> FromFn<F>
where
    F: FnMut(&mut Context<'_>) -> Step + Send + 'static,
{
    FromFn(step)
}

/// What [`from_fn`] gives.
///
/// Example: [`from_fn`](crate::from_fn).
pub struct FromFn<F>(F);

impl<F> Driver for FromFn<F>
where
    F: FnMut(&mut Context<'_>) -> Step + Send + 'static,
{
    const HOOKS: Hooks = Hooks::NONE;

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        (self.0)(cx)
    }
}

impl<F> std::fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FromFn")
    }
}
