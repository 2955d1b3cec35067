//! How many bytes one bit stands for.

use std::fmt;

use thiserror::Error;

/// Bytes per bit of a bitmap: a power of two, from 1 to 2^57.
///
/// A set works at any such granularity; what *users* may choose is narrower, see
/// [`Granularity::tracked`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granularity(u8);

impl Granularity {
    /// 64 KiB: the default, and the cluster of the images we write.
    pub const DEFAULT: Granularity = Granularity(16);

    /// Largest exponent: with it, 64 granules (one word) still fit an offset of 63 bits.
    const MAX_SHIFT: u32 = 57;

    /// A granularity of `bytes` per bit.
    ///
    /// # Errors
    /// [`GranularityError`] if `bytes` is not a power of two, or is above 2^57.
    pub const fn new(bytes: u64) -> Result<Granularity, GranularityError> {
        if bytes.is_power_of_two() && bytes.trailing_zeros() <= Granularity::MAX_SHIFT {
            Ok(Granularity(bytes.trailing_zeros() as u8))
        } else {
            Err(GranularityError { bytes })
        }
    }

    /// A granularity that a user may give to the tracking of a disk: 512 bytes to 2 GiB, the
    /// bounds of `qemu:docs/interop/bitmaps.rst`.
    ///
    /// # Errors
    /// [`GranularityError`] if `bytes` is not a power of two within those bounds.
    pub const fn tracked(bytes: u64) -> Result<Granularity, GranularityError> {
        match Granularity::new(bytes) {
            Ok(granularity) if bytes >= 512 && bytes <= 1 << 31 => Ok(granularity),
            Ok(_) | Err(_) => Err(GranularityError { bytes }),
        }
    }

    /// The default for a disk whose format has clusters of `cluster_bytes`: that size, held
    /// between 4 KiB and 64 KiB; 64 KiB if it is not a power of two.
    pub fn for_cluster(cluster_bytes: u64) -> Granularity {
        Granularity::new(cluster_bytes).map_or(Granularity::DEFAULT, |granularity| {
            granularity.clamp(Granularity(12), Granularity(16))
        })
    }

    /// Bytes per bit.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The exponent: `bytes() == 1 << shift()`.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }

    /// How many granules a disk of `size` bytes has; the last one may be cut short by the end.
    #[inline]
    pub const fn granules(self, size: u64) -> u64 {
        // No division: this stands in the path of every write that is recorded.
        (size >> self.0) + (size & (self.bytes() - 1) != 0) as u64
    }
}

impl Default for Granularity {
    fn default() -> Self {
        Granularity::DEFAULT
    }
}

impl fmt::Debug for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Granularity({self})")
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..10 => write!(f, "{} B", self.bytes()),
            10..20 => write!(f, "{} KiB", self.bytes() >> 10),
            20..30 => write!(f, "{} MiB", self.bytes() >> 20),
            _ => write!(f, "{} GiB", self.bytes() >> 30),
        }
    }
}

/// The number of bytes is no granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{bytes} bytes cannot be a granularity: it must be a power of two within the bounds (users: 512 B to 2 GiB)"
)]
pub struct GranularityError {
    /// What was asked for.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_are_granularities() {
        for bytes in [0, 3, 1000, u64::MAX, 1 << 58] {
            assert_eq!(Granularity::new(bytes), Err(GranularityError { bytes }));
        }
        for shift in 0..=57 {
            assert_eq!(
                Granularity::new(1 << shift).map(Granularity::shift),
                Ok(shift)
            );
        }
    }

    #[test]
    fn b30_users_choose_between_512_bytes_and_2_gib() {
        for bytes in [0, 256, 1000, 1 << 32] {
            assert!(Granularity::tracked(bytes).is_err(), "{bytes}");
        }
        assert_eq!(Granularity::tracked(512).map(Granularity::bytes), Ok(512));
        assert_eq!(
            Granularity::tracked(1 << 31).map(Granularity::bytes),
            Ok(1 << 31)
        );
    }

    /// `bitmap-add` on images of these cluster sizes, as qemu-storage-daemon 10 answers.
    #[test]
    fn b29_default_follows_the_cluster_between_4_and_64_kib() {
        let cases = [
            (512, 4096),
            (2048, 4096),
            (4096, 4096),
            (16384, 16384),
            (65536, 65536),
            (1 << 21, 65536),
        ];
        for (cluster, granularity) in cases {
            assert_eq!(Granularity::for_cluster(cluster).bytes(), granularity);
        }
        assert_eq!(Granularity::for_cluster(0), Granularity::DEFAULT);
    }

    #[test]
    fn display_is_in_the_largest_whole_unit() {
        let shown: Vec<_> = [0, 9, 12, 16, 21, 31]
            .map(|shift| Granularity(shift).to_string())
            .into();
        assert_eq!(shown, ["1 B", "512 B", "4 KiB", "64 KiB", "2 MiB", "2 GiB"]);
    }
}
