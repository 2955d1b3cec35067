//! What an I/O error means for a backup: policies with a budget instead of an endless retry, and their text form.
//!
//! ```text
//! report                                        the first error fails the disk
//! stop, enospc                                  the disk waits for the operator; enospc only if the target is full
//! ignore                                        tried again while the budget lasts
//! skip:100                                      as ignore; then left out and listed, 100 granules at most
//! ignore,attempts=3,back-off=50ms,total=10s     any but report and enospc, with a budget of its own
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How often and how long a failing read or write is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tries of one cluster, the first included; at least 1.
    pub attempts: u32,
    /// Pause before a second try; doubled before each further one.
    pub back_off: Duration,
    /// Time that all pauses of one disk may take together.
    pub total: Duration,
}

impl Budget {
    /// One try: the first error is the last.
    pub const NONE: Budget = Budget {
        attempts: 1,
        back_off: Duration::ZERO,
        total: Duration::ZERO,
    };
}

impl Default for Budget {
    /// Five tries from 100 ms on: enough for a path to fail over, short enough to be watched.
    fn default() -> Self {
        Budget {
            attempts: 5,
            back_off: Duration::from_millis(100),
            total: Duration::from_secs(30),
        }
    }
}

/// What an I/O error means for the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// The first error fails the disk.
    #[default]
    Report,
    /// Tried again while the budget lasts; then the disk pauses until it is resumed, and tries again with a new budget.
    Stop(Budget),
    /// As `Stop` at once if the target is full; any other error fails the disk.
    Enospc,
    /// Tried again while the budget lasts; then the disk fails.
    Ignore(Budget),
    /// Tried again while the budget lasts; then the cluster is left out, listed, and stays dirty.
    Skip {
        /// Tries before a cluster is skipped.
        budget: Budget,
        /// Clusters that may be skipped; one more fails the disk as incomplete.
        limit: u64,
    },
}

impl ErrorPolicy {
    /// How often and how long this policy tries again.
    pub fn budget(&self) -> Budget {
        match self {
            ErrorPolicy::Report | ErrorPolicy::Enospc => Budget::NONE,
            ErrorPolicy::Stop(budget)
            | ErrorPolicy::Ignore(budget)
            | ErrorPolicy::Skip { budget, .. } => *budget,
        }
    }
}

impl fmt::Display for ErrorPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, usual) = match self {
            ErrorPolicy::Report => return f.pad("report"),
            ErrorPolicy::Enospc => return f.pad("enospc"),
            ErrorPolicy::Stop(_) => ("stop".to_owned(), Budget::NONE),
            ErrorPolicy::Ignore(_) => ("ignore".to_owned(), Budget::default()),
            ErrorPolicy::Skip { limit, .. } => (format!("skip:{limit}"), Budget::default()),
        };
        f.write_str(&word)?;
        let Budget {
            attempts,
            back_off,
            total,
        } = self.budget();
        if attempts != usual.attempts {
            write!(f, ",attempts={attempts}")?;
        }
        if back_off != usual.back_off {
            write!(f, ",back-off={}", Time(back_off))?;
        }
        if total != usual.total {
            write!(f, ",total={}", Time(total))?;
        }
        Ok(())
    }
}

impl FromStr for ErrorPolicy {
    type Err = BadErrorPolicy;

    fn from_str(text: &str) -> Result<Self, BadErrorPolicy> {
        let bad = |rule| BadErrorPolicy {
            text: text.to_owned(),
            rule,
        };
        let mut parts = text.split(',');
        let word = parts.next().unwrap_or_default();
        let mut policy = match word.split_once(':') {
            None => match word {
                "report" => ErrorPolicy::Report,
                "stop" => ErrorPolicy::Stop(Budget::NONE),
                "enospc" => ErrorPolicy::Enospc,
                "ignore" => ErrorPolicy::Ignore(Budget::default()),
                _ => return Err(bad(WORDS)),
            },
            Some(("skip", limit)) => ErrorPolicy::Skip {
                budget: Budget::default(),
                limit: limit
                    .parse()
                    .ok()
                    .filter(|limit| *limit > 0)
                    .ok_or_else(|| bad(WORDS))?,
            },
            Some(_) => return Err(bad(WORDS)),
        };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| bad(BUDGET))?;
            let budget = match &mut policy {
                ErrorPolicy::Report | ErrorPolicy::Enospc => return Err(bad(NO_BUDGET)),
                ErrorPolicy::Stop(budget)
                | ErrorPolicy::Ignore(budget)
                | ErrorPolicy::Skip { budget, .. } => budget,
            };
            match key {
                "attempts" => {
                    let attempts = value.parse().ok().filter(|attempts| *attempts > 0);
                    budget.attempts = attempts.ok_or_else(|| bad(ATTEMPTS))?;
                }
                "back-off" => budget.back_off = time(value).ok_or_else(|| bad(TIMES))?,
                "total" => budget.total = time(value).ok_or_else(|| bad(TIMES))?,
                _ => return Err(bad(BUDGET)),
            }
        }
        Ok(policy)
    }
}

const WORDS: &str =
    "say report, stop, enospc, ignore, or skip:N with the number of granules that may be left out";
const BUDGET: &str = "a budget is attempts=N, back-off=TIME, total=TIME, each after a comma";
const NO_BUDGET: &str =
    "report and enospc never try again, so they have no budget: say ignore or stop";
const ATTEMPTS: &str = "the first try counts, so attempts is at least 1";
const TIMES: &str = "a time is a whole number with ms, s or m";

/// A text that is no policy for errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}': {rule}")]
pub struct BadErrorPolicy {
    text: String,
    rule: &'static str,
}

/// Reads a whole number with its unit.
fn time(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

/// A time as it is read.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read() {
        for text in [
            "report",
            "stop",
            "enospc",
            "ignore",
            "skip:100",
            "ignore,attempts=3,back-off=50ms,total=10s",
            "skip:1,attempts=1",
            "stop,attempts=4,back-off=1s,total=120s",
        ] {
            let policy: ErrorPolicy = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
        }
        assert_eq!(
            "ignore,total=2m"
                .parse::<ErrorPolicy>()
                .unwrap()
                .to_string(),
            "ignore,total=120s"
        );
    }

    #[test]
    fn what_is_no_policy_is_refused_with_its_rule() {
        for (text, rule) in [
            ("", WORDS),
            ("retry", WORDS),
            ("skip", WORDS),
            ("skip:0", WORDS),
            ("skip:-1", WORDS),
            ("ignore:3", WORDS),
            ("report,attempts=2", NO_BUDGET),
            ("enospc,total=1s", NO_BUDGET),
            ("ignore,attempts=0", ATTEMPTS),
            ("ignore,attempts=x", ATTEMPTS),
            ("ignore,tries=3", BUDGET),
            ("ignore,", BUDGET),
            ("ignore,total=3", TIMES),
            ("ignore,total=3h", TIMES),
            ("ignore,total=ms", TIMES),
            ("stop,total=999999999999999999999s", TIMES),
            ("stop,total=400000000000000000m", TIMES),
        ] {
            let bad = text.parse::<ErrorPolicy>().unwrap_err();
            assert_eq!(bad.rule, rule, "{text}");
            assert!(bad.to_string().contains(text));
        }
    }
}
