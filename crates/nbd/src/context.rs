//! Meta contexts: what may be asked about a range besides its bytes.

use std::fmt;

use crate::limits::{MAX_NAME, Name};

/// One thing that can be known of every byte of an export.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// `base:allocation`: holes and zeroes ([`HOLE`](Self::HOLE), [`ZERO`](Self::ZERO)).
    Allocation,
    /// `qemu:allocation-depth`: 0 where no layer holds anything, 1 where the top layer does, more for layers beneath.
    AllocationDepth,
    /// `qemu:dirty-bitmap:NAME`: what was written ([`DIRTY`](Self::DIRTY)).
    DirtyBitmap(BitmapName),
}

/// The name of an exported bitmap; with what stands before it a name of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitmapName(Name);

/// A run of bytes of which a context says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// How many bytes; not zero.
    pub length: u64,
    /// What the context's flags say of them. Where headers are not extended, the lower 32 bits.
    pub flags: u64,
}

const BITMAP: &str = "qemu:dirty-bitmap:";

impl Context {
    /// Of [`Allocation`](Self::Allocation): nothing is allocated here.
    pub const HOLE: u64 = 1;
    /// Of [`Allocation`](Self::Allocation): reads as zeroes.
    pub const ZERO: u64 = 2;
    /// Of [`DirtyBitmap`](Self::DirtyBitmap): a bit of the bitmap is set here.
    pub const DIRTY: u64 = 1;

    /// Reads a context by its full name; nothing if it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "base:allocation" => Some(Self::Allocation),
            "qemu:allocation-depth" => Some(Self::AllocationDepth),
            _ => text
                .strip_prefix(BITMAP)
                .and_then(BitmapName::new)
                .map(Self::DirtyBitmap),
        }
    }

    /// Whether a query of `NBD_OPT_LIST_META_CONTEXT` means this one: its name, or a namespace and a colon, or for
    /// bitmaps all that stands before their names.
    pub(crate) fn is_listed_by(&self, query: &str) -> bool {
        let name = self.to_string();
        let is_prefix = matches!(query, "base:" | "qemu:" | BITMAP);
        name == query || (is_prefix && name.starts_with(query))
    }
}

impl BitmapName {
    /// A name that fits; nothing for one that is empty, too long, or holds a NUL.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() + BITMAP.len() <= MAX_NAME;
        fits.then(|| Name::new(text).ok().map(Self)).flatten()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocation => f.write_str("base:allocation"),
            Self::AllocationDepth => f.write_str("qemu:allocation-depth"),
            Self::DirtyBitmap(name) => write!(f, "{BITMAP}{}", name.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_read_as_they_are_written() {
        for text in [
            "base:allocation",
            "qemu:allocation-depth",
            "qemu:dirty-bitmap:b0",
        ] {
            assert_eq!(Context::parse(text).unwrap().to_string(), text);
        }
        for none in ["", "base:", "base:other", "qemu:", BITMAP, "x:y"] {
            assert_eq!(Context::parse(none), None, "{none}");
        }
        assert_eq!(BitmapName::new(&"n".repeat(MAX_NAME)), None);
    }

    #[test]
    fn a_query_lists_by_name_or_by_namespace() {
        let bitmap = Context::parse("qemu:dirty-bitmap:b0").unwrap();
        for (query, allocation, of_bitmap) in [
            ("base:", true, false),
            ("base:allocation", true, false),
            ("qemu:", false, true),
            ("qemu:dirty-bitmap:", false, true),
            ("qemu:dirty-bitmap:b", false, false),
            ("", false, false),
        ] {
            assert_eq!(
                Context::Allocation.is_listed_by(query),
                allocation,
                "{query}"
            );
            assert_eq!(bitmap.is_listed_by(query), of_bitmap, "{query}");
        }
    }
}
