//! The image's header: what bitmaps need of it, and the extension that leads to them.
//!
//! Everything is changed in steps of which each lies within one sector, or is made harmless first by
//! taking back the promise (autoclear bit 0) that the extension is true.

use crate::store::File;

use super::bytes::{be32, be64};
use super::error::Qcow2Error;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Length of a version 2 header.
const V2_BYTES: usize = 72;
/// Least length of a version 3 header.
const V3_BYTES: u64 = 104;
/// What storage writes whole or not at all.
const SECTOR: u64 = 512;

const EXTENSION_END: u32 = 0;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
/// Data of the bitmaps extension: count, reserved, length and place of the directory.
const BITMAPS_BYTES: u64 = 24;
/// An extension's kind and length.
const EXTENSION_HEAD: u64 = 8;

const AT_BACKING_OFFSET: u64 = 8;
const AT_REFCOUNT_TABLE: u64 = 48;
const AT_AUTOCLEAR: u64 = 88;
const AT_REFCOUNT_ORDER: usize = 96;
/// "The bitmaps are true."
const AUTOCLEAR_BITMAPS: u64 = 1;
/// What we may leave set when we write: bitmaps, and raw external data, which we never touch.
const AUTOCLEAR_KNOWN: u64 = 0b11;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 2;
/// Dirty, corrupt, external data, compression, extended L2: none of them changes how bitmaps lie.
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;

/// Most bitmaps and most bytes of directory that QEMU accepts.
pub(super) const MAX_BITMAPS: u32 = 65_535;
pub(super) const MAX_DIRECTORY_BYTES: u64 = MAX_BITMAPS as u64 * 1024;

/// What the header says that bitmaps need.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) cluster_bits: u32,
    /// The disk's bytes.
    pub(super) size: u64,
    pub(super) l1: Place,
    pub(super) refcount_table: Place,
    /// Counts have 2^this bits.
    pub(super) refcount_order: u32,
    incompatible: u64,
    autoclear: u64,
    /// Where the backing file's name is.
    backing: Option<Place>,
    /// Where the list of extensions ends: at its end mark, if there is one.
    end: u64,
    /// Whether there is an end mark.
    ended: bool,
    /// Where the bitmaps extension begins, and what it says.
    extension: Option<(u64, DirectoryPlace)>,
}

/// Some bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Where the bitmap directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryPlace {
    pub(super) bitmaps: u32,
    pub(super) place: Place,
}

impl Header {
    /// Reads and judges what bitmaps need of a header.
    pub(super) fn read(file: &(impl File + ?Sized)) -> Result<Self, Qcow2Error> {
        let io = Qcow2Error::io("reading the image's header");
        let length = file.len().map_err(&io)?;
        if length < 8 {
            return Err(Qcow2Error::NotQcow2);
        }
        let mut start = [0; 8];
        file.read_at(&mut start, 0).map_err(&io)?;
        if start[..4] != MAGIC {
            return Err(Qcow2Error::NotQcow2);
        }
        let version = be32(&start, 4);
        if version != 3 {
            return Err(Qcow2Error::Version { version });
        }
        if length < V3_BYTES {
            return Err(Qcow2Error::damaged("the file ends within its header"));
        }
        let mut start = [0; V3_BYTES as usize];
        file.read_at(&mut start, 0).map_err(&io)?;
        let mut header = Self::judge(&start)?;
        let first = length.min(header.cluster()) as usize;
        let mut cluster = vec![0; first];
        file.read_at(&mut cluster, 0).map_err(&io)?;
        header.find_extension(&cluster, u64::from(be32(&start, 100)))?;
        Ok(header)
    }

