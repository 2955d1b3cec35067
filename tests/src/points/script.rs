//! What a seed does: disks, and rounds of backups with writers, faults and orders given by people.

use std::fmt;

use cohort_backup::{BitmapPolicy, OnMiss, OnUndecided, SyncMode, Unproven};
use cohort_job::Disposition;

/// All of one run of the checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Decides who goes on first.
    pub schedule: u64,
    /// The disks.
    pub disks: Vec<DiskScript>,
    /// What happens, in order.
    pub rounds: Vec<Round>,
}

/// How a disk is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Served, and what is known of it goes with the process.
    Served,
    /// Served, with a tracking store beside it.
    Stored,
    /// A file that nobody serves.
    File,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskScript {
    /// How it is there.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Bytes of a granule; 64 KiB with a store.
    pub granule: u64,
}

/// One backup, and what goes before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// What the next process makes of the disks, if one begins here.
    pub restart: Option<Unproven>,
    /// Writes while nothing is copied.
    pub before: Vec<Write>,
    /// Whether each disk is a group of its own.
    pub individual: bool,
    /// The disks that take part, and how.
    pub members: Vec<Member>,
    /// Writes while it is copied.
    pub during: Vec<Write>,
    /// What goes wrong by itself.
    pub faults: Vec<Fault>,
    /// What people do, and after how many steps.
    pub deeds: Vec<(u32, Deed)>,
}

/// A disk's part in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which disk.
    pub disk: usize,
    /// What is copied.
    pub mode: SyncMode,
    /// What becomes of its bitmap.
    pub policy: BitmapPolicy,
    /// What becomes of a partial that waits for an answer.
    pub undecided: OnUndecided,
    /// Bytes of a cluster, if the target is new.
    pub cluster: u64,
    /// Copies at once.
    pub workers: usize,
    /// Bytes that may wait for the target.
    pub staging: u64,
    /// Clusters that may be left out.
    pub skips: Option<u64>,
    /// Whether writers have hardly any patience, and who gives way then.
    pub impatient: Option<OnMiss>,
    /// Whether digests are stored.
    pub digests: bool,
}

/// A write, of numbered blocks or of zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which disk.
    pub disk: usize,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Nothing but zeroes.
    pub zeroes: bool,
    /// Which of the writers does it.
    pub writer: u8,
}

/// What goes wrong by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This byte cannot be read.
    Bad(usize, u64),
    /// The n-th write to the target fails, and those after it if so said.
    Save(usize, u32, bool),
    /// The n-th sync of the target fails.
    Sync(usize, u32),
    /// The n-th write to the source fails.
    Write(usize, u32),
    /// From the n-th write on the target does not answer for so many steps.
    Stall(usize, u32, u32),
}

/// What people do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Cancel one disk's job.
    Cancel(usize, Disposition),
    /// Stop, and wait for no flush.
    Hurry,
    /// Pause a disk's job.
    Pause(usize),
    /// Let it go on.
    Resume(usize),
    /// Kill the process.
    Kill,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "schedule {}", self.schedule)?;
        for (number, disk) in self.disks.iter().enumerate() {
            let DiskScript {
                kind,
                size,
                granule,
            } = disk;
            writeln!(
                f,
                "disk {number}: {kind:?}, {size} bytes, granules of {granule}"
            )?;
        }
        for (number, round) in self.rounds.iter().enumerate() {
            let together = if round.individual {
                "each alone"
            } else {
                "together"
            };
            writeln!(f, "round {number}, {together}")?;
            if let Some(unproven) = round.restart {
                writeln!(f, "  a new process, {unproven:?}")?;
            }
            for write in &round.before {
                writeln!(f, "  before: {write:?}")?;
            }
            for member in &round.members {
                writeln!(f, "  {member:?}")?;
            }
            for write in &round.during {
                writeln!(f, "  during: {write:?}")?;
            }
            for fault in &round.faults {
                writeln!(f, "  {fault:?}")?;
            }
            for (step, deed) in &round.deeds {
                writeln!(f, "  at step {step}: {deed:?}")?;
            }
        }
        Ok(())
    }
}
