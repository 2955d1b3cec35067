//! A worker's turn: how long it may go on before others have theirs.

use std::time::{Duration, Instant};

use crate::shell::now;

/// After this long a worker lets others have their turn.
const SLICE: Duration = Duration::from_millis(1);
/// The clock is asked once in so many calls: asking it costs as much as a short call. While the calls are short, once in more.
const CALLS_PER_LOOK: u32 = 8;
const CALLS_PER_LOOK_MAX: u32 = 64;
/// So many calls in less than this are short ones.
const SHORT: Duration = Duration::from_micros(16);

/// One worker's turn.
pub(crate) struct Slice {
    end: Instant,
    /// The last look at the clock, the calls since, and how many to wait for.
    looked: Instant,
    calls: u32,
    until_look: u32,
}

impl Slice {
    pub(crate) fn begin() -> Self {
        let looked = now();
        Self {
            end: looked + SLICE,
            looked,
            calls: 0,
            until_look: CALLS_PER_LOOK,
        }
    }

    /// Counts one more call; whether it was the last of this turn.
    #[inline]
    pub(crate) fn is_over(&mut self) -> bool {
        self.calls += 1;
        self.calls >= self.until_look && self.look()
    }

    /// Whether the turn was over at the last look at the clock.
    pub(crate) fn was_over(&self) -> bool {
        self.looked >= self.end
    }

    fn look(&mut self) -> bool {
        let time = now();
        let short = time.saturating_duration_since(self.looked) < SHORT;
        self.until_look = if short {
            CALLS_PER_LOOK_MAX.min(self.until_look * 2)
        } else {
            CALLS_PER_LOOK
        };
        (self.calls, self.looked) = (0, time);
        time >= self.end
    }
}
