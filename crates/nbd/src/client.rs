//! The client's side after the handshake: requests are written here, and replies read.

use crate::code::ErrorCode;
use crate::context::{Context, Status};
use crate::export::ExportFlags;
use crate::limits::MAX_PAYLOAD;
use crate::option::Mode;
use crate::request::{Header, Request, kind};
use crate::session::chunk;
use crate::wire::{Bytes, EXTENDED_REPLY, SIMPLE_REPLY, STRUCTURED_REPLY};

/// One export, as seen by its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub(crate) mode: Mode,
    pub(crate) size: u64,
    pub(crate) flags: ExportFlags,
    pub(crate) preferred_length: u32,
    pub(crate) longest: u32,
    pub(crate) contexts: Vec<(u32, Context)>,
}

/// A request longer than the server understands; split it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request for more than {longest} bytes, which this server does not understand")]
pub struct TooLong {
    /// The longest that it understands.
    pub longest: u64,
}

/// A reply that makes no sense. Nothing after it can be understood: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's reply makes no sense: {0}")]
pub struct BadReply(pub(crate) &'static str);

/// What stands at the front of every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the request that is answered.
    pub cookie: u64,
    /// How many bytes belong to this head, to be given to [`content`](Self::content). The bytes that answer a read in a
    /// simple reply are not counted: they follow a head whose content is [`Content::Done`].
    pub payload: u32,
    /// Whether nothing more follows in answer to this request.
    pub last: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Simple(u32),
    Chunk(u16),
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Nothing, or nothing more.
    Done,
    /// Bytes of the export.
    Data {
        /// From here on.
        offset: u64,
        /// At least one.
        bytes: &'a [u8],
    },
    /// Zeroes.
    Hole {
        /// From here on.
        offset: u64,
        /// How many; not zero.
        length: u32,
    },
    /// What a context says, from the request's offset on.
    Status {
        /// Which context.
        id: u32,
        /// At least one run; none is empty.
        runs: Vec<Status>,
    },
    /// It failed.
    Error {
        /// How.
        code: ErrorCode,
        /// The server's words; may be empty.
        why: String,
    },
}

impl Client {
    /// The size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the export can do.
    pub fn flags(&self) -> ExportFlags {
        self.flags
    }

    /// How replies look.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The length of requests that suits the server.
    pub fn preferred_length(&self) -> u32 {
        self.preferred_length
    }

    /// The longest read or write that the server takes.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// The contexts that were granted, with the ids by which replies name them.
    pub fn contexts(&self) -> &[(u32, Context)] {
        &self.contexts
    }

    /// Appends a request's header. A write's bytes follow it.
    ///
    /// # Errors
    /// The range is longer than fits; nothing was appended.
    pub fn request(&self, request: &Request, out: &mut Vec<u8>) -> Result<(), TooLong> {
        request
            .put(self.mode, out)
            .map_err(|longest| TooLong { longest })
    }

