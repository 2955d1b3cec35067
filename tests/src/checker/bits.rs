//! A bitmap in its serialised form (section 7).

use super::fields::ensure;

/// Which granules of a disk are dirty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    /// Bytes in a granule.
    pub granularity: u64,
    /// The size of the disk.
    pub size: u64,
    dirty: Vec<bool>,
}

/// Granules in a block.
const BLOCK: u64 = 1 << 16;

impl Bits {
    pub(super) fn new(granularity: u64, size: u64) -> Self {
        Self {
            granularity,
            size,
            dirty: vec![false; size.div_ceil(granularity) as usize],
        }
    }

    /// Whether the byte at that place is dirty. What is beyond the end is.
    #[must_use]
    pub fn covers(&self, offset: u64) -> bool {
        let granule = (offset / self.granularity) as usize;
        self.dirty.get(granule).copied().unwrap_or(true)
    }

    /// How many bytes of the disk are dirty.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let granules = (0..).zip(&self.dirty).filter(|(_, dirty)| **dirty);
        let starts = granules.map(|(granule, _): (u64, _)| granule * self.granularity);
        starts
            .map(|start| self.granularity.min(self.size - start))
            .sum()
    }

    /// Makes some bytes dirty.
    pub(super) fn set(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size);
        let granules = offset / self.granularity..end.div_ceil(self.granularity);
        granules.for_each(|granule| self.dirty[granule as usize] = true);
    }

    /// Joins another bitmap of the same disk.
    pub fn join(&mut self, other: &Bits) {
        for (granule, dirty) in (0..).zip(&other.dirty) {
            if *dirty {
                self.set(granule * other.granularity, other.granularity);
            }
        }
    }

    /// Cut, or made dirty, to this size.
    pub(super) fn fit(&mut self, size: u64) {
        let before = self.size;
        self.size = size;
        self.dirty
            .resize(size.div_ceil(self.granularity) as usize, false);
        if size > before {
            self.set(before, size - before);
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input {
            bytes,
            at: 0,
            sum: 0,
        };
        ensure(input.take(8)? == b"cohortbm", || {
            "it is no bitmap".to_owned()
        })?;
        ensure(input.number(4)? == 2, || "its version is not 2".to_owned())?;
        let (exponent, size) = (input.number(4)?, input.number(8)?);
        input.check_sum()?;
        ensure(exponent < 48, || format!("a granularity of 2^{exponent}"))?;
        let mut bits = Self::new(1 << exponent, size);
        let mut next = 0;
        loop {
            let (block, form) = (input.number(4)?, input.number(1)?);
            if form == 0 {
                input.check_sum()?;
                ensure(block == 0, || "its end has a number".to_owned())?;
                break;
            }
            ensure(block >= next, || format!("block {block} is out of order"))?;
            next = block + bits.record(block, form, &mut input)?;
        }
        ensure(input.at == bytes.len(), || {
            "something follows the bitmap".to_owned()
        })?;
        Ok(bits)
    }

    /// One record; says how many blocks it speaks of.
    fn record(&mut self, block: u64, form: u64, input: &mut Input<'_>) -> Result<u64, String> {
        let granules = self.dirty.len() as u64;
        let first = block * BLOCK;
        ensure(first < granules, || {
            format!("block {block} is past the end")
        })?;
        let mut blocks = 1;
        let mut runs = Vec::new();
        match form {
            1 => {
                blocks = input.number(4)?;
                runs.push((0, (blocks * BLOCK).min(granules - first) - 1));
            }
            2 | 3 => {
                for _ in 0..=input.number(2)? {
                    let from = input.number(2)?;
                    let to = if form == 2 { from } else { input.number(2)? };
                    runs.push((from, to));
                }
            }
            4 => {
                let here = (granules - first).min(BLOCK);
                for word in 0..here.div_ceil(64) {
                    let bits = input.number(8)?;
                    let set = (0..64).filter(|bit| bits >> bit & 1 == 1);
                    runs.extend(set.map(|bit| (word * 64 + bit, word * 64 + bit)));
                }
            }
            other => return Err(format!("block {block} has form {other}")),
        }
        input.check_sum()?;
        for (from, to) in runs {
            for granule in first + from..=first + to {
                let bit = self.dirty.get_mut(granule as usize);
                *bit.ok_or("a granule past the end")? = true;
            }
        }
        Ok(blocks)
    }
}

/// Bytes that are read from the front, with the checksum of all so far.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    sum: u32,
}

impl Input<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let bytes = self.bytes.get(self.at..self.at + length);
        let bytes = bytes.ok_or("the bitmap is cut short")?;
        self.at += length;
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        Ok(bytes)
    }

    fn number(&mut self, length: usize) -> Result<u64, String> {
        let bytes = self.take(length)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn check_sum(&mut self) -> Result<(), String> {
        let sum = self.sum;
        let stored = self.number(4)? as u32;
        self.sum = sum;
        ensure(stored == sum, || {
            format!("a checksum is wrong before byte {}", self.at)
        })
    }
}
