//! Durable forms of bitmaps, and the port to the files that hold them.

mod file;
pub mod qcow2;

pub use file::{File, FileRun, write_plain_zeroes};
