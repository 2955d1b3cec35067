//! The server's side of a connection: bytes in, commands out; and what is sent back.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::argument::Argument;
use crate::commands::{Capability, Command, VersionInfo};
use crate::json::Decoder;
use crate::{Error, ErrorClass};

/// What a client sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A command whose arguments are in order; to be answered with [`reply`], and this id.
    Do {
        /// The command.
        command: Box<Command>,
        /// What the client called it.
        id: Option<Value>,
    },
    /// Settled already: this is to be sent.
    Answer(Value),
}

/// A connection. Before the client has said what it can do it may ask for nothing else.
#[derive(Debug, Default)]
pub struct Session {
    decoder: Decoder,
    negotiated: bool,
    /// The client may ask for commands out of order.
    oob: bool,
}

/// What a server says first.
pub fn greeting(version: &VersionInfo) -> Value {
    json!({ "QMP": { "version": version.write(), "capabilities": Capability::WORDS } })
}

/// The answer to a command.
pub fn reply(result: Result<Value, Error>, id: Option<Value>) -> Value {
    let mut members = Map::new();
    match result {
        Ok(value) => members.insert("return".to_owned(), value),
        Err(error) => members.insert("error".to_owned(), error.to_value()),
    };
    if let Some(id) = id {
        members.insert("id".to_owned(), id);
    }
    Value::Object(members)
}

/// A message as bytes: one line, which is all that some clients understand.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("every member has a name, so it is JSON");
    line.extend(b"\r\n");
    line
}

impl Session {
    /// A connection that was just made; the client is sent the [`greeting`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the client is to be told of events.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Takes bytes and appends what they bring, in order.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<Incoming>) {
        let mut values = Vec::new();
        self.decoder.receive(bytes, &mut values);
        for value in values {
            let refused = |error| Incoming::Answer(reply(Err(error), None));
            out.push(match value {
                Ok(value) => self.judge(value),
                Err(text) => refused(Error::generic(text)),
            });
        }
    }

    fn judge(&mut self, value: Value) -> Incoming {
        let Value::Object(mut members) = value else {
            let error = Error::generic("QMP input must be a JSON object");
            return Incoming::Answer(reply(Err(error), None));
        };
        let id = members.remove("id");
        match self.command(members) {
            Err(error) => Incoming::Answer(reply(Err(error), id)),
            Ok(Command::Capabilities(capabilities)) => {
                self.negotiated = true;
                self.oob = capabilities.enable.is_some_and(|enable| !enable.is_empty());
                Incoming::Answer(reply(Ok(json!({})), id))
            }
            Ok(command) => Incoming::Do {
                command: Box::new(command),
                id,
            },
        }
    }

    /// The command in a request, if it is one and may be asked for now.
    fn command(&self, members: Map<String, Value>) -> Result<Command, Error> {
        let (name, oob, arguments) = take_apart(members, self.oob)?;
        if !self.negotiated && name != "qmp_capabilities" {
            return Err(not_found(
                "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned(),
            ));
        }
        if oob && Command::NAMES.contains(&name.as_str()) {
            let text = format!("The command {name} does not support OOB");
            return Err(Error::generic(text));
        }
        let command = Command::read(&name, arguments)?;
        if self.negotiated && matches!(command, Command::Capabilities(_)) {
            return Err(not_found(
                "Capabilities negotiation is already complete, command ignored".to_owned(),
            ));
        }
        Ok(command)
    }
}

fn not_found(text: String) -> Error {
    Error::of(ErrorClass::CommandNotFound, text)
}

