//! Image files (section 3).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::catalogue::ImageRow;
use super::fields::ensure;

/// What one image file holds itself.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) cluster: u64,
    size: u64,
    pub(super) backing: Option<String>,
    /// By number: bytes, or nothing if it reads as zeroes.
    pub(super) held: BTreeMap<u64, Option<Vec<u8>>>,
}

/// A file of big-endian numbers, of which every cluster is counted.
struct File {
    bytes: Vec<u8>,
    cluster: u64,
    /// How often a cluster of the file was led to, and whether compressed data lies in it.
    found: BTreeMap<u64, (u64, bool)>,
}

const DATA: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Layer {
    /// Reads a file that was sealed at least once.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        ensure(bytes.len() >= 104, || "it is too short".to_owned())?;
        let mut file = File {
            cluster: 1 << number(&bytes, 20, 4)?,
            bytes,
            found: BTreeMap::new(),
        };
        file.check_header()?;
        let (size, cluster) = (file.at(24, 8)?, file.cluster);
        let backing = file.backing()?;
        file.leads_to(0, cluster)?;
        let held = file.clusters(size)?;
        file.check_counts()?;
        Ok(Self {
            cluster,
            size,
            backing,
            held,
        })
    }

    /// The file that the image at a path lies on.
    pub(super) fn backing_of(path: &Path) -> Result<Option<String>, String> {
        Ok(Self::read(path)?.backing)
    }

    /// What its row says of it; of an image that others were merged into its row does not know the clusters yet.
    pub(super) fn check(&self, row: &ImageRow, is_merged: bool) -> Result<(), String> {
        let fits = self.size == row.size.next_multiple_of(512)
            && (is_merged || self.cluster == row.cluster_size);
        ensure(fits, || {
            format!("{}: it is not what its row says", row.file)
        })?;
        let last = self.held.get(&((row.size - 1) / self.cluster));
        let rest = (row.size % self.cluster) as usize;
        if let Some(Some(last)) = last
            && rest > 0
        {
            let zeroes = last[rest..].iter().all(|byte| *byte == 0);
            ensure(zeroes, || {
                format!("{}: something follows the disk", row.file)
            })?;
        }
        Ok(())
    }

    /// What it and those below it read as.
    pub(super) fn put_over(&self, bytes: &mut Vec<u8>) {
        bytes.resize(self.size as usize, 0);
        for (number, held) in &self.held {
            let from = (number * self.cluster) as usize;
            let to = bytes.len().min(from + self.cluster as usize);
            match held {
                None => bytes[from..to].fill(0),
                Some(data) => bytes[from..to].copy_from_slice(&data[..to - from]),
            }
        }
    }
}

