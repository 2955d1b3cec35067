//! qcow2 images with their backing chains, through imago.

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, Mapping, ShallowMapping};

use crate::as_file::AsFile;
use crate::cache::Decompressed;
use crate::device::{Device, DeviceError, Extent, ExtentKind, Operation, Plain, check_range};
use crate::file::File;
use crate::kept::Kept;
use crate::raw::read_only;
use crate::storage::{Store, beyond_the_end};

/// Most neighbouring mappings that one [`Device::extent`] joins: enough that tables of small clusters
/// do not show, few enough that a call is short.
const MAPPINGS_AT_ONCE: u32 = 64;

/// One file of a chain, opened and judged.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) kind: LayerKind,
}

impl Layer {
    /// A device of any kind, as the lowest layer.
    pub(crate) fn of_device(device: Arc<dyn Device>) -> Self {
        Self {
            name: device.name().to_owned(),
            file: Arc::new(AsFile(device)),
            kind: LayerKind::Raw,
        }
    }

    /// The unit in which it allocates, if it has one.
    pub(crate) fn cluster_bytes(&self) -> Option<u64> {
        match self.kind {
            LayerKind::Raw => None,
            LayerKind::Qcow2 { cluster_bits, .. } => Some(1 << cluster_bits),
        }
    }
}

/// What a layer's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerKind {
    Raw,
    Qcow2 {
        version: u32,
        cluster_bits: u32,
        promises_bitmaps: bool,
    },
}

/// A disk in a qcow2 image and, where that holds nothing, in the images beneath.
#[derive(Debug)]
pub(crate) struct Qcow2Device {
    name: String,
    size: u64,
    writable: bool,
    /// Version 2 has no zero clusters.
    zero_clusters: bool,
    cluster: u64,
    /// For small reads of compressed clusters.
    decompressed: Decompressed,
    /// The top layer's file, to be synced without holding `image`.
    top: Arc<dyn File>,
    /// Shared by everything but `discard`, which moves clusters away under the feet of readers. imago
    /// flushes its tables when it is dropped.
    image: RwLock<FormatAccess<Store>>,
    /// After `image`: imago lets go of the file before the bitmaps are saved in it.
    bitmaps: Bitmaps,
}

/// The bitmaps in the image, to be saved when the device is dropped.
#[derive(Debug)]
struct Bitmaps {
    kept: Option<Arc<Kept>>,
    /// Whether some of what was written may be missing in the image.
    incomplete: bool,
}

