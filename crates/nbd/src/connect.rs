//! The client's side of the handshake: asks for the best that the server has, and enters one export.
//!
//! ```text
//!   Greeting ──────────────> ExtendedHeaders ──no──> StructuredReply ──no──> Go ──> a Client
//!      └──> StartTls ──yes──┘     └──yes──────> SetMetaContext <──yes──┘    ^
//!                                                     └─────────────────────┘
//! ```

use crate::client::Client;
use crate::context::Context;
use crate::export::ExportFlags;
use crate::limits::{MAX_OPTION, MAX_PAYLOAD, Name};
use crate::option::{Mode, Opt, info, reply};
use crate::wire::{Bytes, FIXED_NEWSTYLE, IHAVEOPT, NBDMAGIC, NO_ZEROES, OPTION_REPLY, Put};

/// What a client wants of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Which export.
    pub name: Name,
    /// What it will ask about ranges; those that the server does not have are left out.
    pub contexts: Vec<Context>,
}

/// The client's side of one handshake.
#[derive(Debug)]
pub struct Connecting {
    wish: Wish,
    /// Whether the connection is still to be encrypted, before anything else is said.
    tls: bool,
    phase: Phase,
    mode: Mode,
    contexts: Vec<(u32, Context)>,
    size: Option<(u64, ExportFlags)>,
    preferred_length: u32,
    longest: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Header { sent: Opt },
    Data { sent: Opt, kind: u32, length: usize },
}

/// What follows from bytes of a server.
#[derive(Debug)]
pub enum ConnectStep {
    /// Send what was appended, and go on.
    More,
    /// Encrypt the connection, call [`Connecting::encrypted`], send what that appended, and go on.
    StartTls,
    /// Inside: requests may be sent.
    Ready(Client),
}

/// Why a server cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Something else talks there, or an NBD server older than fixed newstyle (2011).
    #[error("no NBD server talks there, or one from before fixed newstyle")]
    NoServer,
    /// What it said makes no sense at that point.
    #[error("the server's handshake makes no sense: {0}")]
    Nonsense(&'static str),
    /// It said no.
    #[error("the server refused: {why}")]
    Refused {
        /// The number of the refusal.
        number: u32,
        /// The server's words, or ours where it had none.
        why: String,
    },
}

impl Connecting {
    /// Begins; the server speaks first.
    pub fn begin(wish: Wish) -> Self {
        Self {
            wish,
            tls: false,
            phase: Phase::Greeting,
            mode: Mode::Simple,
            contexts: Vec::new(),
            size: None,
            preferred_length: 4096,
            longest: MAX_PAYLOAD,
        }
    }

    /// Nothing is said before the connection is encrypted; a server that cannot do that is refused.
    #[must_use]
    pub fn with_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Says that the connection is encrypted now, and appends to `out` what is to be sent over it.
    pub fn encrypted(&mut self, out: &mut Vec<u8>) {
        self.tls = false;
        self.send(Opt::ExtendedHeaders, &[], out);
    }

    /// How many bytes [`receive`](Self::receive) wants next: at most [`MAX_OPTION`].
    pub fn wants(&self) -> usize {
        match self.phase {
            Phase::Greeting => 18,
            Phase::Header { .. } => 20,
            Phase::Data { length, .. } => length,
        }
    }

