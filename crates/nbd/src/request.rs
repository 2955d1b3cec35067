//! Requests: what a client asks of an export, and how that lies on the wire.

use crate::option::Mode;
use crate::wire::{Bytes, EXTENDED_REQUEST, Put, REQUEST};

/// One request, without the bytes that a write carries after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's own number for it; the reply carries it too.
    pub cookie: u64,
    /// What is asked.
    pub command: Command,
}

/// What is asked. Ranges are in bytes and need no alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read a range.
    Read {
        /// The first byte.
        offset: u64,
        /// How many; at most [`MAX_PAYLOAD`](crate::MAX_PAYLOAD).
        length: u32,
        /// In one piece: not in fragments, holes as zeroes.
        whole: bool,
    },
    /// Write the bytes that follow.
    Write {
        /// The first byte.
        offset: u64,
        /// How many; at most [`MAX_PAYLOAD`](crate::MAX_PAYLOAD).
        length: u32,
        /// Durable when it is answered.
        fua: bool,
    },
    /// Make durable what was answered before.
    Flush,
    /// Nobody needs these bytes.
    Trim {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Durable when it is answered.
        fua: bool,
    },
    /// Make a range read as zeroes.
    WriteZeroes {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Durable when it is answered.
        fua: bool,
        /// The space must stay allocated.
        no_hole: bool,
        /// Only if that is faster than writing zeroes.
        fast: bool,
    },
    /// These bytes will be read soon.
    Cache {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// What the chosen contexts say of a range.
    BlockStatus {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
        /// One run is enough.
        one: bool,
    },
}

/// The numbers of the commands.
pub(crate) mod kind {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// The flags of the commands.
pub(crate) mod flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// A request's header, field by field, not yet judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Header {
    /// How long a request's header is.
    pub(crate) const fn length_in(mode: Mode) -> usize {
        match mode {
            Mode::Simple | Mode::Structured => 28,
            Mode::Extended => 32,
        }
    }

    /// Reads a header of [`length_in`](Self::length_in) bytes; what is no header gives what stands for its magic.
    pub(crate) fn read(bytes: &[u8], mode: Mode) -> Result<Self, u64> {
        let mut bytes = Bytes(bytes);
        let magic = bytes.u32().unwrap_or(0);
        let right = match mode {
            Mode::Simple | Mode::Structured => REQUEST,
            Mode::Extended => EXTENDED_REQUEST,
        };
        let mut fields = || {
            Some(Self {
                flags: bytes.u16()?,
                kind: bytes.u16()?,
                cookie: bytes.u64()?,
                offset: bytes.u64()?,
                length: match mode {
                    Mode::Simple | Mode::Structured => bytes.u32()?.into(),
                    Mode::Extended => bytes.u64()?,
                },
            })
        };
        fields().filter(|_| magic == right).ok_or(u64::from(magic))
    }

    /// Appends the header. In 32 bits a length must fit; [`Request::put`] sees to that.
    pub(crate) fn put(&self, mode: Mode, out: &mut Vec<u8>) {
        match mode {
            Mode::Simple | Mode::Structured => out.u32(REQUEST),
            Mode::Extended => out.u32(EXTENDED_REQUEST),
        }
        out.u16(self.flags);
        out.u16(self.kind);
        out.u64(self.cookie);
        out.u64(self.offset);
        match mode {
            Mode::Simple | Mode::Structured => out.u32(self.length as u32),
            Mode::Extended => out.u64(self.length),
        }
    }
}

impl Request {
    /// Appends the request's header; a write's bytes follow it. A length beyond 32 bits, where headers are not
    /// extended, is refused, with the longest that may be asked for.
    pub(crate) fn put(&self, mode: Mode, out: &mut Vec<u8>) -> Result<(), u64> {
        let header = self.header(mode);
        if mode < Mode::Extended && header.length > u64::from(u32::MAX) {
            return Err(u64::from(u32::MAX));
        }
        header.put(mode, out);
        Ok(())
    }

    fn header(&self, mode: Mode) -> Header {
        let on = |is: bool, flag: u16| if is { flag } else { 0 };
        let (kind, flags, offset, length) = match self.command {
            Command::Read {
                offset,
                length,
                whole,
            } => (kind::READ, on(whole, flag::DF), offset, length.into()),
            Command::Write {
                offset,
                length,
                fua,
            } => {
                let flags = on(fua, flag::FUA) | on(mode == Mode::Extended, flag::PAYLOAD_LEN);
                (kind::WRITE, flags, offset, length.into())
            }
            Command::Flush => (kind::FLUSH, 0, 0, 0),
            Command::Trim {
                offset,
                length,
                fua,
            } => (kind::TRIM, on(fua, flag::FUA), offset, length),
            Command::WriteZeroes {
                offset,
                length,
                fua,
                no_hole,
                fast,
            } => {
                let flags =
                    on(fua, flag::FUA) | on(no_hole, flag::NO_HOLE) | on(fast, flag::FAST_ZERO);
                (kind::WRITE_ZEROES, flags, offset, length)
            }
            Command::Cache { offset, length } => (kind::CACHE, 0, offset, length),
            Command::BlockStatus {
                offset,
                length,
                one,
            } => (kind::BLOCK_STATUS, on(one, flag::REQ_ONE), offset, length),
        };
        Header {
            flags,
            kind,
            cookie: self.cookie,
            offset,
            length,
        }
    }
}
