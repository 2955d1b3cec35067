//! A node that fails on command: QEMU's rules of events, states and requests, over ours.
//!
//! A rule with an event is armed when that event comes, and then strikes the next requests that it meets; one with the
//! event `none` is armed always. Events are what the node above is about to do; of those that only QEMU's own drivers
//! have, none ever comes here.

use std::io;
use std::sync::{Arc, Mutex};

use cohort_block::{Device, DeviceError, Extent, File, Operation};
use cohort_qmp::{BlkdebugEvent, InjectError, IoType, SetState};

use super::lock;

/// The rules of one node, and where it stands.
#[derive(Debug)]
pub(super) struct Rules {
    inject: Vec<InjectError>,
    set_state: Vec<SetState>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    number: i64,
    /// Which rules are armed.
    armed: Vec<usize>,
    /// Which struck and may do so only once.
    spent: Vec<usize>,
}

impl Rules {
    pub(super) fn new(inject: Vec<InjectError>, set_state: Vec<SetState>) -> Self {
        Self {
            inject,
            set_state,
            state: Mutex::new(State {
                number: 1,
                armed: Vec::new(),
                spent: Vec::new(),
            }),
        }
    }

    /// The node above is about to do this.
    pub(super) fn event(&self, event: BlkdebugEvent) {
        let mut state = lock(&self.state);
        let now = state.number;
        let applies = |rule: Option<i64>| rule.is_none_or(|wanted| wanted == 0 || wanted == now);
        let meets = |(_, rule): &(usize, &InjectError)| rule.event == event && applies(rule.state);
        let armed: Vec<usize> = self
            .inject
            .iter()
            .enumerate()
            .filter(meets)
            .map(|(i, _)| i)
            .collect();
        if !armed.is_empty() {
            state.armed = armed;
        }
        let goes_on = |rule: &&SetState| rule.event == event && applies(rule.state);
        if let Some(rule) = self.set_state.iter().find(goes_on) {
            state.number = rule.new_state;
        }
    }

    /// What becomes of a request: nothing, or an error.
    fn strike(&self, kind: IoType, offset: u64, length: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let range = offset..offset + length.max(1);
        let struck = self.inject.iter().enumerate().find(|(index, rule)| {
            let armed = if rule.event == BlkdebugEvent::None {
                rule.state
                    .is_none_or(|wanted| wanted == 0 || wanted == state.number)
            } else {
                state.armed.contains(index)
            };
            let here = match rule.sector {
                None | Some(-1) => true,
                Some(sector) => u64::try_from(sector)
                    .is_ok_and(|sector| range.contains(&sector.saturating_mul(512))),
            };
            // Whoever only looks is meant only where a rule says so.
            let looks = kind == IoType::BlockStatus;
            let meant = rule.iotype.map_or(!looks, |wanted| wanted == kind);
            armed && here && meant && !state.spent.contains(index)
        });
        let Some((index, rule)) = struck else {
            return Ok(());
        };
        let code = rule.errno.and_then(|code| i32::try_from(code).ok());
        if rule.once == Some(true) {
            state.spent.push(index);
        }
        Err(io::Error::from_raw_os_error(code.unwrap_or(5)))
    }
}

/// A disk, through the rules.
#[derive(Debug)]
pub(super) struct Blkdebug {
    inner: Arc<dyn Device>,
    rules: Arc<Rules>,
}

impl Blkdebug {
    pub(super) fn new(inner: Arc<dyn Device>, rules: Arc<Rules>) -> Self {
        Self { inner, rules }
    }

    fn check(&self, operation: Operation, offset: u64, length: u64) -> Result<(), DeviceError> {
        let kind = match operation {
            Operation::Read => IoType::Read,
            Operation::Write => IoType::Write,
            Operation::WriteZeroes => IoType::WriteZeroes,
            Operation::Discard => IoType::Discard,
            Operation::Flush => IoType::Flush,
            Operation::Extent => IoType::BlockStatus,
        };
        let struck = self.rules.strike(kind, offset, length);
        struck.map_err(|cause| DeviceError::new(self.name(), operation, offset, length, cause))
    }
}