impl Qcow2Device {
    /// Builds the device of a chain, top layer first; the top layer is a qcow2 image.
    /// Its bitmaps are `kept` with what is written.
    pub(crate) fn new(
        layers: Vec<Layer>,
        writable: bool,
        kept: Option<Arc<Kept>>,
    ) -> io::Result<Self> {
        let bitmaps = Bitmaps {
            kept,
            incomplete: false,
        };
        let top = layers.first().ok_or(io::ErrorKind::InvalidInput)?;
        let LayerKind::Qcow2 {
            version,
            cluster_bits,
            ..
        } = top.kind
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (name, file) = (top.name.clone(), top.file.clone());
        let largest = layers.iter().filter_map(|layer| match layer.kind {
            LayerKind::Qcow2 { cluster_bits, .. } => Some(cluster_bits),
            LayerKind::Raw => None,
        });
        let largest = largest.max().unwrap_or(cluster_bits);
        let mut beneath = None;
        for (depth, layer) in layers.into_iter().enumerate().rev() {
            beneath = Some(open_layer(layer, writable && depth == 0, beneath)?);
        }
        let image = beneath.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            name,
            size: image.size(),
            writable,
            zero_clusters: version >= 3,
            cluster: 1 << cluster_bits,
            decompressed: Decompressed::new(1 << largest),
            top: file,
            image: RwLock::new(image),
            bitmaps,
        })
    }

    fn image(&self) -> RwLockReadGuard<'_, FormatAccess<Store>> {
        // Nothing but imago's own state is in there, and that is behind locks of its own.
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the range and, for what changes bytes, that the image may be written to; then runs it.
    fn run<T>(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, DeviceError> {
        check_range(self, operation, offset, length)?;
        if operation.changes_bytes() && !self.writable {
            return Err(read_only(&self.name, operation, offset, length));
        }
        if let Some(kept) = &self.bitmaps.kept
            && operation.changes_bytes()
        {
            kept.mark(offset, length);
        }
        let worked = work();
        if operation.changes_bytes() {
            self.decompressed.written(offset..offset + length);
        }
        worked.map_err(|e| DeviceError::new(&self.name, operation, offset, length, e))
    }

    fn read_mapped(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let image = self.image();
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (mapping, length) = image.get_mapping(at, rest.len() as u64)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = match mapping {
                Mapping::Raw { .. } | Mapping::Zero { .. } => length,
                Mapping::Special { .. } | Mapping::Eof { .. } | _ => {
                    length.min(self.decompressed.rest_of_block(at))
                }
            };
            let (now, later) = rest.split_at_mut(length as usize);
            match mapping {
                // Straight into the caller's memory: most of all bytes come this way.
                Mapping::Raw {
                    storage, offset, ..
                } => read_data(&**storage.file(), now, offset)?,
                Mapping::Zero { .. } => now.fill(0),
                Mapping::Special { .. } | Mapping::Eof { .. } | _ => {
                    let read = |buf: &mut [u8], at| image.read(buf, at);
                    self.decompressed.read(now, at, self.size, read)?;
                }
            }
            (rest, at) = (later, at + length);
        }
        Ok(())
    }

    /// The clusters that lie whole in a range, as bytes; the last one of the disk is whole where the disk ends.
    fn whole_clusters(&self, offset: u64, length: u64) -> Range<u64> {
        let end = offset + length;
        let last = match end == self.size {
            true => end,
            false => end - end % self.cluster,
        };
        let first = offset.next_multiple_of(self.cluster).min(end);
        first..last.max(first)
    }

    /// Writes zeroes where there are none. Parts of clusters are not for imago to zero: it makes all of a cluster zero
    /// whose rest it found so, and what others wrote to that rest meanwhile is lost.
    fn write_plain_zeroes(&self, image: &FormatAccess<Store>, bytes: Range<u64>) -> io::Result<()> {
        let most = (bytes.end - bytes.start).min(self.cluster.max(65536));
        let zeroes = vec![0; most as usize];
        let mut at = bytes.start;
        while at < bytes.end {
            let most = (bytes.end - at).min(most);
            let (mapping, length) = image.get_mapping(at, most)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !matches!(mapping, Mapping::Zero { .. }) {
                image.write(&zeroes[..length as usize], at)?;
            }
            at += length;
        }
        Ok(())
    }

    /// The mapping at `offset`, without joining neighbours.
    fn extent_once(
        &self,
        image: &FormatAccess<Store>,
        offset: u64,
        length: u64,
    ) -> io::Result<Extent> {
        let (shallow, length) = image.get_shallow_mapping(offset, length)?;
        let allocated = match shallow {
            ShallowMapping::Indirect { .. } => false,
            ShallowMapping::Zero { explicit, .. } => explicit,
            ShallowMapping::Raw { .. } | ShallowMapping::Special { .. } | _ => true,
        };
        let (mapping, length) = image.get_mapping(offset, length)?;
        let (kind, length) = match mapping {
            Mapping::Zero { .. } => (ExtentKind::Zero, length),
            Mapping::Raw {
                storage,
                offset: host,
                ..
            } => self.look_for_hole(&**storage.file(), host, offset, length)?,
            Mapping::Special { .. } | Mapping::Eof { .. } | _ => (ExtentKind::Data, length),
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Extent {
            length,
            kind,
            allocated,
        })
    }

    /// Tells allocated clusters that nobody ever wrote, as preallocation makes them and as raw layers
    /// have them, from data. Only whole clusters: finer answers would cost more than they save.
    fn look_for_hole(
        &self,
        file: &dyn File,
        host: u64,
        offset: u64,
        length: u64,
    ) -> io::Result<(ExtentKind, u64)> {
        if host
            .checked_add(length)
            .is_none_or(|end| end > file.len().unwrap_or(0))
        {
            // A truncated image; reading it says so.
            return Ok((ExtentKind::Data, length));
        }
        let run = file.run_at(host, length)?;
        let end = (offset + run.length.min(length)).min(offset + length);
        if end == offset + length {
            return Ok((
                if run.hole {
                    ExtentKind::Zero
                } else {
                    ExtentKind::Data
                },
                length,
            ));
        }
        let last = end - end % self.cluster;
        if run.hole && last > offset {
            return Ok((ExtentKind::Zero, last - offset));
        }
        let next = end.next_multiple_of(self.cluster).min(offset + length);
        Ok((ExtentKind::Data, next - offset))
    }
}

