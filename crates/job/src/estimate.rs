//! How fast, and how much longer: a rate over a window, and an estimate that does not lie.
//!
//! The job itself only counts, which costs an addition; rate and estimate are made where somebody looks.
//! Pure, except for [`Meter`], which asks the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::shell::now;
use crate::{JobHandle, Snapshot};

/// What lies further back says nothing about now.
const WINDOW: Duration = Duration::from_secs(20);

/// Before this much has been seen, any estimate would be a guess.
const WARM_UP: Duration = Duration::from_secs(2);

/// The estimate spans what the whole window and what its last quarter promise.
const RECENT: Duration = Duration::from_secs(5);

/// Two moments closer than this tell nothing new.
const STEP: Duration = Duration::from_millis(100);

/// The rate of one job, and what it promises. Time comes in as a value, counted from any fixed moment.
///
/// Noting costs next to nothing: two notes within a tenth of a second are one, and never more than
/// some 200 are remembered.
///
/// ```
/// use std::time::Duration;
/// use cohort_job::{Estimate, Remaining};
///
/// let mut estimate = Estimate::default();
/// for second in 0..=10 {
///     estimate.note(Duration::from_secs(second), second * 100);
/// }
/// assert_eq!(estimate.rate(), 100.0);
/// let five = Duration::from_secs(5);
/// assert_eq!(estimate.remaining(500), Remaining::Between(five, five));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    /// Moments since the start with the units done by then; oldest first, none older than the window but one.
    samples: VecDeque<(Duration, u64)>,
}

/// How much longer, as an honest interval.
///
/// Example: [`Estimate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remaining {
    /// Too early to say.
    Unknown,
    /// Nothing moved for the whole window's recent part.
    Stalled,
    /// Between the two spans: what the whole window promises, and what its last quarter does.
    Between(Duration, Duration),
}

impl Estimate {
    /// Notes that `done` units were done at `now`, counted from the start of the job.
    pub fn note(&mut self, now: Duration, done: u64) {
        if self
            .samples
            .back()
            .is_some_and(|&(last, _)| now < last.saturating_add(STEP))
        {
            return;
        }
        self.samples.push_back((now, done));
        while self
            .samples
            .get(1)
            .is_some_and(|&(second, _)| second.saturating_add(WINDOW) < now)
        {
            self.samples.pop_front();
        }
    }

    /// Units per second over the window; zero before two moments are known.
    pub fn rate(&self) -> f64 {
        self.rate_over(WINDOW)
    }

    /// How much longer `left` more units will take.
    pub fn remaining(&self, left: u64) -> Remaining {
        let (Some(&(first, _)), Some(&(last, _))) = (self.samples.front(), self.samples.back())
        else {
            return Remaining::Unknown;
        };
        if left > 0 && last - first < WARM_UP {
            return Remaining::Unknown;
        }
        let (overall, recent) = (self.rate_over(WINDOW), self.rate_over(RECENT));
        if left > 0 && recent <= 0.0 {
            return Remaining::Stalled;
        }
        let span = |rate: f64| {
            if left == 0 {
                Duration::ZERO
            } else {
                Duration::from_secs_f64((left as f64 / rate).min(1e9))
            }
        };
        let (a, b) = (span(overall), span(recent));
        Remaining::Between(a.min(b), a.max(b))
    }