impl Device for Blkdebug {
    cohort_block::forward!(inner: name, size);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.check(Operation::Read, offset, buf.len() as u64)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.check(Operation::Write, offset, buf.len() as u64)?;
        self.inner.write_at(buf, offset)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.check(Operation::WriteZeroes, offset, length)?;
        self.inner.write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.check(Operation::Discard, offset, length)?;
        self.inner.discard(offset, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.check(Operation::Flush, 0, 0)?;
        self.inner.flush()
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        self.check(Operation::Extent, offset, length)?;
        self.inner.extent(offset, length)
    }
}

/// A disk that lies on a node with rules, and tells it what it is about to do.
#[derive(Debug)]
pub(super) struct Announcing {
    inner: Arc<dyn Device>,
    rules: Arc<Rules>,
}

impl Announcing {
    pub(super) fn new(inner: Arc<dyn Device>, rules: Arc<Rules>) -> Self {
        Self { inner, rules }
    }
}

impl Device for Announcing {
    cohort_block::forward!(inner: name, size, write_zeroes, discard, extent);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.rules.event(BlkdebugEvent::ReadAio);
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.rules.event(BlkdebugEvent::WriteAio);
        self.inner.write_at(buf, offset)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.rules.event(BlkdebugEvent::FlushToDisk);
        self.inner.flush()
    }
}

/// A format's file, through the rules.
#[derive(Debug)]
pub(super) struct BlkdebugFile {
    pub(super) inner: Arc<dyn File>,
    pub(super) rules: Arc<Rules>,
}

impl File for BlkdebugFile {
    cohort_block::forward_file!(inner: len, set_len, run_at);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.rules.strike(IoType::Read, offset, buf.len() as u64)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.rules.strike(IoType::Write, offset, buf.len() as u64)?;
        self.inner.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.rules.strike(IoType::Flush, 0, 0)?;
        self.inner.sync_data()
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.rules.strike(IoType::WriteZeroes, offset, length)?;
        self.inner.write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.rules.strike(IoType::Discard, offset, length)?;
        self.inner.discard(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(event: BlkdebugEvent, state: Option<i64>) -> InjectError {
        InjectError {
            event,
            state,
            iotype: None,
            errno: Some(28),
            sector: None,
            once: Some(true),
            immediately: None,
        }
    }

    /// The rules of iotest 257: pass two flushes, then two reads, and fail the third read.
    #[test]
    fn states_lead_to_the_request_that_fails() {
        let step = |event, state, new_state| SetState {
            event,
            state: Some(state),
            new_state,
        };
        let (flush, read) = (BlkdebugEvent::FlushToDisk, BlkdebugEvent::ReadAio);
        let steps = vec![
            step(flush, 1, 2),
            step(flush, 2, 3),
            step(read, 3, 4),
            step(read, 4, 5),
        ];
        let rules = Rules::new(vec![rule(read, Some(5))], steps);
        let read_one = || {
            rules.event(read);
            rules.strike(IoType::Read, 0, 512).is_ok()
        };
        assert!(read_one(), "not yet");
        rules.event(flush);
        rules.event(flush);
        assert!(read_one() && read_one());
        rules.event(read);
        let error = rules.strike(IoType::Read, 0, 512).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(28));
        rules.event(read);
        assert!(rules.strike(IoType::Read, 0, 512).is_ok(), "once");
    }

    #[test]
    fn rules_without_an_event_meet_their_sector_and_kind() {
        let mut meets = rule(BlkdebugEvent::None, None);
        (meets.sector, meets.iotype, meets.once) = (Some(8), Some(IoType::Write), None);
        let rules = Rules::new(vec![meets], vec![]);
        let ok = |kind, offset, length| rules.strike(kind, offset, length).is_ok();
        assert!(!ok(IoType::Write, 4096, 1) && !ok(IoType::Write, 0, 4097));
        assert!(ok(IoType::Write, 0, 4096) && ok(IoType::Read, 4096, 1));
        assert!(!ok(IoType::Write, 4096, 512), "again and again");
    }
}
