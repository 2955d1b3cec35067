//! Why a request failed, in the few numbers that the protocol knows.

use std::fmt;
use std::io;

/// An error of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not permitted: a write to what may only be read.
    Perm,
    /// Input or output failed.
    Io,
    /// No memory.
    NoMem,
    /// The request makes no sense.
    Invalid,
    /// No room, or beyond the end.
    NoSpace,
    /// Too long to answer in one piece.
    Overflow,
    /// Not supported, or not as fast as was asked.
    NotSupported,
    /// The server goes away.
    Shutdown,
}

impl ErrorCode {
    const ALL: [(Self, u32); 8] = [
        (Self::Perm, 1),
        (Self::Io, 5),
        (Self::NoMem, 12),
        (Self::Invalid, 22),
        (Self::NoSpace, 28),
        (Self::Overflow, 75),
        (Self::NotSupported, 95),
        (Self::Shutdown, 108),
    ];

    /// The number on the wire.
    pub fn number(self) -> u32 {
        Self::ALL
            .iter()
            .find(|(code, _)| *code == self)
            .map_or(5, |(_, number)| *number)
    }

    /// The error of a number that is not zero. One that the protocol does not know means that the request makes no
    /// sense, as its text has it.
    pub(crate) fn of(number: u32) -> Self {
        Self::ALL
            .iter()
            .find(|(_, n)| *n == number)
            .map_or(Self::Invalid, |(code, _)| *code)
    }

    /// The error that tells a client best what went wrong here.
    pub fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        let is = |kinds: &[K]| kinds.contains(&error.kind());
        if is(&[K::PermissionDenied, K::ReadOnlyFilesystem]) {
            Self::Perm
        } else if is(&[K::StorageFull, K::QuotaExceeded, K::FileTooLarge]) {
            Self::NoSpace
        } else if is(&[K::InvalidInput]) {
            Self::Invalid
        } else if is(&[K::OutOfMemory]) {
            Self::NoMem
        } else if is(&[K::Unsupported]) {
            Self::NotSupported
        } else {
            Self::Io
        }
    }

    /// The other way round.
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::Perm => io::ErrorKind::PermissionDenied,
            Self::Io => io::ErrorKind::Other,
            Self::NoMem => io::ErrorKind::OutOfMemory,
            Self::Invalid | Self::Overflow => io::ErrorKind::InvalidInput,
            Self::NoSpace => io::ErrorKind::StorageFull,
            Self::NotSupported => io::ErrorKind::Unsupported,
            Self::Shutdown => io::ErrorKind::ConnectionAborted,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "out of memory",
            Self::Invalid => "invalid request",
            Self::NoSpace => "no space",
            Self::Overflow => "too long for one answer",
            Self::NotSupported => "not supported",
            Self::Shutdown => "the server is shutting down",
        })
    }
}
