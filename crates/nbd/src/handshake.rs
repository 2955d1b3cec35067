//! The server's side of the handshake: a machine that says how many bytes it wants next, and what follows from them.
//!
//! ```text
//!   Greeting ──flags──> Header ──option and length──> Data ──served or refused──> Header
//!                         │  └──too long──> Skipping ──dropped──> Header
//!                         │
//!    STARTTLS: the caller encrypts, says so, and it goes on; GO, EXPORT_NAME: a Session; ABORT: the end
//! ```

use crate::context::Context;
use crate::export::{Export, ExportFlags, Exports};
use crate::limits::{MAX_OPTION, MAX_PAYLOAD, MAX_SKIPPED_OPTION, Name, NameError};
use crate::option::{Law, Mode, Opt, Refusal, Tls, info, put_refusal, put_reply, reply};
use crate::session::Session;
use crate::wire::{Bytes, FIXED_NEWSTYLE, IHAVEOPT, NBDMAGIC, NO_ZEROES, Put};

/// How many bytes of a refused option are dropped at a time.
const SKIP_AT_ONCE: usize = 4096;

/// The server's side of one handshake.
#[derive(Debug)]
pub struct Handshake {
    phase: Phase,
    tls: Tls,
    mode: Mode,
    no_zeroes: bool,
    /// What the client chose, and of which export.
    chosen: Option<(Name, Vec<Context>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Header,
    Data { option: u32, length: usize },
    Skipping { option: u32, rest: usize },
}

/// What follows from bytes of a client.
#[derive(Debug)]
pub enum Step {
    /// Send what was appended, and go on.
    More,
    /// Send what was appended, encrypt the connection, call [`Handshake::encrypted`], and go on.
    StartTls,
    /// Send what was appended; requests follow.
    Transmit(Session),
    /// Send what was appended, and close.
    End,
}

/// What a client must not do. The connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Flags that nobody offered, or without fixed newstyle.
    #[error(
        "the client's handshake flags are {0:#x}; fixed newstyle is needed, and nothing unknown"
    )]
    Flags(u32),
    /// Something else than an option, or than a request.
    #[error("no NBD client: {0:#x} where a magic number must be")]
    Magic(u64),
    /// An option too long even to be refused.
    #[error("an option with {0} bytes of data")]
    OptionLength(u32),
    /// `NBD_OPT_EXPORT_NAME`, to which there is no error reply, with a name that is not served here.
    #[error("no export {0:?}")]
    NoSuchExport(String),
    /// The same, before the connection was encrypted.
    #[error("an export was asked for without TLS, which this server requires")]
    NoTls,
    /// A write of more than [`MAX_PAYLOAD`] bytes.
    #[error("a request with {0} bytes of data; the most is {MAX_PAYLOAD}")]
    Payload(u64),
    /// Not as many bytes as were wanted: a mistake of the caller's.
    #[error("{given} bytes were given where {wanted} were wanted")]
    Given {
        /// How many.
        given: usize,
        /// How many were wanted.
        wanted: usize,
    },
}

impl Handshake {
    /// Appends the greeting to `out`. With [`Tls::Required`] nothing is served before the connection is encrypted.
    pub fn begin(tls: Tls, out: &mut Vec<u8>) -> Self {
        out.u64(NBDMAGIC);
        out.u64(IHAVEOPT);
        out.u16(FIXED_NEWSTYLE | NO_ZEROES);
        Self {
            phase: Phase::Greeting,
            tls,
            mode: Mode::Simple,
            no_zeroes: false,
            chosen: None,
        }
    }

    /// How many bytes [`receive`](Self::receive) wants next: at most [`MAX_OPTION`]. To read no more than that matters,
    /// because what follows may belong to TLS, or be a request.
    pub fn wants(&self) -> usize {
        match self.phase {
            Phase::Greeting => 4,
            Phase::Header => 16,
            Phase::Data { length, .. } => length,
            Phase::Skipping { rest, .. } => rest.min(SKIP_AT_ONCE),
        }
    }

