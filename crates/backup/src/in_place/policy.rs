//! What an error means for a backup in place: QEMU's words, and what they come to.

use std::io;

use cohort_block::DeviceError;
use cohort_job::Error;

/// What to do about an error of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnError {
    /// The job fails.
    #[default]
    Report,
    /// It is tried again, ever more slowly, and the rest is copied meanwhile.
    Ignore,
    /// The job pauses if there is no space left, and fails otherwise.
    Enospc,
    /// The job pauses.
    Stop,
}

/// What came of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// The job fails.
    Report,
    /// It is tried again.
    Ignore,
    /// The job paused.
    Stop,
}

/// Which side failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The source, which was read.
    Source,
    /// The target, which was written.
    Target,
}

impl OnError {
    /// What comes of this error.
    pub fn judge(self, error: &io::Error) -> Reaction {
        match self {
            Self::Report => Reaction::Report,
            Self::Ignore => Reaction::Ignore,
            Self::Stop => Reaction::Stop,
            Self::Enospc if is_no_space(error) => Reaction::Stop,
            Self::Enospc => Reaction::Report,
        }
    }
}

/// Whether there is no room for what was to be written.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

/// The job's error: what the operating system says, and beneath it where it happened.
pub(super) fn failure(error: &DeviceError) -> Error {
    let text = error.cause().to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    Error::with_source(text, error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_to_what_they_come_to_in_qemu() {
        use OnError::{Enospc, Ignore, Report, Stop};
        let (full, broken) = (
            io::ErrorKind::StorageFull.into(),
            io::Error::other("broken"),
        );
        #[rustfmt::skip]
        let table = [
            (Report, Reaction::Report, Reaction::Report),
            (Ignore, Reaction::Ignore, Reaction::Ignore),
            (Enospc, Reaction::Stop,   Reaction::Report),
            (Stop,   Reaction::Stop,   Reaction::Stop),
        ];
        for (policy, on_full, on_broken) in table {
            assert_eq!(policy.judge(&full), on_full, "{policy:?}");
            assert_eq!(policy.judge(&broken), on_broken, "{policy:?}");
        }
    }
}