    /// Reads what counting clusters needs of a header, of either version: nothing of its extensions.
    pub(super) fn read_counts(file: &(impl File + ?Sized)) -> Result<Self, Qcow2Error> {
        let mut start = [0; V3_BYTES as usize];
        let io = Qcow2Error::io("reading the image's header");
        file.read_at(&mut start[..V2_BYTES], 0).map_err(&io)?;
        match be32(&start, 4) {
            // It has counts of 16 bits.
            2 => start[AT_REFCOUNT_ORDER..][..4].copy_from_slice(&4u32.to_be_bytes()),
            _ => file.read_at(&mut start, 0).map_err(&io)?,
        }
        Self::judge(&start)
    }

    fn judge(start: &[u8]) -> Result<Self, Qcow2Error> {
        let cluster_bits = be32(start, 20);
        if !(9..=21).contains(&cluster_bits) {
            let what = format!("clusters of 2^{cluster_bits} bytes");
            return Err(Qcow2Error::damaged(what));
        }
        let incompatible = be64(start, 72);
        if let Some(bit) = (0..64).find(|bit| incompatible & !INCOMPATIBLE_KNOWN & 1 << bit != 0) {
            return Err(Qcow2Error::Unsupported {
                feature: format!("incompatible feature bit {bit}"),
            });
        }
        let refcount_order = be32(start, AT_REFCOUNT_ORDER);
        if refcount_order > 6 {
            let what = format!("refcounts of 2^{refcount_order} bits");
            return Err(Qcow2Error::damaged(what));
        }
        let (offset, bytes) = (be64(start, 8), u64::from(be32(start, 16)));
        Ok(Header {
            cluster_bits,
            size: be64(start, 24),
            l1: Place {
                offset: be64(start, 40),
                bytes: u64::from(be32(start, 36)) * 8,
            },
            refcount_table: Place {
                offset: be64(start, 48),
                bytes: u64::from(be32(start, 56)) << cluster_bits,
            },
            refcount_order,
            incompatible,
            autoclear: be64(start, 88),
            backing: (offset != 0 && bytes != 0).then_some(Place { offset, bytes }),
            end: 0,
            ended: false,
            extension: None,
        })
    }

