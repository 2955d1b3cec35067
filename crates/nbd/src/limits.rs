//! What a peer may ask us to hold: the limits, and the types that keep them.

use std::fmt;

/// Most bytes that one request or one piece of a reply carries: 32 MiB, what the protocol's text advises and all
/// common peers grant.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// Most bytes of a name, as the protocol has it.
pub const MAX_NAME: usize = 4096;

/// Most bytes of an option's data that are looked at. A longer option is refused, and its data is dropped as it comes.
pub const MAX_OPTION: usize = 64 << 10;

/// Longest option that is refused with an answer; the connection of a longer one is closed.
pub(crate) const MAX_SKIPPED_OPTION: u32 = MAX_PAYLOAD;

/// Most descriptors in one reply to a block status request, per context: 64 KiB of them in 32-bit form.
pub const MAX_EXTENTS: usize = 8192;

/// A name as the protocol allows it: UTF-8, at most [`MAX_NAME`] bytes, without a NUL. The empty one means the
/// server's default export.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// More than [`MAX_NAME`] bytes.
    #[error("a name of {0} bytes; names have at most {MAX_NAME}")]
    TooLong(usize),
    /// A NUL, which the protocol forbids.
    #[error("a name must not hold a NUL")]
    Nul,
    /// Other bytes than UTF-8.
    #[error("a name must be UTF-8")]
    NotText,
}

impl Name {
    /// Takes a text for a name.
    ///
    /// # Errors
    /// It is too long, or holds a NUL.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.len() > MAX_NAME {
            Err(NameError::TooLong(text.len()))
        } else if text.contains('\0') {
            Err(NameError::Nul)
        } else {
            Ok(Self(text))
        }
    }

    pub(crate) fn from_wire(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > MAX_NAME {
            return Err(NameError::TooLong(bytes.len()));
        }
        Self::new(std::str::from_utf8(bytes).map_err(|_| NameError::NotText)?)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}
