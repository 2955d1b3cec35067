//! Durable forms of bitmaps, and the port to the files that hold them.
//!
//! [`Store`] keeps the tracking of one disk through crashes: numbered sets in a file of their own
//! beside the disk, and the *intents*, which say where writes are about to go before they go there.
//!
//! # Using a store
//!
//! ```
//! # use std::sync::Arc;
//! # use cohort_bitmap::store::{DiskState, File, Label, Mode, Owner, Store};
//! # #[derive(Debug, Default)] struct Memory(std::sync::Mutex<Vec<u8>>);
//! # impl File for Memory {
//! #     fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<()> {
//! #         let (bytes, at) = (self.0.lock().unwrap(), at as usize);
//! #         buf.copy_from_slice(bytes.get(at..at + buf.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?); Ok(())
//! #     }
//! #     fn write_at(&self, buf: &[u8], at: u64) -> std::io::Result<()> {
//! #         let (mut bytes, at) = (self.0.lock().unwrap(), at as usize);
//! #         let end = bytes.len().max(at + buf.len()); bytes.resize(end, 0);
//! #         bytes[at..at + buf.len()].copy_from_slice(buf); Ok(())
//! #     }
//! #     fn sync_data(&self) -> std::io::Result<()> { Ok(()) }
//! #     fn len(&self) -> std::io::Result<u64> { Ok(self.0.lock().unwrap().len() as u64) }
//! #     fn set_len(&self, length: u64) -> std::io::Result<()> { self.0.lock().unwrap().resize(length as usize, 0); Ok(()) }
//! # }
//! # let file = Arc::new(Memory::default());
//! let disk = DiskState { identity: [1; 24], session: [0; 16], size: 1 << 30, stamp: None };
//! let store = Store::create(file.clone(), [7; 16], disk, Mode::PowerLoss)?;
//!
//! // A set that records. Whoever writes to the disk tells it first.
//! let label = Label { owner: Owner { id: [2; 16], path: "/backup".into() }, name: "since".into(), note: String::new() };
//! let since = store.begin(label, Default::default())?;
//! since.record(5 << 20, 4096);
//!
//! // The process is killed here: nothing was closed.
//! let (set, disk) = (since.set(), DiskState { size: 1 << 30, ..disk });
//! drop((store, since));
//! let (store, found) = Store::open(file, disk, Mode::PowerLoss)?;
//! let recovered = &found.sets[0];
//! assert_eq!(recovered.set, set);
//! assert!(recovered.dirty.get(5 << 20), "no acknowledged write is missing");
//! assert_eq!(recovered.excess().to_string(), "exact");
//! let since = store.resume(set)?;
//! since.record(0, 512);
//! store.close(disk)?;
//! # Ok::<_, cohort_bitmap::store::StoreError>(())
//! ```
//!
//! In `cohort-block`, `TrackingStore` puts such a store beside a disk and `Gated` asks it before every write.
//!
//! # What it never does
//!
//! It decides nothing: which sets together are a view, and which are garbage, is written elsewhere
//! (a journal, a catalogue). It knows sets by number, and numbers are never used twice.
//!
//! # What survives what
//!
//! See [`Mode`]. The recovered set is a superset of what was recorded, and says by how much at most
//! ([`SetReport::excess`]); closing cleanly makes it exact. Where anything is wrong with the file, or the disk
//! shows that somebody wrote past us, a recording set is *lost*: every granule dirty, and why.

mod believed;
mod cover;
mod descriptor;
mod file;
mod forward;
mod header;
mod intents;
mod layout;
mod log;
pub mod qcow2;
mod recovery;
mod report;
mod sets;
mod store_error;
mod table;
mod tracking;

#[cfg(all(test, not(loom)))]
mod tests;

pub use file::{File, FileRun, write_plain_zeroes};
pub use intents::Recording;
pub use recovery::inspect;
pub use report::{
    Away, DiskState, Ended, Excess, Inspection, Label, Lost, Mode, Owner, SetId, SetReport, SetUse,
    Stamp,
};
pub use store_error::StoreError;
pub use tracking::{Prepared, Store};
