//! A filter that fails, stalls or does half the work, on command.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::device::{Device, DeviceError, Extent, Operation};
use crate::sync::Monitor;

/// A device that passes everything on to another, but for the requests that a [`Fault`] strikes.
///
/// For tests: of what happens when a disk fails at the worst moment, and of what waits for a disk that
/// does not answer. Nothing here needs a clock: a stalled request waits to be released, and who wants
/// to act once a fault has struck waits for that.
///
/// ```
/// use std::sync::Arc;
/// use cohort_block::{Device, Fault, Faulty, MemoryDevice, Operation};
///
/// let disk = Faulty::new(Arc::new(MemoryDevice::new("vda", 1 << 20)));
/// let fault = disk.inject(Fault::error(Operation::Read).nth(2).within(0..4096).once());
/// let mut buf = [0; 512];
/// disk.read_at(&mut buf, 0)?;
/// assert!(disk.read_at(&mut buf, 0).is_err());
/// disk.read_at(&mut buf, 0)?;
/// assert_eq!(fault.strikes(), 1);
/// # Ok::<_, cohort_block::DeviceError>(())
/// ```
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Device>,
    faults: Arc<Monitor<Vec<State>>>,
}

impl Faulty {
    /// A filter without faults.
    pub fn new(inner: Arc<dyn Device>) -> Self {
        Self {
            inner,
            faults: Arc::default(),
        }
    }

    /// Adds a fault, from the next request on. Of several that meet one request the oldest strikes, but
    /// a stall that is over lets the next one have it.
    pub fn inject(&self, fault: Fault) -> Injected {
        let mut faults = self.faults.lock();
        faults.push(State {
            fault,
            met: 0,
            strikes: 0,
            over: false,
        });
        Injected {
            faults: Arc::clone(&self.faults),
            index: faults.len() - 1,
        }
    }

    /// Finds what becomes of a request, waiting where a stall says so: nothing, or how many of its
    /// bytes are done before it fails how.
    fn strike(&self, operation: Operation, offset: u64, length: u64) -> Option<(u64, io::Error)> {
        let mut faults = self.faults.lock();
        // Faults are only ever added, at the end, so an index keeps its meaning while unlocked.
        let mut index = 0;
        while index < faults.len() {
            if !faults[index].strikes(operation, offset, length) {
                index += 1;
                continue;
            }
            faults[index].strikes += 1;
            self.faults.ring();
            match &faults[index].fault.effect {
                Effect::Error { text, done } => {
                    return Some(((*done).min(length), error(text.as_ref())));
                }
                Effect::Stall => {
                    while !faults[index].over {
                        faults = self.faults.wait(faults);
                    }
                    index += 1;
                }
            }
        }
        None
    }

    /// Passes a request on, or does `part` of it and fails.
    fn run<T>(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        whole: impl FnOnce() -> Result<T, DeviceError>,
        part: impl FnOnce(u64) -> Result<(), DeviceError>,
    ) -> Result<T, DeviceError> {
        let Some((done, cause)) = self.strike(operation, offset, length) else {
            return whole();
        };
        if done > 0 {
            part(done)?;
        }
        Err(DeviceError::new(
            self.name(),
            operation,
            offset,
            length,
            cause,
        ))
    }
}

/// What goes wrong, when, and how often.
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing until it is injected"]
pub struct Fault {
    operation: Operation,
    range: Option<Range<u64>>,
    /// How many requests that it meets pass before it strikes.
    passes: u64,
    /// How many it strikes.
    limit: u64,
    effect: Effect,
}

#[derive(Clone, Debug)]
enum Effect {
    /// With this text, or as a bad sector fails.
    Error {
        text: Option<String>,
        done: u64,
    },
    Stall,
}

fn error(text: Option<&String>) -> io::Error {
    match text {
        Some(text) => io::Error::other(text.clone()),
        None => rustix::io::Errno::IO.into(),
    }
}

impl Fault {
    /// Every such request fails, before anything of it is done, as a bad sector makes it fail.
    pub fn error(operation: Operation) -> Self {
        let (text, done) = (None, 0);
        Self::new(operation, Effect::Error { text, done })
    }

    /// Every such request waits until [`Injected::release`], and is then done.
    pub fn stall(operation: Operation) -> Self {
        Self::new(operation, Effect::Stall)
    }

    fn new(operation: Operation, effect: Effect) -> Self {
        Self {
            operation,
            range: None,
            passes: 0,
            limit: u64::MAX,
            effect,
        }
    }

    /// Meets only requests that touch a byte of `range`. A flush touches none.
    pub fn within(self, range: Range<u64>) -> Self {
        Self {
            range: Some(range),
            ..self
        }
    }

    /// Strikes from the `n`th request on that it meets, counted from 1; the earlier ones pass.
    pub fn nth(self, n: u64) -> Self {
        Self {
            passes: n.saturating_sub(1),
            ..self
        }
    }

