//! The points at which a process may die, in the words of its log.

use std::fmt;
use std::str::FromStr;

/// A durable operation, or a boundary of a hook: the so-manieth of its name, for its disk, in a phase.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// What is about to happen, such as `target.sync` or `commit.begins`.
    pub name: String,
    /// Of which disk; empty if it is of all.
    pub disk: String,
    /// How far the run is then.
    pub phase: Phase,
    /// How often it was reached in that phase, with this time.
    pub time: u32,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// The directory is opened, targets are made; there is no group yet.
    Starting,
    /// The group is there: the fence, and copying.
    Running,
    /// From the first prepare on.
    Preparing,
    /// Every member has prepared or is at rest, and no verdict is known.
    Deciding,
    /// The verdict is commit.
    Committing,
    /// A member failed or was cancelled; others may still run.
    Stopping,
    /// The verdict is abort.
    Aborting,
    /// From the first clean on.
    Cleaning,
    /// The group is over; stores are closed.
    Closing,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Starting,
        Self::Running,
        Self::Preparing,
        Self::Deciding,
        Self::Committing,
        Self::Stopping,
        Self::Aborting,
        Self::Cleaning,
        Self::Closing,
    ];
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// The process is killed before the operation.
    Kill,
    /// From this operation on there is no room.
    Full,
    /// From this operation on the file system takes nothing.
    ReadOnly,
    /// The operation fails once, and what it was to make durable is lost; the next one succeeds.
    Io,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Which point.
    pub point: Point,
    /// Whether what was to happen there happened.
    pub hit: bool,
}

macro_rules! words {
    ($kind:ty, $($variant:path => $word:literal),+) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($variant => $word),+ })
            }
        }
        impl FromStr for $kind {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok($variant),)+
                    other => Err(format!("{other}: no such word")),
                }
            }
        }
    };
}
pub(super) use words;

words!(Phase, Phase::Starting => "starting", Phase::Running => "running", Phase::Preparing => "preparing",
    Phase::Deciding => "deciding", Phase::Committing => "committing", Phase::Stopping => "stopping",
    Phase::Aborting => "aborting", Phase::Cleaning => "cleaning", Phase::Closing => "closing");
words!(How, How::Kill => "kill", How::Full => "full", How::ReadOnly => "readonly", How::Io => "io");

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point {
            name,
            disk,
            phase,
            time,
        } = self;
        let colon = if disk.is_empty() { "" } else { ":" };
        write!(f, "{name}{colon}{disk}@{phase}#{time}")
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: not a point");
        let (name, place) = text.split_once('@').ok_or_else(wrong)?;
        let (phase, time) = place.split_once('#').ok_or_else(wrong)?;
        let (name, disk) = name.split_once(':').unwrap_or((name, ""));
        Ok(Point {
            name: name.to_owned(),
            disk: disk.to_owned(),
            phase: phase.parse()?,
            time: time.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.point, if self.hit { " hit" } else { "" })
    }
}

impl FromStr for Reached {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let point = line.strip_suffix(" hit");
        Ok(Reached {
            point: point.unwrap_or(line).parse()?,
            hit: point.is_some(),
        })
    }
}
