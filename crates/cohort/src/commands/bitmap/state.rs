//! What a bitmap is worth, in a word and in a sentence.

use cohort_bitmap::store::{Excess, Lost};

use crate::human;

/// What a bitmap is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// QEMU's, marked by whoever writes.
    Enabled,
    /// QEMU's, marked by nobody.
    Disabled,
    /// QEMU's, and a program has the image open to write.
    InUse,
    /// QEMU's, and whoever used the image last did not save it.
    Inconsistent,
    /// QEMU's, and a program that knows no bitmaps wrote to the image.
    Stale,
    /// QEMU's, of a kind that is not known or in a place that cannot be right.
    Unusable(String),
    /// Ours, and it records, or did until the store was left.
    Recording {
        /// By how much it says too much.
        excess: Excess,
        /// Why nobody can say that it has every write.
        unproven: Option<String>,
    },
    /// Ours, and its bits change no more.
    Fixed {
        /// By how much it says too much.
        excess: Excess,
    },
    /// Ours, and writes are missing: everything is taken for dirty.
    Lost(Lost),
}

impl State {
    /// One word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            State::Enabled => "enabled",
            State::Disabled => "disabled",
            State::InUse => "in-use",
            State::Inconsistent => "inconsistent",
            State::Stale => "stale",
            State::Unusable(_) => "unusable",
            State::Recording { .. } => "recording",
            State::Fixed { .. } => "fixed",
            State::Lost(_) => "lost",
        }
    }

    /// Why it is not worth what it could be.
    pub(super) fn why(&self) -> Option<String> {
        match self {
            State::InUse => Some("a program has the image open to write".into()),
            State::Inconsistent => Some(
                "whoever used the image last did not save it; \
                 have `qemu-img check -r all` look at the image, then remove it"
                    .into(),
            ),
            State::Stale => Some(
                "a program that knows no bitmaps wrote to the image; remove all of them".into(),
            ),
            State::Unusable(why) => Some(why.clone()),
            State::Lost(lost) => Some(lost.why.clone()),
            State::Recording { unproven, .. } => unproven.clone(),
            State::Enabled | State::Disabled | State::Fixed { .. } => None,
        }
    }

    /// By how many bytes it says too much at most, where that is known.
    pub(super) fn excess(&self) -> Option<Excess> {
        match self {
            State::Recording { excess, .. } | State::Fixed { excess } => Some(*excess),
            State::Enabled
            | State::Disabled
            | State::InUse
            | State::Inconsistent
            | State::Stale
            | State::Unusable(_)
            | State::Lost(_) => None,
        }
    }

    /// What must be told to who gets its bits alone: nothing if they are exact and true.
    pub(super) fn caveat(&self) -> Option<String> {
        let says_too_much = self.excess().is_some_and(|excess| excess.0 > 0);
        (says_too_much || self.why().is_some()).then(|| self.sentence())
    }

    /// All of it in a sentence without capital and stop.
    pub(super) fn sentence(&self) -> String {
        match self {
            State::Enabled | State::Disabled => self.word().into(),
            State::InUse => "in use: a program has the image open to write".into(),
            State::Recording { excess, unproven } => {
                let unproven = unproven.as_ref();
                let unproven = unproven.map_or(String::new(), |why| format!("; unproven: {why}"));
                format!("recording, {excess}{unproven}")
            }
            State::Fixed { excess } => format!("fixed, {excess}"),
            State::Lost(lost) => format!(
                "lost since {}: {}; everything is taken for dirty",
                human::time(lost.since_unix_ms),
                lost.why
            ),
            State::Inconsistent | State::Stale | State::Unusable(_) => {
                format!("{}: {}", self.word(), self.why().unwrap_or_default())
            }
        }
    }
}
