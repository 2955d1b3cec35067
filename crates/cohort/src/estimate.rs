//! How fast, and how much longer: a windowed rate, and an estimate that does not lie. Pure: time comes in as a value.

use std::collections::VecDeque;
use std::time::Duration;

/// What lies further back says nothing about now.
const WINDOW: Duration = Duration::from_secs(20);

/// Before this much has been seen, any estimate would be a guess.
const WARM_UP: Duration = Duration::from_secs(2);

/// The estimate spans what the whole window and what its last quarter promise.
const RECENT: Duration = Duration::from_secs(5);

/// Two moments closer than this tell nothing new.
const STEP: Duration = Duration::from_millis(100);

/// The rate of one job, and what it promises.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    /// Moments since the start with the units done by then; oldest first, none older than the window but one.
    samples: VecDeque<(Duration, u64)>,
}

/// How much longer, as an honest interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remaining {
    /// Too early to say.
    Unknown,
    /// Nothing moved for the whole window's recent part.
    Stalled,
    /// Between the two spans, at the rates seen lately.
    Between(Duration, Duration),
}

impl Estimate {
    /// Notes that `done` units were done at `now`, counted from the start of the job.
    pub(crate) fn note(&mut self, now: Duration, done: u64) {
        if self
            .samples
            .back()
            .is_some_and(|&(last, _)| now < last + STEP)
        {
            return;
        }
        self.samples.push_back((now, done));
        while self
            .samples
            .get(1)
            .is_some_and(|&(second, _)| second + WINDOW < now)
        {
            self.samples.pop_front();
        }
    }

    /// Units per second over the window; zero before two moments are known.
    pub(crate) fn rate(&self) -> f64 {
        self.rate_over(WINDOW)
    }

    /// How much longer `left` more units will take.
    pub(crate) fn remaining(&self, left: u64) -> Remaining {
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
            .find(|&&(at, _)| at + span <= now)
            .or(self.samples.front());
        match since {
            Some(&(at, before)) if at < now => {
                done.saturating_sub(before) as f64 / (now - at).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Estimate, Remaining};

    fn noted(samples: impl IntoIterator<Item = (u64, u64)>) -> Estimate {
        let mut estimate = Estimate::default();
        for (second, done) in samples {
            estimate.note(Duration::from_secs(second), done);
        }
        estimate
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
