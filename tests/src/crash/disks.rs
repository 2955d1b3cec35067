//! The disks: small raw files with tracking stores beside them, of which everybody knows what was written when.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_backup::catalogue::DiskName;
use cohort_backup::{Tracked, Unproven};
use cohort_bitmap::store::Mode;
use cohort_block::{Device, Gated, OsFile, RawDevice, TrackingStore};

use super::NAMES;

/// Bytes per bit, and per cluster of a target.
pub const GRANULE: u64 = 64 << 10;
/// Eight granules, of which the last is not whole.
pub const SIZE: u64 = 8 * GRANULE - 3000;

/// Why a disk cannot be served.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that are written to a disk.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// From where on.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// All of them this one.
    pub byte: u8,
}

/// What is written before the fence of a run, counted from 1: whole granules. The third is never written.
#[must_use]
pub fn before_fence(disk: usize, run: u64) -> Vec<Write> {
    let granules: &[u64] = match run {
        1 => &[0, 1, 3, 4, 5, 6, 7],
        _ => &[1, 3, 5, 6],
    };
    let write = |granule: &u64| Write {
        offset: granule * GRANULE,
        length: GRANULE.min(SIZE - granule * GRANULE),
        byte: byte(disk, run, *granule),
    };
    granules.iter().map(write).collect()
}

/// What is written while a run copies: over a granule that it has to copy, and a little where it does not.
#[must_use]
pub fn after_fence(disk: usize, run: u64) -> [Write; 2] {
    let write = |granule: u64, length| Write {
        offset: granule * GRANULE + 1024,
        length,
        byte: byte(disk, run, granule + 8),
    };
    [write(3, GRANULE - 1024), write(7, 600)]
}

fn byte(disk: usize, run: u64, place: u64) -> u8 {
    ((disk as u64 * 61 + run * 17 + place) % 255 + 1) as u8
}

/// What a disk holds at the fence of a run, if nothing happened until then.
#[must_use]
pub fn at_fence(disk: usize, run: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    let mut put = |write: Write| {
        let at = write.offset as usize;
        bytes[at..at + write.length as usize].fill(write.byte);
    };
    for earlier in 1..=run {
        before_fence(disk, earlier).into_iter().for_each(&mut put);
        if earlier < run {
            after_fence(disk, earlier).into_iter().for_each(&mut put);
        }
    }
    bytes
}

/// The backup directory in a folder.
#[must_use]
pub fn repository(folder: &Path) -> PathBuf {
    folder.join("R")
}

/// Where a disk is.
#[must_use]
pub fn disk_path(folder: &Path, disk: usize) -> PathBuf {
    folder.join(format!("{}.raw", NAMES[disk]))
}

/// Makes a disk without data.
///
/// # Errors
/// What the operating system says.
pub fn make(folder: &Path, disk: usize) -> io::Result<()> {
    File::create(disk_path(folder, disk))?.set_len(SIZE)
}

/// Serves a disk with the store beside it, which is made if it is not there. What a kill left there is gone by: nobody
/// else writes to these disks.
///
/// # Errors
/// [`Refused`].
pub fn serve(folder: &Path, disk: usize) -> Result<Arc<Tracked>, Refused> {
    let path = disk_path(folder, disk);
    let name = DiskName::new(NAMES[disk])?;
    let raw = RawDevice::new(NAMES[disk], Arc::new(OsFile::open(&path, true)?), true)?;
    let gated = Arc::new(Gated::new(Arc::new(raw)));
    let (beside, mode) = (TrackingStore::path_beside(&path), Mode::PowerLoss);
    let size = gated.size();
    if !beside.exists() {
        let store = TrackingStore::create(&beside, &path, size, mode)?;
        return Ok(Tracked::stored(name, gated, &beside, store)?);
    }
    let (store, found) = TrackingStore::open(&beside, &path, size, mode)?;
    Ok(Tracked::resume(
        name,
        gated,
        &beside,
        store,
        &found,
        Unproven::Use,
    )?)
}
