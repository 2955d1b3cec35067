//! Block devices: positioned reads and writes, and filters over them.
//!
//! This crate knows no job, no transaction and no backup directory.

mod device;
mod file;
mod memory;

pub use device::{Device, DeviceError, Extent, ExtentKind, Operation};
pub use file::{File, FileRun, OsFile};
pub use memory::MemoryDevice;