    /// Walks the list of extensions in the first cluster, of which the file may have only a part.
    fn find_extension(&mut self, cluster: &[u8], header_bytes: u64) -> Result<(), Qcow2Error> {
        let names = self.backing.map_or(u64::MAX, |name| name.offset);
        let limit = names.min(cluster.len() as u64);
        if header_bytes < V3_BYTES || !header_bytes.is_multiple_of(8) || header_bytes > limit {
            let what = format!("a header of {header_bytes} bytes");
            return Err(Qcow2Error::damaged(what));
        }
        let mut at = header_bytes;
        while at + EXTENSION_HEAD <= limit {
            let kind = be32(cluster, at as usize);
            let bytes = u64::from(be32(cluster, at as usize + 4));
            if kind == EXTENSION_END {
                self.ended = true;
                break;
            }
            let data = at + EXTENSION_HEAD;
            if bytes > limit - data {
                let what = format!("header extension {kind:#010x} leaves the header");
                return Err(Qcow2Error::damaged(what));
            }
            if kind == EXTENSION_BITMAPS {
                let found = &cluster[data as usize..(data + bytes) as usize];
                if self
                    .extension
                    .replace((at, judge_extension(found, self.cluster())?))
                    .is_some()
                {
                    return Err(Qcow2Error::damaged("the header tells of bitmaps twice"));
                }
            }
            at = data + bytes.next_multiple_of(8);
        }
        self.end = at.min(limit);
        Ok(())
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Where the directory is, if there is one, true or not.
    pub(super) fn directory(&self) -> Option<DirectoryPlace> {
        self.extension.map(|(_, directory)| directory)
    }

    /// Whether somebody promises that what the extension leads to is true.
    pub(super) fn is_promised(&self) -> bool {
        self.autoclear & AUTOCLEAR_BITMAPS != 0
    }

    /// Whether clusters may be counted by us.
    pub(super) fn check_writable(&self) -> Result<(), Qcow2Error> {
        let mark = if self.incompatible & INCOMPATIBLE_DIRTY != 0 {
            "the dirty mark (it was not closed in order)"
        } else if self.incompatible & INCOMPATIBLE_CORRUPT != 0 {
            "the corrupt mark (QEMU found its metadata wrong)"
        } else {
            return Ok(());
        };
        Err(Qcow2Error::Unsupported {
            feature: format!("{mark}: let `qemu-img check -r all` repair it first"),
        })
    }

    /// Leads to another directory, or to none, durably. What it leads to must be durable already.
    pub(super) fn lead_to(
        &mut self,
        file: &(impl File + ?Sized),
        directory: Option<DirectoryPlace>,
    ) -> Result<(), Qcow2Error> {
        match (self.extension, directory) {
            (None, None) => return Ok(()),
            (None, Some(directory)) => {
                self.promise(file, false)?;
                self.append(file, directory)?;
            }
            (Some((at, _)), None) => {
                self.promise(file, false)?;
                self.take_out(file, at)?;
            }
            (Some((at, _)), Some(directory)) => {
                let data = at + EXTENSION_HEAD;
                let one_sector = data / SECTOR == (data + BITMAPS_BYTES - 1) / SECTOR;
                if !one_sector {
                    self.promise(file, false)?;
                }
                write(file, &encode_extension(directory), data)?;
                sync(file)?;
                self.extension = Some((at, directory));
            }
        }
        self.promise(file, directory.is_some())
    }

    /// Points to another refcount table, durably: one write within a sector.
    pub(super) fn move_refcount_table(
        &mut self,
        file: &(impl File + ?Sized),
        table: Place,
    ) -> Result<(), Qcow2Error> {
        let clusters = (table.bytes >> self.cluster_bits) as u32;
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&table.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&clusters.to_be_bytes());
        write(file, &bytes, AT_REFCOUNT_TABLE)?;
        sync(file)?;
        self.refcount_table = table;
        Ok(())
    }

    /// Gives or takes back the promise, durably. Promises that others gave and we do not know end here.
    fn promise(&mut self, file: &(impl File + ?Sized), given: bool) -> Result<(), Qcow2Error> {
        let mut autoclear = self.autoclear & AUTOCLEAR_KNOWN & !AUTOCLEAR_BITMAPS;
        if given {
            autoclear |= AUTOCLEAR_BITMAPS;
        }
        if autoclear != self.autoclear {
            write(file, &autoclear.to_be_bytes(), AT_AUTOCLEAR)?;
            sync(file)?;
            self.autoclear = autoclear;
        }
        Ok(())
    }

    /// Adds the extension at the end of the list, without a promise as yet.
    ///
    /// What will follow its first eight bytes is written first, while nobody looks there; those eight
    /// replace the end mark then, whole or not at all.
    fn append(
        &mut self,
        file: &(impl File + ?Sized),
        directory: DirectoryPlace,
    ) -> Result<(), Qcow2Error> {
        let at = self.end;
        let new_end = at + EXTENSION_HEAD + BITMAPS_BYTES;
        self.make_room(file, new_end + EXTENSION_HEAD)?;
        let mut rest = encode_extension(directory).to_vec();
        rest.extend([0; EXTENSION_HEAD as usize]);
        write(file, &rest, at + EXTENSION_HEAD)?;
        sync(file)?;
        write(file, &extension_head(), at)?;
        sync(file)?;
        (self.end, self.ended) = (new_end, true);
        self.extension = Some((at, directory));
        Ok(())
    }

