//! The client's side of a connection: commands to bytes, and back to what the server says.

use serde_json::{Map, Value, json};

use crate::Error;
use crate::commands::Command;
use crate::json::Decoder;
use crate::session::line;

/// A connection to a server, QEMU's or ours.
#[derive(Debug, Default)]
pub struct Client {
    decoder: Decoder,
    asked: u64,
}

/// What a server sent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Received {
    /// Its first word: what it is and can do.
    Greeting {
        /// Of QEMU, or what it says to be compatible with.
        version: Value,
        /// What may be enabled.
        capabilities: Vec<String>,
    },
    /// The answer to the request of this number.
    Reply {
        /// What [`Client::request`] gave.
        number: u64,
        /// What the command returned.
        result: Result<Value, Error>,
    },
    /// Something happened.
    Event {
        /// What.
        name: String,
        /// The details.
        data: Map<String, Value>,
    },
}

/// The server says what no server says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak QMP: {0}")]
pub struct BadServer(String);

impl Client {
    /// A connection that was just made.
    pub fn new() -> Self {
        Self::default()
    }

    /// A command as bytes, and the number that its answer will carry.
    pub fn request(&mut self, command: &Command) -> (u64, Vec<u8>) {
        self.ask(command.name(), command.arguments())
    }

    /// A command that the table here does not have.
    pub fn ask(&mut self, command: &str, arguments: Value) -> (u64, Vec<u8>) {
        self.asked += 1;
        let message = json!({ "execute": command, "arguments": arguments, "id": self.asked });
        (self.asked, line(&message))
    }

    /// Takes bytes and appends what they say.
    ///
    /// # Errors
    /// Nothing that comes after can be understood.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<Received>) -> Result<(), BadServer> {
        let mut values = Vec::new();
        self.decoder.receive(bytes, &mut values);
        for value in values {
            out.push(understand(value.map_err(BadServer)?)?);
        }
        Ok(())
    }
}

fn understand(mut value: Value) -> Result<Received, BadServer> {
    if let Some(greeting) = value.get_mut("QMP") {
        let listed = greeting["capabilities"].as_array().into_iter().flatten();
        let capabilities = listed
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let version = greeting.get_mut("version").map(Value::take);
        return Ok(Received::Greeting {
            version: version.unwrap_or_default(),
            capabilities,
        });
    }
    if let Some(name) = value
        .get("event")
        .and_then(Value::as_str)
        .map(str::to_owned)
    {
        let data = match value.get_mut("data").map(Value::take) {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        return Ok(Received::Event { name, data });
    }
    let number = value.get("id").and_then(Value::as_u64).unwrap_or(0);
    if let Some(error) = value.get("error") {
        let result = Err(Error::from_value(error));
        return Ok(Received::Reply { number, result });
    }
    match value.get_mut("return").map(Value::take) {
        Some(returned) => Ok(Received::Reply {
            number,
            result: Ok(returned),
        }),
        None => Err(BadServer(value.to_string().chars().take(200).collect())),
    }
}
