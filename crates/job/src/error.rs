//! What went wrong with a job, as its driver tells it.

use std::error::Error as StdError;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Why a job failed: one message and, if there is one, the error below it. Cheap to clone.
///
/// A driver's failure is data: it is kept with the job until the job is dismissed.
///
/// ```
/// use cohort_job::Error;
///
/// let refused = std::io::Error::other("disk is full");
/// let error = Error::with_source("cannot write page 7", refused);
/// assert_eq!(error.message(), "cannot write page 7");
/// assert_eq!(error.to_string(), "cannot write page 7: disk is full");
/// assert_eq!(Error::from("no luck"), Error::new("no luck"));
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    message: Box<str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that is its message.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            message: message.into().into_boxed_str(),
            source: None,
        }))
    }

    /// An error with the one that caused it; `message` need not repeat what `source` says.
    #[must_use]
    pub fn with_source(
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner {
            message: message.into().into_boxed_str(),
            source: Some(source.into()),
        }))
    }

    /// The message alone, without the source.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

/// The message and, after a colon, every source below it.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut next = self.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?})", self.to_string())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// By message: two tellings of one failure are one failure.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.message == other.0.message
    }
}

impl Eq for Error {}

impl Hash for Error {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.message.hash(state);
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::with_source("I/O error", error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_sources() {
        let io = std::io::Error::other("no space left");
        let error = Error::with_source("writing disk 'a' at byte 4096", io);
        assert_eq!(
            error.to_string(),
            "writing disk 'a' at byte 4096: no space left"
        );
        assert_eq!(error.message(), "writing disk 'a' at byte 4096");
        assert!(error.source().is_some());
    }
}
