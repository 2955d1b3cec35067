//! An adapter: one item of an iterator a step.

use crate::{Context, Driver, Error, Hooks, Step};

/// A driver that works off one item a step. Progress and speed limit count items.
///
/// Once a piece of work fails, so does the job, for good: its item is gone, and stepping the job again (see
/// [`Retry::of`](crate::Retry::of)) passes over none. Work that blocks for long belongs in
/// [`blocking`](crate::blocking) instead.
///
/// ```
/// use cohort_job::{Engine, JobSpec, for_each};
///
/// let squares = for_each(1..=100_u64, |n, _| {
///     n.checked_mul(n).map(drop).ok_or_else(|| format!("{n} is too large").into())
/// });
/// let job = Engine::new()?.launch(JobSpec::new("squares"), squares)?;
/// job.wait();
/// assert_eq!((job.why().as_str(), job.progress().done), ("committed", 100));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn for_each<I, F>(items: I, work: F) -> ForEach<I::IntoIter, F>
where
    I: IntoIterator,
    I::IntoIter: Send + 'static,
    F: FnMut(I::Item, &mut Context<'_>) -> Result<(), Error> + Send + 'static,
{
    ForEach {
        items: items.into_iter(),
        work,
        told: false,
        failed: None,
    }
}

/// What [`for_each`] gives.
///
/// Example: [`for_each`](crate::for_each).
pub struct ForEach<I, F> {
    items: I,
    work: F,
    /// How many there are was told.
    told: bool,
    /// An item whose work failed.
    failed: Option<Error>,
}

impl<I, F> Driver for ForEach<I, F>
where
    I: Iterator + Send + 'static,
    F: FnMut(I::Item, &mut Context<'_>) -> Result<(), Error> + Send + 'static,
{
    const HOOKS: Hooks = Hooks::NONE;

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        if let Some(error) = &self.failed {
            return Step::failed(error.clone());
        }
        if !std::mem::replace(&mut self.told, true) {
            cx.progress().set_remaining(self.items.size_hint().0 as u64);
        }
        if let Err(wait) = cx.pay(1) {
            return Step::Sleep(wait);
        }
        let Some(item) = self.items.next() else {
            return Step::done();
        };
        if let Err(error) = (self.work)(item, cx) {
            self.failed = Some(error.clone());
            return Step::failed(error);
        }
        cx.progress().advance(1);
        // Told anew each time: not every iterator knows from the first how many there will be.
        cx.progress().set_remaining(self.items.size_hint().0 as u64);
        Step::Again
    }
}

impl<I, F> std::fmt::Debug for ForEach<I, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ForEach")
    }
}
