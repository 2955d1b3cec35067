//! What a file system asked of its disk, recorded once: writes, flushes, and marks of what was going on.
//!
//! `tests/traces/record-ext4.sh` makes such a file, and says how it is laid out.

use std::path::Path;
use std::{fs, io};

use cohort_block::{Device, DeviceError};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// Bytes of a block.
pub const BLOCK: u64 = 1024;

/// More than any trace here unpacks to.
const MOST: usize = 64 << 20;

/// One request, or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Blocks are written.
    Write {
        /// The first byte.
        offset: u64,
        /// What is written.
        data: Vec<u8>,
    },
    /// Everything so far is to be durable.
    Flush,
    /// The file system says what it did.
    Mark(Mark),
}

/// What the file system did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It is frozen: clean until it is thawed.
    Frozen,
    /// It may write again.
    Thawed,
    /// It is unmounted: clean until the next write.
    Unmounted,
}

/// A recorded trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Bytes of the disk, which was empty.
    pub size: u64,
    /// In order.
    pub requests: Vec<Request>,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is not a trace.
    pub fn read(path: &Path) -> io::Result<Self> {
        let packed = fs::read(path)?;
        let bytes = decompress_to_vec_zlib_with_limit(&packed, MOST)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Reader { bytes: &bytes }
            .trace()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is cut off"))
    }

    /// Whether the file system is clean after so many requests: frozen or unmounted, and nothing written since.
    #[must_use]
    pub fn is_clean_after(&self, count: usize) -> bool {
        let last = self.requests[..count]
            .iter()
            .rev()
            .find(|request| **request != Request::Flush);
        matches!(
            last,
            Some(Request::Mark(Mark::Frozen | Mark::Thawed | Mark::Unmounted))
        )
    }
}

impl Request {
    /// Asks the same of a device.
    ///
    /// # Errors
    /// What the device says.
    pub fn replay(&self, device: &dyn Device) -> Result<(), DeviceError> {
        match self {
            Self::Write { offset, data } => device.write_at(data, *offset),
            Self::Flush => device.flush(),
            Self::Mark(_) => Ok(()),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn trace(mut self) -> Option<Trace> {
        let size = u64::from_le_bytes(self.array()?);
        let different = u32::from_le_bytes(self.array()?);
        let count = u32::from_le_bytes(self.array()?);
        let zeroes = [0; BLOCK as usize];
        let mut blocks: Vec<&[u8]> = vec![&zeroes];
        for _ in 0..different {
            blocks.push(self.take(BLOCK as usize)?);
        }
        let requests = (0..count).map(|_| self.request(&blocks));
        let requests = requests.collect::<Option<_>>()?;
        Some(Trace { size, requests })
    }

    fn request(&mut self, blocks: &[&[u8]]) -> Option<Request> {
        Some(match self.array()? {
            [b'w'] => {
                let first = u32::from_le_bytes(self.array()?);
                let count = u32::from_le_bytes(self.array()?);
                let mut data = Vec::new();
                for _ in 0..count {
                    let number = u16::from_le_bytes(self.array()?);
                    data.extend_from_slice(blocks.get(usize::from(number))?);
                }
                let offset = u64::from(first) * BLOCK;
                Request::Write { offset, data }
            }
            [b'f'] => Request::Flush,
            [b'm'] => Request::Mark(match self.array()? {
                [1] => Mark::Frozen,
                [2] => Mark::Thawed,
                [3] => Mark::Unmounted,
                [_] => return None,
            }),
            [_] => return None,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }
}