    /// Takes exactly the bytes that were wanted, and appends to `out` what is to be sent.
    ///
    /// # Errors
    /// The server cannot be used, or said no.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<ConnectStep, ConnectError> {
        match self.phase {
            Phase::Greeting => {
                self.greeted(Bytes(bytes), out)?;
                Ok(ConnectStep::More)
            }
            Phase::Header { sent } => self.header(sent, Bytes(bytes), out),
            Phase::Data { sent, kind, .. } => self.answer(sent, kind, bytes, out),
        }
    }

    fn greeted(&mut self, mut bytes: Bytes<'_>, out: &mut Vec<u8>) -> Result<(), ConnectError> {
        let magic = (bytes.u64(), bytes.u64());
        let flags = bytes.u16().ok_or(ConnectError::NoServer)?;
        if magic != (Some(NBDMAGIC), Some(IHAVEOPT)) || flags & FIXED_NEWSTYLE == 0 {
            return Err(ConnectError::NoServer);
        }
        out.u32(u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)));
        let first = if self.tls {
            Opt::StartTls
        } else {
            Opt::ExtendedHeaders
        };
        self.send(first, &[], out);
        Ok(())
    }

    fn send(&mut self, option: Opt, data: &[u8], out: &mut Vec<u8>) {
        out.u64(IHAVEOPT);
        out.u32(option.number());
        out.u32(data.len() as u32);
        out.extend_from_slice(data);
        self.phase = Phase::Header { sent: option };
    }

    fn header(
        &mut self,
        sent: Opt,
        mut bytes: Bytes<'_>,
        out: &mut Vec<u8>,
    ) -> Result<ConnectStep, ConnectError> {
        let (magic, option) = (bytes.u64(), bytes.u32());
        let (Some(kind), Some(length)) = (bytes.u32(), bytes.u32()) else {
            return Err(ConnectError::Nonsense("a reply that ends too early"));
        };
        if magic != Some(OPTION_REPLY) || option != Some(sent.number()) {
            return Err(ConnectError::Nonsense(
                "a reply to something that was not asked",
            ));
        }
        match usize::try_from(length) {
            Ok(0) => self.answer(sent, kind, &[], out),
            Ok(length) if length <= MAX_OPTION => {
                self.phase = Phase::Data { sent, kind, length };
                Ok(ConnectStep::More)
            }
            _ => Err(ConnectError::Nonsense("a reply of more than 64 KiB")),
        }
    }

    fn answer(
        &mut self,
        sent: Opt,
        kind: u32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<ConnectStep, ConnectError> {
        self.phase = Phase::Header { sent };
        let refused = kind & 1 << 31 != 0;
        match (sent, kind) {
            (Opt::StartTls, reply::ACK) => return Ok(ConnectStep::StartTls),
            (Opt::ExtendedHeaders, reply::ACK) => self.contexts_or_go(Mode::Extended, out),
            (Opt::ExtendedHeaders, _) if refused => self.send(Opt::StructuredReply, &[], out),
            (Opt::StructuredReply, reply::ACK) => self.contexts_or_go(Mode::Structured, out),
            (Opt::StructuredReply, _) if refused => self.go(out),
            (Opt::SetMetaContext, reply::META_CONTEXT) => self.context(Bytes(data))?,
            (Opt::SetMetaContext, reply::ACK) => self.go(out),
            (Opt::SetMetaContext, _) if refused => self.go(out),
            (Opt::Go, reply::INFO) => self.information(Bytes(data))?,
            (Opt::Go, reply::ACK) => return self.inside().map(ConnectStep::Ready),
            (_, _) if refused => return Err(refusal(kind, data)),
            (_, _) => return Err(ConnectError::Nonsense("a reply of an unknown kind")),
        }
        Ok(ConnectStep::More)
    }

    fn contexts_or_go(&mut self, mode: Mode, out: &mut Vec<u8>) {
        self.mode = mode;
        if self.wish.contexts.is_empty() {
            return self.go(out);
        }
        let mut data = Vec::new();
        data.string(self.wish.name.as_str());
        data.u32(self.wish.contexts.len() as u32);
        for context in &self.wish.contexts {
            data.string(&context.to_string());
        }
        self.send(Opt::SetMetaContext, &data, out);
    }

    fn go(&mut self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        data.string(self.wish.name.as_str());
        data.u16(1);
        data.u16(info::BLOCK_SIZE);
        self.send(Opt::Go, &data, out);
    }

    fn context(&mut self, mut bytes: Bytes<'_>) -> Result<(), ConnectError> {
        let id = bytes
            .u32()
            .ok_or(ConnectError::Nonsense("a context without an id"))?;
        let found = std::str::from_utf8(bytes.0).ok().and_then(Context::parse);
        let wished = found.filter(|context| self.wish.contexts.contains(context));
        let context = wished.ok_or(ConnectError::Nonsense("a context that was not asked for"))?;
        if self
            .contexts
            .iter()
            .any(|(other, known)| *other == id || *known == context)
        {
            return Err(ConnectError::Nonsense("the same context twice"));
        }
        self.contexts.push((id, context));
        Ok(())
    }

    fn information(&mut self, mut bytes: Bytes<'_>) -> Result<(), ConnectError> {
        const SHORT: ConnectError = ConnectError::Nonsense("information that ends too early");
        match bytes.u16().ok_or(SHORT)? {
            info::EXPORT => {
                let size = bytes.u64().ok_or(SHORT)?;
                self.size = Some((size, ExportFlags(bytes.u16().ok_or(SHORT)?)));
            }
            info::BLOCK_SIZE => {
                let smallest = bytes.u32().ok_or(SHORT)?;
                let (preferred, most) = (bytes.u32().ok_or(SHORT)?, bytes.u32().ok_or(SHORT)?);
                if smallest > 1 {
                    return Err(ConnectError::Nonsense("it wants aligned requests, unasked"));
                }
                self.preferred_length = preferred.clamp(512, MAX_PAYLOAD);
                self.longest = most.clamp(65536, MAX_PAYLOAD);
            }
            _ => {}
        }
        Ok(())
    }

    fn inside(&mut self) -> Result<Client, ConnectError> {
        let (size, flags) = self
            .size
            .ok_or(ConnectError::Nonsense("an export without a size"))?;
        Ok(Client {
            mode: self.mode,
            size,
            flags,
            preferred_length: self.preferred_length,
            longest: self.longest,
            contexts: std::mem::take(&mut self.contexts),
        })
    }
}

fn refusal(number: u32, data: &[u8]) -> ConnectError {
    let known = match number & !(1 << 31) {
        1 => "it does not know what was asked",
        2 => "its rules forbid it",
        3 => "it finds the question wrong",
        5 => "it wants TLS",
        6 => "no such export",
        7 => "it is shutting down",
        8 => "it wants block sizes to be asked for",
        _ => "it gives no reason",
    };
    let text = String::from_utf8_lossy(data);
    let why = match text.trim() {
        "" => known.to_owned(),
        // It ends up on terminals.
        text => format!("{known} ({})", text.replace(char::is_control, " ")),
    };
    ConnectError::Refused { number, why }
}
