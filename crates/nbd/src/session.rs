//! The server's side after the handshake: requests are judged here, so that what is done with them cannot go wrong, and
//! replies are written.

use crate::code::ErrorCode;
use crate::context::{Context, Status};
use crate::export::Export;
use crate::handshake::Violation;
use crate::limits::{MAX_EXTENTS, MAX_NAME, MAX_PAYLOAD};
use crate::option::Mode;
use crate::request::{Command, Header, Request, flag, kind};
use crate::wire::{EXTENDED_REPLY, Put, SIMPLE_REPLY, STRUCTURED_REPLY};

/// One client at one export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    mode: Mode,
    export: Export,
    chosen: Vec<Context>,
}

/// A header of a client, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Allowed, within the export and the limits. After a write's header its bytes follow.
    Do(Request),
    /// Not allowed: drop `skip` bytes that follow, and answer with the error.
    Refuse {
        /// How to answer.
        reply: Reply,
        /// With what.
        code: ErrorCode,
        /// In words.
        why: &'static str,
        /// How many bytes of data follow.
        skip: u32,
    },
    /// The client says goodbye: finish what is under way, and close.
    Disconnect,
}

/// What the replies to one request have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    mode: Mode,
    cookie: u64,
    /// Of the request; extended headers repeat it.
    offset: u64,
}

/// A request that is answered with an error.
type Refusal = (ErrorCode, &'static str);

impl Session {
    pub(crate) fn new(mode: Mode, export: Export, chosen: Vec<Context>) -> Self {
        Self {
            mode,
            export,
            chosen,
        }
    }

    /// The export that the client entered.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// How replies look.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The contexts that the client chose, with the ids by which replies name them.
    pub fn contexts(&self) -> impl Iterator<Item = (u32, &Context)> {
        (1..).zip(&self.chosen)
    }

    /// How many bytes [`receive`](Self::receive) wants.
    pub fn header_length(&self) -> usize {
        Header::length_in(self.mode)
    }

    /// Judges a header.
    ///
    /// # Errors
    /// It is no request, or announces more data than is ever taken: close the connection.
    pub fn receive(&self, header: &[u8]) -> Result<Incoming, Violation> {
        let header = Header::read(header, self.mode).map_err(Violation::Magic)?;
        let reply = Reply {
            mode: self.mode,
            cookie: header.cookie,
            offset: header.offset,
        };
        let carries = header.kind == kind::WRITE
            || (self.mode == Mode::Extended && header.flags & flag::PAYLOAD_LEN != 0);
        let skip = match u32::try_from(header.length) {
            _ if !carries => 0,
            Ok(length) if length <= MAX_PAYLOAD => length,
            _ => return Err(Violation::Payload(header.length)),
        };
        if header.kind == kind::DISC {
            return Ok(Incoming::Disconnect);
        }
        Ok(match self.judge(&header) {
            Ok(command) => Incoming::Do(Request {
                cookie: header.cookie,
                command,
            }),
            Err((code, why)) => Incoming::Refuse {
                reply,
                code,
                why,
                skip,
            },
        })
    }

    /// The replies to a request.
    pub fn reply(&self, request: &Request) -> Reply {
        let offset = match request.command {
            Command::Flush => 0,
            Command::Read { offset, .. }
            | Command::Write { offset, .. }
            | Command::Trim { offset, .. }
            | Command::WriteZeroes { offset, .. }
            | Command::Cache { offset, .. }
            | Command::BlockStatus { offset, .. } => offset,
        };
        Reply {
            mode: self.mode,
            cookie: request.cookie,
            offset,
        }
    }

    fn judge(&self, header: &Header) -> Result<Command, Refusal> {
        let Header {
            flags,
            kind,
            offset,
            length,
            ..
        } = *header;
        let has = |flag: u16| flags & flag != 0;
        if flags & !self.flags_of(kind)? != 0 {
            return Err((ErrorCode::Invalid, "a flag that this command does not have"));
        }
        let changes = matches!(kind, kind::WRITE | kind::TRIM | kind::WRITE_ZEROES);
        if changes && self.export.read_only {
            return Err((ErrorCode::Perm, "the export is read-only"));
        }
        if kind == kind::FLUSH {
            return Ok(Command::Flush);
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > self.export.size)
        {
            let code = match kind {
                kind::WRITE | kind::WRITE_ZEROES => ErrorCode::NoSpace,
                _ => ErrorCode::Invalid,
            };
            return Err((code, "beyond the end of the export"));
        }
        let fua = has(flag::FUA);
        Ok(match kind {
            kind::READ | kind::WRITE => {
                let length = u32::try_from(length)
                    .ok()
                    .filter(|length| *length <= MAX_PAYLOAD);
                let length = length.ok_or((ErrorCode::Invalid, "more than 32 MiB at once"))?;
                if kind == kind::WRITE {
                    Command::Write {
                        offset,
                        length,
                        fua,
                    }
                } else {
                    let whole = has(flag::DF);
                    Command::Read {
                        offset,
                        length,
                        whole,
                    }
                }
            }
            kind::TRIM => Command::Trim {
                offset,
                length,
                fua,
            },
            kind::CACHE => Command::Cache { offset, length },
            kind::WRITE_ZEROES => Command::WriteZeroes {
                offset,
                length,
                fua,
                no_hole: has(flag::NO_HOLE),
                fast: has(flag::FAST_ZERO),
            },
            _ if length == 0 => return Err((ErrorCode::Invalid, "the status of no bytes")),
            _ => Command::BlockStatus {
                offset,
                length,
                one: has(flag::REQ_ONE),
            },
        })
    }

    /// The flags that a command may have here. FUA is allowed with all, as old clients set it everywhere.
    fn flags_of(&self, kind: u16) -> Result<u16, Refusal> {
        let own = match kind {
            kind::READ if self.mode >= Mode::Structured => flag::DF,
            kind::WRITE if self.mode == Mode::Extended => flag::PAYLOAD_LEN,
            kind::READ | kind::WRITE | kind::FLUSH | kind::TRIM | kind::CACHE => 0,
            kind::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            kind::BLOCK_STATUS if !self.chosen.is_empty() => flag::REQ_ONE,
            kind::BLOCK_STATUS => {
                return Err((ErrorCode::Invalid, "no meta context was chosen"));
            }
            _ => return Err((ErrorCode::Invalid, "an unknown command")),
        };
        Ok(own | flag::FUA)
    }
}

/// The kinds of chunks.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const DATA: u16 = 1;
    pub(crate) const HOLE: u16 = 2;
    pub(crate) const STATUS: u16 = 5;
    pub(crate) const STATUS_EXTENDED: u16 = 6;
    pub(crate) const ERROR: u16 = 1 << 15 | 1;
    /// Set in the kinds of all errors; each begins as [`ERROR`] does.
    pub(crate) const IS_ERROR: u16 = 1 << 15;
    /// In the flags: no more chunks of this reply.
    pub(crate) const DONE: u16 = 1;
}

