//! What a store is told of its disk, and what it tells of its sets.

use std::fmt;

use crate::{DirtyBitmap, Granularity};

/// The number of a set within one store. Never used twice there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u64);

/// What tracking survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The end of the process, however sudden. Intents are written before the data, and not synced;
    /// if the machine went down, too, recording sets are lost.
    KilledProcess,
    /// The end of the process and a loss of power. Intents are durable before the data is written.
    PowerLoss,
}

/// Who collects a set: a backup directory, or another journal that refers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its own id.
    pub id: [u8; 16],
    /// Where it was last, for people and for looking it up.
    pub path: String,
}

/// What a set says of itself. The store keeps it and reads nothing into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Label {
    /// Who collects it.
    pub owner: Owner,
    /// What people call it; may be empty, and need not be unique.
    pub name: String,
    /// Anything else that its owner wants to find again.
    pub note: String,
}

/// The disk as its user sees it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskState {
    /// Which disk: the same as long as it is the same file or device.
    pub identity: [u8; 24],
    /// Changes whenever the machine restarts; on Linux the boot id.
    pub session: [u8; 16],
    /// Bytes.
    pub size: u64,
    /// What changes when somebody writes to it; nothing if it has no such thing.
    pub stamp: Option<Stamp>,
}

/// What changes when somebody writes to a file: unequal stamps prove a change, equal ones nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// When its bytes last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// When anything about it last changed.
    pub changed: (i64, i64),
}

/// From a moment on, writes are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The moment, in milliseconds since 1970; some may be missing since then.
    pub since_unix_ms: u64,
    /// What happened, for people.
    pub why: String,
}

/// Whether the disk was written to while nobody recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Away {
    /// Its stamp is the one of the clean close. That nobody wrote is not refuted.
    Unrefuted,
    /// There is nothing to compare: what this says.
    Unknown(String),
    /// Somebody did: what shows it.
    Refuted(String),
}

/// How the last user of a store left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was closed: everything is exact.
    Clean,
    /// It was not. The process of this number was killed, or still has it open.
    Open {
        /// Its number.
        pid: u32,
    },
}

/// What a set is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetUse {
    /// Its bits change no more.
    Fixed,
    /// It records writes, or was to record them until the store was left.
    Recording,
}

/// Everything known of one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReport {
    /// Its number.
    pub set: SetId,
    /// What it says of itself.
    pub label: Label,
    /// Whether it records.
    pub used: SetUse,
    /// Its bits, for the disk as large as it is now: last checkpoint and intents since. Everything if
    /// it is lost.
    pub dirty: DirtyBitmap,
    /// How many of those bytes were, at most, never written.
    pub excess_bytes: u64,
    /// Since when writes are missing, if any are.
    pub lost: Option<Lost>,
}

impl SetReport {
    /// By how much it says too much, at most; for people.
    #[must_use]
    pub fn excess(&self) -> Excess {
        Excess(self.excess_bytes)
    }

    /// Bytes per bit.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.dirty.granularity()
    }
}

/// By how many bytes a set says too much, at most: "exact", or "exact plus at most 37 MiB".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Excess(pub u64);

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
        if self.0 == 0 {
            return f.write_str("exact");
        }
        let (unit, shift) = UNITS
            .into_iter()
            .rfind(|(_, shift)| self.0 >= 1 << shift)
            .unwrap_or(UNITS[0]);
        // Rounded up: it is a bound.
        let amount = self.0.div_ceil(1 << shift);
        write!(f, "exact plus at most {amount} {unit}")
    }
}

/// Everything that a store file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The store's own id.
    pub id: [u8; 16],
    /// What its intents survive.
    pub mode: Mode,
    /// How it was left.
    pub ended: Ended,
    /// When its header was written last, in milliseconds since 1970.
    pub written_unix_ms: u64,
    /// The disk, as it was then.
    pub disk: DiskState,
    /// Whether somebody wrote to it since.
    pub away: Away,
    /// Its sets, in ascending order.
    pub sets: Vec<SetReport>,
    /// What is wrong with the file, a sentence each; nothing of it was trusted.
    pub findings: Vec<String>,
}

impl Inspection {
    /// The set of that number.
    #[must_use]
    pub fn set(&self, set: SetId) -> Option<&SetReport> {
        self.sets.iter().find(|report| report.set == set)
    }

    /// Sets of `owner` that are not in `referenced`: what it may drop. Sets of other owners are
    /// never garbage to this one.
    #[must_use]
    pub fn garbage(&self, owner: &[u8; 16], referenced: &[SetId]) -> Vec<SetId> {
        self.sets
            .iter()
            .filter(|report| report.label.owner.id == *owner)
            .map(|report| report.set)
            .filter(|set| !referenced.contains(set))
            .collect()
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::KilledProcess => "survives a killed process",
            Mode::PowerLoss => "survives a loss of power",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_is_told_in_units_and_rounded_up() {
        let told = |bytes: u64| Excess(bytes).to_string();
        assert_eq!(told(0), "exact");
        assert_eq!(told(1), "exact plus at most 1 KiB");
        assert_eq!(told(65536), "exact plus at most 64 KiB");
        assert_eq!(told(37 << 20), "exact plus at most 37 MiB");
        assert_eq!(told((37 << 20) + 1), "exact plus at most 38 MiB");
        assert_eq!(told(5 << 40), "exact plus at most 5 TiB");
    }
}
