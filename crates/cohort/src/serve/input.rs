//! What a client sends: headers one by one, and the bytes that follow some of them, with few calls of the system.

use std::io;

use cohort_block::Socket;

use super::patience::{read_now, read_soon};

/// The buffer's size at first: an idle connection costs little.
const FIRST_BYTES: usize = 4 << 10;

/// The buffer's size when a client sends much at once.
const MOST_BYTES: usize = 128 << 10;

/// Bytes that have come and were not yet taken.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; FIRST_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Whether that many bytes can be taken without waiting.
    pub(super) fn has(&self, length: usize) -> bool {
        self.end - self.start >= length
    }

    /// Waits until `length` bytes are there, without taking them. Says no at the end if nothing had come;
    /// `length` is that of a header.
    ///
    /// # Errors
    /// The client stopped or left in the middle.
    pub(super) fn wait(&mut self, socket: &Socket, length: usize) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < length {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while !self.has(length) {
            match socket.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.start == self.end => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.end += read,
                // Between two requests a client may wait as long as it likes.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.start == self.end => {}
                Err(e) => return Err(e),
            }
        }
        if self.end == self.buffer.len() && self.buffer.len() < MOST_BYTES {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        Ok(true)
    }

    /// Says whether there is something to take, or to be told by [`wait`](Self::wait), without waiting for it.
    pub(super) fn look(&mut self, socket: &Socket) -> io::Result<bool> {
        if self.start < self.end {
            return Ok(true);
        }
        (self.start, self.end) = (0, 0);
        let read = read_now(socket, &mut self.buffer)?;
        self.end = read.unwrap_or(0);
        Ok(read.is_some())
    }

    /// Takes bytes that are there, into `to`.
    pub(super) fn take(&mut self, to: &mut [u8]) {
        to.copy_from_slice(&self.buffer[self.start..self.start + to.len()]);
        self.start += to.len();
    }

    /// Takes bytes that may still have to come; large ones go where they are wanted without a stop here.
    pub(super) fn fill(&mut self, socket: &Socket, to: &mut [u8]) -> io::Result<()> {
        let (now, later) = to.split_at_mut(to.len().min(self.end - self.start));
        self.take(now);
        let rest = read_soon(socket, later)?;
        socket.read_exact(rest)
    }
}
