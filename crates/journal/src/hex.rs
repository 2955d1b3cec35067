//! Bytes as text: lower-case hex.

use serde::{Deserialize, Serialize};

/// Bytes that need not be text, stored as lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordBytes(pub Vec<u8>);

/// A text that is not the hex of whole bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not lower-case hex")]
pub struct NotHex(pub String);

impl From<RecordBytes> for String {
    fn from(bytes: RecordBytes) -> Self {
        use std::fmt::Write;
        let text = Self::with_capacity(bytes.0.len() * 2);
        bytes.0.iter().fold(text, |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl TryFrom<String> for RecordBytes {
    type Error = NotHex;

    fn try_from(text: String) -> Result<Self, NotHex> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let pairs = text.as_bytes().chunks(2).map(|pair| match *pair {
            [high, low] => Some(nibble(high)? << 4 | nibble(low)?),
            _ => None,
        });
        match pairs.collect() {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(NotHex(text)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn record_bytes_are_even_lower_case_hex() {
        let read = |text: &str| RecordBytes::try_from(text.to_owned());
        assert_eq!(read("00fe").unwrap(), RecordBytes(vec![0, 0xfe]));
        assert_eq!(String::from(RecordBytes(vec![0, 0xfe])), "00fe");
        for bad in ["0", "0g", "FE", "0x", " 0"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