    /// Takes exactly the bytes that were wanted, and appends to `out` what is to be sent.
    ///
    /// # Errors
    /// The client broke the protocol in a way that no reply can tell: close the connection.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        let (given, wanted) = (bytes.len(), self.wants());
        if given != wanted {
            return Err(Violation::Given { given, wanted });
        }
        match self.phase {
            Phase::Greeting => self.greeted(Bytes(bytes)),
            Phase::Header => self.header(Bytes(bytes), exports, out),
            Phase::Data { option, .. } => {
                self.phase = Phase::Header;
                self.serve(option, bytes, exports, out)
            }
            Phase::Skipping { option, rest } => {
                self.skip(option, rest - bytes.len(), out);
                Ok(Step::More)
            }
        }
    }

    /// Says that the connection is encrypted now. What was negotiated in the clear is forgotten: anybody may have
    /// written it.
    pub fn encrypted(&mut self) {
        self.tls = Tls::On;
        self.mode = Mode::Simple;
        self.chosen = None;
    }

    fn greeted(&mut self, mut bytes: Bytes<'_>) -> Result<Step, Violation> {
        let flags = bytes.u32().unwrap_or(0);
        let known = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
        if flags & !known != 0 || flags & u32::from(FIXED_NEWSTYLE) == 0 {
            return Err(Violation::Flags(flags));
        }
        self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        self.phase = Phase::Header;
        Ok(Step::More)
    }

    fn header(
        &mut self,
        mut bytes: Bytes<'_>,
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        let magic = bytes.u64().unwrap_or(0);
        let (option, length) = (bytes.u32().unwrap_or(0), bytes.u32().unwrap_or(0));
        if magic != IHAVEOPT {
            return Err(Violation::Magic(magic));
        }
        match usize::try_from(length) {
            Ok(0) => self.serve(option, &[], exports, out),
            Ok(length) if length <= MAX_OPTION => {
                self.phase = Phase::Data { option, length };
                Ok(Step::More)
            }
            Ok(rest) if length <= MAX_SKIPPED_OPTION && option != Opt::ExportName.number() => {
                self.skip(option, rest, out);
                Ok(Step::More)
            }
            _ => Err(Violation::OptionLength(length)),
        }
    }

    /// Drops the rest of an option that is too long, and then refuses it.
    fn skip(&mut self, option: u32, rest: usize, out: &mut Vec<u8>) {
        if rest > 0 {
            self.phase = Phase::Skipping { option, rest };
        } else {
            self.phase = Phase::Header;
            let why = format!("the data of an option has at most {MAX_OPTION} bytes");
            put_refusal(out, option, Refusal::TooBig, &why);
        }
    }

    fn serve(
        &mut self,
        number: u32,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        let Some(option) = Opt::of(number) else {
            let refusal = match self.tls {
                Tls::Required => Refusal::TlsRequired,
                Tls::Off | Tls::Optional | Tls::On => Refusal::Unsupported,
            };
            put_refusal(out, number, refusal, "this server does not know the option");
            return Ok(Step::More);
        };
        match option.law(self.tls, self.mode) {
            Law::Serve => {}
            Law::Close => return Err(Violation::NoTls),
            Law::Refuse(refusal) => {
                put_refusal(out, number, refusal, words(option, refusal));
                return Ok(Step::More);
            }
        }
        let served = match option {
            Opt::ExportName => return self.enter_by_name(data, exports, out),
            Opt::Abort => {
                put_reply(out, number, reply::ACK, &[]);
                return Ok(Step::End);
            }
            Opt::StartTls if data.is_empty() => {
                put_reply(out, number, reply::ACK, &[]);
                return Ok(Step::StartTls);
            }
            Opt::Info | Opt::Go => match self.describe(number, data, exports, out) {
                Ok(session) if option == Opt::Go => return Ok(Step::Transmit(session)),
                described => described.map(|_| ()),
            },
            Opt::List if data.is_empty() => {
                list(out, &exports.names());
                Ok(())
            }
            Opt::StructuredReply if data.is_empty() => {
                self.switch(Mode::Structured, number, out);
                Ok(())
            }
            Opt::ExtendedHeaders if data.is_empty() => {
                self.switch(Mode::Extended, number, out);
                Ok(())
            }
            Opt::StartTls | Opt::List | Opt::StructuredReply | Opt::ExtendedHeaders => {
                Err(Refused::invalid("this option has no data"))
            }
            Opt::ListMetaContext => self.list_contexts(data, exports, out),
            Opt::SetMetaContext => self.set_contexts(data, exports, out),
        };
        if let Err(Refused { refusal, why }) = served {
            put_refusal(out, number, refusal, &why);
        }
        Ok(Step::More)
    }

    fn switch(&mut self, mode: Mode, option: u32, out: &mut Vec<u8>) {
        self.mode = mode;
        put_reply(out, option, reply::ACK, &[]);
    }

    /// `NBD_OPT_EXPORT_NAME`: the old way in, to which no error can be answered.
    fn enter_by_name(
        &mut self,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        let unknown = || Violation::NoSuchExport(String::from_utf8_lossy(data).into_owned());
        let name = Name::from_wire(data).map_err(|_| unknown())?;
        let export = exports.find(&name).ok_or_else(unknown)?;
        out.u64(export.size);
        out.u16(ExportFlags::of(&export, self.mode >= Mode::Structured).0);
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Ok(Step::Transmit(self.session(&name, export)))
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`: all that there is to know, and for the latter the way in.
    fn describe(
        &self,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Session, Refused> {
        let mut bytes = Bytes(data);
        let name = name(&mut bytes)?;
        let count = bytes.u16().ok_or_else(short)?;
        let mut asked = Vec::new();
        for _ in 0..count {
            asked.push(bytes.u16().ok_or_else(short)?);
        }
        if !bytes.is_empty() {
            return Err(long());
        }
        let export = exports.find(&name).ok_or_else(|| no_such_export(&name))?;
        let mut told = Vec::new();
        told.u16(info::EXPORT);
        told.u64(export.size);
        told.u16(ExportFlags::of(&export, self.mode >= Mode::Structured).0);
        put_reply(out, option, reply::INFO, &told);
        if asked.contains(&info::NAME) {
            told.clear();
            told.u16(info::NAME);
            told.extend_from_slice(export.name.as_str().as_bytes());
            put_reply(out, option, reply::INFO, &told);
        }
        told.clear();
        told.u16(info::BLOCK_SIZE);
        told.u32(1);
        told.u32(export.preferred_length);
        told.u32(MAX_PAYLOAD);
        put_reply(out, option, reply::INFO, &told);
        put_reply(out, option, reply::ACK, &[]);
        Ok(self.session(&name, export))
    }

    /// The contexts count only for the export they were chosen for.
    fn session(&self, asked: &Name, export: Export) -> Session {
        let chosen = match &self.chosen {
            Some((name, contexts)) if name == asked => contexts.clone(),
            Some(_) | None => Vec::new(),
        };
        Session::new(self.mode, export, chosen)
    }

    fn list_contexts(
        &self,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let (_, export, queries) = queries(data, exports)?;
        let listed = |context: &&Context| {
            queries.is_empty() || queries.iter().any(|query| context.is_listed_by(query))
        };
        let option = Opt::ListMetaContext.number();
        for context in export.contexts.iter().filter(listed) {
            put_context(out, option, 0, context);
        }
        put_reply(out, option, reply::ACK, &[]);
        Ok(())
    }

    fn set_contexts(
        &mut self,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        // Whatever comes of it, the choice before it is void.
        self.chosen = None;
        let (name, export, queries) = queries(data, exports)?;
        let mut contexts = export.contexts;
        contexts.retain(|context| queries.iter().any(|query| *query == context.to_string()));
        let option = Opt::SetMetaContext.number();
        for (context, id) in contexts.iter().zip(1..) {
            put_context(out, option, id, context);
        }
        put_reply(out, option, reply::ACK, &[]);
        self.chosen = Some((name, contexts));
        Ok(())
    }
}

/// An option that is answered with an error.
struct Refused {
    refusal: Refusal,
    why: String,
}

impl Refused {
    fn invalid(why: &str) -> Self {
        let refusal = Refusal::Invalid;
        Self {
            refusal,
            why: why.to_owned(),
        }
    }
}

fn short() -> Refused {
    Refused::invalid("the option's data ends too early")
}

fn long() -> Refused {
    Refused::invalid("the option's data goes on after its end")
}

fn no_such_export(name: &Name) -> Refused {
    let why = format!("no export \"{name}\"");
    Refused {
        refusal: Refusal::Unknown,
        why,
    }
}

fn words(option: Opt, refusal: Refusal) -> &'static str {
    match (option, refusal) {
        (_, Refusal::TlsRequired) => "this server serves nothing without TLS",
        (_, Refusal::Policy) => "this server has no TLS",
        (_, Refusal::ExtendedRequired) => "extended headers are negotiated already",
        (Opt::ListMetaContext | Opt::SetMetaContext, _) => {
            "structured replies must be negotiated first"
        }
        (_, _) => "this was negotiated already",
    }
}

fn name(bytes: &mut Bytes<'_>) -> Result<Name, Refused> {
    let text = bytes.string().ok_or_else(short)?;
    Name::from_wire(text).map_err(|error: NameError| Refused::invalid(&error.to_string()))
}

/// The data of both options about contexts: an export, and any number of queries.
fn queries<'a>(
    data: &'a [u8],
    exports: &dyn Exports,
) -> Result<(Name, Export, Vec<&'a str>), Refused> {
    let mut bytes = Bytes(data);
    let name = name(&mut bytes)?;
    let count = bytes.u32().ok_or_else(short)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        let query = bytes.string().ok_or_else(short)?;
        // What is no text names no context that we know.
        queries.push(std::str::from_utf8(query).unwrap_or_default());
    }
    if !bytes.is_empty() {
        return Err(long());
    }
    let export = exports.find(&name).ok_or_else(|| no_such_export(&name))?;
    Ok((name, export, queries))
}

fn list(out: &mut Vec<u8>, names: &[Name]) {
    let option = Opt::List.number();
    for name in names {
        let mut data = Vec::new();
        data.string(name.as_str());
        put_reply(out, option, reply::SERVER, &data);
    }
    put_reply(out, option, reply::ACK, &[]);
}

fn put_context(out: &mut Vec<u8>, option: u32, id: u32, context: &Context) {
    let mut data = Vec::new();
    data.u32(id);
    data.extend_from_slice(context.to_string().as_bytes());
    put_reply(out, option, reply::META_CONTEXT, &data);
}
