//! What may be wrong with a database's file, before it is known where that file is.

use std::convert::Infallible;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is wrong with a database's file. `B` tells the rules between rows that its reader knows.
#[derive(Debug)]
pub enum Fault<B = Infallible> {
    /// Not a redb database, or one with other tables.
    Foreign(String),
    /// Too new.
    Newer(u32),
    /// Rows or pages that do not fit.
    Damaged(String),
    /// Rows that contradict each other.
    Broken(B),
    /// A writer died; somebody has to repair it.
    Unclean,
    /// Another program has it open.
    Held,
    /// The operating system said no.
    Io(io::Error),
}

impl<B: Display> Display for Fault<B> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(detail) | Self::Damaged(detail) => f.write_str(detail),
            Self::Newer(found) => write!(f, "it has version {found}"),
            Self::Broken(broken) => broken.fmt(f),
            Self::Unclean => f.write_str("its writer died"),
            Self::Held => f.write_str("another program has it open"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl<B> From<redb::Error> for Fault<B> {
    #[allow(clippy::wildcard_enum_match_arm)] // `redb::Error` is not exhaustive.
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error),
            redb::Error::RepairAborted => Self::Unclean,
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Held,
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// redb may panic over a file whose bytes were changed behind its back; to us that is damage.
///
/// # Errors
/// Those of `action`, and [`Fault::Damaged`] if it panics.
pub fn guarded<T, B>(action: impl FnOnce() -> Result<T, Fault<B>>) -> Result<T, Fault<B>> {
    // Whatever the action used is thrown away, or, in a writer, not used again after a fault.
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "no reason given".to_owned());
        Err(Fault::Damaged(format!(
            "the database library gave up: {text}"
        )))
    })
}
