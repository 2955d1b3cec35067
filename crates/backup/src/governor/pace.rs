//! How many copies at once: raised by one while writers do not suffer, halved when they do.
//!
//! Additive increase and multiplicative decrease are those of Jacobson, *Congestion Avoidance and
//! Control*, 1988. What writers take when nobody copies is not known beforehand and changes with what
//! they do; so once a second all copying pauses for a moment and it is measured, as BBR does with the
//! delay of a path (Cardwell et al., 2016).
//!
//! Only what the disk itself takes for a write is listened to: what copy-before-write adds does not
//! get less when fewer copies are made.

use std::time::Duration;

/// Pace is counted in eighths of a copy: below one copy at a time there are rests between them.
const COPY: u32 = 8;

/// The slowest pace, a quarter of the time: a backup always gets on.
const LEAST: u32 = COPY / 4;

/// How often writers are listened to: a few copies of a fast disk, one of a slow one.
pub(super) const HEARING: Duration = Duration::from_millis(10);

/// How often copying pauses, and for how long: a hundredth of the time.
const QUIET_EVERY: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(10);

/// Fewer writes than this say nothing about a disk.
const ENOUGH: u64 = 8;

/// A mean of writes that took so much longer than in the quiet, in percent, is suffering. Throughput of
/// one writer is then four fifths of what it was alone: copy-before-write takes its part of it besides.
const SUFFERS: u64 = 125;

/// Up to here there is room for one more copy.
const WELL: u64 = 110;

/// What the writers of one disk saw since the last hearing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) writes: u64,
    /// Their times added up.
    pub(super) total: Duration,
}

impl Sample {
    fn mean_nanos(&self) -> Option<u64> {
        let nanos = u64::try_from(self.total.as_nanos()).unwrap_or(u64::MAX);
        (self.writes >= ENOUGH).then(|| (nanos / self.writes).max(1))
    }
}

/// The pace of one run. Times are counted from its start and never go back.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// All workers, in eighths.
    most: u32,
    level: u32,
    heard_at: Option<Duration>,
    phase: Phase,
    /// What a write to each disk takes when nobody copies, if that is known.
    alone: Vec<Option<u64>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No new copies; once those in flight have ended the writers are alone.
    #[default]
    Draining,
    Quiet {
        until: Duration,
    },
    Copying {
        until: Duration,
    },
}

impl Pace {
    #[cfg(test)]
    pub(super) fn open(workers: usize) -> Self {
        let mut pace = Self::default();
        pace.add_workers(workers);
        pace.level = pace.most;
        pace.heard_at = Some(Duration::MAX - HEARING);
        pace.phase = Phase::Copying {
            until: Duration::MAX,
        };
        pace
    }

    pub(super) fn add_workers(&mut self, workers: usize) {
        let eighths = u32::try_from(workers)
            .unwrap_or(u32::MAX)
            .saturating_mul(COPY);
        self.most = self.most.saturating_add(eighths);
        self.level = self.level.max(COPY);
    }

