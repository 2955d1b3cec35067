//! The options of the handshake, and the law: which one is served when.

use crate::wire::{OPTION_REPLY, Put};

/// An option that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Opt {
    ExportName,
    Abort,
    List,
    StartTls,
    Info,
    Go,
    StructuredReply,
    ListMetaContext,
    SetMetaContext,
    ExtendedHeaders,
}

/// Whether the connection is encrypted, and whether it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// There is none, and none is offered.
    Off,
    /// It may be turned on; without it everything is served, too.
    Optional,
    /// Nothing is served before it is on.
    Required,
    /// It is on.
    On,
}

/// How replies look, as negotiated. Each mode has what the one before it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// A number, and for reads the bytes.
    Simple,
    /// In chunks: data, holes, block status, errors with their text.
    Structured,
    /// The same with 64 bits for every length.
    Extended,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    Serve,
    Refuse(Refusal),
    /// The one option to which no error can be answered came too early.
    Close,
}

/// An error reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unsupported,
    Policy,
    Invalid,
    TlsRequired,
    Unknown,
    TooBig,
    ExtendedRequired,
}

use Opt::*;

impl Opt {
    pub(crate) const ALL: [Opt; 10] = [
        ExportName,
        Abort,
        List,
        StartTls,
        Info,
        Go,
        StructuredReply,
        ListMetaContext,
        SetMetaContext,
        ExtendedHeaders,
    ];

    pub(crate) const fn number(self) -> u32 {
        match self {
            ExportName => 1,
            Abort => 2,
            List => 3,
            StartTls => 5,
            Info => 6,
            Go => 7,
            StructuredReply => 8,
            ListMetaContext => 9,
            SetMetaContext => 10,
            ExtendedHeaders => 11,
        }
    }

    pub(crate) fn of(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|option| option.number() == number)
    }

    /// Which option is served when: a row for each, read from the left.
    #[rustfmt::skip]
    pub(crate) const fn law(self, tls: Tls, mode: Mode) -> Law {
        use {Law::*, Mode::*, Refusal::*, Tls::*};
        match (self, tls, mode) {
            (Abort,           _,          _)          => Serve,
            (StartTls,        Off,        _)          => Refuse(Policy),
            (StartTls, Optional | Required, _)        => Serve,
            (StartTls,        On,         _)          => Refuse(Invalid),
            (ExportName,      Required,   _)          => Close,
            (List | Info | Go | StructuredReply | ListMetaContext | SetMetaContext | ExtendedHeaders, Required, _)
                                                      => Refuse(TlsRequired),
            (ExportName | List | Info | Go, Off | Optional | On, _) => Serve,
            (StructuredReply, Off | Optional | On, Simple)     => Serve,
            (StructuredReply, Off | Optional | On, Structured) => Refuse(Invalid),
            (StructuredReply, Off | Optional | On, Extended)   => Refuse(ExtendedRequired),
            (ListMetaContext | SetMetaContext, Off | Optional | On, Simple) => Refuse(Invalid),
            (ListMetaContext | SetMetaContext, Off | Optional | On, Structured | Extended) => Serve,
            (ExtendedHeaders, Off | Optional | On, Simple | Structured) => Serve,
            (ExtendedHeaders, Off | Optional | On, Extended)   => Refuse(Invalid),
        }
    }
}

impl Refusal {
    const fn number(self) -> u32 {
        1 << 31
            | match self {
                Refusal::Unsupported => 1,
                Refusal::Policy => 2,
                Refusal::Invalid => 3,
                Refusal::TlsRequired => 5,
                Refusal::Unknown => 6,
                Refusal::TooBig => 9,
                Refusal::ExtendedRequired => 10,
            }
    }
}

/// The replies to options that are no errors.
pub(crate) mod reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
}

/// The kinds of information that [`reply::INFO`] carries.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Appends a reply to `option`, which is its number as the client sent it.
pub(crate) fn put_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.u64(OPTION_REPLY);
    out.u32(option);
    out.u32(kind);
    out.u32(data.len() as u32);
    out.extend_from_slice(data);
}

/// Appends an error, with words for people.
pub(crate) fn put_refusal(out: &mut Vec<u8>, option: u32, refusal: Refusal, why: &str) {
    put_reply(out, option, refusal.number(), why.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The law told again, as a drawing: a column for each situation, `x` served, `.` refused, `!` closed.
    #[test]
    fn law_is_as_drawn() {
        let situations = [
            (Tls::Required, Mode::Simple),
            (Tls::Off, Mode::Simple),
            (Tls::Off, Mode::Structured),
            (Tls::Off, Mode::Extended),
            (Tls::Optional, Mode::Simple),
            (Tls::Optional, Mode::Structured),
            (Tls::Optional, Mode::Extended),
            (Tls::On, Mode::Simple),
            (Tls::On, Mode::Structured),
            (Tls::On, Mode::Extended),
        ];
        let drawing = [
            "ExportName       ! xxx xxx xxx",
            "Abort            x xxx xxx xxx",
            "List             . xxx xxx xxx",
            "StartTls         x ... xxx ...",
            "Info             . xxx xxx xxx",
            "Go               . xxx xxx xxx",
            "StructuredReply  . x.. x.. x..",
            "ListMetaContext  . .xx .xx .xx",
            "SetMetaContext   . .xx .xx .xx",
            "ExtendedHeaders  . xx. xx. xx.",
        ];
        for (option, row) in Opt::ALL.into_iter().zip(drawing) {
            let (name, cells) = row.split_once(' ').unwrap();
            assert_eq!(format!("{option:?}"), name);
            let cells = cells.chars().filter(|cell| *cell != ' ');
            for ((tls, mode), cell) in situations.into_iter().zip(cells) {
                let drawn = match option.law(tls, mode) {
                    Law::Serve => 'x',
                    Law::Refuse(_) => '.',
                    Law::Close => '!',
                };
                assert_eq!(drawn, cell, "{option:?} when {tls:?} and {mode:?}");
            }
        }
    }

    #[test]
    fn options_are_found_by_their_numbers() {
        for option in Opt::ALL {
            assert_eq!(Opt::of(option.number()), Some(option));
        }
        assert_eq!(Opt::of(0), None);
        assert_eq!(Opt::of(4), None, "withdrawn");
    }
}
