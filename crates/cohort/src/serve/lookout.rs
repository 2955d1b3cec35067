//! Looking out for a client's next request for a moment before going to sleep: to be woken takes a thread longer than most
//! requests do.
//!
//! One thread of a server looks at a time, and gives way to whoever else wants its processor; a client that mostly
//! thinks longer than a moment is not waited for like that. So it never costs much, whatever the clients do.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long somebody looks: about what two wake-ups cost, the client's and ours.
const MOMENT: Duration = Duration::from_micros(100);

/// A client that never came in time is looked for again this seldom.
const SELDOM: u32 = 64;

/// The one place to look from.
#[derive(Debug)]
pub(super) struct Lookout {
    is_taken: AtomicBool,
    /// Where there is one processor, whoever looks keeps the client from coming.
    is_of_use: bool,
}

/// How often a client came in time, lately.
#[derive(Debug)]
pub(super) struct Habit {
    /// A bit for each of the last looks, set if it came.
    came: AtomicU32,
    left_out: AtomicU32,
}

impl Lookout {
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, |count| count.get());
        Self {
            is_taken: AtomicBool::new(false),
            is_of_use: processors > 1,
        }
    }

    /// Asks `came` for a moment, unless somebody else looks or it is of no use. An error is an answer, too.
    pub(super) fn look(
        &self,
        habit: &Habit,
        mut came: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<()> {
        if !self.is_of_use || !habit.promises() || self.is_taken.swap(true, Ordering::Acquire) {
            return Ok(());
        }
        let begin = Instant::now();
        let answer = loop {
            match came() {
                Ok(false) if begin.elapsed() < MOMENT => thread::yield_now(),
                answer => break answer,
            }
        };
        self.is_taken.store(false, Ordering::Release);
        habit.note(!matches!(answer, Ok(false)));
        answer.map(drop)
    }
}

impl Habit {
    pub(super) fn new() -> Self {
        Self {
            came: AtomicU32::new(u32::MAX),
            left_out: AtomicU32::new(0),
        }
    }

    fn promises(&self) -> bool {
        self.came.load(Ordering::Relaxed) != 0
            || self.left_out.fetch_add(1, Ordering::Relaxed) % SELDOM == SELDOM - 1
    }

    /// One thread at a time reads from a client, so nothing is lost between the two.
    fn note(&self, came: bool) {
        let before = self.came.load(Ordering::Relaxed);
        self.came
            .store(before << 1 | u32::from(came), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookout() -> Lookout {
        Lookout {
            is_of_use: true,
            ..Lookout::new()
        }
    }

    #[test]
    fn who_comes_in_time_is_looked_for_and_who_never_does_is_not() {
        let (lookout, habit) = (lookout(), Habit::new());
        let looks = |comes: bool| {
            let mut asked = 0;
            let looked = lookout.look(&habit, || {
                asked += 1;
                Ok(comes)
            });
            looked.unwrap();
            asked > 0
        };
        assert!((0..40).all(|_| looks(true)));
        assert!((0..32).all(|_| looks(false)), "it may come again");
        let tried = (0..10 * SELDOM).filter(|_| looks(false)).count();
        assert_eq!(tried, 10, "now and then");
        while !looks(true) {}
        assert!((0..32).all(|_| looks(false)), "its habit changed");
    }

    #[test]
    fn one_looks_at_a_time_and_errors_are_told() {
        let (lookout, habit) = (lookout(), Habit::new());
        let inside = lookout.look(&habit, || {
            let other = lookout.look(&Habit::new(), || panic!("it is taken"));
            other.map(|()| true)
        });
        inside.unwrap();
        let failed = lookout.look(&habit, || Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        lookout.look(&habit, || Ok(true)).unwrap();
        let mut other = Lookout::new();
        other.is_of_use = false;
        other.look(&habit, || panic!("of no use")).unwrap();
    }
}
