//! Block devices: positioned reads and writes, and filters over them.
//!
//! This crate knows no job, no transaction and no backup directory.

mod before_write;
mod device;
mod faulty;
mod file;
mod gated;
mod header;
mod ledger;
mod lock;
#[cfg(all(test, loom))]
mod loom_tests;
mod memory;
mod open;
mod open_error;
mod qcow2;
mod raw;
mod stamp;
mod storage;
mod sync;
mod throttled;

pub use before_write::{BeforeWrite, OnMiss, Patience, Savers, Sealed, Sink};
pub use device::{Device, DeviceError, Extent, ExtentKind, Operation};
pub use faulty::{Fault, Faulty, Injected};
pub use file::{File, FileRun, OsFile};
pub use gated::{CloseError, ClosedGate, GateId, Gated, HeldBy, close_all};
pub use ledger::{Broken, Claim, Counts, Flush, Ledger, Next};
pub use memory::MemoryDevice;
pub use open::{Access, Format, Image, ImageFile, OpenOptions, open};
pub use open_error::OpenError;
pub use raw::RawDevice;
pub use stamp::{FileId, Stamp, same_file};
pub use throttled::Throttled;
