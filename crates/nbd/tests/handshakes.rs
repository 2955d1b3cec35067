//! Both sides of the handshake against each other, and the server's against clients that do it wrong.

use cohort_nbd::{
    Client, ConnectStep, Connecting, Context, Export, Exports, Handshake, MAX_OPTION, Mode, Name,
    Session, Step, Tls, Violation, Wish,
};

/// Two exports: `a`, the default one, with a bitmap, and `b`, which may only be read.
struct Two;

impl Exports for Two {
    fn names(&self) -> Vec<Name> {
        ["a", "b"].map(name).to_vec()
    }

    fn find(&self, wanted: &Name) -> Option<Export> {
        let found = match wanted.as_str() {
            "" | "a" => "a",
            "b" => "b",
            _ => return None,
        };
        let contexts = [
            "base:allocation",
            "qemu:dirty-bitmap:b0",
            "qemu:allocation-depth",
        ];
        Some(Export {
            name: name(found),
            size: 1_000_001,
            read_only: found == "b",
            preferred_length: 65536,
            contexts: contexts.into_iter().filter_map(Context::parse).collect(),
        })
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A server, and what a client sent it and got.
struct Rig {
    server: Handshake,
    sent: Vec<u8>,
}

impl Rig {
    fn new(tls: Tls) -> Self {
        let mut sent = Vec::new();
        let server = Handshake::begin(tls, &mut sent);
        assert_eq!(&sent[..16], b"NBDMAGICIHAVEOPT");
        sent.clear();
        let mut rig = Self { server, sent };
        assert!(matches!(rig.give(&3u32.to_be_bytes()), Ok(Step::More)));
        rig
    }

    /// Gives the server these bytes, cut as it wants them.
    fn give(&mut self, mut bytes: &[u8]) -> Result<Step, Violation> {
        let mut step = Step::More;
        while !bytes.is_empty() {
            assert!(self.server.wants() <= MAX_OPTION);
            let (now, later) = bytes.split_at(self.server.wants());
            step = self.server.receive(now, &Two, &mut self.sent)?;
            bytes = later;
        }
        Ok(step)
    }

    fn option(&mut self, number: u32, data: &[u8]) -> Result<Step, Violation> {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
        self.give(&bytes)
    }

    /// The kinds of the replies since the last look, errors without their highest bit and negative.
    fn replies(&mut self) -> Vec<i64> {
        let (mut kinds, mut rest) = (Vec::new(), &self.sent[..]);
        while let Some((head, after)) = rest.split_first_chunk::<20>() {
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let length = u32::from_be_bytes(head[16..].try_into().unwrap()) as usize;
            kinds.push(match kind >> 31 {
                0 => kind.into(),
                _ => -i64::from(kind & !(1 << 31)),
            });
            rest = &after[length..];
        }
        self.sent.clear();
        kinds
    }
}

/// Lets a client of ours into a server of ours.
fn meet(wish: Wish) -> Result<(Session, Client), cohort_nbd::ConnectError> {
    meet_by(Tls::Off, Connecting::begin(wish))
}

fn meet_by(
    tls: Tls,
    mut client: Connecting,
) -> Result<(Session, Client), cohort_nbd::ConnectError> {
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let mut server = Handshake::begin(tls, &mut to_client);
    let mut session = None;
    loop {
        while !to_client.is_empty() {
            let bytes: Vec<u8> = to_client.drain(..client.wants()).collect();
            match client.receive(&bytes, &mut to_server)? {
                ConnectStep::Ready(inside) => {
                    return Ok((session.expect("the server entered first"), inside));
                }
                // What would be encrypted goes as it is.
                ConnectStep::StartTls => client.encrypted(&mut to_server),
                ConnectStep::More => {}
            }
        }
        while !to_server.is_empty() {
            let bytes: Vec<u8> = to_server.drain(..server.wants()).collect();
            let step = server.receive(&bytes, &Two, &mut to_client).unwrap();
            if matches!(step, Step::StartTls) {
                server.encrypted();
            }
            if let Step::Transmit(inside) = step {
                session = Some(inside);
            }
        }
    }
}

#[test]
fn our_client_gets_all_that_our_server_has() {
    let contexts = [
        "qemu:dirty-bitmap:b0",
        "base:allocation",
        "qemu:dirty-bitmap:none",
    ];
    let contexts: Vec<_> = contexts.into_iter().filter_map(Context::parse).collect();
    let (session, client) = meet(Wish {
        name: name(""),
        contexts: contexts.clone(),
    })
    .unwrap();
    assert_eq!(client.size(), 1_000_001);
    assert_eq!(
        (client.mode(), session.mode()),
        (Mode::Extended, Mode::Extended)
    );
    assert!(client.flags().multi_conn() && client.flags().fua() && !client.flags().read_only());
    let chosen: Vec<_> = session
        .contexts()
        .map(|(id, context)| (id, context.clone()))
        .collect();
    assert_eq!(
        client.contexts(),
        chosen,
        "both sides mean the same by an id"
    );
    assert_eq!(chosen.len(), 2, "one of them is not served");
    let (session, client) = meet(Wish {
        name: name("b"),
        contexts: vec![],
    })
    .unwrap();
    assert!(client.flags().read_only() && session.export().read_only);
}

#[test]
fn an_export_that_is_not_there_is_refused_in_words() {
    let refused = meet(Wish {
        name: name("c"),
        contexts: vec![],
    })
    .unwrap_err();
    assert!(refused.to_string().contains("no export \"c\""), "{refused}");
}

#[test]
fn options_are_answered_in_their_own_way() {
    let mut rig = Rig::new(Tls::Off);
    let go_b = [&[0, 0, 0, 1, b'b'][..], &[0, 1], &[0, 1]].concat();
    let table: &[(u32, &[u8], &[i64])] = &[
        (3, &[], &[2, 2, 1]),
        (3, b"x", &[-3]),
        (99, b"whatever", &[-1]),
        (5, &[], &[-2]),
        (6, &go_b, &[3, 3, 3, 1]),
        (6, &go_b[..6], &[-3]),
        (6, &[&go_b[..], &[0]].concat(), &[-3]),
        (6, &[0, 0, 0, 1, b'c', 0, 0], &[-6]),
        (6, &[255, 255, 255, 255, b'c', 0, 0], &[-3]),
        (6, &[0, 0, 0, 1, 0xff, 0, 0], &[-3]),
        (9, &[0, 0, 0, 1, b'a', 0, 0, 0, 0], &[-3]),
        (8, &[], &[1]),
        (8, &[], &[-3]),
        (9, &[0, 0, 0, 1, b'a', 0, 0, 0, 0], &[4, 4, 4, 1]),
        (
            9,
            &[
                0, 0, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 5, b'q', b'e', b'm', b'u', b':',
            ],
            &[4, 4, 1],
        ),
        (
            9,
            &[
                0, 0, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 5, b'b', b'a', b's', b'e', b':',
            ],
            &[4, 1],
        ),
        (
            10,
            &[
                0, 0, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 5, b'b', b'a', b's', b'e', b':',
            ],
            &[1],
        ),
        (10, &[0, 0, 0, 1, b'a', 255, 255, 255, 255], &[-3]),
        (11, &[], &[1]),
        (11, &[], &[-3]),
        (8, &[], &[-10]),
    ];
    for (option, data, kinds) in table {
        assert!(matches!(rig.option(*option, data), Ok(Step::More)));
        assert_eq!(rig.replies(), *kinds, "option {option} with {data:?}");
    }
    assert!(matches!(rig.option(7, &go_b), Ok(Step::Transmit(_))));
}

#[test]
fn contexts_count_only_for_the_export_they_were_chosen_for() {
    let chosen_for_a = [
        &[0, 0, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 15][..],
        b"base:allocation",
    ]
    .concat();
    for (export, contexts) in [(b'a', 1), (b'b', 0)] {
        let mut rig = Rig::new(Tls::Off);
        rig.option(8, &[]).unwrap();
        rig.option(10, &chosen_for_a).unwrap();
        let Ok(Step::Transmit(session)) = rig.option(7, &[0, 0, 0, 1, export, 0, 0]) else {
            panic!("no way in");
        };
        assert_eq!(session.contexts().count(), contexts);
    }
}

#[test]
fn the_old_way_in_has_no_errors() {
    let mut rig = Rig::new(Tls::Off);
    assert!(matches!(rig.option(1, b"b"), Ok(Step::Transmit(_))));
    assert_eq!(rig.sent.len(), 10, "no zeroes, as both sides said");
    assert!(matches!(
        Rig::new(Tls::Off).option(1, b"c"),
        Err(Violation::NoSuchExport(_))
    ));
    assert!(matches!(
        Rig::new(Tls::Required).option(1, b"b"),
        Err(Violation::NoTls)
    ));
}

#[test]
fn a_client_that_wants_tls_gets_it_or_nothing() {
    let wish = || Wish {
        name: name("a"),
        contexts: vec![],
    };
    for tls in [Tls::Required, Tls::Optional] {
        let met = meet_by(tls, Connecting::begin(wish()).with_tls());
        assert_eq!(met.unwrap().1.mode(), Mode::Extended);
    }
    let refused = meet_by(Tls::Off, Connecting::begin(wish()).with_tls()).unwrap_err();
    assert!(refused.to_string().contains("no TLS"), "{refused}");
    meet_by(Tls::Optional, Connecting::begin(wish())).unwrap();
    let refused = meet_by(Tls::Required, Connecting::begin(wish())).unwrap_err();
    assert!(refused.to_string().contains("TLS"), "{refused}");
}

#[test]
fn nothing_is_served_before_tls_and_nothing_said_before_it_counts() {
    let mut rig = Rig::new(Tls::Required);
    for option in [3, 6, 7, 8, 9, 10, 11, 99] {
        rig.option(option, &[]).unwrap();
        assert_eq!(rig.replies(), [-5], "option {option}");
    }
    assert!(matches!(rig.option(5, &[]), Ok(Step::StartTls)));
    assert_eq!(rig.replies(), [1]);
    rig.server.encrypted();
    rig.option(8, &[]).unwrap();
    rig.option(5, &[]).unwrap();
    assert_eq!(rig.replies(), [1, -3]);
}

#[test]
fn a_long_option_is_refused_without_being_held() {
    let mut rig = Rig::new(Tls::Off);
    let data = vec![0; MAX_OPTION + 1];
    rig.option(6, &data).unwrap();
    assert_eq!(rig.replies(), [-9]);
    rig.option(3, &[]).unwrap();
    assert_eq!(rig.replies(), [2, 2, 1], "and it goes on");
    let header = [&b"IHAVEOPT"[..], &[0, 0, 0, 6], &[255; 4]].concat();
    assert_eq!(
        rig.give(&header).unwrap_err(),
        Violation::OptionLength(u32::MAX)
    );
}

#[test]
fn what_is_no_client_is_told_apart() {
    let mut out = Vec::new();
    for flags in [0u32, 2, 4, 5, u32::MAX] {
        let mut server = Handshake::begin(Tls::Off, &mut out);
        let refused = server
            .receive(&flags.to_be_bytes(), &Two, &mut out)
            .unwrap_err();
        assert_eq!(refused, Violation::Flags(flags));
    }
    let mut rig = Rig::new(Tls::Off);
    assert!(matches!(
        rig.give(b"GET / HTTP/1.1\r\n"),
        Err(Violation::Magic(_))
    ));
    let mut server = Handshake::begin(Tls::Off, &mut out);
    assert!(matches!(
        server.receive(&[0; 3], &Two, &mut out),
        Err(Violation::Given { .. })
    ));
}