impl Reply {
    /// Whether a read may be answered in pieces, with holes. Otherwise there is one [`data`](Self::data) with all.
    pub fn in_pieces(&self) -> bool {
        self.mode >= Mode::Structured
    }

    /// Appends: all went well; there is nothing more to say.
    pub fn done(&self, out: &mut Vec<u8>) {
        match self.mode {
            Mode::Simple => self.simple(0, out),
            Mode::Structured | Mode::Extended => self.chunk(chunk::NONE, true, 0, out),
        }
    }

    /// Appends: it failed. The words are for people, where replies have room for them. Ends the reply.
    pub fn error(&self, code: ErrorCode, why: &str, out: &mut Vec<u8>) {
        if self.mode == Mode::Simple {
            return self.simple(code.number(), out);
        }
        let end = (0..=why.len().min(MAX_NAME))
            .rev()
            .find(|end| why.is_char_boundary(*end));
        let why = &why.as_bytes()[..end.unwrap_or(0)];
        self.chunk(chunk::ERROR, true, 6 + why.len() as u32, out);
        out.u32(code.number());
        out.u16(why.len() as u16);
        out.extend_from_slice(why);
    }

    /// Appends what stands before `length` bytes of data, from `offset` on, which the caller sends next. `last` ends the
    /// reply. In simple replies this is the answer to the whole read.
    pub fn data(&self, offset: u64, length: u32, last: bool, out: &mut Vec<u8>) {
        if self.mode == Mode::Simple {
            return self.simple(0, out);
        }
        self.chunk(chunk::DATA, last, length.saturating_add(8), out);
        out.u64(offset);
    }

    /// Appends: zeroes, from `offset` on. Only where a reply may be [`in_pieces`](Self::in_pieces).
    pub fn hole(&self, offset: u64, length: u32, last: bool, out: &mut Vec<u8>) {
        self.chunk(chunk::HOLE, last, 12, out);
        out.u64(offset);
        out.u32(length);
    }

    /// Appends what the context of that id says, from the request's offset on: at least one run; of more than
    /// [`MAX_EXTENTS`] the first ones.
    pub fn status(&self, id: u32, runs: &[Status], last: bool, out: &mut Vec<u8>) {
        let runs = &runs[..runs.len().min(MAX_EXTENTS)];
        if self.mode == Mode::Extended {
            self.chunk(
                chunk::STATUS_EXTENDED,
                last,
                8 + 16 * runs.len() as u32,
                out,
            );
            out.u32(id);
            out.u32(runs.len() as u32);
            for run in runs {
                out.u64(run.length);
                out.u64(run.flags);
            }
        } else {
            self.chunk(chunk::STATUS, last, 4 + 8 * runs.len() as u32, out);
            out.u32(id);
            for run in runs {
                // Requests have 32 bits here, so runs have not more.
                out.u32(run.length as u32);
                out.u32(run.flags as u32);
            }
        }
    }

    fn simple(&self, error: u32, out: &mut Vec<u8>) {
        out.u32(SIMPLE_REPLY);
        out.u32(error);
        out.u64(self.cookie);
    }

    fn chunk(&self, kind: u16, last: bool, length: u32, out: &mut Vec<u8>) {
        let extended = self.mode == Mode::Extended;
        out.u32(if extended {
            EXTENDED_REPLY
        } else {
            STRUCTURED_REPLY
        });
        out.u16(if last { chunk::DONE } else { 0 });
        out.u16(kind);
        out.u64(self.cookie);
        if extended {
            out.u64(self.offset);
            out.u64(length.into());
        } else {
            out.u32(length);
        }
    }
}
