//! The gate: every write enters, passes the filters, marks, writes, leaves; a fence closes it.
//!
//! A closed gate has no write inside, so what is installed while it is closed sees each write whole or
//! not at all: mark and data are on the same side of every fence. Several gates are closed in the
//! order of their ids ([`close_all`]), so fences that want the same gates never wait for each other in
//! a ring.
//!
//! Turns are fair. Writes that arrive while somebody closes or has closed the gate wait; when that one
//! opens it or gives up, all of them are let in before the next one closes it. So a closer waits only
//! for writes that were there before it, and a write waits for one closer at most.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cohort_bitmap::Recorder;
use cohort_bitmap::store::Recording;

use crate::before_write::BeforeWrite;
use crate::device::check_range;
use crate::meter::WriteMeter;
use crate::sync::Monitor;
use crate::{Device, DeviceError, Extent, Operation};

/// A device with a gate in front of its writes.
///
/// Reads, flushes and extents go straight through. Writes, zeroes and discards pass what is installed:
/// filters first, then each recorder is marked and each recording told, then the data is written; the
/// marks stand also if writing then fails. Nothing is installed at first.
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use cohort_bitmap::{Granularity, Recorder};
/// use cohort_block::{Device, Gated, MemoryDevice};
///
/// let disk = Gated::new(Arc::new(MemoryDevice::new("vda", 1 << 20)));
/// let recorder = Recorder::new(disk.size(), Granularity::DEFAULT).unwrap();
/// let mut closed = disk.close("nightly", Instant::now() + Duration::from_secs(1))?;
/// closed.install_recorder(recorder.clone());
/// drop(closed); // Open again.
/// disk.write_at(b"hello", 70_000).unwrap();
/// assert!(recorder.get(65_536));
/// # Ok::<_, cohort_block::CloseError>(())
/// ```
#[derive(Debug)]
pub struct Gated {
    id: GateId,
    device: Arc<dyn Device>,
    gate: Monitor<State>,
}

/// The place of a gate in the order in which several are closed. Unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GateId(u64);

impl GateId {
    fn next() -> Self {
        // Not one of loom's: nothing waits on it.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A gate could not be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The deadline passed first.
    #[error("the gate of {device} did not close in time: {held_by}")]
    Missed {
        /// Whose gate.
        device: String,
        /// What kept it open, or closed.
        held_by: HeldBy,
    },
    /// The same gate was named twice.
    #[error("the gate of {device} was asked to close twice at once")]
    Twice {
        /// Whose gate.
        device: String,
    },
}

/// What kept a gate from closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// So many writes had not returned.
    Writes(u64),
    /// Another fence, of this name, had it closed.
    Fence(String),
}

#[derive(Debug, Default)]
struct State {
    /// Writes between enter and leave.
    inside: u64,
    /// Writes that wait for the turn to change.
    waiting: u64,
    /// Who wants the gate closed, or has it closed.
    closers: u64,
    closed_by: Option<Arc<str>>,
    /// Counts how often waiting writes were let in.
    turn: u64,
    /// Changes only while the gate is closed, except that spent filters go at any time. Writes take the
    /// whole list along as they enter.
    installed: Arc<Installed>,
}

#[derive(Clone, Debug, Default)]
struct Installed {
    recorders: Vec<Recorder>,
    recordings: Vec<Recording>,
    filters: Vec<Arc<BeforeWrite>>,
    meters: Vec<Arc<WriteMeter>>,
}

