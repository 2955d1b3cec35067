//! Requests and replies: what one side writes the other reads, and what is not allowed is refused.

use cohort_nbd::{
    Client, Command, ConnectStep, Connecting, Content, Context, ErrorCode, Export, Exports,
    Handshake, Incoming, MAX_PAYLOAD, Mode, Name, Request, Session, Status, Step, Tls, Violation,
    Wish,
};
use proptest::prelude::*;

const SIZE: u64 = 1 << 40;

struct One {
    read_only: bool,
}

impl Exports for One {
    fn names(&self) -> Vec<Name> {
        vec![Name::default()]
    }

    fn find(&self, name: &Name) -> Option<Export> {
        Some(Export {
            name: name.clone(),
            size: SIZE,
            read_only: self.read_only,
            preferred_length: 4096,
            contexts: vec![Context::Allocation],
        })
    }
}

/// A session of that mode and its client; the client asks for all, so a server that knows less plays deaf.
fn meet(mode: Mode, read_only: bool) -> (Session, Client) {
    let exports = One { read_only };
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let mut server = Handshake::begin(Tls::Off, &mut to_client);
    let mut client = Connecting::begin(Wish {
        name: Name::default(),
        contexts: vec![Context::Allocation],
    });
    let mut session = None;
    loop {
        while !to_client.is_empty() {
            let bytes: Vec<u8> = to_client.drain(..client.wants()).collect();
            if let ConnectStep::Ready(inside) = client.receive(&bytes, &mut to_server).unwrap() {
                return (session.unwrap(), inside);
            }
        }
        while !to_server.is_empty() {
            let mut bytes: Vec<u8> = to_server.drain(..server.wants()).collect();
            let unknown_to_it = match bytes.get(8..12) {
                Some([0, 0, 0, 11]) => mode < Mode::Extended,
                Some([0, 0, 0, 8]) => mode < Mode::Structured,
                _ => false,
            };
            let asked = bytes.get(8..12).map(<[u8]>::to_vec);
            if unknown_to_it {
                bytes[8..12].copy_from_slice(&[0, 0, 0, 99]);
            }
            if let Step::Transmit(inside) =
                server.receive(&bytes, &exports, &mut to_client).unwrap()
            {
                session = Some(inside);
            }
            if let Some(asked) = asked.filter(|_| unknown_to_it) {
                to_client[8..12].copy_from_slice(&asked);
            }
        }
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Simple),
        Just(Mode::Structured),
        Just(Mode::Extended)
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    let place = || (0..SIZE / 2, 1..=MAX_PAYLOAD);
    let range = || (0..SIZE / 2, 1..=u64::from(u32::MAX));
    let flag = any::<bool>;
    prop_oneof![
        (place(), flag()).prop_map(|((offset, length), whole)| Command::Read {
            offset,
            length,
            whole
        }),
        (place(), flag()).prop_map(|((offset, length), fua)| Command::Write {
            offset,
            length,
            fua
        }),
        Just(Command::Flush),
        (range(), flag()).prop_map(|((offset, length), fua)| Command::Trim {
            offset,
            length,
            fua
        }),
        (range(), flag(), flag(), flag()).prop_map(|((offset, length), fua, no_hole, fast)| {
            Command::WriteZeroes {
                offset,
                length,
                fua,
                no_hole,
                fast,
            }
        }),
        range().prop_map(|(offset, length)| Command::Cache { offset, length }),
        (range(), flag()).prop_map(|((offset, length), one)| Command::BlockStatus {
            offset,
            length,
            one
        }),
    ]
}

/// What the client reads of one piece.
fn read<'a>(client: &Client, wire: &'a [u8]) -> (u64, bool, Content<'a>) {
    let length = client.head_length(wire[..4].try_into().unwrap()).unwrap();
    let head = client.head(&wire[..length]).unwrap();
    assert_eq!(head.payload as usize, wire.len() - length);
    (
        head.cookie,
        head.last,
        head.content(&wire[length..]).unwrap(),
    )
}

