//! Why a machine's disks cannot be backed up.

use std::io;
use std::path::{Path, PathBuf};

use crate::monitor::MonitorError;

/// Why a machine's disks cannot be backed up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// The monitor failed, or said no.
    #[error("qmp:{}: {error}", path.display())]
    Monitor {
        /// The machine.
        path: PathBuf,
        /// Why.
        error: MonitorError,
    },
    /// It has not what was asked for.
    #[error("qmp:{}: {why}", path.display())]
    Disks {
        /// The machine.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something of ours could not be made.
    #[error("{}: {cause}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A hook did not freeze in time.
    #[error(transparent)]
    Fence(#[from] cohort_backup::FenceError),
}

impl MachineError {
    /// For what the monitor of the machine at `path` says.
    pub(super) fn monitor(path: &Path) -> impl Fn(MonitorError) -> Self + '_ {
        |error| Self::Monitor {
            path: path.to_owned(),
            error,
        }
    }

    /// For what is wrong with the disks of the machine at `path`.
    pub(super) fn disks(path: &Path) -> impl Fn(String) -> Self + '_ {
        |why| Self::Disks {
            path: path.to_owned(),
            why,
        }
    }

    /// For what the operating system says of `path`.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |cause| Self::Io {
            path: path.to_owned(),
            cause,
        }
    }
}