impl Gated {
    /// Puts an open gate in front of a device. From here on nobody else may write to it.
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self {
            id: GateId::next(),
            device,
            gate: Monitor::default(),
        }
    }

    /// Its place in the order of closing.
    pub fn id(&self) -> GateId {
        self.id
    }

    /// The device behind the gate. Read from it as you like; a write to it escapes every recorder.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Waits until no write is inside, and keeps all out until the answer is dropped.
    ///
    /// `who` is named to others who miss their deadline because of it. To close more than one gate at a
    /// time use [`close_all`].
    ///
    /// # Errors
    /// The deadline passed; the gate is then open again.
    pub fn close(&self, who: &str, deadline: Instant) -> Result<ClosedGate<'_>, CloseError> {
        let mut state = self.gate.lock();
        state.closers += 1;
        while state.inside > 0 || state.closed_by.is_some() {
            state = match self.gate.wait_until(state, deadline) {
                Ok(state) => state,
                Err(mut state) => {
                    let held_by = state.held_by();
                    state.closer_leaves();
                    self.gate.ring();
                    return Err(CloseError::Missed {
                        device: self.name().to_owned(),
                        held_by,
                    });
                }
            };
        }
        state.closed_by = Some(who.into());
        Ok(ClosedGate { gated: self })
    }

    /// Forgets filters that let everything pass for good. Allowed at any time, because no write can
    /// tell; a filter that still works stays.
    pub fn drop_spent_filters(&self) {
        let mut state = self.gate.lock();
        if state.installed.filters.iter().any(|f| f.is_spent()) {
            Arc::make_mut(&mut state.installed)
                .filters
                .retain(|f| !f.is_spent());
        }
    }

    /// Counts no more writes in `meter`. Allowed at any time.
    pub fn remove_meter(&self, meter: &Arc<WriteMeter>) {
        let mut state = self.gate.lock();
        let installed = Arc::make_mut(&mut state.installed);
        installed.meters.retain(|m| !Arc::ptr_eq(m, meter));
    }

    /// How a write of any kind is carried out.
    fn write_through(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        write: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        check_range(self, operation, offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let inside = self.enter();
        let began = inside.begins();
        let mut filters = inside.installed.filters.iter();
        let passed = filters.try_for_each(|f| f.before(operation, offset, length, inside.arrived));
        if let Err(refused) = passed {
            if let Some(began) = began {
                inside.count(began, Instant::now());
            }
            return Err(refused);
        }
        for recorder in &inside.installed.recorders {
            recorder.mark(offset, length);
        }
        for recording in &inside.installed.recordings {
            recording.record(offset, length);
        }
        let Some(began) = began else {
            return write();
        };
        let asked = Instant::now();
        let written = write();
        inside.count(began, asked);
        written
    }

    fn enter(&self) -> Inside<'_> {
        let mut state = self.gate.lock();
        let mut arrived = None;
        if state.closers == 0 {
            state.inside += 1;
        } else {
            // Whoever changes the turn counts us in, so no closer can slip in between.
            arrived = Some(Instant::now());
            state.waiting += 1;
            let turn = state.turn;
            while state.turn == turn {
                state = self.gate.wait(state);
            }
        }
        Inside {
            gated: self,
            installed: Arc::clone(&state.installed),
            arrived,
        }
    }
}

impl State {
    fn closer_leaves(&mut self) {
        self.closers -= 1;
        if self.closed_by.is_none() {
            self.inside += self.waiting;
            self.waiting = 0;
            self.turn += 1;
        }
    }

    fn held_by(&self) -> HeldBy {
        match &self.closed_by {
            Some(who) => HeldBy::Fence(who.to_string()),
            None => HeldBy::Writes(self.inside),
        }
    }
}

/// A write on its way. Leaves when dropped, however the write ended.
struct Inside<'a> {
    gated: &'a Gated,
    installed: Arc<Installed>,
    /// When it arrived, if it had to wait: its patience counts from there.
    arrived: Option<Instant>,
}

impl Inside<'_> {
    /// The present, if anybody wants to know how long this write takes.
    fn begins(&self) -> Option<Instant> {
        (!self.installed.meters.is_empty()).then(Instant::now)
    }

    /// The write was let in, its disk was asked, and now it has answered.
    fn count(&self, began: Instant, asked: Instant) {
        let device = asked.elapsed();
        let at_gate = self.arrived.map(|arrived| began - arrived);
        let delay = asked - self.arrived.unwrap_or(began);
        for meter in &self.installed.meters {
            meter.count(at_gate, delay, device);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.gated.gate.lock();
        state.inside -= 1;
        if state.inside == 0 && state.closers > 0 {
            self.gated.gate.ring();
        }
    }
}

impl Device for Gated {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.device.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.write_through(Operation::Write, offset, buf.len() as u64, || {
            self.device.write_at(buf, offset)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.write_through(Operation::WriteZeroes, offset, length, || {
            self.device.write_zeroes(offset, length)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.write_through(Operation::Discard, offset, length, || {
            self.device.discard(offset, length)
        })
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.device.flush()
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        self.device.extent(offset, length)
    }
}

/// A gate with no write inside and none let in. Opens when dropped.
///
/// Writers wait meanwhile, so only memory is touched here: nothing is synced, allocated on disk, or
/// called out to.
#[derive(Debug)]
#[must_use = "the gate opens when this is dropped"]
pub struct ClosedGate<'a> {
    gated: &'a Gated,
}

impl<'a> ClosedGate<'a> {
    /// Whose gate this is.
    pub fn gated(&self) -> &'a Gated {
        self.gated
    }

    /// From now on every write marks `recorder`. Installing it twice is the same as once.
    pub fn install_recorder(&mut self, recorder: Recorder) {
        self.change(|installed| {
            installed.recorders.retain(|r| !r.same(&recorder));
            installed.recorders.push(recorder);
        });
    }

    /// No write marks it any more. Says whether it was installed.
    pub fn remove_recorder(&mut self, recorder: &Recorder) -> bool {
        self.change(|installed| {
            let before = installed.recorders.len();
            installed.recorders.retain(|r| !r.same(recorder));
            installed.recorders.len() < before
        })
    }

    /// From now on every write is recorded durably before its data goes out, as the store's mode says.
    /// Installing it twice is the same as once.
    pub fn install_recording(&mut self, recording: Recording) {
        self.change(|installed| {
            installed.recordings.retain(|r| !r.same(&recording));
            installed.recordings.push(recording);
        });
    }

    /// No write is recorded there any more. Says whether it was installed.
    pub fn remove_recording(&mut self, recording: &Recording) -> bool {
        self.change(|installed| {
            let before = installed.recordings.len();
            installed.recordings.retain(|r| !r.same(recording));
            installed.recordings.len() < before
        })
    }

    /// From now on every write passes `filter`, after those installed before it.
    pub fn install_filter(&mut self, filter: Arc<BeforeWrite>) {
        self.change(|installed| {
            installed.filters.retain(|f| !f.is_spent());
            installed.filters.push(filter);
        });
    }

    /// No write passes it any more. Says whether it was installed.
    pub fn remove_filter(&mut self, filter: &Arc<BeforeWrite>) -> bool {
        self.change(|installed| {
            let before = installed.filters.len();
            installed.filters.retain(|f| !Arc::ptr_eq(f, filter));
            installed.filters.len() < before
        })
    }

    /// From now on every write is counted in `meter`, those that wait at this gate included.
    pub fn install_meter(&mut self, meter: Arc<WriteMeter>) {
        self.change(|installed| installed.meters.push(meter));
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut Installed) -> R) -> R {
        change(Arc::make_mut(&mut self.gated.gate.lock().installed))
    }
}

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        let mut state = self.gated.gate.lock();
        state.closed_by = None;
        state.closer_leaves();
        self.gated.gate.ring();
    }
}