    /// Strikes one request only.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Strikes so many requests.
    pub fn times(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// Does the first `bytes` of a request before failing it: a short write, a torn one. Has no meaning
    /// for a stall.
    pub fn after(mut self, bytes: u64) -> Self {
        if let Effect::Error { done, .. } = &mut self.effect {
            *done = bytes;
        }
        self
    }

    /// Fails with this text. Has no meaning for a stall.
    pub fn text(mut self, new: impl Into<String>) -> Self {
        if let Effect::Error { text, .. } = &mut self.effect {
            *text = Some(new.into());
        }
        self
    }
}

/// One fault and what became of it.
#[derive(Debug)]
struct State {
    fault: Fault,
    met: u64,
    strikes: u64,
    /// Removed or released.
    over: bool,
}

impl State {
    /// Counts a request that this fault meets, and says whether it strikes.
    fn strikes(&mut self, operation: Operation, offset: u64, length: u64) -> bool {
        let meets = self.fault.operation == operation
            && self.fault.range.as_ref().is_none_or(|range| {
                length > 0 && range.start < offset.saturating_add(length) && offset < range.end
            });
        if self.over || !meets {
            return false;
        }
        self.met += 1;
        self.met > self.fault.passes && self.strikes < self.fault.limit
    }
}

/// A fault in its place: to watch it, and to end it. Dropping this leaves the fault where it is.
#[derive(Clone, Debug)]
pub struct Injected {
    faults: Arc<Monitor<Vec<State>>>,
    index: usize,
}

impl Injected {
    /// How many requests it has struck.
    pub fn strikes(&self) -> u64 {
        self.faults.lock()[self.index].strikes
    }

    /// Waits until it has struck so many requests.
    pub fn wait_for_strikes(&self, strikes: u64) {
        let mut faults = self.faults.lock();
        while faults[self.index].strikes < strikes {
            faults = self.faults.wait(faults);
        }
    }

    /// Ends it for good: requests that it stalls go on, and it strikes no more.
    pub fn release(&self) {
        self.faults.lock()[self.index].over = true;
        self.faults.ring();
    }
}

impl Device for Faulty {
    crate::forward!(inner: name, size);

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let Some((done, cause)) = self.strike(Operation::Read, offset, buf.len() as u64) else {
            return self.inner.read_at(buf, offset);
        };
        self.inner.read_at(&mut buf[..done as usize], offset)?;
        Err(DeviceError::new(
            self.name(),
            Operation::Read,
            offset,
            buf.len() as u64,
            cause,
        ))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        let whole = || self.inner.write_at(buf, offset);
        let part = |done| self.inner.write_at(&buf[..done as usize], offset);
        self.run(Operation::Write, offset, buf.len() as u64, whole, part)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        let whole = || self.inner.write_zeroes(offset, length);
        let part = |done| self.inner.write_zeroes(offset, done);
        self.run(Operation::WriteZeroes, offset, length, whole, part)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        let whole = || self.inner.discard(offset, length);
        let part = |done| self.inner.discard(offset, done);
        self.run(Operation::Discard, offset, length, whole, part)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.run(Operation::Flush, 0, 0, || self.inner.flush(), |_| Ok(()))
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        let whole = || self.inner.extent(offset, length);
        self.run(Operation::Extent, offset, length, whole, |_| Ok(()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    fn faulty() -> Faulty {
        Faulty::new(Arc::new(MemoryDevice::with_bytes("m", &[7; 1000])))
    }

    #[test]
    fn strikes_from_the_nth_on_as_often_as_told() {
        let device = faulty();
        device.inject(Fault::error(Operation::Flush).nth(2).times(2));
        let outcomes = [(); 5].map(|()| device.flush().is_ok());
        assert_eq!(outcomes, [true, false, false, true, true]);
    }

    #[test]
    fn meets_only_its_operation_and_its_range() {
        let device = faulty();
        device.inject(Fault::error(Operation::Write).within(100..200));
        let touches = |offset, length| device.write_at(&vec![1; length], offset).is_err();
        assert!(!touches(0, 100) && !touches(200, 800) && !touches(150, 0));
        assert!(touches(0, 101) && touches(199, 1) && touches(0, 1000));
        device.read_at(&mut [0; 1000], 0).unwrap();
        device.write_zeroes(100, 100).unwrap();
        device.inject(Fault::error(Operation::Flush).within(0..1000));
        device.flush().unwrap();
    }

    #[test]
    fn a_short_write_does_its_beginning_and_fails() {
        let device = faulty();
        device.inject(Fault::error(Operation::Write).after(3).once());
        let error = device.write_at(&[1; 10], 0).unwrap_err();
        let code = rustix::io::Errno::IO.raw_os_error();
        assert_eq!(error.cause().raw_os_error(), Some(code));
        let mut back = [0; 10];
        device.read_at(&mut back, 0).unwrap();
        assert_eq!(back, [1, 1, 1, 7, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn errors_name_the_device_and_the_text() {
        let device = faulty();
        device.inject(Fault::error(Operation::Read).text("the cable is out"));
        let error = device.read_at(&mut [0; 4], 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "m: cannot read 4 bytes at byte 8: the cable is out"
        );
    }

    #[test]
    fn a_stalled_request_goes_on_when_released_and_meets_the_next_fault() {
        let device = faulty();
        let stall = device.inject(Fault::stall(Operation::Write));
        let error = device.inject(Fault::error(Operation::Write).once());
        std::thread::scope(|scope| {
            let write = scope.spawn(|| device.write_at(&[1; 10], 0));
            stall.wait_for_strikes(1);
            // Others pass meanwhile.
            let mut back = [0; 10];
            device.read_at(&mut back, 0).unwrap();
            assert_eq!((back, error.strikes()), ([7; 10], 0));
            stall.release();
            assert!(write.join().unwrap().is_err());
        });
        device.write_at(&[1; 10], 0).unwrap();
        assert_eq!((stall.strikes(), error.strikes()), (1, 1));
    }
}
