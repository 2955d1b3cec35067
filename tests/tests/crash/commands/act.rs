//! The commands that are cut short.

use std::fmt;

/// A command of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Both disks get a fifth point.
    Backup,
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
    pub(crate) const ALL: [Self; 5] = [
        Self::Backup,
        Self::Prune,
        Self::Raw,
        Self::Qcow2,
        Self::Over,
    ];

    /// Its arguments.
    #[rustfmt::skip]
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Backup => &["backup", "a.raw", "b.raw", "--to", "R", "--json"],
            Self::Prune => &["prune", "R", "--json", "--keep-last", "2"],
            Self::Raw => &["restore", "a@4", "out.img", "--from", "R", "--json"],
            Self::Qcow2 => &["restore", "b@4", "out.qcow2", "--from", "R", "--json"],
            Self::Over => &["restore", "a@2", "out.img", "--from", "R", "--json", "--force"],
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Backup => "backup",
            Self::Prune => "prune",
            Self::Raw => "restore raw",
            Self::Qcow2 => "restore qcow2",
            Self::Over => "restore over",
        })
    }
}
