//! Any bytes opened as a qcow2 image with QEMU's bitmaps.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cohort_bitmap::DirtyBitmap;
use cohort_bitmap::store::File;
use cohort_bitmap::store::qcow2::{Bitmaps, Condition};

/// Larger sets are listed and not read: a header may speak of any disk, and its bits are as many.
const MAX_GRANULES: u64 = 1 << 22;
/// Longest file: a count of references may put the first free cluster anywhere.
const MAX_BYTES: u64 = 1 << 22;

/// Listing, reading and changing are safe; and a change of one bitmap leaves what the others say.
pub fn check(bytes: &[u8]) {
    let names: Vec<String> = match Bitmaps::open(Memory::new(bytes)) {
        Ok(bitmaps) => bitmaps
            .list()
            .iter()
            .map(|entry| entry.name().to_owned())
            .collect(),
        Err(_) => return,
    };
    // A directory of thousands says nothing new about any of them.
    for name in names.iter().take(8) {
        changed(bytes, name, |bitmaps| bitmaps.remove(name).is_ok());
        changed(bytes, name, |bitmaps| {
            let Some(bits) = read(bitmaps, name) else {
                return false;
            };
            bitmaps.subtract(name, &bits).is_ok()
        });
    }
    changed(bytes, "", |bitmaps| {
        bitmaps.list().len() <= 8 && hold_and_release(bitmaps)
    });
}

/// Makes a change to a copy of the image. If it says that it was made, all other bitmaps are as they were.
fn changed(bytes: &[u8], but: &str, change: impl FnOnce(&mut Bitmaps<Memory>) -> bool) {
    let file = Memory::new(bytes);
    let Ok(mut bitmaps) = Bitmaps::open(file.clone()) else {
        return;
    };
    let others: Vec<_> = bitmaps
        .list()
        .iter()
        .take(8)
        .map(|entry| entry.name().to_owned())
        .collect();
    let others = others.into_iter().filter(|name| name != but);
    let before: Vec<_> = others.map(|name| (read(&bitmaps, &name), name)).collect();
    if !change(&mut bitmaps) {
        return;
    }
    let after = Bitmaps::open(file).expect("what a change left can be opened");
    for (bits, name) in before {
        if bits.is_some() {
            assert!(read(&after, &name) == bits, "{name:?} says something else");
        }
    }
}

fn hold_and_release(bitmaps: &mut Bitmaps<Memory>) -> bool {
    let large = |bits: &cohort_bitmap::Granularity, size: u64| bits.granules(size) > MAX_GRANULES;
    let size = bitmaps.disk_size();
    let mut sizes = bitmaps
        .list()
        .iter()
        .filter_map(|entry| entry.granularity());
    if sizes.any(|granularity| large(&granularity, size)) {
        return false;
    }
    let held = bitmaps.hold();
    held.is_ok_and(|held| bitmaps.release(&held).is_ok())
}

fn read(bitmaps: &Bitmaps<Memory>, name: &str) -> Option<DirtyBitmap> {
    let entry = bitmaps.entry(name).ok()?;
    let granules = entry.granularity()?.granules(bitmaps.disk_size());
    let readable = granules <= MAX_GRANULES && *entry.condition() == Condition::Consistent;
    readable.then(|| bitmaps.read(name).ok()).flatten()
}

#[derive(Clone, Debug)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn new(bytes: &[u8]) -> Self {
        Memory(Arc::new(Mutex::new(bytes.to_vec())))
    }

    fn with<T>(&self, action: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl File for Memory {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|bytes| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start
                .checked_add(buf.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let held = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(held);
            Ok(())
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        if end > MAX_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.with(|bytes| {
            if (bytes.len() as u64) < end {
                bytes.resize(end as usize, 0);
            }
            bytes[offset as usize..end as usize].copy_from_slice(buf);
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(length.min(MAX_BYTES) as usize, 0));
        Ok(())
    }
}
