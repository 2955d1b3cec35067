//! A device behind a gate: every write enters, passes the filters, marks, writes, leaves; a fence closes it.
//!
//! A closed gate has no write inside, so what is installed while it is closed sees each write whole or
//! not at all: mark and data are on the same side of every fence. Several gates are closed in the
//! order of their ids ([`close_all`]), so fences that want the same gates never wait for each other in
//! a ring. Whose turn it is says `gate.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cohort_bitmap::Recorder;
use cohort_bitmap::store::Recording;

use crate::before_write::BeforeWrite;
use crate::device::check_range;
use crate::gate::{Closing, Gate, HeldBy, Inside};
use crate::meter::WriteMeter;
use crate::{Device, DeviceError, Operation};

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
    device: Arc<dyn Device>,
    /// What it was made with.
    meter: Option<Arc<WriteMeter>>,
    /// What is installed changes only while the gate is closed, except that spent filters and meters go
    /// at any time.
    gate: Gate<Installed>,
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
            device,
            meter: None,
            gate: Gate::new(),
        }
    }

    /// As [`new`](Self::new), with a meter that counts every write from the first on. It costs each of them two looks
    /// at the clock.
    pub fn metered(device: Arc<dyn Device>) -> Self {
        let meter = Arc::new(WriteMeter::default());
        let gated = Self {
            meter: Some(meter.clone()),
            ..Self::new(device)
        };
        gated.gate.change(|installed| installed.meters.push(meter));
        gated
    }

    /// The meter that it was made with.
    pub fn meter(&self) -> Option<&Arc<WriteMeter>> {
        self.meter.as_ref()
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
        let mut closing = self.gate.approach();
        self.shut(&mut closing, &who.into(), deadline)?;
        Ok(ClosedGate {
            gated: self,
            _closing: closing,
        })
    }

    /// Forgets filters that let everything pass for good. Allowed at any time, because no write can
    /// tell; a filter that still works stays.
    pub fn drop_spent_filters(&self) {
        if self.gate.installed().filters.iter().any(|f| f.is_spent()) {
            self.gate
                .change(|installed| installed.filters.retain(|f| !f.is_spent()));
        }
    }

    /// Counts no more writes in `meter`. Allowed at any time.
    pub fn remove_meter(&self, meter: &Arc<WriteMeter>) {
        self.gate
            .change(|installed| installed.meters.retain(|m| !Arc::ptr_eq(m, meter)));
    }

    fn shut(
        &self,
        closing: &mut Closing<'_, Installed>,
        who: &Arc<str>,
        deadline: Instant,
    ) -> Result<(), CloseError> {
        let shut = closing.close(who, deadline);
        shut.map_err(|held_by| CloseError::Missed {
            device: self.name().to_owned(),
            held_by,
        })
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
        let inside = self.gate.enter();
        let installed = &*inside.installed;
        let since = installed.holds_up(&inside, offset, length);
        if let Some(since) = since
            && let Err(refused) = installed.save(operation, offset, length, since)
        {
            installed.count(&inside, Some(since), Instant::now());
            return Err(refused);
        }
        for recorder in &installed.recorders {
            recorder.mark(offset, length);
        }
        for recording in &installed.recordings {
            recording.record(offset, length);
        }
        if installed.meters.is_empty() {
            return write();
        }
        let asked = Instant::now();
        let written = write();
        installed.count(&inside, since, asked);
        written
    }
}

impl Installed {
    /// Since when this write is held up: it found the gate closed, or has old data to be saved. Most writes are
    /// not, and ask no clock.
    fn holds_up(&self, inside: &Inside<'_, Self>, offset: u64, length: u64) -> Option<Instant> {
        let passes = || self.filters.iter().all(|f| f.passes(offset, length));
        let now = || (!passes()).then(Instant::now);
        inside.arrived.or_else(now)
    }

    fn save(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        since: Instant,
    ) -> Result<(), DeviceError> {
        let mut filters = self.filters.iter();
        filters.try_for_each(|f| f.before(operation, offset, length, since))
    }

    /// The write was held up, or not, its disk was asked, and now it has answered.
    fn count(&self, inside: &Inside<'_, Self>, since: Option<Instant>, asked: Instant) {
        let delay = since.map_or(Duration::ZERO, |since| asked - since);
        let device = asked.elapsed();
        for meter in &self.meters {
            meter.count(inside.at_gate, delay, device);
        }
    }
}

impl Device for Gated {
    crate::forward!(device: name, size, read_at, flush, extent);

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
}

/// A gate with no write inside and none let in. Opens when dropped.
///
/// Writers wait meanwhile, so only memory is touched here: nothing is synced, allocated on disk, or
/// called out to.
#[derive(Debug)]
#[must_use = "the gate opens when this is dropped"]
pub struct ClosedGate<'a> {
    gated: &'a Gated,
    _closing: Closing<'a, Installed>,
}

