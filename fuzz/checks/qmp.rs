//! Any bytes from either side of a QMP connection: everybody holds out, and cuts between packets do not matter.

use cohort_qmp::{Client, Command, Incoming, Session};

/// Gives the bytes to a server and to a client, whole and in pieces.
pub fn check(bytes: &[u8]) {
    let mut whole = Session::new();
    let mut pieces = Session::new();
    let (mut at_once, mut bit_by_bit) = (Vec::new(), Vec::new());
    let negotiation = br#"{"execute":"qmp_capabilities"}"#;
    whole.receive(negotiation, &mut at_once);
    pieces.receive(negotiation, &mut bit_by_bit);
    whole.receive(bytes, &mut at_once);
    for piece in bytes.chunks(3) {
        pieces.receive(piece, &mut bit_by_bit);
    }
    assert_eq!(at_once, bit_by_bit);
    for incoming in at_once {
        if let Incoming::Do { command, .. } = incoming {
            let again = command.arguments();
            let serde_json::Value::Object(arguments) = again else {
                panic!("arguments are an object");
            };
            assert_eq!(
                Command::read(command.name(), arguments).as_ref(),
                Ok(&*command)
            );
        }
    }
    // What no server says ends the connection, and nothing else.
    let _ = Client::new().receive(bytes, &mut Vec::new());
}
