//! Any bytes from the other side of an NBD connection: the first one says which side we are.

use cohort_nbd::{
    BitmapName, ConnectStep, Connecting, Context, Export, Exports, Handshake, Incoming, MAX_OPTION,
    MAX_PAYLOAD, Name, Step, Tls, Wish,
};

/// Nothing wants or holds more than the limits, and what gets through lies within them.
pub fn check(bytes: &[u8]) {
    let Some((side, bytes)) = bytes.split_first() else {
        return;
    };
    let tls = [Tls::Off, Tls::Optional, Tls::Required][usize::from(side / 2 % 3)];
    match side % 2 {
        0 => serve(tls, bytes),
        _ => connect(tls, bytes),
    }
}

const SIZE: u64 = 1 << 33;

struct One;

impl Exports for One {
    fn names(&self) -> Vec<Name> {
        vec![Name::default()]
    }

    fn find(&self, name: &Name) -> Option<Export> {
        let bitmap = BitmapName::new("b0").map(Context::DirtyBitmap);
        Some(Export {
            name: name.clone(),
            size: SIZE,
            read_only: name.as_str() == "r",
            preferred_length: 4096,
            contexts: [Context::Allocation, Context::AllocationDepth]
                .into_iter()
                .chain(bitmap)
                .collect(),
        })
    }
}

/// What would be encrypted goes as it is.
fn serve(tls: Tls, mut bytes: &[u8]) {
    let mut out = Vec::new();
    let mut server = Handshake::begin(tls, &mut out);
    let mut encrypted = false;
    let session = loop {
        assert!(server.wants() <= MAX_OPTION);
        out.clear();
        let Some((now, later)) = bytes.split_at_checked(server.wants()) else {
            return;
        };
        bytes = later;
        match server.receive(now, &One, &mut out) {
            Ok(Step::More) => assert!(out.len() < 4 * MAX_OPTION),
            Ok(Step::StartTls) => {
                assert!(tls != Tls::Off && !encrypted);
                encrypted = true;
                server.encrypted();
            }
            Ok(Step::Transmit(session)) => {
                assert!(tls != Tls::Required || encrypted);
                break session;
            }
            Ok(Step::End) | Err(_) => return,
        }
    };
    while let Some((header, later)) = bytes.split_at_checked(session.header_length()) {
        bytes = later;
        match session.receive(header) {
            Ok(Incoming::Do(request)) => {
                out.clear();
                session.reply(&request).done(&mut out);
                assert!(out.len() <= 32);
            }
            Ok(Incoming::Refuse {
                reply,
                code,
                why,
                skip,
            }) => {
                assert!(skip <= MAX_PAYLOAD);
                out.clear();
                reply.error(code, why, &mut out);
            }
            Ok(Incoming::Disconnect) | Err(_) => return,
        }
    }
}

fn connect(tls: Tls, mut bytes: &[u8]) {
    let mut out = Vec::new();
    let contexts = vec![Context::Allocation, Context::AllocationDepth];
    let mut client = Connecting::begin(Wish {
        name: Name::default(),
        contexts,
    });
    let mut encrypted = tls != Tls::Required;
    if !encrypted {
        client = client.with_tls();
    }
    let client = loop {
        assert!(client.wants() <= MAX_OPTION);
        let Some((now, later)) = bytes.split_at_checked(client.wants()) else {
            return;
        };
        bytes = later;
        match client.receive(now, &mut out) {
            Ok(ConnectStep::More) => {}
            Ok(ConnectStep::StartTls) => {
                assert!(!encrypted);
                encrypted = true;
                client.encrypted(&mut out);
            }
            Ok(ConnectStep::Ready(client)) => {
                assert!(encrypted);
                break client;
            }
            Err(_) => return,
        }
    };
    while let Some(first) = bytes.first_chunk() {
        let Ok(length) = client.head_length(*first) else {
            return;
        };
        let Some((head, later)) = bytes.split_at_checked(length) else {
            return;
        };
        let Ok(head) = client.head(head) else { return };
        let Some((payload, later)) = later.split_at_checked(head.payload as usize) else {
            return;
        };
        bytes = later;
        if head.content(payload).is_err() {
            return;
        }
    }
}