/// Closes many gates under one deadline, in the order of their ids; gives them back in the order they
/// were named.
///
/// # Errors
/// The deadline passed at one of them, or one was named twice; all are then open again.
pub fn close_all<'a>(
    gates: &[&'a Gated],
    who: &str,
    deadline: Instant,
) -> Result<Vec<ClosedGate<'a>>, CloseError> {
    let mut order: Vec<usize> = (0..gates.len()).collect();
    order.sort_by_key(|at| gates[*at].id());
    if let Some(pair) = order
        .windows(2)
        .find(|w| gates[w[0]].id() == gates[w[1]].id())
    {
        return Err(CloseError::Twice {
            device: gates[pair[0]].name().to_owned(),
        });
    }
    let mut closed = Vec::with_capacity(gates.len());
    for at in order {
        closed.push((at, gates[at].close(who, deadline)?));
    }
    closed.sort_by_key(|(at, _)| *at);
    Ok(closed.into_iter().map(|(_, gate)| gate).collect())
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeldBy::Writes(1) => f.write_str("one write had not returned"),
            HeldBy::Writes(count) => write!(f, "{count} writes had not returned"),
            HeldBy::Fence(who) => write!(f, "the fence of {who} had it closed"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::{Fault, Faulty, MemoryDevice};

    #[test]
    fn meter_tells_the_gate_from_the_disk_and_counts_who_waited_when_it_came() {
        let disk = Gated::new(Arc::new(MemoryDevice::new("vda", 2)));
        let meter = Arc::new(WriteMeter::default());
        let waited = thread::scope(|scope| {
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut closed = disk.close("test", deadline).unwrap();
            let late = scope.spawn(|| {
                let arrived = Instant::now();
                disk.write_at(&[1], 0).unwrap();
                arrived.elapsed()
            });
            while disk.gate.lock().waiting == 0 {
                thread::yield_now();
            }
            let waits = Instant::now();
            closed.install_meter(Arc::clone(&meter));
            let at_least = waits.elapsed();
            drop(closed);
            at_least..=late.join().unwrap()
        });
        disk.write_at(&[1], 0).unwrap();
        let (delays, fence) = (meter.delays(), meter.fence_delays());
        assert_eq!(
            (delays.writes, fence.writes, meter.device().writes),
            (2, 1, 2)
        );
        assert!(waited.contains(&fence.worst), "{fence:?} {waited:?}");
        assert!(delays.worst >= fence.worst);
        disk.remove_meter(&meter);
        disk.write_at(&[1], 0).unwrap();
        assert_eq!(meter.delays().writes, 2);
    }

    #[test]
    fn write_that_arrives_after_a_closer_waits_for_it() {
        let faulty = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("vda", 2))));
        let stalled = faulty.inject(Fault::stall(Operation::Write).once());
        let disk = Gated::new(faulty);
        // Waiting shows nowhere but in the gate's own state.
        let until = |is: &dyn Fn(&State) -> bool| {
            while !is(&disk.gate.lock()) {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| disk.write_at(&[1], 0).unwrap());
            stalled.wait_for_strikes(1);
            let closer = scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_secs(60);
                let closed = disk.close("test", deadline).unwrap();
                let mut bytes = [0; 2];
                closed.gated().read_at(&mut bytes, 0).unwrap();
                bytes
            });
            until(&|state| state.closers == 1);
            let late = scope.spawn(|| disk.write_at(&[1], 1).unwrap());
            until(&|state| state.waiting == 1 || late.is_finished());
            stalled.release();
            assert_eq!(
                closer.join().unwrap(),
                [1, 0],
                "the early write, not the late one"
            );
        });
    }
}