/// Puts all tables into the image before the bitmaps are saved beside them.
impl Drop for Qcow2Device {
    fn drop(&mut self) {
        if self
            .bitmaps
            .kept
            .as_ref()
            .is_some_and(|kept| kept.is_needed())
        {
            let flushed = self.image().flush();
            self.bitmaps.incomplete = flushed.is_err();
        }
    }
}

impl Drop for Bitmaps {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take()
            && kept.is_needed()
        {
            kept.finish(!self.incomplete);
        }
    }
}

impl Device for Qcow2Device {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let length = buf.len() as u64;
        self.run(Operation::Read, offset, length, || {
            self.read_mapped(buf, offset)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        let length = buf.len() as u64;
        self.run(Operation::Write, offset, length, || {
            self.image().write(buf, offset)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.run(Operation::WriteZeroes, offset, length, || {
            let (image, end) = (self.image(), offset + length);
            if !self.zero_clusters {
                return self.write_plain_zeroes(&image, offset..end);
            }
            let whole = self.whole_clusters(offset, length);
            self.write_plain_zeroes(&image, offset..whole.start)?;
            if !whole.is_empty() {
                image.write_zeroes(whole.start, whole.end - whole.start)?;
            }
            self.write_plain_zeroes(&image, whole.end..end)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.run(Operation::Discard, offset, length, || {
            let whole = self.whole_clusters(offset, length);
            if !self.zero_clusters || whole.is_empty() {
                return Ok(());
            }
            let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
            image.discard_to_zero(whole.start, whole.end - whole.start)
        })
    }

    fn flush(&self) -> Result<(), DeviceError> {
        if !self.writable {
            return Ok(());
        }
        self.run(Operation::Flush, 0, 0, || {
            self.image().flush()?;
            // Not under the lock: a discard that waits for it would make readers wait for the disk.
            self.top.sync_data()
        })
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        self.run(Operation::Extent, offset, length, || {
            let image = self.image();
            let mut whole = self.extent_once(&image, offset, length)?;
            for _ in 1..MAPPINGS_AT_ONCE {
                if whole.length >= length {
                    break;
                }
                let rest = length - whole.length;
                let next = self.extent_once(&image, offset + whole.length, rest)?;
                if (next.kind, next.allocated) != (whole.kind, whole.allocated) {
                    break;
                }
                whole.length += next.length;
            }
            Ok(whole)
        })
    }

    fn plain(&self, offset: u64, length: u64) -> Option<Plain> {
        check_range(self, Operation::Read, offset, length).ok()?;
        let image = self.image();
        match image.get_mapping(offset, length).ok()? {
            (
                Mapping::Raw {
                    storage, offset, ..
                },
                length @ 1..,
            ) => Some(Plain {
                file: storage.file().clone(),
                offset,
                length,
            }),
            _ => None,
        }
    }
}

fn open_layer(
    layer: Layer,
    writable: bool,
    beneath: Option<FormatAccess<Store>>,
) -> io::Result<FormatAccess<Store>> {
    let store = Store::new(layer.name, layer.file);
    match layer.kind {
        LayerKind::Raw => Ok(FormatAccess::new(Raw::open_image(store, writable)?)),
        LayerKind::Qcow2 { .. } => {
            let mut image = Qcow2::<Store>::open_image(store, writable)?;
            image.set_data_file(None);
            image.set_backing(beneath);
            Ok(FormatAccess::new(image))
        }
    }
}

fn read_data(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(buf, offset) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(beyond_the_end(offset, buf.len(), file.len()?))
        }
        other => other,
    }
}
