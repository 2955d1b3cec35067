//! The checksum of what is stored: CRC-32C, the way iSCSI, ext4 and Btrfs have it.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of `bytes`.
pub(crate) fn of(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// The checksum of something whose checksum is `sum`, with `bytes` after it.
pub(crate) fn append(sum: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!sum));
    digest.update(bytes);
    // A CRC of 32 bits has no more than those.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_another_library_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = (0..40_000_u32)
            .map(|place| (place.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let (mut ours, mut theirs, mut at) = (0, 0, 0);
        for length in (0..700).chain([1 << 10, 8 << 10]) {
            let piece = &bytes[at..at + length];
            ours = append(ours, piece);
            theirs = crc32c::crc32c_append(theirs, piece);
            assert_eq!(ours, theirs, "{length} bytes from {at}");
            assert_eq!(of(piece), crc32c::crc32c(piece));
            at = (at + length) % 30_000;
        }
    }
}