proptest! {
    #[test]
    fn requests_come_as_they_were_sent(mode in modes(), cookie: u64, command in commands()) {
        let (session, client) = meet(mode, false);
        let allowed = match command {
            Command::Read { whole, .. } => !whole || mode >= Mode::Structured,
            Command::BlockStatus { .. } => mode >= Mode::Structured,
            Command::Write { .. }
            | Command::Flush
            | Command::Trim { .. }
            | Command::WriteZeroes { .. }
            | Command::Cache { .. } => true,
        };
        let request = Request { cookie, command };
        let mut wire = Vec::new();
        client.request(&request, &mut wire).unwrap();
        prop_assert_eq!(wire.len(), session.header_length());
        match session.receive(&wire).unwrap() {
            Incoming::Do(came) => prop_assert_eq!((came, allowed), (request, true)),
            Incoming::Refuse { code, .. } => prop_assert_eq!((code, allowed), (ErrorCode::Invalid, false)),
            Incoming::Disconnect => prop_assert!(false),
        }
    }

    #[test]
    fn replies_come_as_they_were_sent(structured in modes(), cookie: u64, offset in 0..SIZE / 2, length in 1..MAX_PAYLOAD,
                                      why in ".{0,40}", runs in prop::collection::vec((1..1u64 << 32, 0..4u64), 1..20)) {
        let (session, client) = meet(structured, false);
        let request = Request { cookie, command: Command::Read { offset, length, whole: false } };
        let reply = session.reply(&request);
        let mut wire = Vec::new();
        reply.done(&mut wire);
        prop_assert_eq!(read(&client, &wire), (cookie, true, Content::Done));
        wire.clear();
        reply.error(ErrorCode::NoSpace, &why, &mut wire);
        let told = if reply.in_pieces() { why } else { String::new() };
        prop_assert_eq!(read(&client, &wire), (cookie, true, Content::Error { code: ErrorCode::NoSpace, why: told }));
        if !reply.in_pieces() {
            return Ok(());
        }
        wire.clear();
        reply.hole(offset, length, false, &mut wire);
        prop_assert_eq!(read(&client, &wire), (cookie, false, Content::Hole { offset, length }));
        wire.clear();
        reply.data(offset, 3, true, &mut wire);
        wire.extend_from_slice(b"abc");
        prop_assert_eq!(read(&client, &wire), (cookie, true, Content::Data { offset, bytes: b"abc" }));
        wire.clear();
        let runs: Vec<_> = runs.into_iter().map(|(length, flags)| Status { length, flags }).collect();
        reply.status(1, &runs, true, &mut wire);
        prop_assert_eq!(read(&client, &wire), (cookie, true, Content::Status { id: 1, runs }));
    }

    #[test]
    fn any_bytes_are_a_request_or_refused(mode in modes(), read_only: bool, bytes in prop::collection::vec(any::<u8>(), 28..=32)) {
        let (session, _) = meet(mode, read_only);
        let mut header = bytes;
        let magic: u32 = if mode == Mode::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
        header[..4].copy_from_slice(&magic.to_be_bytes());
        header[4] = 0;
        header[5] &= 63;
        header[6] = 0;
        header[7] %= 10;
        header.resize(session.header_length(), 0);
        if let Ok(Incoming::Do(request)) = session.receive(&header) {
            let end = match request.command {
                Command::Flush => 0,
                Command::Read { offset, length, .. } | Command::Write { offset, length, .. } => {
                    prop_assert!(length <= MAX_PAYLOAD);
                    offset + u64::from(length)
                }
                Command::Trim { offset, length, .. } | Command::WriteZeroes { offset, length, .. }
                | Command::Cache { offset, length } | Command::BlockStatus { offset, length, .. } => offset + length,
            };
            prop_assert!(end <= SIZE);
        }
    }
}

#[test]
fn what_is_not_allowed_is_refused_by_its_own_error() {
    let (session, client) = meet(Mode::Structured, false);
    let (of_read_only, _) = meet(Mode::Structured, true);
    let code = |session: &Session, command| {
        let mut wire = Vec::new();
        client
            .request(&Request { cookie: 1, command }, &mut wire)
            .unwrap();
        match session.receive(&wire).unwrap() {
            Incoming::Refuse { code, skip, .. } => Some((code, skip)),
            Incoming::Do(_) | Incoming::Disconnect => None,
        }
    };
    use ErrorCode::*;
    let write = |offset| Command::Write {
        offset,
        length: 512,
        fua: true,
    };
    let read = |offset, length| Command::Read {
        offset,
        length,
        whole: false,
    };
    let status = |offset, length| Command::BlockStatus {
        offset,
        length,
        one: false,
    };
    assert_eq!(code(&session, write(SIZE - 512)), None);
    assert_eq!(
        code(&session, write(SIZE - 511)),
        Some((NoSpace, 512)),
        "its data is dropped"
    );
    assert_eq!(code(&session, write(u64::MAX)), Some((NoSpace, 512)));
    assert_eq!(code(&of_read_only, write(0)), Some((Perm, 512)));
    assert_eq!(
        code(
            &of_read_only,
            Command::Trim {
                offset: 0,
                length: 1,
                fua: false
            }
        ),
        Some((Perm, 0))
    );
    assert_eq!(code(&session, read(SIZE, 1)), Some((Invalid, 0)));
    assert_eq!(code(&session, read(SIZE, 0)), None, "nothing is inside");
    assert_eq!(code(&session, read(0, MAX_PAYLOAD + 1)), Some((Invalid, 0)));
    assert_eq!(code(&session, read(0, u32::MAX)), Some((Invalid, 0)));
    assert_eq!(code(&session, status(0, 0)), Some((Invalid, 0)));
    assert_eq!(code(&session, status(SIZE - 1, 2)), Some((Invalid, 0)));
}

#[test]
fn more_data_than_is_ever_taken_ends_the_connection() {
    let (session, client) = meet(Mode::Structured, false);
    let mut wire = Vec::new();
    let command = Command::Write {
        offset: 0,
        length: u32::MAX,
        fua: false,
    };
    client
        .request(&Request { cookie: 1, command }, &mut wire)
        .unwrap();
    assert_eq!(
        session.receive(&wire),
        Err(Violation::Payload(u32::MAX.into()))
    );
    wire[0] = 0;
    assert!(matches!(session.receive(&wire), Err(Violation::Magic(_))));
}

#[test]
fn goodbye_is_understood_in_every_mode() {
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let (session, client) = meet(mode, true);
        assert_eq!((session.mode(), client.mode()), (mode, mode));
        let mut wire = Vec::new();
        client.disconnect(&mut wire);
        assert_eq!(session.receive(&wire), Ok(Incoming::Disconnect));
    }
}
