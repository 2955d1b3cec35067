//! Block devices: positioned reads and writes on disks, and filters over them.
//!
//! A [`Device`] is a fixed number of bytes that many threads read and write where they like; a request is
//! whole or an error that names the device, the place and the cause. What holds the bytes varies:
//!
//! | device | its bytes |
//! |---|---|
//! | [`MemoryDevice`] | in memory, sparsely: for tests and examples |
//! | [`RawDevice`] | those of a file or a block device, one to one |
//! | [`NullDevice`] | nowhere: zeroes, whatever was written |
//! | [`NbdDevice`] | at an NBD server, here or elsewhere |
//! | [`Image::open`], [`open()`] | in an image file: raw, or qcow2 with the files beneath it |
//!
//! and filters stand between a device and who uses it: [`Gated`] lets a moment be chosen between all
//! writes, [`BeforeWrite`] saves old bytes before new ones come, [`Throttled`] is slow, and [`Faulty`]
//! fails on command.
//!
//! Images come from anywhere, so they are judged before they are used, and every way to be wrong is an
//! [`OpenError`] of its own; no bytes in a file make this crate panic. They are locked as QEMU's tools
//! lock them, so that neither side reads what the other is writing. Formats are stored in a [`File`], the
//! narrow seam below, where tests put files that fail, stall, or remember what was written and synced.
//!
//! ```
//! use cohort_block::{Device, ExtentKind, Format, Image, OpenOptions};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.raw");
//! std::fs::write(&path, vec![7; 100_000])?;
//! let image = Image::open(&path, OpenOptions::read_only())?;
//! assert_eq!(image.format(), Format::Raw);
//!
//! let disk = image.device();
//! let mut found = 0;
//! let mut at = 0;
//! while at < disk.size() {
//!     let extent = disk.extent(at, disk.size() - at)?;
//!     if extent.kind == ExtentKind::Data {
//!         let mut bytes = vec![0; extent.length as usize];
//!         disk.read_at(&mut bytes, at)?;
//!         found += bytes.iter().filter(|byte| **byte == 7).count();
//!     }
//!     at += extent.length;
//! }
//! assert_eq!(found, 100_000);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not know
//!
//! This crate knows no job, no transaction, no policy and no backup directory: it moves bytes, and
//! tells what it knows of them.
//!
//! # Limits
//!
//! Of qcow2 it reads versions 2 and 3 with zlib compression. It refuses, by name, encryption, external
//! data files, extended L2 entries and zstd. It does not write compressed clusters, create images or
//! resize them. QEMU's dirty bitmaps in an image that is written to gain what is written, and are saved when
//! the image is closed; a kill in between leaves them inconsistent, as it does with QEMU. Writing to a
//! qcow2 image is as safe as its last successful flush only while the process lives: tables are
//! written in no order that would survive a loss of power in between.

mod as_file;
mod before_write;
mod cache;
mod device;
mod faulty;
mod file;
mod forward;
mod gate;
mod gated;
mod header;
mod kept;
mod ledger;
mod lock;
#[cfg(all(test, loom))]
mod loom_tests;
mod memory;
mod meter;
mod nbd;
mod null;
mod open;
mod open_error;
mod qcow2;
mod raw;
mod savers;
mod socket;
mod stamp;
mod storage;
mod sync;
mod throttled;
mod tls;
mod tracking;
mod vouched;

pub use before_write::{BeforeWrite, OnMiss, Patience, Sealed};
pub use cohort_bitmap::forward_file;
pub use device::{Device, DeviceError, Extent, ExtentKind, Operation, Plain};
pub use faulty::{Fault, Faulty, Injected};
pub use file::{File, FileRun, OsFile};
pub use gate::HeldBy;
pub use gated::{CloseError, ClosedGate, Gated, close_all};
pub use kept::{BitmapOwner, FoundBitmap, LiveBitmap};
pub use ledger::{Broken, Claim, Counts, Flush, Ledger, Next};
pub use memory::MemoryDevice;
pub use meter::{Delays, DeviceTime, Spread, WriteMeter};
pub use nbd::NbdDevice;
pub use null::NullDevice;
pub use open::{Access, Beneath, Format, Image, ImageFile, LayerBitmaps, OpenOptions, open};
pub use open_error::OpenError;
pub use raw::RawDevice;
pub use savers::{Savers, Sink, Staging, StagingLevel, StagingNotice};
pub use socket::Socket;
pub use stamp::{FileId, Stamp};
pub use throttled::{Limits, Rates, Throttle, Throttled};
pub use tls::{TlsError, TlsServer};
pub use tracking::{Beside, TrackingError, TrackingStore};
pub use vouched::Vouched;

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