fn number(bytes: &[u8], at: u64, length: u64) -> Result<u64, String> {
    let bytes = bytes.get(at as usize..(at + length) as usize);
    let bytes = bytes.ok_or_else(|| format!("nothing is at {at}"))?;
    Ok(bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

impl File {
    fn at(&self, at: u64, length: u64) -> Result<u64, String> {
        number(&self.bytes, at, length)
    }

    fn check_header(&self) -> Result<(), String> {
        // Offset, length, what must be there: magic, version, encryption, snapshots, features, refcounts, header.
        let fixed = [
            (0, 4, 0x5146_49fb),
            (4, 4, 3),
            (32, 4, 0),
            (60, 4, 0),
            (72, 8, 0),
            (80, 8, 0),
            (88, 8, 0),
            (96, 4, 4),
            (100, 4, 104),
        ];
        for (at, length, must) in fixed {
            let found = self.at(at, length)?;
            ensure(found == must, || {
                format!("{found:#x} is at {at}, not {must:#x}")
            })?;
        }
        Ok(())
    }

    fn backing(&self) -> Result<Option<String>, String> {
        let (at, length) = (self.at(8, 8)?, self.at(16, 4)?);
        let extension = self.at(104, 4)?;
        if at == 0 {
            ensure(self.at(104, 8)? == 0, || {
                "an extension without backing".to_owned()
            })?;
            return Ok(None);
        }
        let format = (
            extension,
            self.at(108, 4)?,
            &self.bytes[112..117],
            self.at(120, 8)?,
        );
        let fits = format == (0xe279_2aca, 5, b"qcow2", 0) && at + length <= self.cluster;
        ensure(fits, || format!("its backing format is {format:?}"))?;
        let name = self.bytes[at as usize..(at + length) as usize].to_vec();
        String::from_utf8(name)
            .map(Some)
            .map_err(|error| error.to_string())
    }

    /// Something lies there that the header leads to.
    fn leads_to(&mut self, at: u64, length: u64) -> Result<(), String> {
        ensure(at.is_multiple_of(self.cluster), || {
            format!("{at} is in the middle of a cluster")
        })?;
        for number in at / self.cluster..(at + length).div_ceil(self.cluster) {
            let before = self.found.insert(number, (1, false));
            ensure(before.is_none(), || {
                format!("cluster {number} is used twice")
            })?;
        }
        Ok(())
    }

    fn clusters(&mut self, size: u64) -> Result<BTreeMap<u64, Option<Vec<u8>>>, String> {
        let (entries, cluster) = (self.cluster / 8, self.cluster);
        let clusters = size.div_ceil(cluster);
        let (l1_entries, l1) = (self.at(36, 4)?, self.at(40, 8)?);
        ensure(l1_entries >= clusters.div_ceil(entries), || {
            "its L1 table is short".to_owned()
        })?;
        self.leads_to(l1, l1_entries * 8)?;
        let mut held = BTreeMap::new();
        for index in 0..l1_entries {
            let entry = self.at(l1 + index * 8, 8)?;
            if entry == 0 {
                continue;
            }
            ensure(entry & !OFFSET == DATA, || {
                format!("L1 entry {index} is {entry:#x}")
            })?;
            let l2 = entry & OFFSET;
            self.leads_to(l2, cluster)?;
            for slot in 0..entries {
                let entry = self.at(l2 + slot * 8, 8)?;
                let number = index * entries + slot;
                if let Some(data) = self.data(entry)? {
                    ensure(number < clusters, || {
                        format!("cluster {number} is past the end")
                    })?;
                    held.insert(number, data);
                }
            }
        }
        Ok(held)
    }

    /// What an L2 entry stands for; nothing if for nothing.
    fn data(&mut self, entry: u64) -> Result<Option<Option<Vec<u8>>>, String> {
        let cluster = self.cluster;
        match entry {
            0 => Ok(None),
            1 => Ok(Some(None)),
            _ if entry & COMPRESSED != 0 => self.inflated(entry).map(Some).map(Some),
            _ => {
                ensure(entry & !OFFSET == DATA, || {
                    format!("an L2 entry is {entry:#x}")
                })?;
                let at = entry & OFFSET;
                self.leads_to(at, cluster)?;
                let data = self.bytes.get(at as usize..(at + cluster) as usize);
                Ok(Some(Some(
                    data.ok_or("a cluster lies past the end")?.to_vec(),
                )))
            }
        }
    }

    fn inflated(&mut self, entry: u64) -> Result<Vec<u8>, String> {
        let bits = self.cluster.trailing_zeros();
        let shift = 62 - (bits - 8);
        let at = entry & ((1 << shift) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> shift;
        let end = (at / 512 + sectors + 1) * 512;
        let fits = entry & DATA == 0 && at.is_multiple_of(512) && end - at < self.cluster;
        ensure(fits, || format!("a compressed cluster is {entry:#x}"))?;
        for number in at / self.cluster..end.div_ceil(self.cluster) {
            let found = self.found.entry(number).or_insert((0, true));
            ensure(found.1, || {
                format!("compressed and other data in cluster {number}")
            })?;
            found.0 += 1;
        }
        let packed = self
            .bytes
            .get(at as usize..(end as usize).min(self.bytes.len()));
        let packed = packed.ok_or("compressed data lies past the end")?;
        let limit = self.cluster as usize;
        match miniz_oxide::inflate::decompress_to_vec_with_limit(packed, limit) {
            Ok(data) if data.len() == limit => Ok(data),
            other => Err(format!(
                "compressed data at {at}: {:?}",
                other.map(|data| data.len())
            )),
        }
    }

    /// Every cluster that was led to counts what leads to it, and no other cluster counts.
    fn check_counts(&mut self) -> Result<(), String> {
        let (table, clusters) = (self.at(48, 8)?, self.at(56, 4)?);
        let (cluster, per_block) = (self.cluster, self.cluster / 2);
        self.leads_to(table, clusters * cluster)?;
        let mut counts = BTreeMap::new();
        for index in 0..clusters * cluster / 8 {
            let block = self.at(table + index * 8, 8)?;
            if block == 0 {
                continue;
            }
            self.leads_to(block, cluster)?;
            for slot in 0..per_block {
                let count = self.at(block + slot * 2, 2)?;
                if count > 0 {
                    counts.insert(index * per_block + slot, count);
                }
            }
        }
        let found: BTreeMap<_, _> = self
            .found
            .iter()
            .map(|(number, (count, _))| (*number, *count))
            .collect();
        let wrong = found
            .keys()
            .chain(counts.keys())
            .find(|number| found.get(number) != counts.get(number));
        match wrong {
            None => Ok(()),
            Some(number) => Err(format!(
                "cluster {number} counts {:?}, and {:?} lead to it",
                counts.get(number),
                found.get(number)
            )),
        }
    }
}
