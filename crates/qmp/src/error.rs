//! What a command may fail with: a class for programs, a text for people.

use std::fmt;

use serde_json::{Value, json};

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// What kind of failure.
    pub class: ErrorClass,
    /// One sentence.
    pub text: String,
}

/// The kinds of failure that clients tell apart; QEMU has no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Anything without a class of its own.
    Generic,
    /// There is no such command, or not now.
    CommandNotFound,
    /// A `block-job-…` command names no block job.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 4] = [
        Self::Generic,
        Self::CommandNotFound,
        Self::DeviceNotActive,
        Self::DeviceNotFound,
    ];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Error {
    /// An error of the generic class.
    pub fn generic(text: impl Into<String>) -> Self {
        Self::of(ErrorClass::Generic, text)
    }

    /// An error of this class.
    pub fn of(class: ErrorClass, text: impl Into<String>) -> Self {
        Self {
            class,
            text: text.into(),
        }
    }

    /// As it goes over the wire, without the braces around.
    pub(crate) fn to_value(&self) -> Value {
        json!({ "class": self.class.as_str(), "desc": self.text })
    }

    /// What a server sent; an unknown class counts as generic.
    pub(crate) fn from_value(value: &Value) -> Self {
        let member = |name: &str| value.get(name).and_then(Value::as_str);
        let class = ErrorClass::ALL
            .into_iter()
            .find(|class| member("class") == Some(class.as_str()));
        Self::of(
            class.unwrap_or(ErrorClass::Generic),
            member("desc").unwrap_or("an error without a text"),
        )
    }
}