    /// Units per second since the newest moment at least `span` back, or the oldest known.
    fn rate_over(&self, span: Duration) -> f64 {
        let Some(&(now, done)) = self.samples.back() else {
            return 0.0;
        };
        let since = self
            .samples
            .iter()
            .rev()
            .find(|&&(at, _)| at.saturating_add(span) <= now)
            .or(self.samples.front());
        match since {
            Some(&(at, before)) if at < now => {
                done.saturating_sub(before) as f64 / (now - at).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// Watches one job: its progress, how fast it is, and how much longer it will take.
///
/// ```
/// use cohort_job::{Engine, JobSpec, Remaining, Step, from_fn};
///
/// let job = Engine::new()?.launch(JobSpec::new("j"), from_fn(|cx| {
///     cx.progress().set_remaining(1);
///     cx.progress().advance(1);
///     Step::done()
/// }))?;
/// let mut meter = job.meter();
/// job.wait();
/// let now = meter.read();
/// assert_eq!((now.progress.done, now.progress.total), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Meter {
    job: JobHandle,
    since: Instant,
    estimate: Estimate,
}

/// What a [`Meter`] shows.
///
/// ```
/// use cohort_job::{Engine, JobSpec, for_each};
///
/// let job = Engine::new()?.launch(JobSpec::new("j"), for_each(0..10, |_, _| Ok(())))?;
/// let mut meter = job.meter();
/// job.wait();
/// let now = meter.read();
/// assert_eq!((now.progress.done, now.progress.total), (10, 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// How far the job is.
    pub progress: Snapshot,
    /// Units per second over the last twenty seconds.
    pub rate: f64,
    /// How much longer.
    pub remaining: Remaining,
}

impl Meter {
    pub(crate) fn new(job: JobHandle) -> Self {
        let mut estimate = Estimate::default();
        estimate.note(Duration::ZERO, job.progress().done);
        Self {
            job,
            since: now(),
            estimate,
        }
    }

    /// Looks at the job. The more often one looks (up to ten times a second), the better it knows.
    pub fn read(&mut self) -> Reading {
        let progress = self.job.progress();
        let time = now().saturating_duration_since(self.since);
        self.estimate.note(time, progress.done);
        Reading {
            progress,
            rate: self.estimate.rate(),
            remaining: match progress.total {
                // It has not said yet how much there is.
                0 => Remaining::Unknown,
                _ => self.estimate.remaining(progress.remaining()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(samples: impl IntoIterator<Item = (u64, u64)>) -> Estimate {
        let mut estimate = Estimate::default();
        for (second, done) in samples {
            estimate.note(Duration::from_secs(second), done);
        }
        estimate
    }

    #[test]
    fn what_is_remembered_is_bounded_however_often_it_is_noted() {
        let mut estimate = Estimate::default();
        for ms in 0..100_000 {
            estimate.note(Duration::from_millis(ms), ms);
        }
        assert!(estimate.samples.len() <= 202, "{}", estimate.samples.len());
        assert_eq!(estimate.rate(), 1000.0);
        estimate.note(Duration::MAX, 200_000);
    }

    #[test]
    fn nothing_is_promised_before_the_warm_up() {
        assert_eq!(noted([]).remaining(10), Remaining::Unknown);
        assert_eq!(noted([(0, 0), (1, 100)]).remaining(10), Remaining::Unknown);
    }

    #[test]
    fn a_steady_rate_gives_one_answer() {
        let estimate = noted((0..=30).map(|s| (s, s * 100)));
        assert_eq!(estimate.rate(), 100.0);
        let ten = Duration::from_secs(10);
        assert_eq!(estimate.remaining(1000), Remaining::Between(ten, ten));
    }

    #[test]
    fn a_rate_that_fell_gives_an_interval() {
        let estimate = noted(
            (0..=10)
                .map(|s| (s, s * 100))
                .chain((11..=20).map(|s| (s, 1000 + (s - 10) * 10))),
        );
        let Remaining::Between(soonest, latest) = estimate.remaining(1000) else {
            panic!("an interval")
        };
        assert!(
            soonest < Duration::from_secs(20) && latest == Duration::from_secs(100),
            "{soonest:?} {latest:?}"
        );
    }

    #[test]
    fn a_job_that_stands_still_is_called_stalled() {
        let estimate = noted(
            (0..=10)
                .map(|s| (s, s * 100))
                .chain((11..=20).map(|s| (s, 1000))),
        );
        assert_eq!(estimate.remaining(1000), Remaining::Stalled);
        assert_eq!(
            estimate.remaining(0),
            Remaining::Between(Duration::ZERO, Duration::ZERO)
        );
    }
}
