//! Running machines that we do not serve: QEMU, or its storage daemon, by their monitor and their NBD server.
//!
//! Nothing here decides what is a backup. A machine is asked to keep one instant of its disks and to say what changed
//! since the last one; the rest is a run like any other.

mod checkpoints;
mod disks;
mod error;
mod instant;
mod keeper;
mod marks;
mod server;

use cohort_backup::catalogue::{DirectoryId, RunId};

pub(crate) use checkpoints::{Checkpoint, checkpoints};
pub(crate) use error::MachineError;
pub(crate) use instant::{Frozen, Machine};

/// The run of that directory for which the file of that name was made, to save what a machine overwrites; nothing if it is
/// no such file.
pub(crate) fn scratch_of(directory: DirectoryId, file: &str) -> Option<RunId> {
    let mark = marks::Marks::of(directory).read(file.strip_suffix(".qcow2")?)?;
    (!mark.is_checkpoint).then_some(mark.run)
}
