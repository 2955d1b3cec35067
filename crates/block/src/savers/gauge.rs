//! When a staging area is about to be full: pure arithmetic over levels and times.

use std::fmt;
use std::time::Duration;

/// Said when so much of the area is used, in percent: early enough to act, late enough to mean it.
const NEARLY_FULL: u64 = 80;

/// A notice is said again only after the area was this empty, in percent.
const CALM: u64 = 50;

/// A staging area is nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagingNotice {
    /// Bytes that wait for the target.
    pub used: u64,
    /// Bytes that may wait.
    pub size: u64,
    /// When the rest is used up if it goes on filling as it did since it was last half empty.
    pub exhausted_in: Duration,
}

impl fmt::Display for StagingNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = u128::from(self.used) * 100 / u128::from(self.size.max(1));
        write!(f, "staging {percent} % full, exhausted in about ")?;
        match self.exhausted_in.as_secs_f64() {
            seconds if seconds < 9.5 => write!(f, "{seconds:.1} s")?,
            seconds => write!(f, "{seconds:.0} s")?,
        }
        f.write_str(" at this rate")
    }
}

/// Watches a level rise and fall.
#[derive(Debug)]
pub(super) struct Gauge {
    size: u64,
    /// When it was last calm, and how full it was then.
    calm: (Duration, u64),
    told: bool,
}

impl Gauge {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            calm: (Duration::ZERO, 0),
            told: false,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.size = size;
    }

    /// Takes a reading; times never go back.
    pub(super) fn reads(&mut self, now: Duration, used: u64) -> Option<StagingNotice> {
        if self.size > 0 && reaches(used, CALM, self.size) {
            if self.told || !reaches(used, NEARLY_FULL, self.size) {
                return None;
            }
            self.told = true;
            return Some(self.notice(now, used));
        }
        self.calm = (now, used);
        self.told = false;
        None
    }

    fn notice(&self, now: Duration, used: u64) -> StagingNotice {
        let (since, then) = self.calm;
        // It was below half and is at four fifths, so it rose.
        let rose = used.saturating_sub(then).max(1) as f64;
        let left = self.size.saturating_sub(used) as f64;
        let took = now.saturating_sub(since).as_secs_f64();
        StagingNotice {
            used,
            size: self.size,
            exhausted_in: Duration::try_from_secs_f64(took * left / rose).unwrap_or(Duration::MAX),
        }
    }
}

fn reaches(used: u64, percent: u64, size: u64) -> bool {
    u128::from(used) * 100 >= u128::from(size) * u128::from(percent)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Levels in percent of 1,000 bytes, second by second; what is said, and when.
    fn said(levels: &[u64]) -> Vec<(usize, String)> {
        let mut gauge = Gauge::new(1000);
        let reading = |(second, level): (usize, &u64)| {
            let notice = gauge.reads(Duration::from_secs(second as u64), level * 10)?;
            Some((second, notice.to_string()))
        };
        levels.iter().enumerate().filter_map(reading).collect()
    }

    #[test]
    fn forecast_goes_on_as_it_rose_since_it_was_calm() {
        type Case<'a> = (&'a [u64], &'a [(usize, &'a str)]);
        let cases: [Case<'_>; 6] = [
            (&[0, 20, 40, 60, 79], &[]),
            // 80 points in four seconds: the last 20 take one more.
            (
                &[0, 20, 40, 60, 80],
                &[(
                    4,
                    "staging 80 % full, exhausted in about 1.0 s at this rate",
                )],
            ),
            // The slow beginning does not count: 40 to 85 in one second.
            (
                &[0, 10, 20, 30, 40, 85],
                &[(
                    5,
                    "staging 85 % full, exhausted in about 0.3 s at this rate",
                )],
            ),
            // Said once while it stays high, and again after it was calm.
            (
                &[0, 90, 60, 90, 49, 89],
                &[
                    (
                        1,
                        "staging 90 % full, exhausted in about 0.1 s at this rate",
                    ),
                    (
                        5,
                        "staging 89 % full, exhausted in about 0.3 s at this rate",
                    ),
                ],
            ),
            (
                &[0, 100],
                &[(
                    1,
                    "staging 100 % full, exhausted in about 0.0 s at this rate",
                )],
            ),
            (
                &[45, 46, 47, 48, 49, 51, 51, 51, 51, 60, 80],
                &[(
                    10,
                    "staging 80 % full, exhausted in about 3.9 s at this rate",
                )],
            ),
        ];
        for (levels, want) in cases {
            let want: Vec<_> = want
                .iter()
                .map(|(at, text)| (*at, (*text).to_owned()))
                .collect();
            assert_eq!(said(levels), want, "{levels:?}");
        }
    }

    #[test]
    fn area_of_no_size_is_never_full() {
        assert_eq!(Gauge::new(0).reads(Duration::ZERO, 0), None);
    }
}
