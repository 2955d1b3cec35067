//! Tables of an image that are in use and counted as free.
//!
//! Whoever maps clusters for us leads to a new table of clusters at once, and writes that it is counted later, with
//! what it has in memory. Killed in between it leaves an image that loses data with the next write: the cluster of that
//! table is taken for something else. What those tables lead to is counted before they are written.

use crate::store::File;

use super::bytes::be64;
use super::directory::check_inside;
use super::error::Qcow2Error;
use super::header::{Header, Place};
use super::refcounts::Refcounts;

/// Where a table of clusters is; the other bits are marks.
const TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Longest level-one table that QEMU accepts.
const MAX_L1_BYTES: u64 = 32 << 20;

/// Counts every table of clusters that an image leads to and counts as free. Says how many those were; then it is durable.
/// To be called while nobody else may write to the image, and before anything is written to it.
///
/// # Errors
/// The image is damaged, or it cannot be read or written.
pub fn count_tables(file: &(impl File + ?Sized)) -> Result<u64, Qcow2Error> {
    let mut header = Header::read_counts(file)?;
    let tables = tables(file, &header)?;
    let mut refcounts = Refcounts::read(file, &header)?;
    let mut counted = 0;
    for offset in tables {
        let place = Place {
            offset,
            bytes: header.cluster(),
        };
        counted += u64::from(refcounts.use_if_free(file, place)?);
    }
    if counted > 0 {
        header.check_writable()?;
        refcounts.store(file, &mut header)?;
    }
    Ok(counted)
}

/// Where the tables of clusters are.
fn tables(file: &(impl File + ?Sized), header: &Header) -> Result<Vec<u64>, Qcow2Error> {
    let io = Qcow2Error::io("reading the level-one table");
    let l1 = header.l1;
    if l1.bytes > MAX_L1_BYTES {
        let what = format!("a level-one table of {} bytes", l1.bytes);
        return Err(Qcow2Error::damaged(what));
    }
    check_inside(file.len().map_err(&io)?, l1, "the level-one table")?;
    let mut bytes = vec![0; l1.bytes as usize];
    file.read_at(&mut bytes, l1.offset).map_err(&io)?;
    let entries = bytes
        .chunks_exact(8)
        .map(|entry| be64(entry, 0) & TABLE_OFFSET);
    Ok(entries.filter(|offset| *offset != 0).collect())
}