    /// Whether it is time to listen to the writers.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        match (self.phase, self.heard_at) {
            (_, None) | (Phase::Draining, _) => true,
            (Phase::Quiet { until }, _) => now >= until,
            (Phase::Copying { .. }, Some(heard_at)) => now >= heard_at + HEARING,
        }
    }

    /// Takes what the writers of every disk saw since the last call.
    pub(super) fn hear(&mut self, now: Duration, in_flight: usize, samples: &[Sample]) {
        self.heard_at = Some(now);
        self.phase = match self.phase {
            Phase::Draining if in_flight > 0 => Phase::Draining,
            Phase::Draining => Phase::Quiet { until: now + QUIET },
            Phase::Quiet { .. } => {
                self.note_alone(samples);
                Phase::Copying {
                    until: now + QUIET_EVERY,
                }
            }
            Phase::Copying { until } => {
                self.adapt(samples);
                let writers = samples.iter().any(|sample| sample.writes > 0);
                // Nobody to listen to: no reason to pause.
                if now >= until && writers {
                    Phase::Draining
                } else {
                    self.phase
                }
            }
        };
    }

    /// How many copies may be in flight; none means that a pause begins.
    pub(super) fn copies(&self) -> usize {
        match self.phase {
            Phase::Draining | Phase::Quiet { .. } => 0,
            Phase::Copying { .. } => (self.level / COPY).max(1) as usize,
        }
    }

    /// Until when no copy may begin.
    pub(super) fn quiet_until(&self, now: Duration) -> Duration {
        match self.phase {
            // Whoever asks when the last one has ended begins the pause.
            Phase::Draining => now + QUIET,
            Phase::Quiet { until } => until,
            Phase::Copying { .. } => Duration::ZERO,
        }
    }

    /// How long to rest after a copy that took so long.
    pub(super) fn rest_after(&self, took: Duration) -> Duration {
        let level = self.level.clamp(LEAST, COPY);
        took * (COPY - level) / level
    }

    /// A new figure counts half: one pause is short, and the machine may be busy with others.
    fn note_alone(&mut self, samples: &[Sample]) {
        self.alone.resize(samples.len(), None);
        for (alone, sample) in self.alone.iter_mut().zip(samples) {
            if let Some(now) = sample.mean_nanos() {
                *alone = Some(alone.map_or(now, |before| before.midpoint(now)));
            }
        }
    }

    fn adapt(&mut self, samples: &[Sample]) {
        // The disk that suffers most decides for all: they share what they wait for.
        match self.worst_percent(samples) {
            Some(percent) if percent > SUFFERS => self.level = (self.level / 2).max(LEAST),
            Some(percent) if percent > WELL => {}
            // Nobody writes, so nobody suffers.
            Some(_) | None => self.level = self.most.min(self.level + self.step()),
        }
    }

    fn worst_percent(&self, samples: &[Sample]) -> Option<u64> {
        let percents = samples
            .iter()
            .zip(&self.alone)
            .filter_map(|(sample, alone)| {
                Some(sample.mean_nanos()?.saturating_mul(100) / (*alone)?)
            });
        percents.max()
    }

    fn step(&self) -> u32 {
        if self.level < COPY { 1 } else { COPY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: u64 = 10_000;

    /// A pace of eight workers that has heard what a write takes alone; time since the start in ms.
    fn after_the_first_pause() -> (Pace, u64) {
        let mut pace = Pace::default();
        pace.add_workers(8);
        assert_eq!(pace.copies(), 0, "writers first");
        pace.hear(at(0), 0, &[writes(3, 1)]);
        assert_eq!(pace.quiet_until(at(0)), at(10));
        assert!(!pace.is_due(at(9)) && pace.is_due(at(10)));
        pace.hear(at(10), 0, &[writes(100, ALONE)]);
        (pace, 10)
    }

    #[test]
    fn pace_rises_by_one_copy_and_falls_by_half() {
        // Means in percent of what a write takes alone, and how many copies follow.
        let cases: [(&[u64], usize); 9] = [
            (&[], 1),
            (&[100, 105, 110], 4),
            (&[100, 115, 125, 100], 3),
            (&[100; 20], 8),
            (&[100, 100, 100, 100, 100, 100, 126], 3),
            (&[100, 100, 100, 200, 200], 1),
            (&[200; 9], 1),
            // Nobody writes.
            (&[0; 20], 8),
            (&[200, 200, 0, 0, 0, 0, 0, 0, 0, 0], 3),
        ];
        for (means, copies) in cases {
            let (mut pace, mut now) = after_the_first_pause();
            for mean in means {
                now += 10;
                let sample = match mean {
                    0 => Sample::default(),
                    mean => writes(50, ALONE * mean / 100),
                };
                pace.hear(at(now), 1, &[sample]);
            }
            assert_eq!(pace.copies(), copies, "{means:?}");
        }
    }

    #[test]
    fn below_one_copy_there_are_rests_and_never_more_than_three_quarters() {
        let took = Duration::from_millis(8);
        let (mut pace, _) = after_the_first_pause();
        assert_eq!(pace.rest_after(took), Duration::ZERO);
        for (times, rest) in [(1, 8), (1, 24), (5, 24)] {
            for _ in 0..times {
                pace.hear(at(20), 1, &[writes(50, 9 * ALONE)]);
            }
            assert_eq!(pace.rest_after(took), Duration::from_millis(rest));
        }
        assert_eq!(pace.copies(), 1);
    }

    #[test]
    fn disk_that_suffers_most_decides_and_few_writes_say_nothing() {
        let mut pace = Pace::default();
        pace.add_workers(4);
        pace.hear(at(0), 0, &[Sample::default(); 3]);
        pace.hear(
            at(10),
            0,
            &[writes(9, ALONE), writes(9, 100 * ALONE), writes(7, 1)],
        );
        pace.hear(
            at(20),
            0,
            &[writes(9, ALONE), writes(9, 90 * ALONE), writes(9, 99)],
        );
        assert_eq!(pace.copies(), 2, "the third disk was never heard alone");
        pace.hear(
            at(30),
            0,
            &[writes(9, ALONE), writes(7, 900 * ALONE), writes(9, 99)],
        );
        assert_eq!(pace.copies(), 3, "seven writes are not enough");
        pace.hear(
            at(40),
            0,
            &[writes(9, 2 * ALONE), writes(9, 100 * ALONE), writes(9, 1)],
        );
        assert_eq!(pace.copies(), 1);
    }

    #[test]
    fn once_a_second_copying_pauses_until_the_last_copy_has_ended_and_then_a_moment() {
        let (mut pace, mut now) = after_the_first_pause();
        while pace.copies() > 0 {
            now += 10;
            pace.hear(at(now), 2, &[writes(50, ALONE)]);
        }
        assert_eq!(now, 1010);
        pace.hear(at(1015), 1, &[writes(50, 8 * ALONE)]);
        assert_eq!(pace.copies(), 0, "one is still in flight");
        pace.hear(at(1020), 0, &[writes(50, 8 * ALONE)]);
        pace.hear(at(1030), 0, &[writes(50, 2 * ALONE)]);
        assert_eq!(pace.alone, [Some(ALONE * 3 / 2)]);
        assert!(pace.copies() > 0);
        // Without writers there is nothing to listen to.
        for now in (1040..4000).step_by(10) {
            pace.hear(at(now), 2, &[Sample::default()]);
            assert!(pace.copies() > 0);
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn writes(writes: u64, mean_nanos: u64) -> Sample {
        Sample {
            writes,
            total: Duration::from_nanos(writes * mean_nanos),
        }
    }
}
