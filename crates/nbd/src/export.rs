//! What a server offers: an export, its size, its flags.

use crate::context::Context;
use crate::limits::Name;

/// Where a server keeps its exports: asked during the handshake.
pub trait Exports {
    /// The names that are told to whoever asks for a list.
    fn names(&self) -> Vec<Name>;

    /// The export of that name; the empty name means the default one.
    fn find(&self, name: &Name) -> Option<Export>;
}

/// One export as a client learns of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: Name,
    /// Its size in bytes; any number.
    pub size: u64,
    /// Nothing may be written to it.
    pub read_only: bool,
    /// The length of requests that suits it, a power of two from 512 to 32 MiB.
    pub preferred_length: u32,
    /// What may be asked about its ranges.
    pub contexts: Vec<Context>,
}

/// What a server says of an export besides its size: the transmission flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportFlags(pub(crate) u16);

impl ExportFlags {
    const HAS_FLAGS: u16 = 1;
    const READ_ONLY: u16 = 1 << 1;
    const SEND_FLUSH: u16 = 1 << 2;
    const SEND_FUA: u16 = 1 << 3;
    const SEND_TRIM: u16 = 1 << 5;
    const SEND_WRITE_ZEROES: u16 = 1 << 6;
    const SEND_DF: u16 = 1 << 7;
    const CAN_MULTI_CONN: u16 = 1 << 8;
    const SEND_CACHE: u16 = 1 << 10;
    const SEND_FAST_ZERO: u16 = 1 << 11;

    /// What our server offers. A flush through one connection covers the writes of all, so many may be used.
    pub(crate) fn of(export: &Export, structured: bool) -> Self {
        let mut flags = Self::HAS_FLAGS
            | Self::SEND_FLUSH
            | Self::SEND_FUA
            | Self::CAN_MULTI_CONN
            | Self::SEND_CACHE;
        if export.read_only {
            flags |= Self::READ_ONLY;
        } else {
            flags |= Self::SEND_TRIM | Self::SEND_WRITE_ZEROES | Self::SEND_FAST_ZERO;
        }
        if structured {
            flags |= Self::SEND_DF;
        }
        Self(flags)
    }

    /// Nothing may be written.
    pub fn read_only(self) -> bool {
        self.0 & Self::READ_ONLY != 0
    }

    /// A flush may be asked for.
    pub fn flush(self) -> bool {
        self.0 & Self::SEND_FLUSH != 0
    }

    /// A write may be asked to be durable when it returns.
    pub fn fua(self) -> bool {
        self.0 & Self::SEND_FUA != 0
    }

    /// Ranges may be discarded.
    pub fn trim(self) -> bool {
        self.0 & Self::SEND_TRIM != 0
    }

    /// Ranges may be zeroed without sending zeroes.
    pub fn write_zeroes(self) -> bool {
        self.0 & Self::SEND_WRITE_ZEROES != 0
    }

    /// A flush through one connection covers the writes of all.
    pub fn multi_conn(self) -> bool {
        self.0 & Self::CAN_MULTI_CONN != 0
    }
}
