//! Bytes of a disk that the kernel brings from file to file.

use std::ops::Range;

use cohort_block::{Device, File};

/// Has the kernel copy bytes of a device, from wherever they lie as they are, to `to` in a file. False if that was not
/// done, for whatever reason: the place then holds anything, and reading and writing says why, or does it.
pub(crate) fn offload(source: &dyn Device, bytes: Range<u64>, file: &dyn File, to: u64) -> bool {
    let mut at = bytes.start;
    while at < bytes.end {
        let Some(plain) = source.plain(at, bytes.end - at) else {
            return false;
        };
        let to = to + (at - bytes.start);
        if !file.copy_from(&*plain.file, plain.offset, to, plain.length) {
            return false;
        }
        at += plain.length;
    }
    true
}
