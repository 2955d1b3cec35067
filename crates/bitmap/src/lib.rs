//! Sets of dirty granules, and their life.
//!
//! A *dirty bitmap* says which parts of a disk were written since some instant; one bit stands for
//! a *granule* of [`Granularity`] bytes. This crate holds such sets ([`DirtyBitmap`]), records them
//! from many threads ([`Recorder`]), and knows what becomes of them around a backup ([`View`],
//! [`Split`], [`Undecided`]).
//!
//! It knows **no job, no thread and no device**: it neither decides when a backup starts nor how it
//! ended. Bitmaps in memory take no lock; a [`store`] makes first writers wait for each other, and what
//! it keeps goes through a port to a file ([`store::File`]) that others implement. What a view is
//! measured against (its *anchor*) and which end a split gets is the caller's business; that an end is
//! chosen exactly once is this crate's, and the compiler's.
//!
//! # The life of a bitmap
//!
//! ```
//! use cohort_bitmap::{DirtyBitmap, Granularity, View};
//!
//! // A disk of 1 MiB was backed up; from then on every write is recorded.
//! let view = View::new(DirtyBitmap::new(1 << 20, Granularity::DEFAULT)?);
//! view.recorder().mark(65_536, 200_000);
//! assert_eq!(view.snapshot().to_row(), "0111100000000000");
//!
//! // The next backup copies what is dirty now, while others write on.
//! let split = view.split();
//! let gate = split.successor().clone();
//! gate.mark(10 * 65_536, 1);
//!
//! // It was cut short when granules 1 and 2 were safe in the target: both truths are kept.
//! let remaining = DirtyBitmap::from_row("0001100000000000", Granularity::DEFAULT)?;
//! let (point, partial) = split.keep(&remaining);
//! assert_eq!(point.snapshot().to_row(), "0111100000100000");
//! assert_eq!(partial.snapshot().to_row(), "0001100000100000");
//!
//! // And writes go on counting against both.
//! gate.mark(0, 512);
//! assert!(point.get(0) && partial.get(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! At most [`MAX_GRANULES`] granules. A [`DirtyBitmap`] asks for the words of 2^28 granules at once (32 MiB, or as many as
//! there are) when the first of them becomes dirty, as zeroed memory that the operating system fills in where it is touched; a
//! [`Recorder`] for those of 2^18 (33 KiB). So both take 1.02 bits for each granule where some are dirty and next to nothing
//! elsewhere; what became dirty in one go takes nothing either.
//! Where sizes and granularities meet everything rounds to the safe side: a set may say too much, never too
//! little.

mod algebra;
mod bitmap;
mod checksum;
mod chunks;
mod codec;
mod granularity;
mod levels;
mod query;
mod recorder;
mod rows;
mod runs;
mod split;
pub mod store;
mod sync;
mod view;

pub use algebra::SizeMismatch;
pub use bitmap::{Added, DirtyBitmap, MAX_GRANULES, RangeError, SizeError};
pub use chunks::ChunkError;
pub use codec::{DecodeError, ReadError};
pub use granularity::{Granularity, GranularityError};
pub use levels::Inconsistency;
pub use query::Stretch;
pub use recorder::Recorder;
pub use rows::RowError;
pub use runs::{Run, Runs};
pub use split::{Split, Undecided};
pub use view::View;

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
