//! JSON objects with exactly the fields that they may have.

use serde_json::{Map, Value};

/// The fields of an object that were not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    what: String,
    left: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(what: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::Object(left) => Ok(Self {
                what: what.to_owned(),
                left,
            }),
            other => Err(format!("{what}: {other} is no object")),
        }
    }

    pub(super) fn parse(what: &str, bytes: &[u8]) -> Result<Self, String> {
        let value = serde_json::from_slice(bytes);
        Self::of(what, value.map_err(|error| format!("{what}: {error}"))?)
    }

    pub(super) fn maybe(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key)
    }

    pub(super) fn any(&mut self, key: &str) -> Result<Value, String> {
        let value = self.left.remove(key);
        value.ok_or_else(|| format!("{}: it has no {key}", self.what))
    }

    /// None for `null`.
    pub(super) fn or_null(&mut self, key: &str) -> Result<Option<Value>, String> {
        Ok(Some(self.any(key)?).filter(|value| !value.is_null()))
    }

    pub(super) fn number(&mut self, key: &str) -> Result<u64, String> {
        let value = self.any(key)?;
        let number = value.as_u64();
        number.ok_or_else(|| format!("{}: {key} is {value}", self.what))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<String, String> {
        match self.any(key)? {
            Value::String(text) => Ok(text),
            other => Err(format!("{}: {key} is {other}", self.what)),
        }
    }

    pub(super) fn truth(&mut self, key: &str) -> Result<bool, String> {
        let value = self.any(key)?;
        let truth = value.as_bool();
        truth.ok_or_else(|| format!("{}: {key} is {value}", self.what))
    }

    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Value>, String> {
        match self.any(key)? {
            Value::Array(list) => Ok(list),
            other => Err(format!("{}: {key} is {other}", self.what)),
        }
    }

    /// Nothing else is there.
    pub(super) fn end(self) -> Result<(), String> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("{}: nobody knows of {key}", self.what)),
        }
    }
}

/// A rule that holds, or its sentence.
pub(super) fn ensure(holds: bool, rule: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule()) }
}
