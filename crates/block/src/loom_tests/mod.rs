//! Every interleaving of the few lines where writers, fences, copiers and savers meet.
//!
//! Run by `just loom`. Disks of a byte or two stand for large ones: a granule and a cluster are one
//! byte. Loom's time stands still, so a deadline has either passed from the start or never does; each
//! model that has one tries both.

mod explore;
mod gates;
mod ledgers;
mod rig;
mod staging;

const OLD: u8 = 1;
const NEW: u8 = 2;
