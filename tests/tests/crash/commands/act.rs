//! The commands that are cut short.

use std::fmt;

/// A command of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Both disks get a fifth point.
    Backup,
    /// A disk that nobody kept account of is compared with its point, and is not to be trusted any more.
    Audit,
    /// A disk whose image keeps account of its changes gets a second point, and the account is cleared.
    Clear,
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
    pub(crate) const ALL: [Self; 7] = [
        Self::Backup,
        Self::Audit,
        Self::Clear,
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
            Self::Audit => &["audit", "a.raw", "--against", "R", "--json"],
            Self::Clear => &["backup", "c.qcow2", "--to", "R", "--bitmap", "c=changes", "--json"],
            Self::Prune => &["prune", "R", "--json", "--keep-last", "2"],
            Self::Raw => &["restore", "a@4", "out.img", "--from", "R", "--json"],
            Self::Qcow2 => &["restore", "b@4", "out.qcow2", "--from", "R", "--json"],
            Self::Over => &["restore", "a@2", "out.img", "--from", "R", "--json", "--force"],
        }
    }

    /// How it exits if nothing disturbs it.
    pub(crate) fn code(self) -> i32 {
        match self {
            // The claim that nothing changed is wrong.
            Self::Audit => 50,
            Self::Backup | Self::Clear | Self::Prune | Self::Raw | Self::Qcow2 | Self::Over => 0,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Backup => "backup",
            Self::Audit => "audit",
            Self::Clear => "clear",
            Self::Prune => "prune",
            Self::Raw => "restore raw",
            Self::Qcow2 => "restore qcow2",
            Self::Over => "restore over",
        })
    }
}
