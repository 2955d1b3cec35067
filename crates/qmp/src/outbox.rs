//! What waits to be sent to one client: never more than twice a bound.

use std::mem;
use std::time::SystemTime;

use serde_json::Value;

use crate::event::{Event, Lagged};
use crate::session::line;

/// Messages for a client that reads as fast as it likes.
///
/// Beyond the bound events are left out, and counted; the client is told how many as soon as there is room again.
/// Replies are never left out: beyond twice the bound the client is to be disconnected.
#[derive(Debug)]
pub struct Outbox {
    bound: usize,
    waiting: Vec<u8>,
    missed: u64,
}

/// The client has twice as much to read as it may leave unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client does not read what it is sent")]
pub struct Overflow;

impl Outbox {
    /// An empty one with a bound in bytes.
    pub fn new(bound: usize) -> Self {
        Self {
            bound,
            waiting: Vec::new(),
            missed: 0,
        }
    }

    /// Adds an answer.
    ///
    /// # Errors
    /// [`Overflow`]; the answer is not added.
    pub fn reply(&mut self, message: &Value) -> Result<(), Overflow> {
        let line = line(message);
        // One answer may be as long as it is: what counts is that the client reads.
        if !self.waiting.is_empty() && self.waiting.len() + line.len() > 2 * self.bound {
            return Err(Overflow);
        }
        self.waiting.extend(line);
        Ok(())
    }

    /// Adds the line of an event if there is room.
    pub fn event(&mut self, line: &[u8], now: SystemTime) {
        self.catch_up(now, line.len());
        if self.missed > 0 || self.waiting.len() + line.len() > self.bound {
            self.missed += 1;
        } else {
            self.waiting.extend_from_slice(line);
        }
    }

    /// Says how many events were left out, if now there is room for that and for so many bytes more.
    fn catch_up(&mut self, now: SystemTime, besides: usize) {
        if self.missed == 0 {
            return;
        }
        let missed = self.missed;
        let line = Event::Lagged(Lagged { missed }).line_at(now);
        if self.waiting.len() + line.len() + besides <= self.bound {
            self.missed = 0;
            self.waiting.extend(line);
        }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes all that waits, to be sent in this order. If events were left out, the last thing says so.
    pub fn take(&mut self, now: SystemTime) -> Vec<u8> {
        let mut taken = mem::take(&mut self.waiting);
        self.catch_up(now, 0);
        taken.append(&mut self.waiting);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    fn events(bytes: &[u8]) -> Vec<Value> {
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[test]
    fn events_beyond_the_bound_are_counted_and_told() {
        let mut outbox = Outbox::new(300);
        for number in 0..100 {
            outbox.event(&line(&json!({ "number": number })), UNIX_EPOCH);
        }
        assert!(outbox.len() <= 300);
        let sent = events(&outbox.take(UNIX_EPOCH));
        let last = sent.last().unwrap();
        assert_eq!(last["event"], "x-cohort-lagged");
        assert_eq!(
            sent.len() as u64 - 1 + last["data"]["missed"].as_u64().unwrap(),
            100
        );
        outbox.event(&line(&json!({ "number": 100 })), UNIX_EPOCH);
        assert_eq!(events(&outbox.take(UNIX_EPOCH)), [json!({ "number": 100 })]);
    }

    #[test]
    fn replies_are_all_there_until_the_client_is_given_up() {
        let mut outbox = Outbox::new(50);
        let answer = json!({ "return": "0123456789" });
        let fit = (0..).take_while(|_| outbox.reply(&answer).is_ok()).count();
        assert_eq!(fit, 100 / line(&answer).len());
        assert_eq!(events(&outbox.take(UNIX_EPOCH)), vec![answer; fit]);
        let long = json!({ "return": "x".repeat(1000) });
        assert_eq!(outbox.reply(&long), Ok(()), "one is always taken");
        assert_eq!(outbox.reply(&long), Err(Overflow));
    }
}