    /// Sees to it that the list may reach `until`: moves the backing file's name out of its way.
    fn make_room(&mut self, file: &(impl File + ?Sized), until: u64) -> Result<(), Qcow2Error> {
        let Some(name) = self.backing else {
            let fits = until <= self.cluster();
            return fits.then_some(()).ok_or(Qcow2Error::NoRoom);
        };
        if until <= name.offset {
            return Ok(());
        }
        // Past the old one as well, so that the old one is whole until the new one counts.
        let to = until.max(name.offset + name.bytes).next_multiple_of(8);
        if !self.ended || to + name.bytes > self.cluster() {
            return Err(Qcow2Error::NoRoom);
        }
        let io = Qcow2Error::io("reading the backing file's name");
        let mut bytes = vec![0; name.bytes as usize];
        file.read_at(&mut bytes, name.offset).map_err(io)?;
        write(file, &bytes, to)?;
        sync(file)?;
        write(file, &to.to_be_bytes(), AT_BACKING_OFFSET)?;
        sync(file)?;
        self.backing = Some(Place { offset: to, ..name });
        Ok(())
    }

    /// Takes the extension out of the list; those behind it move up.
    fn take_out(&mut self, file: &(impl File + ?Sized), at: u64) -> Result<(), Qcow2Error> {
        let next = at + EXTENSION_HEAD + BITMAPS_BYTES;
        let mut rest = vec![0; (self.end - next) as usize];
        let io = Qcow2Error::io("reading the image's header");
        file.read_at(&mut rest, next).map_err(io)?;
        let end = at + rest.len() as u64;
        rest.extend([0; EXTENSION_HEAD as usize]);
        write(file, &rest, at)?;
        sync(file)?;
        (self.end, self.ended, self.extension) = (end, true, None);
        Ok(())
    }
}

fn judge_extension(data: &[u8], cluster: u64) -> Result<DirectoryPlace, Qcow2Error> {
    if data.len() as u64 != BITMAPS_BYTES {
        let what = format!("the header tells of them in {} bytes, not 24", data.len());
        return Err(Qcow2Error::damaged(what));
    }
    let (bitmaps, reserved) = (be32(data, 0), be32(data, 4));
    let (bytes, offset) = (be64(data, 8), be64(data, 16));
    if reserved != 0 {
        return Err(Qcow2Error::damaged("a reserved field is not zero"));
    }
    if bitmaps == 0 || bitmaps > MAX_BITMAPS {
        return Err(Qcow2Error::damaged(format!("{bitmaps} of them")));
    }
    if bytes == 0 || bytes > MAX_DIRECTORY_BYTES {
        let what = format!("a directory of {bytes} bytes");
        return Err(Qcow2Error::damaged(what));
    }
    if offset == 0 || !offset.is_multiple_of(cluster) {
        let what = format!("a directory at byte {offset}, between clusters");
        return Err(Qcow2Error::damaged(what));
    }
    let place = Place { offset, bytes };
    Ok(DirectoryPlace { bitmaps, place })
}

fn extension_head() -> [u8; EXTENSION_HEAD as usize] {
    let mut bytes = [0; EXTENSION_HEAD as usize];
    bytes[..4].copy_from_slice(&EXTENSION_BITMAPS.to_be_bytes());
    bytes[4..].copy_from_slice(&(BITMAPS_BYTES as u32).to_be_bytes());
    bytes
}

fn encode_extension(directory: DirectoryPlace) -> [u8; BITMAPS_BYTES as usize] {
    let mut bytes = [0; BITMAPS_BYTES as usize];
    bytes[..4].copy_from_slice(&directory.bitmaps.to_be_bytes());
    bytes[8..16].copy_from_slice(&directory.place.bytes.to_be_bytes());
    bytes[16..].copy_from_slice(&directory.place.offset.to_be_bytes());
    bytes
}

fn write(file: &(impl File + ?Sized), bytes: &[u8], at: u64) -> Result<(), Qcow2Error> {
    file.write_at(bytes, at)
        .map_err(Qcow2Error::io("writing the image's header"))
}

fn sync(file: &(impl File + ?Sized)) -> Result<(), Qcow2Error> {
    file.sync_data()
        .map_err(Qcow2Error::io("syncing the image"))
}
