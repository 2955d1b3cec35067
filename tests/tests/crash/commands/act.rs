//! The commands that are cut short.

use std::fmt;

/// A command of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Two of four points go, and their images are merged into those that stay.
    Prune,
    /// A point becomes a raw file.
    Raw,
    /// A point becomes a qcow2 file.
    Qcow2,
    /// A point takes the place of a file.
    Over,
}

impl Act {
    pub(crate) const ALL: [Self; 4] = [Self::Prune, Self::Raw, Self::Qcow2, Self::Over];

    /// Its arguments.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Prune => &["prune", "R", "--keep-last", "2"],
            Self::Raw => &["restore", "a@4", "out.img", "--from", "R"],
            Self::Qcow2 => &["restore", "b@4", "out.qcow2", "--from", "R"],
            Self::Over => &["restore", "a@2", "out.img", "--from", "R", "--force"],
        }
    }

    /// The point that it restores, and where.
    pub(crate) fn restores(self) -> Option<(&'static str, u64, &'static str)> {
        match self {
            Self::Prune => None,
            Self::Raw => Some(("a", 4, "out.img")),
            Self::Qcow2 => Some(("b", 4, "out.qcow2")),
            Self::Over => Some(("a", 2, "out.img")),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Prune => "prune",
            Self::Raw => "restore raw",
            Self::Qcow2 => "restore qcow2",
            Self::Over => "restore over",
        })
    }
}
