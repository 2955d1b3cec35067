//! What every device of this crate is: positioned reads and writes on a fixed number of bytes.
//!
//! [`Device`] is the trait, [`Extent`] what a device can say about a range without reading it, and
//! [`DeviceError`] what went wrong, where. The in-memory twin is [`MemoryDevice`](crate::MemoryDevice).

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::file::File;

/// A disk: a fixed number of bytes that many threads read and write at positions of their choice.
///
/// Every request is whole or an error; nothing is short. Ranges are half-open, must lie inside
/// [`size`](Self::size), and need no alignment; an empty range is a successful no-op. Requests that
/// overlap in space and time have no order among each other. A request that returned is seen by every
/// request that begins afterwards, but survives a loss of power only after a later
/// [`flush`](Self::flush) succeeded.
pub trait Device: fmt::Debug + Send + Sync {
    /// The name for messages: the path it was opened under, or the name it was given.
    fn name(&self) -> &str;

    /// Length in bytes; need not be a multiple of 512 or of a cluster. Never changes while open.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// The range leaves the device, or reading failed; `buf` then holds anything.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError>;

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// The range leaves the device, the device is read-only, or writing failed; the range then holds
    /// any mixture of old and new bytes.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError>;

    /// Makes a range read as zeroes, without writing them where the storage can do better. May free
    /// the space behind the range.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Says that nobody needs the bytes of a range any more. Each of them then reads as zero or as it
    /// was, and never as what a layer beneath holds. A device that cannot free anything does nothing.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Makes every write that returned before this call durable.
    ///
    /// # Errors
    /// The storage failed. What was written since the last successful flush may be lost, also when a
    /// later flush succeeds.
    fn flush(&self) -> Result<(), DeviceError>;

    /// The first run of `offset..offset + length` that is the same throughout, without reading it.
    ///
    /// The answer's length is at least one and at most `length`; it may be shorter than the longest
    /// such run, so neighbouring answers may be equal. `length` must not be zero.
    ///
    /// # Errors
    /// The range is empty or leaves the device, or the metadata could not be read.
    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError>;

    /// Where the first bytes of `offset..offset + length` lie in a file as they are, so that the operating system may
    /// copy them; nothing if they do not, or nobody knows. Holds as long as nobody writes to them.
    fn plain(&self, offset: u64, length: u64) -> Option<Plain> {
        let _ = (offset, length);
        None
    }
}

/// Bytes of a device that lie in a file as they are.
#[derive(Clone, Debug)]
pub struct Plain {
    /// The file.
    pub file: Arc<dyn File>,
    /// Where in it they begin.
    pub offset: u64,
    /// How many they are; never zero.
    pub length: u64,
}

/// What a device knows about a run of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes this speaks of, from the offset asked for; never zero.
    pub length: u64,
    /// What reading them would give.
    pub kind: ExtentKind,
    /// Whether the top layer itself says what is here, rather than a layer beneath or nobody. A
    /// device without layers (raw, memory) says so of all its bytes, holes too.
    pub allocated: bool,
}

/// What reading an extent gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes that must be read to be known; they may happen to be zero.
    Data,
    /// Zeroes, certainly.
    Zero,
}

/// What was asked of a device when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Device::read_at`].
    Read,
    /// [`Device::write_at`].
    Write,
    /// [`Device::write_zeroes`].
    WriteZeroes,
    /// [`Device::discard`].
    Discard,
    /// [`Device::flush`].
    Flush,
    /// [`Device::extent`].
    Extent,
}

/// A request that a device could not carry out: which device, what, where, why.
///
/// Its text tells all of it, the cause included, so [`source`](std::error::Error::source) is empty; the
/// cause is at [`cause`](Self::cause).
#[derive(Clone, Debug)]
pub struct DeviceError {
    device: String,
    operation: Operation,
    offset: u64,
    length: u64,
    cause: Arc<io::Error>,
}

impl DeviceError {
    /// Names what failed. `offset` and `length` are the bytes asked for, both zero for a flush.
    pub fn new(
        device: impl Into<String>,
        operation: Operation,
        offset: u64,
        length: u64,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self {
            device: device.into(),
            operation,
            offset,
            length,
            cause: Arc::new(cause.into()),
        }
    }

    /// The name of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What was asked.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The first byte asked for.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes were asked for.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Why it failed.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            operation,
            offset,
            length,
            cause,
        } = self;
        match operation {
            Operation::Flush => write!(f, "{device}: cannot flush: {cause}"),
            Operation::Read
            | Operation::Write
            | Operation::WriteZeroes
            | Operation::Discard
            | Operation::Extent => {
                write!(
                    f,
                    "{device}: cannot {operation} {length} bytes at byte {offset}: {cause}"
                )
            }
        }
    }
}

impl std::error::Error for DeviceError {}

impl Operation {
    /// Whether this asks for other bytes than there are.
    pub(crate) fn changes_bytes(self) -> bool {
        match self {
            Operation::Write | Operation::WriteZeroes | Operation::Discard => true,
            Operation::Read | Operation::Flush | Operation::Extent => false,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::WriteZeroes => "write zeroes to",
            Operation::Discard => "discard",
            Operation::Flush => "flush",
            Operation::Extent => "look up",
        })
    }
}

/// Refuses a range that leaves `device`: the first check of every implementation.
pub(crate) fn check_range(
    device: &dyn Device,
    operation: Operation,
    offset: u64,
    length: u64,
) -> Result<(), DeviceError> {
    let size = device.size();
    let empty = length == 0 && operation == Operation::Extent;
    let inside = offset.checked_add(length).is_some_and(|end| end <= size);
    if inside && !empty {
        return Ok(());
    }
    let rule = if empty {
        "the range must not be empty".to_owned()
    } else {
        format!("the range must end within the device's {size} bytes")
    };
    let cause = io::Error::new(io::ErrorKind::InvalidInput, rule);
    Err(DeviceError::new(
        device.name(),
        operation,
        offset,
        length,
        cause,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    #[test]
    fn error_names_device_operation_place_and_cause() {
        let cause = io::Error::other("no such sector");
        let error = DeviceError::new("vda", Operation::Read, 65536, 512, cause);
        assert_eq!(
            error.to_string(),
            "vda: cannot read 512 bytes at byte 65536: no such sector"
        );
        let error = DeviceError::new("vda", Operation::Flush, 0, 0, io::Error::other("gone"));
        assert_eq!(error.to_string(), "vda: cannot flush: gone");
    }

    #[test]
    fn ranges_that_leave_the_device_are_refused() {
        let device = MemoryDevice::new("m", 1000);
        let last = u64::MAX;
        for (offset, length) in [(0, 1001), (1000, 1), (1001, 0), (last, 1), (1, last)] {
            let refused = check_range(&device, Operation::Read, offset, length);
            assert_eq!(
                refused.unwrap_err().cause().kind(),
                io::ErrorKind::InvalidInput
            );
        }
        for (offset, length) in [(0, 1000), (1000, 0), (999, 1)] {
            check_range(&device, Operation::Read, offset, length).unwrap();
        }
        assert!(check_range(&device, Operation::Extent, 0, 0).is_err());
    }
}