    /// Appends the goodbye.
    pub fn disconnect(&self, out: &mut Vec<u8>) {
        let goodbye = Header {
            flags: 0,
            kind: kind::DISC,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        goodbye.put(self.mode, out);
    }

    /// How long the head of a reply is that begins with these bytes.
    ///
    /// # Errors
    /// No reply begins so.
    pub fn head_length(&self, first: [u8; 4]) -> Result<usize, BadReply> {
        match (u32::from_be_bytes(first), self.mode) {
            (SIMPLE_REPLY, Mode::Simple | Mode::Structured) => Ok(16),
            (STRUCTURED_REPLY, Mode::Structured) => Ok(20),
            (EXTENDED_REPLY, Mode::Extended) => Ok(32),
            _ => Err(BadReply("something else where a reply must begin")),
        }
    }

    /// Reads the head of a reply, of the length that [`head_length`](Self::head_length) told.
    ///
    /// # Errors
    /// It is none, or announces more than a reply may hold.
    pub fn head(&self, bytes: &[u8]) -> Result<Head, BadReply> {
        const SHORT: BadReply = BadReply("a reply that ends too early");
        let mut bytes = Bytes(bytes);
        let magic = bytes.u32().ok_or(SHORT)?;
        if magic == SIMPLE_REPLY {
            let kind = Kind::Simple(bytes.u32().ok_or(SHORT)?);
            let cookie = bytes.u64().ok_or(SHORT)?;
            return Ok(Head {
                cookie,
                payload: 0,
                last: true,
                kind,
            });
        }
        let (flags, kind) = (bytes.u16().ok_or(SHORT)?, bytes.u16().ok_or(SHORT)?);
        let cookie = bytes.u64().ok_or(SHORT)?;
        let length = if magic == EXTENDED_REPLY {
            bytes.u64().ok_or(SHORT)?;
            bytes.u64().ok_or(SHORT)?
        } else {
            bytes.u32().ok_or(SHORT)?.into()
        };
        // Besides its data a chunk has its offset.
        if length > u64::from(MAX_PAYLOAD) + 8 {
            return Err(BadReply("more than 32 MiB in one piece"));
        }
        Ok(Head {
            cookie,
            payload: length as u32,
            last: flags & chunk::DONE != 0,
            kind: Kind::Chunk(kind),
        })
    }
}

impl Head {
    /// Reads the bytes that belong to this head.
    ///
    /// # Errors
    /// They do not fit to it.
    pub fn content<'a>(&self, payload: &'a [u8]) -> Result<Content<'a>, BadReply> {
        let bytes = Bytes(payload);
        let kind = match self.kind {
            Kind::Simple(0) => return Ok(Content::Done),
            Kind::Simple(number) => {
                let (code, why) = (ErrorCode::of(number), String::new());
                return Ok(Content::Error { code, why });
            }
            Kind::Chunk(kind) => kind,
        };
        let content = match kind {
            chunk::NONE if payload.is_empty() && self.last => Some(Content::Done),
            chunk::DATA => data(bytes),
            chunk::HOLE => hole(bytes),
            chunk::STATUS => status(bytes),
            chunk::STATUS_EXTENDED => status_extended(bytes),
            _ if kind & chunk::IS_ERROR != 0 => error(bytes),
            _ => return Err(BadReply("a piece of an unknown kind")),
        };
        content.ok_or(BadReply("a piece whose contents do not fit to its kind"))
    }
}

fn data(mut bytes: Bytes<'_>) -> Option<Content<'_>> {
    let offset = bytes.u64()?;
    (!bytes.is_empty()).then_some(Content::Data {
        offset,
        bytes: bytes.0,
    })
}

fn hole(mut bytes: Bytes<'_>) -> Option<Content<'_>> {
    let (offset, length) = (bytes.u64()?, bytes.u32()?);
    (length > 0 && bytes.is_empty()).then_some(Content::Hole { offset, length })
}

fn status(mut bytes: Bytes<'_>) -> Option<Content<'_>> {
    let id = bytes.u32()?;
    let mut runs = Vec::new();
    while !bytes.is_empty() {
        let (length, flags) = (bytes.u32()?.into(), bytes.u32()?.into());
        runs.push(Status { length, flags });
    }
    checked(id, runs)
}

fn status_extended(mut bytes: Bytes<'_>) -> Option<Content<'_>> {
    let (id, count) = (bytes.u32()?, bytes.u32()?);
    let mut runs = Vec::new();
    while !bytes.is_empty() {
        let (length, flags) = (bytes.u64()?, bytes.u64()?);
        runs.push(Status { length, flags });
    }
    (runs.len() == usize::try_from(count).ok()?).then_some(())?;
    checked(id, runs)
}

fn checked<'a>(id: u32, runs: Vec<Status>) -> Option<Content<'a>> {
    let sound = !runs.is_empty() && runs.iter().all(|run| run.length > 0);
    sound.then_some(Content::Status { id, runs })
}

fn error(mut bytes: Bytes<'_>) -> Option<Content<'_>> {
    let (number, length) = (bytes.u32()?, bytes.u16()?);
    let why = String::from_utf8_lossy(bytes.take(length.into())?).into_owned();
    let code = ErrorCode::of(number);
    (number != 0).then_some(Content::Error { code, why })
}
