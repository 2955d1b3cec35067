//! QEMU's own dirty bitmaps, inside qcow2 images: listed, read, added, removed, subtracted from, and kept
//! while the disk is written to.
//!
//! A qcow2 image of version 3 may hold named bitmaps beside its disk. QEMU loads them when it opens the
//! image, marks the enabled ones while it writes, and saves them when it closes the image in order; so a
//! backup program may learn what changed while it was not looking. This module needs nothing but a
//! [`File`](super::File): no QEMU, no lock, no thread. What it writes, QEMU reads bit for bit, and the
//! other way round; the image stays clean under `qemu-img check`.
//!
//! ```
//! use cohort_bitmap::store::File;
//! use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};
//!
//! /// What changed in the image since its bitmap was last cleared, in bytes.
//! fn changed(image: impl File, name: &str) -> Result<u64, Qcow2Error> {
//!     let bitmaps = Bitmaps::open(image)?;
//!     for entry in bitmaps.list() {
//!         if *entry.condition() != Condition::Consistent {
//!             eprintln!("{}: not to be trusted", entry.name());
//!         }
//!     }
//!     Ok(bitmaps.read(name)?.dirty_bytes())
//! }
//! ```
//!
//! # What can be relied on
//!
//! - **What is not true is not read.** A bitmap that somebody has in use, or left so; all bitmaps of an
//!   image that a program without bitmaps wrote to; bitmaps of kinds that we do not know: each is listed,
//!   and reading it is an error that says why.
//! - **Whoever is killed leaves a sound image.** A change writes beside what there is and leads the header
//!   there in one step, with syncs between. At worst there are clusters that nothing refers to, which
//!   `qemu-img check -r leaks` gives back, and, where that step would straddle two sectors, bitmaps
//!   that are no longer trusted; never an image that is damaged or a bitmap that is wrong.
//! - **Nothing that is unknown is lost.** Entries with unknown flags, types or extra data stay byte for byte.
//! - **Nothing in an image makes this module panic, or take more memory than the file is long and its
//!   bitmap needs.**
//!
//! # Limits
//!
//! Encryption, external data and subclusters make no difference to bitmaps and are fine. Images that say
//! that they are dirty or corrupt are read and not written to. A disk of no bytes, or with part of a
//! sector at its end, gets no bitmap, because QEMU would not read it. Resizing is not done here.
//!
//! Layout: `qemu:docs/interop/qcow2.rst` ("Bitmaps extension", "Bitmaps") and, for what QEMU accepts of
//! it, its version 10; told for this project in `docs/qcow2-bitmaps.md`.

mod bitmaps;
mod bytes;
mod change;
mod directory;
mod error;
mod header;
mod hold;
mod refcounts;
mod rewrite;
mod table;
mod uncounted;

pub use bitmaps::Bitmaps;
pub use directory::{Condition, Entry};
pub use error::{Known, Qcow2Error};
pub use hold::{Held, Saved};
pub use uncounted::count_tables;