impl<'a> ClosedGate<'a> {
    /// Whose gate this is.
    pub fn gated(&self) -> &'a Gated {
        self.gated
    }

    /// From now on every write marks `recorder`. Installing it twice is the same as once. Those that nobody has besides the
    /// gate go: whoever was to look at them is gone.
    pub fn install_recorder(&mut self, recorder: Recorder) {
        self.change(|installed| {
            installed
                .recorders
                .retain(|r| !r.same(&recorder) && r.is_shared());
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

    /// No write passes any filter any more.
    #[cfg(all(test, loom))]
    pub(crate) fn remove_filters(&mut self) {
        self.change(|installed| installed.filters.clear());
    }

    /// From now on every write is counted in `meter`, those that wait at this gate included.
    pub fn install_meter(&mut self, meter: Arc<WriteMeter>) {
        self.change(|installed| installed.meters.push(meter));
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut Installed) -> R) -> R {
        self.gated.gate.change(change)
    }
}

/// Closes many gates under one deadline, in the order of their ids; gives them back in the order they
/// were named.
///
/// First no gate lets anybody in any more, then each is waited for. So the writes inside all of them end side
/// by side, and nobody who could wait competes with them for a processor.
///
/// # Errors
/// The deadline passed at one of them, or one was named twice; all are then open again.
pub fn close_all<'a>(
    gates: &[&'a Gated],
    who: &str,
    deadline: Instant,
) -> Result<Vec<ClosedGate<'a>>, CloseError> {
    let mut order: Vec<usize> = (0..gates.len()).collect();
    order.sort_by_key(|at| gates[*at].gate.id());
    if let Some(pair) = order
        .windows(2)
        .find(|w| gates[w[0]].gate.id() == gates[w[1]].gate.id())
    {
        return Err(CloseError::Twice {
            device: gates[pair[0]].name().to_owned(),
        });
    }
    let who = who.into();
    let mut closing: Vec<_> = gates.iter().map(|gated| gated.gate.approach()).collect();
    for at in order {
        gates[at].shut(&mut closing[at], &who, deadline)?;
    }
    let closed = gates.iter().zip(closing);
    let closed = closed.map(|(gated, _closing)| ClosedGate { gated, _closing });
    Ok(closed.collect())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use cohort_bitmap::Granularity;

    use super::*;
    use crate::{Fault, Faulty, MemoryDevice};

    #[test]
    fn recorders_that_nobody_has_go_with_the_next_that_comes() {
        let disk = Gated::new(Arc::new(MemoryDevice::new("vda", 2)));
        let recorder = || Recorder::new(2, Granularity::DEFAULT).unwrap();
        let kept = recorder();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut closed = disk.close("test", deadline).unwrap();
        closed.install_recorder(kept.clone());
        for _ in 0..9 {
            closed.install_recorder(recorder());
        }
        drop(closed);
        assert_eq!(disk.gate.installed().recorders.len(), 2);
        disk.write_at(&[1], 0).unwrap();
        assert!(kept.get(0));
    }

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
            while disk.gate.waiting() == 0 {
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
    fn no_gate_of_a_group_lets_anybody_in_while_another_is_waited_for() {
        let faulty = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("vda", 1))));
        let stalled = faulty.inject(Fault::stall(Operation::Write).once());
        let disks = [
            Gated::new(faulty),
            Gated::new(Arc::new(MemoryDevice::new("vdb", 1))),
        ];
        thread::scope(|scope| {
            scope.spawn(|| disks[0].write_at(&[1], 0).unwrap());
            stalled.wait_for_strikes(1);
            let closer = scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_secs(60);
                let gates = [&disks[0], &disks[1]];
                let closed = close_all(&gates, "test", deadline).unwrap();
                let mut byte = [0];
                closed[1].gated().read_at(&mut byte, 0).unwrap();
                byte
            });
            while disks[0].gate.closers() == 0 {
                thread::yield_now();
            }
            // Patience, where it never comes to that.
            let approached = (0..1_000_000).any(|_| {
                thread::yield_now();
                disks[1].gate.closers() == 1
            });
            let late = scope.spawn(|| disks[1].write_at(&[1], 0).unwrap());
            while disks[1].gate.waiting() == 0 && !late.is_finished() {
                thread::yield_now();
            }
            stalled.release();
            assert!(approached, "before the first was closed");
            assert_eq!(closer.join().unwrap(), [0], "nobody went in meanwhile");
        });
    }

    #[test]
    fn write_that_arrives_after_a_closer_waits_for_it() {
        let faulty = Arc::new(Faulty::new(Arc::new(MemoryDevice::new("vda", 2))));
        let stalled = faulty.inject(Fault::stall(Operation::Write).once());
        let disk = Gated::new(faulty);
        // Waiting shows nowhere but in the gate's own state.
        let until = |is: &dyn Fn() -> bool| {
            while !is() {
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
            until(&|| disk.gate.closers() == 1);
            let late = scope.spawn(|| disk.write_at(&[1], 1).unwrap());
            until(&|| disk.gate.waiting() == 1 || late.is_finished());
            stalled.release();
            assert_eq!(
                closer.join().unwrap(),
                [1, 0],
                "the early write, not the late one"
            );
        });
    }
}
