//! Running machines that we do not serve: QEMU, or its storage daemon, by their monitor and their NBD server.
//!
//! Nothing here decides what is a backup. A machine is asked to keep one instant of its disks and to say what changed
//! since the last one; the rest is a run like any other.

mod checkpoints;
mod disks;
mod instant;
mod keeper;
mod marks;
mod server;

pub(crate) use checkpoints::{Checkpoint, checkpoints};
pub(crate) use instant::{Frozen, Machine, MachineError};