/// The name in a request, whether it is to be carried out of order, and its arguments.
fn take_apart(
    members: Map<String, Value>,
    may_be_oob: bool,
) -> Result<(String, bool, Map<String, Value>), Error> {
    let (mut execute, mut arguments) = (None, Map::new());
    for (name, value) in members {
        if name == "exec-oob" && !may_be_oob {
            return Err(Error::generic("QMP input member 'exec-oob' is unexpected"));
        }
        match (name.as_str(), value) {
            ("execute" | "exec-oob", Value::String(command)) => {
                if execute.is_some() {
                    let text = "QMP input member 'execute' clashes with 'exec-oob'";
                    return Err(Error::generic(text));
                }
                execute = Some((command, name == "exec-oob"));
            }
            ("execute" | "exec-oob", _) => {
                let text = format!("QMP input member '{name}' must be a string");
                return Err(Error::generic(text));
            }
            ("arguments", Value::Object(object)) => arguments = object,
            ("arguments", _) => {
                let text = "QMP input member 'arguments' must be an object";
                return Err(Error::generic(text));
            }
            _ => {
                let text = format!("QMP input member '{name}' is unexpected");
                return Err(Error::generic(text));
            }
        }
    }
    let (command, oob) =
        execute.ok_or_else(|| Error::generic("QMP input lacks member 'execute'"))?;
    Ok((command, oob, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client that sends this text is answered; commands that are in order say `do NAME`.
    fn answers(session: &mut Session, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        session.receive(text.as_bytes(), &mut out);
        let told = |incoming| match incoming {
            Incoming::Do { command, .. } => format!("do {}", command.name()),
            Incoming::Answer(value) => match value.get("error") {
                Some(error) => {
                    let Error { class, text } = Error::from_value(error);
                    format!("{class}: {text}")
                }
                None => value["return"].to_string(),
            },
        };
        out.into_iter().map(told).collect()
    }

    #[test]
    fn requests_are_refused_as_by_the_reference() {
        #[rustfmt::skip]
        let cases = [
            (r#"[1]"#, "GenericError: QMP input must be a JSON object"),
            (r#"{}"#, "GenericError: QMP input lacks member 'execute'"),
            (r#"{"exec":1}"#, "GenericError: QMP input member 'exec' is unexpected"),
            (r#"{"execute":1}"#, "GenericError: QMP input member 'execute' must be a string"),
            (r#"{"execute":"query-jobs","arguments":1}"#, "GenericError: QMP input member 'arguments' must be an object"),
            (r#"{"execute":"query-jobs","arguments":{"x":1}}"#, "GenericError: Parameter 'x' is unexpected"),
            (r#"{"execute":"query-jobs","exec-oob":"x"}"#, "GenericError: QMP input member 'execute' clashes with 'exec-oob'"),
            (r#"{"exec-oob":"query-jobs"}"#, "GenericError: The command query-jobs does not support OOB"),
            (r#"{"execute":"zz"}"#, "CommandNotFound: The command zz has not been found"),
            (r#"{"execute":"qmp_capabilities"}"#, "CommandNotFound: Capabilities negotiation is already complete, command ignored"),
            (r#"{"execute":"query-jobs"}"#, "do query-jobs"),
        ];
        let mut session = Session::new();
        let early = answers(&mut session, r#"{"execute":"query-jobs"}{"execute":"zz"}"#);
        let expecting =
            "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'";
        assert_eq!(early, [expecting; 2]);
        let unknown = r#"{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}"#;
        let refusal = "GenericError: Parameter 'null' does not accept value 'x'";
        assert_eq!(answers(&mut session, unknown), [refusal]);
        assert!(!session.is_negotiated());
        let mut modest = Session::new();
        answers(&mut modest, r#"{"execute":"qmp_capabilities"}"#);
        let refusal = "GenericError: QMP input member 'exec-oob' is unexpected";
        assert_eq!(
            answers(&mut modest, r#"{"exec-oob":"query-jobs"}"#),
            [refusal]
        );
        assert_eq!(
            answers(
                &mut session,
                r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#
            ),
            ["{}"]
        );
        for (text, answer) in cases {
            assert_eq!(answers(&mut session, text), [answer], "{text}");
        }
    }

    #[test]
    fn ids_of_every_type_come_back() {
        let mut session = Session::new();
        for id in ["null", "true", "7", "-1.5", "\"a\"", "[1]", "{\"a\":null}"] {
            let mut out = Vec::new();
            session.receive(
                format!("{{\"execute\":\"x\",\"id\":{id}}}").as_bytes(),
                &mut out,
            );
            out.resize(1, Incoming::Answer(Value::Null));
            let Incoming::Answer(answer) = &out[0] else {
                panic!("{out:?}")
            };
            assert_eq!(answer["id"].to_string(), id);
        }
    }
}
